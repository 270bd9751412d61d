// What attention's kernels share: heads in memory, their tokens in shared memory, a warp's sixteen rows of scores.
//
// Scores never go to memory: a warp holds those of 16 rows (queries) and 16 or 32 columns (keys) in registers, turns
// them into probabilities, multiplies, and forgets them; all keys and values pass by in shared memory. A score is q k +
// bias / scale: the bias, which memory holds divided, is what the product starts from. Its weight is 2^(scale · score),
// which with log2(e) in `scale` is e^(the usual score), for one multiply-add.
#pragma once
#include "result.cuh"

#ifndef KEY_SIZE
#define KEY_SIZE 16  // D, the size of a query and of a key: a power of two from 16
#define VALUE_SIZE 32
#endif

constexpr int TILE = 64;  // tokens, of which shared memory holds a multiple
constexpr int K_CHUNKS = KEY_SIZE / CHUNK, V_CHUNKS = VALUE_SIZE / CHUNK;
constexpr int K_PARTS = K_CHUNKS / 2, V_PARTS = V_CHUNKS / 2;  // of 32 bytes, which a tensor_product takes at a time
constexpr int GROUP_PARTS = 16 / (2 * CHUNK);  // the same for 16 columns of scores, as k of the next product

// The tokens of all heads in memory: token n of head h of image b begins at b · image + n · token + h · head.
struct Heads {
  const element* memory;
  long long image, token, head;
  INLINE const element* at(int b, int h, int n) const { return memory + b * image + n * token + h * head; }
};

// Copies `lines` tokens (zeros from `end` on), starting at `first`, to shared memory by `threads` threads, whole warps.
// A thread keeps to the same chunks of each line, so that the next address is one addition.
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

// Tokens in shared memory, from a multiple of sixteen on: their chunks are permuted like the first sixteen's (see
// offset). A lane's chunk enters the address last, as offset(line, chunk ^ d) = offset(line, chunk) ^ 16 d: so the rest
// of the address is the same for all chunks, and a constant number of tokens is part of the instruction.
template <int CHUNKS> struct Tokens {
  static constexpr int BYTES = CHUNKS * CHUNK_BYTES;
  const unsigned char* memory;
  int begin;  // bytes after it

  // Fragments as b_along's: of 16 columns, the tokens from `column` on.
  INLINE void along(unsigned (&r)[4], int column, int part) const {
    int lane = threadIdx.x % WARP, own = offset<CHUNKS>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    load_matrices(r, memory + ((begin + own) ^ part * 2 * CHUNK_BYTES) + column * BYTES);
  }
  // As b_across's: of 16 columns from `column` on, with k running over the tokens from `token` on.
  INLINE void across(unsigned (&r)[4], int token, int column) const {
    if (sizeof(element) == 4) return b_across<CHUNKS, NEIGHBOURS>(r, memory + begin + token * BYTES, column, 0);
    int lane = threadIdx.x % WARP, own = offset<CHUNKS>(lane % 16, lane / 16);
    load_matrices_transposed(r, memory + ((begin + own) ^ column / CHUNK * CHUNK_BYTES) + token * BYTES);
  }
};

// c[16 rows][16 columns from `column` on] += rows · columnsᵀ, summed over a token's numbers. For wide heads of floats
// the registers cannot keep, from group to group, what tensor_product derives from the rows: opaque() has it computed
// again.
constexpr bool WIDE_FLOATS = sizeof(element) == 4 && K_PARTS + V_PARTS > 16;
template <int PARTS, class Columns>
INLINE void add_product(float (*c)[4], const unsigned (&rows)[PARTS][4], const Columns& tokens, int column) {
#pragma unroll
  for (int part = 0; part < PARTS; part++) {
    unsigned a[4], b[4];
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = WIDE_FLOATS ? opaque(rows[part][i]) : rows[part][i];
    tokens.along(b, column, part);
    tensor_product(element{}, c[0], a, b[0], b[1]);
    tensor_product(element{}, c[1], a, b[2], b[3]);
  }
}

