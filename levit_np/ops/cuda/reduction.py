"""Sums in float32, always in the same order."""

from .device import arrays, launch
from .geometry import PROCESSORS, ceil_div
from .kernel import Kernel
from .operands import contiguous, element_of

THREADS = 128
# (numbers, threads for each at most) of a block of sum_parts, for few numbers and for many.
FEW, MANY = (32, 16), (128, 4)


def sum_parts(parts):
    """Σ over the first axis, along which blocks have each left a part of the sum."""
    if len(parts) == 1:
        return parts[0]
    y = arrays().empty(parts.shape[1:], "float32")
    lanes, most = FEW if y.size < 4 * PROCESSORS * THREADS else MANY
    rows = min(most, ceil_div(len(parts), 4))
    launch(Kernel("reduction", "sum_parts"), (ceil_div(y.size, lanes),), (lanes, rows), (parts, y, len(parts), y.size),
           lanes * rows * 4)
    return y


def sum_columns(x):
    """Σ over all axes but the last."""
    columns = x.shape[-1]
    rows = x.size // columns if x.size else 0
    if not rows:
        return arrays().zeros((columns,), "float32")
    across = ceil_div(columns, THREADS)
    length = ceil_div(rows, max(1, min(rows // 16, ceil_div(4 * PROCESSORS, across))))
    parts = arrays().empty((ceil_div(rows, length), columns), "float32")
    launch(Kernel("reduction", "sum_columns", element_of(x)), (across, len(parts)), (THREADS,),
           (contiguous(x), parts, rows, columns, length))
    return sum_parts(parts)
