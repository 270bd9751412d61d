"""Products of matrices that change at every step of training: what is on the right is packed as it comes.

A packed b (terms, columns) is panels of `width` columns, the last perhaps narrower, each (terms, its columns); columns
are padded with zeros to whole grains."""

from typing import Any, NamedTuple

from numba import types

from . import training_step as step
from .intrinsics import get, get_float, set_float
from .training_step import HEAD

# Terms at most whose sum is made in registers before it is added to the others': what is read again and again, a
# panel's part and the rows it multiplies, or parts of two panels for a gradient, then stays in the L1 cache.
GROUP, GRADIENT_GROUP = 288, 192


class Products(NamedTuple):
    """The functions that convolution and attention are made of, and the kernels of three kinds of step."""

    whole: Any
    panels: Any
    prepare: Any
    fill: Any
    divide: Any
    pack_rows: Any
    pack_columns: Any
    multiply: Any
    multiply_across: Any
    add_gradient: Any
    pack: Any
    product: Any
    gradient: Any


def product_kernels(instructions, jit, call, share):
    """call: the routines by name."""
    width, lanes, largest = instructions.width, instructions.lanes, instructions.rows
    vectors, tail_vectors = instructions.vectors, instructions.tail
    grain = tail_vectors * lanes
    scaled, tile, across, transpose_square, pack_panels = (
        call[name] for name in ("scaled", "multiply", "across", "transpose", "pack"))

    @jit
    def whole(columns):
        """Columns padded to whole grains."""
        return (columns + grain - 1) // grain * grain

    @jit
    def panels(columns):
        return (columns + width - 1) // width

    @jit
    def prepare(scratch):
        set_float(scratch, types.float32(1))

    @jit
    def fill(target, count):
        for i in range(count):
            set_float(target + 4 * i, types.float32(0))

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

    @jit
    def pack_rows(source, row, terms, columns, first, last, scale, target):
        """Panels first to last of b (terms, columns), each number times the one at `scale`."""
        full = min(last, columns // width)
        if first < full:
            pack_panels(source + first * width * 4, row, target + first * terms * width * 4, terms, full - first, scale,
                        0, 0, 0)
        for j in range(max(first, full), last):
            wide = whole(columns) - j * width
            present = columns - j * width
            to = target + j * terms * width * 4
            for k in range(terms):
                scaled(source + k * row + j * width * 4, to + k * wide * 4, scale, 0, 0, 0, 0, 0, present)
                if present < wide:
                    fill(to + (k * wide + present) * 4, wide - present)

    @jit
    def pack_columns(source, row, terms, columns, first, last, target):
        """The same of b's transpose (columns, terms)."""
        for j in range(first, last):
            wide = min(width, whole(columns) - j * width)
            to = target + j * terms * width * 4
            for o in range(0, wide, lanes):
                here = source + (j * width + o) * row
                present = max(0, min(lanes, columns - j * width - o))
                squares = terms // lanes * lanes if present == lanes else 0
                for k in range(0, squares, lanes):
                    transpose_square(here + k * 4, row, to + (k * wide + o) * 4, wide * 4, 0, 0, 0, 0, 0)
                for k in range(squares, terms):
                    for i in range(present):
                        set_float(to + (k * wide + o + i) * 4, get_float(here + i * row + k * 4))
                    fill(to + (k * wide + o + present) * 4, lanes - present)

    @jit
    def multiply(a, lda, rows, terms, b, columns, c, ldc):
        """c = a b, b packed; a group of terms at a time, whose part of a panel stays in the L1 cache."""
        groups = (terms + GROUP - 1) // GROUP
        for j in range(panels(columns)):
            wide = vectors if whole(columns) - j * width >= width else tail_vectors
            for group in range(groups):
                at, stop = terms * group // groups, terms * (group + 1) // groups
                tile(a + at * 4, lda, rows, stop - at, b + (j * terms * width + at * wide * lanes) * 4, wide,
                     c + j * width * 4, ldc, group)

    @jit
    def multiply_across(a, term, rows, terms, b, columns, first, last, c, ldc, more):
        """c = aᵀ b, or c += aᵀ b, a's terms `term` bytes apart, panels first to last of the packed b."""
        for j in range(first, last):
            wide = vectors if whole(columns) - j * width >= width else tail_vectors
            across(a, term, rows, terms, b + j * terms * width * 4, wide, c + j * width * 4, ldc, more)

    @jit
    def add_gradient(a, a_row, a_columns, b, b_row, b_columns, terms, first, last, c, c_row, more, scratch):
        """c = aᵀ b, or c += aᵀ b, for panels first to last of b; both are packed,
        so that they stream from the cache."""
        a_packed = scratch + HEAD
        b_packed = a_packed + terms * whole(a_columns) * 4
        pack_rows(a, a_row, terms, a_columns, 0, panels(a_columns), scratch, a_packed)
        pack_rows(b, b_row, terms, b_columns, first, last, scratch, b_packed)
        groups = (terms + GRADIENT_GROUP - 1) // GRADIENT_GROUP
        for j in range(first, last):
            b_wide = min(width, whole(b_columns) - j * width)
            for p in range(panels(a_columns)):
                wide = min(width, whole(a_columns) - p * width)
                for group in range(groups):
                    at, stop = terms * group // groups, terms * (group + 1) // groups
                    across(a_packed + (p * terms * width + at * wide) * 4, wide * 4, min(wide, a_columns - p * width),
                           stop - at, b_packed + (j * terms * width + at * b_wide) * 4, b_wide // lanes,
                           c + p * width * c_row + j * width * 4, c_row, more + group)

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

    P_ROWS, P_TERMS, P_OUTPUTS, P_A, P_LDA, P_B, P_C, P_LDC, P_BLOCK, *_ = (int(c) for c in step.Product)

    @jit
    def product(s, thread, threads):
        rows, terms, outputs, ldc, block = (get(s, P_ROWS), get(s, P_TERMS), get(s, P_OUTPUTS), get(s, P_LDC),
                                            get(s, P_BLOCK))
        first, last, left, right = divide(rows, panels(outputs), largest, thread, threads)
        left, right = left * width, min(right * width, outputs)
        for n in range((last - first + block - 1) // block):
            start = first + n * block
            multiply(get(s, P_A) + start * get(s, P_LDA), get(s, P_LDA), min(block, last - start), terms,
                     get(s, P_B) + left * terms * 4, right - left, get(s, P_C) + start * ldc + left * 4, ldc)

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
            add_gradient(get(s, G_A) + start * get(s, G_A_ROW), get(s, G_A_ROW), get(s, G_A_COLUMNS),
                         get(s, G_B) + start * get(s, G_B_ROW), get(s, G_B_ROW), get(s, G_B_COLUMNS),
                         min(block, terms - start), first, last, get(s, G_C), get(s, G_C_ROW),
                         start, scratch)

    return Products(whole, panels, prepare, fill, divide, pack_rows, pack_columns, multiply, multiply_across,
                    add_gradient, pack, product, gradient)
