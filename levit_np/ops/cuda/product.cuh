// The product of two matrices (GEMM), tile by tile: what linear maps and convolutions share, forward and backward.
//
// A thread block computes TILE_ROWS × TILE_COLUMNS numbers of  c = Σ_k a[row, k] b[column, k], in steps of K_BYTES of
// k. Each step's slices of a and b are copied to shared memory STAGES - 1 steps ahead (multistage pipelining), so that
// the tensor cores do not wait for memory. From there each warp loads fragments (load_matrices) of 16 rows or columns
// by 32 bytes of k, and multiplies them (matrix.cuh); or four warps let Hopper's tensor cores do both (warpgroup.cuh).
//
// An operand says where its numbers are: chunk(line, place) is the place of 16 bytes, or none, for zeros.
//   K_ALONG true:  a line is a row of a (or a column of b), and k runs along it: x and w of y = x wᵀ.
//   K_ALONG false: a line is one k, and the rows (columns) run along it: both operands of dw = dyᵀ x.
// Where the numbers come from - a matrix, the window of a convolution - is all that distinguishes the products.
#pragma once
#include "matrix.cuh"
#include "warpgroup.cuh"

#ifndef K_BYTES
#define K_BYTES 128
#endif
#ifndef WARPGROUPS
#define WARPGROUPS 0  // 1: Hopper's warpgroup instructions (warpgroup.cuh)
#endif
#ifndef SPLIT
// 1: each of four warps takes a quarter of a step's k for the whole tile, where there are many steps in sequence
#define SPLIT 0
#endif
#ifndef TILE_ROWS
#define TILE_ROWS 64
#define TILE_COLUMNS 64
#define WARPS_DOWN 2
#define WARPS_ACROSS 2
#define STAGES 3
#endif

constexpr int K_STEP = K_BYTES / sizeof(element), PARTS = K_BYTES / 32;  // PARTS: of 32 bytes, a tensor_product's
constexpr int THREADS = WARPS_DOWN * WARPS_ACROSS * WARP;
constexpr int BLOCKS = sizeof(element) == 2 ? 2 : 1;  // on a processor at once: one computes while the other stores
// a warp's part of the tile
constexpr int WARP_ROWS = TILE_ROWS / WARPS_DOWN, WARP_COLUMNS = TILE_COLUMNS / WARPS_ACROSS;
constexpr int DOWN = WARP_ROWS / 16, ACROSS = WARP_COLUMNS / 8;  // its fragments
constexpr int A_BYTES = TILE_ROWS * K_BYTES, B_BYTES = TILE_COLUMNS * K_BYTES, STAGE_BYTES = A_BYTES + B_BYTES;
static_assert(WARP_ROWS % 16 == 0 && WARP_COLUMNS % 16 == 0, "fragments are loaded 16 by 16");
static_assert(!SPLIT || WARPS_DOWN * WARPS_ACROSS == 4, "a quarter each");
static_assert(!WARPGROUPS || (K_BYTES == 128 && WARP_ROWS == 16 && WARPS_ACROSS == 1 && WARPS_DOWN % 4 == 0),
              "a warpgroup has 64 rows and all columns");
// Where k runs across, warpgroups take rows and columns in blocks of 64, as many numbers as a line has.
constexpr bool ACROSS_BY_WARPGROUPS = WARPGROUPS && TILE_COLUMNS % 64 == 0;
constexpr int BLOCK_OF_64 = 64 * K_BYTES;  // bytes of 64 lines along k, or of K_STEP lines across 64 rows

