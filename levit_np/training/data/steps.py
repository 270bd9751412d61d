"""The plans of training and of evaluation: which images each step contains, and how to make one unit of it.

A unit is what must be made together: a pair of images that are mixed with each other, or one image.  It depends on
(epoch, step, row) alone, so any process may make any unit, in any order.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...errors import ImageError
from ...images.decoding import open_image
from ...images.preprocessing import CHANNELS, Preprocessing, preprocess
from ..augmentation.mixing import Mixture, draw_mixture, mix_pair, smooth_target
from ..augmentation.one_image import augment
from ..recipe import Recipe
from .order import epoch_order
from .streams import AUGMENTATION, MIXING, stream


class Skipped(NamedTuple):
    """An image that could not be used: its row in the batch, its name, and why."""

    row: int
    name: str
    reason: str


@dataclass(frozen=True)
class TrainingSteps:
    """One rank's share of each global batch (order.py), augmented, mixed, with smoothed targets."""

    source: object
    recipe: Recipe
    preprocessing: Preprocessing
    seed: int
    batch: int    # of this rank
    rank: int
    ranks: int
    skip: bool

    @property
    def unit(self) -> int:
        """The number of rows that are made together."""
        return 2 if self.recipe.mixes else 1

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return len(self.source) // (self.batch * self.ranks)

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch, C, H, W)"""
        return self.batch, CHANNELS[self.preprocessing.mode], *self.preprocessing.crop

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """The indices of this rank's images, (batch,)."""
        order = epoch_order(len(self.source), seed=self.seed, epoch=epoch, repeats=self.recipe.repeats,
                            global_batch=self.batch * self.ranks)
        return order[step, self.rank * self.batch : (self.rank + 1) * self.batch]

    def after(self, epoch: int, step: int) -> tuple[int, int] | None:
        """The following step, which after the last is the next epoch's first."""
        return (epoch, step + 1) if step + 1 < self.steps else (epoch + 1, 0)

    def fill(self, epoch: int, step: int, rows: range, images: np.ndarray, targets: np.ndarray, at) -> list[Skipped]:
        """Makes one unit: writes these rows of images (batch, C, H, W) and targets (batch, classes).

        `at` is called with the index of each image before it is read.  An image that cannot be used raises ImageError,
        or with `skip` is returned; its partner is then not mixed."""
        first = (step * self.ranks + self.rank) * self.batch   # this share's first position in the epoch
        indices, skipped = self.indices(epoch, step), []
        for row in rows:
            index = int(indices[row])
            at(index)
            try:
                random = stream(self.seed, AUGMENTATION, epoch, first + row)
                image = _read(self.source, index, open_image, self.preprocessing.mode)
                images[row] = augment(image, self.recipe, self.preprocessing, random)
            except ImageError as error:
                if not self.skip:
                    raise
                skipped.append(Skipped(row, self.source.name(index), str(error)))
            targets[row] = smooth_target(self.source.target(index), len(self.source.classes), self.recipe.smoothing)
        mixture = self.mixture(epoch, step)
        if mixture and not skipped:
            mix_pair(images[rows.start : rows.stop], targets[rows.start : rows.stop], mixture)
        return skipped

    def mixture(self, epoch: int, step: int) -> Mixture | None:
        """How the pairs of that step are mixed, on all ranks; None: not at all."""
        recipe = self.recipe
        return draw_mixture(recipe.mixup, recipe.cutmix, recipe.mix_probability, recipe.mix_switch,
                            self.preprocessing.crop, stream(self.seed, MIXING, epoch, step))


@dataclass(frozen=True)
class EvaluationSteps:
    """Each image once, in the source's order, with the model's own preprocessing; targets are one-hot.

    Rank r of R has the r-th of R parts, whose sizes differ by at most one."""

    source: object
    preprocessing: Preprocessing
    batch: int
    rank: int
    ranks: int
    skip: bool

    unit = 1

    @property
    def part(self) -> range:
        """This rank's images."""
        count = len(self.source)
        return range(count * self.rank // self.ranks, count * (self.rank + 1) // self.ranks)

    @property
    def steps(self) -> int:
        return -(-len(self.part) // self.batch)

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch, C, H, W); the last step has fewer."""
        return self.batch, CHANNELS[self.preprocessing.mode], *self.preprocessing.crop

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """The images of that step, the same in every epoch."""
        return np.array(self.part[step * self.batch : (step + 1) * self.batch])

    def after(self, epoch: int, step: int) -> tuple[int, int] | None:
        """The following step; None after the last."""
        return (epoch, step + 1) if step + 1 < self.steps else None

    def fill(self, epoch: int, step: int, rows: range, images: np.ndarray, targets: np.ndarray, at) -> list[Skipped]:
        """As in TrainingSteps."""
        indices, skipped = self.indices(epoch, step), []
        for row in rows:
            index = int(indices[row])
            at(index)
            try:
                images[row] = _read(self.source, index, preprocess, self.preprocessing)
            except ImageError as error:
                if not self.skip:
                    raise
                skipped.append(Skipped(row, self.source.name(index), str(error)))
            targets[row] = 0
            targets[row, self.source.target(index)] = 1
        return skipped


def _read(source, index: int, function, argument):
    """function(the encoded image, argument).  Raises ImageError that begins with the image's name, not with "bytes"."""
    data = source.read(index)
    try:
        return function(data, argument)
    except ImageError as error:
        raise ImageError(f"{source.name(index)}: {str(error).removeprefix('bytes: ')}") from None
