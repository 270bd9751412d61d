"""Random erasing (arXiv 1708.04896): replaces a rectangle by noise, so that the network does not rely on a single part
of an image."""

import math

import numpy as np

AREA = 0.02, 1 / 3   # of the image
ASPECT = 0.3, 1 / 0.3   # height / width
ATTEMPTS = 10


def erase_box(height: int, width: int, random: np.random.Generator) -> tuple[slice, slice] | None:
    """(rows, columns) of a random box: area uniform in AREA, log(height / width) uniform between the logarithms of
    ASPECT, position uniform; None if ten attempts are as high or as wide as the image."""
    for _ in range(ATTEMPTS):
        area = random.uniform(*AREA) * height * width
        aspect = math.exp(random.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
            return slice(top, top + h), slice(left, left + w)
    return None


def random_erasing(x: np.ndarray, probability: float, random: np.random.Generator) -> None:
    """With the given probability, replaces a box of the normalised image x (C, H, W) by normal noise, in place."""
    if random.random() < probability and (box := erase_box(*x.shape[1:], random)):
        x[:, *box] = random.standard_normal(x[:, *box].shape, np.float32)
