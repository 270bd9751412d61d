// What becomes of a product's sums: bias and activation, the residual, and the way to memory.
#pragma once
#include "product.cuh"
#include "result.cuh"

// sums = activation(sums + bias).  bias: of the columns that there are, or nullptr, as much at once as registers are left
// for.
INLINE void finish(Sums& sums, int first_column, int columns, const float* bias, int activation) {
  constexpr int AT_ONCE = RESIDENT ? ACROSS / 4 : ACROSS;
  int column = first_column + threadIdx.x / WARP % WARPS_ACROSS * WARP_COLUMNS + threadIdx.x % 4 * 2;
  auto every = [&](int first, int end, auto change) {
#pragma unroll
    for (int j = first; j < end; j++)
#pragma unroll
      for (int i = 0; i < DOWN; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) change(sums[i][j][e], (j - first) * 2 + e % 2);
  };
  if (bias)
#pragma unroll
    for (int first = 0; first < ACROSS; first += AT_ONCE) {
      struct alignas(8) Pair { float value[2]; } b[AT_ONCE];
      if (first_column + TILE_COLUMNS <= columns) {
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) b[j] = *(const Pair*)(bias + column + (first + j) * 8);
      } else {
#pragma unroll
        for (int j = 0; j < AT_ONCE * 2; j++) {
          int c = column + (first + j / 2) * 8 + j % 2;
          b[j / 2].value[j % 2] = c < columns ? __ldg(bias + c) : 0.0f;
        }
      }
      every(first, first + AT_ONCE, [&](float& x, int j) { x += b[j / 2].value[j % 2]; });
    }
  if (activation == HARDSWISH) every(0, ACROSS, [](float& x, int) { x = activated(x, HARDSWISH); });
  else if (activation == SILU) every(0, ACROSS, [](float& x, int) { x = activated(x, SILU); });
}

// y = sums, rounded; or residual + y.  `target(row)` is the number with which a row of the result begins.  Of the residual
// as much is asked for first as registers are left for: what is read after a write waits for it, as they may be one.
template <class Target>
INLINE void store(const Sums& sums, int first_row, int first_column, int rows, int columns, const Target& target,
                  const element* residual) {
  constexpr int GROUPS = (ACROSS + GATHERED - 1) / GATHERED, HALVES = RESIDENT ? 1 : 2;
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  int row = first_row + warp / WARPS_ACROSS * WARP_ROWS + lane / 4, column = warp % WARPS_ACROSS * WARP_COLUMNS;
#pragma unroll
  for (int i = 0; i < DOWN * 2; i += HALVES) {  // of a fragment's rows, those from g and from g + 8 on
    unsigned places[GROUPS][HALVES];
    Chunk before[GROUPS][HALVES];
#pragma unroll
    for (int half = 0; half < HALVES; half++) {
      int r = row + (i + half) * 8;
      unsigned begin = target(r) / CHUNK;
#pragma unroll
      for (int n = 0; n < GROUPS; n++) {
        int across = n * GATHERED * 8 + gathered_column(), c = first_column + column + across;
        unsigned& place = places[n][half];
        place = r < rows && across < WARP_COLUMNS && c < columns ? begin + c / CHUNK : NONE;
        if (residual && place != NONE) before[n][half] = ((const Chunk*)residual)[place];
      }
    }
#pragma unroll
    for (int n = 0; n < GROUPS; n++)
#pragma unroll
      for (int half = 0; half < HALVES; half++) {
        Chunk y = chunk_of_fragments(sums[i / 2], n, (i + half) % 2);
        if (places[n][half] == NONE) continue;
        if (residual) y = sum_of_chunks(before[n][half], y, element{});
        ((Chunk*)target.memory)[places[n][half]] = y;
      }
  }
}

struct Rows {
  element* memory;
  long long stride;
  INLINE long long operator()(int row) const { return row * stride; }
};

// sums as floats, with no word about alignment: `stride` numbers a row.
INLINE void store_floats(const Sums& sums, int first_row, int first_column, int rows, int columns, float* memory,
                         long long stride) {
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
        if (r < rows && c < columns) memory[r * stride + c] = sums[i][j][e];
      }
}
