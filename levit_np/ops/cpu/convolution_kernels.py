"""Training's convolution kernels: products of unfolded windows (windows.py), a few output lines at a time."""

from . import training_step as step
from .barrier import share
from .intrinsics import get
from .jit import jit
from .panel_packing import fill, init_scratch
from .training_routines import ACCUMULATE
from .training_step import HEADER
from .windows import windows

C_X, C_IMAGES, C_PLANES, C_CHANNELS, C_HEIGHT, C_WIDTH, C_KERNEL, _, _, C_OUT_HEIGHT, C_OUT_WIDTH, C_LINES, C_Y, \
    C_Y_ROW, C_OUTPUTS, C_B, C_C, C_C_ROW, C_SCRATCH, C_SCRATCH_SIZE, C_AMX, C_STREAM = map(int, step.Convolution)


@jit
def sizes(s):
    """(bytes of an image of x; of a line of y; terms; lines of a group; groups of an image)."""
    image = get(s, C_PLANES) * get(s, C_HEIGHT) * get(s, C_WIDTH) * get(s, C_CHANNELS) * 4
    terms = get(s, C_PLANES) * get(s, C_KERNEL) * get(s, C_KERNEL) * get(s, C_CHANNELS)
    lines = get(s, C_LINES)
    return image, get(s, C_OUT_WIDTH) * get(s, C_Y_ROW), terms, lines, (get(s, C_OUT_HEIGHT) + lines - 1) // lines


def convolution_kernels(call, packing, products, on_tiles):
    """(convolution, convolution_input, convolution_weight): the kernels of three kinds of step."""
    padded, panels = packing.padded, packing.panels
    multiply_block, begin, amx_multiply = products.multiply_block, on_tiles.begin, on_tiles.multiply_block
    unfold, fold = windows(call)

    @jit
    def multiply_rows(s, scratch, a, lda, rows, terms, columns, c, ldc, stream):
        """c = a b, b the packed weights."""
        if get(s, C_AMX):
            amx_multiply(scratch + get(s, C_AMX), a, lda, rows, terms, get(s, C_B), columns, 0, panels(columns), c, ldc,
                         stream, 0, 0, 0)
        else:
            multiply_block(a, lda, rows, terms, get(s, C_B), columns, c, ldc, stream, 0, 0)

    @jit
    def begin_all(s, scratch):
        init_scratch(scratch)
        if get(s, C_AMX):
            begin(scratch + get(s, C_AMX))

    @jit
    def convolution(s, thread, threads):
        image, y_line, terms, lines, groups = sizes(s)
        scratch = get(s, C_SCRATCH) + thread * get(s, C_SCRATCH_SIZE)
        begin_all(s, scratch)
        height, columns, row = get(s, C_OUT_HEIGHT), get(s, C_OUT_WIDTH), padded(terms) * 4
        first, last = share(get(s, C_IMAGES) * groups, thread, threads)
        for unit in range(first, last):
            n, start = unit // groups, unit % groups * lines
            count = min(lines, height - start)
            for u in range(count):
                unfold(s, get(s, C_X) + n * image, start + u, scratch + HEADER + u * columns * row, row)
            multiply_rows(s, scratch, scratch + HEADER, row, count * columns, terms, get(s, C_OUTPUTS),
                          get(s, C_Y) + (n * height + start) * y_line, get(s, C_Y_ROW), get(s, C_STREAM))

    @jit
    def convolution_input(s, thread, threads):
        """dx, written at X. A thread has whole images, as windows overlap."""
        image, y_line, terms, lines, groups = sizes(s)
        scratch = get(s, C_SCRATCH) + thread * get(s, C_SCRATCH_SIZE)
        begin_all(s, scratch)
        height, columns, row = get(s, C_OUT_HEIGHT), get(s, C_OUT_WIDTH), padded(terms) * 4
        first, last = share(get(s, C_IMAGES), thread, threads)
        for n in range(first, last):
            fill(get(s, C_X) + n * image, image // 4)
            for group in range(groups):
                start = group * lines
                count = min(lines, height - start)
                multiply_rows(s, scratch, get(s, C_Y) + (n * height + start) * y_line, get(s, C_Y_ROW), count * columns,
                              get(s, C_OUTPUTS), terms, scratch + HEADER, row, 0)
                for u in range(count):
                    fold(s, get(s, C_X) + n * image, start + u, scratch + HEADER + u * columns * row, row)

    weight = _weight(packing, products.add_short_gradient, on_tiles.add_gradient, unfold, begin_all)
    return convolution, convolution_input, weight


def _weight(packing, add_short_gradient, amx_add_gradient, unfold, begin_all):
    padded, panels = packing.padded, packing.panels

    @jit
    def convolution_weight(s, thread, threads):
        image, y_line, terms, lines, groups = sizes(s)
        scratch = get(s, C_SCRATCH) + thread * get(s, C_SCRATCH_SIZE)
        begin_all(s, scratch)
        height, columns, row = get(s, C_OUT_HEIGHT), get(s, C_OUT_WIDTH), padded(terms) * 4
        unfolded = scratch + get(s, C_SCRATCH_SIZE) - lines * columns * row
        first, last = share(panels(terms), thread, threads)
        fill(unfolded, lines * columns * row // 4)  # also the padding behind the terms, so that panels are whole
        for n in range(get(s, C_IMAGES)):
            for group in range(groups):
                start = group * lines
                count = min(lines, height - start)
                for u in range(count):
                    unfold(s, get(s, C_X) + n * image, start + u, unfolded + u * columns * row, row)
                y = get(s, C_Y) + (n * height + start) * y_line
                if get(s, C_AMX):
                    amx_add_gradient(scratch + get(s, C_AMX), y, get(s, C_Y_ROW), get(s, C_OUTPUTS), unfolded, row,
                                     count * columns, lines * columns, first, last, get(s, C_C), get(s, C_C_ROW),
                                     n + start > 0, n + 1 == get(s, C_IMAGES) and group + 1 == groups)
                else:  # the first time STORE, 0, then ACCUMULATE
                    add_short_gradient(y, get(s, C_Y_ROW), get(s, C_OUTPUTS), unfolded, row, row // 4, count * columns,
                                       first, last, get(s, C_C), get(s, C_C_ROW), min(n + start, ACCUMULATE), scratch)

    return convolution_weight
