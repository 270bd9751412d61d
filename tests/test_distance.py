"""What the parity tests measure with sees a NaN wherever it is."""

import numpy as np
import pytest

from .distance import worst, worst_gradient


@pytest.mark.parametrize("name", ["first", "second", "third"])
def test_one_number_that_is_none_is_infinitely_far(name):
    theirs = {key: np.arange(1.0, 4) for key in ("first", "second", "third")}
    ours = theirs | {name: np.array([1, np.nan, 3])}
    assert worst_gradient(theirs, theirs) == 0 and worst_gradient(ours, theirs) == np.inf
    assert max(worst(ours[key], theirs[key]) for key in theirs) == np.inf
