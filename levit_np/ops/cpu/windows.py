"""im2col and col2im for training's convolutions: the windows of one output line as rows of a matrix, and back."""

from numba import types

from . import training_step as step
from .intrinsics import get, get_float, set_float
from .jit import jit
from .panel_packing import fill

C_PLANES, C_CHANNELS, C_HEIGHT, C_WIDTH, C_KERNEL, C_STRIDE, C_PADDING, C_OUT_WIDTH = (
    int(step.Convolution[name]) for name in "PLANES CHANNELS HEIGHT WIDTH KERNEL STRIDE PADDING OUT_WIDTH".split())


@jit
def window(s, x, u, v, p, i):
    """The part of a window in one line of one plane: (its address, how many of the run's numbers before it the
    border replaces, how many up to its end). Empty where the line is in the border."""
    line, channels, columns = u * get(s, C_STRIDE) + i - get(s, C_PADDING), get(s, C_CHANNELS), get(s, C_WIDTH)
    begin = (v * get(s, C_STRIDE) - get(s, C_PADDING)) * channels
    run = get(s, C_KERNEL) * channels
    left = min(run, max(0, -begin))
    right = max(left, min(run, columns * channels - begin))
    if line < 0 or line >= get(s, C_HEIGHT):
        right = left
    return x + ((p * get(s, C_HEIGHT) + line) * columns * channels + begin + left) * 4, left, right


@jit
def without_border(s, u):
    """The pixels of output line u whose windows touch no border: (first, last)."""
    stride, padding, kernel = get(s, C_STRIDE), get(s, C_PADDING), get(s, C_KERNEL)
    line = u * stride - padding
    first = (padding + stride - 1) // stride
    last = max(first, min(get(s, C_OUT_WIDTH), (get(s, C_WIDTH) + padding - kernel) // stride + 1))
    if line < 0 or line + kernel > get(s, C_HEIGHT):
        last = first
    return first, last


def line_windows(copy, add):
    """(unfold, fold) where a pixel's channels lie side by side: a window is one run of numbers for each line of the
    kernel."""
    @jit
    def unfold_lines(s, x, u, target, row):
        kernel, run = get(s, C_KERNEL), get(s, C_KERNEL) * get(s, C_CHANNELS)
        first, last = without_border(s, u)
        line = get(s, C_WIDTH) * get(s, C_CHANNELS) * 4
        for v in range(get(s, C_OUT_WIDTH)):
            for p in range(get(s, C_PLANES)):
                to = target + v * row + p * kernel * run * 4
                if first <= v < last:
                    source = window(s, x, u, v, p, 0)[0]
                    for i in range(kernel):
                        copy(source + i * line, to + i * run * 4, run, 0)
                    continue
                for i in range(kernel):
                    source, left, right = window(s, x, u, v, p, i)
                    at = to + i * run * 4
                    fill(at, left)
                    copy(source, at + left * 4, right - left, 0)
                    fill(at + right * 4, run - right)

    @jit
    def fold_lines(s, x, u, rows, row):
        kernel, run = get(s, C_KERNEL), get(s, C_KERNEL) * get(s, C_CHANNELS)
        first, last = without_border(s, u)
        line = get(s, C_WIDTH) * get(s, C_CHANNELS) * 4
        for v in range(get(s, C_OUT_WIDTH)):
            for p in range(get(s, C_PLANES)):
                at = rows + v * row + p * kernel * run * 4
                if first <= v < last:
                    target = window(s, x, u, v, p, 0)[0]
                    for i in range(kernel):
                        add(at + i * run * 4, target + i * line, run)
                    continue
                for i in range(kernel):
                    target, left, right = window(s, x, u, v, p, i)
                    add(at + (i * run + left) * 4, target, right - left)

    return unfold_lines, fold_lines


@jit
def inside(s, u, p, i, j):
    """The pixels of output line u whose kernel cell (i, j) is not on the border: (first, last, index of the number
    under that cell of the first)."""
    stride, columns, pixels = get(s, C_STRIDE), get(s, C_WIDTH), get(s, C_OUT_WIDTH)
    line, shift = u * stride + i - get(s, C_PADDING), j - get(s, C_PADDING)
    first = max(0, min(pixels, (stride - 1 - shift) // stride))  # all, where the kernel is wider than the image
    last = max(first, min(pixels, (columns - 1 - shift) // stride + 1))
    if line < 0 or line >= get(s, C_HEIGHT):
        last = first
    return first, last, (p * get(s, C_HEIGHT) + line) * columns + first * stride + shift


def plane_windows(copy_fours):
    """unfold of a plane with one number a pixel."""
    @jit
    def unfold_plane(s, x, u, p, target, row):
        """One plane, one line of the kernel after another. A 3 × 3 kernel's runs of three numbers are copied by fours:
        the next run, or the padding behind the terms, overwrites or takes the fourth. The rest is copied cell by cell.
        """
        kernel, step = get(s, C_KERNEL), get(s, C_STRIDE) * 4
        for i in range(kernel):
            to = target + 4 * (p * kernel + i) * kernel
            begin, _, start = inside(s, u, p, i, 0)
            # Not the last: behind its three numbers the array may end.
            end = max(begin, inside(s, u, p, i, 2)[1] - 1) if kernel == 3 else begin
            copy_fours(x + 4 * start, step, to + begin * row, row, end - begin)
            for j in range(kernel):
                first, last, start = inside(s, u, p, i, j)
                cell, source = to + 4 * j, x + 4 * start - first * step
                for v in range(first):
                    set_float(cell + v * row, types.float32(0))
                for v in range(first, min(begin, last)):
                    set_float(cell + v * row, get_float(source + v * step))
                for v in range(max(first, end), last):
                    set_float(cell + v * row, get_float(source + v * step))
                for v in range(last, get(s, C_OUT_WIDTH)):
                    set_float(cell + v * row, types.float32(0))

    return unfold_plane


@jit
def fold_plane(s, x, u, p, rows, row):
    """The adjoint of unfold_plane."""
    kernel, step = get(s, C_KERNEL), get(s, C_STRIDE) * 4
    for cell in range(kernel * kernel):
        first, last, start = inside(s, u, p, cell // kernel, cell % kernel)
        source, to = rows + 4 * (p * kernel * kernel + cell), x + 4 * start - first * step
        for v in range(first, last):
            set_float(to + v * step, get_float(to + v * step) + get_float(source + v * row))


def windows(call):
    """(unfold, fold).  call: the routines by name."""
    unfold_lines, fold_lines = line_windows(call["copy"], call["add"])
    unfold_plane = plane_windows(call["copy_fours"])

    @jit
    def unfold(s, x, u, target, row):
        """Line u of the output: each pixel's window becomes a row, plane by plane, line by line, with zeros for the
        border."""
        if get(s, C_CHANNELS) > 1:
            unfold_lines(s, x, u, target, row)
        else:
            for p in range(get(s, C_PLANES)):
                unfold_plane(s, x, u, p, target, row)

    @jit
    def fold(s, x, u, rows, row):
        """The adjoint of unfold: each row is added to the window that it came from."""
        if get(s, C_CHANNELS) > 1:
            fold_lines(s, x, u, rows, row)
        else:
            for p in range(get(s, C_PLANES)):
                fold_plane(s, x, u, p, rows, row)

    return unfold, fold
