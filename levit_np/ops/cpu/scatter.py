"""Scatter-add, y[target[n]] += x[n]: the gradient of a table look-up."""

import numpy as np

from .running import contiguous, empty, run
from .training_step import Kind, Scatter


def scatter_add(x, targets, width):
    """y[i, t] = Σ_n x[i, n] over the n whose target is t.  x (I, …), targets (…) int64 -> y (I, width)."""
    y = empty(len(x), width)
    run((Kind.SCATTER, {Scatter.ROWS: len(x), Scatter.X: contiguous(x), Scatter.Y: y, Scatter.WIDTH: width,
                        Scatter.COUNT: targets.size, Scatter.TARGETS: targets}))
    return y


def places(array, count) -> bool:
    """Whether the array holds places below `count` as the kernel takes them: contiguous int64, all in range."""
    return (isinstance(array, np.ndarray) and array.dtype == np.int64 and array.flags.c_contiguous
            and array.flags.aligned and array.size > 0 and array.min() >= 0 and array.max() < count)
