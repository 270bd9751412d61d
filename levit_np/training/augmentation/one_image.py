"""Augments one decoded image: everything that happens before it is mixed with another, in the authors' order."""

import numpy as np
from PIL import Image

from ...images.preprocessing import Preprocessing, normalise
from ..recipe import Recipe
from .crop import random_resized_crop
from .erasing import random_erasing
from .jitter import colour_jitter
from .rand_augment import rand_augment


def augment(image: Image.Image, recipe: Recipe, preprocessing: Preprocessing,
            random: np.random.Generator) -> np.ndarray:
    """An augmented image -> float32 (C, H, W), with the size, mean and std of `preprocessing`.

    The image must have preprocessing's mode, "RGB" or "L".
    """
    image = random_resized_crop(image, preprocessing.crop, recipe.crop_scale, recipe.crop_ratio, random)
    if random.random() < recipe.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if recipe.augment_layers:
        image = rand_augment(image, recipe.augment_layers, recipe.augment_magnitude, recipe.augment_deviation,
                             fill_colour(preprocessing), random)
    if recipe.jitter:
        image = colour_jitter(image, recipe.jitter, random)
    x = normalise(np.asarray(image), preprocessing)
    random_erasing(x, recipe.erase, random)
    return x


def fill_colour(preprocessing: Preprocessing) -> int | tuple[int, ...]:
    """The pixel value that is 0 after normalisation: the mean, from 0 to 255."""
    mean = tuple(min(max(round(255 * value), 0), 255) for value in preprocessing.mean)
    return mean if len(mean) > 1 else mean[0]
