// Attention in one kernel: y = activation(softmax(scale · q kᵀ + bias) v), a head at a time.
//
// The softmax of a row is the same for any m that is taken off its scores,
//   y = Σ_k 2^(s_k - m) v_k / Σ_k 2^(s_k - m).
// m need only be so near to the largest score that no weight overflows, and those that count do not vanish.  The
// largest is known when the last tile has passed; so m is the largest of the first tile, and it stays until a score is
// more than SLACK above it.  Then m becomes the largest so far, and what was summed up with m' is scaled down:
//   2^(s - m) = 2^(s - m') 2^(m' - m).
// All weights are at most 2^SLACK, and the largest score's is at least 1.  Few tiles but the first come to that; in the
// others a lane looks at its own scores only, and nothing of the sums waits for them.
#include "attention.cuh"

// Each of the sums of a warp's rows becomes what it is turned into; half: of the rows g, or g + 8.
template <int TILES, class Turned> INLINE void each(float (&sums)[TILES][4], Turned turned) {
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[i][e] = turned(sums[i][e], e / 2);
}

INLINE unsigned one(float) { return bits_of(1.0f); }
template <class T> INLINE unsigned one(T) { return pair_of<T>(1, 1); }

// So many groups of 16 keys a warp works on at once: what it waits for in one passes while it is busy with the other.
// With more, a processor's 65536 registers would not suffice for BUDGET threads: for two blocks with the seven warps of
// 196 queries (which are given eight warps' registers), or, where values are long, for three of four warps.
constexpr int AT_ONCE = 2;
constexpr int BUDGET = sizeof(element) == 4 || VALUE_SIZE > 128 ? 256 : VALUE_SIZE > 64 ? 384 : 512;

constexpr float SLACK = 8;

// y: token n of image b, head h, at ((b · queries + n) · heads + h) · VALUE_SIZE.  logarithms (images, heads, queries),
// or nullptr: m + log2 Σ, with which the backward computes the probabilities again.  row_tiles and column_tiles: 16 and
// 8 wide, of the bias; bias_heads: 1 where all heads share it.
KERNEL __launch_bounds__(BUDGET, 1)
attention(const element* q, const element* k, const element* v, const element* bias, element* y, float* logarithms,
          int images, int heads, int queries, int keys, long long q_image, long long q_token, long long q_head,
          long long k_image, long long k_token, long long k_head, long long v_image, long long v_token,
          long long v_head, int bias_heads, int row_tiles, int column_tiles, float scale, int activation) {
  SHARED_MEMORY;
  Stream<K_CHUNKS, V_CHUNKS> stream(shared_memory, Heads{k, k_image, k_token, k_head},
                                    Heads{v, v_image, v_token, v_head}, images, heads, keys);
  // A block that has more rows than its warps take at once takes them in turn, beside keys and values that are there.
#pragma unroll 1
  for (int first = blockIdx.y * (blockDim.x / 2); first < queries; first += gridDim.y * (blockDim.x / 2)) {
    Place place(images, heads);
    int row = place.there ? first + threadIdx.x / WARP * 16 : queries;  // from `queries` on there is nothing to do
    int groups = stream.lines / 16;
    NextBias<AT_ONCE> next(bias_of(bias, bias_heads > 1 ? place.head : 0, at_most(row, (row_tiles - 1) * 16), row_tiles,
                                   column_tiles), groups);
    unsigned query[K_PARTS][4];
    load_rows(query, Heads{q, q_image, q_token, q_head}.at(place.image, place.head, 0), q_token, row, queries);

    // Of rows g and g + 8; shift: -m.
    float sums[VALUE_SIZE / 8][4] = {}, total[1][4] = {}, shift[2] = {infinity(), infinity()};

    // A row's total is one more column of the product, of a v that is 1 everywhere: Σ of the weights as they are
    // rounded.
    const unsigned ones = one(element{});
    auto add = [&](int group, auto count) {
      constexpr int COUNT = decltype(count)::value;
      auto key_tokens = stream.first_of(group);
      auto value_tokens = stream.second_of(group);
      float scores[COUNT * 2][4], largest[2] = {-infinity(), -infinity()};
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        next.start(scores + i * 2, i);
        add_product(scores + i * 2, query, key_tokens, i * 16);
      }
#pragma unroll
      for (int i = 0; i < COUNT * 4; i++)
        largest[i % 2] = fmaxf(largest[i % 2], fmaxf(scores[i / 2][i % 2 * 2], scores[i / 2][i % 2 * 2 + 1]));
      bool above = largest[0] * scale + shift[0] > SLACK || largest[1] * scale + shift[1] > SLACK;
      if (__any_sync(EVERY_LANE, above)) {
        float down[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float before = shift[half];
          shift[half] = fminf(before, -scale * row_maximum(largest[half]));
          down[half] = exp2_fast(shift[half] - before);
        }
        each(sums, [&](float x, int half) { return x * down[half]; });
        each(total, [&](float x, int half) { return x * down[half]; });
      }
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
#pragma unroll
        for (int e = 0; e < 8; e++) {
          float& x = scores[i * 2 + e / 4][e % 4];
          x = exp2_fast(x * scale + shift[e / 2 % 2]);
        }
        unsigned weights[GROUP_PARTS][4];
#pragma unroll
        for (int part = 0; part < GROUP_PARTS; part++) {
          a_of_result(weights[part], scores + i * 2, part, element{});
          tensor_product(element{}, total[0], weights[part], ones, ones);
        }
        add_weighted_tokens<VALUE_SIZE>(sums, weights, value_tokens, i * 16);
        if (i == 0) next.pass(COUNT);
      }
    };
    for (int group = 0, end; group < groups; group = end) {
      end = group + stream.bring(group * 16, first >= (int)(gridDim.y * (blockDim.x / 2)));
      if (row < queries) by_groups<AT_ONCE>(group, end, add);
    }

    Place to(images, heads);
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int n = row + threadIdx.x % WARP / 4 + half * 8;
      float all = total[0][half * 2];
      if (logarithms && n < queries && threadIdx.x % 4 == 0)
        logarithms[((long long)to.image * heads + to.head) * queries + n] = log2f(all) - shift[half];
      inverse[half] = 1 / all;
    }
    each(sums, [&](float x, int half) { return x * inverse[half]; });
    // Asked once, not for each of the sums.
    if (activation == HARDSWISH) each(sums, [](float x, int) { return activated(x, HARDSWISH); });
    else if (activation == SILU) each(sums, [](float x, int) { return activated(x, SILU); });
    store_rows<VALUE_SIZE>(sums, y + ((long long)to.image * queries * heads + to.head) * VALUE_SIZE,
                           (long long)heads * VALUE_SIZE, row, queries);
    if (sizeof(element) == 4) break;  // for floats the registers would not suffice
  }
}
LAUNCHABLE(attention)
