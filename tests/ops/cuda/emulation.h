// Runs a kernel's source on the processor. Each thread of a block is a fiber; one fiber runs at a time, until a barrier.
//
// It is stricter than a GPU, so that errors that would show there sometimes show here always:
// - shared memory contains NaN at the start of every block, and guard bytes after it are checked;
// - copy_chunk copies as late as is allowed or, in the other order, at once: without a wait NaN is read, and without a
//   barrier before the copy, data that other threads still need is overwritten;
// - a warpgroup's products are computed at once where copies are late, and at the wait for them where copies are made at
//   once: copying over an operand that is still being read spoils the product;
// - copy_chunk and __ldg can read only the kernel's arrays;
// - a warp runs to the next barrier before another warp starts, in one order or its reverse (`order`): without a barrier
//   it reads what is not written yet, or overwrites what is still needed;
// - it is an error if some threads never reach a barrier, or if lanes of a warp meet in different instructions;
// - copies whose completion a barrier waits for are made when a thread waits there, or at once.
#pragma once
#include <setjmp.h>
#include <ucontext.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#undef _GLIBCXX_USE_STD_SPEC_FUNCS  // templates (Bessel functions …) that slow every compilation
#include <cmath>

#define __global__
#define __device__
#define __restrict__
#define __launch_bounds__(...)
#define KERNEL static void
#define INLINE inline __attribute__((always_inline))
#define SHARED_MEMORY unsigned char* const shared_memory = emulation::shared

struct dim3 { unsigned x = 1, y = 1, z = 1; };

