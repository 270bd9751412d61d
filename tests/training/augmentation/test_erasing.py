"""Random erasing: how often, how large and where the box is, and what fills it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_np.training.augmentation.erasing import erase_box, random_erasing


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_a_box_lies_within_and_is_smaller(height, width, seed):
    box = erase_box(height, width, np.random.default_rng(seed))
    if box:
        rows, columns = box
        assert 0 <= rows.start <= rows.stop <= height and rows.stop - rows.start < height
        assert 0 <= columns.start <= columns.stop <= width and columns.stop - columns.start < width


def test_areas_and_aspects_are_as_asked():
    """Among boxes that fit at any aspect ratio, up to 0.3 of the area: areas uniform from 0.02, the log of the aspect
    ratio uniform."""
    random = np.random.default_rng(0)
    boxes = [erase_box(1000, 1000, random) for _ in range(6000)]
    h, w = (np.array([box[axis].stop - box[axis].start for box in boxes]) for axis in range(2))
    area, aspect = h * w / 1e6, np.log(h / w)
    assert 0.0195 < area.min() < 0.022 and 0.325 < area.max() < 0.334
    small = area < 0.29
    assert area[small].mean() == pytest.approx((0.02 + 0.29) / 2, abs=4 * 0.078 / math.sqrt(small.sum()))
    end = math.log(1 / 0.3)
    assert aspect[small].mean() == pytest.approx(0, abs=4 * end / math.sqrt(3 * small.sum()))
    assert aspect[small].std() == pytest.approx(end / math.sqrt(3), rel=0.04)
    assert -end - 0.01 < aspect.min() < -0.95 * end and 0.95 * end < aspect.max() < end + 0.01
    top = np.array([box[0].start for box in boxes]) / (1000 - h)
    assert top.mean() == pytest.approx(0.5, abs=4 * 0.289 / math.sqrt(6000)) and top.max() > 0.99 and top.min() < 0.01


@pytest.mark.parametrize("failures, expected", [(9, (slice(22, 30), slice(28, 30))), (10, None)])
def test_a_box_that_fits_is_looked_for_ten_times(failures, expected):
    """At the largest aspect ratio, a third of the image is higher than it is; a fiftieth fits, also in the last
    place."""
    areas = iter(failures * [1 / 3] + [0.02])
    random = SimpleNamespace(uniform=lambda low, high: high if low < 0 else next(areas),
                             integers=lambda count: count - 1)
    assert erase_box(30, 30, random) == expected


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_how_often_and_what(probability):
    """The box contains independent normal numbers for each channel and pixel; the rest is unchanged."""
    erased, noise = 0, []
    for seed in range(800):
        x = np.full((3, 20, 24), 7, np.float32)
        random_erasing(x, probability, np.random.default_rng(seed))
        changed = x != 7
        erased += changed.any()
        if changed.any():
            assert (changed == changed[0]).all()
            rows, columns = (np.flatnonzero(changed[0].any(axis=axis)) for axis in (1, 0))
            assert changed[0].sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            noise.append(x[changed])
    assert erased == pytest.approx(800 * probability, abs=4 * math.sqrt(800 * probability * (1 - probability)) + 1e-9)
    if probability:
        values = np.concatenate(noise)
        assert values.dtype == np.float32 and len(np.unique(values)) > 0.99 * len(values)
        assert abs(values.mean()) < 4 / math.sqrt(len(values)) and values.std() == pytest.approx(1, abs=0.02)
        assert np.mean(np.abs(values) < 1) == pytest.approx(0.6827, abs=0.01)   # normally distributed
