// Convolution as a matrix product with implicit im2col: what would be its rows is read from the image itself.
//
// Images are channels-last, (B, H, W, C), weights (O, K, K, C), and C and O are whole chunks, so that 16 bytes always
// belong to one pixel. A row of the product is an output pixel, a column an output channel, and k runs over the
// kernel's cells and their channels.
#include "epilogue.cuh"

struct Shape {
  int images, height, width, channels, out_height, out_width, outputs, kernel, stride, padding;
};

// A cell of a window: its place relative to the window's first pixel, in pixels and in chunks.
struct Cell {
  int y, x;
  unsigned chunks;
};

// A window: its first pixel, which may lie on the border of zeros around the image. A window and a cell give a chunk's
// address without division: a thread keeps a few windows, and has one cell a step.
struct Corner {
  int both;  // y and x in 16 bits each, as a thread keeps several
  unsigned chunks;  // modulo 2^32, as a cell's: only their sum counts
  INLINE Corner() {}
  INLINE Corner(int y, int x, unsigned chunks) : both((unsigned)y << 16 | (x & 0xffff)), chunks(chunks) {}
  INLINE int y() const { return both >> 16; }
  INLINE int x() const { return (short)both; }
};
// ⌊n / d⌋ for numbers far below 2^20, where a float is exact enough, and several times as fast as an integer division.
INLINE int quotient(int n, int d) { return (int)((n + 0.5f) * __fdividef(1.0f, (float)d)); }
constexpr int NOWHERE = -(1 << 15);  // the y of a missing window or cell: outside every image

// Numbers the pixels of all images, and finds the n-th. Only a block's first pixel takes integer divisions; from there
// on the numbers are small.
struct Pixel {
  int image, y, x;
};
struct Pixels {
  int height, width, first;
  Pixel begin;
  INLINE Pixels(int height, int width, int first) : height(height), width(width), first(first) {
    unsigned pixel = (unsigned)first % (height * width);
    begin = {(int)((unsigned)first / (height * width)), (int)(pixel / width), (int)(pixel % width)};
  }
  INLINE Pixel operator()(int n) const {
    int across = begin.x + n - first, down = begin.y + quotient(across, width), further = quotient(down, height);
    return {begin.image + further, down - further * height, across - (down - begin.y) * width};
  }
};

// The left operand: row `line` is the window of an output pixel, along which `place` = (i · kernel + j) · channels + c.
template <bool ALONG> struct Window {
  static constexpr bool K_ALONG = ALONG;
  using Line = Corner;
  using Place = Cell;
  const element* memory;
  Shape s;
  int lines;
  Pixels pixels;  // of the output
  INLINE Window(const element* memory, const Shape& s, int lines, int first)
      : memory(memory), s(s), lines(lines), pixels(s.out_height, s.out_width, first) {}
  INLINE Line line(int n) const {
    Pixel pixel = pixels(n);
    int i = pixel.y * s.stride - s.padding, j = pixel.x * s.stride - s.padding;
    return {n < lines ? i : NOWHERE, j, ((unsigned)pixel.image * s.height + i) * s.width * (s.channels / CHUNK)
                                            + j * (s.channels / CHUNK)};
  }
  INLINE Place place(unsigned n) const {
    int cell = quotient(n, s.channels), y = quotient(cell, s.kernel), x = cell - y * s.kernel;
    return {y < s.kernel ? y : NOWHERE, x,
            (unsigned)(y * s.width + x) * (s.channels / CHUNK) + (n - cell * s.channels) / CHUNK};
  }
  INLINE Where chunk(const Line& line, const Place& place) const {
    unsigned y = line.y() + place.y, x = line.x() + place.x;  // negative numbers become large ones
    return {line.chunks + place.chunks, y < (unsigned)s.height && x < (unsigned)s.width};
  }
};

// y (B, H', W', O) = activation(w ∗ x + bias).
KERNEL __launch_bounds__(THREADS, BLOCKS)
convolution(const element* x, const element* w, const float* bias, element* y, int images, int height, int width,
            int channels, int out_height, int out_width, int outputs, int kernel, int stride, int padding,
            int activation) {
  SHARED_MEMORY;
  Sums sums;
  Shape s{images, height, width, channels, out_height, out_width, outputs, kernel, stride, padding};
  int row = blockIdx.x * TILE_ROWS, column = blockIdx.y * TILE_COLUMNS;
  int rows = images * out_height * out_width, terms = kernel * kernel * channels;
  product(sums, Window<true>{x, s, rows, row}, Matrix<true>{w, outputs, terms, terms}, row, column, 0, terms,
          shared_memory);
  finish(sums, column, outputs, bias, activation);
  store(sums, row, column, rows, outputs, Rows{y, outputs}, nullptr);
}
LAUNCHABLE(convolution)

