// Functions of single numbers. A thread takes 16 bytes, or one number; `count`: how many numbers there are.
#include "machine.cuh"

// y = make(a, b) number by number.
template <class Make> INLINE void each(const element* a, const element* b, element* y, long long count, Make make) {
  long long first = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * CHUNK;
  if (first + CHUNK <= count) {
    Chunk c = *(const Chunk*)(a + first), d = *(const Chunk*)(b + first);
#pragma unroll
    for (int e = 0; e < CHUNK; e++) from_float(make(to_float(c.value[e]), to_float(d.value[e])), c.value[e]);
    *(Chunk*)(y + first) = c;
  } else {
    for (long long i = first; i < count; i++) from_float(make(to_float(a[i]), to_float(b[i])), y[i]);
  }
}

// y = activation(x).
KERNEL activate(const element* x, element* y, long long count, int activation) {
  each(x, x, y, count, [&](float x, float) { return activated(x, activation); });
}
LAUNCHABLE(activate)

// dx = dy activation'(x).
KERNEL activate_backward(const element* dy, const element* x, element* dx, long long count, int activation) {
  each(dy, x, dx, count, [&](float dy, float x) { return dy * derivative(x, activation); });
}
LAUNCHABLE(activate_backward)

// y = a + b.
KERNEL add(const element* a, const element* b, element* y, long long count) {
  each(a, b, y, count, [](float a, float b) { return a + b; });
}
LAUNCHABLE(add)

// x += e, repeated every `period` numbers: a position embedding.
KERNEL add_repeated(element* x, const element* e, long long count, int period) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) from_float(to_float(x[i]) + to_float(e[i % period]), x[i]);
}
LAUNCHABLE(add_repeated)

// y (images, tokens + 1, channels): the token before each image's tokens.  count: numbers of y.
KERNEL prepend(const element* x, const element* token, element* y, long long count, int tokens, int channels) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  long long image = i / ((tokens + 1) * channels);
  int place = i % ((tokens + 1) * channels);
  y[i] = place < channels ? token[place] : x[image * tokens * channels + place - channels];
}
LAUNCHABLE(prepend)
