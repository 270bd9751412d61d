// Linear maps: y = x wᵀ + b, and of its backward dx = dy w and dw = dyᵀ x.  Rows of x and of w are whole chunks.
#include "epilogue.cuh"

// y (rows, outputs) = activation(x wᵀ + bias) [+ residual].  x (rows, channels), w (outputs, channels). y's rows, whole
// chunks, are y_stride apart; residual is laid out as y, and may be y.
KERNEL __launch_bounds__(THREADS, BLOCKS)
linear(const element* x, const element* w, const float* bias, const element* residual, element* y, int rows, int outputs,
       int channels, int y_stride, int activation) {
  SHARED_MEMORY;
  Sums sums;
  int row = blockIdx.x * TILE_ROWS, column = blockIdx.y * TILE_COLUMNS;
  product(sums, Matrix<true>{x, rows, channels, channels}, Matrix<true>{w, outputs, channels, channels}, row, column, 0,
          channels, shared_memory);
  finish(sums, column, outputs, bias, activation);
  store(sums, row, column, rows, outputs, Rows{y, y_stride}, residual);
}
LAUNCHABLE(linear)

// dx (rows, channels) = dy w. The terms, w's outputs, run along dy's rows and across w's. dy's rows are dy_stride
// apart.
KERNEL __launch_bounds__(THREADS, BLOCKS)
linear_data(const element* dy, const element* w, element* dx, int rows, int outputs, int channels, int dy_stride) {
  SHARED_MEMORY;
  Sums sums;
  int row = blockIdx.x * TILE_ROWS, column = blockIdx.y * TILE_COLUMNS;
  product(sums, Matrix<true>{dy, rows, outputs, dy_stride}, Matrix<false>{w, outputs, channels, channels}, row, column, 0,
          outputs, shared_memory);
  store(sums, row, column, rows, channels, Rows{dx, channels}, nullptr);
}
LAUNCHABLE(linear_data)

// y = x wᵀ + bias unrounded, for logits: y (rows, outputs) floats, any number of outputs.
KERNEL __launch_bounds__(THREADS, BLOCKS)
linear_floats(const element* x, const element* w, const float* bias, float* y, int rows, int outputs, int channels) {
  SHARED_MEMORY;
  Sums sums;
  int row = blockIdx.x * TILE_ROWS, column = blockIdx.y * TILE_COLUMNS;
  product(sums, Matrix<true>{x, rows, channels, channels}, Matrix<true>{w, outputs, channels, channels}, row, column, 0,
          channels, shared_memory);
  finish(sums, column, outputs, bias, IDENTITY);
  store_floats(sums, row, column, rows, outputs, y, outputs);
}
LAUNCHABLE(linear_floats)

// Part blockIdx.z of dw (outputs, channels) = dyᵀ x: the terms (rows of dy and x) z · length to (z + 1) · length. There
// are many terms and few results, so many blocks share a result (split-k); `sum_parts` adds their parts, always in the
// same order.
KERNEL __launch_bounds__(THREADS, 1)
linear_weight(const element* dy, const element* x, float* parts, int rows, int outputs, int channels, int length) {
  SHARED_MEMORY;
  Sums sums;
  int row = blockIdx.x * TILE_ROWS, column = blockIdx.y * TILE_COLUMNS;
  int begin = blockIdx.z * length, end = begin + length < rows ? begin + length : rows;
  product(sums, Matrix<false>{dy, end, outputs, outputs}, Matrix<false>{x, end, channels, channels}, row, column, begin,
          end, shared_memory);
  store_floats(sums, row, column, outputs, channels, parts + (long long)blockIdx.z * outputs * channels, channels);
}
LAUNCHABLE(linear_weight)
