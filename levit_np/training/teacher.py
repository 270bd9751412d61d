"""Teachers, which give the logits (B, classes) that the student's second head learns from.

A teacher is called with a batch (images (B, C, H, W) as the student sees them, indices (B,) in the student's data) and
returns logits in the student's order of classes.  Its `fingerprint` identifies it: a resumed run must have the same
teacher.  Its `note` is information for the user, or "".  There are three kinds: a network, logits that a network wrote
to a file, and a Python function.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from ..errors import CheckpointError, LevitError
from ..images.preprocessing import Preprocessing
from ..storage import hdf5
from .classes import class_positions
from .fingerprint import fingerprint
from .recipe import Recipe

DOCUMENT = "teacher logits"  # the document that marks the file
KNOWN_BY = "name and size"  # how it identifies images; files of earlier versions, without this entry, by name alone


class NetworkTeacher:
    """A network as teacher, in evaluation.  Raises LevitError if it lacks one of the student's classes or takes other
    channels.

    The student's images are converted to its own normalization and resized (bicubic) to its own size."""

    def __init__(self, model, labels, preprocessing: Preprocessing, classes: list[str], student: Preprocessing):
        """labels, preprocessing: the teacher's; classes, student: the student's class names and preprocessing."""
        self._model = model
        self._positions, self.note = class_positions(classes, labels, model.config.num_classes, "teacher")
        if preprocessing.mode != student.mode:
            raise LevitError(f"teacher: expected images of mode {student.mode} as the student's, found "
                             f"{preprocessing.mode}")
        self._size = model.config.image_size
        # ((x · s + m) - m') / s' with the student's and the teacher's mean and deviation.
        mean, std, own_mean, own_std = (np.array(numbers)[:, None, None] for numbers in (
            student.mean, student.std, preprocessing.mean, preprocessing.std))
        same = preprocessing.mean == student.mean and preprocessing.std == student.std
        self._scale, self._shift = (None, None) if same else (std / own_std, (mean - own_mean) / own_std)
        self.fingerprint = fingerprint(model.state())

    def __call__(self, batch):
        """The logits (B, classes), averaged over its heads."""
        x = batch.images
        if x.shape[2:] != self._size:
            x = resized(x, self._size)
        if self._scale is not None:
            x = x * self._scale + self._shift
        return self._model(x.astype(self._model.dtype, copy=False))[:, self._positions]


class FunctionTeacher:
    """A Python callable as teacher: images (B, C, H, W), as the student sees them -> logits (B, classes)."""

    note = ""

    def __init__(self, function: Callable, classes: int, fingerprint: str = ""):
        self._function, self._classes, self.fingerprint = function, classes, fingerprint

    @classmethod
    def of(cls, place: str, classes: int) -> "FunctionTeacher":
        """The function NAME of the Python file FILE.py, for place = FILE.py:NAME.  Runs the file, and raises what it
        raises; OSError if there is no such file, LevitError if it has no such function."""
        path, _, name = place.rpartition(":")
        source, module = Path(path).read_bytes(), ModuleType(path)
        module.__file__ = path
        sys.modules[path] = module  # dataclasses look their module up there
        sys.path.append(os.path.dirname(os.path.abspath(path)))  # so that it can import the files beside it
        exec(compile(source, path, "exec"), vars(module))
        if not callable(function := getattr(module, name, None)):
            raise LevitError(f"{path}: expected a function {name!a:.100}, found none")
        return cls(function, classes, hashlib.sha256(source + b"\0" + name.encode()).hexdigest())

    def __call__(self, batch):
        """The function's logits.  Raises LevitError unless they are (B, classes) of a floating type."""
        # A copy, as the function might modify its images.
        logits, expected = np.asarray(self._function(batch.images.copy())), (len(batch.images), self._classes)
        if logits.shape != expected or logits.dtype.kind != "f":
            raise LevitError(f"teacher: expected logits {expected} of a floating type, found {logits.shape} of "
                             f"{logits.dtype}")
        return logits


