"""Training's matrix products on register tiles: the loops around the micro-kernels of training_routines.py. First
functions that convolution and attention use too, then the kernels of three kinds of step."""

from typing import Any, NamedTuple

from . import training_step as step
from .barrier import share
from .intrinsics import get
from .jit import jit
from .panel_packing import init_scratch
from .step import LINE
from .strip_packing import strip_packing
from .training_routines import ACCUMULATE, STORE, STREAM, UNROLL
from .training_step import HEADER

# Terms, at most, summed in registers before they are added to c: such a part of a panel, or of two, is read from L1
# again and again.
GROUP, DOUBLE_GROUP = 512, 128


class Products(NamedTuple):
    """Functions that multiply by a packed b, or pack it themselves."""

    multiply_block: Any
    multiply_transposed: Any
    add_gradient: Any
    add_short_gradient: Any


def product_functions(instructions, call, packing):
    """call: the routines by name; packing: panel_packing's functions."""
    multiply_block, multiply_transposed = _multiplications(instructions, call, packing)
    return Products(multiply_block, multiply_transposed,
                    *_gradients(instructions, call, packing, multiply_transposed))


@jit
def prefetched_bytes(terms):
    """Bytes that a tile prefetches into L2: a cache line every UNROLL terms."""
    return terms // UNROLL * LINE


def _multiplications(instructions, call, packing):
    """(multiply_block, multiply_transposed)."""
    width, lanes, largest = instructions.width, instructions.lanes, instructions.rows
    vectors, tail_vectors = instructions.vectors, instructions.tail
    padded, panels, tile, transposed = packing.padded, packing.panels, call["multiply"], call["multiply_transposed"]
    double_rows, double = instructions.double_rows, call.get("multiply_double", tile)  # there if it is called

    @jit
    def multiply_panels(two, j, a, lda, rows, terms, b, columns, c, ldc, stream, ahead, last):
        """The columns of panel j of multiply_block or, if `two`, of the next panel too."""
        most, rows_of_tile = (DOUBLE_GROUP, double_rows) if two else (GROUP, largest)
        wide = vectors if padded(columns) - j * width >= width else tail_vectors
        groups, panel_size = (terms + most - 1) // most, terms * width * 4
        for group in range(groups):
            at, stop = terms * group // groups, terms * (group + 1) // groups
            mode = ACCUMULATE if group else STREAM if stream and groups == 1 else STORE
            part, to = b + j * panel_size + at * wide * lanes * 4, c + j * width * 4
            there = part  # what needs no prefetching
            if ahead < last:
                there = ahead
            elif group + 1 < groups or j + 1 < panels(columns):
                there = part + (stop - at) * wide * lanes * 4
            if two:
                double(a + at * 4, lda, rows, stop - at, part, panel_size, to, ldc, mode, there)
            else:
                tile(a + at * 4, lda, rows, stop - at, part, wide, to, ldc, mode, there)
            ahead += (rows + rows_of_tile - 1) // rows_of_tile * prefetched_bytes(stop - at)
        return ahead

    @jit
    def multiply_block(a, lda, rows, terms, b, columns, c, ldc, stream, ahead, last):
        """c = a b, b packed, two panels at a time, a group of terms at a time, whose part of the panels stays in L1.
        Prefetches from `ahead` to `last` meanwhile, then the next part of b. stream: see running.worth_streaming.
        -> where prefetching stopped."""
        doubled = padded(columns) // (2 * width) * 2 if double_rows else 0
        for j in range(0, doubled, 2):
            ahead = multiply_panels(True, j, a, lda, rows, terms, b, columns, c, ldc, stream, ahead, last)
        for j in range(doubled, panels(columns)):
            ahead = multiply_panels(False, j, a, lda, rows, terms, b, columns, c, ldc, stream, ahead, last)
        return ahead

    @jit
    def multiply_transposed(a, term, rows, terms, b, columns, first, last, c, ldc, mode):
        """c = aᵀ b or, with the mode ACCUMULATE, c += aᵀ b, for panels first to last of the packed b; `term` bytes from
        a term of a to the next."""
        for j in range(first, last):
            wide = vectors if padded(columns) - j * width >= width else tail_vectors
            transposed(a, term, rows, terms, b + j * terms * width * 4, wide, c + j * width * 4, ldc, mode)

    return multiply_block, multiply_transposed


