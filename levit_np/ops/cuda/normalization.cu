// Batch normalization and its backward, each thread with its own channels; layer normalization, a warp for each token.
//
// x is (rows, channels). A thread block has VECTOR channels for each of its `lanes` (blockDim.x, a power of two up to a
// warp) and `length` rows, of which a thread takes every blockDim.y-th: the fewer the channels, the more threads share
// the rows.
#include "machine.cuh"

#ifndef VECTOR
#define VECTOR 1  // channels of a thread: 16 bytes, or one
#endif
#ifndef ACTIVATION
#define ACTIVATION IDENTITY  // applied after the normalization
#endif
constexpr int THREADS = 256, WARPS = THREADS / WARP;
struct alignas(VECTOR * sizeof(element)) Vector { element value[VECTOR]; };

// A thread's channels and rows.
struct Share {
  int channel, first, end;
  bool there;
  INLINE Share(int rows, int channels, int length) {
    channel = (blockIdx.x * blockDim.x + threadIdx.x) * VECTOR;
    there = channel < channels;
    int begin = blockIdx.y * length;
    first = begin + threadIdx.y;
    end = begin + length < rows ? begin + length : rows;
    if (!there) end = 0;
  }
};

// work(place, further, count) for a thread's rows, AT_ONCE at a time, so that all their loads are in flight together:
// the first one's index in memory, and the distance from each to the next.
template <int AT_ONCE, class Work> INLINE void by_rows(const Share& share, int channels, Work work) {
  int row = share.first, step = blockDim.y;
  long long place = (long long)row * channels + share.channel, further = (long long)step * channels;
#pragma unroll 1
  for (; row + (AT_ONCE - 1) * step < share.end; row += AT_ONCE * step, place += AT_ONCE * further)
    work(place, further, Constant<AT_ONCE>{});
#pragma unroll 1
  for (; row < share.end; row += step, place += further) work(place, further, Constant<1>{});
}
template <int COUNT> INLINE void load(Vector (&v)[COUNT], const element* x, long long place, long long further) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) v[i] = *(const Vector*)(x + place + i * further);
}

// Adds up what the threads of a channel have found, within a warp and then over the warps; all threads get the sum.
INLINE void add_over_rows(float (&sums)[VECTOR], float* shared) {
  int lanes = blockDim.x, warp = (threadIdx.y * lanes + threadIdx.x) / WARP;
#pragma unroll
  for (int e = 0; e < VECTOR; e++)
    for (int mask = WARP / 2; mask >= lanes; mask /= 2) sums[e] += __shfl_xor_sync(EVERY_LANE, sums[e], mask);
  if (threadIdx.y % (WARP / lanes) == 0)
#pragma unroll
    for (int e = 0; e < VECTOR; e++) shared[(warp * lanes + threadIdx.x) * VECTOR + e] = sums[e];
  __syncthreads();
#pragma unroll
  for (int e = 0; e < VECTOR; e++) {
    sums[e] = 0;
    for (int row = 0; row < WARPS; row++) sums[e] += shared[(row * lanes + threadIdx.x) * VECTOR + e];
  }
  __syncthreads();
}

// Running moments (Welford, Chan): the number of rows so far, a channel's mean, and the sum of squared distances to it.
// COUNT more rows of mean m move the mean by δ = m - mean times r, their share of all rows, and add to the squares
// their own plus δ² COUNT (1 - r): nothing cancels, as it would in Σ x² - n mean². Means are relative to `origin`, one
// of the numbers, so that they are as precise as the distances even where those are small.
struct Moments {
  int rows = 0;
  float origin[VECTOR], mean[VECTOR] = {}, squares[VECTOR] = {};
  INLINE Moments(const Vector& x) {
#pragma unroll
    for (int e = 0; e < VECTOR; e++) origin[e] = to_float(x.value[e]);
  }
  template <int COUNT> INLINE void add(const Vector (&x)[COUNT]) {
    rows += COUNT;
    float r = __fdividef(COUNT, rows);
#pragma unroll
    for (int e = 0; e < VECTOR; e++) {
      float number[COUNT], m = 0, own = 0;
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        number[i] = to_float(x[i].value[e]) - origin[e];
        m += number[i] * (1.0f / COUNT);
      }
#pragma unroll
      for (int i = 0; i < COUNT; i++) own += (number[i] - m) * (number[i] - m);
      float d = m - mean[e];
      mean[e] += d * r;
      squares[e] += own + d * d * (COUNT * (1 - r));
    }
  }
};