class WrittenTeacher:
    """Logits from a file of `write_logits`, computed for the images without augmentation.

    skip: allow images of the student's data that are not in the file, as they may be unusable ones that are never asked
    for.  Raises LevitError for a recipe that mixes images, for which there are no logits, and, naming the first, for a
    class or (without skip) an image of the student's data that is not in the file; CheckpointError for another or a
    damaged file."""

    def __init__(self, path: str | os.PathLike, source, recipe: Recipe, skip: bool = False):
        self._place = place = os.fspath(path)
        self._source = source
        written, names, classes, sizes = _read(path, place)
        if recipe.mixes:
            raise LevitError(f"{place}: expected a recipe without mixup and cutmix, whose images no teacher has seen; "
                             f"found mixup {recipe.mixup:g}, cutmix {recipe.cutmix:g} with probability "
                             f"{recipe.mix_probability:g}")
        at, self.note = class_positions(source.classes, classes, len(classes), place)
        self._logits = written[:, at]
        self._rows = _rows(names, _numbers(source, range(len(source)), sizes))
        if (self._rows < 0).all():
            self._require(np.arange(len(source)))
        elif not skip:
            self._require(np.arange(len(source)), ", or teach skipped them, as --bad-files skip does")
        self.fingerprint = fingerprint({"logits": self._logits, "rows": self._rows})

    def __call__(self, batch):
        """The logits (B, classes) for the batch's indices.  Raises LevitError if one of them is missing."""
        self._require(batch.indices)
        return self._logits[self._rows[batch.indices]]

    def _require(self, indices, hint=""):
        if len(missing := indices[self._rows[indices] < 0]):
            first = self._source.name(int(missing[0]))
            raise LevitError(f"{self._place}: expected logits of all {len(indices)} images, found none of {first} and "
                             f"{len(missing) - 1} more: they are of other data{hint}")


def write_logits(path: str | os.PathLike, logits, indices, source, classes: list[str], about: str) -> None:
    """Writes `path`, a sealed HDF5 file with the logits (N, classes) of the source's images at `indices` (N,).

    It identifies the images (by 64 bits of the SHA-256 of each one's name and size) and lists the classes in order;
    `about` is the teacher's name, for information."""
    hdf5.write(path, {"logits": np.asarray(logits, np.float32), "names": _numbers(source, indices, sizes=True)},
               _documents(classes, about))


def require_room(path: str, classes: list[str], about: str) -> None:
    """Raises CheckpointError if the class names take more bytes than `write_logits` can write."""
    hdf5.texts(_documents(classes, about), path)


def _documents(classes: list[str], about: str) -> dict:
    return {DOCUMENT: {"classes": list(classes), "teacher": about, "images by": KNOWN_BY}}


def is_logits(path: str | os.PathLike) -> bool:
    """Whether a file holds a teacher's logits; false for weight files of any format and for files that cannot be
    read."""
    try:
        return DOCUMENT in hdf5.read(path)[1]
    except CheckpointError:
        return False


def _read(path, place):
    """The logits (N, classes), the image numbers (N,), the class names, and whether the numbers depend on sizes too."""
    arrays, documents = hdf5.read(path)
    match documents.get(DOCUMENT), arrays.get("logits"), arrays.get("names"):
        case {"classes": [str(), *_] as classes, **more}, np.ndarray() as logits, np.ndarray() as names if (
                names.ndim == 1 and logits.shape == (len(names), len(classes)) and names.dtype == np.int64
                and len(names) and more.get("images by") in (None, KNOWN_BY)
                and all(isinstance(name, str) for name in classes)):
            return logits, names, classes, "images by" in more
    raise CheckpointError(f"{place}: expected logits that levit-np teach wrote, found another file")


def _numbers(source, indices, sizes: bool) -> np.ndarray:
    """A hash of each image's name and, with `sizes`, its size in bytes; int64 (N,)."""
    texts = (source.name(int(index)) + (f"\0{source.size(int(index))}" if sizes else "") for index in indices)
    return np.frombuffer(b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in texts), "<i8").astype(np.int64)


def _rows(written, wanted):
    """The index of each wanted number among those written; -1 if it is not there."""
    order = np.argsort(written)
    found = np.searchsorted(written, wanted, sorter=order).clip(max=len(written) - 1)
    rows = order[found]
    return np.where(written[rows] == wanted, rows, -1)


def resized(x, size):
    """Floating-point images (B, C, H, W) -> (B, C, *size), bicubic with antialiasing as in preprocessing, except that
    values that overshoot are not clipped."""
    from PIL import Image

    height, width = size
    planes = x.reshape(-1, *x.shape[2:]).astype(np.float32, copy=False)
    out = [np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)) for plane in planes]
    return np.stack(out).reshape(*x.shape[:2], height, width)