def _gradients(instructions, call, packing, multiply_transposed):
    """(add_gradient, add_short_gradient)."""
    width, lanes, largest = instructions.width, instructions.lanes, instructions.rows
    padded, panels, pack_rows = packing.padded, packing.panels, packing.pack_rows
    (strip_size, pack_strips), transposed, multiply_strips = (
        strip_packing(instructions, call), call["multiply_transposed"], call["multiply_strips"])

    @jit
    def add_gradient(a, a_row, a_columns, b, b_row, b_columns, terms, first, last, c, c_row, mode, scratch, following):
        """c = aᵀ b, or c += aᵀ b, for panels first to last of b, of a few hundred terms: both are packed, so that they
        stream from the cache. Prefetches the `following` rows of both meanwhile."""
        a_packed = scratch + HEADER
        b_packed = a_packed + (a_columns + largest - 1) // largest * strip_size(terms)
        pack_strips(a, a_row, terms, a_columns, a_packed)
        pack_rows(b, b_row, terms, b_columns, first, last, scratch, b_packed)
        strips, rest = a_columns // largest, a_columns % largest
        ahead, of_a, of_b = 0, following * a_row, following * b_row
        for j in range(first, last):
            wide = min(width, padded(b_columns) - j * width) // lanes
            panel, to = b_packed + j * terms * width * 4, c + j * width * 4
            there = panel  # what needs no prefetching
            if ahead < of_a:
                there = a + terms * a_row + ahead
            elif ahead < of_a + of_b:
                there = b + terms * b_row + ahead - of_a
            multiply_strips(a_packed, strip_size(terms), strips, terms, panel, wide, to, c_row, mode, there)
            ahead += strips * prefetched_bytes(terms)
            if rest:
                transposed(a_packed + strips * strip_size(terms), largest * 4, rest, terms, panel, wide,
                           to + strips * largest * c_row, c_row, mode)

    @jit
    def add_short_gradient(a, a_row, a_columns, b, b_row, b_columns, terms, first, last, c, c_row, mode, scratch):
        """The same without packing a: its rows are so short that packing would cost more than it saves."""
        packed = b
        if panels(b_columns) > 1 or b_row != 4 * padded(b_columns):  # else it lies as a panel already
            packed = scratch + HEADER
            pack_rows(b, b_row, terms, b_columns, first, last, scratch, packed)
        multiply_transposed(a, a_row, a_columns, terms, packed, b_columns, first, last, c, c_row, mode)

    return add_gradient, add_short_gradient


@jit
def divide(rows, panels, few, thread, threads):
    """A thread's part of a product, as (first row, last, first panel, last): rows are divided or, where there are fewer
    than `few` for each thread, panels."""
    first, last, left, right = 0, rows, 0, panels
    if rows >= few * threads:
        first, last = share(rows, thread, threads)
    else:
        left, right = share(panels, thread, threads)
    return first, last, left, right


def product_kernels(instructions, packing, products):
    """(pack, product, gradient): the kernels of three kinds of step."""
    largest, across = instructions.rows, instructions.width * (2 if instructions.double_rows else 1)
    panels, pack_rows, pack_columns = packing.panels, packing.pack_rows, packing.pack_columns
    multiply_block, add_gradient = products.multiply_block, products.add_gradient
    K_SOURCE, K_ROW, K_TERMS, K_OUTPUTS, K_TRANSPOSED, K_TARGET, K_ONE, *_ = (int(c) for c in step.Pack)

    @jit
    def pack(s, thread, threads):
        source, row, terms, outputs, target = (get(s, K_SOURCE), get(s, K_ROW), get(s, K_TERMS), get(s, K_OUTPUTS),
                                               get(s, K_TARGET))
        first, last = share(panels(outputs), thread, threads)
        if get(s, K_TRANSPOSED):
            pack_columns(source, row, terms, outputs, first, last, target)
        else:
            pack_rows(source, row, terms, outputs, first, last, get(s, K_ONE), target)

    P_ROWS, P_TERMS, P_OUTPUTS, P_A, P_LDA, P_B, P_C, P_LDC, P_BLOCK, P_STREAM, *_ = (int(c) for c in step.Product)

    @jit
    def product(s, thread, threads):
        rows, terms, outputs, lda, ldc, block = (get(s, P_ROWS), get(s, P_TERMS), get(s, P_OUTPUTS), get(s, P_LDA),
                                                 get(s, P_LDC), get(s, P_BLOCK))
        # Pairs of panels stay together, so that sums do not depend on the number of threads.
        first, last, left, right = divide(rows, (outputs + across - 1) // across, largest, thread, threads)
        left, right = left * across, min(right * across, outputs)
        for n in range((last - first + block - 1) // block):
            start = first + n * block
            count = min(block, last - start)
            a = get(s, P_A) + start * lda
            following = a + count * lda
            multiply_block(a, lda, count, terms, get(s, P_B) + left * terms * 4, right - left,
                           get(s, P_C) + start * ldc + left * 4, ldc, get(s, P_STREAM), following,
                           following + min(block, last - start - count) * lda)

    G_TERMS, G_A, G_A_ROW, G_A_COLUMNS, G_B, G_B_ROW, G_B_COLUMNS, G_C, G_C_ROW, G_BLOCK, G_SCRATCH, G_SCRATCH_SIZE = (
        int(c) for c in step.Gradient)

    @jit
    def gradient(s, thread, threads):
        scratch = get(s, G_SCRATCH) + thread * get(s, G_SCRATCH_SIZE)
        init_scratch(scratch)
        terms, block = get(s, G_TERMS), get(s, G_BLOCK)
        first, last = share(panels(get(s, G_B_COLUMNS)), thread, threads)
        for n in range((terms + block - 1) // block):
            start = n * block
            count = min(block, terms - start)
            mode = ACCUMULATE if start else STREAM if count == terms else STORE
            add_gradient(get(s, G_A) + start * get(s, G_A_ROW), get(s, G_A_ROW), get(s, G_A_COLUMNS),
                         get(s, G_B) + start * get(s, G_B_ROW), get(s, G_B_ROW), get(s, G_B_COLUMNS),
                         count, first, last, get(s, G_C), get(s, G_C_ROW), mode, scratch,
                         min(block, terms - start - count))

    return pack, product, gradient
