"""Sums in float32, always in one order."""

from .device import Kernel, arrays, contiguous, element_of, launch
from .geometry import PROCESSORS, cover

THREADS = 128
LANES, MOST_ROWS = 32, 16  # of a block of sum_parts: numbers, and threads that share one's parts


def sum_parts(parts):
    """Σ over the first axis of what many blocks have each found a part of."""
    if len(parts) == 1:
        return parts[0]
    y = arrays().empty(parts.shape[1:], "float32")
    rows = min(MOST_ROWS, cover(len(parts), 4))
    launch(Kernel("reduction", "sum_parts"), (cover(y.size, LANES),), (LANES, rows), (parts, y, len(parts), y.size),
           LANES * rows * 4)
    return y


def sum_columns(x):
    """Σ over all axes but the last."""
    columns = x.shape[-1]
    rows = x.size // columns if x.size else 0
    if not rows:
        return arrays().zeros((columns,), "float32")
    across = cover(columns, THREADS)
    length = cover(rows, max(1, min(rows // 16, cover(4 * PROCESSORS, across))))
    parts = arrays().empty((cover(rows, length), columns), "float32")
    launch(Kernel("reduction", "sum_columns", element_of(x)), (across, len(parts)), (THREADS,),
           (contiguous(x), parts, rows, columns, length))
    return sum_parts(parts)
