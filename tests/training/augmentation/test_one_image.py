"""The whole augmentation of one image: each part alone does what it says, in the authors' order, from one random
stream."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from levit_np.images.preprocessing import preprocessing_named
from levit_np.training.augmentation import one_image
from levit_np.training.augmentation.one_image import augment, fill_colour
from levit_np.training.recipe import RECIPES, Recipe

PLAIN = Recipe(crop_scale=(1, 1), crop_ratio=(1, 1), flip=0, augment_layers=0, erase=0)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8))
COLOUR, GREY = preprocessing_named("authors", (24, 24), 3), preprocessing_named("digits", (24, 24))


def plain(image, preprocessing):
    pixels = np.asarray(image).reshape(24, 24, -1) / 255
    return ((pixels - preprocessing.mean) / preprocessing.std).transpose(2, 0, 1)


def test_nothing_but_the_normalisation():
    x = augment(IMAGE, PLAIN, COLOUR, np.random.default_rng(0))
    assert x.dtype == np.float32 and x.shape == (3, 24, 24) and x.flags.c_contiguous
    np.testing.assert_allclose(x, plain(IMAGE, COLOUR), atol=1e-6)
    grey = IMAGE.convert("L")
    np.testing.assert_allclose(augment(grey, PLAIN, GREY, np.random.default_rng(0)), plain(grey, GREY), atol=1e-6)


def test_flips():
    """Left and right, as often as asked."""
    mirrored = plain(IMAGE, COLOUR)[:, :, ::-1]
    recipe = replace(PLAIN, flip=0.3)
    flipped = 0
    for seed in range(1000):
        x = augment(IMAGE, recipe, COLOUR, np.random.default_rng([2, seed]))
        turned = np.abs(x - mirrored).max() < 1e-5
        assert turned or np.abs(x - plain(IMAGE, COLOUR)).max() < 1e-5
        flipped += turned
    assert flipped == pytest.approx(300, abs=4 * (1000 * 0.21) ** 0.5)
    assert np.abs(augment(IMAGE, replace(PLAIN, flip=1), COLOUR, np.random.default_rng(0)) - mirrored).max() < 1e-5


@pytest.mark.parametrize("part", [{"crop_scale": (0.08, 1)}, {"flip": 1.0}, {"augment_layers": 2}, {"jitter": 0.4},
                                  {"erase": 1.0}])
def test_each_part_can_be_switched_on_alone(part):
    random = np.random.default_rng(3)
    changed = [not np.allclose(augment(IMAGE, replace(PLAIN, **part), COLOUR, random), plain(IMAGE, COLOUR), atol=1e-4)
               for _ in range(10)]
    assert sum(changed) >= 4   # RandAugment leaves a quarter of the images unchanged


def test_each_part_is_as_strong_as_the_recipe_says(monkeypatch):
    asked = []
    for name in ("random_resized_crop", "rand_augment", "colour_jitter", "random_erasing"):
        def part(*arguments, name=name, function=getattr(one_image, name)):
            asked.append((name, *arguments[1:-1]))
            return function(*arguments)

        monkeypatch.setattr(one_image, name, part)
    recipe = Recipe(crop_scale=(0.3, 0.4), crop_ratio=(0.5, 0.6), augment_layers=3, augment_magnitude=4.0,
                    augment_deviation=0.7, jitter=0.2, erase=0.1)
    augment(IMAGE, recipe, COLOUR, np.random.default_rng(0))
    assert asked == [("random_resized_crop", (24, 24), (0.3, 0.4), (0.5, 0.6)),
                     ("rand_augment", 3, 4.0, 0.7, (124, 116, 104)), ("colour_jitter", 0.2), ("random_erasing", 0.1)]


def test_noise_comes_after_the_normalisation():
    """An erased box has standard deviation 1 after normalisation, for any image."""
    values = []
    for seed in range(40):
        x = augment(Image.new("RGB", (24, 24)), replace(PLAIN, erase=1), COLOUR, np.random.default_rng(seed))
        black = plain(Image.new("RGB", (24, 24)), COLOUR)
        values.append(x[np.abs(x - black) > 1e-4])
    assert np.concatenate(values).std() == pytest.approx(1, abs=0.05)


def test_the_fill_colour_is_nearly_zero_once_normalised():
    """The colour that fills pixels from outside is the mean, to half a grey level."""
    assert fill_colour(COLOUR) == (124, 116, 104) and fill_colour(GREY) == 128
    for preprocessing, half in ((COLOUR, 0.5 / 255 / 0.224), (GREY, 0.5 / 255 / 0.5)):
        fill = np.atleast_1d(fill_colour(preprocessing))
        normalised = (fill / 255 - preprocessing.mean) / preprocessing.std
        assert np.abs(normalised).max() <= half + 1e-12


def test_a_mean_that_no_pixel_has_is_filled_with_the_nearest_value():
    """A file's preprocessing may have any mean, and Pillow takes no other colours."""
    assert fill_colour(replace(COLOUR, mean=(-0.1, 0.5, 123.7))) == (0, 128, 255)


@pytest.mark.parametrize("chosen", RECIPES)
@pytest.mark.parametrize("preprocessing", [COLOUR, GREY], ids=["colour", "grey"])
def test_the_recipes_on_any_image(chosen, preprocessing):
    """The result is finite and has the right shape; the same stream gives it again, another stream another one; also
    for odd sizes."""
    for width, height in ((1, 1), (1, 50), (300, 2), (24, 24), (37, 61)):
        pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        image = Image.fromarray(pixels).convert(preprocessing.mode)
        found = [augment(image, RECIPES[chosen], preprocessing, np.random.default_rng([seed, 7]))
                 for seed in (0, 0, 1, 2)]
        assert np.isfinite(found[0]).all() and found[0].shape == (len(preprocessing.mean), 24, 24)
        assert np.array_equal(found[0], found[1])
        if width > 1 < height:
            assert not np.array_equal(found[0], found[2]) or not np.array_equal(found[0], found[3])
