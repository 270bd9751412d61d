"""Training's products of matrices: the functions that other kernels are made of, and the kernels of a step."""

from typing import Any, NamedTuple

from . import training_step as step
from .intrinsics import get
from .routines import ADDED, LINE, NEW, PAST, UNROLL
from .strip_packing import strip_packing
from .training_step import HEAD

# Terms at most whose sum is made in registers before it is added to the others': such a part of a panel is read again
# and again from the L1 cache.
GROUP = 512


class Products(NamedTuple):
    """Functions of a packed b, or that pack it."""

    multiply_block: Any
    multiply_across: Any
    add_gradient: Any
    add_short_gradient: Any


def product_functions(instructions, jit, call, packing):
    """call: the routines by name."""
    fetched = jit(_fetched)
    multiply_block, multiply_across = _multiplications(instructions, jit, call, packing, fetched)
    return Products(multiply_block, multiply_across,
                    *_gradients(instructions, jit, call, packing, fetched, multiply_across))


def _fetched(terms):
    """Bytes that a tile brings to the L2 cache."""
    return terms // UNROLL * LINE


def _multiplications(instructions, jit, call, packing, fetched):
    """(multiply_block, multiply_across)."""
    width, lanes, largest = instructions.width, instructions.lanes, instructions.rows
    vectors, tail_vectors = instructions.vectors, instructions.tail
    whole, panels, tile, across = packing.whole, packing.panels, call["multiply"], call["across"]

    @jit
    def multiply_block(a, lda, rows, terms, b, columns, c, ldc, past, ahead, last):
        """c = a b, b packed; a group of terms at a time, whose part of a panel stays in the L1 cache.  Meanwhile what
        stands from `ahead` to `last` is fetched, and then the next part of b.  past: see running.past_caches.
        -> how far."""
        groups = (terms + GROUP - 1) // GROUP
        for j in range(panels(columns)):
            wide = vectors if whole(columns) - j * width >= width else tail_vectors
            for group in range(groups):
                at, stop = terms * group // groups, terms * (group + 1) // groups
                into = ADDED if group else PAST if past and groups == 1 else NEW
                panel = b + (j * terms * width + at * wide * lanes) * 4
                there = panel  # of which nothing need be fetched
                if ahead < last:
                    there = ahead
                elif group + 1 < groups or j + 1 < panels(columns):
                    there = panel + (stop - at) * wide * lanes * 4
                tile(a + at * 4, lda, rows, stop - at, panel, wide, c + j * width * 4, ldc, into, there)
                ahead += (rows + largest - 1) // largest * fetched(stop - at)
        return ahead

    @jit
    def multiply_across(a, term, rows, terms, b, columns, first, last, c, ldc, into):
        """c = aᵀ b, or c += aᵀ b (see NEW), a's terms `term` bytes apart, panels first to last of the packed b."""
        for j in range(first, last):
            wide = vectors if whole(columns) - j * width >= width else tail_vectors
            across(a, term, rows, terms, b + j * terms * width * 4, wide, c + j * width * 4, ldc, into)

    return multiply_block, multiply_across


