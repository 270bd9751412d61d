"""BN's passes over rows of channels: sums, and what they give."""

from numba import types

from . import training_step as step
from .intrinsics import get, get_float, put, set_float
from .normalization_scalars import places
from .row_functions import GROUP

SUMMED = 32  # rows summed in float32, before their sum is added in float64
FIRST = 16  # rows whose mean stands near the mean of all, so that the variance's sum of squares does not cancel


def column_sums(lanes, jit, call, share):
    """channel_sums: the kernel of two kinds of step, (…, backward).  call: the routines by name."""
    group = GROUP * lanes
    copy, add = call["copy"], call["add"]
    sums_group, sums, sums_one, backward_sums_group, backward_sums, backward_sums_one = (
        call[name] for name in ("sums_group", "sums", "sums_one", "backward_sums_group", "backward_sums",
                                "backward_sums_one"))
    totals, array = places(jit)
    N_ROWS, N_WIDTH, N_X, N_DY, N_ACTIVATED = (
        int(step.Normalization[name]) for name in ("ROWS", "WIDTH", "X", "DY", "ACTIVATED"))

    @jit
    def find_centre(x, row, rows, centre, columns):
        """The mean of the first rows."""
        copy(x, centre, 0, 0, 0, 0, 0, 0, columns)
        for i in range(1, rows):
            add(x + i * row, centre, 0, 0, 0, 0, 0, 0, columns)
        for at in range(centre, centre + 4 * columns, 4):
            set_float(at, get_float(at) / types.float32(rows))

    @jit
    def channel_sums(s, thread, threads, backward):
        """Two float64 totals a column; a thread has columns of its own, and goes through all rows."""
        rows, width, x, dy = get(s, N_ROWS), get(s, N_WIDTH), get(s, N_X), get(s, N_DY)
        (total, products), centre, row = totals(s), array(s, 0), 4 * width
        scale, shift = array(s, 1) if get(s, N_ACTIVATED) else 0, array(s, 2)
        first, last = share((width + lanes - 1) // lanes, thread, threads)
        first, last = first * lanes, min(width, last * lanes)
        for c in range(first, last):
            put(total, c, 0)
            put(products, c, 0)
        if not backward and first < last:
            find_centre(x + 4 * first, row, min(FIRST, rows), centre + 4 * first, last - first)
        for start in range(0, rows, SUMMED):
            count, offset = min(SUMMED, rows - start), start * row
            c = first
            while c + group <= last:
                at = offset + 4 * c
                if backward:
                    backward_sums_group(dy + at, x + at, row, count, centre + 4 * c, total + 8 * c, products + 8 * c,
                                        scale and scale + 4 * c, shift + 4 * c)
                else:
                    sums_group(0, x + at, row, count, centre + 4 * c, total + 8 * c, products + 8 * c, 0, 0)
                c += group
            while c + lanes <= last:
                at = offset + 4 * c
                if backward:
                    backward_sums(dy + at, x + at, row, count, centre + 4 * c, total + 8 * c, products + 8 * c,
                                  scale and scale + 4 * c, shift + 4 * c)
                else:
                    sums(0, x + at, row, count, centre + 4 * c, total + 8 * c, products + 8 * c, 0, 0)
                c += lanes
            while c < last:
                at = offset + 4 * c
                if backward:
                    backward_sums_one(dy + at, x + at, row, count, centre + 4 * c, total + 8 * c, products + 8 * c,
                                      scale and scale + 4 * c, shift + 4 * c)
                else:
                    sums_one(0, x + at, row, count, centre + 4 * c, total + 8 * c, products + 8 * c, 0, 0)
                c += 1

    return channel_sums


def normalization_kernels(jit, call, share):
    """(normalization, normalization_backward): kernels of a step.  call: the routines by name."""
    normalize_row, normalize_row_past, normalize_row_backward, normalize_row_backward_past = (
        call[name] for name in ("normalize", "normalize_past", "normalize_backward", "normalize_backward_past"))
    _, array = places(jit)
    N_ROWS, N_WIDTH, N_X, N_DY, N_OUT, N_PAST, N_ACTIVATED = (
        int(step.Normalization[name]) for name in ("ROWS", "WIDTH", "X", "DY", "OUT", "PAST", "ACTIVATED"))

    @jit
    def normalization(s, thread, threads):
        first, last = share(get(s, N_ROWS), thread, threads)
        past, activated, width, x, out = (get(s, N_PAST), get(s, N_ACTIVATED), get(s, N_WIDTH), get(s, N_X),
                                          get(s, N_OUT))
        centre, scale, shift = array(s, 0), array(s, 1), array(s, 2)
        for row in range(first, last):
            at = row * width * 4
            if past:
                normalize_row_past(x + at, out + at, centre, scale, shift, activated, 0, 0, width)
            else:
                normalize_row(x + at, out + at, centre, scale, shift, activated, 0, 0, width)

    @jit
    def normalization_backward(s, thread, threads):
        first, last = share(get(s, N_ROWS), thread, threads)
        width, dy, x, out, past = get(s, N_WIDTH), get(s, N_DY), get(s, N_X), get(s, N_OUT), get(s, N_PAST)
        centre, scale, one, two = array(s, 0), array(s, 1), array(s, 3), array(s, 4)
        shift = array(s, 2) if get(s, N_ACTIVATED) else 0
        for row in range(first, last):
            at = row * width * 4
            if past:
                normalize_row_backward_past(dy + at, x + at, out + at, centre, scale, one, two, shift, width)
            else:
                normalize_row_backward(dy + at, x + at, out + at, centre, scale, one, two, shift, width)

    return normalization, normalization_backward
