// The product of two matrices, tile by tile: what linear maps and convolutions share, forward and backward.
//
// A block of threads computes TILE_ROWS × TILE_COLUMNS numbers of  c = Σ_k a[row, k] b[column, k].  It takes k in steps
// of 128 bytes.  Each step's slices of a and b are copied to shared memory STAGES - 1 steps before they are used, so that
// the tensor cores do not wait for memory.  From there each warp loads fragments (load_matrices) of 16 rows or columns by
// 32 bytes of k, and multiplies (matrix.cuh).
//
// An operand tells where its numbers are: chunk(line, place) is the address of 16 bytes, or nullptr for zeros.
//   K_ALONG true:  a line is a row of a (or a column of b), and k runs along it: x and w of y = x wᵀ.
//   K_ALONG false: a line is one k, and the rows (columns) run along it: both operands of dw = dyᵀ x.
// Where they come from - a matrix, the window of a convolution - is all that tells the products apart.
#pragma once
#include "matrix.cuh"

#ifndef TILE_ROWS
#define TILE_ROWS 64
#define TILE_COLUMNS 64
#define WARPS_DOWN 2
#define WARPS_ACROSS 2
#define STAGES 3
#endif

constexpr int K_BYTES = 128, K_STEP = K_BYTES / sizeof(element);
constexpr int THREADS = WARPS_DOWN * WARPS_ACROSS * WARP;
constexpr int BLOCKS = sizeof(element) == 2 ? 2 : 1;  // on a processor at a time: one computes while the other stores
constexpr int WARP_ROWS = TILE_ROWS / WARPS_DOWN, WARP_COLUMNS = TILE_COLUMNS / WARPS_ACROSS;  // of a warp's part of the tile
constexpr int DOWN = WARP_ROWS / 16, ACROSS = WARP_COLUMNS / 8;  // fragments of it
constexpr int A_BYTES = TILE_ROWS * K_BYTES, B_BYTES = TILE_COLUMNS * K_BYTES, STAGE_BYTES = A_BYTES + B_BYTES;
static_assert(WARP_ROWS % 16 == 0 && WARP_COLUMNS % 16 == 0, "fragments are loaded 16 by 16");

// What a lane holds of its warp's part: see matrix.cuh.
using Sums = float[DOWN][ACROSS][4];

