"""Teachers: what tells a student, image by image, the logits (B, classes) that its second head learns.

A teacher is called with a batch (images (B, C, H, W) as the student sees them, indices (B,) in the student's data) and
answers in the student's order of classes.  Its `fingerprint` differs from another teacher's: a training that goes on
must have the same.  Its `note` is what a user should know of it, or "".  Three kinds: a network, logits that a network
wrote down, a function.
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
from .classes import class_positions, order_note
from .fingerprint import fingerprint
from .recipe import Recipe

DOCUMENT = "teacher logits"  # what marks the file
KNOWN_BY = "name and size"  # what it tells images by; files of earlier versions, which do not say it, by the name alone


class NetworkTeacher:
    """A network as teacher, in evaluation.  Raises LevitError where it lacks one of the student's classes, or sees
    other channels.

    It sees the student's images in its own normalization and, resized (bicubic), in its own size."""

    def __init__(self, model, labels, preprocessing: Preprocessing, classes: list[str], student: Preprocessing):
        """preprocessing, labels: the teacher's own; classes, student: the names of the student's classes, and how its
        images are prepared."""
        self._model = model
        self._positions, named = class_positions(classes, labels, model.config.num_classes, "teacher")
        self.note = order_note(classes, labels, named)
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
        """The function NAME of the Python file FILE.py, `place` being FILE.py:NAME.  Runs the file, and raises what it
        raises; OSError where there is none, LevitError where it has no such function."""
        path, _, name = place.rpartition(":")
        source, module = Path(path).read_bytes(), ModuleType(path)
        module.__file__ = path
        sys.modules[path] = module  # where a dataclass looks for its own
        sys.path.append(os.path.dirname(os.path.abspath(path)))  # for the files beside it
        exec(compile(source, path, "exec"), vars(module))
        if not callable(function := getattr(module, name, None)):
            raise LevitError(f"{path}: expected a function {name!a:.100}, found none")
        return cls(function, classes, hashlib.sha256(source + b"\0" + name.encode()).hexdigest())

    def __call__(self, batch):
        """The function's logits.  Raises LevitError where they are not (B, classes) of a floating type."""
        # Whatever it does to its images, the student's stay as they are.
        logits, expected = np.asarray(self._function(batch.images.copy())), (len(batch.images), self._classes)
        if logits.shape != expected or logits.dtype.kind != "f":
            raise LevitError(f"teacher: expected logits {expected} of a floating type, found {logits.shape} of "
                             f"{logits.dtype}")
        return logits


class WrittenTeacher:
    """Logits that `write_logits` wrote down, of the images as they are: without augmentation.

    skip: images of the student's data that are not in the file may be those that cannot be used, of which nobody will
    ask.  Raises LevitError for a recipe that mixes images, of which nothing is written down, and naming the first, for
    a class or, without skip, an image of the student's data that is not in the file; CheckpointError for another or a
    damaged file."""

    def __init__(self, path: str | os.PathLike, source, recipe: Recipe, skip: bool = False):
        self._place = place = os.fspath(path)
        self._source = source
        written, names, classes, sizes = _read(path, place)
        if recipe.mixes:
            raise LevitError(f"{place}: expected a recipe without mixup and cutmix, whose images no teacher has seen; "
                             f"found mixup {recipe.mixup:g}, cutmix {recipe.cutmix:g} with probability "
                             f"{recipe.mix_probability:g}")
        at, named = class_positions(source.classes, classes, len(classes), place)
        self.note = order_note(source.classes, classes, named)
        self._logits = written[:, at]
        self._rows = _rows(names, _numbers(source, range(len(source)), sizes))
        if not skip or (self._rows < 0).all():
            self._require(np.arange(len(source)))
        self.fingerprint = fingerprint({"logits": self._logits, "rows": self._rows})

    def __call__(self, batch):
        """The logits (B, classes) of the images of those indices.  Raises LevitError where there are none of one."""
        self._require(batch.indices)
        return self._logits[self._rows[batch.indices]]

    def _require(self, indices):
        if len(missing := indices[self._rows[indices] < 0]):
            first = self._source.name(int(missing[0]))
            raise LevitError(f"{self._place}: expected logits of all {len(indices)} images, found none of {first} and "
                             f"{len(missing) - 1} more: they are of other data")


def write_logits(path: str | os.PathLike, logits, indices, source, classes: list[str], about: str) -> None:
    """Replaces `path` by a sealed HDF5 file of the logits (N, classes) of the source's images at `indices` (N,).

    It says which images they are of (64 bits of the SHA-256 of each one's name and size) and in which order the classes
    are; `about` is the teacher's name, for people."""
    hdf5.write(path, {"logits": np.asarray(logits, np.float32), "names": _numbers(source, indices, sizes=True)},
               _documents(classes, about))


def require_room(path: str, classes: list[str], about: str) -> None:
    """Raises CheckpointError for class names of more bytes than `write_logits` can write."""
    hdf5.texts(_documents(classes, about), path)


def _documents(classes: list[str], about: str) -> dict:
    return {DOCUMENT: {"classes": list(classes), "teacher": about, "images by": KNOWN_BY}}


def is_logits(path: str | os.PathLike) -> bool:
    """Whether a file holds written logits; a weight file of any format, and one that cannot be read, does not."""
    try:
        return DOCUMENT in hdf5.read(path)[1]
    except CheckpointError:
        return False


def _read(path, place):
    """The logits (N, classes), the numbers of the images (N,), the class names, and whether the numbers are of the
    sizes too."""
    arrays, documents = hdf5.read(path)
    match documents.get(DOCUMENT), arrays.get("logits"), arrays.get("names"):
        case {"classes": [str(), *_] as classes, **more}, np.ndarray() as logits, np.ndarray() as names if (
                names.ndim == 1 and logits.shape == (len(names), len(classes)) and names.dtype == np.int64
                and len(names) and more.get("images by") in (None, KNOWN_BY)
                and all(isinstance(name, str) for name in classes)):
            return logits, names, classes, "images by" in more
    raise CheckpointError(f"{place}: expected logits that levit-np teach wrote, found another file")


def _numbers(source, indices, sizes: bool) -> np.ndarray:
    """A number for each of the images, of its name and, with sizes, of its bytes' number; int64 (N,)."""
    texts = (source.name(int(index)) + (f"\0{source.size(int(index))}" if sizes else "") for index in indices)
    return np.frombuffer(b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in texts), "<i8").astype(np.int64)


def _rows(written, wanted):
    """Where each of the wanted numbers stands among those written, -1: nowhere."""
    order = np.argsort(written)
    found = np.searchsorted(written, wanted, sorter=order).clip(max=len(written) - 1)
    rows = order[found]
    return np.where(written[rows] == wanted, rows, -1)


def resized(x, size):
    """Images (B, C, H, W) of floats -> (B, C, *size), bicubic with antialiasing, as images are before they are
    normalised; where values overshoot, they stay so."""
    from PIL import Image

    height, width = size
    planes = x.reshape(-1, *x.shape[2:]).astype(np.float32, copy=False)
    out = [np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)) for plane in planes]
    return np.stack(out).reshape(*x.shape[:2], height, width)
