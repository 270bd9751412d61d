"""Pointwise activations, one pass over the numbers in the order in which they lie."""

import numpy as np

from .. import reference
from .running import empty, fits, past_caches, run
from .training_step import Each, Function, Kind


def hardswish(x):
    """x · clip(x + 3, 0, 6) / 6: a piecewise-quadratic x · sigmoid(x)."""
    return each(Function.HARDSWISH, x) if fits(x) else reference.hardswish(x)


def hardswish_backward(dy, x):
    """0 left of -3, 1 right of 3, (2x + 3) / 6 between."""
    return each(Function.HARDSWISH_BACKWARD, x, dy) if _alike(dy, x) else reference.hardswish_backward(dy, x)


def silu(x):
    """x · sigmoid(x)."""
    return each(Function.SILU, x) if fits(x) else reference.silu(x)


def silu_backward(dy, x):
    """With s = sigmoid(x): s (1 + x (1 - s))."""
    return each(Function.SILU_BACKWARD, x, dy) if _alike(dy, x) else reference.silu_backward(dy, x)


def _alike(dy, x):
    return fits(dy, x) and dy.shape == x.shape


def each(function, x, *before):
    """function(*before, x), laid out in memory as x is."""
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))  # the same order of axes, without gaps
    y = empty(*(x.shape[axis] for axis in order)).transpose([order.index(axis) for axis in range(x.ndim)])
    arrays = [_laid_out_as(y, array) for array in (*before, x)]
    run((Kind.EACH, {Each.FUNCTION: function, Each.COUNT: x.size, Each.PAST: past_caches(y),
                     **dict(enumerate((*arrays, y), Each.A))}))
    return y


def _laid_out_as(y, array):
    if array.strides == y.strides:
        return array
    copy = np.empty_like(y)
    copy[...] = array
    return copy
