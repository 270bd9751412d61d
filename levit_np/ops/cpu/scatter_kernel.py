"""The kernel of scatter.py's scatter-add."""

from . import training_step as step
from .barrier import share
from .intrinsics import get, get_float, set_float
from .jit import jit
from .panel_packing import fill

S_ROWS, S_X, S_X_ROW, S_Y, S_WIDTH, S_COUNT, S_SOURCES, S_TARGETS = (int(c) for c in step.Scatter)


@jit
def scatter(s, thread, threads):
    """The kernel of SCATTER."""
    sources, targets, width = get(s, S_SOURCES), get(s, S_TARGETS), get(s, S_WIDTH)
    first, last = share(get(s, S_ROWS), thread, threads)
    for row in range(first, last):
        x, y = get(s, S_X) + row * get(s, S_X_ROW), get(s, S_Y) + row * width * 4
        fill(y, width)
        for n in range(get(s, S_COUNT)):
            to = y + 4 * get(targets, n)
            set_float(to, get_float(to) + get_float(x + 4 * get(sources, n)))
