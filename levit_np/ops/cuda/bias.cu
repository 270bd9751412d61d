// The attention bias in lane order, the order in which the lanes of attention's warps hold the scores; and its
// gradient, brought back from it.
#include "machine.cuh"

// Which score the i-th number of [head][tile of 16 rows][tile of 8 columns][lane][4] is: lane 4g + t has columns 2t, 2t
// + 1 of row g, then of row g + 8.
struct Score {
  int head, row, column;
  INLINE Score(int i, int row_tiles, int column_tiles) {
    int e = i % 4, lane = i / 4 % WARP, tile = i / (4 * WARP);
    column = tile % column_tiles * 8 + lane % 4 * 2 + e % 2;
    row = tile / column_tiles % row_tiles * 16 + lane / 4 + e / 2 * 8;
    head = tile / (column_tiles * row_tiles);
  }
};

// bias (heads, rows, columns) or nullptr for zeros -> out, in lane order. Missing columns get -infinity, missing rows
// 0.
KERNEL arrange_bias(const float* bias, element* out, int heads, int rows, int columns, int row_stride, int column_stride,
                    int row_tiles, int column_tiles, float scale) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= heads * row_tiles * column_tiles * WARP * 4) return;
  Score s(i, row_tiles, column_tiles);
  float x = 0;
  if (s.column >= columns) x = -infinity();
  else if (bias && s.row < rows)
    x = bias[(long long)s.head * rows * columns + s.row * row_stride + s.column * column_stride] * scale;
  from_float(x, out[i]);
}
LAUNCHABLE(arrange_bias)

// Part blockIdx.y of dbias (heads, rows, columns): the sum of ds over the images y · count to (y + 1) · count; ds
// (images, size) in lane order. Each thread sums one chunk of all its images.
KERNEL sum_over_images(const element* ds, float* parts, int images, int count, int size, int heads, int rows,
                       int columns, int row_tiles, int column_tiles) {
  int first = (blockIdx.x * blockDim.x + threadIdx.x) * CHUNK;
  if (first >= size) return;
  int end = (blockIdx.y + 1) * count < images ? (blockIdx.y + 1) * count : images;
  float sums[CHUNK] = {};
#pragma unroll 4
  for (int image = blockIdx.y * count; image < end; image++) {
    Chunk x = *(const Chunk*)(ds + (long long)image * size + first);
#pragma unroll
    for (int e = 0; e < CHUNK; e++) sums[e] += to_float(x.value[e]);
  }
#pragma unroll
  for (int e = 0; e < CHUNK; e++) {
    Score s(first + e, row_tiles, column_tiles);
    if (s.row < rows && s.column < columns)
      parts[(((long long)blockIdx.y * heads + s.head) * rows + s.row) * columns + s.column] = sums[e];
  }
}
LAUNCHABLE(sum_over_images)

// dtable[head, offset] = Σ dbias[head, pair] over the pairs with this offset, always in the same order. A block has
// OFFSETS offsets of a head: for one alone it would have to read the whole index just as well.
constexpr int OFFSETS = 8;
KERNEL gather_bias_backward(const float* dbias, const long long* index, float* dtable, int pairs, int offsets) {
  SHARED_MEMORY;
  float* found = (float*)shared_memory;  // of each warp
  const float* d = dbias + (long long)blockIdx.y * pairs;
  int first = blockIdx.x * OFFSETS, warp = threadIdx.x / WARP;
  float sums[OFFSETS] = {};
#pragma unroll 4
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    int offset = (int)index[i] - first;
    float x = d[i];
#pragma unroll
    for (int j = 0; j < OFFSETS; j++) sums[j] += offset == j ? x : 0;
  }
#pragma unroll
  for (int j = 0; j < OFFSETS; j++) {
    sums[j] = warp_sum(sums[j]);
    if (threadIdx.x % WARP == 0) found[warp * OFFSETS + j] = sums[j];
  }
  __syncthreads();
  int own = threadIdx.x;
  if (own >= OFFSETS || first + own >= offsets) return;
  float sum = 0;
  for (int w = 0; w < (int)blockDim.x / WARP; w++) sum += found[w * OFFSETS + own];
  dtable[blockIdx.y * offsets + first + own] = sum;
}
LAUNCHABLE(gather_bias_backward)
