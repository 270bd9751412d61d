// Attention's backward.  With p = softmax(s), s = scale · q kᵀ + bias, y = p v:
//   dv = pᵀ dy,   dp = dy vᵀ,   ds = p (dp - Σ_k p dp),   dq = scale · ds k,   dk = scale · dsᵀ q,   dbias = Σ_images ds.
// Neither s nor p was kept: p = 2^(s - L), with L the logarithm of the row's sum that the forward left, is computed
// again from q and k by each kernel, which is cheaper than to write and read it.  The row's sum Σ_k p dp is Σ dy y
// ("dots").
//
// dq is a sum over keys and dk, dv are sums over queries: two kernels, each with its own tokens in registers and the
// others passing by.  dbias is a sum over images: a third, which passes over those.
#include "attention.cuh"

// dots (images, heads, queries) = Σ dy y over a token's numbers; y lies as the forward wrote it.
KERNEL attention_dots(const element* dy, const element* y, float* dots, int images, int heads, int queries,
                      long long dy_image, long long dy_token, long long dy_head) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= images * heads * queries) return;
  int n = i % queries, head = i / queries % heads, image = i / (queries * heads);
  const Chunk* a = (const Chunk*)Heads{dy, dy_image, dy_token, dy_head}.at(image, head, n);
  const Chunk* b = (const Chunk*)(y + (((long long)image * queries + n) * heads + head) * VALUE_SIZE);
  float sum = 0;
  for (int c = 0; c < V_CHUNKS; c++) {
    Chunk left = a[c], right = b[c];
    for (int e = 0; e < CHUNK; e++) sum += to_float(left.value[e]) * to_float(right.value[e]);
  }
  dots[i] = sum;
}
LAUNCHABLE(attention_dots)

// Scores of 16 rows and 16 columns, as yet nothing but the bias.
INLINE void start(float (&scores)[2][4], const Quad* bias) {
  start(scores[0], bias[0]);
  start(scores[1], bias[WARP]);
}

// dq; all arrays of tokens as (pointer, image, token, head).
KERNEL __launch_bounds__(MOST_THREADS)
attention_queries(const element* q, const element* k, const element* v, const element* dy, const element* bias,
                  const float* logarithms, const float* dots, element* dq, int images, int heads, int queries, int keys,
                  long long q_image, long long q_token, long long q_head, long long k_image, long long k_token,
                  long long k_head, long long v_image, long long v_token, long long v_head, long long dy_image,
                  long long dy_token, long long dy_head, long long dq_image, long long dq_token, long long dq_head,
                  int bias_heads, int row_tiles, int column_tiles, float scale, float score_scale) {
  SHARED_MEMORY;
  Place place(images, heads);
  Stream<K_CHUNKS, V_CHUNKS> stream(shared_memory, Heads{k, k_image, k_token, k_head}, Heads{v, v_image, v_token, v_head},
                                    place, keys);
  unsigned query[K_PARTS][4], gradient[V_PARTS][4];
  load_rows(query, Heads{q, q_image, q_token, q_head}.at(place.image, place.head, 0), q_token, place.row, queries);
  load_rows(gradient, Heads{dy, dy_image, dy_token, dy_head}.at(place.image, place.head, 0), dy_token, place.row, queries);
  const Quad* row_bias = bias_of(bias, bias_heads > 1 ? place.head : 0, at_most(place.row, (row_tiles - 1) * 16),
                                 row_tiles, column_tiles);
  float logarithm[2], dot[2], sums[KEY_SIZE / 8][4] = {};
  for (int half = 0; half < 2; half++) {
    int n = at_most(place.row + threadIdx.x % WARP / 4 + half * 8, queries - 1);
    long long i = ((long long)place.image * heads + place.head) * queries + n;
    logarithm[half] = logarithms[i];
    dot[half] = dots[i];
  }
  for (int begin = 0; begin < stream.lines; begin += HELD) {
    int groups = stream.bring(begin);
    for (int group = 0; group < groups; group++) {
      float scores[2][4], dp[2][4] = {};
      start(scores, row_bias + (begin / 8 + group * 2) * WARP);
      add_product(scores, query, stream.first_memory, group * 16);
      add_product(dp, gradient, stream.second_memory, group * 16);
#pragma unroll
      for (int e = 0; e < 8; e++) {
        int half = e / 2 % 2;
        scores[e / 4][e % 4] = exp2_fast(scores[e / 4][e % 4] * score_scale - logarithm[half]) * (dp[e / 4][e % 4] - dot[half]);
      }
      add_weighted_tokens<KEY_SIZE>(sums, scores, stream.first_memory, group * 16);
    }
  }
  if (place.there)
    store_rows<KEY_SIZE>(sums, dq + place.image * dq_image + place.head * dq_head, dq_token, place.row, queries, scale);
}
LAUNCHABLE(attention_queries)

