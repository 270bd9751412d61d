"""Training's products on AMX's tiles: product_kernels.py's, each number in three parts (see amx.py).

What stands on the left is split row by row, or, for a gradient, column by column, as it comes; what is on the right
once for all of a call's rows.
"""

from typing import Any, NamedTuple

from . import parts
from . import training_step as step
from .amx import COLUMNS, PARTS, PASSES, SCRATCH, TERMS
from .amx_split import ROW, SQUARE, amx_split
from .intrinsics import get, put
from .step import AMX_JOB, PAST, PLAIN, Job
from .training_step import AMX_GROUP, AMX_HEAD

A, LDA, A_PART, SEGMENTS, COUNT, LENGTH, B, B_PART, AHEAD, ADVANCE, SUMS = (int(n) for n in list(Job)[: Job.DONE])
DONE, C, LDC, BIAS, LDBIAS, FINISH = (int(n) for n in list(Job)[Job.DONE : Job.HALF])
ROWS, ROWS_A_STEP = int(Job.ROWS), int(Job.ROWS_A_STEP)
PRODUCTS = sum(map(len, PASSES[PARTS]))
# A thread's scratch: the job, a bias of zeros, a table of one segment, a tile's sums, a square to be filled up.
ZEROS = AMX_JOB
SEGMENT = ZEROS + ROW
TILE = SEGMENT + 64
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
    whole_terms, row_size = jit(parts.whole_terms), jit(parts.row_size)

    @jit
    def begin(scratch):
        """A thread's scratch before its first product."""
        fill(scratch, AMX_HEAD // 4)
        put(scratch, SEGMENTS, scratch + SEGMENT)
        put(scratch, COUNT, 1)
        put(scratch, SUMS, scratch + TILE)
        put(scratch, DONE, scratch + TILE)

    @jit
    def panels(columns):
        return (columns + COLUMNS - 1) // COLUMNS

    @jit
    def multiply_rows(scratch, a, row, part, rows, terms, b, first, last, c, ldc, past, totals, panel_totals, more,
                      ends):
        """c (rows, …) = a b for panels first to last of b, both in parts.

        Sums of groups of terms go to `totals`, tile by tile, a panel's panel_totals bytes behind the one before;
        `more`: they go on from what is there; `ends`: they become c, written past the caches if `past`."""
        pairs = whole_terms(terms) // 2
        put(scratch, LDA, row)
        put(scratch, A_PART, part)
        put(scratch, B_PART, pairs * ROW)
        count = (rows + largest - 1) // largest
        for j in range(first, last):
            for k in range(0, pairs, AMX_GROUP):
                length = min(AMX_GROUP, pairs - k)
                steps = length // TERMS * PRODUCTS
                put(scratch, LENGTH, length)
                put(scratch, B, b + j * PARTS * pairs * ROW + k * ROW)
                for t in range(count):
                    at, stop = rows * t // count, rows * (t + 1) // count
                    put(scratch, A, a + at * row + k * 4)
                    put(scratch, ROWS_A_STEP, (get(scratch, ROWS) + steps - 1) // steps)  # of the tile before
                    multiply(stop - at, PARTS, scratch, 0, 0, 0, 0, 0, 0)
                    total, done = totals + (j - first) * panel_totals + t * SCRATCH, ends and k + length == pairs
                    put(scratch, C, c + at * ldc + j * ROW if done else total)
                    put(scratch, LDC, ldc if done else ROW)
                    put(scratch, FINISH, PAST if past and done else PLAIN)
                    put(scratch, BIAS, total if k or more else scratch + ZEROS)
                    put(scratch, LDBIAS, ROW if k or more else 0)
                    put(scratch, ROWS, stop - at)
        finish_last(scratch, 0, 0, 0, 0, 0, 0, 0, 0)
        put(scratch, ROWS, 0)

    @jit
    def multiply_whole(scratch, a, lda, rows, terms, b, first, last, c, ldc, past):
        """c (rows, …) = a b for panels first to last of b, which is in parts; a is split here."""
        part, left = rows * row_size(terms), scratch + AMX_HEAD + (rows + largest - 1) // largest * SCRATCH
        split_rows(a, lda, rows, terms, left, part, scratch + FILLED)
        multiply_rows(scratch, left, row_size(terms), part, rows, terms, b, first, last, c, ldc, past,
                      scratch + AMX_HEAD, 0, False, True)

    @jit
    def add_gradient(scratch, a, a_row, a_columns, b, b_row, terms, most_terms, first, last, c, c_row, more, ends):
        """c = aᵀ b for panels first to last of b: a block of terms, most_terms at most, after the other."""
        row, pairs = row_size(terms), whole_terms(terms) // 2
        part = (a_columns + 15) // 16 * 16 * row
        left = scratch + AMX_HEAD
        right = left + ((a_columns + 15) // 16 * 16 * PARTS + 31) * row_size(most_terms)
        totals = right + (last - first) * PARTS * whole_terms(most_terms) // 2 * ROW
        split_columns(a, a_row, terms, a_columns, left, part, scratch + FILLED)
        for j in range(first, last):
            split_panel_of(b, b_row, terms, j, right + (j - first) * PARTS * pairs * ROW, scratch + FILLED)
        multiply_rows(scratch, left, row, part, a_columns, terms, right - first * PARTS * pairs * ROW, first, last, c,
                      c_row, 0, totals, (a_columns + 31) // 32 * SCRATCH, more, ends)

    K_SOURCE, K_ROW, K_TERMS, K_OUTPUTS, K_TRANSPOSED, K_TARGET, K_ONE, K_PARTS = (int(c) for c in step.Pack)

    @jit
    def pack(s, thread, threads):
        """As product_kernels' pack, and then in parts."""
        source, row, terms, outputs = get(s, K_SOURCE), get(s, K_ROW), get(s, K_TERMS), get(s, K_OUTPUTS)
        size = whole_terms(terms) * ROW
        first, last = share(panels(outputs), thread, threads)
        for j in range(first, last):
            target = get(s, K_PARTS) + j * PARTS * size // 2
            if not get(s, K_TRANSPOSED) and outputs % COLUMNS == 0 and terms % 32 == 0:
                split_panel(source + j * ROW, row, target, size // 2, 0, 0, terms // 2, 0, 0)
                continue
            plain = get(s, K_TARGET) + j * size
            base = plain - j * terms * ROW  # where panel 0 would lie, for pack's own reckoning
            if get(s, K_TRANSPOSED):
                pack_columns(source, row, terms, outputs, j, j + 1, base)
            else:
                pack_rows(source, row, terms, outputs, j, j + 1, get(s, K_ONE), base)
            fill(plain + terms * ROW, (whole_terms(terms) - terms) * COLUMNS)
            split_panel(plain, ROW, target, size // 2, 0, 0, whole_terms(terms) // 2, 0, 0)

    P_ROWS, P_TERMS, P_OUTPUTS, P_A, P_LDA, P_B, P_C, P_LDC, P_BLOCK, P_PAST, P_SCRATCH, P_SCRATCH_SIZE = (
        int(c) for c in step.Product)

    @jit
    def product(s, thread, threads):
        rows, terms, outputs, ldc, block = (get(s, P_ROWS), get(s, P_TERMS), get(s, P_OUTPUTS), get(s, P_LDC),
                                            get(s, P_BLOCK))
        scratch = get(s, P_SCRATCH) + thread * get(s, P_SCRATCH_SIZE)
        begin(scratch)
        first, last, left, right = divide(rows, panels(outputs), largest, thread, threads)
        for n in range((last - first + block - 1) // block):
            start = first + n * block
            multiply_whole(scratch, get(s, P_A) + start * get(s, P_LDA), get(s, P_LDA), min(block, last - start), terms,
                           get(s, P_B), left, right, get(s, P_C) + start * ldc, ldc, get(s, P_PAST))

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
            add_gradient(scratch, get(s, G_A) + start * get(s, G_A_ROW), get(s, G_A_ROW), get(s, G_A_COLUMNS),
                         get(s, G_B) + start * get(s, G_B_ROW), get(s, G_B_ROW), min(block, terms - start), block,
                         first, last, get(s, G_C), get(s, G_C_ROW), start > 0, start + block >= terms)

    return AmxProducts(begin, multiply_whole, add_gradient, pack, product, gradient)
