// What attention's kernels share: heads in memory, tiles of them in shared memory, a warp's sixteen rows of scores.
//
// Scores are never in memory: a warp holds those of 16 rows (queries) and TILE columns (keys) in registers, turns them
// into probabilities, multiplies, and forgets them.  Everything that a row of the result needs passes by in tiles.
// A score is q k + bias / scale, so that it is summed up from the bias on, which lies divided in memory; and its weight
// is 2^(scale · score), which with log2(e) in `scale` is e^(the usual score), for one multiplication and addition.
#pragma once
#include "result.cuh"

#ifndef KEY_SIZE
#define KEY_SIZE 16  // numbers of a query and of a key: D, a power of two from 16
#define VALUE_SIZE 32
#endif

constexpr int TILE = 64;  // tokens that shared memory is shared out by, and attention_bias's columns
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

// `lines` tokens (zeros from `end` on) from `first` on, copied to shared memory by `threads` threads, whole warps: a
// thread keeps to its chunks of a line, so that from line to line only one addition is left of the address.
template <int CHUNKS>
INLINE void copy_tokens(unsigned char* to, const element* tokens, int stride, int first, int lines, int end,
                        int thread, int threads) {
  constexpr int ACROSS = CHUNKS < WARP ? CHUNKS : WARP;
  int lines_apart = threads / ACROSS, step = lines_apart * stride;
#pragma unroll
  for (int across = 0; across < CHUNKS; across += ACROSS) {
    int chunk = across + thread % ACROSS;
    const element* from = tokens + (long long)(first + thread / ACROSS) * stride + chunk * CHUNK;
#pragma unroll 1
    for (int line = thread / ACROSS; line < lines; line += lines_apart, from += step) {
      bool there = first + line < end;
      copy_chunk(to + offset<CHUNKS>(line, chunk), from, there);
    }
  }
}

