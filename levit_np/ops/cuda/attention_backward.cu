// Attention's backward. With p = softmax(s), s = scale · q kᵀ + bias, y = p v:
//   dv = pᵀ dy,   dp = dy vᵀ,   ds = p (dp - Σ_k p dp),   dq = scale · ds k,   dk = scale · dsᵀ q,   dbias = Σ_images ds.
// Neither s nor p was kept. Each kernel recomputes p = 2^(s - L) from q and k, with L the logarithm of the row's sum
// that the forward left: cheaper than writing and reading p. A row's Σ_k p dp equals Σ dy y ("dot").
//
// A row of ds sums to 0. Rounding leaves δ instead, which the dot lacked, and puts into dq δ times whatever the keys
// have in common. As the exact sum is 0, any constant may be subtracted from all keys: the first kernel, which sees
// whole rows, computes dq as Σ ds (k - k₀) = Σ ds k - δ k₀, and adds δ to the dot that the second makes its ds with.
//
// dq is a sum over keys, dk and dv are sums over queries: three kernels, each with its own tokens in registers while
// the others pass by. One kernel for dk and dv would save one p, but their sums would leave registers for half as many
// warps. The first kernel finds the dots, and writes ds for dbias, which is a sum over images (see bias.cu).
#include "attention.cuh"

// What is known of a row of scores. Where the queries are columns, two neighbours' are read at once: those of columns
// 2t and 2t + 1 of the first eight and, four Rows further on, of the next eight.
struct alignas(8) Row { float logarithm, dot; };
struct alignas(16) Rows { Row row[2]; };
INLINE const Rows* columns_of(const float* rows, const Place& place, int heads, int columns) {
  return (const Rows*)rows + ((long long)place.image * heads + place.head) * columns / 2 + threadIdx.x % 4;
}

// The dot product of the numbers in two words.
INLINE float dot_of(unsigned a, unsigned b) {
  union { unsigned word; element value[4 / sizeof(element)]; } x = {a}, y = {b};
  float sum = 0;
#pragma unroll
  for (int i = 0; i < (int)(4 / sizeof(element)); i++) sum += to_float(x.value[i]) * to_float(y.value[i]);
  return sum;
}
// The dot products of the rows g and g + 8 of two arrays of fragments.
template <int PARTS>
INLINE void dots_of(float (&dot)[2], const unsigned (&a)[PARTS][4], const unsigned (&b)[PARTS][4]) {
  dot[0] = dot[1] = 0;
#pragma unroll
  for (int part = 0; part < PARTS; part++)
#pragma unroll
    for (int i = 0; i < 4; i++) dot[i % 2] += dot_of(a[part][i], b[part][i]);
#pragma unroll
  for (int half = 0; half < 2; half++) dot[half] = row_sum(dot[half]);
}

// Two groups of 16 columns at once, where that leaves registers for two blocks of eight warps. Where values are long,
// shared memory has room for three blocks of four warps of queries, which may then use more registers.
constexpr int BUDGET = sizeof(element) == 4 || VALUE_SIZE > 128 ? 256 : 512;
constexpr int QUERIES_BUDGET = BUDGET == 512 && VALUE_SIZE > 64 ? 384 : BUDGET;
constexpr int QUERIES_AT_ONCE = BUDGET == 512 ? 2 : 1, AT_ONCE = VALUE_SIZE > 64 ? 1 : QUERIES_AT_ONCE;

