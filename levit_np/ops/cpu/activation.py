"""Pointwise activations: wrappers of training's kernels, which read and write each array once, in memory order."""

from .. import reference
from .arithmetic import alike, pointwise
from .running import fits
from .training_step import Function


def hardswish(x):
    """y = x · clip(x + 3, 0, 6) / 6: a piecewise-quadratic x · sigmoid(x)."""
    return pointwise(Function.HARDSWISH, x) if fits(x) else reference.hardswish(x)


def hardswish_backward(dy, x):
    """dx = dy · y'(x), y' being 0 left of -3, 1 right of 3, (2x + 3) / 6 between."""
    return pointwise(Function.HARDSWISH_BACKWARD, dy, x) if alike(dy, x) else reference.hardswish_backward(dy, x)


def silu(x):
    """y = x · sigmoid(x)."""
    return pointwise(Function.SILU, x) if fits(x) else reference.silu(x)


def silu_backward(dy, x):
    """dx = dy · s (1 + x (1 - s)) with s = sigmoid(x)."""
    return pointwise(Function.SILU_BACKWARD, dy, x) if alike(dy, x) else reference.silu_backward(dy, x)
