// Attention of many (image, head) pairs with many queries on Hopper: as attention.cu, but a block works through one
// pair after another, and meanwhile copies the next one's tokens.
//
// The rows of all pairs are dealt to the warps in turn, 16 at a time. There is no barrier of the whole block: a pair's
// barriers say when its tokens have arrived and when all its rows are done, so that each warp proceeds by itself, and
// while one waits, others work. Copies are dealt likewise: with its rows a warp gets a share of the next pair's tokens
// to copy.
#include "softmax.cuh"

// Shared memory holds SLOTS pairs: those that the warps work on, at most three if a pair has at least half as many
// tiles of rows as there are warps, and the one being copied. The launcher gives it no pairs with fewer tiles: a warp
// could then come to a barrier two rounds late, which it cannot tell from none.
constexpr int WARPS = 16, SLOTS = 4;

// One warp copies 16 tokens, with zeros from the `end`-th on.
template <int CHUNKS> INLINE void copy_group(unsigned char* lines, const element* tokens, int stride, int end) {
  constexpr int APART = WARP / CHUNKS;
  int lane = threadIdx.x % WARP, chunk = lane % CHUNKS;
  const element* from = tokens + lane / CHUNKS * stride + chunk * CHUNK;
#pragma unroll
  for (int first = 0; first < 16; first += APART, from += APART * stride) {
    int line = first + lane / CHUNKS;
    copy_chunk(lines + offset<CHUNKS>(line, chunk), from, line < end);
  }
}

// The arguments are attention's.
KERNEL __launch_bounds__(WARPS * WARP, 1)
attention_pairs(const element* q, const element* k, const element* v, const element* bias, element* y,
                float* logarithms, int images, int heads, int queries, int keys, long long q_image, long long q_token,
                long long q_head, long long k_image, long long k_token, long long k_head, long long v_image,
                long long v_token, long long v_head, int bias_heads, int row_tiles, int column_tiles, float scale,
                int activation) {
  SHARED_MEMORY;
  int groups = (keys + 15) / 16, value_place = groups * 16 * K_CHUNKS * CHUNK_BYTES;
  int query_place = groups * 16 * LINE_BYTES, slot_bytes = query_place + row_tiles * 16 * K_CHUNKS * CHUNK_BYTES;
  Barrier *arrived = (Barrier*)(shared_memory + SLOTS * slot_bytes), *done = arrived + SLOTS;
  if (threadIdx.x == 0)
    for (int i = 0; i < SLOTS; i++) {
      init_barrier(arrived + i, row_tiles * WARP);
      init_barrier(done + i, row_tiles);
    }
  __syncthreads();

  // A block's n-th pair is number n · gridDim.x + blockIdx.x of all: blocks that run together share a head, and its
  // bias. Rows are dealt of the pairs -1, 0, …: with pair -1's there is nothing to do but to copy pair 0.
  unsigned pairs = (images * heads - blockIdx.x + gridDim.x - 1) / gridDim.x, items = (pairs + 1) * row_tiles;
#pragma unroll 1
  for (unsigned first = 0; first < items; first += WARPS) {  // uniform for all warps, which takes fewer instructions
    unsigned item = first + threadIdx.x / WARP;
    if (item >= items) break;
    unsigned coming = item / row_tiles, tile = item - coming * row_tiles;
    if (coming < pairs) {
      unsigned number = coming * gridDim.x + blockIdx.x, head = number / images, image = number - head * images;
      unsigned char* slot = shared_memory + coming % SLOTS * slot_bytes;
      if (coming >= SLOTS) wait_at(done + coming % SLOTS, (coming / SLOTS - 1) % 2);
#pragma unroll 1
      for (int key = tile * 16; key < keys; key += row_tiles * 16) {
        copy_group<K_CHUNKS>(slot + key * K_CHUNKS * CHUNK_BYTES,
                             Heads{k, k_image, k_token, k_head}.at(image, head, key), k_token, keys - key);
        copy_group<V_CHUNKS>(slot + value_place + key * V_CHUNKS * CHUNK_BYTES,
                             Heads{v, v_image, v_token, v_head}.at(image, head, key), v_token, keys - key);
      }
      copy_group<K_CHUNKS>(slot + query_place + tile * 16 * K_CHUNKS * CHUNK_BYTES,
                           Heads{q, q_image, q_token, q_head}.at(image, head, tile * 16), q_token, queries - tile * 16);
      arrive_after_copies(arrived + coming % SLOTS);
    }
    if (coming == 0) continue;

    unsigned now = coming - 1, number = now * gridDim.x + blockIdx.x, head = number / images;
    const unsigned char* slot = shared_memory + now % SLOTS * slot_bytes;
    NextBias<AT_ONCE> next(bias_of(bias, bias_heads > 1 ? head : 0, tile * 16, row_tiles, column_tiles), groups);
    wait_at(arrived + now % SLOTS, now / SLOTS % 2);
    unsigned query[K_PARTS][4];
#pragma unroll
    for (int part = 0; part < K_PARTS; part++) a_along<K_CHUNKS>(query[part], slot + query_place, tile * 16, part);
    Softmax rows;
    rows.add(0, groups, query, slot, slot + value_place, next, scale);
    __syncwarp();  // all lanes have read
    if (threadIdx.x % WARP == 0) arrive(done + now % SLOTS);
    rows.store(y, logarithms, number - head * images, head, heads, tile * 16, queries, activation);
  }
  commit_copies();  // a thread must not end before its copies
  wait_for_copies<0>();
}
LAUNCHABLE(attention_pairs)