// Sixteen tokens from `row` on as fragments of a, straight from memory; zeros from `rows` on.
template <int PARTS>
INLINE void load_rows(unsigned (&r)[PARTS][4], const element* tokens, long long stride, int row, int rows) {
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

// From a multiple of eight tokens on, chunks lie in the same order as from the first on (see offset): to move the
// pointer by these, as below, costs nothing, for it becomes a part of the instruction that loads.
template <int CHUNKS> INLINE const unsigned char* from_token(const unsigned char* tokens, int first) {
  return tokens + first * (CHUNKS * CHUNK_BYTES);
}

// c[16 rows][16 columns from `column` on] += rows · columnsᵀ, summed over a token's numbers.
template <int PARTS>
INLINE void add_product(float (*c)[4], const unsigned (&rows)[PARTS][4], const unsigned char* tokens, int column) {
#pragma unroll
  for (int part = 0; part < PARTS; part++) {
    unsigned b[4];
    b_along<PARTS * 2>(b, from_token<PARTS * 2>(tokens, column), 0, part);
    tensor_product(element{}, c[0], rows[part], b[0], b[1]);
    tensor_product(element{}, c[1], rows[part], b[2], b[3]);
  }
}

// sums[16 rows][SIZE] += weights[16 rows][16 tokens from `token` on] · tokens.
template <int SIZE>
INLINE void add_weighted_tokens(float (&sums)[SIZE / 8][4], const unsigned (*weights)[4], const unsigned char* tokens,
                                int token) {
#pragma unroll
  for (int part = 0; part < GROUP_PARTS; part++)
#pragma unroll
    for (int column = 0; column < SIZE; column += 16) {
      unsigned b[4];
      const unsigned char* lines = from_token<SIZE / CHUNK>(tokens, token + part * 16 / GROUP_PARTS);
      b_across<SIZE / CHUNK, NEIGHBOURS>(b, lines, column, 0);
      tensor_product(element{}, sums[column / 8], weights[part], b[0], b[1]);
      tensor_product(element{}, sums[column / 8 + 1], weights[part], b[2], b[3]);
    }
}
template <int SIZE>
INLINE void add_weighted_tokens(float (&sums)[SIZE / 8][4], const float (*weights)[4], const unsigned char* tokens,
                                int token) {
  unsigned a[GROUP_PARTS][4];
#pragma unroll
  for (int part = 0; part < GROUP_PARTS; part++) a_of_result(a[part], weights, part, element{});
  add_weighted_tokens<SIZE>(sums, a, tokens, token);
}

// The bias of 16 rows and 8 columns lies in memory in the order of the lanes' registers, so that a warp reads it in one
// piece (see bias.cu).  Columns that are not there have a bias of -infinity, and so no probability.
// A lane's are words until they are needed: the compiler would give each number of 16 bits a register of its own.
struct alignas(4 * sizeof(element)) Quad { unsigned word[sizeof(element)]; };
INLINE const Quad* bias_of(const element* bias, int head, int row, int row_tiles, int column_tiles) {
  return (const Quad*)bias + ((long long)head * row_tiles + row / 16) * column_tiles * WARP + threadIdx.x % WARP;
}

// Scores of 16 rows and 8 columns, as yet nothing but the bias.
INLINE void start(float (&scores)[4], const Quad& bias) {
  union { unsigned word[sizeof(element)]; element value[4]; } quad;
#pragma unroll
  for (int i = 0; i < (int)sizeof(element); i++) quad.word[i] = bias.word[i];
#pragma unroll
  for (int e = 0; e < 4; e++) scores[e] = to_float(quad.value[e]);
}

// Over the four lanes that share a row.
INLINE float row_maximum(float x) {
  x = fmaxf(x, __shfl_xor_sync(EVERY_LANE, x, 1));
  return fmaxf(x, __shfl_xor_sync(EVERY_LANE, x, 2));
}

// sums[16 rows][SIZE] · factor to where a row's numbers begin, to + n · stride; of the rows from `row` on, those before
// `rows`.
template <int SIZE>
INLINE void store_rows(float (&sums)[SIZE / 8][4], element* to, long long stride, int row, int rows, float factor = 1) {
#pragma unroll
  for (int i = 0; i < SIZE / 8; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[i][e] *= factor;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int n = row + threadIdx.x % WARP / 4 + half * 8;
#pragma unroll
    for (int i = 0; i < (SIZE / 8 + GATHERED - 1) / GATHERED; i++) {
      Chunk y = chunk_of_fragments(sums, i, half);
      int column = i * GATHERED * 8 + gathered_column();
      if (n < rows && column < SIZE) *(Chunk*)(to + n * stride + column) = y;
    }
  }
}

INLINE int at_most(int x, int most) { return x < most ? x : most; }

// Which image and head a thread works for, and which rows.  A block is one head's rows, 16 a warp, in x; where a head
// has few of them, several heads in y.
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

// Two arrays of tokens in step in shared memory, which has room for HELD of each.  LeViT's are no more, but for wide
// heads of floats: they are waited for once, and then no warp waits for another.  Of more tokens, each HELD take the
// place of those before.
constexpr int LINE_BYTES = (K_CHUNKS + V_CHUNKS) * CHUNK_BYTES, MOST_BYTES = 99 << 10;
constexpr int TILES_HELD = MOST_BYTES / (TILE * LINE_BYTES);
constexpr int HELD = TILE * (TILES_HELD < 2 ? 2 : TILES_HELD < 4 ? TILES_HELD : 4);

template <int FIRST_CHUNKS, int SECOND_CHUNKS> struct Stream {
  unsigned char *first_memory, *second_memory;
  const Heads first, second;
  int image, head, count, lines;  // lines: as many as tokens, in whole sixteens

  INLINE Stream(unsigned char* shared, const Heads& first, const Heads& second, const Place& place, int count)
      : first(first), second(second), image(place.image), head(place.head), count(count),
        lines((count + 15) / 16 * 16) {
    int held = at_most(lines, HELD);
    first_memory = shared + threadIdx.y * held * LINE_BYTES;
    second_memory = first_memory + held * FIRST_CHUNKS * CHUNK_BYTES;
  }
  // The tokens from `begin` on, as many as there is room for; `again`: for other rows, with which all may be there
  // still.
  // -> the groups of 16 that these are
  INLINE int bring(int begin, bool again = false) const {
    if (again && lines <= HELD) return lines / 16;
    if (begin || again) __syncthreads();  // nobody reads any more what they take the place of
    // What a lane tells itself the compiler does not know: it computes here what follows, where it would hold in
    // registers, from the first tokens to the last, all that is the same each time that tokens are brought.
    int thread = __shfl_sync(EVERY_LANE, (int)threadIdx.x, threadIdx.x % WARP);
    int size = at_most(lines - begin, HELD);
    copy_tokens<FIRST_CHUNKS>(first_memory, first.at(image, head, 0), first.token, begin, size, count, thread,
                              blockDim.x);
    copy_tokens<SECOND_CHUNKS>(second_memory, second.at(image, head, 0), second.token, begin, size, count, thread,
                               blockDim.x);
    end_copies();
    wait_for_copies<0>();
    __syncthreads();
    return size / 16;
  }
};
