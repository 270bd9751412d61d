// Attention in one kernel: y = activation(softmax(scale · q kᵀ + bias) v), head by head. The sums are softmax.cuh's,
// the copies of keys and values attention.cuh's.
#include "softmax.cuh"

// The most threads for which the compiler budgets registers. With more registers each than 65536 / BUDGET, a processor
// could not hold two blocks of the seven warps of 196 queries (which are allocated as eight), or, where values are
// long, three blocks of four warps.
constexpr int BUDGET = sizeof(element) == 4 || VALUE_SIZE > 128 ? 256 : VALUE_SIZE > 64 ? 384 : 512;

// y, logarithms: see Softmax::store. row_tiles, column_tiles: tiles of the bias, 16 rows by 8 columns; bias_heads: 1
// where all heads share it.
KERNEL __launch_bounds__(BUDGET, 1)
attention(const element* q, const element* k, const element* v, const element* bias, element* y, float* logarithms,
          int images, int heads, int queries, int keys, long long q_image, long long q_token, long long q_head,
          long long k_image, long long k_token, long long k_head, long long v_image, long long v_token,
          long long v_head, int bias_heads, int row_tiles, int column_tiles, float scale, int activation) {
  SHARED_MEMORY;
  Stream<K_CHUNKS, V_CHUNKS> stream(shared_memory, Heads{k, k_image, k_token, k_head},
                                    Heads{v, v_image, v_token, v_head}, images, heads, keys);
  Place place(images, heads);
  bool there = place.there && place.row < queries;
  NextBias<AT_ONCE> next(bias_of(bias, bias_heads > 1 ? place.head : 0, at_most(place.row, (row_tiles - 1) * 16),
                                 row_tiles, column_tiles), stream.lines / 16);
  unsigned query[K_PARTS][4];
  load_rows(query, Heads{q, q_image, q_token, q_head}.at(place.image, place.head, 0), q_token, place.row, queries);
  Softmax rows;
  stream.pass(there, [&](int group, int end) {
    rows.add(group, end, query, stream.first_memory, stream.second_memory, next, scale);
  });
  Place to(images, heads);
  if (there) rows.store(y, logarithms, to.image, to.head, heads, to.row, queries, activation);
}
LAUNCHABLE(attention)
