"""Writes a packed file from a folder of images; packed.py describes its layout and reads it."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from ...errors import DataError, ImageError
from ...images.containers import read_container
from ...storage import strict_json
from ...storage.atomic import replacing
from .folder import Folder
from .names import Names
from .packed import DIGEST_BYTES, INDEX, SEAL_BYTES, Extent, digest_of, seal


def pack(folder: Folder, path: str | os.PathLike, *, skip: bool = False,
         advance: Callable[[], None] = lambda: None) -> list[tuple[str, str]]:
    """Writes `path` with the folder's image files, unchanged and in the folder's order; returns (name, reason) of the
    skipped ones.

    Each file's container is checked (format, size, completeness), but it is not decoded.  A bad file raises ImageError,
    or is skipped with `skip`.  `advance` is called after each file.  The file is written atomically (`replacing`,
    OSError); memory holds one image and the index.  Raises DataError if files grow while they are packed, or if a class
    is left without an image.
    """
    total = sum(folder.size(index) for index in range(len(folder)))
    offsets, sizes, targets, digests, names, skipped, end = [], [], [], [], [], [], 0
    with replacing(path) as file:
        start = _reserve(file, total)
        file.seek(start)
        for index in range(len(folder)):
            try:
                data = folder.read(index)
                _look_at(data, folder.name(index))
            except ImageError as error:
                if not skip:
                    raise
                skipped.append((folder.name(index), str(error)))
            else:
                if end + len(data) > total:
                    raise DataError(f"{folder.name(index)}: expected files that stay as they are, found some grown")
                file.write(data)
                offsets.append(end)
                end += len(data)
                sizes.append(len(data))
                targets.append(folder.target(index))
                digests.append(digest_of(data))
                names.append(folder.raw_name(index))
            advance()
        empty = set(range(len(folder.classes))) - set(targets)
        if empty:
            raise DataError(f"{folder.classes[min(empty)]}: expected at least one good image, found none")
        arrays = dict(zip(INDEX, (np.array(offsets, "<i8"), np.array(sizes, "<i8"), np.array(targets, "<i8"),
                                  _bytes(b"".join(digests)).reshape(-1, DIGEST_BYTES), _bytes(Names.of(names).text),
                                  _bytes(Names.of(folder.classes).text))))
        _finish(file, Extent("images", "|u1", (total,), start), arrays)
    return skipped


def _look_at(data: bytes, name: str) -> None:
    try:
        read_container(data)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None


def _bytes(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)


def _reserve(file: BinaryIO, total: int) -> int:
    """Creates an HDF5 file with space for /images, which libhdf5 does not write; returns the byte where it begins."""
    from h5py import h5d, h5p, h5s, h5t

    with _hdf5(file, "w") as hdf5:
        created = h5p.create(h5p.DATASET_CREATE)
        created.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        created.set_fill_time(h5d.FILL_TIME_NEVER)
        created.set_obj_track_times(False)   # with times, the same content would give different bytes
        images = h5d.create(hdf5.id, b"images", h5t.STD_U8LE, h5s.create_simple((total,)), created)
        return images.get_offset() or 0


def _finish(file: BinaryIO, images: Extent, arrays: dict[str, np.ndarray]) -> None:
    """Writes the index, the list of contents and the seal."""
    extents = [images]
    with _hdf5(file, "r+") as hdf5:
        def store(name: str, values: np.ndarray) -> int:
            return hdf5.create_dataset(name, data=values, track_times=False).id.get_offset()

        for name, values in arrays.items():
            extents.append(Extent(name, values.dtype.str, values.shape, store(name, values)))
        contents = strict_json.dumps(extents, "contents")
        offset = store("contents", _bytes(contents))
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    file.write(seal(length, offset, contents, [values.data for values in arrays.values()]))


@contextlib.contextmanager
def _hdf5(file: BinaryIO, mode: str) -> Iterator:
    """A context manager: an h5py.File on an open file.  A disk error is raised as the OSError that it was, whatever
    libhdf5 makes of it."""
    import h5py

    watched = _Watched(file)
    try:
        # v108: compact headers with checksums, readable by every HDF5 since 2008.
        with h5py.File(watched, mode, libver=("v108", "v108"), **({"userblock_size": SEAL_BYTES} if mode == "w" else {})
                       ) as hdf5:
            yield hdf5
    except Exception:
        if watched.error:
            raise watched.error from None
        raise


class _Watched:
    """A binary file that remembers the first OSError of its methods."""

    def __init__(self, file: BinaryIO):
        self.file, self.error = file, None

    def __getattr__(self, name):
        method = getattr(self.file, name)

        def watched(*arguments):
            try:
                return method(*arguments)
            except OSError as error:
                self.error = self.error or error
                raise

        return watched
