// Convolution as a product without an im2col array: what would be its rows is read from the image itself.
//
// Images are channels-last, (B, H, W, C), weights (O, K, K, C), and C and O are whole chunks, so that 16 bytes always
// belong to one pixel.  A pixel of the output is a row, a channel of it a column, and k runs over the kernel's cells and
// their channels.
#include "product.cuh"

struct Shape {
  int images, height, width, channels, out_height, out_width, outputs, kernel, stride, padding;
};

// Row `line` is the window of an output pixel; along it, `place` = (i · kernel + j) · channels + c.
template <bool ALONG> struct Window {
  static constexpr bool K_ALONG = ALONG;
  const element* memory;
  Shape s;
  int lines;
  INLINE const element* chunk(int line, int place) const {
    if (line >= lines || place >= s.kernel * s.kernel * s.channels) return nullptr;
    int cell = place / s.channels, c = place % s.channels;
    int image = line / (s.out_height * s.out_width), pixel = line % (s.out_height * s.out_width);
    int y = pixel / s.out_width * s.stride + cell / s.kernel - s.padding;
    int x = pixel % s.out_width * s.stride + cell % s.kernel - s.padding;
    if (y < 0 || y >= s.height || x < 0 || x >= s.width) return nullptr;  // the border of zeros
    return memory + (((long long)image * s.height + y) * s.width + x) * s.channels + c;
  }
};

// y (B, H', W', O) = activation(w ∗ x + bias).
KERNEL __launch_bounds__(THREADS, BLOCKS)
convolution(const element* x, const element* w, const float* bias, element* y, int images, int height, int width,
            int channels, int out_height, int out_width, int outputs, int kernel, int stride, int padding, int activation) {
  SHARED_MEMORY;
  Sums sums;
  Shape s{images, height, width, channels, out_height, out_width, outputs, kernel, stride, padding};
  int row = blockIdx.x * TILE_ROWS, column = blockIdx.y * TILE_COLUMNS;
  int rows = images * out_height * out_width, terms = kernel * kernel * channels;
  product(sums, Window<true>{x, s, rows}, Matrix<true>{w, outputs, terms, terms}, row, column, 0, terms, shared_memory);
  store(sums, shared_memory, row, column, rows, outputs, Rows{y, outputs}, bias, nullptr, activation);
}
LAUNCHABLE(convolution)

// Part blockIdx.z of dw (O, K, K, C): the output's pixels z · length to (z + 1) · length.
KERNEL __launch_bounds__(THREADS)
convolution_weight(const element* dy, const element* x, float* parts, int images, int height, int width, int channels,
                   int out_height, int out_width, int outputs, int kernel, int stride, int padding, int length) {
  SHARED_MEMORY;
  Sums sums;
  Shape s{images, height, width, channels, out_height, out_width, outputs, kernel, stride, padding};
  int row = blockIdx.x * TILE_ROWS, column = blockIdx.y * TILE_COLUMNS;
  int pixels = images * out_height * out_width, columns = kernel * kernel * channels;
  int begin = blockIdx.z * length, end = begin + length < pixels ? begin + length : pixels;
  product(sums, Matrix<false>{dy, end, outputs, outputs}, Window<false>{x, s, end}, row, column, begin, end, shared_memory);
  store_floats(sums, row, column, outputs, columns, parts + (long long)blockIdx.z * outputs * columns, columns, nullptr);
}
LAUNCHABLE(convolution_weight)

// For dx: an input pixel (y, x) was under cell (i, j) of the output pixel ((y + p - i) / s, (x + p - j) / s) where both
// divide evenly.  So pixels fall into s · s classes by the remainders of y + p and x + p; those of a class have the same
// cells, every s-th in each direction, and a class is one dense product.
struct Axis {
  int first, count;  // the pixels first, first + stride, … of the class
  int cell, cells;   // its cells cell, cell + stride, …
  int base;          // the output pixel of the first pixel under the first cell
  INLINE Axis(int remainder, int size, const Shape& s) {
    first = (remainder - s.padding % s.stride + s.stride) % s.stride;
    count = size > first ? (size - first + s.stride - 1) / s.stride : 0;
    cell = remainder;
    cells = s.kernel > remainder ? (s.kernel - remainder + s.stride - 1) / s.stride : 0;
    base = (first + s.padding - remainder) / s.stride;
  }
};

// Row `line` is an input pixel of the class; along it, `place` = (i · cells + j) · outputs + o.
struct Under {
  static constexpr bool K_ALONG = true;
  const element* memory;
  Shape s;
  Axis down, across;
  INLINE const element* chunk(int line, int place) const {
    int pixels = down.count * across.count;
    if (line >= s.images * pixels || place >= down.cells * across.cells * s.outputs) return nullptr;
    int image = line / pixels, pixel = line % pixels, cell = place / s.outputs;
    int y = down.base + pixel / across.count - cell / across.cells;
    int x = across.base + pixel % across.count - cell % across.cells;
    if (y < 0 || y >= s.out_height || x < 0 || x >= s.out_width) return nullptr;
    return memory + (((long long)image * s.out_height + y) * s.out_width + x) * s.outputs + place % s.outputs;
  }
};

// The weights of the same cells: line k of them, all channels.
struct Cells {
  static constexpr bool K_ALONG = false;
  const element* memory;
  Shape s;
  Axis down, across;
  INLINE const element* chunk(int line, int place) const {
    if (line >= down.cells * across.cells * s.outputs || place >= s.channels) return nullptr;
    int cell = line / s.outputs, i = down.cell + cell / across.cells * s.stride, j = across.cell + cell % across.cells * s.stride;
    return memory + ((long long)(line % s.outputs * s.kernel + i) * s.kernel + j) * s.channels + place;
  }
};

struct Pixels {
  element* memory;
  Shape s;
  Axis down, across;
  INLINE element* operator()(int row) const {
    int pixels = down.count * across.count, image = row / pixels, pixel = row % pixels;
    int y = down.first + pixel / across.count * s.stride, x = across.first + pixel % across.count * s.stride;
    return memory + (((long long)image * s.height + y) * s.width + x) * s.channels;
  }
};

// dx (B, H, W, C); blockIdx.z is the class.
KERNEL __launch_bounds__(THREADS, BLOCKS)
convolution_data(const element* dy, const element* w, element* dx, int images, int height, int width, int channels,
                 int out_height, int out_width, int outputs, int kernel, int stride, int padding) {
  SHARED_MEMORY;
  Sums sums;
  Shape s{images, height, width, channels, out_height, out_width, outputs, kernel, stride, padding};
  Axis down(blockIdx.z / stride, height, s), across(blockIdx.z % stride, width, s);
  int row = blockIdx.x * TILE_ROWS, column = blockIdx.y * TILE_COLUMNS, rows = images * down.count * across.count;
  if (row >= rows) return;  // another class has more pixels
  product(sums, Under{dy, s, down, across}, Cells{w, s, down, across}, row, column, 0, down.cells * across.cells * outputs,
          shared_memory);
  store(sums, shared_memory, row, column, rows, channels, Pixels{dx, s, down, across}, nullptr, nullptr, IDENTITY);
}
LAUNCHABLE(convolution_data)
