// A linear map of many rows on Hopper: a block keeps its rows of x in shared memory, all of k, while the columns, w's
// lines, pass by.  What the way from the L2 cache to the processors carries limits products of few terms, and of that a
// block's rows are so only a small part: the more rows it has, the fewer times w passes.
//
// A warpgroup has 64 rows.  One warp more, the carrier, copies w's slices into a ring, ahead of all others.  Nobody waits
// for everybody: a slice's barriers say when it has arrived and when all have read it, so that while some warpgroups bring
// a tile's results to memory, others multiply.
#include "epilogue.cuh"

// `lines` lines of 128 bytes, from term k on, copied by some threads.
template <int LINES_APART>
INLINE void copy_lines(unsigned char* slice, const Matrix<true>& matrix, int first, int lines, int k, int thread) {
  constexpr int CHUNKS = K_BYTES / CHUNK_BYTES;
  int chunk = thread % CHUNKS;
  unsigned place = matrix.place(k + chunk * CHUNK);
#pragma unroll 4
  for (int i = thread / CHUNKS; i < lines; i += LINES_APART) {
    Where from = matrix.chunk(matrix.line(first + i), place);
    copy_chunk(slice + offset<CHUNKS>(i, chunk), matrix.memory + (unsigned long long)from.chunk * CHUNK, from.there);
  }
}

// The stage of a ring that comes next, and how often the ring has been passed, of which barriers know odd and even.
struct Turn {
  int stage = 0, round = 0;
  INLINE void next() {
    if (++stage == STAGES) stage = 0, round ^= 1;
  }
};

// For `tiles` tiles of columns in turn, each(column) with sums = Σ_k a[first_row…] b[column…].
template <class Each>
INLINE void products(Sums& sums, const Matrix<true>& a, const Matrix<true>& b, int first_row, int first_column, int tiles,
                     unsigned char* shared, Each each) {
  int steps = (a.length + K_STEP - 1) / K_STEP, warp = threadIdx.x / WARP;
  unsigned char* ring = shared + steps * A_BYTES;
  Barrier *arrived = (Barrier*)(ring + STAGES * B_BYTES), *read = arrived + STAGES, *rows = read + STAGES;
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) {
      expect(arrived + i, WARP);
      expect(read + i, WARPS_DOWN);
    }
    for (int i = 0; i < steps; i++) expect(rows + i, THREADS);
  }
  __syncthreads();
  Turn turn;
  if (warp == WARPS_DOWN) {  // the carrier
    for (int i = 0; i < tiles * steps; i++, turn.next()) {
      if (i >= STAGES) wait_at(read + turn.stage, turn.round ^ 1);
      copy_lines<WARP / 8>(ring + turn.stage * B_BYTES, b, first_column + i / steps * TILE_COLUMNS, TILE_COLUMNS,
                           i % steps * K_STEP, threadIdx.x % WARP);
      arrive_after_copies(arrived + turn.stage);
    }
    end_copies();
    wait_for_copies<0>();
    return;
  }
  for (int step = 0; step < steps; step++) {
    copy_lines<THREADS / 8>(shared + step * A_BYTES, a, first_row, TILE_ROWS, step * K_STEP, threadIdx.x);
    arrive_after_copies(rows + step);
  }
#pragma unroll 1
  for (int tile = 0; tile < tiles; tile++) {
    clear(sums);
    Barrier* before = read;  // of the last step's stage, which is still being read
#pragma unroll 1
    for (int step = 0; step < steps; step++, turn.next()) {
      wait_at(rows + step, 0);
      wait_at(arrived + turn.stage, turn.round);
      multiply_by_warpgroups(element{}, sums, shared + step * A_BYTES, ring + turn.stage * B_BYTES);
      if (step) {
        wait_for_products<1>(sums[0]);
        if (threadIdx.x % WARP == 0) arrive(before);
      }
      before = read + turn.stage;
    }
    wait_for_products<0>(sums[0]);
    if (threadIdx.x % WARP == 0) arrive(before);
    each(first_column + tile * TILE_COLUMNS);
  }
}

// y = activation(x wᵀ + bias) [+ residual], as `linear`; a block has `tiles` tiles of columns.
KERNEL __launch_bounds__(THREADS + WARP, 1)
linear_resident(const element* x, const element* w, const float* bias, const element* residual, element* y, int rows,
                int outputs, int channels, int x_stride, int y_stride, int activation, int tiles) {
  SHARED_MEMORY;
  Sums sums;
  int row = blockIdx.x * TILE_ROWS, first_column = blockIdx.y * tiles * TILE_COLUMNS;
  int left = (outputs - first_column + TILE_COLUMNS - 1) / TILE_COLUMNS;  // for the last block there may be fewer
  products(sums, Matrix<true>{x, rows, channels, x_stride}, Matrix<true>{w, outputs, channels, channels}, row,
           first_column, left < tiles ? left : tiles, shared_memory, [&](int column) {
    finish(sums, column, outputs, bias, activation);
    store(sums, row, column, rows, outputs, Rows{y, y_stride}, residual);
  });
}
LAUNCHABLE(linear_resident)
