"""The kernel of scatter.py's scatter-add."""

from . import training_step as step
from .barrier import share
from .intrinsics import get, get_float, set_float
from .jit import jit
from .panel_packing import fill

S_ROWS, S_X, S_Y, S_WIDTH, S_COUNT, S_TARGETS = (int(c) for c in step.Scatter)


@jit
def scatter(s, thread, threads):
    """The kernel of SCATTER."""
    count, width, targets = get(s, S_COUNT), get(s, S_WIDTH), get(s, S_TARGETS)
    first, last = share(get(s, S_ROWS), thread, threads)
    for row in range(first, last):
        x, y = get(s, S_X) + row * count * 4, get(s, S_Y) + row * width * 4
        fill(y, width)
        for n in range(count):
            to = y + 4 * get(targets, n)
            set_float(to, get_float(to) + get_float(x + 4 * n))