// c[16 rows][16 columns from `column` on] += rows · columnsᵀ, as add_product; but the rows are read from memory again,
// part by part: for wide heads in float, whose numbers the registers cannot hold beside dk and dv.
template <int PARTS>
INLINE void add_product_with_rows_in_memory(float (*c)[4], const element* rows, long long stride, int row, int end,
                                        const unsigned char* tokens, int column) {
  int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
#pragma unroll 4  // at once the loads of all would wait in registers too
  for (int part = 0; part < PARTS; part++) {
    unsigned a[4], b[4];
    b_along<PARTS * 2>(b, tokens, column, part);
#pragma unroll
    for (int i = 0; i < 4; i++) {  // no __ldg, which would be moved out of the loop, into registers
      int n = row + g + i % 2 * 8;
      a[i] = n < end ? ((const unsigned*)(rows + n * stride + (part * 2 + i / 2) * CHUNK))[t] : 0;
    }
    tensor_product(element{}, c[0], a, b[0], b[1]);
    tensor_product(element{}, c[1], a, b[2], b[3]);
  }
}

// dk and dv.  The rows are keys, the columns queries: scores, bias (arranged that way) and everything else transposed.
KERNEL __launch_bounds__(MOST_THREADS)
attention_keys(const element* q, const element* k, const element* v, const element* dy, const element* bias,
               const float* logarithms, const float* dots, element* dk, element* dv, int images, int heads, int queries,
               int keys, long long q_image, long long q_token, long long q_head, long long k_image, long long k_token,
               long long k_head, long long v_image, long long v_token, long long v_head, long long dy_image,
               long long dy_token, long long dy_head, long long dk_image, long long dk_token, long long dk_head,
               long long dv_image, long long dv_token, long long dv_head, int bias_heads, int row_tiles, int column_tiles,
               float scale, float score_scale) {
  SHARED_MEMORY;
  Place place(images, heads);
  Stream<K_CHUNKS, V_CHUNKS> stream(shared_memory, Heads{q, q_image, q_token, q_head},
                                    Heads{dy, dy_image, dy_token, dy_head}, place, queries);
  constexpr bool VALUES_FIT = K_PARTS + V_PARTS <= 10;  // in registers, beside dk and dv
  unsigned key[K_PARTS][4], value[VALUES_FIT ? V_PARTS : 1][4];
  load_rows(key, Heads{k, k_image, k_token, k_head}.at(place.image, place.head, 0), k_token, place.row, keys);
  const element* values = Heads{v, v_image, v_token, v_head}.at(place.image, place.head, 0);
  if constexpr (VALUES_FIT) load_rows(value, values, v_token, place.row, keys);
  const Quad* row_bias = bias_of(bias, bias_heads > 1 ? place.head : 0, at_most(place.row, (row_tiles - 1) * 16),
                                 row_tiles, column_tiles);
  const float* logarithm = logarithms + ((long long)place.image * heads + place.head) * queries;
  const float* dot = dots + ((long long)place.image * heads + place.head) * queries;
  float dk_sums[KEY_SIZE / 8][4] = {}, dv_sums[VALUE_SIZE / 8][4] = {};
  for (int begin = 0; begin < stream.lines; begin += HELD) {
    int groups = stream.bring(begin);
    for (int group = 0; group < groups; group++) {
      float p[2][4], ds[2][4] = {};
      start(p, row_bias + (begin / 8 + group * 2) * WARP);
      add_product(p, key, stream.first_memory, group * 16);
      if constexpr (VALUES_FIT) add_product(ds, value, stream.second_memory, group * 16);
      else add_product_with_rows_in_memory<V_PARTS>(ds, values, v_token, place.row, keys, stream.second_memory, group * 16);
#pragma unroll
      for (int e = 0; e < 8; e++) {
        int n = at_most(begin + group * 16 + e / 4 * 8 + threadIdx.x % 4 * 2 + e % 2, queries - 1);
        float& x = p[e / 4][e % 4];
        x = exp2_fast(x * score_scale - __ldg(logarithm + n));
        ds[e / 4][e % 4] = x * (ds[e / 4][e % 4] - __ldg(dot + n));
      }
      add_weighted_tokens<VALUE_SIZE>(dv_sums, p, stream.second_memory, group * 16);
      add_weighted_tokens<KEY_SIZE>(dk_sums, ds, stream.first_memory, group * 16);
    }
  }
  if (place.there) {
    store_rows<KEY_SIZE>(dk_sums, dk + place.image * dk_image + place.head * dk_head, dk_token, place.row, keys, scale);
    store_rows<VALUE_SIZE>(dv_sums, dv + place.image * dv_image + place.head * dv_head, dv_token, place.row, keys, 1);
  }
}
LAUNCHABLE(attention_keys)

