// A warp's sixteen rows of softmax(scale · q kᵀ + bias) v, summed up while the keys and values pass by.
//
// The softmax of a row is the same for any m that is taken off its scores,
//   y = Σ_k 2^(s_k - m) v_k / Σ_k 2^(s_k - m).
// m need only be so near to the largest score that no weight overflows, and those that count do not vanish.  The
// largest is known when the last tile has passed; so m is the largest of the first tile, and it stays until a score is
// more than SLACK above it.  Then m becomes the largest so far, and what was summed up with m' is scaled down:
//   2^(s - m) = 2^(s - m') 2^(m' - m).
// All weights are at most 2^SLACK, and the largest score's is at least 1.  Few tiles but the first come to that; in the
// others a lane looks at its own scores only, and nothing of the sums waits for them.
#pragma once
#include "attention.cuh"

constexpr float SLACK = 8;

// So many groups of 16 keys a warp works on at once: what it waits for in one passes while it is busy with the other.
constexpr int AT_ONCE = 2;

// Each of the sums of a warp's rows becomes what it is turned into; half: of the rows g, or g + 8.
template <int TILES, class Turned> INLINE void each(float (&sums)[TILES][4], Turned turned) {
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[i][e] = turned(sums[i][e], e / 2);
}

INLINE unsigned one(float) { return bits_of(1.0f); }
template <class T> INLINE unsigned one(T) { return pair_of<T>(1, 1); }

struct Softmax {
  // Of rows g and g + 8; shift: -m.  A row's total is one more column of the product, of a v that is 1 everywhere: Σ of
  // the weights as they are rounded.
  float sums[VALUE_SIZE / 8][4] = {}, total[1][4] = {}, shift[2] = {infinity(), infinity()};

  // COUNT groups of 16 keys, which begin with these tokens.
  template <int COUNT>
  INLINE void add(const unsigned (&query)[K_PARTS][4], const Tokens<K_CHUNKS>& keys, const Tokens<V_CHUNKS>& values,
                  NextBias<AT_ONCE>& next, float scale) {
    const unsigned ones = one(element{});
    float scores[COUNT * 2][4], largest[2] = {-infinity(), -infinity()};
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      next.start(scores + i * 2, i);
      add_product(scores + i * 2, query, keys, i * 16);
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
      add_weighted_tokens<VALUE_SIZE>(sums, weights, values, i * 16);
      if (i == 0) next.pass(COUNT);
    }
  }

  // The rows from `row` on of a head of an image.  y: token n of image b, head h, at
  // ((b · queries + n) · heads + h) · VALUE_SIZE.  logarithms (images, heads, queries), or nullptr: m + log2 Σ, with
  // which the backward computes the probabilities again.
  INLINE void store(element* y, float* logarithms, int image, int head, int heads, int row, int queries,
                    int activation) {
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int n = row + threadIdx.x % WARP / 4 + half * 8;
      float all = total[0][half * 2];
      if (logarithms && n < queries && threadIdx.x % 4 == 0)
        logarithms[((long long)image * heads + head) * queries + n] = log2f(all) - shift[half];
      inverse[half] = 1 / all;
    }
    each(sums, [&](float x, int half) { return x * inverse[half]; });
    // Asked once, not for each of the sums.
    if (activation == HARDSWISH) each(sums, [](float x, int) { return activated(x, HARDSWISH); });
    else if (activation == SILU) each(sums, [](float x, int) { return activated(x, SILU); });
    store_rows<VALUE_SIZE>(sums, y + ((long long)image * queries * heads + head) * VALUE_SIZE,
                           (long long)heads * VALUE_SIZE, row, queries);
  }
};