// dq, rows and ds. Arrays of tokens come as (pointer, strides of image, token, head), except y, which lies as the
// forward wrote it. rows (images, heads, row_tiles · 16); ds (images, heads) in lane order, as the bias.
KERNEL __launch_bounds__(QUERIES_BUDGET, 1)
attention_queries(const element* q, const element* k, const element* v, const element* dy, const element* y,
                  const element* bias, const float* logarithms, element* dq, float* rows, element* ds, int images,
                  int heads, int queries, int keys, long long q_image, long long q_token, long long q_head,
                  long long k_image, long long k_token, long long k_head, long long v_image, long long v_token,
                  long long v_head, long long dy_image, long long dy_token, long long dy_head, long long dq_image,
                  long long dq_token, long long dq_head, int bias_heads, int row_tiles, int column_tiles, float scale,
                  float score_scale) {
  SHARED_MEMORY;
  Place place(images, heads);
  Stream<K_CHUNKS, V_CHUNKS> stream(shared_memory, Heads{k, k_image, k_token, k_head},
                                    Heads{v, v_image, v_token, v_head}, images, heads, keys);
  bool there = place.there && place.row < queries;
  int tile_row = at_most(place.row, (row_tiles - 1) * 16), lane = threadIdx.x % WARP;
  unsigned query[K_PARTS][4], gradient[V_PARTS][4], result[V_PARTS][4];
  load_rows(query, Heads{q, q_image, q_token, q_head}.at(place.image, place.head, 0), q_token, place.row, queries);
  load_rows(gradient, Heads{dy, dy_image, dy_token, dy_head}.at(place.image, place.head, 0), dy_token, place.row,
            queries);
  long long y_token = (long long)heads * VALUE_SIZE;
  load_rows(result, Heads{y, queries * y_token, y_token, VALUE_SIZE}.at(place.image, place.head, 0), y_token, place.row,
            queries);
  float logarithm[2], dot[2], rest[2] = {}, sums[KEY_SIZE / 8][4] = {};  // rest: δ, a row's sum of ds
  dots_of(dot, gradient, result);
  long long pair = (long long)place.image * heads + place.head;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int n = place.row + lane / 4 + half * 8;
    logarithm[half] = n < queries ? logarithms[pair * queries + n] : infinity();  // a missing row's weights are 0
    if (there && lane % 4 == 0) ((Row*)rows)[pair * row_tiles * 16 + n] = Row{logarithm[half], dot[half]};
  }
  // Not earlier: it would leave no registers for the results.
  NextBias<QUERIES_AT_ONCE> next(bias_of(bias, bias_heads > 1 ? place.head : 0, tile_row, row_tiles, column_tiles),
                                 stream.lines / 16);
  Quad* next_ds = (Quad*)ds + (pair * row_tiles + tile_row / 16) * column_tiles * WARP + lane;
  auto add = [&](int group, auto count) {
    constexpr int COUNT = decltype(count)::value;
    auto key_tokens = stream.first_of(group);
    auto value_tokens = stream.second_of(group);
    float scores[COUNT * 2][4], found[COUNT * 2][4];  // found: dp - dot, summed from -dot on, then ds
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      next.start(scores + i * 2, i);
      add_product(scores + i * 2, query, key_tokens, i * 16);
#pragma unroll
      for (int e = 0; e < 8; e++) found[i * 2 + e / 4][e % 4] = -dot[e / 2 % 2];
      add_product(found + i * 2, gradient, value_tokens, i * 16);
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
#pragma unroll
      for (int e = 0; e < 8; e++)
        found[i * 2 + e / 4][e % 4] *= exp2_fast(scores[i * 2 + e / 4][e % 4] * score_scale - logarithm[e / 2 % 2]);
#pragma unroll
      for (int tile = 0; tile < 2; tile++) {
        next_ds[(i * 2 + tile) * WARP] = quad_of(found[i * 2 + tile], element{});
#pragma unroll
        for (int e = 0; e < 4; e++) rest[e / 2] += found[i * 2 + tile][e];
      }
      add_weighted_tokens<KEY_SIZE>(sums, found + i * 2, key_tokens, i * 16);
      if (i == 0) next.pass(COUNT);
    }
    next_ds += COUNT * 2 * WARP;
  };
  stream.pass(there, [&](int group, int end) { by_groups<QUERIES_AT_ONCE>(group, end, add); });
  if (!there) return;
  Place to(images, heads);
  int own = opaque(threadIdx.x) % WARP;  // the lane, recomputed too
  const element* first_key = Heads{k, k_image, k_token, k_head}.at(to.image, to.head, 0);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    rest[half] = row_sum(rest[half]);
    int n = to.row + own / 4 + half * 8;
    if (own % 4 == 0) ((Row*)rows)[((long long)to.image * heads + to.head) * row_tiles * 16 + n].dot += rest[half];
  }
#pragma unroll
  for (int i = 0; i < KEY_SIZE / 8; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[i][e] -= rest[e / 2] * to_float(first_key[i * 8 + own % 4 * 2 + e % 2]);
  store_rows<KEY_SIZE>(sums, dq + to.image * dq_image + to.head * dq_head, dq_token, to.row, queries, scale);
}
LAUNCHABLE(attention_queries)

