"""Random resized crop: a random box with a random aspect ratio, resized to the network's input ("Inception" crop)."""

import math

import numpy as np
from PIL import Image

ATTEMPTS = 10


def crop_box(width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float],
             random: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random box within the image.

    Its area is uniform in `scale`, as a share of the image's; log(width / height) is uniform between the logarithms of
    `ratio`; its position is uniform.  If ten attempts do not fit, it is the largest central box that the ratios allow.
    As torchvision's RandomResizedCrop.
    """
    for _ in range(ATTEMPTS):
        area = random.uniform(*scale) * width * height
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    w, h = max(w, 1), max(h, 1)  # at least one pixel
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_resized_crop(image: Image.Image, size: tuple[int, int], scale: tuple[float, float],
                        ratio: tuple[float, float], random: np.random.Generator) -> Image.Image:
    """A random box of the image, resized (bicubic) to `size` (height, width)."""
    # Crop first: resize(box=…) would mix pixels outside the box into its border.
    part = image.crop(crop_box(*image.size, scale, ratio, random))
    return part.resize(size[::-1], Image.Resampling.BICUBIC)