// parts[block][0, 1][channel]: the mean of the block's rows, and the sum of their squared distances to it.
KERNEL batch_statistics(const element* x, float* parts, int rows, int channels, int length) {
  SHARED_MEMORY;
  Share share(rows, channels, length);
  Vector first[1] = {};
  if (share.there) load(first, x, (long long)blockIdx.y * length * channels + share.channel, 0);
  Moments own(first[0]);
  by_rows<8>(share, channels, [&](long long place, long long further, auto count) {
    Vector v[count.value];
    load(v, x, place, further);
    own.add(v);
  });
  int begin = blockIdx.y * length, count = (begin + length < rows ? begin + length : rows) - begin;
  float mean[VECTOR], squares[VECTOR];
#pragma unroll
  for (int e = 0; e < VECTOR; e++) mean[e] = own.mean[e] * own.rows;
  add_over_rows(mean, (float*)shared_memory);
#pragma unroll
  for (int e = 0; e < VECTOR; e++) {
    mean[e] /= count;
    squares[e] = own.squares[e] + (own.mean[e] - mean[e]) * (own.mean[e] - mean[e]) * own.rows;
  }
  add_over_rows(squares, (float*)shared_memory);
  if (!share.there || threadIdx.y) return;
  float* out = parts + 2ll * blockIdx.y * channels + share.channel;
#pragma unroll
  for (int e = 0; e < VECTOR; e++) {
    out[e] = own.origin[e] + mean[e];
    out[channels + e] = squares[e];
  }
}
LAUNCHABLE(batch_statistics)

// Mean and variance of all rows from those of the blocks: the squared distances to the overall mean are those to a
// block's own mean, plus those of the blocks' means. A column of threads shares a channel's blocks.
KERNEL join_statistics(const float* parts, float* mean, float* variance, int count, int rows, int channels, int length) {
  SHARED_MEMORY;
  double* shared = (double*)shared_memory;
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  auto size = [&](int part) { return part + 1 < count ? length : rows - part * length; };
  auto over_column = [&](auto found) {  // Σ over blocks, always in the same order
    double sum = 0;
    if (c < channels)
#pragma unroll 8
      for (int p = threadIdx.y; p < count; p += blockDim.y) sum += found(p);
    shared[threadIdx.y * blockDim.x + threadIdx.x] = sum;
    __syncthreads();
    double all = 0;
    for (int row = 0; row < (int)blockDim.y; row++) all += shared[row * blockDim.x + threadIdx.x];
    __syncthreads();
    return all;
  };
  double all = over_column([&](int p) { return (double)parts[2ll * p * channels + c] * size(p); }) / rows;
  double squares = over_column([&](int p) {
    double distance = parts[2ll * p * channels + c] - all;
    return parts[(2ll * p + 1) * channels + c] + distance * distance * size(p);
  });
  if (c >= channels || threadIdx.y) return;
  mean[c] = (float)all;
  variance[c] = (float)(squares / rows);
}
LAUNCHABLE(join_statistics)

// The running statistics that evaluation will use: (1 - momentum) of the old, plus momentum of a batch's, its variance
// times n / (n - 1).
KERNEL update_running(const float* mean, const float* variance, const float* batch_mean, const float* batch_variance,
                      float* new_mean, float* new_variance, int channels, float momentum, float unbiased) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  new_mean[c] = (1 - momentum) * mean[c] + momentum * batch_mean[c];
  new_variance[c] = (1 - momentum) * variance[c] + momentum * unbiased * batch_variance[c];
}
LAUNCHABLE(update_running)

