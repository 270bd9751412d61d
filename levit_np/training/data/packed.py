"""Reads packed files: encoded images in one HDF5 file, written by `levit-np pack` (pack.py).

    /images   bytes (total,)    the files' contents, one after another
    /offsets  int64 (N,)        where each begins in /images       /sizes    int64 (N,)  its size in bytes
    /targets  int64 (N,)        its class                          /digests  bytes (N, 16)  its BLAKE2b
    /names    bytes             the files' names, a NUL after each
    /classes  bytes             the class names likewise           /contents bytes  where each of these lies (JSON)

Any HDF5 tool opens it, but it is read here without libhdf5.  A seal in front holds the file's length and the SHA-256 of
everything except the images, which is checked when the file is opened, together with every number in the index.  The
images, possibly hundreds of gigabytes, are compared with their own digests each time one is read: damage is found
before a pixel is used, and opening takes time for the index alone, about 70 bytes per image.  Hashes do not protect
against malice; the checks of all claims and the limits of the decoder do.
"""

import hashlib
import math
import os
import struct
import weakref
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ...errors import CheckpointError, shown
from ...images.decoding import MAX_BYTES
from ...storage import strict_json
from ...storage.regular import open_regular
from .names import Names, fingerprint

MAGIC = b"levitpak"
VERSION = 1
SEAL_BYTES = 512   # the smallest user block of HDF5
MOST_IMAGES = 1 << 24
LONGEST_CONTENTS = 1 << 16
MOST_NAME_BYTES = 1 << 31
DIGEST_BYTES = 16
# magic, version, bytes of this block, bytes of the file, offset and bytes of /contents, SHA-256 over this block (with
# these last 32 bytes set to zero), /contents, and all datasets except the images, in the order of INDEX.
_SEAL = struct.Struct("<8sIIQQQ32s")

INDEX = {"offsets": "<i8", "sizes": "<i8", "targets": "<i8", "digests": "|u1", "names": "|u1", "classes": "|u1"}
TYPES = {"images": "|u1", **INDEX}


class Extent(NamedTuple):
    """The claim that a dataset of this type and shape begins at byte `offset` of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def seal(length: int, contents_offset: int, contents: bytes, index: list) -> bytes:
    """The block in front of a file of `length` bytes; `index`: the datasets of INDEX, as buffers, in that order."""
    fields = MAGIC, VERSION, SEAL_BYTES, length, contents_offset, len(contents)
    digest = hashlib.sha256(_SEAL.pack(*fields, b"").ljust(SEAL_BYTES, b"\0") + contents)
    for part in index:
        digest.update(part)
    return _SEAL.pack(*fields, digest.digest()).ljust(SEAL_BYTES, b"\0")


def digest_of(image: bytes) -> bytes:
    """The digest of an encoded image, as in /digests."""
    return hashlib.blake2b(image, digest_size=DIGEST_BYTES).digest()


class Packed:
    """A packed file as a source (see data/__init__.py).

    Raises CheckpointError, naming the file, for anything wrong with it.  Keeps the file open and its index mapped into
    memory.  A copy in another process (by pickle) does not check the index again if the seal is still the same.
    """

    def __init__(self, path: str | os.PathLike, checked_seal: bytes | None = None):
        self.path, self._place = os.path.abspath(path), shown(os.fsdecode(path))
        self._file = open_regular(path)
        weakref.finalize(self, self._file.close)   # when this source is garbage-collected
        try:
            self._open(checked_seal)
        except OSError as error:
            raise CheckpointError(f"{self._place}: cannot be read: {error.strerror or error}") from None

    def __reduce__(self):
        return Packed, (self.path, self._seal)

    def _open(self, checked_seal: bytes | None) -> None:
        self._seal = self._read(0, SEAL_BYTES)
        length, offset, contents = self._framing()
        extents = _claims(contents, length, self._place)
        self._start, total = extents["images"].offset, extents["images"].nbytes
        index = {name: np.memmap(self._file, extents[name].dtype, "r", extents[name].offset, extents[name].shape)
                 for name in INDEX}
        self._offsets, self._sizes, self._targets, self._digests, self._text, classes = index.values()
        if checked_seal is None:
            if seal(length, offset, contents, [array.data for array in index.values()]) != self._seal:
                raise CheckpointError(f"{self._place}: damaged: the index does not match its hash")
        elif checked_seal != self._seal:
            raise CheckpointError(f"{self._place}: expected the file that was opened before, found another")
        self.classes = list(_names(classes, f"{self._place}: classes"))
        if checked_seal is None:
            self._check_numbers(total)
            self._check_names()

    def _framing(self) -> tuple[int, int, bytes]:
        """(length of the file, offset of /contents, its bytes), from the seal."""
        found = os.fstat(self._file.fileno()).st_size
        if len(self._seal) < SEAL_BYTES or not self._seal.startswith(MAGIC):
            raise CheckpointError(f"{self._place}: expected a file written by `levit-np pack`, found one that begins "
                                  f"with {self._seal[:8]!r}")
        _, version, _, length, offset, nbytes, _ = _SEAL.unpack_from(self._seal)
        if version != VERSION:
            raise CheckpointError(f"{self._place}: expected version {VERSION} of packed images, found {version}")
        if length != found:
            raise CheckpointError(f"{self._place}: damaged: expected a file of {length} bytes, found {found}")
        if nbytes > LONGEST_CONTENTS or offset + nbytes > length:
            raise CheckpointError(f"{self._place}: damaged: expected the list of contents within the file of {length} "
                                  f"bytes, found {nbytes} from {offset}")
        return length, offset, self._read(offset, nbytes)

    def _check_numbers(self, total: int) -> None:
        offsets, sizes, targets = self._offsets, self._sizes, self._targets
        # In this order no sum can overflow.
        right = (0 < sizes) & (sizes <= MAX_BYTES) & (0 <= offsets) & (offsets <= total)
        right &= offsets <= total - np.where(right, sizes, 0)
        right &= (0 <= targets) & (targets < len(self.classes))
        if not right.all():
            place = int(np.argmin(right))
            raise CheckpointError(
                f"{self._place}: image {place}: expected 1 to {MAX_BYTES} bytes within {total} and a class below "
                f"{len(self.classes)}, found {sizes[place]} from {offsets[place]}, class {targets[place]}")

    def _check_names(self) -> None:
        if len(self._all_names) != len(self):
            raise CheckpointError(f"{self._place}: names: expected {len(self)}, found {len(self._all_names)}")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise CheckpointError(f"{self._place}: classes: expected two or more, each once, found {len(self.classes)}")
        for name in self.classes:
            if not (name and name.isprintable()):
                raise CheckpointError(f"{self._place}: classes: expected printable names, found {name!a:.100}")

    @cached_property
    def _all_names(self) -> Names:
        # Made when needed: a worker process needs them for messages alone.
        return _names(self._text, f"{self._place}: names")

    def __len__(self) -> int:
        return len(self._offsets)

    def target(self, index: int) -> int:
        """The index of the image's class in `classes`."""
        return int(self._targets[index])

    def name(self, index: int) -> str:
        """The name of the packed file, relative to its root; printable, for messages."""
        return shown(self._all_names[index])

    @property
    def fingerprint(self) -> str:
        """Of the classes, the names and their order: equal to that of the folder that was packed."""
        return fingerprint(self.classes, self._all_names, self._targets)

    def size(self, index: int) -> int:
        """The size of the encoded image in bytes."""
        return int(self._sizes[index])

    def read(self, index: int) -> bytes:
        """The encoded image.  Raises CheckpointError, naming it, if it is not the one that was packed."""
        try:
            data = self._read(self._start + int(self._offsets[index]), int(self._sizes[index]))
        except OSError as error:
            reason = error.strerror or error
            raise CheckpointError(f"{self._place}: {self.name(index)}: cannot be read: {reason}") from None
        if digest_of(data) != self._digests[index].tobytes():
            raise CheckpointError(f"{self._place}: damaged: {self.name(index)} does not match its hash")
        return data

    def _read(self, offset: int, count: int) -> bytes:
        if not hasattr(os, "pread"):  # Windows
            self._file.seek(offset)
            return self._file.read(count)
        # pread, as other threads (and processes, after a fork) share the file's position.
        data = bytearray()
        while len(data) < count and (more := os.pread(self._file.fileno(), count - len(data), offset + len(data))):
            data += more
        return bytes(data)


