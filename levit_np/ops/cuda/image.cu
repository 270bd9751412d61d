// Images as they come -> the layout of the convolutions: (B, H, W, C), with C padded with zeros to whole chunks.
//
// With SIDE 2, blocks of 2×2 pixels take the place of pixels, (B, ⌈H/2⌉, ⌈W/2⌉, 4 C): three channels leave less of a
// chunk empty. A block's pixels are in row order; those outside the image are zeros.
//
// A thread has a block of pixels, and a thread block a row of them: addresses then are compile-time constants but for
// where the row and the block begin.
#include "machine.cuh"

#ifndef SIDE
#define SIDE 2
#define CHANNELS 3
#endif

constexpr int COUNT = SIDE * SIDE * CHANNELS, CHUNKS = (COUNT + CHUNK - 1) / CHUNK;  // of a block of pixels

template <class Read> INLINE void write_row(element* y, int height, int width, Read read) {
  int down = (height + SIDE - 1) / SIDE, across = (width + SIDE - 1) / SIDE;
  int image = blockIdx.x / down, top = blockIdx.x % down * SIDE;
  for (int block = threadIdx.x; block < across; block += blockDim.x) {
    Chunk* target = (Chunk*)y + ((long long)blockIdx.x * across + block) * CHUNKS;
    for (int i = 0; i < CHUNKS; i++) {
      Chunk chunk;
#pragma unroll
      for (int e = 0; e < CHUNK; e++) {
        int n = i * CHUNK + e, pixel = n / CHANNELS, row = top + pixel / SIDE, column = block * SIDE + pixel % SIDE;
        bool there = n < COUNT && row < height && column < width;
        from_float(there ? read(image, row * width + column, n % CHANNELS) : 0.0f, chunk.value[e]);
      }
      target[i] = chunk;
    }
  }
}

// x (B, C, H, W) floats, already normalised.
KERNEL image_of_floats(const float* x, element* y, int height, int width) {
  int pixels = height * width;
  write_row(y, height, width, [&](long long image, int pixel, int c) {
    return __ldg(x + image * CHANNELS * pixels + (c * pixels + pixel));
  });
}
LAUNCHABLE(image_of_floats)

// x (B, C, H, W) of the kernels' type: how training begins.
KERNEL image_of_elements(const element* x, element* y, int height, int width) {
  int pixels = height * width;
  write_row(y, height, width, [&](long long image, int pixel, int c) {
    return to_float(x[image * CHANNELS * pixels + (c * pixels + pixel)]);
  });
}
LAUNCHABLE(image_of_elements)

// x (B, H, W, C) bytes; y = x scale + shift, a channel at a time: (x / 255 - mean) / std.
KERNEL image_of_bytes(const unsigned char* x, const float* scale, const float* shift, element* y, int height,
                      int width) {
  int pixels = height * width;
  write_row(y, height, width, [&](long long image, int pixel, int c) {
    return __ldg(x + image * CHANNELS * pixels + (pixel * CHANNELS + c)) * __ldg(scale + c) + __ldg(shift + c);
  });
}
LAUNCHABLE(image_of_bytes)
