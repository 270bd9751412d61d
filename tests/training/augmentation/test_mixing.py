"""Mixup, cutmix and label smoothing against their formulas and distributions."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_np.training.augmentation.mixing import Mixture, cut_mixture, draw_mixture, mix_pair, smooth_target

SIZE = 20, 30


def draws(count=4000, **options):
    options = {"mixup": 0.8, "cutmix": 1.0, "probability": 1.0, "switch": 0.5, "size": SIZE, **options}
    return [draw_mixture(random=np.random.default_rng([9, seed]), **options) for seed in range(count)]


def beta_deviation(alpha):
    return 0.5 / math.sqrt(2 * alpha + 1)


def test_mixup_is_beta():
    shares = np.array([mixture.share for mixture in draws(cutmix=0.0)])
    assert shares.mean() == pytest.approx(0.5, abs=4 * beta_deviation(0.8) / math.sqrt(4000))
    assert shares.std() == pytest.approx(beta_deviation(0.8), rel=0.03)


def test_each_is_drawn_as_often_as_asked():
    mixed = draws(probability=0.7, switch=0.25)
    none, cut = sum(m is None for m in mixed), sum(m is not None and m.box is not None for m in mixed)
    assert none == pytest.approx(1200, abs=4 * math.sqrt(4000 * 0.21))
    assert cut == pytest.approx(700, abs=4 * math.sqrt(4000 * 0.175 * 0.825))


def test_each_has_its_own_alpha():
    """For a large alpha, Beta is nearly ½, which a cut at the image's edge can only raise; for a small one nearly 0 or
    1."""
    mixed = draws(200, mixup=0.001, cutmix=10_000.0)
    assert all(0.45 < mixture.share for mixture in mixed if mixture.box is not None)
    assert all(min(mixture.share, 1 - mixture.share) < 0.01 for mixture in mixed if mixture.box is None)


def test_mixing_that_is_switched_off_is_never_drawn():
    assert all(mixture is None for mixture in draws(50, mixup=0.0, cutmix=0.0) + draws(50, probability=0.0))
    assert all(mixture.box is None for mixture in draws(50, cutmix=0.0))
    assert all(mixture.box is not None for mixture in draws(50, mixup=0.0))


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(1, 60), st.integers(1, 60), st.data())
def test_a_cut_is_in_the_image_and_its_share_is_the_rest(share, height, width, data):
    """From c - s // 2 up to c + s // 2 of each side, as timm's: c the middle, s the side times √(1 - share)."""
    middles = [data.draw(st.integers(0, length - 1)) for length in (height, width)]
    drawn = iter(middles)
    mixture = cut_mixture(share, (height, width), SimpleNamespace(integers=lambda length: next(drawn)))
    for side, length, middle in zip(mixture.box, (height, width), middles, strict=True):
        half = int(length * math.sqrt(1 - share)) // 2
        assert (side.start, side.stop) == tuple(np.clip([middle - half, middle + half], 0, length))
    stays = np.ones((height, width))
    stays[mixture.box] = 0
    assert mixture.share == pytest.approx(stays.mean(), abs=1e-12)


def test_the_middle_of_a_cut_is_anywhere():
    """A pixel in the centre is in a cut of half of each side with probability ½ · ½, a corner with a quarter of
    that."""
    random = np.random.default_rng(4)
    covered = np.zeros((20, 20))
    for _ in range(4000):
        covered[cut_mixture(0.75, (20, 20), random).box] += 1
    assert covered[10, 10] / 4000 == pytest.approx(0.25, abs=4 * 0.433 / math.sqrt(4000))
    for corner in (covered[0, 0], covered[0, -1], covered[-1, 0], covered[-1, -1]):
        # 5 or 6 of 20 centres reach an end.
        assert 0.25**2 - 0.02 < corner / 4000 < 0.3**2 + 0.02


def pair():
    random = np.random.default_rng(0)
    return random.standard_normal((2, 3, *SIZE), np.float32), np.stack([smooth_target(c, 5, 0.1) for c in (1, 3)])


def test_mixup_of_a_pair():
    images, targets = pair()
    a, b = images.astype(float)
    s, t = targets.astype(float)
    mix_pair(images, targets, Mixture(0.3, None))
    np.testing.assert_allclose(images, [0.3 * a + 0.7 * b, 0.3 * b + 0.7 * a], atol=1e-6)
    np.testing.assert_allclose(targets, [0.3 * s + 0.7 * t, 0.3 * t + 0.7 * s], rtol=1e-6)


def test_cutmix_of_a_pair():
    images, targets = pair()
    (a, b), (s, t) = images.copy(), targets.copy()
    mix_pair(images, targets, Mixture(0.75, (slice(5, 15), slice(0, 15))))
    a[:, 5:15, :15], b[:, 5:15, :15] = b[:, 5:15, :15].copy(), a[:, 5:15, :15].copy()
    assert np.array_equal(images, [a, b])
    np.testing.assert_allclose(targets, [0.75 * s + 0.25 * t, 0.75 * t + 0.25 * s], rtol=1e-6)


@settings(deadline=None)
@given(st.integers(2, 2000), st.floats(0, 0.99), st.data())
def test_smoothing(classes, smoothing, data):
    """(1 - s) onehot + s / classes."""
    target = data.draw(st.integers(0, classes - 1))
    row = smooth_target(target, classes, smoothing)
    expected = np.full(classes, smoothing / classes)
    expected[target] = 1 - smoothing + smoothing / classes
    assert row.dtype == np.float32
    np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1e-9)
