"""RandAugment's operations against their definitions, pixel by pixel, and how often and how strongly each is
applied."""

import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from levit_np.training.augmentation import rand_augment as module
from levit_np.training.augmentation.rand_augment import GREY_OPERATIONS, OPERATIONS, rand_augment

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
FILL = (124, 116, 104)


def applied(operation, level, sign=1, pixels=PIXELS):
    fill = FILL if pixels.ndim == 3 else FILL[0]
    found = operation(Image.fromarray(pixels), level, sign, fill)
    assert found.size == (16, 12) and found.mode == ("RGB" if pixels.ndim == 3 else "L")
    return np.asarray(found)


def both(test):
    return pytest.mark.parametrize("pixels", [PIXELS, PIXELS[:, :, 1]], ids=["RGB", "L"])(test)


def test_the_set():
    names = {operation.__name__ for operation in OPERATIONS}
    assert names == {"auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "colour",
                     "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"}
    assert {operation.__name__ for operation in GREY_OPERATIONS} == names - {"colour"} and len(OPERATIONS) == 15


@both
@pytest.mark.parametrize("level", [0.0, 0.31, 0.9, 1.0])
def test_values_by_their_formula(pixels, level):
    v = pixels.astype(int)
    assert np.array_equal(applied(module.invert, level, pixels=pixels), 255 - v)
    kept = 4 - math.floor(4 * level)
    assert np.array_equal(applied(module.posterize, level, pixels=pixels), v >> 8 - kept << 8 - kept)
    threshold = 256 - math.floor(256 * level)
    assert np.array_equal(applied(module.solarize, level, pixels=pixels), np.where(v < threshold, v, 255 - v))
    added = np.where(v < 128, v + math.floor(110 * level), v)
    assert np.array_equal(applied(module.solarize_add, level, pixels=pixels), added)


