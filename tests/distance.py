"""Relative distances between arrays, infinite if an array contains a NaN.

Returning NaN would not do: Python's max over several distances ignores a NaN that is not the first."""

import numpy as np


def worst_gradient(ours, theirs, floor=1e-5):
    """The largest difference of any parameter's gradient, relative to the largest value of that gradient.

    The gradient of a shift that a later BN removes is zero except for rounding. Therefore differences are taken
    relative to at least `floor` times the largest value of all gradients."""
    least = floor * max(np.abs(gradient).max() for gradient in theirs.values())
    return max(_or_infinite(np.abs(ours[name] - gradient).max() / max(np.abs(gradient).max(), least))
               for name, gradient in theirs.items())


def worst(ours, theirs):
    """The largest difference, relative to the largest value."""
    return _or_infinite(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _or_infinite(distance):
    return np.inf if np.isnan(distance) else distance
