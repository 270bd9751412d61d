"""How far one result is from another; infinitely where a number is none.

A NaN itself would not do: of several distances, Python's max passes over one that is not the first."""

import numpy as np


def worst_gradient(ours, theirs, floor=1e-5):
    """The largest difference of any parameter's gradient, relative to that gradient's own largest value.  A shift that
    a later BN removes has no gradient but rounding: below `floor` of the largest of all, the difference counts against
    that."""
    least = floor * max(np.abs(gradient).max() for gradient in theirs.values())
    return max(_or_infinite(np.abs(ours[name] - gradient).max() / max(np.abs(gradient).max(), least))
               for name, gradient in theirs.items())


def worst(ours, theirs):
    """Largest difference, relative to the largest value."""
    return _or_infinite(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _or_infinite(distance):
    return np.inf if np.isnan(distance) else distance
