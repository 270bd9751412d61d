"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899): mix each image of a pair with the other.

One mixture is drawn for a whole batch, as in the authors' "batch" mode, but theirs is drawn by each rank for its own
batch, while here it is one for the global batch, so that it does not depend on how many ranks share it.  Their partner
of image i among B is B - 1 - i; here it is its neighbour i xor 1, so that both are on the same rank.
"""

import math
from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    share: float                       # λ: the share of each image that remains
    box: tuple[slice, slice] | None    # (rows, columns) that cutmix exchanges; None for mixup


def draw_mixture(mixup: float, cutmix: float, probability: float, switch: float, size: tuple[int, int],
                 random: np.random.Generator) -> Mixture | None:
    """Draws the mixture for a batch of images of that size (height, width); None: no mixing.

    With `probability` the batch is mixed: if both are on (alpha above 0), by cutmix with probability `switch` and by
    mixup otherwise; else by the one that is on.  λ ~ Beta(alpha, alpha); for cutmix it becomes the share of the area
    that remains.
    """
    if not (mixup or cutmix) or random.random() >= probability:
        return None
    cut = random.random() < switch if mixup and cutmix else cutmix > 0
    alpha = cutmix if cut else mixup
    share = random.beta(alpha, alpha)
    return cut_mixture(share, size, random) if cut else Mixture(share, None)


def cut_mixture(share: float, size: tuple[int, int], random: np.random.Generator) -> Mixture:
    """A box with (1 - share) of the area and the image's aspect ratio, centred on a uniformly random pixel; its sides
    are rounded down to even numbers, as the authors', it is clipped to the image, and the share is corrected."""
    sides = []
    for length in size:
        middle, half = int(random.integers(length)), int(length * math.sqrt(1 - share)) // 2
        sides.append(slice(max(middle - half, 0), min(middle + half, length)))
    rows, columns = sides
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mixture(1 - area / (size[0] * size[1]), (rows, columns))


def mix_pair(images: np.ndarray, targets: np.ndarray, mixture: Mixture) -> None:
    """Mixes two images (2, C, H, W) and their targets (2, classes), in place."""
    share = np.float32(mixture.share)
    targets[:] = share * targets + (1 - share) * targets[::-1]
    if mixture.box is None:
        images[:] = share * images + (1 - share) * images[::-1]
    else:
        part = images[:, :, *mixture.box]
        part[:] = part[::-1]   # NumPy handles the overlap


def smooth_target(target: int, classes: int, smoothing: float) -> np.ndarray:
    """float32 (classes,): 1 - smoothing for the target, plus smoothing / classes for every class."""
    row = np.full(classes, smoothing / classes, np.float32)
    row[target] += 1 - smoothing
    return row
