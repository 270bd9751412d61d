// The attention bias, brought into the order in which the lanes of attention's warps hold the scores; and its gradient.
#include "machine.cuh"

// out[head][tile of 16 rows][tile of 8 columns][lane][4]: lane 4g + t has columns 2t, 2t + 1 of row g, then of row g +
// 8. bias (heads, rows, columns) or nullptr for zeros.  What is no column is -infinity, what is no row is 0.
KERNEL arrange_bias(const float* bias, element* out, int heads, int rows, int columns, int row_stride, int column_stride,
                    int row_tiles, int column_tiles, float scale) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= heads * row_tiles * column_tiles * WARP * 4) return;
  int e = i % 4, lane = i / 4 % WARP, tile = i / (4 * WARP);
  int column = tile % column_tiles * 8 + lane % 4 * 2 + e % 2;
  int row = tile / column_tiles % row_tiles * 16 + lane / 4 + e / 2 * 8;
  int head = tile / (column_tiles * row_tiles);
  float x = 0;
  if (column >= columns) x = -infinity();
  else if (bias && row < rows) x = bias[(long long)head * rows * columns + row * row_stride + column * column_stride] * scale;
  from_float(x, out[i]);
}
LAUNCHABLE(arrange_bias)

// dtable[head, offset] = Σ over the pairs with this offset of dbias[head, pair]: a block an offset and head, so that
// the order of the sum is always the same.
KERNEL gather_bias_backward(const float* dbias, const long long* index, float* dtable, int pairs, int offsets) {
  SHARED_MEMORY;
  float* found = (float*)shared_memory;
  const float* d = dbias + (long long)blockIdx.y * pairs;
  float sum = 0;
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) if (index[i] == blockIdx.x) sum += d[i];
  found[threadIdx.x] = sum;
  __syncthreads();
  for (int half = blockDim.x / 2; half; half /= 2) {
    if ((int)threadIdx.x < half) found[threadIdx.x] += found[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) dtable[blockIdx.y * offsets + blockIdx.x] = found[0];
}
LAUNCHABLE(gather_bias_backward)
