// One number at a time: activations and their derivatives.  A thread takes 16 bytes; `count` is the numbers there are.
#include "machine.cuh"

INLINE float derivative(float x, int activation) {
  if (activation == HARDSWISH) return x <= -3 ? 0.0f : x >= 3 ? 1.0f : (2 * x + 3) * (1.0f / 6.0f);
  float s = 1 / (1 + exp2_fast(-1.44269504f * x));
  return s * (1 + x * (1 - s));
}

// y = activation(x).
KERNEL activate(const element* x, element* y, long long count, int activation) {
  long long first = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * CHUNK;
  if (first + CHUNK <= count) {
    Chunk c = *(const Chunk*)(x + first);
#pragma unroll
    for (int e = 0; e < CHUNK; e++) from_float(activated(to_float(c.value[e]), activation), c.value[e]);
    *(Chunk*)(y + first) = c;
  } else {
    for (long long i = first; i < count; i++) from_float(activated(to_float(x[i]), activation), y[i]);
  }
}
LAUNCHABLE(activate)

// dx = dy activation'(x).
KERNEL activate_backward(const element* dy, const element* x, element* dx, long long count, int activation) {
  long long first = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * CHUNK;
  if (first + CHUNK <= count) {
    Chunk c = *(const Chunk*)(x + first), d = *(const Chunk*)(dy + first);
#pragma unroll
    for (int e = 0; e < CHUNK; e++)
      from_float(to_float(d.value[e]) * derivative(to_float(c.value[e]), activation), c.value[e]);
    *(Chunk*)(dx + first) = c;
  } else {
    for (long long i = first; i < count; i++) from_float(to_float(dy[i]) * derivative(to_float(x[i]), activation), dx[i]);
  }
}
LAUNCHABLE(activate_backward)
