// Results on their way to memory. A lane holds two neighbours of a row in each fragment, but memory is best written 16
// bytes at a time: the four lanes of a row exchange what they have of GATHERED fragments, and each gets one chunk of
// the row, of row g or, with `half`, g + 8: the columns from gathered_column() on.
#pragma once
#include "matrix.cuh"

constexpr int GATHERED = CHUNK / 2;
INLINE int gathered_column() {
  int t = threadIdx.x % 4;
  return sizeof(element) == 2 ? t * 8 : t % 2 * 8 + t / 2 * 4;
}
// Swaps one of a lane's two words with the lane `mask` away.
INLINE void exchange(unsigned& first, unsigned& second, int mask) {
  bool upper = threadIdx.x & mask;
  unsigned come = __shfl_xor_sync(EVERY_LANE, upper ? first : second, mask);
  if (upper) first = come;
  else second = come;
}
template <class T> INLINE Chunk gathered(const float (*c)[4], int half, T) {
  unsigned words[4];
#pragma unroll
  for (int i = 0; i < 4; i++) words[i] = pair_of<T>(c[i][2 * half], c[i][2 * half + 1]);
  exchange(words[0], words[1], 1);  // two by two, then four by four: word i of lane t becomes word t of lane i
  exchange(words[2], words[3], 1);
  exchange(words[0], words[2], 2);
  exchange(words[1], words[3], 2);
  Chunk y;
  memcpy(&y, words, CHUNK_BYTES);
  return y;
}
INLINE Chunk gathered(const float (*c)[4], int half, float) {
  unsigned words[4];  // two columns of a fragment, two of the next
#pragma unroll
  for (int i = 0; i < 4; i++) words[i] = bits_of(c[i / 2][2 * half + i % 2]);
  exchange(words[0], words[2], 1);
  exchange(words[1], words[3], 1);
  Chunk y;
  memcpy(&y, words, CHUNK_BYTES);
  return y;
}

// The n-th GATHERED fragments of a row of fragments as a chunk; beyond the last of them it is 0.
template <int FRAGMENTS> INLINE Chunk chunk_of_fragments(const float (&c)[FRAGMENTS][4], int n, int half) {
  float group[GATHERED][4];
#pragma unroll
  for (int j = 0; j < GATHERED; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) group[j][e] = n * GATHERED + j < FRAGMENTS ? c[(n * GATHERED + j) % FRAGMENTS][e] : 0;
  return gathered(group, half, element{});
}

// a + b, number by number. The once-rounded sum of two 16-bit numbers is what the sum of their floats rounds to.
template <class T> INLINE Chunk sum_of_chunks(const Chunk& a, const Chunk& b, T) {
  unsigned x[4], y[4];
  memcpy(x, &a, CHUNK_BYTES);
  memcpy(y, &b, CHUNK_BYTES);
#pragma unroll
  for (int i = 0; i < 4; i++) y[i] = sum_of_pairs(T{}, x[i], y[i]);
  Chunk sum;
  memcpy(&sum, y, CHUNK_BYTES);
  return sum;
}
INLINE Chunk sum_of_chunks(const Chunk& a, Chunk b, float) {
#pragma unroll
  for (int e = 0; e < CHUNK; e++) from_float(to_float(a.value[e]) + to_float(b.value[e]), b.value[e]);
  return b;
}
