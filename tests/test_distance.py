"""The distances that the parity tests use are infinite if there is a NaN anywhere."""

import numpy as np
import pytest

from .distance import worst, worst_gradient


@pytest.mark.parametrize("name", ["first", "second", "third"])
def test_a_nan_anywhere_is_infinitely_far(name):
    theirs = {key: np.arange(1.0, 4) for key in ("first", "second", "third")}
    ours = theirs | {name: np.array([1, np.nan, 3])}
    assert worst_gradient(theirs, theirs) == 0 and worst_gradient(ours, theirs) == np.inf
    assert max(worst(ours[key], theirs[key]) for key in theirs) == np.inf
