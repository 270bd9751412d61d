// A linear map of many rows on Hopper: a block keeps its rows of x in shared memory, all of k, while the columns, w's
// lines, pass by.  What the way from the L2 cache to the processors carries limits products of few terms, and of that a
// block's rows are so only a small part: the more rows it has, the fewer times w passes.
//
// A warpgroup has 64 rows.  One warp more, the carrier, copies w's slices into a ring, ahead of all others.  Nobody waits
// for everybody: a slice's barriers say when it has arrived and when all have read it, so that while some warpgroups bring
// a tile's results to memory, others multiply.
#include "epilogue.cuh"

// An operand's slice of a step, `first` its first row (or column), copied by some of the threads.
template <int TILE, int COPYING, class Operand>
INLINE void copy_slice(unsigned char* slice, const Operand& operand, int first, int k, int thread) {
  using Lines = Slice<Operand, TILE>;
  constexpr bool ALONG = Operand::K_ALONG;
  int chunk = thread % Lines::CHUNKS;
  typename Operand::Place place = operand.place((ALONG ? k : first) + chunk * CHUNK);
#pragma unroll 4
  for (int line = thread / Lines::CHUNKS; line < Lines::LINES; line += COPYING / Lines::CHUNKS) {
    Where from = operand.chunk(operand.line((ALONG ? first : k) + line), place);
    copy_chunk(slice + Lines::offset_of(line, chunk), operand.memory + (unsigned long long)from.chunk * CHUNK, from.there);
  }
}

// The stage of a ring that comes next, and how often the ring has been passed, of which barriers know odd and even.
struct Turn {
  int stage = 0, round = 0;
  INLINE void next() {
    if (++stage == STAGES) stage = 0, round ^= 1;
  }
};

// For at most `tiles` tiles of columns in turn, of `columns` in all, each(column) with sums = Σ_k a[first_row…] b[column…].
template <class B, class Each>
INLINE void products(Sums& sums, const Matrix<true>& a, const B& b, int first_row, int first_column, int columns,
                     int tiles, unsigned char* shared, Each each) {
  int left = (columns - first_column + TILE_COLUMNS - 1) / TILE_COLUMNS;
  tiles = left < tiles ? left : tiles;
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
      copy_slice<TILE_COLUMNS, WARP>(ring + turn.stage * B_BYTES, b, first_column + i / steps * TILE_COLUMNS,
                                     i % steps * K_STEP, threadIdx.x % WARP);
      arrive_after_copies(arrived + turn.stage);
    }
    end_copies();
    wait_for_copies<0>();
    return;
  }
  for (int step = 0; step < steps; step++) {
    copy_slice<TILE_ROWS, THREADS>(shared + step * A_BYTES, a, first_row, step * K_STEP, threadIdx.x);
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
      multiply_by_warpgroups<true, B::K_ALONG>(element{}, sums, shared + step * A_BYTES, ring + turn.stage * B_BYTES);
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
  int row = blockIdx.x * TILE_ROWS;
  products(sums, Matrix<true>{x, rows, channels, x_stride}, Matrix<true>{w, outputs, channels, channels}, row,
           blockIdx.y * tiles * TILE_COLUMNS, outputs, tiles, shared_memory, [&](int column) {
    finish(sums, column, outputs, bias, activation);
    store(sums, row, column, rows, outputs, Rows{y, y_stride}, residual);
  });
}
LAUNCHABLE(linear_resident)

// dx = dy w, as `linear_data`.
KERNEL __launch_bounds__(THREADS + WARP, 1)
linear_data_resident(const element* dy, const element* w, element* dx, int rows, int outputs, int channels, int dy_stride,
                     int tiles) {
  SHARED_MEMORY;
  Sums sums;
  int row = blockIdx.x * TILE_ROWS;
  products(sums, Matrix<true>{dy, rows, outputs, dy_stride}, Matrix<false>{w, outputs, channels, channels}, row,
           blockIdx.y * tiles * TILE_COLUMNS, channels, tiles, shared_memory, [&](int column) {
    store(sums, row, column, rows, channels, Rows{dx, channels}, nullptr);
  });
}
LAUNCHABLE(linear_data_resident)