def _claims(contents: bytes, length: int, place: str) -> dict[str, Extent]:
    """The extents of all datasets of TYPES, after checking that they lie within `length` bytes and have matching
    shapes."""
    found = {}
    listing = strict_json.loads(contents, f"{place}: contents")
    for entry in listing if isinstance(listing, list) else [listing]:
        match entry:
            case [str(name), str(dtype), list(shape), int(offset)] if name not in found and TYPES.get(name) == dtype:
                found[name] = Extent(name, dtype, tuple(shape), offset)
            case _:
                raise CheckpointError(f"{place}: contents: expected each of {', '.join(TYPES)} once, with its type, "
                                      f"shape and offset, found {entry!a:.100}")
    if set(found) != set(TYPES):
        raise CheckpointError(f"{place}: contents: expected {', '.join(TYPES)}, found {', '.join(found)}")
    # A bool is an int to isinstance.
    numbers = [number for extent in found.values() for number in (*extent.shape, extent.offset)]
    if wrong := [number for number in numbers if type(number) is not int or not 0 <= number <= length]:
        raise CheckpointError(f"{place}: contents: expected sizes and offsets within the file of {length} bytes, found "
                              f"{wrong[0]!a:.100}")
    count = found["offsets"].shape[0] if found["offsets"].shape else 0
    shapes = {name: (count,) for name in ("offsets", "sizes", "targets")} | {"digests": (count, DIGEST_BYTES)}
    for name, extent in found.items():
        if extent.shape != shapes.get(name, extent.shape) or name not in shapes and len(extent.shape) != 1:
            expected = shapes.get(name, "(bytes,)")
            raise CheckpointError(f"{place}: {name}: expected shape {expected}, found {extent.shape}")
        if not 0 < extent.nbytes <= length - extent.offset:
            raise CheckpointError(f"{place}: {name}: expected 1 byte or more in the file of {length}, found "
                                  f"{extent.nbytes} from {extent.offset}")
    # Limited separately, as a sparse file may be longer than its disk.
    if not 0 < count <= MOST_IMAGES:
        raise CheckpointError(f"{place}: expected 1 to {MOST_IMAGES} images, found {count}")
    for name in ("classes", "names"):
        if found[name].nbytes > MOST_NAME_BYTES:
            raise CheckpointError(f"{place}: {name}: expected {MOST_NAME_BYTES} bytes at most, found "
                                  f"{found[name].nbytes}")
    return found


def _names(text: np.ndarray, place: str) -> Names:
    try:
        return Names(text.tobytes())
    except ValueError as error:
        raise CheckpointError(f"{place}: {error}") from None
