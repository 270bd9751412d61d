// Images as they come, into the layout of the convolutions: (B, H, W, C), C padded with zeros to whole chunks.
// A thread has a pixel.
#include "machine.cuh"

template <class Read> INLINE void write_pixel(element* y, long long pixel, int channels, Read read) {
  int chunks = (channels + CHUNK - 1) / CHUNK;
  for (int i = 0; i < chunks; i++) {
    Chunk c;
    for (int e = 0; e < CHUNK; e++) from_float(i * CHUNK + e < channels ? read(i * CHUNK + e) : 0.0f, c.value[e]);
    ((Chunk*)y)[pixel * chunks + i] = c;
  }
}

// x (B, C, pixels) floats, already normalised.
KERNEL image_of_floats(const float* x, element* y, int images, int channels, int pixels) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (long long)images * pixels) return;
  const float* first = x + i / pixels * channels * pixels + i % pixels;
  write_pixel(y, i, channels, [&](int c) { return first[(long long)c * pixels]; });
}
LAUNCHABLE(image_of_floats)

// x (B, pixels, C) bytes; y = x scale + shift, a channel at a time: (x / 255 - mean) / std.
KERNEL image_of_bytes(const unsigned char* x, const float* scale, const float* shift, element* y, int images, int channels,
                      int pixels) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (long long)images * pixels) return;
  write_pixel(y, i, channels, [&](int c) { return x[i * channels + c] * scale[c] + shift[c]; });
}
LAUNCHABLE(image_of_bytes)
