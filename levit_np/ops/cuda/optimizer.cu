// Adaptive clipping and AdamW of every parameter in one launch, in place.
//
// A unit, what is clipped together, is an output's weights (or a whole vector). A warp takes a unit: it computes both
// norms, then updates the numbers it has just read, which are in the cache. A table says which parameter a unit belongs
// to.
#include "machine.cuh"

// The parameter with first_unit[parameter] <= unit < first_unit[parameter + 1].
INLINE int owner_of(int unit, const int* first_unit, int count) {
  int low = 0, high = count;
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (first_unit[middle] <= unit) low = middle;
    else high = middle;
  }
  return low;
}

// addresses [4][count]: of parameters, gradients, first and second moments; first_unit [count + 1]; lengths of units
// and decays [count]. rest: 1 - β, rounded once: computed from a float β it would be far less exact. corrections: 1 /
// (1 - βᵗ). clip 0: none. scale: a factor of the gradients, applied first.
KERNEL update_together(const long long* addresses, const int* first_unit, const int* lengths, const float* decays, int count,
                       float rate, float beta1, float beta2, float rest1, float rest2, float eps, float correction1,
                       float correction2, float clip, float clip_eps, float scale) {
  int unit = blockIdx.x * blockDim.y + threadIdx.y;
  if (unit >= first_unit[count]) return;
  int owner = owner_of(unit, first_unit, count), length = lengths[owner];
  long long begin = (long long)(unit - first_unit[owner]) * length;
  float *p = (float*)addresses[owner] + begin, *m = (float*)addresses[2 * count + owner] + begin,
        *v = (float*)addresses[3 * count + owner] + begin;
  const float* g = (const float*)addresses[count + owner] + begin;
  if (clip > 0) {
    float weights = 0, gradients = 0;
    for (int i = threadIdx.x; i < length; i += WARP) {
      weights += p[i] * p[i];
      gradients += g[i] * scale * g[i] * scale;
    }
    float largest = clip * fmaxf(sqrtf(warp_sum(weights)), clip_eps), norm = sqrtf(warp_sum(gradients));
    if (!(norm < largest)) scale *= largest / fmaxf(norm, 1e-6f);
  }
  float keep = 1 - rate * decays[owner];
  for (int i = threadIdx.x; i < length; i += WARP) {
    float x = g[i] * scale;
    float first = beta1 * m[i] + rest1 * x, second = beta2 * v[i] + rest2 * x * x;
    m[i] = first;
    v[i] = second;
    p[i] = p[i] * keep - rate * correction1 * first / (sqrtf(second * correction2) + eps);
  }
}
LAUNCHABLE(update_together)

// parts[unit] = Σ x² over the unit's numbers; the same table with one array each.
KERNEL squared_norms(const long long* addresses, const int* first_unit, const int* lengths, int count, float* parts) {
  int unit = blockIdx.x * blockDim.y + threadIdx.y;
  if (unit >= first_unit[count]) return;
  int owner = owner_of(unit, first_unit, count), length = lengths[owner];
  const float* x = (const float*)addresses[owner] + (long long)(unit - first_unit[owner]) * length;
  float sum = 0;
  for (int i = threadIdx.x; i < length; i += WARP) sum += x[i] * x[i];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) parts[unit] = sum;
}
LAUNCHABLE(squared_norms)

// averages += rest (values - averages) for every array; the same table without moments. rest: 1 - decay, as above.
KERNEL average_together(const long long* addresses, const int* first_unit, const int* lengths, int count, float rest) {
  int unit = blockIdx.x * blockDim.y + threadIdx.y;
  if (unit >= first_unit[count]) return;
  int owner = owner_of(unit, first_unit, count);
  long long begin = (long long)(unit - first_unit[owner]) * lengths[owner];
  float* average = (float*)addresses[owner] + begin;
  const float* value = (const float*)addresses[count + owner] + begin;
  for (int i = threadIdx.x; i < lengths[owner]; i += WARP) average[i] += rest * (value[i] - average[i]);
}
LAUNCHABLE(average_together)
