"""Batch normalization's passes over all rows: the sums over them, forward and backward, and the normalization itself.
What is computed for each channel in between is in normalization_scalars.py."""

from numba import types

from . import training_step as step
from .barrier import share
from .intrinsics import get, get_float, put, set_float
from .jit import jit
from .normalization_scalars import array, totals
from .row_functions import SUMMED

# first rows, whose mean is near that of all: subtracted before squaring, so that the variance does not cancel
FIRST = 16


def column_sums(lanes, call):
    """channel_sums: the kernel of two kinds of step, COLUMN_SUMS and BACKWARD_SUMS.  call: the routines by name."""
    copy, add, row_sums, rows_sums, row_sums_backward, rows_sums_backward = (
        call[name] for name in ("copy", "add", "row_sums", "rows_sums", "row_sums_backward", "rows_sums_backward"))
    N_ROWS, N_WIDTH, N_X, N_DY, N_ACTIVATED = (
        int(step.Normalization[name]) for name in ("ROWS", "WIDTH", "X", "DY", "ACTIVATED"))

    @jit
    def find_centre(x, row, rows, centre, columns):
        """The mean of the first rows."""
        copy(x, centre, columns, 0)
        for i in range(1, rows):
            add(x + i * row, centre, columns)
        for at in range(centre, centre + 4 * columns, 4):
            set_float(at, get_float(at) / types.float32(rows))

    @jit
    def channel_sums(s, thread, threads, backward):
        """Two float64 totals a column (forward Σ d, Σ d²; backward Σ dy, Σ dy d; d = x - centre). A thread has its own
        columns, and goes through all rows."""
        rows, width, (total, products) = get(s, N_ROWS), get(s, N_WIDTH), totals(s)
        first, last = share((width + lanes - 1) // lanes, thread, threads)
        first, columns = first * lanes, min(width, last * lanes) - first * lanes
        row, x, dy, centre = 4 * width, get(s, N_X) + 4 * first, get(s, N_DY) + 4 * first, array(s, 0) + 4 * first
        scale, shift = array(s, 1) + 4 * first if get(s, N_ACTIVATED) else 0, array(s, 2) + 4 * first
        total, products = total + 8 * first, products + 8 * first
        for c in range(columns):
            put(total, c, 0)
            put(products, c, 0)
        if not backward and columns > 0:
            find_centre(x, row, min(FIRST, rows), centre, columns)
        for start in range(0, rows - SUMMED + 1, SUMMED):
            at = start * row
            if backward:
                rows_sums_backward(dy + at, x + at, row, centre, total, products, scale, shift, columns)
            else:
                rows_sums(0, x + at, row, centre, total, products, 0, 0, columns)
        for start in range(rows // SUMMED * SUMMED, rows):
            at = start * row
            if backward:
                row_sums_backward(dy + at, x + at, row, centre, total, products, scale, shift, columns)
            else:
                row_sums(0, x + at, row, centre, total, products, 0, 0, columns)

    return channel_sums


def normalization_kernels(call):
    """(normalization, normalization_backward): the kernels of NORMALIZE and NORMALIZE_BACKWARD.  call: the routines by
    name."""
    normalize_row, normalize_row_backward = call["normalize"], call["normalize_backward"]
    N_ROWS, N_WIDTH, N_X, N_DY, N_OUT, N_STREAM, N_ACTIVATED = (
        int(step.Normalization[name]) for name in ("ROWS", "WIDTH", "X", "DY", "OUT", "STREAM", "ACTIVATED"))

    @jit
    def normalization(s, thread, threads):
        first, last = share(get(s, N_ROWS), thread, threads)
        stream, activated, width, x, out = (get(s, N_STREAM), get(s, N_ACTIVATED), get(s, N_WIDTH), get(s, N_X),
                                            get(s, N_OUT))
        centre, scale, shift = array(s, 0), array(s, 1), array(s, 2)
        for row in range(first, last):
            at = row * width * 4
            normalize_row(x + at, out + at, centre, scale, shift, activated, width, stream)

    @jit
    def normalization_backward(s, thread, threads):
        first, last = share(get(s, N_ROWS), thread, threads)
        width, dy, x, out, stream = get(s, N_WIDTH), get(s, N_DY), get(s, N_X), get(s, N_OUT), get(s, N_STREAM)
        centre, scale, offset, slope = array(s, 0), array(s, 1), array(s, 3), array(s, 4)
        shift = array(s, 2) if get(s, N_ACTIVATED) else 0
        for row in range(first, last):
            at = row * width * 4
            normalize_row_backward(dy + at, x + at, out + at, centre, scale, offset, slope, shift, width, stream)

    return normalization, normalization_backward
