"""RandAugment (arXiv 1909.13719) as timm's `rand-m9-mstd0.5-inc1`: a few of fifteen operations, with random strength.

"inc" means that a greater strength never distorts less, whatever the operation.  `level` is the strength / 10, from 0
to 1; `sign`, ±1, is the direction of operations that have one.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

PROBABILITY = 0.5   # that a chosen operation is applied
STRONGEST = 10.0

_Fill = int | tuple[int, ...]


def rotate(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Rotates by up to 30 degrees; the corners are filled."""
    return image.rotate(sign * 30 * level, Image.Resampling.BICUBIC, fillcolor=fill)


def shear_x(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """The pixel at (x, y) becomes that at (x + s·y, y), s up to 0.3."""
    return _affine(image, (1, sign * 0.3 * level, 0, 0, 1, 0), fill)


def shear_y(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """The pixel at (x, y) becomes that at (x, y + s·x), s up to 0.3."""
    return _affine(image, (1, 0, 0, sign * 0.3 * level, 1, 0), fill)


def translate_x(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Translates by up to 0.45 of the width."""
    return _affine(image, (1, 0, sign * 0.45 * level * image.width, 0, 1, 0), fill)


def translate_y(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Translates by up to 0.45 of the height."""
    return _affine(image, (1, 0, 0, 0, 1, sign * 0.45 * level * image.height), fill)


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: _Fill) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=fill)


def auto_contrast(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Stretches each channel to 0 … 255, whatever the level."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Equalizes each channel's histogram, whatever the level."""
    return ImageOps.equalize(image)


def invert(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """255 - v, whatever the level."""
    return ImageOps.invert(image)


def posterize(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Keeps the 4 highest bits of each value, or fewer, down to 0 bits, which Pillow's own function refuses."""
    cleared = 8 - (4 - int(4 * level))
    return image.point([value >> cleared << cleared for value in range(256)] * len(image.getbands()))


def solarize(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Inverts the values from a threshold on, which goes from 256 down to 0."""
    return ImageOps.solarize(image, 256 - int(256 * level))


def solarize_add(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Adds up to 110 to the values below 128."""
    table = [value + int(110 * level) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def colour(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Less or more saturation."""
    return ImageEnhance.Color(image).enhance(_factor(level, sign))


def contrast(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Less or more contrast."""
    return ImageEnhance.Contrast(image).enhance(_factor(level, sign))


def brightness(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Less or more brightness."""
    return ImageEnhance.Brightness(image).enhance(_factor(level, sign))


def sharpness(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Blurs or sharpens."""
    return ImageEnhance.Sharpness(image).enhance(_factor(level, sign))


def _factor(level: float, sign: int) -> float:
    """A factor from 0.1 to 1.9; 1 changes nothing."""
    return max(0.1, 1 + sign * 0.9 * level)


OPERATIONS: tuple[Callable[..., Image.Image], ...] = (
    auto_contrast, equalize, invert, rotate, posterize, solarize, solarize_add, colour, contrast, brightness,
    sharpness, shear_x, shear_y, translate_x, translate_y)
GREY_OPERATIONS = tuple(operation for operation in OPERATIONS if operation is not colour)


def rand_augment(image: Image.Image, layers: int, magnitude: float, deviation: float, fill: _Fill,
                 random: np.random.Generator) -> Image.Image:
    """`layers` times: draws one of OPERATIONS uniformly (for a grey image, of all but colour) and applies it with
    probability ½, with the strength `magnitude` + `deviation` · normal, clipped to [0, 10].

    `fill` is the colour of pixels from outside the image.  The sign is random, ±1 with probability ½.  Resampling is
    bicubic."""
    operations = GREY_OPERATIONS if image.mode == "L" else OPERATIONS
    for place in random.integers(len(operations), size=layers):
        if random.random() < PROBABILITY:
            level = min(max(random.normal(magnitude, deviation), 0.0), STRONGEST) / STRONGEST
            image = operations[place](image, level, 1 if random.random() < 0.5 else -1, fill)
    return image