// Part blockIdx.z of dw (O, K, K, C): the sum over the output pixels z · length to (z + 1) · length.
KERNEL __launch_bounds__(THREADS, 1)
convolution_weight(const element* dy, const element* x, float* parts, int images, int height, int width, int channels,
                   int out_height, int out_width, int outputs, int kernel, int stride, int padding, int length) {
  SHARED_MEMORY;
  Sums sums;
  Shape s{images, height, width, channels, out_height, out_width, outputs, kernel, stride, padding};
  int row = blockIdx.x * TILE_ROWS, column = blockIdx.y * TILE_COLUMNS;
  int pixels = images * out_height * out_width, columns = kernel * kernel * channels;
  int begin = blockIdx.z * length, end = begin + length < pixels ? begin + length : pixels;
  product(sums, Matrix<false>{dy, end, outputs, outputs}, Window<false>{x, s, end, begin}, row, column, begin, end,
          shared_memory);
  store_floats(sums, row, column, outputs, columns, parts + (long long)blockIdx.z * outputs * columns, columns);
}
LAUNCHABLE(convolution_weight)

// For dx: cell (i, j) of the output pixel ((y + p - i) / s, (x + p - j) / s) covers the input pixel (y, x), where both
// divide evenly. So pixels fall into s · s classes by the remainders of y + p and x + p; those of a class have the same
// cells, every s-th in each direction, and a class is one dense product.
struct Axis {
  int first, count;  // the pixels first, first + stride, … of the class
  int cell, cells;   // its cells cell, cell + stride, …
  int base;          // the output pixel of the first pixel under the first cell
  INLINE Axis(int remainder, int size, const Shape& s) {
    first = remainder - s.padding + quotient(s.padding + s.stride - 1 - remainder, s.stride) * s.stride;
    count = size > first ? quotient(size - first + s.stride - 1, s.stride) : 0;
    cell = remainder;
    cells = s.kernel > remainder ? quotient(s.kernel - remainder + s.stride - 1, s.stride) : 0;
    base = quotient(first + s.padding - remainder, s.stride);
  }
};

// The left operand for dx: row `line` is an input pixel of the class, along which `place` = (i · cells + j) · outputs +
// o; one cell further is one output pixel back.
struct Under {
  static constexpr bool K_ALONG = true;
  using Line = Corner;
  using Place = Cell;
  const element* memory;
  Shape s;
  Axis down, across;
  Pixels pixels;  // of the class
  INLINE Line line(int n) const {
    Pixel pixel = pixels(n);
    int y = down.base + pixel.y, x = across.base + pixel.x;
    return {pixel.image < s.images ? y : NOWHERE, x,
            (((unsigned)pixel.image * s.out_height + y) * s.out_width + x) * (s.outputs / CHUNK)};
  }
  INLINE Place place(int n) const {
    int cell = quotient(n, s.outputs), i = quotient(cell, across.cells), j = cell - i * across.cells;
    return {i < down.cells ? -i : NOWHERE, -j,
            (n - cell * s.outputs) / CHUNK - (unsigned)(i * s.out_width + j) * (s.outputs / CHUNK)};
  }
  INLINE Where chunk(const Line& line, const Place& place) const {
    unsigned y = line.y() + place.y, x = line.x() + place.x;
    return {line.chunks + place.chunks, y < (unsigned)s.out_height && x < (unsigned)s.out_width};
  }
};

// The right operand: the weights of the same cells; line k has all channels.
struct Cells {
  static constexpr bool K_ALONG = false;
  using Line = unsigned;  // as a matrix's
  using Place = unsigned;
  const element* memory;
  Shape s;
  Axis down, across;
  INLINE Line line(int n) const {
    int cell = quotient(n, s.outputs), y = quotient(cell, across.cells), x = cell - y * across.cells;
    int i = down.cell + y * s.stride, j = across.cell + x * s.stride;
    return y < down.cells ? (((n - cell * s.outputs) * s.kernel + i) * s.kernel + j) * (s.channels / CHUNK) : NONE;
  }
  INLINE Place place(int n) const { return n < s.channels ? n / CHUNK : NONE; }
  INLINE Where chunk(Line line, Place place) const { return {line + place, line != NONE && place != NONE}; }
};

struct Class {
  element* memory;
  Shape s;
  Axis down, across;
  Pixels pixels;
  INLINE long long operator()(int row) const {
    Pixel pixel = pixels(row);
    int y = down.first + pixel.y * s.stride, x = across.first + pixel.x * s.stride;
    return (((long long)pixel.image * s.height + y) * s.width + x) * s.channels;
  }
};

// dx (B, H, W, C); blockIdx.z is the class. A class has few terms, so that a block mostly waits for its first copies or
// its stores: the more blocks on a processor, the better.
KERNEL __launch_bounds__(THREADS, sizeof(element) == 2 && TILE_COLUMNS <= 64 ? 3 : BLOCKS)
convolution_data(const element* dy, const element* w, element* dx, int images, int height, int width, int channels,
                 int out_height, int out_width, int outputs, int kernel, int stride, int padding) {
  SHARED_MEMORY;
  Sums sums;
  Shape s{images, height, width, channels, out_height, out_width, outputs, kernel, stride, padding};
  Axis down(blockIdx.z / stride, height, s), across(blockIdx.z % stride, width, s);
  int row = blockIdx.x * TILE_ROWS, column = blockIdx.y * TILE_COLUMNS, rows = images * down.count * across.count;
  if (row >= rows) return;  // another class has more pixels
  Pixels pixels(down.count, across.count, row);
  product(sums, Under{dy, s, down, across, pixels}, Cells{w, s, down, across}, row, column, 0,
          down.cells * across.cells * outputs, shared_memory);
  store(sums, row, column, rows, channels, Class{dx, s, down, across, pixels}, nullptr);
}
LAUNCHABLE(convolution_data)