@both
def test_auto_contrast_stretches_each_channel(pixels):
    narrow = (pixels // 4 + 50).astype(np.uint8)
    low, high = narrow.min(axis=(0, 1)).astype(float), narrow.max(axis=(0, 1)).astype(float)
    expected = (narrow - low) * 255 / (high - low)
    assert np.abs(applied(module.auto_contrast, 0.5, pixels=narrow) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_equalize_spreads_each_channel(mode):
    """A value becomes the share of lower values among the pixels below the largest one, scaled to 0 … 255."""
    skewed = (np.random.default_rng(1).uniform(0, 16, (200, 300, 3)) ** 2).astype(np.uint8)
    image = Image.fromarray(skewed).convert(mode)
    found = np.asarray(module.equalize(image, 0.5, 1, 0)).reshape(60_000, -1)
    for channel, before in zip(found.T, np.asarray(image).reshape(60_000, -1).T, strict=True):
        ordered = np.sort(before)
        below, lower = np.searchsorted(ordered, before), np.searchsorted(ordered, ordered[-1])
        assert np.abs(channel - np.minimum(255 * below / lower, 255)).max() <= 2 and np.ptp(channel) == 255


@both
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("level", [0.0, 0.5, 0.9, 1.0])
def test_enhancements_are_blends(pixels, level, sign):
    """base + f · (v - base) with f = 1 ± 0.9 · level, and at least 0.1."""
    factor = max(0.1, 1 + sign * 0.9 * level)
    assert factor == pytest.approx({1: 1 + 0.9 * level, -1: 1 - 0.9 * level}[sign])
    image = Image.fromarray(pixels)
    grey = np.asarray(image.convert("L")).astype(float)
    smooth = np.asarray(image.filter(ImageFilter.SMOOTH)).astype(float)
    bases = {module.brightness: 0.0, module.contrast: math.floor(grey.mean() + 0.5), module.sharpness: smooth}
    if pixels.ndim == 3:
        bases[module.colour] = grey[:, :, None]
    for operation, base in bases.items():
        expected = np.clip(base + factor * (pixels.astype(float) - base), 0, 255)
        assert np.abs(applied(operation, level, sign, pixels) - expected).max() <= 1, operation.__name__


GRADIENT = np.add.outer(3.0 * np.arange(12), 5.0 * np.arange(16))
# Pillow's bicubic weights (a = -1) distort a linear ramp by at most 0.0963 of a pixel in each direction; one grey level
# is for rounding.
TOLERANCE = 0.0963 * (3 + 5) + 1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("level", [0.0, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_geometry_moves_a_gradient_and_fills(name, level, sign):
    """The plane 3·y + 5·x must become the plane at the transformed positions; pixels from outside get the fill
    colour."""
    y, x = np.mgrid[:12, :16] + 0.5   # the centres of pixels
    s = sign * level
    if name == "rotate":   # counterclockwise about the centre: source positions turn the other way
        angle = math.radians(30 * s)
        dx, dy = x - 8, y - 6
        from_x = 8 + dx * math.cos(angle) - dy * math.sin(angle)
        from_y = 6 + dx * math.sin(angle) + dy * math.cos(angle)
    else:
        from_x = x + {"shear_x": 0.3 * s * y, "translate_x": 0.45 * s * 16}.get(name, 0)
        from_y = y + {"shear_y": 0.3 * s * x, "translate_y": 0.45 * s * 12}.get(name, 0)
    plane = GRADIENT.astype(np.uint8)
    found = applied(getattr(module, name), level, sign, plane).astype(float)
    expected = 3 * (from_y - 0.5) + 5 * (from_x - 0.5)
    inner = (from_x > 2) & (from_x < 14) & (from_y > 2) & (from_y < 10)
    outer = (from_x < -0.01) | (from_x > 16.01) | (from_y < -0.01) | (from_y > 12.01)
    assert inner.sum() > 30 and np.abs(found - expected)[inner].max() <= TOLERANCE
    assert (found[outer] == FILL[0]).all() and (outer.any() or abs(s) < 0.05 or "rotate" in name or "shear" in name)
    if level == 0:
        assert np.array_equal(found, plane)


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_geometry_is_bicubic(name):
    """Only bicubic weights are negative, so that values beside an edge lie outside of those on both of its sides."""
    quarters = np.full((12, 16), 50, np.uint8)
    quarters[:6, 8:] = quarters[6:, :8] = 200
    found = applied(getattr(module, name), 0.55, pixels=quarters)
    assert found.min() < 50 and found.max() > 200


def recorded(monkeypatch, layers=2, magnitude=9.0, deviation=0.5, mode="RGB", count=3000):
    """The operations that were drawn: [(index of the operation, level, sign), …] for each of `count` images."""
    calls = []

    def record(place):
        def operation(image, level, sign, fill):
            calls[-1].append((place, level, sign))
            return image
        return operation

    monkeypatch.setattr(module, "OPERATIONS", tuple(record(place) for place in range(15)))
    monkeypatch.setattr(module, "GREY_OPERATIONS", tuple(record(place) for place in range(14)))
    image = Image.new(mode, (4, 4))
    for seed in range(count):
        calls.append([])
        rand_augment(image, layers, magnitude, deviation, 0, np.random.default_rng([1, seed]))
    return calls


def test_how_often_each_is_drawn(monkeypatch):
    """Two layers, each with probability ½: 0, 1 or 2 operations with ¼, ½, ¼; each of 15 is equally likely, in both
    layers."""
    calls = recorded(monkeypatch)
    lengths = np.bincount([len(call) for call in calls], minlength=3)
    assert len(lengths) == 3
    np.testing.assert_allclose(lengths / 3000, [0.25, 0.5, 0.25], atol=4 * 0.5 / math.sqrt(3000))
    drawn = [draw for call in calls for draw in call]
    counts = np.bincount([place for place, _, _ in drawn], minlength=15)
    expected = len(drawn) / 15
    assert ((counts - expected) ** 2 / expected).sum() < 36.1   # chi-square, 14 degrees of freedom: 0.001
    assert any(call[0][0] == call[1][0] for call in calls if len(call) == 2)   # with replacement
    signs = np.array([sign for _, _, sign in drawn])
    assert set(signs) == {1, -1} and abs(signs.mean()) < 4 / math.sqrt(len(drawn))


def test_how_strongly(monkeypatch):
    """Normal with mean 9 and deviation 0.5, in tenths, clipped at 10, which 2.3 % exceed."""
    levels = np.array([level for call in recorded(monkeypatch) for _, level, _ in call])
    assert levels.max() == 1.0 and (levels == 1.0).mean() == pytest.approx(0.0228, abs=0.012)
    assert np.median(levels) == pytest.approx(0.9, abs=0.005)
    assert np.mean(np.abs(levels - 0.9) < 0.05) == pytest.approx(0.6827, abs=0.035)
    fixed = [level for call in recorded(monkeypatch, magnitude=7.0, deviation=0.0, count=20) for _, level, _ in call]
    assert set(fixed) == {0.7}
    weak = [level for call in recorded(monkeypatch, magnitude=0.0, deviation=1.0, count=200) for _, level, _ in call]
    assert min(weak) == 0.0 and 0 < np.mean(np.array(weak) > 0) < 1


def test_grey_images_have_no_colour_operation(monkeypatch):
    calls = recorded(monkeypatch, layers=4, mode="L", count=300)
    assert {place for call in calls for place, _, _ in call} == set(range(14))


@both
def test_the_image_is_not_written_to(pixels):
    image = Image.fromarray(pixels.copy())
    for seed in range(30):
        rand_augment(image, 3, 9.0, 0.5, FILL if pixels.ndim == 3 else 124, np.random.default_rng(seed))
    assert np.array_equal(image, pixels)
