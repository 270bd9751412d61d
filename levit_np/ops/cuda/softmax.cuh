// A warp's sixteen rows of softmax(scale · q kᵀ + bias) v, summed while the keys and values pass by (online softmax).
//
// The softmax of a row does not change with m, a number subtracted from its scores:
//   y = Σ_k 2^(s_k - m) v_k / Σ_k 2^(s_k - m).
// m only has to be so near the largest score that no weight overflows, and those that count do not vanish. The largest
// is not known until the last tile has passed. So m starts SLACK above the largest of the first tile, and stays until a
// weight is 2 or more. Then m becomes SLACK above the largest so far, and the sums, made with the old m', are scaled
// down:
//   2^(s - m) = 2^(s - m') 2^(m' - m).
// The largest score's weight is at least 2^-SLACK; a float16 is exact to 2^-25, which is 2^-18 of that. Few tiles but
// the first change m; in the others a lane only tests its own weights, all at once.
#pragma once
#include "attention.cuh"

// Where all scores so far are -infinity, or so far below zero that their own rounding would be a factor of the weights,
// m is FURTHEST: the weights are 0 until a score comes that counts.
constexpr float SLACK = 7, FURTHEST = -0x1p31f;

// Groups of 16 keys that a warp works on at once: while one waits, the other keeps it busy.
constexpr int AT_ONCE = 2;

// Replaces each of the sums of a warp's rows by turned(sum, half); half: 0 for the rows g, 1 for g + 8.
template <int TILES, class Turned> INLINE void each(float (&sums)[TILES][4], Turned turned) {
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[i][e] = turned(sums[i][e], e / 2);
}

INLINE unsigned one(float) { return bits_of(1.0f); }
template <class T> INLINE unsigned one(T) { return pair_of<T>(1, 1); }

// Where a lane finds its part of lines in shared memory: as Tokens, but computed once and then only added to. Lines
// begin at a multiple of a line's bytes, so that another chunk changes only the low bits; except where a line is longer
// than shared memory's own alignment, or longer than sixteen lines of the other array.
constexpr bool WHOLE_LINES = K_CHUNKS * CHUNK_BYTES <= 1024 && V_CHUNKS * CHUNK_BYTES <= 1024 &&
                             V_CHUNKS <= 16 * K_CHUNKS && K_CHUNKS <= 16 * V_CHUNKS;
template <int CHUNKS> struct LanePlace {
  static constexpr int GROUP_BYTES = 16 * CHUNKS * CHUNK_BYTES;
  unsigned begin, own;  // own: 0 where begin includes it
  INLINE LanePlace(const unsigned char* lines, unsigned own)
      : begin(opaque(place_of(lines) + (WHOLE_LINES ? own : 0))), own(WHOLE_LINES ? 0 : own) {}
  INLINE unsigned at(int chunk, int group) const {
    return (WHOLE_LINES ? begin ^ chunk * CHUNK_BYTES : begin + (own ^ chunk * CHUNK_BYTES)) + group * GROUP_BYTES;
  }
  INLINE void pass(int groups) { begin += groups * GROUP_BYTES; }
};

struct Keys {
  LanePlace<K_CHUNKS> place;
  INLINE Keys(const unsigned char* lines)
      : place(lines, offset<K_CHUNKS>(threadIdx.x % WARP / 16 * 8 + threadIdx.x % 8, threadIdx.x / 8 % 2)) {}
  INLINE void along(unsigned (&r)[4], int column, int part) const { load_matrices(r, place.at(part * 2, column / 16)); }
  INLINE void pass(int groups) { place.pass(groups); }
};
struct Values {
  const unsigned char* lines;  // for floats, which no instruction transposes
  LanePlace<V_CHUNKS> place;
  INLINE Values(const unsigned char* lines)
      : lines(lines), place(lines, offset<V_CHUNKS>(threadIdx.x % 16, threadIdx.x % WARP / 16)) {}
  INLINE void across(unsigned (&r)[4], int token, int column) const {
    if (sizeof(element) == 4)
      return b_across<V_CHUNKS, NEIGHBOURS>(r, lines + token * V_CHUNKS * CHUNK_BYTES, column, 0);
    load_matrices_transposed(r, place.at(column / CHUNK, token / 16));
  }
  INLINE void pass(int groups) {
    lines += groups * place.GROUP_BYTES;
    place.pass(groups);
  }
};

