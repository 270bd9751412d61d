"""Training's products on AMX's tiles: those of product_kernels.py, with each float32 in three parts (see amx.py).

Terms are taken a span at a time, so that a block of rows, in parts, stays in L2. The left operand is split as it is
used, by rows or, for a gradient, by columns. So is the right one, unless there are many blocks of rows: then it is
split once for all of them (the step AMX_PACK)."""

from typing import Any, NamedTuple

import numba

from . import amx_sizes
from . import training_step as step
from .amx import COLUMNS, PARTS
from .amx_panels import FILLED, ONE, amx_panels, equal_part
from .amx_sizes import GROUP, SPAN
from .amx_split import ROW, amx_split, padded_terms, row_size
from .barrier import share
from .intrinsics import get
from .jit import OPTIONS, jit
from .panel_packing import fill
from .product_kernels import divide
from .step import TILE_SUMS
from .training_step import AMX_HEADER


class AmxProducts(NamedTuple):
    """The functions that convolutions are made of, and the kernels of three kinds of step."""

    begin: Any
    multiply_block: Any
    add_gradient: Any
    pack: Any
    product: Any
    gradient: Any


def no_products():
    """Stands in for amx_products where there are no tiles; never called."""
    return AmxProducts(*[numba.njit(lambda *arguments: 0, **OPTIONS)] * len(AmxProducts._fields))


def amx_products(lanes, call, packing):
    """call: the routines by name; packing: panel_packing.py's functions."""
    tiles = amx_panels(call)
    functions = product_functions(lanes, call, packing, tiles)
    _, multiply_block, add_gradient = functions
    return AmxProducts(tiles.begin, multiply_block, add_gradient, *product_kernels(tiles, functions))


@jit
def panels(columns):
    return (columns + COLUMNS - 1) // COLUMNS


@jit
def panel_at(outputs, start, length, j):
    """Byte offset of panel j of a span of `length` terms, `start` terms into b."""
    return PARTS * ROW // 2 * (panels(outputs) * start + j * length)


