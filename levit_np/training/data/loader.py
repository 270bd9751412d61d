"""Loaders, which iterate over the batches of training or of evaluation, prepared in advance by worker processes."""

import os
from collections.abc import Iterator
from numbers import Integral

import numpy as np

from ...errors import ConfigError, DataError
from ...images.preprocessing import CHANNELS, Preprocessing, preprocessing_named
from ..recipe import Recipe
from .batch import Batch
from .steps import EvaluationSteps, Skipped, TrainingSteps
from .workers import AHEAD, Workers, rows_of


class _Loader:
    """The batches of a plan (steps.py), made in this process (workers = 0) or, by the same code, in worker
    processes."""

    def __init__(self, plan, workers: int):
        if workers < 0:
            raise ConfigError(f"workers: expected 0 or more, found {workers}")
        self._plan, self._workers = plan, None
        # At least one unit of the steps in memory for each worker; more workers would have nothing to do.
        self._count = min(workers, AHEAD * plan.shape[0] // plan.unit)
        self.source, self.batch = plan.source, plan.batch

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return self._plan.steps

    @property
    def skips(self) -> bool:
        """Whether batches may lack images that could not be used."""
        return self._plan.skip

    def close(self) -> None:
        """Ends the worker processes; a later step would start new ones."""
        if self._workers:
            self._workers.close()
            self._workers = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def _step(self, epoch: int, step: int) -> Batch:
        def keep(images, targets, skipped: list[Skipped]) -> Batch:
            indices = self._plan.indices(epoch, step)
            kept = np.delete(np.arange(len(indices)), [bad.row for bad in skipped])
            indices = indices[kept]
            return Batch(images[kept], targets[kept], indices, tuple(self.source.name(int(i)) for i in indices),
                         tuple((bad.name, bad.reason) for bad in skipped))

        if not self._count:
            images = np.empty(self._plan.shape, np.float32)
            targets = np.empty((len(images), len(self.source.classes)), np.float32)
            skipped = [bad for rows in rows_of(self._plan, epoch, step)
                       for bad in self._plan.fill(epoch, step, rows, images, targets, lambda index: None)]
            return keep(images, targets, skipped)
        try:
            if self._workers and self._workers.owner != os.getpid():
                self.close()   # this process was forked, and those workers answer its parent
            self._workers = self._workers or Workers(self._plan, self._count)
            return self._workers.take(epoch, step, keep)
        except BaseException:   # an interruption may have left half a message in a pipe
            self.close()
            raise


class Loader(_Loader):
    """The batches of training.

    source: a Folder, a Packed or anything with their methods.  recipe: the augmentations.  image_size (height, width)
    and in_channels: the network's input; preprocessing (default: the authors'): how pixels are normalised.  batch:
    images per step on this rank; the `ranks` share a global batch of batch × ranks images, of which rank r has the r-th
    part.  workers: processes that prepare the next steps, 0 for none; they start with the first step and end with
    close().  bad_files: "stop" raises ImageError for an image that cannot be used; "skip" leaves it out and names it in
    the batch.

    Order and pixels depend on (source, recipe, seed, epoch, step) alone, not on the number of workers or ranks or on
    where a run was resumed.  (NumPy may change its generators' streams, and Pillow its resampling, between their
    versions.)  Memory: three batches.  Raises ConfigError for sizes that do not fit and for a seed below 0, DataError
    if the source has fewer images than one global batch.
    """

    def __init__(self, source, recipe: Recipe, *, image_size: tuple[int, int], in_channels: int, batch: int, seed: int,
                 workers: int = 0, rank: int = 0, ranks: int = 1, preprocessing: Preprocessing | None = None,
                 bad_files: str = "stop"):
        preprocessing = preprocessing or preprocessing_named("authors", image_size, in_channels)
        if (preprocessing.crop, CHANNELS[preprocessing.mode]) != (tuple(image_size), in_channels):
            raise ConfigError(f"preprocessing: expected {in_channels} channels of {image_size}, found "
                              f"{preprocessing.mode} of {preprocessing.crop}")
        _check(batch, rank, ranks, bad_files)
        if not isinstance(seed, Integral) or seed < 0:  # None would be another one in every process and for every step
            raise ConfigError(f"seed: expected a whole number from 0, found {seed!a:.100}")
        plan = TrainingSteps(source, recipe, preprocessing, seed, batch, rank, ranks, bad_files == "skip")
        if batch % plan.unit:
            raise ConfigError(f"batch: expected an even number, as mixup and cutmix mix pairs, found {batch}")
        if not plan.steps:
            raise DataError(f"data: expected at least the {batch * ranks} images of one step, found {len(source)}; "
                            "choose a smaller batch")
        super().__init__(plan, workers)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from first_step on.  Raises ImageError for a bad image (see bad_files), DataError if
        a worker died or no image of a step could be used, CheckpointError for a damaged packed file."""
        for step in range(first_step, self.steps):
            batch = self._step(epoch, step)
            if not len(batch.images):
                raise DataError(f"epoch {epoch + 1}, batch {step + 1} of {self.steps}: expected an image that can be "
                                f"used, found none; skipped: {', '.join(dict(batch.skipped))}, the first for: "
                                f"{batch.skipped[0][1]}")
            yield batch


class EvaluationLoader(_Loader):
    """Every image once, in the source's order, with the model's own `preprocessing` and without augmentation.

    The last batch may be smaller.  Several ranks each have a part, with sizes that differ by at most one.  Targets are
    one-hot.  Otherwise as Loader; with "skip" a batch may be empty.
    """

    def __init__(self, source, preprocessing: Preprocessing, *, batch: int, workers: int = 0, rank: int = 0,
                 ranks: int = 1, bad_files: str = "stop"):
        _check(batch, rank, ranks, bad_files)
        batch = min(batch, max(1, len(source)))  # a larger batch would only allocate memory that stays unused
        super().__init__(EvaluationSteps(source, preprocessing, batch, rank, ranks, bad_files == "skip"), workers)

    def __iter__(self) -> Iterator[Batch]:
        return (self._step(0, step) for step in range(self.steps))


def _check(batch: int, rank: int, ranks: int, bad_files: str) -> None:
    if batch < 1:
        raise ConfigError(f"batch: expected 1 or more, found {batch}")
    if not 0 <= rank < ranks:
        raise ConfigError(f"rank: expected 0 to {ranks - 1}, found {rank}")
    if bad_files not in ("stop", "skip"):
        raise ConfigError(f"bad_files: expected 'stop' or 'skip', found {bad_files!r}")
