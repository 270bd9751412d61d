// Sums. The parts that many blocks have each found are added in a fixed order, so that the result is the same every
// time.
#include "machine.cuh"

// y[i] = Σ_p parts[p, i]. A column of threads shares the parts of one number, as there may be few numbers.
KERNEL sum_parts(const float* parts, float* y, int count, int size) {
  SHARED_MEMORY;
  float* shared = (float*)shared_memory;
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float sum = 0;
  if (i < size)
#pragma unroll 8
    for (int p = threadIdx.y; p < count; p += blockDim.y) sum += parts[(long long)p * size + i];
  shared[threadIdx.y * blockDim.x + threadIdx.x] = sum;
  __syncthreads();
  if (i >= size || threadIdx.y) return;
  for (int row = 1; row < (int)blockDim.y; row++) sum += shared[row * blockDim.x + threadIdx.x];
  y[i] = sum;
}
LAUNCHABLE(sum_parts)

// parts[p, column] = Σ over the rows p · length to (p + 1) · length of x (rows, columns), a thread for each column.
KERNEL sum_columns(const element* x, float* parts, int rows, int columns, int length) {
  int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  int begin = blockIdx.y * length, end = begin + length < rows ? begin + length : rows;
  float sum = 0;
  for (int row = begin; row < end; row++) sum += to_float(x[(long long)row * columns + column]);
  parts[(long long)blockIdx.y * columns + column] = sum;
}
LAUNCHABLE(sum_columns)

// y (images, channels) = the mean of the first `tokens` of each image's `all` tokens in x, a thread for each image and
// channel.
KERNEL average_tokens(const element* x, element* y, int images, int tokens, int all, int channels) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= images * channels) return;
  const element* first = x + (long long)(i / channels) * all * channels + i % channels;
  float sum = 0;
  for (int n = 0; n < tokens; n++) sum += to_float(first[(long long)n * channels]);
  from_float(sum / tokens, y[i]);
}
LAUNCHABLE(average_tokens)
