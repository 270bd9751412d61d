"""Pointwise activations; softmax, which only small arrays go through, by CuPy's own operations."""

import numpy as np

from ..reference import identity, identity_backward, softmax, softmax_backward  # noqa: F401
from .device import arrays, launch
from .geometry import chunk_of, ceil_div
from .kernel import Kernel
from .operands import contiguous, element_of

THREADS = 256
IDENTITY, HARDSWISH, SILU = range(3)  # as in machine.cuh
NUMBERS = {"identity": IDENTITY, "hardswish": HARDSWISH, "silu": SILU}


def hardswish(x):
    """x · clip(x + 3, 0, 6) / 6: a piecewise-quadratic x · sigmoid(x)."""
    return _pointwise("activate", HARDSWISH, x)


def hardswish_backward(dy, x):
    """dx = dy · y'(x), y' being 0 left of -3, 1 right of 3, (2x + 3) / 6 between."""
    return _pointwise("activate_backward", HARDSWISH, dy.astype(x.dtype, copy=False), x)


def silu(x):
    """x · sigmoid(x)."""
    return _pointwise("activate", SILU, x)


def silu_backward(dy, x):
    """dx = dy · s (1 + x (1 - s)) with s = sigmoid(x)."""
    return _pointwise("activate_backward", SILU, dy.astype(x.dtype, copy=False), x)


def _pointwise(name, activation, *inputs):
    """The result is laid out in memory as the inputs are: channels-last images stay so."""
    x, element = inputs[-1], element_of(*inputs)
    order = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    inputs = [contiguous(a.transpose(order)) for a in inputs]
    y = arrays().empty(inputs[0].shape, x.dtype)
    if y.size:
        launch(Kernel("pointwise", name, element), (ceil_div(y.size, THREADS * chunk_of(element)),), (THREADS,),
               (*inputs, y, np.int64(y.size), activation))
    return y.transpose([order.index(axis) for axis in range(x.ndim)])