namespace emulation {
enum State { READY, AT_BLOCK, AT_WARP, AT_BARRIER, DONE };
enum Meeting { NONE, SYNC, SHUFFLE, VOTE, PRODUCT, PRODUCT_TF32, LOAD, LOAD_TRANSPOSED, WARPGROUP };
constexpr int MOST = 1024, GUARD = 1024, QUEUE = 512, PRODUCTS = 32;
constexpr int STACK = (64 << 10) + 1088;  // at multiples of 64 KB, all fibers would use the same lines of a cache
struct Barrier { unsigned short expected, missing, rounds, unused; };
struct Copy { void* to; const void* from; bool there; int group; Barrier* barrier; };  // or an arrival at a barrier
struct Lines { const unsigned char* first; bool along; int blocks; };  // an operand of a warpgroup's product
struct Product { void (*add)(const Product&); float* d; int fragments; Lines a, b; int group; };
struct Fiber {
  jmp_buf resume; State state; Meeting meeting; dim3 thread; unsigned lane, warp;
  Copy copies[QUEUE]; int first, last, group;
  Barrier* barrier; int round;  // what it waits for
  Product products[PRODUCTS]; int product_count, product_group; bool open;
};
// What a warp's lanes exchange; two sets, so that one exchange cannot overwrite what the last one still reads.
struct alignas(16) Exchange { unsigned char slot[32][64]; bool computed; double product[16][8]; };
inline Fiber fibers[MOST];
inline Exchange exchange[MOST / 32][2];
inline int parity[MOST];  // which of the two sets a lane uses next
inline unsigned char* stacks;
inline int started;  // number of fibers that have been entered
inline jmp_buf scheduler;
inline Fiber* current;
inline unsigned char* shared;
inline dim3 block_index, block_size, grid_size;
inline char message[256];
inline bool failed;
inline const size_t* ranges;  // of the kernel's arrays: first byte, byte after the last
inline int range_count;
inline bool eager;  // whether copies are made at once
struct Call { virtual void operator()() = 0; };
inline Call* call;

inline void leave(State state) {
  current->state = state;
  if (_setjmp(current->resume) == 0) _longjmp(scheduler, 1);
}
inline void fail(const char* reason) {
  snprintf(message, sizeof message, "%s, thread %u of block (%u, %u, %u)", reason, (unsigned)(current - fibers),
           block_index.x, block_index.y, block_index.z);
  failed = true;
  leave(DONE);
}
// Addresses read by these functions must be within one of the kernel's arrays.
inline void require_inside(const void* from, size_t bytes) {
  for (int i = 0; i < range_count; i++)
    if ((size_t)from >= ranges[2 * i] && (size_t)from + bytes <= ranges[2 * i + 1]) return;
  fail("read outside the arrays");
}
inline void enter() {
  for (;;) {
    leave(DONE);  // entered once, before there is any work
    (*call)();
  }
}
inline void run(Fiber& f) {
  current = &f;
  if (_setjmp(scheduler) == 0) _longjmp(f.resume, 1);
}
inline void start(int threads) {
  for (; started < threads; started++) {
    current = &fibers[started];
    if (_setjmp(scheduler)) continue;
    ucontext_t here, there;
    getcontext(&there);
    there.uc_stack.ss_sp = stacks + (size_t)started * STACK;
    there.uc_stack.ss_size = STACK;
    there.uc_link = nullptr;
    makecontext(&there, (void (*)())enter, 0);
    swapcontext(&here, &there);
  }
}

inline bool is_over(Fiber& f);  // whether the round that it waits for is over

// Runs a warp until each lane is done, waits for the block, or waits for missing lanes; returns whether any lane ran.
inline bool run_warp(unsigned first, unsigned end, int order) {
  for (bool any = false;; any = true) {
    unsigned ran = 0, waiting = 0;
    for (unsigned i = first; i < end && !failed; i++) {
      Fiber& f = fibers[order ? first + end - 1 - i : i];
      if (f.state == AT_BARRIER && is_over(f)) f.state = READY;
      if (f.state == READY) { run(f); ran++; }
    }
    for (unsigned i = first; i < end; i++) waiting += fibers[i].state == AT_WARP && fibers[i].meeting == fibers[first].meeting;
    if (waiting == end - first)
      for (unsigned i = first; i < end; i++) fibers[i].state = READY;
    else if (ran == 0 || failed) return any;
  }
}

inline bool release_block(unsigned threads) {
  bool any = false;
  for (unsigned i = 0; i < threads; i++) {
    if (fibers[i].state == AT_BLOCK) any = true;
    else if (fibers[i].state != DONE) return false;
  }
  for (unsigned i = 0; i < threads; i++) if (fibers[i].state == AT_BLOCK) fibers[i].state = READY;
  return any;
}

inline bool block(unsigned threads, size_t shared_bytes, int order) {
  memset(shared, 0xff, shared_bytes + GUARD);
  memset(parity, 0, sizeof(int) * threads);
  for (unsigned i = 0; i < threads; i++) {
    Fiber& f = fibers[i];
    f.state = READY; f.meeting = NONE; f.lane = i % 32; f.warp = i / 32; f.first = f.last = f.group = f.product_count = f.product_group = 0;
    f.thread = {i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y)};
  }
  // A warp runs as far as it can before another starts, so that only a barrier makes it wait for the others.
  unsigned warps = threads / 32;
  failed = false;
  for (bool progress = true; progress && !failed;) {
    progress = false;
    for (unsigned w = 0; w < warps; w++) {
      unsigned first = (order ? warps - 1 - w : w) * 32;
      if (run_warp(first, first + 32, order)) progress = true;
    }
    if (!progress && release_block(threads)) progress = true;
  }
  if (failed) {
    started = 0;  // the fibers are abandoned and created again
    return false;
  }
  for (unsigned i = 0; i < threads; i++)
    if (fibers[i].state != DONE) {
      snprintf(message, sizeof message, "thread %u of block (%u, %u, %u) waits for %s that others never reach", i,
               block_index.x, block_index.y, block_index.z, fibers[i].state == AT_WARP ? "lanes" : "a barrier");
      started = 0;
      return false;
    }
  for (size_t i = 0; i < GUARD; i++)
    if (shared[shared_bytes + i] != 0xff) {
      snprintf(message, sizeof message, "written %zu bytes behind the shared memory", i);
      return false;
    }
  return true;
}

