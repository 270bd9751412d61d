"""Sums in float32, always in one order."""

from .device import arrays, launch
from .geometry import PROCESSORS, cover
from .kernel import Kernel
from .operands import contiguous, element_of

THREADS = 128
# Of a block of sum_parts, numbers and threads that share one's parts, at most: of few numbers, and of many.
FEW, MANY = (32, 16), (128, 4)


def sum_parts(parts):
    """Σ over the first axis of what many blocks have each found a part of."""
    if len(parts) == 1:
        return parts[0]
    y = arrays().empty(parts.shape[1:], "float32")
    lanes, most = FEW if y.size < 4 * PROCESSORS * THREADS else MANY
    rows = min(most, cover(len(parts), 4))
    launch(Kernel("reduction", "sum_parts"), (cover(y.size, lanes),), (lanes, rows), (parts, y, len(parts), y.size),
           lanes * rows * 4)
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
