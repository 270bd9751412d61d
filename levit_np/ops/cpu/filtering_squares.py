"""What training's minimal filtering does before and after its products, for lines of squares (2 × 2 outputs);
filtering_kernels.py calls it.

Pixels are first copied to where a border of zeros surrounds them; then each square's window becomes 25 numbers a
channel."""

from . import training_step as step
from .intrinsics import get
from .jit import jit
from .minimal_filtering import TERMS
from .panel_packing import fill

F_CHANNELS, F_HEIGHT, F_WIDTH, F_DOWN, F_ACROSS, F_LINES, F_OUTPUTS = (
    int(step.Filtering[name]) for name in "CHANNELS HEIGHT WIDTH DOWN ACROSS LINES OUTPUTS".split())


@jit
def sizes(s):
    """(bytes of an image of x; of a bordered line; of an image of y; lines of squares of a group; groups of an
    image)."""
    channels, lines = get(s, F_CHANNELS), get(s, F_LINES)
    image = get(s, F_HEIGHT) * get(s, F_WIDTH) * channels * 4
    y_image = 4 * get(s, F_DOWN) * get(s, F_ACROSS) * get(s, F_OUTPUTS) * 4
    return image, (4 * get(s, F_ACROSS) + 1) * channels * 4, y_image, lines, (get(s, F_DOWN) + lines - 1) // lines


@jit
def square(s, i, pixel, line):
    """Byte offset of square i's first pixel, squares being `pixel` and `line` bytes apart."""
    return i % get(s, F_ACROSS) * pixel + i // get(s, F_ACROSS) * line


def filtering_squares(lanes, call):
    """(windows, all_parts): functions of a step.  call: the routines by name."""
    copy, window, sums_backward = call["copy"], call["window"], call["square_sums_backward"]

    @jit
    def windows(s, x, start, count, lines, row, target):
        """`count` lines of squares from `start` on -> rows of terms, by way of the bordered copy at `lines`."""
        channels, columns = get(s, F_CHANNELS), get(s, F_WIDTH)
        for i in range(4 * count + 1):
            at, line = lines + i * row, 4 * start - 1 + i
            present = columns if 0 <= line < get(s, F_HEIGHT) else 0
            fill(at, channels)
            copy(x + line * columns * channels * 4, at + channels * 4, present * channels, 0)
            fill(at + (1 + present) * channels * 4, (4 * get(s, F_ACROSS) - present) * channels)
        for i in range(count * get(s, F_ACROSS)):
            window(lines + square(s, i, 16 * channels, 4 * row), 4 * channels, row, target + i * TERMS * channels * 4,
                   channels // lanes)

    @jit
    def all_parts(s, y, count, parts, part):
        """The gradients of the nine products for `count` lines of squares, the first of which is at y."""
        outputs = get(s, F_OUTPUTS)
        line = 2 * get(s, F_ACROSS) * outputs * 4
        for i in range(count * get(s, F_ACROSS)):
            sums_backward(y + square(s, i, 8 * outputs, 2 * line), 4 * outputs, line, parts + i * outputs * 4, part,
                          outputs // lanes)

    return windows, all_parts
