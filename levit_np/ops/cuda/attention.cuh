// What attention's kernels share: heads in memory, tiles of them in shared memory, a warp's sixteen rows of scores.
//
// Scores are never in memory: a warp holds those of 16 rows (queries) and TILE columns (keys) in registers, turns them
// into probabilities, multiplies, and forgets them.  Everything that a row of the result needs passes by in tiles.
// Scores are to base 2: what is 2^score here is e^score, with log2(e) in `scale` and in the bias.
#pragma once
#include "matrix.cuh"

#ifndef KEY_SIZE
#define KEY_SIZE 16  // numbers of a query and of a key: D, a power of two from 16
#define VALUE_SIZE 32
#endif

constexpr int TILE = 64;  // columns of scores that a warp holds at a time
constexpr int K_CHUNKS = KEY_SIZE / CHUNK, V_CHUNKS = VALUE_SIZE / CHUNK;
constexpr int K_PARTS = K_CHUNKS / 2, V_PARTS = V_CHUNKS / 2;  // 32 bytes, which a tensor_product takes at a time
constexpr int GROUP_PARTS = 16 / (2 * CHUNK);                  // the same of 16 columns of scores, as k of the next product
constexpr int MOST_THREADS = 256;

// The tokens of all heads in memory: head h's numbers of token n of image b begin at b · image + n · token + h · head.
struct Heads {
  const element* memory;
  long long image, token, head;
  INLINE const element* at(int b, int h, int n) const { return memory + b * image + n * token + h * head; }
};

// `lines` tokens (zeros from `end` on) from `first` on, copied to shared memory by `threads` threads.
template <int CHUNKS>
INLINE void copy_tokens(unsigned char* to, const element* tokens, long long stride, int first, int lines, int end,
                        int thread, int threads) {
  for (int i = thread; i < lines * CHUNKS; i += threads) {
    int line = i / CHUNKS, chunk = i % CHUNKS;
    bool there = first + line < end;
    copy_chunk(to + offset<CHUNKS>(line, chunk), there ? tokens + (first + line) * stride + chunk * CHUNK : tokens, there);
  }
}

// Sixteen tokens from `row` on as fragments of a, straight from memory; zeros from `rows` on.
template <int PARTS> INLINE void load_rows(unsigned (&r)[PARTS][4], const element* tokens, long long stride, int row, int rows) {
  int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int part = 0; part < PARTS; part++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int n = row + g + i % 2 * 8;
      const element* place = tokens + n * stride + (part * 2 + i / 2) * CHUNK;
      r[part][i] = n < rows ? __ldg((const unsigned*)place + t) : 0;
    }
}

// c[16 rows][16 columns from `column` on] = rows · columnsᵀ, summed over a token's numbers.
template <int PARTS> INLINE void product_with_tokens(float (*c)[4], const unsigned (&rows)[PARTS][4], const unsigned char* tokens, int column) {
#pragma unroll
  for (int e = 0; e < 8; e++) c[e / 4][e % 4] = 0;
#pragma unroll
  for (int part = 0; part < PARTS; part++) {
    unsigned b[4];
    b_along<PARTS * 2>(b, tokens, column, part);
    tensor_product(element{}, c[0], rows[part], b[0], b[1]);
    tensor_product(element{}, c[1], rows[part], b[2], b[3]);
  }
}

// sums[16 rows][SIZE] += scores[16 rows][16 tokens from `token` on] · tokens.
template <int SIZE> INLINE void add_weighted_tokens(float (&sums)[SIZE / 8][4], const float (*scores)[4], const unsigned char* tokens, int token) {
#pragma unroll
  for (int part = 0; part < GROUP_PARTS; part++) {
    unsigned a[4];
    a_of_result(a, scores, part, element{});
#pragma unroll
    for (int column = 0; column < SIZE; column += 16) {
      unsigned b[4];
      b_across<SIZE / CHUNK, NEIGHBOURS>(b, tokens, column, token * GROUP_PARTS / 16 + part);
      tensor_product(element{}, sums[column / 8], a, b[0], b[1]);
      tensor_product(element{}, sums[column / 8 + 1], a, b[2], b[3]);
    }
  }
}