struct Softmax {
  // Of rows g and g + 8; shift: -m. A row's total is one more column of the product, with a v that is 1 everywhere: the
  // sum of the weights as rounded.
  float sums[VALUE_SIZE / 8][4] = {}, total[1][4] = {}, shift[2] = {infinity(), infinity()};

  // Adds the groups of 16 keys from `group` to `end`, the first of which is at these lines.
  INLINE void add(int group, int end, const unsigned (&query)[K_PARTS][4], const unsigned char* key_lines,
                  const unsigned char* value_lines, NextBias<AT_ONCE>& next, float scale) {
    Keys keys(key_lines);
    Values values(value_lines);
    by_groups<AT_ONCE>(group, end, [&](int, auto count) {
      constexpr int COUNT = decltype(count)::value;
      add<COUNT>(query, keys, values, next, scale);
      keys.pass(COUNT);
      values.pass(COUNT);
    });
  }
  template <int COUNT>
  INLINE void add(const unsigned (&query)[K_PARTS][4], const Keys& keys, const Values& values, NextBias<AT_ONCE>& next,
                  float scale) {
    const unsigned ones = one(element{});
    float scores[COUNT * 2][4];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      next.start(scores + i * 2, i);
      add_product(scores + i * 2, query, keys, i * 16);
    }
    unsigned weights[COUNT][GROUP_PARTS][4];
    if (__any_sync(EVERY_LANE, weigh(weights, scores, scale))) {
      float down[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float largest = -infinity(), before = shift[half];
#pragma unroll
        for (int i = 0; i < COUNT * 4; i++) largest = fmaxf(largest, scores[i / 2][i % 2 + half * 2]);
        shift[half] = fminf(fminf(before, -FURTHEST), -scale * row_maximum(largest) - SLACK);
        down[half] = exp2_fast(shift[half] - before);
      }
      each(sums, [&](float x, int half) { return x * down[half]; });
      each(total, [&](float x, int half) { return x * down[half]; });
      weigh(weights, scores, scale);
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
#pragma unroll
      for (int part = 0; part < GROUP_PARTS; part++) tensor_product(element{}, total[0], weights[i][part], ones, ones);
      add_weighted_tokens<VALUE_SIZE>(sums, weights[i], values, i * 16);
      if (i == 0) next.pass(COUNT);
    }
  }

  // The weights of scores, as the next product's operand.  -> whether one is 2 or more, or NaN: in each type, such
  // numbers have the upper bit of their exponent set.
  template <int COUNT>
  INLINE bool weigh(unsigned (&weights)[COUNT][GROUP_PARTS][4], const float (&scores)[COUNT * 2][4],
                    float scale) const {
    unsigned bits = 0;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      float exponentials[2][4];
#pragma unroll
      for (int e = 0; e < 8; e++)
        exponentials[e / 4][e % 4] = exp2_fast(scores[i * 2 + e / 4][e % 4] * scale + shift[e / 2 % 2]);
#pragma unroll
      for (int part = 0; part < GROUP_PARTS; part++) {
        a_of_result(weights[i][part], exponentials, part, element{});
#pragma unroll
        for (int word : weights[i][part]) bits |= word;
      }
    }
    return bits & (sizeof(element) == 4 ? 0x40000000 : 0x40004000);
  }

  // Writes the rows from `row` on of a head of an image. y: token n of image b, head h, at ((b · queries + n) · heads +
  // h) · VALUE_SIZE. logarithms (images, heads, queries), or nullptr: m + log2 Σ, from which the backward recomputes
  // the probabilities.
  INLINE void store(element* y, float* logarithms, int image, int head, int heads, int row, int queries,
                    int activation) {
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int n = row + threadIdx.x % WARP / 4 + half * 8;
      float all = total[0][half * 2];
      if (logarithms && n < queries && threadIdx.x % 4 == 0)
        logarithms[((long long)image * heads + head) * queries + n] = log2f(all) - shift[half];
      inverse[half] = __fdividef(1.0f, all);  // in the range where it is exact to a float's last bits
    }
    each(sums, [&](float x, int half) { return x * inverse[half]; });
    // Tested once, not for each of the sums.
    if (activation == HARDSWISH) each(sums, [](float x, int) { return activated(x, HARDSWISH); });
    else if (activation == SILU) each(sums, [](float x, int) { return activated(x, SILU); });
    store_rows<VALUE_SIZE>(sums, y + ((long long)image * queries * heads + head) * VALUE_SIZE,
                           (long long)heads * VALUE_SIZE, row, queries);
  }
};