// sums[16 rows][SIZE] += weights[16 rows][16 tokens from `token` on] · tokens.
template <int SIZE, class Lines>
INLINE void add_weighted_tokens(float (&sums)[SIZE / 8][4], const unsigned (*weights)[4], const Lines& tokens,
                                int token) {
#pragma unroll
  for (int part = 0; part < GROUP_PARTS; part++)
#pragma unroll
    for (int column = 0; column < SIZE; column += 16) {
      unsigned b[4];
      tokens.across(b, token + part * 16 / GROUP_PARTS, column);
      tensor_product(element{}, sums[column / 8], weights[part], b[0], b[1]);
      tensor_product(element{}, sums[column / 8 + 1], weights[part], b[2], b[3]);
    }
}
template <int SIZE>
INLINE void add_weighted_tokens(float (&sums)[SIZE / 8][4], const float (*weights)[4],
                                const Tokens<SIZE / CHUNK>& tokens, int token) {
  unsigned a[GROUP_PARTS][4];
#pragma unroll
  for (int part = 0; part < GROUP_PARTS; part++) a_of_result(a[part], weights, part, element{});
  add_weighted_tokens<SIZE>(sums, a, tokens, token);
}

// The bias of 16 rows and 8 columns lies in memory in the order of the lanes' registers, so that a warp reads it
// contiguously (see bias.cu). Missing columns have a bias of -infinity, and so a probability of 0. A lane keeps its
// numbers as words until they are needed: the compiler would give each 16-bit number its own register.
struct alignas(4 * sizeof(element)) Quad { unsigned word[sizeof(element)]; };
INLINE const Quad* bias_of(const element* bias, int head, int row, int row_tiles, int column_tiles) {
  return (const Quad*)bias + ((long long)head * row_tiles + row / 16) * column_tiles * WARP + threadIdx.x % WARP;
}

INLINE Quad quad_of(const float (&x)[4], float) {
  Quad quad;
#pragma unroll
  for (int i = 0; i < 4; i++) quad.word[i] = bits_of(x[i]);
  return quad;
}
template <class T> INLINE Quad quad_of(const float (&x)[4], T) {
  Quad quad;
#pragma unroll
  for (int i = 0; i < 2; i++) quad.word[i] = pair_of<T>(x[i * 2], x[i * 2 + 1]);
  return quad;
}

// The numbers of a lane's words.
INLINE void numbers_of(float (&x)[4], const Quad& quad, float) {
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = float_of(quad.word[i % sizeof(element)]);
}
INLINE void numbers_of(float (&x)[4], const Quad& quad, bfloat16) {  // the upper halves of floats
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = float_of(i % 2 ? quad.word[i / 2] & 0xffff0000 : quad.word[i / 2] << 16);
}
INLINE void numbers_of(float (&x)[4], const Quad& quad, float16) {
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = to_float(float16{(unsigned short)(quad.word[i / 2] >> i % 2 * 16)});
}

// The bias of a warp's next AT_ONCE groups, read long before it is needed.
template <int AT_ONCE> struct NextBias {
  const Quad* place;
  int left;  // groups from here on
  Quad quads[AT_ONCE * 2];
  INLINE NextBias(const Quad* row, int groups) : place(row), left(groups) { pass(0); }
  INLINE void pass(int count) {
    place += count * 2 * WARP;
    left -= count;
#pragma unroll
    for (int i = 0; i < AT_ONCE * 2; i++)
      if (i / 2 < left) quads[i] = place[i * WARP];
  }
  // Starts the scores of 16 rows and the i-th group's columns with the bias.
  INLINE void start(float (*scores)[4], int i) const {
    numbers_of(scores[0], quads[i * 2], element{});
    numbers_of(scores[1], quads[i * 2 + 1], element{});
  }
};

// Reductions over the four lanes that share a row.
INLINE float row_maximum(float x) {
  x = fmaxf(x, __shfl_xor_sync(EVERY_LANE, x, 1));
  return fmaxf(x, __shfl_xor_sync(EVERY_LANE, x, 2));
}
INLINE float row_sum(float x) {
  x += __shfl_xor_sync(EVERY_LANE, x, 1);
  return x + __shfl_xor_sync(EVERY_LANE, x, 2);
}

// Writes sums[16 rows][SIZE] · factor: row n, from `row` on and below `rows`, to `to + n · stride`.
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
      unsigned words[4];
      memcpy(words, &y, CHUNK_BYTES);
      int column = i * GATHERED * 8 + gathered_column();
      if (n < rows && column < SIZE) store_words(to + n * stride + column, words);
    }
  }
}

INLINE int at_most(int x, int most) { return x < most ? x : most; }

