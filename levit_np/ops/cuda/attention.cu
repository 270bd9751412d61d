// Attention in one kernel: y = activation(softmax(scale · q kᵀ + bias) v), a head at a time.
//
// The softmax of a row needs its largest score, which is known only when the last tile has passed.  So each tile is
// weighted by the largest so far, and when a larger one comes, what was summed up is scaled down: with m the largest,
//   y = Σ_k 2^(s_k - m) v_k / Σ_k 2^(s_k - m),   and   2^(s - m) = 2^(s - m') 2^(m' - m).
#include "attention.cuh"

// y: token n of image b, head h, at ((b · queries + n) · heads + h) · VALUE_SIZE.  logarithms (images, heads, queries), or
// nullptr: m + log2 Σ, with which the backward computes the probabilities again.  row_tiles and column_tiles: 16 and 8
// wide, of the bias; bias_heads: 1 where all heads share it.
KERNEL __launch_bounds__(MOST_THREADS)
attention(const element* q, const element* k, const element* v, const element* bias, element* y, float* logarithms,
          int images, int heads, int queries, int keys, long long q_image, long long q_token, long long q_head,
          long long k_image, long long k_token, long long k_head, long long v_image, long long v_token, long long v_head,
          int bias_heads, int row_tiles, int column_tiles, float scale, int activation) {
  SHARED_MEMORY;
  Place place(images, heads);
  Stream<K_CHUNKS, V_CHUNKS> stream(shared_memory, Heads{k, k_image, k_token, k_head}, Heads{v, v_image, v_token, v_head},
                                    place, keys);
  stream.copy(0);
  unsigned query[K_PARTS][4];
  load_rows(query, Heads{q, q_image, q_token, q_head}.at(place.image, place.head, 0), q_token, place.row, queries);
  const Quad* row_bias = bias_of(bias, bias_heads > 1 ? place.head : 0, at_most(place.row, (row_tiles - 1) * 16), row_tiles, column_tiles);

  float sums[VALUE_SIZE / 8][4] = {}, total[2] = {}, largest[2] = {-infinity(), -infinity()};  // of rows g and g + 8
  for (int tile = 0; tile < stream.tiles(); tile++) {
    stream.begin(tile);
    float scores[TILE / 8][4];
    int groups = stream.groups(tile);
    float found[2] = {largest[0], largest[1]};
#pragma unroll
    for (int group = 0; group < TILE / 16; group++)
      if (group < groups) {
        product_with_tokens(scores + group * 2, query, stream.first_of(tile), group * 16);
        scale_and_bias(scores + group * 2, scale, row_bias + (tile * (TILE / 8) + group * 2) * WARP);
#pragma unroll
        for (int e = 0; e < 8; e++) found[e / 2 % 2] = fmaxf(found[e / 2 % 2], scores[group * 2 + e / 4][e % 4]);
      }
    float down[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      found[half] = row_maximum(found[half]);
      down[half] = exp2_fast(largest[half] - found[half]);
      largest[half] = found[half];
      total[half] *= down[half];
    }
#pragma unroll
    for (int i = 0; i < VALUE_SIZE / 8; i++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[i][e] *= down[e / 2];
#pragma unroll
    for (int group = 0; group < TILE / 16; group++)
      if (group < groups) {
#pragma unroll
        for (int e = 0; e < 8; e++) {
          float& s = scores[group * 2 + e / 4][e % 4];
          s = exp2_fast(s - largest[e / 2 % 2]);
          total[e / 2 % 2] += s;
        }
        add_weighted_tokens<VALUE_SIZE>(sums, scores + group * 2, stream.second_of(tile), group * 16);
      }
    stream.end();
  }

  int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    total[half] = row_sum(total[half]);
    int n = place.row + g + half * 8;
    if (!place.there || n >= queries) continue;
    element* to = y + (((long long)place.image * queries + n) * heads + place.head) * VALUE_SIZE + 2 * t;
    float inverse = 1 / total[half];
#pragma unroll
    for (int i = 0; i < VALUE_SIZE / 8; i++) {
      struct alignas(2 * sizeof(element)) { element value[2]; } two;
      from_float(activated(sums[i][half * 2] * inverse, activation), two.value[0]);
      from_float(activated(sums[i][half * 2 + 1] * inverse, activation), two.value[1]);
      *(decltype(two)*)(to + i * 8) = two;
    }
    if (logarithms && t == 0)
      logarithms[((long long)place.image * heads + place.head) * queries + n] = largest[half] + log2f(total[half]);
  }
}
LAUNCHABLE(attention)