// y = activation(gamma (x - mean) / √(variance + eps) + beta).
KERNEL normalize(const element* x, const float* gamma, const float* beta, const float* mean,
                 const float* variance, element* y, int rows, int channels, int length, float eps) {
  Share share(rows, channels, length);
  if (!share.there) return;
  float scale[VECTOR], centre[VECTOR], shift[VECTOR];
#pragma unroll
  for (int e = 0; e < VECTOR; e++) {
    int c = share.channel + e;
    scale[e] = gamma[c] / sqrtf(variance[c] + eps);
    centre[e] = mean[c];
    shift[e] = beta[c];
  }
  by_rows<4>(share, channels, [&](long long place, long long further, auto count) {
    Vector v[count.value];
    load(v, x, place, further);
#pragma unroll
    for (int i = 0; i < count.value; i++) {
#pragma unroll
      for (int e = 0; e < VECTOR; e++)
        from_float(activated((to_float(v[i].value[e]) - centre[e]) * scale[e] + shift[e], ACTIVATION), v[i].value[e]);
      *(Vector*)(y + place + i * further) = v[i];
    }
  });
}
LAUNCHABLE(normalize)

// A channel of BN and of the activation after it: d = x - mean, dy = dz activation'(d scale + shift); scale = gamma/σ
// and shift = beta are needed in dy only where there is an activation.
struct Channel {
  float centre, deviation, scale, shift;
  Channel() = default;
  INLINE Channel(const float* gamma, const float* beta, const float* mean, const float* variance, float eps, int c) {
    centre = mean[c];
    deviation = rsqrtf(variance[c] + eps);
    scale = gamma[c] * deviation;
    shift = ACTIVATION ? beta[c] : 0;
  }
  INLINE float dy(float dz, float d) const {
    return ACTIVATION ? dz * derivative(d * scale + shift, ACTIVATION) : dz;
  }
};

// parts[block][0, 1][channel]: Σ dy x̂, which is dgamma, and Σ dy, dbeta.
KERNEL __launch_bounds__(THREADS, 2)
normalize_backward_sums(const element* dz, const element* x, const float* gamma, const float* beta, const float* mean,
                        const float* variance, float* parts, int rows, int channels, int length, float eps) {
  SHARED_MEMORY;
  Share share(rows, channels, length);
  float products[VECTOR] = {}, sums[VECTOR] = {};
  Channel c[VECTOR];
#pragma unroll
  for (int e = 0; e < VECTOR; e++)
    c[e] = Channel(gamma, beta, mean, variance, eps, share.there ? share.channel + e : 0);
  by_rows<4>(share, channels, [&](long long place, long long further, auto count) {
    Vector z[count.value], v[count.value];
    load(z, dz, place, further);
    load(v, x, place, further);
#pragma unroll
    for (int i = 0; i < count.value; i++)
#pragma unroll
      for (int e = 0; e < VECTOR; e++) {
        float d = to_float(v[i].value[e]) - c[e].centre, dy = c[e].dy(to_float(z[i].value[e]), d);
        products[e] += dy * d;
        sums[e] += dy;
      }
  });
  add_over_rows(products, (float*)shared_memory);
  add_over_rows(sums, (float*)shared_memory);
  if (!share.there || threadIdx.y) return;
  float* out = parts + 2ll * blockIdx.y * channels + share.channel;
#pragma unroll
  for (int e = 0; e < VECTOR; e++) {
    out[e] = products[e] * c[e].deviation;
    out[channels + e] = sums[e];
  }
}
LAUNCHABLE(normalize_backward_sums)

