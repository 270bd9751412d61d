// Hopper's product of matrices in shared memory (wgmma): four warps, a warpgroup, add a (64 rows, 32 bytes of k) times
// b (8 N columns) to d. A lane holds N fragments of its warp's sixteen rows, as in matrix.cuh.
//
// Both operands lie in lines of 128 bytes, eight lines at a multiple of 1024 bytes, with the chunks of a line in the
// order of `offset`, the 128-byte swizzle that these instructions know. A line is a row (a column of b) with k running
// along it; or, where k runs across, a line is 64 rows of one k, and the next 64 rows are `blocks` bytes further on.
// Copies that were waited for, behind a barrier, need no fence, which would also wait for the copies in flight. See
// "wgmma" and "Matrix descriptor" in NVIDIA's PTX manual. Its two strides: the "stride dimension" is from eight lines
// to the next eight; the "leading dimension" from 64 rows to the next 64, unused where k runs along.
#pragma once
#include "machine.cuh"

#ifndef EMULATED
template <bool ALONG> INLINE unsigned long long descriptor(const void* lines, int blocks) {
  constexpr unsigned long long EIGHT_LINES = 1024 >> 4, CHUNKS_CHANGE_PLACES = 1;
  unsigned begin = (unsigned)__cvta_generic_to_shared(lines) >> 4, next = ALONG ? 0 : blocks >> 4;
  return begin | next << 16 | EIGHT_LINES << 32 | CHUNKS_CHANGE_PLACES << 62;
}

// The instruction lists every register of d.
#define FRAGMENT(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define FRAGMENTS_4 FRAGMENT(0), FRAGMENT(1), FRAGMENT(2), FRAGMENT(3)
#define FRAGMENTS_8 FRAGMENTS_4, FRAGMENT(4), FRAGMENT(5), FRAGMENT(6), FRAGMENT(7)
#define FRAGMENTS_16                                                                                           \
  FRAGMENTS_8, FRAGMENT(8), FRAGMENT(9), FRAGMENT(10), FRAGMENT(11), FRAGMENT(12), FRAGMENT(13), FRAGMENT(14), \
      FRAGMENT(15)
#define NAMES_4 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define NAMES_8 NAMES_4 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NAMES_12 NAMES_8 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define NAMES_16 NAMES_12 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
// Its last two immediates say whether k runs across, of a and of b.
#define WARPGROUP_PRODUCT(TYPE, NAME, N, COLUMNS, A, B, A_ACROSS, B_ACROSS)                            \
  template <bool A_ALONG, bool B_ALONG>                                                                \
  INLINE void warpgroup_product(TYPE, float (&d)[N][4], const void* a, const void* b, int blocks) {    \
    asm volatile(                                                                                      \
        "{.reg .pred add; setp.eq.u32 add, 0, 0;"                                                      \
        "wgmma.mma_async.sync.aligned.m64n" COLUMNS "k16.f32." NAME "." NAME                           \
        " {" NAMES_##N "}, " A ", " B ", add, 1, 1, " A_ACROSS ", " B_ACROSS ";}"                      \
        : FRAGMENTS_##N                                                                                \
        : "l"(descriptor<A_ALONG>(a, blocks)), "l"(descriptor<B_ALONG>(b, blocks)),                    \
          "n"(int(!A_ALONG)), "n"(int(!B_ALONG)));                                                     \
  }
WARPGROUP_PRODUCT(float16, "f16", 4, "32", "%16", "%17", "%18", "%19")
WARPGROUP_PRODUCT(float16, "f16", 8, "64", "%32", "%33", "%34", "%35")
WARPGROUP_PRODUCT(float16, "f16", 16, "128", "%64", "%65", "%66", "%67")
WARPGROUP_PRODUCT(bfloat16, "bf16", 4, "32", "%16", "%17", "%18", "%19")
WARPGROUP_PRODUCT(bfloat16, "bf16", 8, "64", "%32", "%33", "%34", "%35")
WARPGROUP_PRODUCT(bfloat16, "bf16", 16, "128", "%64", "%65", "%66", "%67")

INLINE void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INLINE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits for all of this warpgroup's products but the last LEFT: their a and b are no longer read, and d, with LEFT 0,
// is complete.
template <int LEFT = 0, int N> INLINE void wait_for_products(float (&d)[N][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory");
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : FRAGMENT(i) :: "memory");  // so that d is not read before this
}
#endif
