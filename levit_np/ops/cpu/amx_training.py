"""Training's products on AMX's tiles: product_kernels.py's, each number in three parts (see amx.py).

A span of terms at a time, so that a block of rows, in parts, stays in the L2 cache.  What stands on the left is split
as it comes, row by row or, for a gradient, column by column; what is on the right too, or, where there are many blocks
of rows, once for all of them.
"""

from typing import Any, NamedTuple

from . import parts
from . import training_step as step
from .amx import COLUMNS, PARTS
from .amx_panels import FILLED, ONE, amx_panels
from .amx_split import ROW, amx_split
from .intrinsics import get
from .parts import GROUP, SPAN
from .product_kernels import division
from .step import TILE_SUMS
from .training_step import AMX_HEAD


class AmxProducts(NamedTuple):
    """What convolution is made of, and the kernels of three kinds of step."""

    begin: Any
    multiply_whole: Any
    add_gradient: Any
    pack: Any
    product: Any
    gradient: Any


def no_products(jit):
    """In its place where there are no tiles; never called."""
    return AmxProducts(*[jit(lambda *arguments: 0)] * len(AmxProducts._fields))


def amx_products(jit, lanes, call, share, packing):
    """call: the routines by name."""
    tiles = amx_panels(jit, call, packing.fill)
    places = panel_places(jit)
    functions = product_functions(jit, lanes, call, packing, tiles, places)
    _, multiply_whole, add_gradient = functions
    return AmxProducts(tiles.begin, multiply_whole, add_gradient,
                       *product_kernels(jit, share, tiles, places, functions))


def panel_places(jit):
    """(panels, panel_at) of a b in parts."""
    @jit
    def panels(columns):
        return (columns + COLUMNS - 1) // COLUMNS

    @jit
    def panel_at(outputs, start, length, j):
        """Where panel j of a span of terms lies in a b in parts: the spans before it are `start` terms."""
        return PARTS * ROW // 2 * (panels(outputs) * start + j * length)

    return panels, panel_at


