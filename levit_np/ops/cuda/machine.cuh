// The GPU instructions that are not C++, one function each.
//
// tests/ops/cuda/emulation.h has plain C++ twins of the same names, with which a compiler for the processor builds the
// same kernels. Everything that includes this file is the same for both.
#pragma once
#ifdef EMULATED
#include "emulation.h"
#else

#define KERNEL extern "C" __global__ void
#define INLINE __device__ __forceinline__
#define SHARED_MEMORY extern __shared__ __align__(1024) unsigned char shared_memory[]
#define LAUNCHABLE(name)

// 16-bit numbers are only stored; arithmetic is in float.
struct float16 { unsigned short bits; };
struct bfloat16 { unsigned short bits; };

INLINE float to_float(float x) { return x; }
INLINE float to_float(bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }  // the upper half of a float
INLINE float to_float(float16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
INLINE void from_float(float x, float& y) { y = x; }
INLINE void from_float(float x, float16& y) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }
INLINE void from_float(float x, bfloat16& y) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }

// Two 16-bit numbers in one register, the first in the lower half.
template <class T> INLINE unsigned pair_of(float first, float second);
template <> INLINE unsigned pair_of<float16>(float first, float second) {
  unsigned y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(second), "f"(first));
  return y;
}
template <> INLINE unsigned pair_of<bfloat16>(float first, float second) {
  unsigned y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(second), "f"(first));
  return y;
}

// The sum of two such registers.
INLINE unsigned sum_of_pairs(float16, unsigned a, unsigned b) {
  unsigned y;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
  return y;
}
INLINE unsigned sum_of_pairs(bfloat16, unsigned a, unsigned b) {
  unsigned y;
  // a · 1 + b: Ampere has no addition
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(0x3f803f80), "r"(b));
  return y;
}

INLINE float exp2_fast(float x) {  // 2^x to 2 units in the last place; -infinity gives 0
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// x, hidden from the compiler: what follows from it is computed where it is needed, not kept in registers.
INLINE unsigned opaque(unsigned x) {
  asm volatile("" : "+r"(x));
  return x;
}
INLINE unsigned bits_of(float x) { return __float_as_uint(x); }
INLINE float float_of(unsigned x) { return __uint_as_float(x); }

// A warp's product of small matrices on the tensor cores, added to d. Which lane holds what: "Matrix fragments" in
// NVIDIA's PTX manual, and matrix.cuh.
INLINE void tensor_product(float16, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
INLINE void tensor_product(bfloat16, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// m16n8k8 on floats of which only the upper 19 bits count (TF32).
INLINE void tensor_product_tf32(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8×8 matrices of 16-bit numbers from shared memory: lane i gives the address of row i % 8 of matrix i / 8, 16
// bytes; it gets numbers 2 (i % 4) and 2 (i % 4) + 1 of row i / 4 of each matrix, in one register a matrix. A place is
// an address in shared memory: half as long as a pointer, and what the instructions take.
INLINE unsigned place_of(const void* shared) { return (unsigned)__cvta_generic_to_shared(shared); }
INLINE void load_matrices(unsigned (&r)[4], unsigned place) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
      : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(place) : "memory");
}
INLINE void load_matrices(unsigned (&r)[4], const void* row) { load_matrices(r, place_of(row)); }
// The same, each matrix transposed on the way.
INLINE void load_matrices_transposed(unsigned (&r)[4], unsigned place) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
      : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(place) : "memory");
}
INLINE void load_matrices_transposed(unsigned (&r)[4], const void* row) { load_matrices_transposed(r, place_of(row)); }

// 16 bytes to global memory at once: an assignment might be compiled into stores of single 16-bit numbers.
INLINE void store_words(void* global, const unsigned (&word)[4]) {
  asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};"
      :: "l"(global), "r"(word[0]), "r"(word[1]), "r"(word[2]), "r"(word[3]) : "memory");
}

// An asynchronous copy of 16 bytes from global to shared memory, through no register; zeros where `there` is false.
INLINE void copy_chunk(void* shared, const void* global, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
      :: "r"((unsigned)__cvta_generic_to_shared(shared)), "l"(global), "r"(there ? 16 : 0) : "memory");
}
// copies since the last call become a group
INLINE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> INLINE void wait_for_copies() {  // for all of this thread's groups but the last LEFT
  asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory");
}

// A barrier in shared memory: after `arrivals` arrivals it lets those who wait pass, and counts anew. Rounds are told
// apart as even and odd.
struct Barrier { unsigned long long word; };
INLINE void init_barrier(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;"
      :: "r"((unsigned)__cvta_generic_to_shared(barrier)), "r"(arrivals) : "memory");
}
INLINE void arrive(Barrier* barrier) {
  asm volatile("{.reg .b64 state; mbarrier.arrive.shared.b64 state, [%0];}"
      :: "r"((unsigned)__cvta_generic_to_shared(barrier)) : "memory");
}
INLINE void arrive_after_copies(Barrier* barrier) {  // once all of this thread's copies so far have arrived
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];"
      :: "r"((unsigned)__cvta_generic_to_shared(barrier)) : "memory");
}
INLINE void wait_at(Barrier* barrier, int round) {  // until round 0, 1, 0, … is over
#if __CUDA_ARCH__ >= 900
  asm volatile("{.reg .pred over; again: mbarrier.try_wait.parity.shared.b64 over, [%0], %1; @!over bra again;}"
      :: "r"((unsigned)__cvta_generic_to_shared(barrier)), "r"(round) : "memory");
#else
  __trap();
#endif
}
#endif

constexpr unsigned EVERY_LANE = 0xffffffff;
constexpr int WARP = 32, CHUNK_BYTES = 16;

// A number as a type: an argument that is known when the source is compiled.
template <int VALUE> struct Constant { static constexpr int value = VALUE; };

// The sum of the lanes' numbers, in every lane.
INLINE float warp_sum(float x) {
  for (int mask = WARP / 2; mask; mask /= 2) x += __shfl_xor_sync(EVERY_LANE, x, mask);
  return x;
}

// The type of the numbers in memory, chosen when the source is compiled.
#ifndef ELEMENT
#define ELEMENT float
#endif
using element = ELEMENT;
// numbers in 16 bytes, the unit in which memory is read and written
constexpr int CHUNK = CHUNK_BYTES / sizeof(element);

struct alignas(16) Chunk { element value[CHUNK]; };

INLINE float infinity() { return float_of(0x7f800000); }

enum Activation { IDENTITY, HARDSWISH, SILU };

INLINE float activated(float x, int activation) {
  if (activation == HARDSWISH) return x * __saturatef(x * (1.0f / 6.0f) + 0.5f);  // relu6(x + 3) / 6 in one instruction
  if (activation == SILU) return __fdividef(x, 1.0f + exp2_fast(-1.44269504f * x));
  return x;
}

INLINE float derivative(float x, int activation) {
  if (activation == HARDSWISH) return x <= -3 ? 0.0f : x >= 3 ? 1.0f : (2 * x + 3) * (1.0f / 6.0f);
  float s = 1 / (1 + exp2_fast(-1.44269504f * x));
  return s * (1 + x * (1 - s));
}