// The image, head and rows that a thread works on. A block has one head's rows, 16 a warp, along x; where a head has
// few rows, several heads along y. It is recomputed where it is needed: kept from the first tokens to the last result
// it would occupy registers.
struct Place {
  int image, head, row;
  bool there;
  INLINE Place(int images, int heads) {
    int number = opaque(blockIdx.x) * blockDim.y + threadIdx.y;
    there = number < images * heads;
    head = at_most(number, images * heads - 1) / images;  // blocks that run together share a head, and its bias
    image = at_most(number, images * heads - 1) % images;
    row = (blockIdx.y * blockDim.x + threadIdx.x) / WARP * 16;
  }
};

// work(group, count) for the groups from `group` to `end`, AT_ONCE at a time while there are so many. The count is a
// compile-time constant, so that there are no branches inside, and the compiler may overlap the groups' work.
template <int AT_ONCE, class Work> INLINE void by_groups(int group, int end, Work work) {
#pragma unroll 1
  for (; group + AT_ONCE <= end; group += AT_ONCE) work(group, Constant<AT_ONCE>{});
  if (AT_ONCE > 1)
#pragma unroll 1
    for (; group < end; group++) work(group, Constant<1>{});
}

// Two arrays of tokens (keys and values, say) in shared memory, HELD of each at a time. Except for wide heads of
// floats, LeViT has no more: they are waited for once, and then no warp waits for another. Where there are more, each
// HELD replace those before. HELD is whole tiles or, where two do not fit, whole groups of sixteen.
constexpr int LINE_BYTES = (K_CHUNKS + V_CHUNKS) * CHUNK_BYTES, MOST_BYTES = 99 << 10;
constexpr int TILES_HELD = MOST_BYTES / (TILE * LINE_BYTES), GROUPS_HELD = MOST_BYTES / (16 * LINE_BYTES);
constexpr int HELD = TILES_HELD >= 2 ? TILE * (TILES_HELD < 4 ? TILES_HELD : 4) : 16 * (GROUPS_HELD ? GROUPS_HELD : 1);

template <int FIRST_CHUNKS, int SECOND_CHUNKS> struct Stream {
  unsigned char *first_memory, *second_memory;
  const Heads first, second;
  int images, heads, count, lines;  // lines: count rounded up to sixteens

  INLINE Stream(unsigned char* shared, const Heads& first, const Heads& second, int images, int heads, int count)
      : first(first), second(second), images(images), heads(heads), count(count), lines((count + 15) / 16 * 16) {
    int held = at_most(lines, HELD);
    first_memory = shared + threadIdx.y * held * LINE_BYTES;
    second_memory = first_memory + held * FIRST_CHUNKS * CHUNK_BYTES;
    ask(0);  // they arrive while the warps read their own tokens
  }
  // The group's tokens, once they have arrived.
  INLINE Tokens<FIRST_CHUNKS> first_of(unsigned group) const {
    return {first_memory, (int)(group % (HELD / 16)) * 16 * Tokens<FIRST_CHUNKS>::BYTES};
  }
  INLINE Tokens<SECOND_CHUNKS> second_of(unsigned group) const {
    return {second_memory, (int)(group % (HELD / 16)) * 16 * Tokens<SECOND_CHUNKS>::BYTES};
  }
  // work(group, end) for the groups of 16 tokens that are present at a time, by the warps that have rows; all warps
  // wait.
  template <class Work> INLINE void pass(bool there, Work work) const {
    for (int group = 0, end; group < lines / 16; group = end) {
      end = group + bring(group * 16);
      if (there) work(group, end);
    }
  }

 private:
  // Brings the tokens from `begin` on, as many as there is room for.  -> how many groups of 16
  INLINE int bring(int begin) const {
    if (begin) {
      __syncthreads();  // nobody reads what they replace any more
      ask(begin);
    }
    wait_for_copies<0>();
    __syncthreads();
    return at_most(lines - begin, HELD) / 16;
  }
  INLINE void ask(int begin) const {
    Place place(images, heads);
    int thread = opaque(threadIdx.x), size = at_most(lines - begin, HELD);
    copy_tokens<FIRST_CHUNKS>(first_memory, first.at(place.image, place.head, 0), first.token, begin, size, count,
                              thread, blockDim.x);
    copy_tokens<SECOND_CHUNKS>(second_memory, second.at(place.image, place.head, 0), second.token, begin, size, count,
                               thread, blockDim.x);
    commit_copies();
  }
};
