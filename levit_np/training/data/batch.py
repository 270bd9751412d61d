"""A batch, as loaders hand it to the trainer: training from memory needs it, but nothing that reads images."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """The data of one step.  Skipped images are in none of the first four fields."""

    images: np.ndarray      # float32 (B, C, H, W), normalised
    targets: np.ndarray     # float32 (B, classes), each row's sum 1
    indices: np.ndarray     # int64 (B,): in the source
    names: tuple[str, ...]  # the images' names, for messages
    skipped: tuple[tuple[str, str], ...]   # (name, reason) of each image that could not be used
