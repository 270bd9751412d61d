"""Convolutions of training as products: the windows of a few lines of the output, unfolded, are rows of a matrix."""

from numba import types

from . import training_step as step
from .intrinsics import get, get_float, set_float
from .amx import SCRATCH as SUMS
from .training_step import AMX_HEAD, HEAD


def convolution_kernels(jit, call, share, products, on_tiles):
    """(convolution, convolution_input, convolution_weight): the kernels of three kinds of step."""
    copy, add = call["copy"], call["add"]
    whole, panels, prepare, fill, multiply, add_gradient = (
        products.whole, products.panels, products.prepare, products.fill, products.multiply, products.add_gradient)
    begin, split_rows, amx_multiply_rows, amx_add_gradient, row_size = (
        on_tiles.begin, on_tiles.split_rows, on_tiles.multiply_rows, on_tiles.add_gradient, on_tiles.row_size)
    C_X, C_IMAGES, C_PLANES, C_CHANNELS, C_HEIGHT, C_WIDTH, C_KERNEL, C_STRIDE, C_PADDING, C_OUT_HEIGHT, C_OUT_WIDTH, \
        C_LINES, C_Y, C_Y_ROW, C_OUTPUTS, C_B, C_C, C_C_ROW, C_SCRATCH, C_SCRATCH_SIZE, C_AMX, C_PAST = (
            int(c) for c in step.Convolution)

    @jit
    def window(s, x, u, v, p, i):
        """The part of a window that lies in one line of one plane: (its address, the run's numbers before it that the
        border replaces, those up to its end).  No numbers where the line is in the border."""
        line, channels, columns = u * get(s, C_STRIDE) + i - get(s, C_PADDING), get(s, C_CHANNELS), get(s, C_WIDTH)
        begin = (v * get(s, C_STRIDE) - get(s, C_PADDING)) * channels
        run = get(s, C_KERNEL) * channels
        left = min(run, max(0, -begin))
        right = max(left, min(run, columns * channels - begin))
        if line < 0 or line >= get(s, C_HEIGHT):
            right = left
        return x + ((p * get(s, C_HEIGHT) + line) * columns * channels + begin + left) * 4, left, right

    @jit
    def unfold_lines(s, x, u, target, row):
        kernel, run = get(s, C_KERNEL), get(s, C_KERNEL) * get(s, C_CHANNELS)
        for v in range(get(s, C_OUT_WIDTH)):
            for p in range(get(s, C_PLANES)):
                for i in range(kernel):
                    source, left, right = window(s, x, u, v, p, i)
                    to = target + v * row + (p * kernel + i) * run * 4
                    fill(to, left)
                    copy(source, to + left * 4, 0, 0, 0, 0, 0, 0, right - left)
                    fill(to + right * 4, run - right)

    @jit
    def fold_lines(s, x, u, rows, row):
        kernel, run = get(s, C_KERNEL), get(s, C_KERNEL) * get(s, C_CHANNELS)
        for v in range(get(s, C_OUT_WIDTH)):
            for p in range(get(s, C_PLANES)):
                for i in range(kernel):
                    target, left, right = window(s, x, u, v, p, i)
                    add(rows + v * row + ((p * kernel + i) * run + left) * 4, target, 0, 0, 0, 0, 0, 0, right - left)

    @jit
    def inside(s, u, p, i, j):
        """The pixels of output line u under whose kernel cell (i, j) there is no border: (first, last, the number of
        the value under the first one)."""
        stride, columns = get(s, C_STRIDE), get(s, C_WIDTH)
        line, shift = u * stride + i - get(s, C_PADDING), j - get(s, C_PADDING)
        first = max(0, (stride - 1 - shift) // stride)
        last = max(first, min(get(s, C_OUT_WIDTH), (columns - 1 - shift) // stride + 1))
        if line < 0 or line >= get(s, C_HEIGHT):
            last = first
        return first, last, (p * get(s, C_HEIGHT) + line) * columns + first * stride + shift

    @jit
    def unfold_plane(s, x, u, p, target, row):
        """A plane of single values: cell by cell, for their runs are too short to be copied as such."""
        kernel, step = get(s, C_KERNEL), get(s, C_STRIDE) * 4
        for cell in range(kernel * kernel):
            first, last, start = inside(s, u, p, cell // kernel, cell % kernel)
            to, source = target + 4 * (p * kernel * kernel + cell), x + 4 * start - first * step
            for v in range(first):
                set_float(to + v * row, types.float32(0))
            for v in range(first, last):
                set_float(to + v * row, get_float(source + v * step))
            for v in range(last, get(s, C_OUT_WIDTH)):
                set_float(to + v * row, types.float32(0))

    @jit
    def fold_plane(s, x, u, p, rows, row):
        kernel, step = get(s, C_KERNEL), get(s, C_STRIDE) * 4
        for cell in range(kernel * kernel):
            first, last, start = inside(s, u, p, cell // kernel, cell % kernel)
            source, to = rows + 4 * (p * kernel * kernel + cell), x + 4 * start - first * step
            for v in range(first, last):
                set_float(to + v * step, get_float(to + v * step) + get_float(source + v * row))

    @jit
    def unfold(s, x, u, target, row):
        """Line u of the output: each pixel's window becomes a row, plane by plane, line by line; zeros for the border."""
        if get(s, C_CHANNELS) > 1:
            unfold_lines(s, x, u, target, row)
        else:
            for p in range(get(s, C_PLANES)):
                unfold_plane(s, x, u, p, target, row)

    @jit
    def fold(s, x, u, rows, row):
        """unfold's adjoint: each row is added to the window that it came from."""
        if get(s, C_CHANNELS) > 1:
            fold_lines(s, x, u, rows, row)
        else:
            for p in range(get(s, C_PLANES)):
                fold_plane(s, x, u, p, rows, row)

    @jit
    def sizes(s):
        """(bytes of an image of x, of a line of y; terms; lines in a group; groups an image)."""
        image = get(s, C_PLANES) * get(s, C_HEIGHT) * get(s, C_WIDTH) * get(s, C_CHANNELS) * 4
        terms = get(s, C_PLANES) * get(s, C_KERNEL) * get(s, C_KERNEL) * get(s, C_CHANNELS)
        lines = get(s, C_LINES)
        return image, get(s, C_OUT_WIDTH) * get(s, C_Y_ROW), terms, lines, (get(s, C_OUT_HEIGHT) + lines - 1) // lines

    @jit
    def multiply_rows(s, scratch, a, lda, rows, terms, columns, c, ldc, past):
        """c = a b, b being the packed weights."""
        if get(s, C_AMX):
            tiles = scratch + get(s, C_AMX)
            part, left = rows * row_size(terms), tiles + AMX_HEAD + (rows + 31) // 32 * SUMS
            split_rows(a, lda, rows, terms, left, part, tiles)
            amx_multiply_rows(tiles, left, row_size(terms), part, rows, terms, get(s, C_B), 0, panels(columns), c, ldc, past,
                              tiles + AMX_HEAD, 0, False, True)
        else:
            multiply(a, lda, rows, terms, get(s, C_B), columns, c, ldc)

    @jit
    def begin_all(s, scratch):
        prepare(scratch)
        if get(s, C_AMX):
            begin(scratch + get(s, C_AMX))

    @jit
    def convolution(s, thread, threads):
        image, y_line, terms, lines, groups = sizes(s)
        scratch = get(s, C_SCRATCH) + thread * get(s, C_SCRATCH_SIZE)
        begin_all(s, scratch)
        height, columns, row = get(s, C_OUT_HEIGHT), get(s, C_OUT_WIDTH), whole(terms) * 4
        first, last = share(get(s, C_IMAGES) * groups, thread, threads)
        for unit in range(first, last):
            n, start = unit // groups, unit % groups * lines
            count = min(lines, height - start)
            for u in range(count):
                unfold(s, get(s, C_X) + n * image, start + u, scratch + HEAD + u * columns * row, row)
            multiply_rows(s, scratch, scratch + HEAD, row, count * columns, terms, get(s, C_OUTPUTS),
                          get(s, C_Y) + (n * height + start) * y_line, get(s, C_Y_ROW), get(s, C_PAST))

    @jit
    def convolution_input(s, thread, threads):
        """Into x, which starts at 0; an image is one thread's."""
        image, y_line, terms, lines, groups = sizes(s)
        scratch = get(s, C_SCRATCH) + thread * get(s, C_SCRATCH_SIZE)
        begin_all(s, scratch)
        height, columns, row = get(s, C_OUT_HEIGHT), get(s, C_OUT_WIDTH), whole(terms) * 4
        first, last = share(get(s, C_IMAGES), thread, threads)
        for n in range(first, last):
            for group in range(groups):
                start = group * lines
                count = min(lines, height - start)
                multiply_rows(s, scratch, get(s, C_Y) + (n * height + start) * y_line, get(s, C_Y_ROW), count * columns,
                              get(s, C_OUTPUTS), terms, scratch + HEAD, row, 0)
                for u in range(count):
                    fold(s, get(s, C_X) + n * image, start + u, scratch + HEAD + u * columns * row, row)

    @jit
    def convolution_weight(s, thread, threads):
        image, y_line, terms, lines, groups = sizes(s)
        scratch = get(s, C_SCRATCH) + thread * get(s, C_SCRATCH_SIZE)
        begin_all(s, scratch)
        height, columns, row = get(s, C_OUT_HEIGHT), get(s, C_OUT_WIDTH), whole(terms) * 4
        unfolded = scratch + get(s, C_SCRATCH_SIZE) - lines * columns * row
        first, last = share(panels(terms), thread, threads)
        for n in range(get(s, C_IMAGES)):
            for group in range(groups):
                start = group * lines
                count = min(lines, height - start)
                for u in range(count):
                    unfold(s, get(s, C_X) + n * image, start + u, unfolded + u * columns * row, row)
                y = get(s, C_Y) + (n * height + start) * y_line
                if get(s, C_AMX):
                    amx_add_gradient(scratch + get(s, C_AMX), y, get(s, C_Y_ROW), get(s, C_OUTPUTS), unfolded, row,
                                     count * columns, lines * columns, first, last, get(s, C_C), get(s, C_C_ROW), n + start > 0,
                                     n + 1 == get(s, C_IMAGES) and group + 1 == groups)
                else:
                    add_gradient(y, get(s, C_Y_ROW), get(s, C_OUTPUTS), unfolded, row, terms, count * columns, first, last,
                                 get(s, C_C), get(s, C_C_ROW), n + start, scratch)

    return convolution, convolution_input, convolution_weight
