"""Random resized crops: where they are, how areas and ratios are distributed, and that pixels outside of the box do not
matter."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from levit_np.training.augmentation.crop import crop_box, random_resized_crop

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**32))
def test_a_box_lies_within_the_image(width, height, seed):
    left, top, right, bottom = crop_box(width, height, SCALE, RATIO, np.random.default_rng(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


@pytest.mark.parametrize("ratio", [RATIO, (1.5, 3.0)])
def test_areas_and_ratios_are_as_asked(ratio):
    """On an image where every box fits: the share of the area is uniform in 0.08 … 0.3, the log of the ratio is
    uniform. 4,000 draws give a mean to within 1.6 % of a standard deviation; four of these are allowed."""
    random = np.random.default_rng(0)
    boxes = np.array([crop_box(2000, 2000, (0.08, 0.3), ratio, random) for _ in range(4000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    for values, low, high in ((w * h / 4e6, 0.08, 0.3), (np.log(w / h), math.log(ratio[0]), math.log(ratio[1]))):
        deviation = (high - low) / math.sqrt(12)
        assert abs(values.mean() - (low + high) / 2) < 4 * deviation / math.sqrt(4000)
        assert values.std() == pytest.approx(deviation, rel=0.05)
        assert low - 0.002 < values.min() and values.max() < high + 0.002
    for start, room in ((boxes[:, 0], 2000 - w), (boxes[:, 1], 2000 - h)):
        share = start / room   # uniform in 0 … 1 for any size of the box
        assert abs(share.mean() - 0.5) < 4 * 0.289 / math.sqrt(4000) and share.std() == pytest.approx(0.289, rel=0.05)


def test_every_place_of_a_small_box():
    random = np.random.default_rng(1)
    found = {crop_box(4, 4, (1 / 16, 1 / 16), (1, 1), random) for _ in range(1000)}
    assert found == {(x, y, x + 1, y + 1) for x in range(4) for y in range(4)}


@pytest.mark.parametrize("width, height, expected", [
    (1000, 10, (493, 0, 506, 10)),   # 10 x 4/3 = 13 wide
    (10, 1000, (0, 493, 10, 506)),
    (1000, 1, (499, 0, 500, 1)),
    (1, 1000, (0, 499, 1, 500)),
])
def test_where_no_box_fits_the_centre_is_taken(width, height, expected):
    assert crop_box(width, height, (0.9, 1.0), RATIO, np.random.default_rng(0)) == expected


@pytest.mark.parametrize("failures, expected", [(9, (168, 18, 200, 50)), (10, (75, 0, 125, 50))])
def test_a_box_that_fits_is_looked_for_ten_times(failures, expected):
    """A square of the whole area is higher than the image, one of a tenth fits, also in the last place."""
    areas = iter(failures * [1.0] + [0.1])
    random = SimpleNamespace(uniform=lambda low, high: low if low == high else next(areas),
                             integers=lambda count: count - 1)
    assert crop_box(200, 50, (0.1, 1.0), (1, 1), random) == expected


@pytest.mark.parametrize("ratio", [0.1, 10])
def test_a_box_has_a_pixel_at_least(ratio):
    assert crop_box(1, 1, (0.1, 0.1), (ratio, ratio), np.random.default_rng(0)) == (0, 0, 1, 1)


def test_a_box_may_be_as_wide_or_as_high_as_the_image():
    random = np.random.default_rng(1)
    wide, high = ({crop_box(10, 10, (0.5, 0.5), (ratio, ratio), random) for _ in range(100)} for ratio in (2, 0.5))
    assert wide == {(0, y, 10, y + 5) for y in range(6)} and high == {(x, 0, x + 5, 10) for x in range(6)}


def test_the_whole_image():
    random = np.random.default_rng(0)
    assert crop_box(37, 37, (1, 1), (1, 1), random) == (0, 0, 37, 37)
    # A box of the whole area fits only at one ratio in a million; otherwise the central crop within the ratios, here
    # everything, is taken.
    assert crop_box(40, 36, (1, 1), RATIO, random) == (0, 0, 40, 36)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_resized_by_pillow_from_inside_the_box(mode):
    pixels = np.random.default_rng(2).integers(0, 256, (60, 80, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    box = crop_box(80, 60, SCALE, RATIO, np.random.default_rng(5))
    found = random_resized_crop(image, (24, 32), SCALE, RATIO, np.random.default_rng(5))
    assert found.size == (32, 24) and found.mode == mode
    assert np.array_equal(found, image.crop(box).resize((32, 24), Image.Resampling.BICUBIC))
    left, top, right, bottom = box
    around = np.array(image)
    outside = np.ones(around.shape, bool)
    outside[top:bottom, left:right] = False
    around[outside] = 255 - around[outside]
    again = random_resized_crop(Image.fromarray(around), (24, 32), SCALE, RATIO, np.random.default_rng(5))
    assert np.array_equal(found, again)
