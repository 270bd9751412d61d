"""RandAugment (arXiv 1909.13719) as timm's `rand-m9-mstd0.5-inc1`: a few of fifteen operations, at random strength.

With "inc" every operation distorts more, the stronger it is.  A level is the strength in tenths: 0 to 1.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

PROBABILITY = 0.5   # that a chosen operation is applied
STRONGEST = 10.0

_Fill = int | tuple[int, ...]


def rotate(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Up to 30 degrees, the corners filled."""
    return image.rotate(sign * 30 * level, Image.Resampling.BICUBIC, fillcolor=fill)


def shear_x(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """The pixel at (x, y) is that of (x + s·y, y), s up to 0.3."""
    return _affine(image, (1, sign * 0.3 * level, 0, 0, 1, 0), fill)


def shear_y(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """The pixel at (x, y) is that of (x, y + s·x), s up to 0.3."""
    return _affine(image, (1, 0, 0, sign * 0.3 * level, 1, 0), fill)


def translate_x(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """By up to 0.45 of the width."""
    return _affine(image, (1, 0, sign * 0.45 * level * image.width, 0, 1, 0), fill)


def translate_y(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """By up to 0.45 of the height."""
    return _affine(image, (1, 0, 0, 0, 1, sign * 0.45 * level * image.height), fill)


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: _Fill) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=fill)


def auto_contrast(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Each channel stretched to 0 … 255; has no strength."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Each channel's values spread evenly; has no strength."""
    return ImageOps.equalize(image)


def invert(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """255 - v; has no strength."""
    return ImageOps.invert(image)


def posterize(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Keeps the 4 highest bits of each value, down to none, which Pillow's own function refuses."""
    cleared = 8 - (4 - int(4 * level))
    return image.point([value >> cleared << cleared for value in range(256)] * len(image.getbands()))


def solarize(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Inverts the values from a threshold on, of 256 down to 0."""
    return ImageOps.solarize(image, 256 - int(256 * level))


def solarize_add(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Adds up to 110 to the values below 128."""
    table = [value + int(110 * level) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def colour(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Saturation less or more."""
    return ImageEnhance.Color(image).enhance(_factor(level, sign))


def contrast(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Contrast less or more."""
    return ImageEnhance.Contrast(image).enhance(_factor(level, sign))


def brightness(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Brightness less or more."""
    return ImageEnhance.Brightness(image).enhance(_factor(level, sign))


def sharpness(image: Image.Image, level: float, sign: int, fill: _Fill) -> Image.Image:
    """Blurred or sharpened."""
    return ImageEnhance.Sharpness(image).enhance(_factor(level, sign))


def _factor(level: float, sign: int) -> float:
    """1 changes nothing; from 0.1 to 1.9."""
    return max(0.1, 1 + sign * 0.9 * level)


OPERATIONS: tuple[Callable[..., Image.Image], ...] = (
    auto_contrast, equalize, invert, rotate, posterize, solarize, solarize_add, colour, contrast, brightness,
    sharpness, shear_x, shear_y, translate_x, translate_y)
GREY_OPERATIONS = tuple(operation for operation in OPERATIONS if operation is not colour)


def rand_augment(image: Image.Image, layers: int, magnitude: float, deviation: float, fill: _Fill,
                 random: np.random.Generator) -> Image.Image:
    """`layers` times: an operation, any of OPERATIONS as likely (for a grey image all but colour), with probability ½,
    at a strength of `magnitude` + `deviation` · normal, within [0, 10].

    `fill` is the colour of what comes into view from outside.  Where an operation goes one way or the other, each is as
    likely.  Resampling is bicubic."""
    operations = GREY_OPERATIONS if image.mode == "L" else OPERATIONS
    for place in random.integers(len(operations), size=layers):
        if random.random() < PROBABILITY:
            level = min(max(random.normal(magnitude, deviation), 0.0), STRONGEST) / STRONGEST
            image = operations[place](image, level, 1 if random.random() < 0.5 else -1, fill)
    return image