def product_functions(jit, lanes, call, packing, tiles, places):
    """(split_weights, multiply_whole, add_gradient).  tiles: what amx_panels made."""
    _, panel_at = places
    largest, fill, pack_rows, pack_columns = parts.WHOLE, packing.fill, packing.pack_rows, packing.pack_columns
    multiply_panel, finish, split_panel = tiles.multiply_panel, tiles.finish, call["split_panel"]
    split_rows, split_columns, split_panel_of = amx_split(jit, lanes, call, fill)
    whole_terms, row_size, equal_part = jit(parts.whole_terms), jit(parts.row_size), jit(parts.equal_part)

    @jit
    def split_weights(scratch, source, row, terms, outputs, transposed, start, length, j, target, plain):
        """Terms start to start + length of panel j of b (terms, outputs), or of its transpose, to `target` in parts."""
        present, wide = min(length, terms - start), min(COLUMNS, outputs - j * COLUMNS)
        if not transposed and wide == COLUMNS:
            split_panel_of(source + start * row, row, present, j, target, scratch + FILLED)
            return
        base = plain - j * present * ROW  # where panel 0 would lie, for their own reckoning
        if transposed:
            pack_columns(source + start * 4, row, present, outputs, j, j + 1, base)
        else:
            pack_rows(source + start * row, row, present, outputs, j, j + 1, scratch + ONE, base)
        fill(plain + present * ROW, (length - present) * COLUMNS)
        split_panel(plain, ROW, target, length // 2 * ROW, 0, 0, length // 2)

    @jit
    def multiply_whole(scratch, a, lda, rows, terms, b, outputs, first, last, c, ldc, past, source, source_row,
                       transposed):
        """c (rows, …) = a b for panels first to last of b (terms, outputs), which is in parts; or, if b is 0, for that
        which stands at `source`, split panel by panel as it is used.  a is split here, a span of terms at a time."""
        span, whole, count = equal_part(terms, SPAN), whole_terms(terms), (rows + largest - 1) // largest
        panel_totals = count * TILE_SUMS if whole > span else 0
        totals = scratch + AMX_HEAD
        here = totals + max(count * TILE_SUMS, (last - first) * panel_totals)
        plain = here + PARTS * span // 2 * ROW
        left = plain + span * ROW
        for n in range((whole + span - 1) // span):
            start = n * span
            length = min(span, whole - start)
            row = row_size(length)
            split_rows(a + start * 4, lda, rows, min(length, terms - start), left, rows * row, scratch + FILLED)
            for j in range(first, last):
                panel = b + panel_at(outputs, start, length, j)
                if not b:
                    panel = here
                    split_weights(scratch, source, source_row, terms, outputs, transposed, start, length, j, here,
                                  plain)
                multiply_panel(scratch, left, row, rows * row, rows, length, panel, c + j * ROW, ldc, past,
                               totals + (j - first) * panel_totals, start > 0, start + length == whole)
        finish(scratch)

    @jit
    def add_gradient(scratch, a, a_row, a_columns, b, b_row, terms, most_terms, first, last, c, c_row, more, ends):
        """c = aᵀ b for panels first to last of b: a block of terms, most_terms at most, after the other."""
        row, size = row_size(terms), PARTS * whole_terms(terms) // 2 * ROW
        part = (a_columns + 15) // 16 * 16 * row
        left = scratch + AMX_HEAD
        right = left + ((a_columns + 15) // 16 * 16 * PARTS + 31) * row_size(most_terms)
        totals = right + (last - first) * PARTS * whole_terms(most_terms) // 2 * ROW
        split_columns(a, a_row, terms, a_columns, left, part, scratch + FILLED)
        for j in range(first, last):
            split_panel_of(b, b_row, terms, j, right + (j - first) * size, scratch + FILLED)
        for j in range(first, last):
            multiply_panel(scratch, left, row, part, a_columns, whole_terms(terms), right + (j - first) * size,
                           c + j * ROW, c_row, 0, totals + (j - first) * ((a_columns + 31) // 32 * TILE_SUMS), more,
                           ends)
        finish(scratch)

    return split_weights, multiply_whole, add_gradient


def product_kernels(jit, share, tiles, places, functions):
    """(pack, product, gradient): the kernels of three kinds of step."""
    (panels, panel_at), (split_weights, multiply_whole, add_gradient) = places, functions
    largest, begin, bring, divide = parts.WHOLE, tiles.begin, tiles.bring, division(jit, share)
    whole_terms, equal_part = jit(parts.whole_terms), jit(parts.equal_part)
    K_SOURCE, K_ROW, K_TERMS, K_OUTPUTS, K_TRANSPOSED, K_TARGET, _, K_SCRATCH, K_SCRATCH_SIZE = (
        int(c) for c in step.Pack)

    @jit
    def pack(s, thread, threads):
        """b's panels in parts, a span of terms after the other."""
        terms, outputs = get(s, K_TERMS), get(s, K_OUTPUTS)
        span, whole = equal_part(terms, SPAN), whole_terms(terms)
        scratch = get(s, K_SCRATCH) + thread * get(s, K_SCRATCH_SIZE)
        begin(scratch)
        first, last = share(panels(outputs), thread, threads)
        for n in range((whole + span - 1) // span):
            start = n * span
            length = min(span, whole - start)
            for j in range(first, last):
                split_weights(scratch, get(s, K_SOURCE), get(s, K_ROW), terms, outputs, get(s, K_TRANSPOSED), start,
                              length, j, get(s, K_TARGET) + panel_at(outputs, start, length, j), scratch + AMX_HEAD)

    P_ROWS, P_TERMS, P_OUTPUTS, P_A, P_LDA, P_B, P_C, P_LDC, P_BLOCK, P_PAST, P_SCRATCH, P_SCRATCH_SIZE, P_SOURCE, \
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
                bring(scratch, get(s, P_A) + (start + here) * get(s, P_LDA), following * get(s, P_LDA), 0, 0,
                      (here + largest - 1) // largest * (right - left) * groups)
            multiply_whole(scratch, get(s, P_A) + start * get(s, P_LDA), get(s, P_LDA), min(block, last - start),
                           get(s, P_TERMS), get(s, P_B), outputs, left, right, get(s, P_C) + start * ldc, ldc,
                           get(s, P_PAST), get(s, P_SOURCE), get(s, P_SOURCE_ROW), get(s, P_TRANSPOSED))

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
                bring(scratch, get(s, G_A) + then * get(s, G_A_ROW), following * get(s, G_A_ROW),
                      get(s, G_B) + then * get(s, G_B_ROW), following * get(s, G_B_ROW),
                      (get(s, G_A_COLUMNS) + 31) // 32 * (last - first))
            add_gradient(scratch, get(s, G_A) + start * get(s, G_A_ROW), get(s, G_A_ROW), get(s, G_A_COLUMNS),
                         get(s, G_B) + start * get(s, G_B_ROW), get(s, G_B_ROW), min(block, terms - start), block,
                         first, last, get(s, G_C), get(s, G_C_ROW), start > 0, start + block >= terms)

    return pack, product, gradient