// A lane's part of its warp's sums: see matrix.cuh.
using Sums = float[DOWN][ACROSS][4];
INLINE void clear(Sums& sums) {
#pragma unroll
  for (int i = 0; i < DOWN; i++)
#pragma unroll
    for (int j = 0; j < ACROSS; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[i][j][e] = 0;
}

// The index of a chunk in an array, for which 32 bits suffice up to 64 GiB; and whether it exists.
struct Where {
  unsigned chunk;
  bool there;
};
constexpr unsigned NONE = ~0u;

// A matrix in memory, `stride` chunks from one line to the next.
template <bool ALONG> struct Matrix {
  static constexpr bool K_ALONG = ALONG;
  using Line = unsigned;  // its first chunk, or NONE
  using Place = unsigned;  // the chunk along it
  const element* memory;
  unsigned lines, length, stride;
  INLINE Matrix(const element* memory, int lines, int length, int stride)
      : memory(memory), lines(lines), length(length), stride(stride / CHUNK) {}
  INLINE Line line(unsigned n) const { return n < lines ? n * stride : NONE; }
  INLINE Place place(unsigned n) const { return n < length ? n / CHUNK : NONE; }
  INLINE Where chunk(Line line, Place place) const { return {line + place, line != NONE && place != NONE}; }
};

// One operand's slice of a step in shared memory, and how a thread copies its share: the same place of several lines.
// What stays the same from step to step is computed once: the lines where k runs along, the place where it runs across.
template <class Operand, int TILE> struct Slice {
  static constexpr bool K_ALONG = Operand::K_ALONG;
  static constexpr int LINES = K_ALONG ? TILE : K_STEP;
  static constexpr int CHUNKS = TILE * (K_BYTES / CHUNK_BYTES) / LINES;  // a line
  static constexpr int COPIES = LINES * CHUNKS / THREADS, LINES_APART = THREADS / CHUNKS;
  const Operand& operand;
  typename Operand::Line lines[K_ALONG ? COPIES : 1];
  typename Operand::Place place;

  INLINE Slice(const Operand& operand, int first) : operand(operand) {
    static_assert(THREADS % CHUNKS == 0 && LINES * CHUNKS % THREADS == 0, "a thread copies the same place of some lines");
    if (K_ALONG) {
#pragma unroll
      for (int i = 0; i < COPIES; i++) lines[i] = operand.line(first + line(i));
    } else {
      place = operand.place(first + chunk() * CHUNK);
    }
  }
  static INLINE int chunk() { return threadIdx.x % CHUNKS; }
  static INLINE int line(int i) { return threadIdx.x / CHUNKS + i * LINES_APART; }
  static INLINE int offset_of(int line, int chunk) {  // in blocks of 64 rows, or line after line
    if (!K_ALONG && ACROSS_BY_WARPGROUPS) return chunk / 8 * BLOCK_OF_64 + offset<8>(line, chunk % 8);
    return offset<CHUNKS>(line, chunk);
  }

  INLINE void copy(unsigned char* slice, int k) {
    if (K_ALONG) place = operand.place(k + chunk() * CHUNK);
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
      if (!K_ALONG) lines[0] = operand.line(k + line(i));
      Where from = operand.chunk(lines[K_ALONG ? i : 0], place);
      copy_chunk(slice + offset_of(line(i), chunk()), operand.memory + (unsigned long long)from.chunk * CHUNK,
                 from.there);
    }
  }

  static INLINE void fragment_a(unsigned (&r)[4], const unsigned char* slice, int row, int part) {
    if (K_ALONG) a_along<CHUNKS>(r, slice, row, part);
    else a_across<CHUNKS>(r, slice, row, part);
  }
  static INLINE void fragments_b(unsigned (&r)[4], const unsigned char* slice, int column, int part) {
    if (K_ALONG) b_along<CHUNKS>(r, slice, column, part);
    else b_across<CHUNKS, APART>(r, slice, column, part);
  }
};

template <class T> INLINE void add_product(T type, float (&sum)[4], const unsigned (&a)[4], const unsigned* b) {
  tensor_product(type, sum, a, b[0], b[1]);
}
// Tensor cores truncate their sums. So, for floats, the sum of a few terms is added to the others outside of them,
// where it is rounded: truncation errors all point towards zero, and would add up.
INLINE void add_product(float type, float (&sum)[4], const unsigned (&a)[4], const unsigned* b) {
  float few[4] = {};
  tensor_product(type, few, a, b[0], b[1]);
#pragma unroll
  for (int e = 0; e < 4; e++) sum[e] += few[e];
}

// A step's product, of `parts` times 32 bytes of k: a warp loads the fragments of its rows and columns and multiplies
// them.
template <class SliceA, class SliceB, int DOWN, int ACROSS>
INLINE void multiply(float (&sums)[DOWN][ACROSS][4], const unsigned char* a, const unsigned char* b, int row, int column,
                     int first_part, int parts) {
#pragma unroll
  for (int part = first_part; part < first_part + parts; part++) {
    unsigned left[DOWN][4], right[ACROSS / 2][4];
#pragma unroll
    for (int i = 0; i < DOWN; i++) SliceA::fragment_a(left[i], a, row + i * 16, part);
#pragma unroll
    for (int j = 0; j < ACROSS / 2; j++) SliceB::fragments_b(right[j], b, column + j * 16, part);
#pragma unroll
    for (int i = 0; i < DOWN; i++)
#pragma unroll
      for (int j = 0; j < ACROSS; j++) add_product(element{}, sums[i][j], left[i], right[j / 2] + j % 2 * 2);
  }
}

