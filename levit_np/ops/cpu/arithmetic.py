"""Sums and factors, and what they share with the activations: one pass over the numbers in the order in which they
lie."""

from functools import lru_cache

import numpy as np

from .recording import computed
from .running import ONE, contiguous, empty, fits, past_caches, run
from .training_step import Each, Function, Kind


def add(x, y):
    """x + y."""
    return each(Function.BLEND, y, x, constants=constants_of(1.0, 1.0, 1.0)) if alike(x, y) else np.add(x, y)


def multiply(x, factor):
    """x · factor, a number an image, (B, 1, …), say."""
    if not (fits(x) and fits(factor) and factor.ndim == x.ndim and factor.size == len(factor) == len(x)):
        return np.multiply(x, factor)
    x, factor = contiguous(x), contiguous(factor)
    y = empty(*x.shape)
    past = past_caches(y, y[0].size)
    run(*((Kind.EACH, {Each.FUNCTION: Function.SCALE, Each.COUNT: y[0].size, Each.PAST: past, Each.A: x[image],
                       Each.A + 1: y[image], Each.A + 2: factor[image]}) for image in range(len(x))))
    return y


def sum(x, axis):
    """Σ x over an axis or several."""
    return np.sum(x, axis)


def copyto(target, source):
    """target = source, in place."""
    if alike(target, source) and target.flags.c_contiguous and source.flags.c_contiguous:
        run(_step(Function.SCALE, (source, target, ONE), False))
    else:
        computed(np.copyto, target, source)


@lru_cache(1024)
def constants_of(*numbers):
    found = np.array(numbers, np.float32)
    found.flags.writeable = False
    return found


def alike(x, y):
    return fits(x, y) and x.shape == y.shape


def each(function, *arrays, constants=None):
    """function(*arrays), laid out in memory as the last of them is."""
    x = arrays[-1]
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))  # the same order of axes, without gaps
    y = empty(*(x.shape[axis] for axis in order)).transpose([order.index(axis) for axis in range(x.ndim)])
    arrays = *(_laid_out_as(y, array) for array in arrays), y
    run(_step(function, arrays if constants is None else (*arrays, constants), past_caches(y)))
    return y


def _step(function, arrays, past):
    return Kind.EACH, {Each.FUNCTION: function, Each.COUNT: arrays[0].size, Each.PAST: past,
                       **dict(enumerate(arrays, Each.A))}


def _laid_out_as(y, array):
    return array if array.strides == y.strides else computed(_copied, array, y)


def _copied(array, y):
    copy = np.empty_like(y)
    copy[...] = array
    return copy