def _gradients(instructions, jit, call, packing, fetched, multiply_across):
    """(add_gradient, add_short_gradient)."""
    width, lanes, largest = instructions.width, instructions.lanes, instructions.rows
    whole, panels, pack_rows = packing.whole, packing.panels, packing.pack_rows
    (strip, pack_strips), across, from_strips = (
        strip_packing(instructions, jit, call), call["across"], call["from_strips"])

    @jit
    def add_gradient(a, a_row, a_columns, b, b_row, b_columns, terms, first, last, c, c_row, into, scratch, following):
        """c = aᵀ b, or c += aᵀ b, for panels first to last of b; both are packed, so that they stream from the
        cache: a few hundred terms at a time.  Meanwhile the `following` rows of both are fetched."""
        a_packed = scratch + HEAD
        b_packed = a_packed + (a_columns + largest - 1) // largest * strip(terms)
        pack_strips(a, a_row, terms, a_columns, a_packed)
        pack_rows(b, b_row, terms, b_columns, first, last, scratch, b_packed)
        strips, rest = a_columns // largest, a_columns % largest
        ahead, of_a, of_b = 0, following * a_row, following * b_row
        for j in range(first, last):
            wide = min(width, whole(b_columns) - j * width) // lanes
            panel, to = b_packed + j * terms * width * 4, c + j * width * 4
            there = panel  # of which nothing need be fetched
            if ahead < of_a:
                there = a + terms * a_row + ahead
            elif ahead < of_a + of_b:
                there = b + terms * b_row + ahead - of_a
            from_strips(a_packed, strip(terms), strips, terms, panel, wide, to, c_row, into, there)
            ahead += strips * fetched(terms)
            if rest:
                across(a_packed + strips * strip(terms), largest * 4, rest, terms, panel, wide,
                       to + strips * largest * c_row, c_row, into)

    @jit
    def add_short_gradient(a, a_row, a_columns, b, b_row, b_columns, terms, first, last, c, c_row, into, scratch):
        """The same where a's rows are so short that packing them would take longer than it saves."""
        packed = b
        if panels(b_columns) > 1 or b_row != 4 * whole(b_columns):  # else it is a panel as it lies
            packed = scratch + HEAD
            pack_rows(b, b_row, terms, b_columns, first, last, scratch, packed)
        multiply_across(a, a_row, a_columns, terms, packed, b_columns, first, last, c, c_row, into)

    return add_gradient, add_short_gradient


def division(jit, share):
    """divide: how a product is shared between threads."""
    @jit
    def divide(rows, panels, few, thread, threads):
        """(first row, last, first panel, last): a thread has rows of its own; or, where there are fewer than `few` for
        each, panels."""
        first, last, left, right = 0, rows, 0, panels
        if rows >= few * threads:
            first, last = share(rows, thread, threads)
        else:
            left, right = share(panels, thread, threads)
        return first, last, left, right

    return divide


def product_kernels(instructions, jit, share, packing, products):
    """(pack, product, gradient): the kernels of three kinds of step."""
    width, largest, divide = instructions.width, instructions.rows, division(jit, share)
    panels, prepare, pack_rows, pack_columns = (
        packing.panels, packing.prepare, packing.pack_rows, packing.pack_columns)
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

    P_ROWS, P_TERMS, P_OUTPUTS, P_A, P_LDA, P_B, P_C, P_LDC, P_BLOCK, P_PAST, *_ = (int(c) for c in step.Product)

    @jit
    def product(s, thread, threads):
        rows, terms, outputs, lda, ldc, block = (get(s, P_ROWS), get(s, P_TERMS), get(s, P_OUTPUTS), get(s, P_LDA),
                                                 get(s, P_LDC), get(s, P_BLOCK))
        first, last, left, right = divide(rows, panels(outputs), largest, thread, threads)
        left, right = left * width, min(right * width, outputs)
        for n in range((last - first + block - 1) // block):
            start = first + n * block
            count = min(block, last - start)
            a = get(s, P_A) + start * lda
            following = a + count * lda
            multiply_block(a, lda, count, terms, get(s, P_B) + left * terms * 4, right - left,
                           get(s, P_C) + start * ldc + left * 4, ldc, get(s, P_PAST), following,
                           following + min(block, last - start - count) * lda)

    G_TERMS, G_A, G_A_ROW, G_A_COLUMNS, G_B, G_B_ROW, G_B_COLUMNS, G_C, G_C_ROW, G_BLOCK, G_SCRATCH, G_SCRATCH_SIZE = (
        int(c) for c in step.Gradient)

    @jit
    def gradient(s, thread, threads):
        scratch = get(s, G_SCRATCH) + thread * get(s, G_SCRATCH_SIZE)
        prepare(scratch)
        terms, block = get(s, G_TERMS), get(s, G_BLOCK)
        first, last = share(panels(get(s, G_B_COLUMNS)), thread, threads)
        for n in range((terms + block - 1) // block):
            start = n * block
            count = min(block, terms - start)
            into = ADDED if start else PAST if count == terms else NEW
            add_gradient(get(s, G_A) + start * get(s, G_A_ROW), get(s, G_A_ROW), get(s, G_A_COLUMNS),
                         get(s, G_B) + start * get(s, G_B_ROW), get(s, G_B_ROW), get(s, G_B_COLUMNS),
                         count, first, last, get(s, G_C), get(s, G_C_ROW), into, scratch,
                         min(block, terms - start - count))

    return pack, product, gradient