// Adds up the warps' sums of the whole tile (SPLIT); each warp keeps its part.
struct alignas(16) Fragment { float value[4]; };
template <int HIGH, int WIDE>
INLINE void add_parts(Sums& sums, const float (&own)[HIGH][WIDE][4], unsigned char* shared) {
  constexpr int SIZE = HIGH * WIDE * WARP;
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  Fragment* place = (Fragment*)shared + lane;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < HIGH; i++)
#pragma unroll
    for (int j = 0; j < WIDE; j++)
      place[warp * SIZE + (i * WIDE + j) * WARP] = {own[i][j][0], own[i][j][1], own[i][j][2], own[i][j][3]};
  __syncthreads();
#pragma unroll
  for (int i = 0; i < DOWN; i++)
#pragma unroll
    for (int j = 0; j < ACROSS; j++) {
      int n = (warp / WARPS_ACROSS * DOWN + i) * WIDE + warp % WARPS_ACROSS * ACROSS + j;
#pragma unroll
      for (int part = 0; part < 4; part++) {
        Fragment f = place[part * SIZE + n * WARP];
#pragma unroll
        for (int e = 0; e < 4; e++) sums[i][j][e] += f.value[e];
      }
    }
}

// A step's product on Hopper, whose tensor cores read both operands from shared memory themselves: four warps multiply
// 64 rows by all columns, and each lane holds what it would hold of its warp's sixteen rows. The products are still
// running when this returns.
template <bool A_ALONG, bool B_ALONG, class T>
INLINE void multiply_by_warpgroups(T type, Sums& sums, const unsigned char* a, const unsigned char* b) {
  constexpr int A_PART = A_ALONG ? 32 : 16 * 128, B_PART = B_ALONG ? 32 : 16 * 128;  // of 16 numbers, or of 16 lines
  a += threadIdx.x / (4 * WARP) * BLOCK_OF_64;
  fence_products();
#pragma unroll
  for (int part = 0; part < PARTS; part++)
    warpgroup_product<A_ALONG, B_ALONG>(type, sums[0], a + part * A_PART, b + part * B_PART, BLOCK_OF_64);
  commit_products();
}

// sums = Σ over k from `begin` to `end` of a[first_row…] b[first_column…].
template <class A, class B>
INLINE void product(Sums& sums, const A& a, const B& b, int first_row, int first_column, int begin, int end,
                    unsigned char* shared) {
  using SliceA = Slice<A, TILE_ROWS>;
  using SliceB = Slice<B, TILE_COLUMNS>;
  SliceA slice_a(a, first_row);
  SliceB slice_b(b, first_column);
  constexpr bool BY_WARPGROUPS = A::K_ALONG && B::K_ALONG ? WARPGROUPS : ACROSS_BY_WARPGROUPS;
  clear(sums);
  float own[SPLIT ? TILE_ROWS / 16 : 1][SPLIT ? TILE_COLUMNS / 8 : 2][4] = {};
  int warp = threadIdx.x / WARP, steps = (end - begin + K_STEP - 1) / K_STEP;
  unsigned char *stage = shared, *next = shared;  // the stage that is multiplied, the one copied to
  auto after = [&](unsigned char* stage) {
    return stage == shared + (STAGES - 1) * STAGE_BYTES ? shared : stage + STAGE_BYTES;
  };
  auto copy = [&](int step) {
    if (step < steps) {
      slice_a.copy(next, begin + step * K_STEP);
      slice_b.copy(next + A_BYTES, begin + step * K_STEP);
    }
    commit_copies();  // also if empty: waiting counts groups
    next = after(next);
  };
#pragma unroll
  for (int step = 0; step < STAGES - 1; step++) copy(step);
  for (int step = 0; step < steps; step++) {
    wait_for_copies<STAGES - 2>();
    if constexpr (BY_WARPGROUPS) wait_for_products(sums[0]);
    __syncthreads();  // every thread's copies have arrived, and no warp still reads the stage that is copied to next
    copy(step + STAGES - 1);
    if constexpr (BY_WARPGROUPS) {
      multiply_by_warpgroups<A::K_ALONG, B::K_ALONG>(element{}, sums, stage, stage + A_BYTES);
    } else if constexpr (SPLIT) {
      multiply<SliceA, SliceB>(own, stage, stage + A_BYTES, 0, 0, warp * (PARTS / 4), PARTS / 4);
    } else {
      multiply<SliceA, SliceB>(sums, stage, stage + A_BYTES, warp / WARPS_ACROSS * WARP_ROWS,
                               warp % WARPS_ACROSS * WARP_COLUMNS, 0, PARTS);
    }
    stage = after(stage);
  }
  if constexpr (BY_WARPGROUPS) wait_for_products(sums[0]);
  if constexpr (SPLIT) add_parts(sums, own, shared);
}
