"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899): each image of a pair with something of the other.

One mixture holds for the whole global batch, of all ranks, as the authors' batch mode has it; their partner of image i
among B is B - 1 - i, here it is its neighbour i xor 1, so that every rank holds both.
"""

import math
from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    share: float                       # λ: how much of each image stays its own
    box: tuple[slice, slice] | None    # (rows, columns) that cutmix exchanges; None: mixup


def draw_mixture(mixup: float, cutmix: float, probability: float, switch: float, size: tuple[int, int],
                 random: np.random.Generator) -> Mixture | None:
    """What happens to a batch of images of that size (height, width); None: nothing.

    With `probability` it is mixed: by cutmix with probability `switch` where both are on (their alpha above 0), else by
    the one that is.  λ is Beta(alpha, alpha); after cutmix it is the share of the area that stayed.
    """
    if not (mixup or cutmix) or random.random() >= probability:
        return None
    cut = random.random() < switch if mixup and cutmix else cutmix > 0
    alpha = cutmix if cut else mixup
    share = random.beta(alpha, alpha)
    return cut_mixture(share, size, random) if cut else Mixture(share, None)


def cut_mixture(share: float, size: tuple[int, int], random: np.random.Generator) -> Mixture:
    """A box of (1 - share) of the area, as wide for its height as the image, around a point that is anywhere in it;
    what lies outside the image is cut off, and the share corrected."""
    sides = []
    for length in size:
        cut = int(length * math.sqrt(1 - share))
        first = int(random.integers(length)) - cut // 2
        sides.append(slice(max(first, 0), min(first + cut, length)))
    rows, columns = sides
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mixture(1 - area / (size[0] * size[1]), (rows, columns))


def mix_pair(images: np.ndarray, targets: np.ndarray, mixture: Mixture) -> None:
    """Mixes images (2, C, H, W) and their targets (2, classes) with each other.  Changes both arrays."""
    share = np.float32(mixture.share)
    targets[:] = share * targets + (1 - share) * targets[::-1]
    if mixture.box is None:
        images[:] = share * images + (1 - share) * images[::-1]
    else:
        part = images[:, :, *mixture.box]
        part[:] = part[::-1]   # NumPy sees that they overlap


def smooth_target(target: int, classes: int, smoothing: float) -> np.ndarray:
    """float32 (classes,): 1 - smoothing for the class, and smoothing spread evenly over all classes, it included."""
    row = np.full(classes, smoothing / classes, np.float32)
    row[target] += 1 - smoothing
    return row
