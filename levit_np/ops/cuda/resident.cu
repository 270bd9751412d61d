// A linear map of many rows on Hopper. A block keeps its rows of x, all of k, resident in shared memory while the
// columns, w's lines, pass by. Products of few terms are limited by the traffic from L2 to the processors; the more
// rows a block has, the fewer times w passes.
//
// A warpgroup has 64 rows. One more warpgroup, the carriers (producers), copies w's slices into a ring ahead of the
// others, and, once the last tile of columns has read a step of the rows, that step of the block's next rows. There is
// no barrier of the whole block: barriers in memory say when a slice has arrived and when all have read it, so that
// some warpgroups store a tile while others multiply.
#include "epilogue.cuh"

constexpr int CARRIERS = 4 * WARP;

// Copies an operand's slice of a step, from row (or column) `first` on, by COPYING threads.
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

// The next stage of a ring, and whether the ring has been passed an even or odd number of times.
struct Turn {
  int stage = 0, round = 0;
  INLINE void next() {
    if (++stage == STAGES) stage = 0, round ^= 1;
  }
};

// each(row, column) with sums = Σ_k a[row…] b[column…], for `tiles` tiles of columns of each of the block's groups of
// TILE_ROWS rows.
template <class B, class Each>
INLINE void products(Sums& sums, const Matrix<true>& a, const B& b, int columns, int tiles, unsigned char* shared,
                     Each each) {
  int steps = (a.length + K_STEP - 1) / K_STEP, warp = threadIdx.x / WARP;
  unsigned char* ring = shared + steps * A_BYTES;
  Barrier *arrived = (Barrier*)(ring + STAGES * B_BYTES), *read = arrived + STAGES, *rows_read = read + STAGES;
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) {
      init_barrier(arrived + i, CARRIERS);
      init_barrier(read + i, WARPS_DOWN);
    }
    for (int i = 0; i < steps; i++) init_barrier(rows_read + i, WARPS_DOWN);
  }
  __syncthreads();
  int first = blockIdx.x * TILE_ROWS, further = gridDim.x * TILE_ROWS, begin = blockIdx.y * tiles * TILE_COLUMNS;
  int end = begin + tiles * TILE_COLUMNS < columns ? begin + tiles * TILE_COLUMNS : columns;
  Turn turn;
  if (warp >= WARPS_DOWN) {
    int carrier = threadIdx.x % CARRIERS, even = 0;  // even: 1 for the block's second rows, its fourth, …
    bool filled = false;  // whether the ring has been filled once
    for (int row = first; row < (int)a.lines; row += further, even ^= 1)
      for (int column = begin; column < end; column += TILE_COLUMNS)
        for (int step = 0; step < steps; step++) {
          if (column == begin) {
            if (row > first) wait_at(rows_read + step, even ^ 1);
            copy_slice<TILE_ROWS, CARRIERS>(shared + step * A_BYTES, a, row, step * K_STEP, carrier);
          }
          if (filled) wait_at(read + turn.stage, turn.round ^ 1);
          copy_slice<TILE_COLUMNS, CARRIERS>(ring + turn.stage * B_BYTES, b, column, step * K_STEP, carrier);
          arrive_after_copies(arrived + turn.stage);  // including the rows' copies
          turn.next();
          filled = filled || turn.stage == 0;
        }
    commit_copies();
    wait_for_copies<0>();
    return;
  }
  bool speaks = threadIdx.x % WARP == 0;  // one lane speaks for its warp
#pragma unroll 1
  for (int row = first; row < (int)a.lines; row += further)
#pragma unroll 1
    for (int column = begin; column < end; column += TILE_COLUMNS) {
      clear(sums);
      Barrier* before = read;  // of the stage before, which is still being read
#pragma unroll 1
      for (int step = 0; step < steps; step++, turn.next()) {
        wait_at(arrived + turn.stage, turn.round);
        multiply_by_warpgroups<true, B::K_ALONG>(element{}, sums, shared + step * A_BYTES, ring + turn.stage * B_BYTES);
        if (step) {
          wait_for_products<1>(sums[0]);
          if (speaks) arrive(before);
          if (speaks && column + TILE_COLUMNS >= end) arrive(rows_read + step - 1);
        }
        before = read + turn.stage;
      }
      wait_for_products<0>(sums[0]);
      if (speaks) arrive(before);
      if (speaks && column + TILE_COLUMNS >= end) arrive(rows_read + steps - 1);
      each(row, column);
    }
}

// y = activation(x wᵀ + bias), as `linear`, but without a residual, for which the end of each tile would wait.
KERNEL __launch_bounds__(THREADS + CARRIERS, 1)
linear_resident(const element* x, const element* w, const float* bias, element* y, int rows, int outputs, int channels,
                int y_stride, int activation, int tiles) {
  SHARED_MEMORY;
  Sums sums;
  products(sums, Matrix<true>{x, rows, channels, channels}, Matrix<true>{w, outputs, channels, channels}, outputs,
           tiles, shared_memory, [&](int row, int column) {
    finish(sums, column, outputs, bias, activation);
    store(sums, row, column, rows, outputs, Rows{y, y_stride}, nullptr);
  });
}
LAUNCHABLE(linear_resident)

// dx = dy w, as `linear_data`.
KERNEL __launch_bounds__(THREADS + CARRIERS, 1)
linear_data_resident(const element* dy, const element* w, element* dx, int rows, int outputs, int channels, int dy_stride,
                     int tiles) {
  SHARED_MEMORY;
  Sums sums;
  products(sums, Matrix<true>{dy, rows, outputs, dy_stride}, Matrix<false>{w, outputs, channels, channels},
           channels, tiles, shared_memory, [&](int row, int column) {
    store(sums, row, column, rows, channels, Rows{dx, channels}, nullptr);
  });
}
LAUNCHABLE(linear_data_resident)