// The bias of 16 rows and 16 columns lies in memory in the order of the lanes' registers, so that a warp reads it in one
// piece (see bias.cu).  Columns that are not there have a bias of -infinity, and so no probability.
struct alignas(4 * sizeof(element)) Quad { element value[4]; };
INLINE const Quad* bias_of(const element* bias, int head, int row, int row_tiles, int column_tiles) {
  return (const Quad*)bias + ((long long)head * row_tiles + row / 16) * column_tiles * WARP + threadIdx.x % WARP;
}

// scores[16 rows][16 columns] = scale · scores + bias.
INLINE void scale_and_bias(float (*scores)[4], float scale, const Quad* bias) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    Quad q = bias[i * WARP];
#pragma unroll
    for (int e = 0; e < 4; e++) scores[i][e] = scores[i][e] * scale + to_float(q.value[e]);
  }
}

// Over the four lanes that share a row.
INLINE float row_maximum(float x) {
  x = fmaxf(x, __shfl_xor_sync(EVERY_LANE, x, 1));
  return fmaxf(x, __shfl_xor_sync(EVERY_LANE, x, 2));
}
INLINE float row_sum(float x) {
  x += __shfl_xor_sync(EVERY_LANE, x, 1);
  return x + __shfl_xor_sync(EVERY_LANE, x, 2);
}

INLINE int at_most(int x, int most) { return x < most ? x : most; }

// Which image and head a thread works for, and which rows.  A block is one head's rows, 16 a warp, in x; where a head has
// few of them, several heads in y.
struct Place {
  int image, head, row, thread, threads, number;
  bool there;
  INLINE Place(int images, int heads) {
    number = blockIdx.x * blockDim.y + threadIdx.y;
    there = number < images * heads;
    head = at_most(number, images * heads - 1) / images;  // neighbours in time share a head, and its bias
    image = at_most(number, images * heads - 1) % images;
    thread = threadIdx.x;
    threads = blockDim.x;
    row = (blockIdx.y * blockDim.x + threadIdx.x) / WARP * 16;
  }
};

// Two arrays of tokens in step, tile after tile, through shared memory, the next tile on its way while one is used.
template <int FIRST_CHUNKS, int SECOND_CHUNKS> struct Stream {
  unsigned char* memory;
  const element *first, *second;
  long long first_stride, second_stride;
  int count, lines;  // of tokens; of a tile

  INLINE Stream(unsigned char* shared, const Heads& a, const Heads& b, const Place& place, int count)
      : first(a.at(place.image, place.head, 0)), second(b.at(place.image, place.head, 0)), first_stride(a.token),
        second_stride(b.token), count(count), lines(at_most(TILE, (count + 15) / 16 * 16)) {
    memory = shared + threadIdx.y * (count > TILE ? 2 : 1) * bytes();
  }
  INLINE int bytes() const { return lines * (FIRST_CHUNKS + SECOND_CHUNKS) * CHUNK_BYTES; }
  INLINE int tiles() const { return (count + TILE - 1) / TILE; }
  INLINE int groups(int tile) const { return (at_most(TILE, count - tile * TILE) + 15) / 16; }  // of 16 tokens
  INLINE unsigned char* first_of(int tile) const { return memory + tile % 2 * bytes(); }
  INLINE unsigned char* second_of(int tile) const { return first_of(tile) + lines * FIRST_CHUNKS * CHUNK_BYTES; }
  INLINE void copy(int tile) const {
    if (tile < tiles()) {
      copy_tokens<FIRST_CHUNKS>(first_of(tile), first, first_stride, tile * TILE, lines, count, threadIdx.x, blockDim.x);
      copy_tokens<SECOND_CHUNKS>(second_of(tile), second, second_stride, tile * TILE, lines, count, threadIdx.x, blockDim.x);
    }
    end_copies();
  }
  // Before a tile is used: the next is under way, this one has arrived.
  INLINE void begin(int tile) const {
    copy(tile + 1);
    wait_for_copies<1>();
    __syncthreads();
  }
  // After it: nobody reads it any more, so that it may be overwritten.
  INLINE void end() const { __syncthreads(); }
};
