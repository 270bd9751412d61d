"""Evaluation's convolutions by minimal filtering (minimal_filtering.py) on register tiles: a few squares of 2 × 2
outputs at a time, one panel of weights after another."""

from . import step
from .barrier import share
from .intrinsics import get, put
from .jit import jit
from .minimal_filtering import NINE_PARTS, TERMS
from .step import LINE, PLAIN, TILE
from .tile import UNROLL

LAST = len(NINE_PARTS) - 1  # the part in all four outputs, which starts from the bias
F_IMAGES, F_LINES, F_COLUMNS, F_CHANNELS, F_SOURCE, F_SOURCE_PIXEL, F_SOURCE_LINE, F_SOURCE_IMAGE, F_B, F_B_PANEL, \
    F_PANELS, F_TAIL, F_TARGET, F_TARGET_PIXEL, F_TARGET_LINE, F_TARGET_IMAGE, F_BIAS, F_FINISH, F_ROWS, \
    F_SIZES, F_LONGEST, F_SCRATCH, F_SCRATCH_SIZE = (int(c) for c in step.Filtering)


def tile_filtering(instructions, call):
    """The kernel (step, thread, threads).  call: the routines by name."""
    lanes, vectors, tail_vectors = instructions.lanes, instructions.vectors, instructions.tail
    row, filter_window, filter_sums = instructions.width * 4, call["filter_window"], call["filter_sums"]
    expect = _expect(call["prefetch_target"])
    divide = _division(instructions.rows, row)
    multiply_parts = _multiply_parts(call["tile"], lanes, row)

    @jit
    def filtering(s, thread, threads):
        first, last = share(get(s, F_IMAGES) * get(s, F_LINES) * get(s, F_COLUMNS), thread, threads)
        channels, most_rows = get(s, F_CHANNELS), get(s, F_ROWS)
        zeros = get(s, F_SCRATCH) + thread * get(s, F_SCRATCH_SIZE)
        for i in range(row // 8):
            put(zeros, i, 0)
        parts, part, a_row = zeros + row, most_rows * row, TERMS * channels * 4
        windows = parts + (LAST + 1) * part
        table = windows + most_rows * a_row
        chunks = (last - first + most_rows - 1) // most_rows
        full, panels = get(s, F_PANELS), get(s, F_PANELS) + get(s, F_TAIL)
        for chunk in range(chunks):
            start, stop = share(last - first, chunk, chunks)
            start, rows = first + start, stop - start
            count = divide(table, rows, a_row)
            for i in range(rows):
                source = get(s, F_SOURCE) + place(s, start + i, 4 * get(s, F_SOURCE_PIXEL), 4 * get(s, F_SOURCE_LINE),
                                                  get(s, F_SOURCE_IMAGE))
                filter_window(source, get(s, F_SOURCE_PIXEL), get(s, F_SOURCE_LINE), windows + i * a_row,
                              channels // lanes)
                expect(s, start + i)
            for j in range(panels):
                wide = vectors if j < full else tail_vectors
                multiply_parts(s, windows, a_row, table, count, zeros, get(s, F_B) + j * get(s, F_B_PANEL), wide,
                               get(s, F_BIAS) + j * row, parts, part)
                for i in range(rows):
                    filter_sums(parts + i * row, part, target_of(s, start + i) + j * row, get(s, F_TARGET_PIXEL),
                                get(s, F_TARGET_LINE), get(s, F_FINISH), wide)

    return filtering


@jit
def place(s, square, pixel, line, image):
    """Byte offset of a square's first pixel; `square` counts through all images."""
    lines, columns = get(s, F_LINES), get(s, F_COLUMNS)
    across, down, number = square % columns, square // columns % lines, square // columns // lines
    return across * pixel + down * line + number * image


@jit
def target_of(s, square):
    """Address of a square's first output."""
    return get(s, F_TARGET) + place(s, square, 2 * get(s, F_TARGET_PIXEL), 2 * get(s, F_TARGET_LINE),
                                    get(s, F_TARGET_IMAGE))


def _expect(prefetch_target):
    @jit
    def expect(s, square):
        """Asks for the memory of a square's outputs while its products are computed: a map of the last image has left
        the caches."""
        target, two_pixels = target_of(s, square), 2 * get(s, F_TARGET_PIXEL)
        prefetch_target(target, two_pixels // LINE)
        prefetch_target(target + get(s, F_TARGET_LINE), two_pixels // LINE)

    return expect


def _division(most, row):
    @jit
    def divide(table, rows, a_row):
        """Writes a table of tiles for `rows` rows.  -> the number of tiles."""
        count, start = (rows + most - 1) // most, 0
        for i in range(count):
            size = rows // count + (i < rows % count)
            put(table + i * TILE, 0, size)
            put(table + i * TILE, 1, start * a_row)
            put(table + i * TILE, 2, start * row)
            start += size
        return count

    return divide


def _multiply_parts(tile, lanes, row):
    @jit
    def multiply_parts(s, windows, a_row, table, count, zeros, b, wide, bias, parts, part):
        """The nine parts of all rows for one panel, each a product over its terms, a group of them at a time."""
        channels, longest, number = get(s, F_CHANNELS), get(s, F_LONGEST), 0
        for n in range(LAST + 1):
            terms = get(get(s, F_SIZES), n) * channels
            groups = (terms + longest - 1) // longest
            to = parts + n * part
            for group in range(groups):
                at, stop = terms * group // groups, terms * (group + 1) // groups
                from_, from_row = bias if n == LAST else zeros, 0
                if group:
                    from_, from_row = to, row
                weights = b + (number * channels + at) * wide * lanes * 4
                # bytes after these weights, the next group's, that are prefetched
                behind = (stop - at) * wide * lanes * 4
                tile(wide, table, count, windows + (number * channels + at) * 4, a_row, zeros, 1, stop - at, weights,
                     0, weights + behind, behind // count, behind // count * UNROLL // (stop - at), to, row, 0, -1,
                     from_, from_row, 0, PLAIN, 0, 0, 0)
            number += get(get(s, F_SIZES), n)

    return multiply_parts
