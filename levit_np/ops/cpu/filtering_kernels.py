"""Training's kernels of convolution by minimal filtering (minimal_filtering.py), a few lines of squares (2 × 2 outputs)
at a time: windows -> 25 numbers a channel -> nine products -> four outputs, and the gradients back."""

from . import training_step as step
from .barrier import share
from .filtering_squares import filtering_squares, sizes, square
from .intrinsics import get
from .jit import jit
from .minimal_filtering import NINE_PARTS, TERMS
from .panel_packing import fill, init_scratch
from .step import PLAIN
from .training_routines import ACCUMULATE, STORE

NUMBER = len(NINE_PARTS)
F_X, F_IMAGES, F_CHANNELS, F_HEIGHT, F_WIDTH, F_DOWN, F_ACROSS, F_LINES, F_Y, F_OUTPUTS, F_B, F_C, F_SIZES, F_ROWS, \
    F_SCRATCH, F_SCRATCH_SIZE, F_STREAM = (int(c) for c in step.Filtering)


T_OUTPUTS, T_CHANNELS, T_WEIGHT, T_TERMS, T_ROW = (int(c) for c in step.KernelTerms)


def kernel_terms_kernel(call):
    """The kernel of two kinds of step, KERNEL_TERMS and KERNEL_TERMS_BACKWARD.  call: the routines by name."""
    make, make_backward = call["kernel_terms"], call["kernel_terms_backward"]

    @jit
    def kernel_terms(s, thread, threads, backward):
        channels = get(s, T_CHANNELS)
        first, last = share(get(s, T_OUTPUTS), thread, threads)
        for n in range(first, last):
            weight, terms = get(s, T_WEIGHT) + n * 36 * channels, get(s, T_TERMS) + n * get(s, T_ROW)
            if backward:
                make_backward(terms, weight, channels)
            else:
                make(weight, terms, channels)

    return kernel_terms


def filtering_kernels(lanes, width, call, packing, products):
    """(filtering, filtering_input, filtering_weight): the kernels of three kinds of step."""
    windows, all_parts = filtering_squares(lanes, call)
    return (_output(lanes, width, call, packing.panels, products.multiply_block, windows),
            _input(lanes, call, packing.padded, products.multiply_block, all_parts),
            _weight(packing, products.add_short_gradient, windows, all_parts))


