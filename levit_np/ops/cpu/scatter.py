"""Scatter-add, y[target] += x[source]: the gradient of a table look-up; and the product of a small 0-1 matrix, or its
transpose, with many vectors."""

import numpy as np

from .running import empty, run
from .training_step import Kind, Scatter


def scatter_add(x, sources, targets, width):
    """y[n, t] = Σ x[n, s] over the pairs (s, t).  x (N, …), each row contiguous; sources, targets: int64 places in a
    row of x and of y -> y (N, width). With sources and targets exchanged it is the adjoint."""
    y = empty(len(x), width)
    run((Kind.SCATTER, {Scatter.ROWS: len(x), Scatter.X: x, Scatter.X_ROW: x.strides[0], Scatter.Y: y,
                        Scatter.WIDTH: width, Scatter.COUNT: sources.size, Scatter.SOURCES: sources,
                        Scatter.TARGETS: targets}))
    return y


def places(array, count) -> bool:
    """Whether the array holds places below `count` as the kernel takes them: contiguous int64, all in range."""
    return (isinstance(array, np.ndarray) and array.dtype == np.int64 and array.flags.c_contiguous
            and array.flags.aligned and array.size > 0 and array.min() >= 0 and array.max() < count)
