"""Sums and factors, and `pointwise`, which the activations use too: one pass over the arrays in memory order."""

from functools import lru_cache

import numpy as np

from .recording import computed
from .running import ONE, contiguous, empty, fits, run, worth_streaming
from .training_step import Function, Kind, Pointwise


def add(x, y):
    """x + y."""
    return pointwise(Function.BLEND, y, x, constants=constants_of(1.0, 1.0, 1.0)) if alike(x, y) else np.add(x, y)


def multiply(x, factor):
    """x · factor, one number an image: factor (B, 1, …)."""
    if not (fits(x) and fits(factor) and factor.ndim == x.ndim > 1 and factor.size == len(factor) == len(x)):
        return np.multiply(x, factor)
    x, factor = contiguous(x), contiguous(factor)
    y = empty(*x.shape)
    stream = worth_streaming(y, y[0].size)
    run(*(_step(Function.SCALE, (x[image], y[image], factor[image]), stream) for image in range(len(x))))
    return y


def sum(x, axis):
    """Σ x over an axis or several."""
    return np.sum(x, axis)


def copyto(target, source):
    """target = source, in place."""
    if alike(target, source) and target.flags.carray and source.flags.c_contiguous:
        run(_step(Function.SCALE, (source, target, ONE), False))
    else:
        computed(np.copyto, target, source)


@lru_cache(1024)
def constants_of(*numbers):
    """A read-only float32 array of these numbers, which a recording may keep."""
    found = np.array(numbers, np.float32)
    found.flags.writeable = False
    return found


def alike(x, y):
    """Whether the kernels take both, of the same shape."""
    return fits(x, y) and x.shape == y.shape


def pointwise(function, *arrays, constants=None):
    """function(*arrays), laid out in memory as the last of them."""
    x = arrays[-1]
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))  # memory order of the axes
    y = empty(*(x.shape[axis] for axis in order)).transpose([order.index(axis) for axis in range(x.ndim)])
    arrays = *(_laid_out_as(y, array) for array in arrays), y
    run(_step(function, arrays if constants is None else (*arrays, constants), worth_streaming(y)))
    return y


def _step(function, arrays, stream):
    return Kind.POINTWISE, {Pointwise.FUNCTION: function, Pointwise.COUNT: arrays[0].size, Pointwise.STREAM: stream,
                            **dict(enumerate(arrays, Pointwise.A))}


def _laid_out_as(y, array):
    return array if array.strides == y.strides else computed(_copied, array, y)


def _copied(array, y):
    copy = np.empty_like(y)
    copy[...] = array
    return copy
