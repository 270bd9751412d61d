// The epilogue of a product: bias, activation and residual, and the stores.
#pragma once
#include "product.cuh"
#include "result.cuh"

// sums = activation(sums + bias).  bias: one number for each existing column, or nullptr.
INLINE void finish(Sums& sums, int first_column, int columns, const float* bias, int activation) {
  int column = first_column + threadIdx.x / WARP % WARPS_ACROSS * WARP_COLUMNS + threadIdx.x % 4 * 2;
  auto every = [&](auto change) {
#pragma unroll
    for (int j = 0; j < ACROSS; j++)
#pragma unroll
      for (int i = 0; i < DOWN; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) change(sums[i][j][e], j * 2 + e % 2);
  };
  if (bias) {
    struct alignas(8) Pair { float value[2]; } b[ACROSS];
    if (first_column + TILE_COLUMNS <= columns) {
#pragma unroll
      for (int j = 0; j < ACROSS; j++) b[j] = *(const Pair*)(bias + column + j * 8);
    } else {
#pragma unroll
      for (int j = 0; j < ACROSS * 2; j++) {
        int c = column + j / 2 * 8 + j % 2;
        b[j / 2].value[j % 2] = c < columns ? __ldg(bias + c) : 0.0f;
      }
    }
    every([&](float& x, int j) { x += b[j / 2].value[j % 2]; });
  }
  if (activation == HARDSWISH) every([](float& x, int) { x = activated(x, HARDSWISH); });
  else if (activation == SILU) every([](float& x, int) { x = activated(x, SILU); });
}

// y = sums, rounded; or residual + y. target(row): the index of the first number of a row of the result. The residual
// may be the result's own memory: all of it is loaded before anything is stored, as a load after a store would wait for
// it.
template <class Target>
INLINE void store(const Sums& sums, int first_row, int first_column, int rows, int columns, const Target& target,
                  const element* residual) {
  constexpr int GROUPS = (ACROSS + GATHERED - 1) / GATHERED;
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  int row = first_row + warp / WARPS_ACROSS * WARP_ROWS + lane / 4, column = warp % WARPS_ACROSS * WARP_COLUMNS;
#pragma unroll
  for (int i = 0; i < DOWN; i++) {
    unsigned places[GROUPS][2];
    Chunk before[GROUPS][2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int r = row + i * 16 + half * 8;
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
      for (int half = 0; half < 2; half++) {
        Chunk y = chunk_of_fragments(sums[i], n, half);
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

// sums as floats, with any alignment: `stride` numbers a row.
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
