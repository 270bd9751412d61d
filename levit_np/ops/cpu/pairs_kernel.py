"""The kernel of pairs.py."""

from . import training_step as step
from .intrinsics import get, get_float, set_float


def pairs_kernel(jit, share, fill):
    """The kernel of a step."""
    P_ROWS, P_X, P_X_ROW, P_Y, P_WIDTH, P_COUNT, P_SOURCES, P_TARGETS = (int(c) for c in step.Pairs)

    @jit
    def pairs(s, thread, threads):
        sources, targets, width = get(s, P_SOURCES), get(s, P_TARGETS), get(s, P_WIDTH)
        first, last = share(get(s, P_ROWS), thread, threads)
        for row in range(first, last):
            x, y = get(s, P_X) + row * get(s, P_X_ROW), get(s, P_Y) + row * width * 4
            fill(y, width)
            for n in range(get(s, P_COUNT)):
                to = y + 4 * get(targets, n)
                set_float(to, get_float(to) + get_float(x + 4 * get(sources, n)))

    return pairs
