// Fragments: small matrices in the registers of a warp, as the tensor cores take them.
//
// With g = lane / 4 and t = lane % 4, a lane holds
//   of a (16 rows, 32 bytes of k):    four registers: the t-th of row g, of row g + 8, and both again 16 bytes further;
//   of b (8 columns, 32 bytes of k):  two: the t-th of column g, and again 16 bytes further;
//   of c (16 rows, 8 columns):        four floats: columns 2t and 2t + 1 of row g, then of row g + 8.
// A register is one float or two 16-bit numbers, so k is 8 or 16 numbers deep.
#pragma once
#include "machine.cuh"

#ifndef TF32
#define TF32 0  // 1: a product of floats is one of numbers cut off at TF32's 10 bits of mantissa
#endif

// Float32 products on tensor cores that take TF32: each float is a TF32 number plus a small rest, and (A + a)(B + b) =
// AB + Ab + aB, as ab is below a float's rounding.
INLINE void tensor_product(float, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if TF32
  tensor_product_tf32(d, a, b0, b1);
#else
  constexpr unsigned UPPER = 0xffffe000;
  unsigned upper[4], rest[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    upper[i] = a[i] & UPPER;
    rest[i] = bits_of(float_of(a[i]) - float_of(upper[i]));
  }
  unsigned rest0 = bits_of(float_of(b0) - float_of(b0 & UPPER)), rest1 = bits_of(float_of(b1) - float_of(b1 & UPPER));
  tensor_product_tf32(d, rest, b0 & UPPER, b1 & UPPER);
  tensor_product_tf32(d, upper, rest0, rest1);
  tensor_product_tf32(d, upper, b0 & UPPER, b1 & UPPER);
#endif
}

// Byte offset of a chunk in shared memory, which holds lines of CHUNKS 16-byte chunks. The chunks of a line are
// permuted, differently from line to line (swizzling): load_matrices reads eight chunks at once, one from each of eight
// lines, which would otherwise lie in the same banks (128 bytes across), and be read one after another.
template <int CHUNKS> INLINE int offset(int line, int chunk) {
  constexpr int LINES_ACROSS = CHUNKS < 8 ? 8 / CHUNKS : 1, MASK = CHUNKS < 8 ? CHUNKS - 1 : 7;
  static_assert((CHUNKS & (CHUNKS - 1)) == 0, "a power of two");
  return (line * CHUNKS + (chunk ^ (line / LINES_ACROSS & MASK))) * CHUNK_BYTES;
}

// Loads fragments from such lines. "Along": k runs along a line; "across": each line is one k. Of a: 16 rows from `row`
// on; of b: 16 columns, which is two fragments, r[0], r[1] and r[2], r[3]. `part` counts k by 32 bytes along a line, or
// by as many lines across.
template <int CHUNKS> INLINE void a_along(unsigned (&r)[4], const unsigned char* lines, int row, int part) {
  int lane = threadIdx.x % WARP;
  load_matrices(r, lines + offset<CHUNKS>(row + lane % 16, part * 2 + lane / 16));
}
template <int CHUNKS> INLINE void b_along(unsigned (&r)[4], const unsigned char* lines, int column, int part) {
  int lane = threadIdx.x % WARP;
  load_matrices(r, lines + offset<CHUNKS>(column + lane / 16 * 8 + lane % 8, part * 2 + lane / 8 % 2));
}

// One float of a line.
template <int CHUNKS> INLINE unsigned number(const unsigned char* lines, int line, int place) {
  return *(const unsigned*)(lines + offset<CHUNKS>(line, place / 4) + place % 4 * 4);
}
// Which of eight k a lane holds in the i-th of its two registers: APART: the i-th four; NEIGHBOURS: two adjacent ones,
// so that a result c can be the next product's a (both operands must then agree, as the sum over k has no order).
enum Order { APART, NEIGHBOURS };
template <Order ORDER> INLINE int k_of(int i) {
  int t = threadIdx.x % 4;
  return ORDER == APART ? t + 4 * i : 2 * t + i;
}
template <int CHUNKS> INLINE void a_across(unsigned (&r)[4], const unsigned char* lines, int row, int part) {
  int lane = threadIdx.x % WARP;
  if (sizeof(element) == 2) {
    load_matrices_transposed(r, lines + offset<CHUNKS>(part * 16 + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2));
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) r[i] = number<CHUNKS>(lines, part * 8 + k_of<APART>(i / 2), row + lane / 4 + i % 2 * 8);
  }
}
template <int CHUNKS, Order ORDER> INLINE void b_across(unsigned (&r)[4], const unsigned char* lines, int column, int part) {
  int lane = threadIdx.x % WARP;
  if (sizeof(element) == 2) {
    load_matrices_transposed(r, lines + offset<CHUNKS>(part * 16 + lane % 16, column / 8 + lane / 16));
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) r[i] = number<CHUNKS>(lines, part * 8 + k_of<ORDER>(i % 2), column + lane / 4 + i / 2 * 8);
  }
}

// A result c (16 rows, fragments of 8 columns) as the a of the next product, with k along its columns: the lanes hold
// just what they need. 16-bit numbers take two fragments of c, floats one, in the order NEIGHBOURS.
template <class T> INLINE void a_of_result(unsigned (&a)[4], const float (*c)[4], int part, T) {
  for (int i = 0; i < 4; i++) a[i] = pair_of<T>(c[2 * part + i / 2][i % 2 * 2], c[2 * part + i / 2][i % 2 * 2 + 1]);
}
INLINE void a_of_result(unsigned (&a)[4], const float (*c)[4], int part, float) {
  for (int i = 0; i < 4; i++) a[i] = bits_of(c[part][i % 2 * 2 + i / 2]);
}