// dk. Rows of scores are keys, columns are queries: scores, bias (arranged so) and everything else transposed. rows:
// what attention_queries wrote.
KERNEL __launch_bounds__(BUDGET, 1)
attention_keys(const element* q, const element* k, const element* v, const element* dy, const element* bias,
               const float* rows, element* dk, int images, int heads, int queries, int keys, long long q_image,
               long long q_token, long long q_head, long long k_image, long long k_token, long long k_head,
               long long v_image, long long v_token, long long v_head, long long dy_image, long long dy_token,
               long long dy_head, long long dk_image, long long dk_token, long long dk_head, int bias_heads,
               int row_tiles, int column_tiles, float scale, float score_scale) {
  SHARED_MEMORY;
  Place place(images, heads);
  Stream<K_CHUNKS, V_CHUNKS> stream(shared_memory, Heads{q, q_image, q_token, q_head},
                                    Heads{dy, dy_image, dy_token, dy_head}, images, heads, queries);
  bool there = place.there && place.row < keys;
  NextBias<AT_ONCE> next(bias_of(bias, bias_heads > 1 ? place.head : 0, at_most(place.row, (row_tiles - 1) * 16),
                                 row_tiles, column_tiles), stream.lines / 16);
  unsigned key[K_PARTS][4], value[V_PARTS][4];
  load_rows(key, Heads{k, k_image, k_token, k_head}.at(place.image, place.head, 0), k_token, place.row, keys);
  load_rows(value, Heads{v, v_image, v_token, v_head}.at(place.image, place.head, 0), v_token, place.row, keys);
  const Rows* columns = columns_of(rows, place, heads, stream.lines);
  float sums[KEY_SIZE / 8][4] = {};
  auto add = [&](int group, auto count) {
    constexpr int COUNT = decltype(count)::value;
    auto query_tokens = stream.first_of(group);
    auto gradient_tokens = stream.second_of(group);
    float scores[COUNT * 2][4], ds[COUNT * 2][4];  // ds: first dp - dot, summed from -dot on as dq's is
    Rows of[COUNT * 2];
#pragma unroll
    for (int tile = 0; tile < COUNT * 2; tile++) {
      of[tile] = columns[tile * 4];
#pragma unroll
      for (int e = 0; e < 4; e++) ds[tile][e] = -of[tile].row[e % 2].dot;
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      next.start(scores + i * 2, i);
      add_product(scores + i * 2, key, query_tokens, i * 16);
      add_product(ds + i * 2, value, gradient_tokens, i * 16);
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
#pragma unroll
      for (int tile = i * 2; tile < i * 2 + 2; tile++)
#pragma unroll
        for (int e = 0; e < 4; e++)
          ds[tile][e] *= exp2_fast(scores[tile][e] * score_scale - of[tile].row[e % 2].logarithm);
      add_weighted_tokens<KEY_SIZE>(sums, ds + i * 2, query_tokens, i * 16);
      if (i == 0) next.pass(COUNT);
    }
    columns += COUNT * 8;
  };
  stream.pass(there, [&](int group, int end) { by_groups<AT_ONCE>(group, end, add); });
  Place to(images, heads);
  if (there)
    store_rows<KEY_SIZE>(sums, dk + to.image * dk_image + to.head * dk_head, dk_token, to.row, keys, scale);
}
LAUNCHABLE(attention_keys)

// dv, with rows and columns as in attention_keys.
KERNEL __launch_bounds__(BUDGET, 1)
attention_values(const element* q, const element* k, const element* dy, const element* bias, const float* rows,
                 element* dv, int images, int heads, int queries, int keys, long long q_image, long long q_token,
                 long long q_head, long long k_image, long long k_token, long long k_head, long long dy_image,
                 long long dy_token, long long dy_head, long long dv_image, long long dv_token, long long dv_head,
                 int bias_heads, int row_tiles, int column_tiles, float score_scale) {
  SHARED_MEMORY;
  Place place(images, heads);
  Stream<K_CHUNKS, V_CHUNKS> stream(shared_memory, Heads{q, q_image, q_token, q_head},
                                    Heads{dy, dy_image, dy_token, dy_head}, images, heads, queries);
  bool there = place.there && place.row < keys;
  NextBias<AT_ONCE> next(bias_of(bias, bias_heads > 1 ? place.head : 0, at_most(place.row, (row_tiles - 1) * 16),
                                 row_tiles, column_tiles), stream.lines / 16);
  unsigned key[K_PARTS][4];
  load_rows(key, Heads{k, k_image, k_token, k_head}.at(place.image, place.head, 0), k_token, place.row, keys);
  const Rows* columns = columns_of(rows, place, heads, stream.lines);
  float sums[VALUE_SIZE / 8][4] = {};
  auto add = [&](int group, auto count) {
    constexpr int COUNT = decltype(count)::value;
    auto query_tokens = stream.first_of(group);
    auto gradient_tokens = stream.second_of(group);
    float p[COUNT * 2][4];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      next.start(p + i * 2, i);
      add_product(p + i * 2, key, query_tokens, i * 16);
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
#pragma unroll
      for (int tile = i * 2; tile < i * 2 + 2; tile++) {
        Rows of = columns[tile * 4];
#pragma unroll
        for (int e = 0; e < 4; e++) p[tile][e] = exp2_fast(p[tile][e] * score_scale - of.row[e % 2].logarithm);
      }
      add_weighted_tokens<VALUE_SIZE>(sums, p + i * 2, gradient_tokens, i * 16);
      if (i == 0) next.pass(COUNT);
    }
    columns += COUNT * 8;
  };
  stream.pass(there, [&](int group, int end) { by_groups<AT_ONCE>(group, end, add); });
  Place to(images, heads);
  if (there)
    store_rows<VALUE_SIZE>(sums, dv + to.image * dv_image + to.head * dv_head, dv_token, to.row, keys);
}
LAUNCHABLE(attention_values)

// The probabilities themselves, (images, heads, queries, keys), for whoever wants to see them.
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