def product_functions(lanes, call, packing, tiles):
    """(split_weights, multiply_block, add_gradient).  tiles: what amx_panels made."""
    largest, pack_rows, pack_columns = amx_sizes.TILE_SIDE, packing.pack_rows, packing.pack_columns
    multiply_panel, finish, split_panel = tiles.multiply_panel, tiles.finish, call["split_panel"]
    split_rows, split_columns, split_panel_of = amx_split(lanes, call)

    @jit
    def split_weights(scratch, source, row, terms, outputs, transposed, start, length, j, target, plain):
        """Terms start to start + length of panel j of b (terms, outputs) -> parts at `target`. transposed: memory holds
        bᵀ; `plain` has room for the panel in float32."""
        present, wide = min(length, terms - start), min(COLUMNS, outputs - j * COLUMNS)
        if not transposed and wide == COLUMNS:
            split_panel_of(source + start * row, row, present, j, target, scratch + FILLED)
            return
        base = plain - j * present * ROW  # the packing functions add panel j's offset themselves
        if transposed:
            pack_columns(source + start * 4, row, present, outputs, j, j + 1, base)
        else:
            pack_rows(source + start * row, row, present, outputs, j, j + 1, scratch + ONE, base)
        fill(plain + present * ROW, (length - present) * COLUMNS)
        split_panel(plain, ROW, target, length // 2 * ROW, 0, 0, length // 2)

    @jit
    def multiply_block(scratch, a, lda, rows, terms, b, outputs, first, last, c, ldc, stream, source, source_row,
                       transposed):
        """c (rows, …) = a b for panels first to last of b (terms, outputs), which is in parts; or, if b is 0, lies as
        float32 at `source` and is split panel by panel as it is used. a is split here, a span of terms at a time."""
        span, padded, count = equal_part(terms, SPAN), padded_terms(terms), (rows + largest - 1) // largest
        panel_totals = count * TILE_SUMS if padded > span else 0
        totals = scratch + AMX_HEADER
        here = totals + max(count * TILE_SUMS, (last - first) * panel_totals)
        plain = here + PARTS * span // 2 * ROW
        left = plain + span * ROW
        for n in range((padded + span - 1) // span):
            start = n * span
            length = min(span, padded - start)
            row = row_size(length)
            split_rows(a + start * 4, lda, rows, min(length, terms - start), left, rows * row, scratch + FILLED)
            for j in range(first, last):
                panel = b + panel_at(outputs, start, length, j)
                if not b:
                    panel = here
                    split_weights(scratch, source, source_row, terms, outputs, transposed, start, length, j, here,
                                  plain)
                multiply_panel(scratch, left, row, rows * row, rows, length, panel, c + j * ROW, ldc, stream,
                               totals + (j - first) * panel_totals, start > 0, start + length == padded)
        finish(scratch)

    @jit
    def add_gradient(scratch, a, a_row, a_columns, b, b_row, terms, most_terms, first, last, c, c_row, more, ends):
        """c = aᵀ b for panels first to last of b, called for one block of terms after another, of at most most_terms.
        more: the sums so far are continued; ends: this block is the last, and c is written."""
        row, size = row_size(terms), PARTS * padded_terms(terms) // 2 * ROW
        part = (a_columns + 15) // 16 * 16 * row
        left = scratch + AMX_HEADER
        right = left + ((a_columns + 15) // 16 * 16 * PARTS + 31) * row_size(most_terms)
        totals = right + (last - first) * PARTS * padded_terms(most_terms) // 2 * ROW
        split_columns(a, a_row, terms, a_columns, left, part, scratch + FILLED)
        for j in range(first, last):
            split_panel_of(b, b_row, terms, j, right + (j - first) * size, scratch + FILLED)
        for j in range(first, last):
            multiply_panel(scratch, left, row, part, a_columns, padded_terms(terms), right + (j - first) * size,
                           c + j * ROW, c_row, 0, totals + (j - first) * ((a_columns + 31) // 32 * TILE_SUMS), more,
                           ends)
        finish(scratch)

    return split_weights, multiply_block, add_gradient


def product_kernels(tiles, functions):
    """(pack, product, gradient): the kernels of three kinds of step."""
    split_weights, multiply_block, add_gradient = functions
    largest, begin, schedule_prefetch = amx_sizes.TILE_SIDE, tiles.begin, tiles.schedule_prefetch
    K_SOURCE, K_ROW, K_TERMS, K_OUTPUTS, K_TRANSPOSED, K_TARGET, _, K_SCRATCH, K_SCRATCH_SIZE = (
        int(c) for c in step.Pack)

    @jit
    def pack(s, thread, threads):
        """b's panels in parts, one span of terms after another."""
        terms, outputs = get(s, K_TERMS), get(s, K_OUTPUTS)
        span, padded = equal_part(terms, SPAN), padded_terms(terms)
        scratch = get(s, K_SCRATCH) + thread * get(s, K_SCRATCH_SIZE)
        begin(scratch)
        first, last = share(panels(outputs), thread, threads)
        for n in range((padded + span - 1) // span):
            start = n * span
            length = min(span, padded - start)
            for j in range(first, last):
                split_weights(scratch, get(s, K_SOURCE), get(s, K_ROW), terms, outputs, get(s, K_TRANSPOSED), start,
                              length, j, get(s, K_TARGET) + panel_at(outputs, start, length, j), scratch + AMX_HEADER)

    P_ROWS, P_TERMS, P_OUTPUTS, P_A, P_LDA, P_B, P_C, P_LDC, P_BLOCK, P_STREAM, P_SCRATCH, P_SCRATCH_SIZE, P_SOURCE, \
        P_SOURCE_ROW, P_TRANSPOSED = (int(c) for c in step.Product)

    @jit
    def product(s, thread, threads):
        rows, outputs, ldc, block = get(s, P_ROWS), get(s, P_OUTPUTS), get(s, P_LDC), get(s, P_BLOCK)
        scratch = get(s, P_SCRATCH) + thread * get(s, P_SCRATCH_SIZE)
        begin(scratch)
        groups = (get(s, P_TERMS) + GROUP - 1) // GROUP
        first, last, left, right = divide(rows, panels(outputs), largest, thread, threads)
        for n in range((last - first + block - 1) // block):
            start = first + n * block
            here, following = min(block, last - start), min(block, last - start - block)
            if following > 0:
                schedule_prefetch(scratch, get(s, P_A) + (start + here) * get(s, P_LDA), following * get(s, P_LDA), 0,
                                  0, (here + largest - 1) // largest * (right - left) * groups)
            multiply_block(scratch, get(s, P_A) + start * get(s, P_LDA), get(s, P_LDA), min(block, last - start),
                           get(s, P_TERMS), get(s, P_B), outputs, left, right, get(s, P_C) + start * ldc, ldc,
                           get(s, P_STREAM), get(s, P_SOURCE), get(s, P_SOURCE_ROW), get(s, P_TRANSPOSED))

    G_TERMS, G_A, G_A_ROW, G_A_COLUMNS, G_B, G_B_ROW, G_B_COLUMNS, G_C, G_C_ROW, G_BLOCK, G_SCRATCH, G_SCRATCH_SIZE = (
        int(c) for c in step.Gradient)

    @jit
    def gradient(s, thread, threads):
        scratch = get(s, G_SCRATCH) + thread * get(s, G_SCRATCH_SIZE)
        begin(scratch)
        terms, block = get(s, G_TERMS), get(s, G_BLOCK)
        first, last = share(panels(get(s, G_B_COLUMNS)), thread, threads)
        for n in range((terms + block - 1) // block):
            start = n * block
            following = min(block, terms - start - block)
            if following > 0:
                then = start + block
                schedule_prefetch(scratch, get(s, G_A) + then * get(s, G_A_ROW), following * get(s, G_A_ROW),
                                  get(s, G_B) + then * get(s, G_B_ROW), following * get(s, G_B_ROW),
                                  (get(s, G_A_COLUMNS) + 31) // 32 * (last - first))
            add_gradient(scratch, get(s, G_A) + start * get(s, G_A_ROW), get(s, G_A_ROW), get(s, G_A_COLUMNS),
                         get(s, G_B) + start * get(s, G_B_ROW), get(s, G_B_ROW), min(block, terms - start), block,
                         first, last, get(s, G_C), get(s, G_C_ROW), start > 0, start + block >= terms)

    return pack, product, gradient
