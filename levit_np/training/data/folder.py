"""Images in class folders, DIR/CLASS/….jpg, as in torchvision's ImageFolder."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...errors import DataError, ImageError, shown
from ...images.decoding import MAX_BYTES
from .names import Names, fingerprint

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
OTHER_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".gif", ".bmp", ".tif", ".tiff")  # of images that nothing decodes
TRAINING = "train", "training"  # names of folders that are the training part of a data set …
PARTS = "val", "validation", "valid", "test", "testing"  # … and of the parts beside it


def are_parts(names) -> bool:
    """Whether folders with these names include the parts of a data set (train/, val/, …), each with its own class
    folders.  A class may be called train too: then there are other classes beside it, none with the name of a part."""
    return "train" in names and (len(names) == 1 or any(part in names for part in PARTS))


class Folder:
    """The images below a folder, as a source (see data/__init__.py).

    The classes are the folders in `root`, sorted by name; the images of a class are all files below its folder with one
    of SUFFIXES, in upper or lower case, sorted folder by folder.  Names that begin with a dot and other files are
    ignored, images of other formats with a warning.  The list is read once, the images on demand.  Raises DataError,
    naming the path, for a path that is not a readable folder, fewer than two classes, the parts of a data set instead
    of classes, a class without images, a class name that is not printable, a dangling link, and folders that lead back
    to themselves.
    """

    def __init__(self, root: str | os.PathLike):
        root = os.fsdecode(root)
        if not root:  # an unset variable, say; it would be the current folder
            raise DataError("expected the path of a folder of images, found an empty text")
        self.root, place = os.path.abspath(root), shown(root)
        folders = [entry for entry in _entries(self.root, place) if _kind(entry, entry.name) == "folder"]
        self.classes = [entry.name for entry in folders]
        if len(folders) < 2:
            raise DataError(f"{place}: expected a folder for each class, at least two, found "
                            f"{f'one: {shown(self.classes[0])}' if folders else 'none'}")
        lower = {name.lower() for name in self.classes}
        if lower.intersection(TRAINING) and lower.issubset(TRAINING + PARTS):
            raise DataError(f"{place}: expected a folder for each class, found {' and '.join(self.classes)}; did you "
                            f"mean {' or '.join(f'{place}/{part}' for part in self.classes)}?")
        names, counts, others = [], [], []
        for entry in folders:
            if not entry.name.isprintable():
                raise DataError(f"{place}: expected class folders of printable names, found {ascii(entry.name)}")
            found = list(_images(entry.path, entry.name, (_identity(self.root, place),)))
            files = [name for name in found if name.lower().endswith(SUFFIXES)]
            others += [name for name in found if not name.lower().endswith(SUFFIXES)]
            if not files:
                raise DataError(f"{place}: {entry.name}: expected images ({', '.join(SUFFIXES)}), found none")
            names += files
            counts.append(len(files))
        if others:  # a phone's HEIC among its JPEG, say: half of the photos would be missing without a word
            warnings.warn(f"{place}: expected images ({', '.join(SUFFIXES)}), found {len(others)} of other formats "
                          f"too, which are left out: {shown(others[0])}{', …' * (len(others) > 1)}", stacklevel=2)
        self._names = Names.of(names)
        self._targets = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self._targets)

    def target(self, index: int) -> int:
        """The index of the image's class in `classes`."""
        return int(self._targets[index])

    def name(self, index: int) -> str:
        """The path relative to the root, separated by /; printable, for messages."""
        return shown(self._names[index])

    def raw_name(self, index: int) -> str:
        """The same without escaping, so not for messages."""
        return self._names[index]

    @property
    def fingerprint(self) -> str:
        """Of the classes and of the files' names and order, not of their contents."""
        return fingerprint(self.classes, self._names, self._targets)

    def path(self, index: int) -> Path:
        """The path of the image."""
        return Path(self.root, self._names[index])

    def size(self, index: int) -> int:
        """The size of the encoded image in bytes; 0 if it cannot be read, which `read` will report."""
        with contextlib.suppress(OSError):
            return os.path.getsize(self.path(index))
        return 0

    def read(self, index: int) -> bytes:
        """The encoded image.  Raises ImageError, naming it, if it cannot be read or is larger than 50 MB."""
        try:
            with open(self.path(index), "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ImageError(f"{self.name(index)}: cannot be read: {error.strerror or error}") from None
        if len(data) > MAX_BYTES:
            raise ImageError(f"{self.name(index)}: expected at most 50 MB, found more")
        return data


def _images(folder: str, name: str, above: tuple) -> Iterator[str]:
    """The names, relative to the root, of the images of any format in a folder and its subfolders; `above`: identities
    of its parents."""
    place = shown(name)
    identity = _identity(folder, place)
    if identity in above:
        raise DataError(f"{place}: expected folders that end, found a link to a folder above it")
    for entry in _entries(folder, place):
        path = f"{name}/{entry.name}"
        kind = _kind(entry, path)
        if kind == "folder":
            yield from _images(entry.path, path, (*above, identity))
        elif entry.name.lower().endswith(SUFFIXES + OTHER_SUFFIXES):
            if kind != "file":
                raise DataError(f"{shown(path)}: expected a file, found a pipe or a device")
            yield path


def _kind(entry: os.DirEntry, path: str) -> str:
    """"folder", "file" or "other", following links.  Raises DataError for a dangling link."""
    try:
        kind = "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
        if kind == "other":
            os.stat(entry.path)
        return kind
    except OSError as error:   # a link to nothing, or to itself
        raise DataError(f"{shown(path)}: expected a file or a folder, found: {error.strerror or error}") from None


def _entries(folder: str, place: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{place}: expected a folder of images, found: {error.strerror or error}") from None
    except ValueError as error:   # a NUL in the path
        raise DataError(f"{place}: expected a folder of images, found: {error}") from None


def _identity(folder: str, place: str) -> tuple[int, int]:
    try:
        found = os.stat(folder)
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error.strerror or error}") from None
    return found.st_dev, found.st_ino