// Part blockIdx.z of dbias (heads, queries, keys): the images z · count to (z + 1) · count.  A block has one tile of
// keys (x) and some rows of queries (y) of one head; what of it belongs to an image passes through shared memory.
KERNEL __launch_bounds__(MOST_THREADS)
attention_bias(const element* q, const element* k, const element* v, const element* dy, const element* bias,
               const float* logarithms, const float* dots, float* parts, int images, int heads, int queries, int keys,
               long long q_image, long long q_token, long long q_head, long long k_image, long long k_token,
               long long k_head, long long v_image, long long v_token, long long v_head, long long dy_image,
               long long dy_token, long long dy_head, int bias_heads, int row_tiles, int column_tiles, float score_scale,
               int count) {
  SHARED_MEMORY;
  int tiles = (keys + TILE - 1) / TILE, tile = blockIdx.x % tiles, head = blockIdx.x / tiles, first = tile * TILE;
  int row = (blockIdx.y * blockDim.x + threadIdx.x) / WARP * 16, lane = threadIdx.x % WARP;
  int groups = (at_most(TILE, keys - first) + 15) / 16, lines = groups * 16;
  unsigned char* values = shared_memory + lines * K_CHUNKS * CHUNK_BYTES;
  const Quad* row_bias = bias_of(bias, bias_heads > 1 ? head : 0, at_most(row, (row_tiles - 1) * 16), row_tiles, column_tiles)
                         + first / 8 * WARP;
  float sums[TILE / 8][4] = {};
  int end = at_most(images, (blockIdx.z + 1) * count);
  for (int image = blockIdx.z * count; image < end; image++) {
    copy_tokens<K_CHUNKS>(shared_memory, Heads{k, k_image, k_token, k_head}.at(image, head, 0), k_token, first, lines, keys,
                          threadIdx.x, blockDim.x);
    copy_tokens<V_CHUNKS>(values, Heads{v, v_image, v_token, v_head}.at(image, head, 0), v_token, first, lines, keys,
                          threadIdx.x, blockDim.x);
    end_copies();
    unsigned query[K_PARTS][4], gradient[V_PARTS][4];
    load_rows(query, Heads{q, q_image, q_token, q_head}.at(image, head, 0), q_token, row, queries);
    load_rows(gradient, Heads{dy, dy_image, dy_token, dy_head}.at(image, head, 0), dy_token, row, queries);
    float logarithm[2], dot[2];
    for (int half = 0; half < 2; half++) {
      long long i = ((long long)image * heads + head) * queries + at_most(row + lane / 4 + half * 8, queries - 1);
      logarithm[half] = logarithms[i];
      dot[half] = dots[i];
    }
    wait_for_copies<0>();
    __syncthreads();
#pragma unroll
    for (int group = 0; group < TILE / 16; group++)
      if (group < groups) {
        float scores[2][4], dp[2][4] = {};
        start(scores, row_bias + group * 2 * WARP);
        add_product(scores, query, shared_memory, group * 16);
        add_product(dp, gradient, values, group * 16);
#pragma unroll
        for (int e = 0; e < 8; e++) {
          int half = e / 2 % 2;
          sums[group * 2 + e / 4][e % 4] += exp2_fast(scores[e / 4][e % 4] * score_scale - logarithm[half]) * (dp[e / 4][e % 4] - dot[half]);
        }
      }
    __syncthreads();  // the next image's tokens take the place of these
  }
  float* out = parts + ((long long)blockIdx.z * heads + head) * queries * keys;
#pragma unroll
  for (int i = 0; i < TILE / 8; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int n = row + lane / 4 + e / 2 * 8, column = first + i * 8 + lane % 4 * 2 + e % 2;
      if (n < queries && column < keys) out[n * keys + column] = sums[i][e];
    }
}
LAUNCHABLE(attention_bias)

// The probabilities themselves, (images, heads, queries, keys), for whoever wants to look at them.
KERNEL attention_probabilities(const element* q, const element* k, const float* bias, const float* logarithms, float* p,
                               int images, int heads, int queries, int keys, long long q_image, long long q_token,
                               long long q_head, long long k_image, long long k_token, long long k_head, float score_scale,
                               float bias_scale) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (long long)images * heads * queries * keys) return;
  int column = i % keys, n = i / keys % queries, head = i / ((long long)keys * queries) % heads;
  int image = i / ((long long)keys * queries * heads);
  const element *a = Heads{q, q_image, q_token, q_head}.at(image, head, n), *b = Heads{k, k_image, k_token, k_head}.at(image, head, column);
  float score = 0;
  for (int c = 0; c < KEY_SIZE; c++) score += to_float(a[c]) * to_float(b[c]);
  score *= score_scale;
  if (bias) score += bias[((long long)head * queries + n) * keys + column] * bias_scale;
  p[i] = exp2_fast(score - logarithms[i / keys]);
}
LAUNCHABLE(attention_probabilities)
