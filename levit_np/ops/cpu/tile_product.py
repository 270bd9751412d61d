"""Evaluation's matrix products on register tiles: the loops over blocks of rows, panels and groups of terms around
tile.py."""

from . import step
from .intrinsics import get
from .jit import jit
from .product_division import divide
from .step import PLAIN, RESIDUAL, TILE
from .tile import UNROLL

P_TILES, _, P_A, P_LDA, P_SEGMENTS, P_GROUPS, P_COUNT, P_LENGTH, P_B, P_B_PANEL, P_PANELS, _, P_C, P_LDC, P_C_PANEL, \
    P_BIAS, P_FINISH, P_BLOCK, _, _, P_HALF, P_HALF_PART, P_SCRATCH, P_SCRATCH_SIZE, P_PAIRS = map(int, step.Product)


def _any_tiles(call):
    tile = call["tile"]
    double, pairs_tile = (call.get(name, tile) for name in ("double", "pairs"))  # there if they are called

    @jit
    def multiply(pairs, span, vectors, tiles, number, a, lda, segments, count, length, b, b_panel, ahead, share,
                 advance, c, ldc, c_panel, c_mask, bias, ldbias, bias_panel, finish, half, ldhalf, part):
        """Tiles with bfloat16 weights (pairs), that span two panels (span 2), or ordinary ones."""
        if pairs:
            pairs_tile(vectors, tiles, number, a, lda, segments, count, length, b, b_panel, ahead, share, advance, c,
                       ldc, c_panel, c_mask, bias, ldbias, bias_panel, finish, half, ldhalf, part)
        elif span == 2:
            double(vectors, tiles, number, a, lda, segments, count, length, b, b_panel, ahead, share, advance, c, ldc,
                   c_panel, c_mask, bias, ldbias, bias_panel, finish, half, ldhalf, part)
        else:
            tile(vectors, tiles, number, a, lda, segments, count, length, b, b_panel, ahead, share, advance, c, ldc,
                 c_panel, c_mask, bias, ldbias, bias_panel, finish, half, ldhalf, part)

    return multiply


def tile_product(instructions, call):
    """The kernel (step, thread, threads).  call: the routines by name."""
    width, lanes, vectors, tail_vectors, double_rows = (
        instructions.width, instructions.lanes, instructions.vectors, instructions.tail, instructions.double_rows)
    multiply = _any_tiles(call)

    @jit
    def product(s, thread, threads):
        first, last, left, right = divide(s, thread, threads)
        tiles = get(s, P_TILES)
        a, lda, c, ldc = get(s, P_A), get(s, P_LDA), get(s, P_C), get(s, P_LDC)
        segments, groups = get(s, P_SEGMENTS), get(s, P_GROUPS)
        segment_count, length = get(s, P_COUNT), get(s, P_LENGTH)
        bias, finish, full = get(s, P_BIAS), get(s, P_FINISH), get(s, P_PANELS)
        terms = segment_count * length  # of a group
        b, b_panel, c_panel, block = get(s, P_B), get(s, P_B_PANEL), get(s, P_C_PANEL), get(s, P_BLOCK)
        pairs, half, half_part = get(s, P_PAIRS), get(s, P_HALF), get(s, P_HALF_PART)
        scratch = get(s, P_SCRATCH) + thread * get(s, P_SCRATCH_SIZE)
        start = first
        while start < last:  # range() could raise, for a step of 0
            stop = min(start + block, last)
            j = left
            while j < right:
                wide = vectors if j < full else tail_vectors
                span = 1
                if not pairs and j + 2 <= min(right, full) and get(tiles + TILE * start, 0) <= double_rows:
                    span = 2
                # A group of terms at a time: its part of the panel stays in L1 while all tiles of the block use it, and
                # rounding does not grow with the length of a row. Meanwhile each tile prefetches its share of the next
                # panel; after the last panel lie the next step's weights.
                part = span * b_panel // ((stop - start) * groups)
                ahead = b + (j + span) * b_panel
                to, to_row, c_mask = c + j * c_panel, ldc, -1
                if c == 0:  # a register tile stores its sums before they are rounded
                    to, to_row, c_mask = scratch, 2 * width * 4, 0
                for group in range(groups):
                    # A residual is added with the first group, an activation applied after the last.
                    code = finish if group == (0 if finish == RESIDUAL else groups - 1) else PLAIN
                    to_half = half + j * c_panel // 2 if half and group == groups - 1 else 0
                    from_, from_row, from_panel = bias + j * width * 4, 0, width * 4
                    if group:
                        from_, from_row, from_panel = to, ldc, c_panel
                    multiply(pairs, span, wide, tiles + TILE * start, stop - start, a, lda,
                             segments + group * segment_count * 8, segment_count, length,
                             b + j * b_panel + group * terms * wide * lanes * 4, b_panel, ahead, part,
                             part * UNROLL // terms, to, to_row, c_panel, c_mask, from_, from_row, from_panel, code,
                             to_half, ldc // 2, half_part)
                    ahead += part * (stop - start)
                j += span
            start = stop

    return product
