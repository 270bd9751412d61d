"""The arrays and documents of a file in memory, given where its directory claims that each one lies.

Whether the directory was read by libhdf5 or is the list of a sealed file, all claims are checked before any is used.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError
from . import names, strict_json
from .finite import require_finite

ARRAY_TYPES = ("<f4", "<f8", "<i8")
DOCUMENT_TYPE = "|u1"


class Extent(NamedTuple):
    """The claim that an array, or the UTF-8 text of a document, of this type and shape begins at byte `offset`."""

    parts: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def name(self) -> str:
        return ".".join(self.parts)

    @property
    def is_document(self) -> bool:
        return self.parts[0] == names.DOCUMENTS

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def content(data: memoryview, extents: list[Extent], place: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays (native, aligned, writable, C-contiguous) and the documents, by name. If they all are that in `data`,
    which is then to have no other use, they stay there; else all are copied.

    Raises CheckpointError, beginning with `place`, for an extent outside the file, two names for the same bytes, NaN or
    infinity, or a document that is not strict JSON.
    """
    names.check_count(len(extents), place)
    for extent in extents:
        _check(extent, len(data), place)
    _require_disjoint(extents, place)
    names.check_documents(sum(extent.nbytes for extent in extents if extent.is_document), place)
    arrays, documents = {}, {}
    for extent in extents:
        if extent.is_document:
            text = bytes(data[extent.offset : extent.offset + extent.nbytes])
            documents[extent.parts[1]] = strict_json.loads(text, f"{place}: {'/'.join(extent.parts)}")
        else:
            arrays[extent.name] = np.frombuffer(data, extent.dtype, math.prod(extent.shape), extent.offset).reshape(
                extent.shape)
            require_finite(arrays[extent.name], f"{place}: {extent.name}")
    if not all(array.flags.carray and array.dtype.isnative for array in arrays.values()):
        arrays = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    return arrays, documents


def _check(extent: Extent, length: int, place: str) -> None:
    (names.check_parts if extent.is_document else names.check_array_parts)(extent.parts, place)
    place = f"{place}: {extent.name}"
    allowed = (DOCUMENT_TYPE,) if extent.is_document else ARRAY_TYPES
    if extent.dtype not in allowed:
        raise CheckpointError(f"{place}: expected the type {' or '.join(allowed)}, found {extent.dtype!r:.100}")
    # A bool is an int to isinstance.
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in (*extent.shape, extent.offset)):
        raise CheckpointError(f"{place}: expected sizes and an offset of 0 or more, found {str(extent[2:]):.100}")
    names.check_shape(extent.shape, place)
    if extent.is_document and (len(extent.parts) != 2 or len(extent.shape) != 1):
        raise CheckpointError(f"{place}: expected a document of shape (bytes,), found {extent.shape}")
    if extent.offset + extent.nbytes > length:
        raise CheckpointError(f"{place}: expected {extent.nbytes} bytes in the file of {length}, found offset "
                              f"{extent.offset}")


def _require_disjoint(extents: list[Extent], place: str) -> None:
    """Refuses overlapping extents; so together they are no larger than the file."""
    end, before = 0, "the start"
    for extent in sorted(extents, key=lambda extent: extent.offset):  # an empty one's offset is 0
        if extent.offset < end:
            raise CheckpointError(f"{place}: expected disjoint arrays, found {before} and {extent.name} in the same "
                                  "bytes")
        end, before = extent.offset + extent.nbytes, extent.name
