"""Sums along pairs of places, y[to] += x[from]: the gradient of what was looked up in a table, and a small matrix of
zeros and ones times each of many vectors, or its transpose."""

import numpy as np

from .running import empty, run
from .training_step import Kind, Pairs


def add_pairs(x, sources, targets, width):
    """y[n, t] = Σ x[n, s] over the pairs (s, t).  x (N, …), its rows' numbers side by side; sources, targets: int64, of
    places in a row of x and of y -> y (N, width).  With sources and targets exchanged it is its own adjoint."""
    y = empty(len(x), width)
    run((Kind.PAIRS, {Pairs.ROWS: len(x), Pairs.X: x, Pairs.X_ROW: x.strides[0], Pairs.Y: y, Pairs.WIDTH: width,
                      Pairs.COUNT: sources.size, Pairs.SOURCES: sources, Pairs.TARGETS: targets}))
    return y


def places(array, count) -> bool:
    """Whether these are places, as the kernel takes them, among so many."""
    return (isinstance(array, np.ndarray) and array.dtype == np.int64 and array.flags.c_contiguous
            and array.flags.aligned and array.size > 0 and array.min() >= 0 and array.max() < count)
