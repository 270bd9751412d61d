"""Random erasing (arXiv 1708.04896): a rectangle of noise, so that no one part of an image decides."""

import math

import numpy as np

AREA = 0.02, 1 / 3   # of the image
ASPECT = 0.3, 1 / 0.3   # height / width
ATTEMPTS = 10


def erase_box(height: int, width: int, random: np.random.Generator) -> tuple[slice, slice] | None:
    """(rows, columns): an area uniform in AREA, log(height / width) uniform in that of ASPECT, each place as likely;
    None if ten such are as high or as wide as the image."""
    for _ in range(ATTEMPTS):
        area = random.uniform(*AREA) * height * width
        aspect = math.exp(random.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
            return slice(top, top + h), slice(left, left + w)
    return None


def random_erasing(x: np.ndarray, probability: float, random: np.random.Generator) -> None:
    """With that probability, a box of x (C, H, W), which is normalised, becomes normal noise.  Changes x."""
    if random.random() < probability and (box := erase_box(*x.shape[1:], random)):
        x[:, *box] = random.standard_normal(x[:, *box].shape, np.float32)