// dx = gamma/σ (dy - through (dbeta + x̂ dgamma)); sums[0, 1][channel]: dgamma, dbeta.  through: 1 / rows, or 0 where
// mean and variance are constants.
KERNEL normalize_backward(const element* dz, const element* x, const float* gamma, const float* beta, const float* mean,
                          const float* variance, const float* sums, element* dx, int rows, int channels, int length,
                          float eps, float through) {
  Share share(rows, channels, length);
  if (!share.there) return;
  Channel c[VECTOR];
  float offset[VECTOR], slope[VECTOR];
#pragma unroll
  for (int e = 0; e < VECTOR; e++) {
    c[e] = Channel(gamma, beta, mean, variance, eps, share.channel + e);
    slope[e] = sums[share.channel + e] * c[e].deviation * through;
    offset[e] = sums[channels + share.channel + e] * through;
  }
  by_rows<2>(share, channels, [&](long long place, long long further, auto count) {
    Vector z[count.value], v[count.value];
    load(z, dz, place, further);
    load(v, x, place, further);
#pragma unroll
    for (int i = 0; i < count.value; i++) {
#pragma unroll
      for (int e = 0; e < VECTOR; e++) {
        float d = to_float(v[i].value[e]) - c[e].centre, dy = c[e].dy(to_float(z[i].value[e]), d);
        if (through) dy = dy - offset[e] - d * slope[e];  // 0 times another row's NaN would be one
        from_float(dy * c[e].scale, z[i].value[e]);
      }
      *(Vector*)(dx + place + i * further) = z[i];
    }
  });
}
LAUNCHABLE(normalize_backward)

// Mean and 1/σ of a token's numbers, in two passes, the second from the cache.
INLINE void token_statistics(const element* x, int channels, float eps, float& mean, float& deviation) {
  float sum = 0, squares = 0;
  for (int c = threadIdx.x; c < channels; c += WARP) sum += to_float(x[c]);
  mean = warp_sum(sum) / channels;
  for (int c = threadIdx.x; c < channels; c += WARP) squares += (to_float(x[c]) - mean) * (to_float(x[c]) - mean);
  deviation = 1 / sqrtf(warp_sum(squares) / channels + eps);
}

// y = gamma x̂ + beta, a warp for each row. Rows are `stride` numbers apart, and y's padding is set to zeros: a NaN
// left there by another use of the memory would stay one when multiplied by the weights' zeros.
KERNEL layer_norm(const element* x, const float* gamma, const float* beta, element* y, int rows, int channels, int stride,
                  float eps) {
  int row = blockIdx.x * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  float mean, deviation;
  x += (long long)row * stride;
  token_statistics(x, channels, eps, mean, deviation);
  for (int c = threadIdx.x; c < stride; c += WARP)
    from_float(c < channels ? (to_float(x[c]) - mean) * deviation * gamma[c] + beta[c] : 0.0f,
               y[(long long)row * stride + c]);
}
LAUNCHABLE(layer_norm)

// dx = (dx̂ - mean(dx̂) - x̂ mean(dx̂ x̂)) / σ with dx̂ = gamma dy; products = dy x̂, whose sum over rows is dgamma.
KERNEL layer_norm_backward(const element* dy, const element* x, const float* gamma, element* dx, float* products, int rows,
                           int channels, float eps) {
  int row = blockIdx.x * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  long long first = (long long)row * channels;
  float mean, deviation, sum = 0, product = 0;
  token_statistics(x + first, channels, eps, mean, deviation);
  for (int c = threadIdx.x; c < channels; c += WARP) {
    float d = to_float(dy[first + c]), n = (to_float(x[first + c]) - mean) * deviation;
    sum += gamma[c] * d;
    product += gamma[c] * d * n;
    products[first + c] = d * n;
  }
  sum = warp_sum(sum) / channels;
  product = warp_sum(product) / channels;
  for (int c = threadIdx.x; c < channels; c += WARP) {
    float n = (to_float(x[first + c]) - mean) * deviation;
    from_float((gamma[c] * to_float(dy[first + c]) - sum - n * product) * deviation, dx[first + c]);
  }
}
LAUNCHABLE(layer_norm_backward)