template <class... A> struct Bound : Call {
  void (*kernel)(A...);
  void** arguments;
  template <size_t... I> void apply(std::index_sequence<I...>) { kernel(*(A*)arguments[I]...); }
  void operator()() override { apply(std::make_index_sequence<sizeof...(A)>()); }
};

// Returns nullptr, or a description of the error.
template <class... A>
const char* launch(void (*kernel)(A...), const unsigned* sizes, size_t shared_bytes, int order, void** arguments, int count,
                   const size_t* given, int given_count) {
  ranges = given;
  range_count = given_count;
  eager = order;
  if (count != sizeof...(A)) {
    snprintf(message, sizeof message, "expected %zu arguments, got %d", sizeof...(A), count);
    return message;
  }
  grid_size = {sizes[0], sizes[1], sizes[2]};
  block_size = {sizes[3], sizes[4], sizes[5]};
  unsigned threads = block_size.x * block_size.y * block_size.z;
  if (threads == 0 || threads > MOST || threads % 32) return "expected whole warps, 1024 threads at most";
  if (!stacks) stacks = (unsigned char*)malloc((size_t)MOST * STACK);
  shared = (unsigned char*)aligned_alloc(128, (shared_bytes + GUARD + 127) / 128 * 128);
  Bound<A...> bound;
  bound.kernel = kernel;
  bound.arguments = arguments;
  call = &bound;
  start(threads);
  bool right = true;
  for (unsigned z = 0; right && z < grid_size.z; z++)
    for (unsigned y = 0; right && y < grid_size.y; y++)
      for (unsigned x = 0; right && x < grid_size.x; x++) {
        block_index = {x, y, z};
        right = block(threads, shared_bytes, order);
      }
  free(shared);
  return right ? nullptr : message;
}

// The lanes of a warp exchange `mine`; the values that they see stay valid until the exchange after the next one.
template <class V> inline Exchange& meet(Meeting meeting, const V& mine) {
  static_assert(sizeof(V) <= 64);
  int number = current - fibers;
  Exchange& e = exchange[current->warp][parity[number]];
  parity[number] ^= 1;
  memcpy(e.slot[current->lane], &mine, sizeof(V));
  e.computed = false;
  current->meeting = meeting;
  leave(AT_WARP);
  return e;
}
template <class V> inline V shown(const Exchange& e, unsigned lane) {
  V v;
  memcpy(&v, e.slot[lane], sizeof(V));
  return v;
}
}  // namespace emulation

#define threadIdx (emulation::current->thread)
#define blockIdx (emulation::block_index)
#define blockDim (emulation::block_size)
#define gridDim (emulation::grid_size)
inline void __syncthreads() { emulation::leave(emulation::AT_BLOCK); }
inline void __syncwarp() { emulation::meet(emulation::SYNC, 0); }
template <class V> V __shfl_xor_sync(unsigned, V v, int mask) {
  return emulation::shown<V>(emulation::meet(emulation::SHUFFLE, v), emulation::current->lane ^ mask);
}
inline bool __any_sync(unsigned, bool mine) {
  const emulation::Exchange& e = emulation::meet(emulation::VOTE, mine);
  bool any = false;
  for (int lane = 0; lane < 32; lane++) any = any || emulation::shown<bool>(e, lane);
  return any;
}
template <class V> V __ldg(const V* p) {
  emulation::require_inside(p, sizeof(V));
  return *p;
}

