"""Training's products on AMX's tiles: product_kernels.py's, each number in three parts (see amx.py).

A span of terms at a time, so that a block of rows, in parts, stays in the L2 cache.  What stands on the left is split
as it comes, row by row or, for a gradient, column by column; what is on the right too, or, where there are many blocks
of rows, once for all of them.
"""

from typing import Any, NamedTuple

from numba import types

from . import parts
from . import training_step as step
from .amx import COLUMNS, PARTS, PASSES, SCRATCH, TERMS
from .amx_split import ROW, SQUARE, amx_split
from .intrinsics import get, put, set_float
from .step import AMX_JOB, PAST, PLAIN, Job
from .parts import GROUP, SPAN
from .training_step import AMX_HEAD

A, LDA, A_PART, SEGMENTS, COUNT, LENGTH, B, B_PART, AHEAD, ADVANCE, SUMS = (int(n) for n in list(Job)[: Job.DONE])
DONE, C, LDC, BIAS, LDBIAS, FINISH = (int(n) for n in list(Job)[Job.DONE : Job.HALF])
ROWS, ROWS_A_STEP = int(Job.ROWS), int(Job.ROWS_A_STEP)
PRODUCTS, TURNS = sum(map(len, PASSES[PARTS])), len(PASSES[PARTS])
# A thread's scratch: the job, a bias of zeros, a table of one segment, a 1.0, what to bring
# to the L2 cache, a tile's sums, a square to be filled up.
ZEROS = AMX_JOB
SEGMENT = ZEROS + ROW
ONE = SEGMENT + 32
NEXT, NEXT_SIZE, THEN, THEN_SIZE, EACH = (SEGMENT // 8 + 8 + n for n in range(5))  # see bring
TILE = SEGMENT + 128
FILLED = TILE + SCRATCH
assert FILLED + SQUARE <= AMX_HEAD


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


def amx_products(jit, lanes, call, share, products):
    """call: the routines by name; products: what product_kernels made."""
    largest = parts.WHOLE
    fill, divide, pack_rows, pack_columns = products.fill, products.divide, products.pack_rows, products.pack_columns
    multiply, finish_last, split_panel = (call[name] for name in ("amx_multiply", "amx_finish_last", "split_panel"))
    split_rows, split_columns, split_panel_of = amx_split(jit, lanes, call, fill)
    whole_terms, row_size, equal_part = jit(parts.whole_terms), jit(parts.row_size), jit(parts.equal_part)

    @jit
    def begin(scratch):
        """A thread's scratch before its first product."""
        fill(scratch, AMX_HEAD // 4)
        put(scratch, SEGMENTS, scratch + SEGMENT)
        put(scratch, COUNT, 1)
        put(scratch, SUMS, scratch + TILE)
        put(scratch, DONE, scratch + TILE)
        set_float(scratch + ONE, types.float32(1))

    @jit
    def panels(columns):
        return (columns + COLUMNS - 1) // COLUMNS

    @jit
    def panel_at(outputs, start, length, j):
        """Where panel j of a span of terms lies in a b in parts: the spans before it are `start` terms."""
        return PARTS * ROW // 2 * (panels(outputs) * start + j * length)

    @jit
    def bring(scratch, address, size, then, then_size, products):
        """Two runs of memory, of which the next block is made, come to the L2 cache with so many products of tiles."""
        put(scratch, NEXT, address)
        put(scratch, NEXT_SIZE, size)
        put(scratch, THEN, then)
        put(scratch, THEN_SIZE, then_size)
        put(scratch, EACH, (size + then_size + products - 1) // products)

    @jit
    def fetch_next(scratch, turns):
        """What of it comes with the next tile."""
        address, size = get(scratch, NEXT), min(get(scratch, EACH), get(scratch, NEXT_SIZE))
        put(scratch, AHEAD, address)
        put(scratch, ADVANCE, (size + turns - 1) // turns)
        put(scratch, NEXT, address + size)
        put(scratch, NEXT_SIZE, get(scratch, NEXT_SIZE) - size)
        if not get(scratch, NEXT_SIZE):
            put(scratch, NEXT, get(scratch, THEN))
            put(scratch, NEXT_SIZE, get(scratch, THEN_SIZE))
            put(scratch, THEN_SIZE, 0)

    @jit
    def multiply_panel(scratch, a, row, part, rows, terms, b, c, ldc, past, totals, more, ends):
        """c (rows, COLUMNS) = a b for whole rows of terms of a and one panel b, both in parts.

        A group of terms at a time its sums go to `totals`, tile by tile; `more`: they are added to what is there;
        `ends`: in the end they become c, written past the caches if `past`.  The last tile waits until another is
        multiplied, or for finish_last."""
        count, group = (rows + largest - 1) // largest, equal_part(terms, GROUP)
        put(scratch, LDA, row)
        put(scratch, A_PART, part)
        put(scratch, B_PART, terms // 2 * ROW)
        for n in range((terms + group - 1) // group):
            start = n * group
            pairs = min(group, terms - start) // 2
            turns, steps = pairs // TERMS * TURNS, pairs // TERMS * PRODUCTS
            first, last = not more and not n, ends and start + group >= terms
            put(scratch, LENGTH, pairs)
            put(scratch, B, b + start // 2 * ROW)
            for t in range(count):
                at, stop, total = rows * t // count, rows * (t + 1) // count, totals + t * SCRATCH
                fetch_next(scratch, turns)
                put(scratch, A, a + at * row + start * 2)
                put(scratch, ROWS_A_STEP, (get(scratch, ROWS) + steps - 1) // steps)  # of the tile before
                multiply(stop - at, PARTS, scratch, 0, 0, 0, 0, 0, 0)
                put(scratch, C, c + at * ldc if last else total)
                put(scratch, LDC, ldc if last else ROW)
                put(scratch, FINISH, PAST if past and last else PLAIN)
                put(scratch, BIAS, scratch + ZEROS if first else total)
                put(scratch, LDBIAS, 0 if first else ROW)
                put(scratch, ROWS, stop - at)

    @jit
    def finish(scratch):
        finish_last(scratch, 0, 0, 0, 0, 0, 0, 0, 0)
        put(scratch, ROWS, 0)

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
        split_panel(plain, ROW, target, length // 2 * ROW, 0, 0, length // 2, 0, 0)

    @jit
    def multiply_whole(scratch, a, lda, rows, terms, b, outputs, first, last, c, ldc, past, source, source_row,
                       transposed):
        """c (rows, …) = a b for panels first to last of b (terms, outputs), which is in parts; or, if b is 0, for that
        which stands at `source`, split panel by panel as it is used.  a is split here, a span of terms at a time."""
        span, whole, count = equal_part(terms, SPAN), whole_terms(terms), (rows + largest - 1) // largest
        panel_totals = count * SCRATCH if whole > span else 0
        totals = scratch + AMX_HEAD
        here = totals + max(count * SCRATCH, (last - first) * panel_totals)
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
                           c + j * ROW, c_row, 0, totals + (j - first) * ((a_columns + 31) // 32 * SCRATCH), more, ends)
        finish(scratch)

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

    return AmxProducts(begin, multiply_whole, add_gradient, pack, product, gradient)