def _output(lanes, width, call, panels, multiply_block, windows):
    sums = call["square_sums"]

    @jit
    def filtering(s, thread, threads):
        image, row, y_image, lines, groups = sizes(s)
        channels, outputs, across = get(s, F_CHANNELS), get(s, F_OUTPUTS), get(s, F_ACROSS)
        most, y_line = lines * across, 2 * across * outputs * 4
        bordered = get(s, F_SCRATCH) + thread * get(s, F_SCRATCH_SIZE)
        rows = bordered + (4 * lines + 1) * row
        parts, part = rows + most * TERMS * channels * 4, most * width * 4
        first, last = share(get(s, F_IMAGES) * groups, thread, threads)
        for unit in range(first, last):
            n, start = unit // groups, unit % groups * lines
            count = min(lines, get(s, F_DOWN) - start)
            windows(s, get(s, F_X) + n * image, start, count, bordered, row, rows)
            y = get(s, F_Y) + n * y_image + 2 * start * y_line
            # The next squares' lines are prefetched meanwhile; behind an image lies the next one.
            ahead = get(s, F_X) + n * image + min(image, 4 * (start + count) * get(s, F_WIDTH) * channels * 4)
            end = min(ahead + 4 * lines * get(s, F_WIDTH) * channels * 4, get(s, F_X) + get(s, F_IMAGES) * image)
            for j in range(panels(outputs)):
                columns, number = min(width, outputs - j * width), 0
                for i in range(NUMBER):
                    terms = get(get(s, F_SIZES), i) * channels
                    weights = get(s, F_B) + (number * outputs + j * terms * width) * 4
                    ahead = multiply_block(rows + number * 4, TERMS * channels * 4, count * across, terms, weights,
                                           columns, parts + i * part, width * 4, 0, ahead, end)
                    number += terms
                for i in range(count * across):
                    of, to = parts + i * width * 4, y + square(s, i, 8 * outputs, 2 * y_line) + j * width * 4
                    sums(of, part, to, 4 * outputs, y_line, PLAIN, columns // lanes, get(s, F_STREAM))

    return filtering


def _input(lanes, call, padded, multiply_block, all_parts):
    copy, window_backward = call["copy"], call["window_backward"]

    @jit
    def filtering_input(s, thread, threads):
        """dx, written at X. A thread has whole images, as windows overlap."""
        image, row, y_image, lines, groups = sizes(s)
        channels, outputs, across, columns = get(s, F_CHANNELS), get(s, F_OUTPUTS), get(s, F_ACROSS), get(s, F_WIDTH)
        most, terms_row = lines * across, padded(TERMS * channels) * 4
        bordered = get(s, F_SCRATCH) + thread * get(s, F_SCRATCH_SIZE)
        rows = bordered + (4 * lines + 1) * row
        parts, part = rows + most * terms_row, most * outputs * 4
        first, last = share(get(s, F_IMAGES), thread, threads)
        for n in range(first, last):
            x = get(s, F_X) + n * image
            fill(bordered, row // 4)
            for group in range(groups):
                start = group * lines
                count = min(lines, get(s, F_DOWN) - start)
                y, line = get(s, F_Y) + n * y_image, 4 * across * outputs * 4
                all_parts(s, y + start * line, count, parts, part)
                ahead, number = y + (start + count) * line, 0
                end = min(ahead + lines * line, get(s, F_Y) + get(s, F_IMAGES) * y_image)
                for i in range(NUMBER):
                    terms = get(get(s, F_SIZES), i) * channels
                    ahead = multiply_block(parts + i * part, outputs * 4, count * across, outputs,
                                           get(s, F_B) + number * outputs * 4, terms, rows + number * 4, terms_row, 0,
                                           ahead, end)
                    number += terms
                for i in range(1, 4 * count + 1):
                    fill(bordered + i * row, channels)
                for i in range(count * across):
                    window_backward(rows + i * terms_row, 4 * channels, row,
                                    bordered + square(s, i, 16 * channels, 4 * row), channels // lanes)
                # The last line belongs to the next squares' windows too.
                for i in range(4 * count + (group + 1 == groups)):
                    line = 4 * start - 1 + i
                    if 0 <= line < get(s, F_HEIGHT):
                        copy(bordered + i * row + channels * 4, x + line * columns * channels * 4, columns * channels,
                             get(s, F_STREAM))
                copy(bordered + 4 * count * row, bordered, row // 4, 0)

    return filtering_input


def _weight(packing, add_short_gradient, windows, all_parts):
    padded, panels = packing.padded, packing.panels

    @jit
    def filtering_weight(s, thread, threads):
        """Gathers as many squares as there is room for before it multiplies, so that the gradient is seldom read and
        written."""
        image, row, y_image, lines, groups = sizes(s)
        channels, outputs, across, most = get(s, F_CHANNELS), get(s, F_OUTPUTS), get(s, F_ACROSS), get(s, F_ROWS)
        scratch = get(s, F_SCRATCH) + thread * get(s, F_SCRATCH_SIZE)
        init_scratch(scratch)
        own = (4 * lines + 1) * row + most * (TERMS * channels + NUMBER * outputs) * 4  # after the packed operands
        bordered = scratch + get(s, F_SCRATCH_SIZE) - own
        rows = bordered + (4 * lines + 1) * row
        parts, part, terms_row = rows + most * TERMS * channels * 4, most * outputs * 4, TERMS * channels * 4
        units, there, mode = get(s, F_IMAGES) * groups, 0, STORE
        for unit in range(units):
            n, start = unit // groups, unit % groups * lines
            count = min(lines, get(s, F_DOWN) - start)
            windows(s, get(s, F_X) + n * image, start, count, bordered, row, rows + there * terms_row)
            y = get(s, F_Y) + n * y_image + start * 4 * across * outputs * 4
            all_parts(s, y, count, parts + there * outputs * 4, part)
            there += count * across
            if there + lines * across > most or unit + 1 == units:
                number = 0
                for i in range(NUMBER):
                    terms = get(get(s, F_SIZES), i) * channels
                    first, last = share(panels(terms), thread, threads)
                    add_short_gradient(
                        parts + i * part, outputs * 4, outputs, rows + number * 4, terms_row, terms, there, first, last,
                        get(s, F_C) + number * 4, padded(TERMS * channels) * 4, mode, scratch)
                    number += terms
                there, mode = 0, ACCUMULATE

    return filtering_weight