struct float16 { unsigned short bits; };
struct bfloat16 { unsigned short bits; };
inline unsigned opaque(unsigned x) { return x; }
inline unsigned bits_of(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
inline float float_of(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
inline float to_float(float x) { return x; }
inline float to_float(bfloat16 x) { return float_of((unsigned)x.bits << 16); }
inline float to_float(float16 x) {
  _Float16 y;
  memcpy(&y, &x, 2);
  volatile float z = y;  // else g++ converts straight to a double where one is wanted, which takes a slow function
  return z;
}
inline void from_float(float x, float& y) { y = x; }
inline void from_float(float x, float16& y) { _Float16 h = (_Float16)x; memcpy(&y, &h, 2); }
inline void from_float(float x, bfloat16& y) {  // to the nearest, ties to even
  unsigned u = bits_of(x);
  y.bits = x != x ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
template <class T> unsigned pair_of(float first, float second) {
  T a, b;
  from_float(first, a);
  from_float(second, b);
  return a.bits | (unsigned)b.bits << 16;
}
template <class T> unsigned sum_of_pairs(T, unsigned a, unsigned b) {
  auto sum = [&](int shift) { return to_float(T{(unsigned short)(a >> shift)}) + to_float(T{(unsigned short)(b >> shift)}); };
  return pair_of<T>(sum(0), sum(16));
}
inline float exp2_fast(float x) { return exp2f(x); }
inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }  // 0 for NaN too
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }

namespace emulation {
// Tensor cores truncate a sum at a float's last bit, while a processor's additions round.
inline float cut_off(double x) {
  float y = (float)x;
  return fabs((double)y) > fabs(x) ? float_of(bits_of(y) - 1) : y;  // the next number towards 0
}
struct Fragments { unsigned a[4], b[2]; };
typedef double Row __attribute__((vector_size(64)));  // of 8 columns
// The first lane after the exchange computes for all: lane 4 g + t holds rows g and g + 8 of a and column g of b, and
// gets columns 2t and 2t + 1 of rows g and g + 8 of the product, as the PTX manual says.
template <int DEPTH, class Read>
void product(Meeting meeting, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Read read) {
  Fragments mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  Exchange& e = meet(meeting, mine);
  if (!e.computed) {
    e.computed = true;
    double left[16][DEPTH];
    Row right[DEPTH];
    for (int k = 0; k < DEPTH; k++) {
      for (int row = 0; row < 16; row++) left[row][k] = read(e, row % 8 * 4, k, row / 8, true);
      for (int column = 0; column < 8; column++) right[k][column] = read(e, column * 4, k, 0, false);
    }
    for (int row = 0; row < 16; row++) {
      Row sum = {};
      for (int k = 0; k < DEPTH; k++) sum += left[row][k] * right[k];
      memcpy(e.product[row], &sum, sizeof sum);
    }
  }
  unsigned g = current->lane / 4, t = current->lane % 4;
  for (unsigned i = 0; i < 4; i++) d[i] = cut_off(d[i] + e.product[g + i / 2 * 8][2 * t + i % 2]);
}
inline float half_of(float16, unsigned short bits) { return to_float(float16{bits}); }
inline float half_of(bfloat16, unsigned short bits) { return to_float(bfloat16{bits}); }
template <class T> void half_product(T type, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  product<16>(PRODUCT, d, a, b0, b1, [type](const Exchange& e, int quad, int k, int row, bool left) {
    const Fragments* f = (const Fragments*)e.slot[quad + k % 8 / 2];
    unsigned word = left ? f->a[k / 8 * 2 + row] : f->b[k / 8];
    return half_of(type, (unsigned short)(word >> 16 * (k % 2)));
  });
}
}  // namespace emulation
inline void tensor_product(float16 t, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) { emulation::half_product(t, d, a, b0, b1); }
inline void tensor_product(bfloat16 t, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) { emulation::half_product(t, d, a, b0, b1); }
inline void tensor_product_tf32(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  using namespace emulation;
  product<8>(PRODUCT_TF32, d, a, b0, b1, [](const Exchange& e, int quad, int k, int row, bool left) {
    const Fragments* f = (const Fragments*)e.slot[quad + k % 4];
    return float_of((left ? f->a[k / 4 * 2 + row] : f->b[k / 4]) & 0xffffe000);  // 10 bits of the mantissa
  });
}

namespace emulation {
inline void load(Meeting meeting, unsigned (&r)[4], const void* row) {
  if ((size_t)row % 16) fail("load_matrices: a row that is not aligned to 16 bytes");
  Exchange& e = meet(meeting, row);
  unsigned g = current->lane / 4, t = current->lane % 4;
  for (unsigned i = 0; i < 4; i++) {
    unsigned short two[2];
    for (unsigned j = 0; j < 2; j++) {
      unsigned line = meeting == LOAD ? g : 2 * t + j, column = meeting == LOAD ? 2 * t + j : g;
      two[j] = ((const unsigned short*)shown<const void*>(e, i * 8 + line))[column];
    }
    r[i] = two[0] | (unsigned)two[1] << 16;
  }
}
}  // namespace emulation
inline void load_matrices(unsigned (&r)[4], const void* row) { emulation::load(emulation::LOAD, r, row); }
inline void load_matrices_transposed(unsigned (&r)[4], const void* row) { emulation::load(emulation::LOAD_TRANSPOSED, r, row); }
namespace emulation {
constexpr unsigned BEGIN = 1024;  // a GPU's first kilobyte of shared memory is its own
inline const unsigned char* at_place(unsigned place) { return shared + (place - BEGIN); }
}  // namespace emulation
inline unsigned place_of(const void* memory) { return (const unsigned char*)memory - emulation::shared + emulation::BEGIN; }
inline void load_matrices(unsigned (&r)[4], unsigned place) { load_matrices(r, emulation::at_place(place)); }
inline void load_matrices_transposed(unsigned (&r)[4], unsigned place) { load_matrices_transposed(r, emulation::at_place(place)); }

namespace emulation {
inline void arrive_at(Barrier* b) {
  if (b->missing == 0) return fail("a barrier that expects nobody");
  if (--b->missing == 0) b->missing = b->expected, b->rounds++;
}
inline void copy_now(const Copy& c) {
  if (c.barrier) arrive_at(c.barrier);
  else if (c.there) memcpy(c.to, c.from, 16);
  else memset(c.to, 0, 16);
}
}  // namespace emulation
inline void store_words(void* global, const unsigned (&word)[4]) {
  if ((size_t)global % 16) emulation::fail("store_words: not aligned to 16 bytes");
  memcpy(global, word, 16);
}
inline void copy_chunk(void* to, const void* from, bool there) {
  emulation::Fiber& f = *emulation::current;
  if ((size_t)to % 16 || (there && (size_t)from % 16)) emulation::fail("copy_chunk: not aligned to 16 bytes");
  if (f.last - f.first == emulation::QUEUE) emulation::fail("copy_chunk: more copies under way than the emulation holds");
  if (there) emulation::require_inside(from, 16);
  if (emulation::eager) return emulation::copy_now({to, from, there, 0, nullptr});
  f.copies[f.last++ % emulation::QUEUE] = {to, from, there, f.group, nullptr};
}
namespace emulation {
// An element of an operand: a line is a row, or 64 rows of one k; eight lines have 1024 bytes. The chunks of a line
// are permuted according to the address of the line, so eight lines must begin at a multiple of 1024.
inline unsigned short at(const Lines& lines, int row, int k) {
  size_t place = lines.first - shared;
  place += lines.along ? row / 8 * 1024 + row % 8 * 128 + k * 2
                       : row / 64 * lines.blocks + k / 8 * 1024 + k % 8 * 128 + row % 64 * 2;
  return *(const unsigned short*)(shared + (place ^ (place / 128 % 8 * 16)));
}
// A warpgroup's product, computed for the elements that a lane holds.
template <class T> void add_product(const Product& p) {
  unsigned g = current->lane / 4, t = current->lane % 4;
  double left[2][16], right[16];
  for (int row = 0; row < 2; row++)
    for (int k = 0; k < 16; k++) left[row][k] = half_of(T{}, at(p.a, current->warp % 4 * 16 + g + row * 8, k));
  for (int i = 0; i < p.fragments * 2; i++) {
    for (int k = 0; k < 16; k++) right[k] = half_of(T{}, at(p.b, i / 2 * 8 + 2 * t + i % 2, k));
    for (int row = 0; row < 2; row++) {
      float& d = p.d[i / 2 * 4 + row * 2 + i % 2];
      double sum = d;
      for (int k = 0; k < 16; k++) sum += left[row][k] * right[k];
      d = cut_off(sum);
    }
  }
}
}  // namespace emulation
template <bool A_ALONG, bool B_ALONG, class T, int N>
void warpgroup_product(T, float (&d)[N][4], const unsigned char* a, const unsigned char* b, int blocks) {
  using namespace emulation;
  Fiber& f = *current;
  Exchange& e = meet(WARPGROUP, std::make_pair(a, b));
  if (shown<std::pair<const void*, const void*>>(e, 0) != std::make_pair((const void*)a, (const void*)b))
    fail("warpgroup_product: lanes with other operands");
  if (!f.open) fail("warpgroup_product: not between fence_products and commit_products");
  if (f.product_count == PRODUCTS) fail("warpgroup_product: more products under way than the emulation holds");
  f.products[f.product_count++] = {add_product<T>, d[0], N, {a, A_ALONG, blocks}, {b, B_ALONG, blocks}, f.product_group};
}
inline void fence_products() { emulation::current->open = true; }
// Computed at once or, where copies are made at once, as late as is allowed.
inline void do_products(int left) {
  emulation::Fiber& f = *emulation::current;
  int done = 0;
  for (; done < f.product_count && f.products[done].group < f.product_group - left; done++)
    f.products[done].add(f.products[done]);
  f.product_count -= done;
  memmove(f.products, f.products + done, f.product_count * sizeof(emulation::Product));
}
inline void commit_products() {
  emulation::current->open = false;
  emulation::current->product_group++;
  if (!emulation::eager) do_products(0);
}
template <int LEFT = 0, int N> void wait_for_products(float (&)[N][4]) { do_products(LEFT); }

using emulation::Barrier;
inline void init_barrier(Barrier* b, int arrivals) { *b = {(unsigned short)arrivals, (unsigned short)arrivals, 0, 0}; }
inline void arrive(Barrier* b) { emulation::arrive_at(b); }
inline void arrive_after_copies(Barrier* b) {
  emulation::Fiber& f = *emulation::current;
  if (f.last - f.first == emulation::QUEUE) emulation::fail("copy_chunk: more copies under way than the emulation holds");
  if (emulation::eager) return emulation::arrive_at(b);
  f.copies[f.last++ % emulation::QUEUE] = {nullptr, nullptr, false, f.group, b};
}
namespace emulation {
inline bool is_over(Fiber& f) {
  if (f.barrier->rounds % 2 != f.round) return true;
  for (int i = 0; i < started; i++) {  // copies that this barrier waits for, and earlier ones
    int end = fibers[i].first;
    for (int n = fibers[i].first; n < fibers[i].last; n++)
      if (fibers[i].copies[n % QUEUE].barrier == f.barrier) end = n + 1;
    for (int& n = fibers[i].first; n < end; n++) copy_now(fibers[i].copies[n % QUEUE]);
  }
  return f.barrier->rounds % 2 != f.round;
}
}  // namespace emulation
inline void wait_at(Barrier* b, int round) {
  emulation::Fiber& f = *emulation::current;
  f.barrier = b;
  f.round = round;
  while (!emulation::is_over(f)) emulation::leave(emulation::AT_BARRIER);
}

inline void commit_copies() { emulation::current->group++; }
template <int LEFT> void wait_for_copies() {
  emulation::Fiber& f = *emulation::current;
  for (; f.first < f.last && f.copies[f.first % emulation::QUEUE].group < f.group - LEFT; f.first++)
    emulation::copy_now(f.copies[f.first % emulation::QUEUE]);
}

#define LAUNCHABLE(name)                                                                                                   \
  extern "C" const char* launch_##name(const unsigned* sizes, size_t shared, int order, void** arguments, int count,       \
                                     const size_t* ranges, int range_count) {                                              \
    return emulation::launch(name, sizes, shared, order, arguments, count, ranges, range_count);                           \
  }