// One operand's slice of a step in shared memory.
template <bool K_ALONG, int TILE> struct Slice {
  static constexpr int LINES = K_ALONG ? TILE : K_STEP;
  static constexpr int CHUNKS = TILE * (K_BYTES / CHUNK_BYTES) / LINES;  // a line
  static_assert(THREADS % CHUNKS == 0 && LINES * CHUNKS % THREADS == 0, "each thread copies the same place of some lines");

  template <class Operand> static INLINE void copy(unsigned char* slice, const Operand& operand, int first, int k) {
    int chunk = threadIdx.x % CHUNKS;
#pragma unroll
    for (int i = 0; i < LINES * CHUNKS / THREADS; i++) {
      int line = threadIdx.x / CHUNKS + i * (THREADS / CHUNKS);
      const element* from = K_ALONG ? operand.chunk(first + line, k + chunk * CHUNK)
                                    : operand.chunk(k + line, first + chunk * CHUNK);
      copy_chunk(slice + offset<CHUNKS>(line, chunk), from ? from : operand.memory, from != nullptr);
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

// sums = Σ over k from `begin` to `end` of a[first_row…] b[first_column…].
template <class A, class B>
INLINE void product(Sums& sums, const A& a, const B& b, int first_row, int first_column, int begin, int end,
                    unsigned char* shared) {
  using SliceA = Slice<A::K_ALONG, TILE_ROWS>;
  using SliceB = Slice<B::K_ALONG, TILE_COLUMNS>;
  int warp = threadIdx.x / WARP, row = warp / WARPS_ACROSS * WARP_ROWS, column = warp % WARPS_ACROSS * WARP_COLUMNS;
#pragma unroll
  for (int i = 0; i < DOWN; i++)
#pragma unroll
    for (int j = 0; j < ACROSS; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[i][j][e] = 0;

  int steps = (end - begin + K_STEP - 1) / K_STEP;
  auto copy = [&](int step) {
    if (step < steps) {
      unsigned char* stage = shared + step % STAGES * STAGE_BYTES;
      SliceA::copy(stage, a, first_row, begin + step * K_STEP);
      SliceB::copy(stage + A_BYTES, b, first_column, begin + step * K_STEP);
    }
    end_copies();  // an empty group too: the number of groups is what is waited for
  };
#pragma unroll
  for (int step = 0; step < STAGES - 1; step++) copy(step);
  for (int step = 0; step < steps; step++) {
    wait_for_copies<STAGES - 2>();
    __syncthreads();  // every thread's copies have arrived, and every warp is done with the stage that is copied to next
    copy(step + STAGES - 1);
    const unsigned char *slice_a = shared + step % STAGES * STAGE_BYTES, *slice_b = slice_a + A_BYTES;
#pragma unroll
    for (int part = 0; part < 4; part++) {
      unsigned left[DOWN][4], right[ACROSS / 2][4];
#pragma unroll
      for (int i = 0; i < DOWN; i++) SliceA::fragment_a(left[i], slice_a, row + i * 16, part);
#pragma unroll
      for (int j = 0; j < ACROSS / 2; j++) SliceB::fragments_b(right[j], slice_b, column + j * 16, part);
#pragma unroll
      for (int i = 0; i < DOWN; i++)
#pragma unroll
        for (int j = 0; j < ACROSS; j++) 
          tensor_product(element{}, sums[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
    }
  }
  __syncthreads();  // the shared memory is free for what follows
}

// A matrix in memory, `row_length` numbers (whole chunks) from a line to the next.
template <bool ALONG> struct Matrix {
  static constexpr bool K_ALONG = ALONG;
  const element* memory;
  int lines, length;
  long long stride;
  INLINE const element* chunk(int line, int place) const {
    return line < lines && place < length ? memory + line * stride + place : nullptr;
  }
};

// y = activation(sums + bias), rounded; or residual + y.  `target(row)` is where a row of the result begins.
//
// A lane holds two neighbours of a row, and memory is best written 16 bytes at a time: each warp's 16 rows pass through
// shared memory.
template <class Target>
INLINE void store(const Sums& sums, unsigned char* shared, int first_row, int first_column, int rows, int columns,
                  const Target& target, const float* bias, const element* residual, int activation) {
  constexpr int PITCH = WARP_COLUMNS * sizeof(element) + CHUNK_BYTES;  // a chunk more: rows begin in other banks
  constexpr int CHUNKS = WARP_COLUMNS / CHUNK;
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
  int row = first_row + warp / WARPS_ACROSS * WARP_ROWS, column = first_column + warp % WARPS_ACROSS * WARP_COLUMNS;
  unsigned char* buffer = shared + warp * 16 * PITCH;
#pragma unroll
  for (int i = 0; i < DOWN; i++) {
#pragma unroll
    for (int j = 0; j < ACROSS; j++) {
      int c = column + j * 8 + 2 * t;
      float b0 = bias && c < columns ? __ldg(bias + c) : 0.0f, b1 = bias && c + 1 < columns ? __ldg(bias + c + 1) : 0.0f;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float y0 = activated(sums[i][j][2 * half] + b0, activation), y1 = activated(sums[i][j][2 * half + 1] + b1, activation);
        element* place = (element*)(buffer + (g + half * 8) * PITCH) + j * 8 + 2 * t;
        from_float(y0, place[0]);
        from_float(y1, place[1]);
      }
    }
    __syncwarp();
#pragma unroll
    for (int n = lane; n < 16 * CHUNKS; n += WARP) {
      int r = row + i * 16 + n / CHUNKS, c = column + n % CHUNKS * CHUNK;
      if (r < rows && c < columns) {
        Chunk y = *(const Chunk*)(buffer + n / CHUNKS * PITCH + n % CHUNKS * CHUNK_BYTES);
        element* place = target(r) + c;
        if (residual) {
          Chunk x = *(const Chunk*)(residual + (place - target.memory));
#pragma unroll
          for (int e = 0; e < CHUNK; e++) from_float(to_float(x.value[e]) + to_float(y.value[e]), y.value[e]);
        }
        *(Chunk*)place = y;
      }
    }
    __syncwarp();
  }
}

struct Rows {
  element* memory;
  long long stride;
  INLINE element* operator()(int row) const { return memory + row * stride; }
};

// sums + bias as floats, with no word about alignment: `stride` numbers a row.
INLINE void store_floats(const Sums& sums, int first_row, int first_column, int rows, int columns, float* memory,
                         long long stride, const float* bias) {
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  int row = first_row + warp / WARPS_ACROSS * WARP_ROWS + lane / 4;
  int column = first_column + warp % WARPS_ACROSS * WARP_COLUMNS + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < DOWN; i++)
#pragma unroll
    for (int j = 0; j < ACROSS; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int r = row + i * 16 + e / 2 * 8, c = column + j * 8 + e % 2;
        if (r < rows && c < columns) memory[r * stride + c] = sums[i][j][e] + (bias ? __ldg(bias + c) : 0.0f);
      }
}
