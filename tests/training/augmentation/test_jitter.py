"""Colour jitter against the blends that define brightness, contrast and saturation."""

import itertools

import numpy as np
import pytest
from PIL import Image

from levit_np.training.augmentation.jitter import colour_jitter

PIXELS = np.random.default_rng(0).integers(0, 256, (11, 13, 3), np.uint8)


def blend(pixels, base, factor):
    """base + factor · (pixels - base), clipped to 0 … 255 and made whole numbers, as Pillow stores each result."""
    return np.clip(base + factor * (pixels.astype(float) - base), 0, 255).astype(np.uint8)


def grey(pixels):
    return np.asarray(Image.fromarray(pixels).convert("L")).astype(float) if pixels.ndim == 3 else pixels.astype(float)


BLENDS = [lambda pixels: 0.0, lambda pixels: int(grey(pixels).mean() + 0.5), lambda pixels: grey(pixels)[..., None]]


def candidates(pixels, factors):
    for order in itertools.permutations(range(len(factors))):
        found = pixels
        for place in order:
            found = blend(found, BLENDS[place](found), factors[place])
        yield order, found


def test_it_is_the_three_blends_in_some_order():
    orders = set()
    for seed in range(40):
        factors = np.random.default_rng(seed).uniform(0.6, 1.4, 3)   # the factors that it draws first
        found = np.asarray(colour_jitter(Image.fromarray(PIXELS), 0.4, np.random.default_rng(seed))).astype(int)
        distances = {order: np.abs(found - other).max() for order, other in candidates(PIXELS, factors)}
        best = min(distances, key=distances.get)
        assert distances[best] <= 1   # Pillow computes in float32
        orders.add(best)
    assert len(orders) == 6   # each order is missing with probability (5/6)^40 = 0.0007, and the seeds are fixed


def test_grey_has_no_saturation():
    pixels = PIXELS[:, :, 0]
    for seed in range(10):
        factors = np.random.default_rng(seed).uniform(0.6, 1.4, 2)
        found = colour_jitter(Image.fromarray(pixels), 0.4, np.random.default_rng(seed))
        assert found.mode == "L"
        assert min(np.abs(np.asarray(found).astype(int) - other).max() for _, other in candidates(pixels, factors)) <= 1


def test_no_strength_changes_nothing():
    assert np.array_equal(colour_jitter(Image.fromarray(PIXELS), 0.0, np.random.default_rng(0)), PIXELS)


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_factors_reach_both_ends(strength):
    """Contrast does not change a grey image of one value, so only brightness remains: 100 · factor."""
    flat = Image.new("L", (4, 4), 100)
    values = [np.asarray(colour_jitter(flat, strength, np.random.default_rng(seed)))[0, 0] for seed in range(500)]
    assert 100 * (1 - strength) - 1 <= min(values) < 100 * (1 - 0.95 * strength)
    assert 100 * (1 + 0.95 * strength) - 1 < max(values) <= 100 * (1 + strength)
