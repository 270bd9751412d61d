"""Shared by the readers of other projects' containers: checks of array names and types, and reading values from a
file."""

from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from ..errors import CheckpointError
from ..storage import names
from ..storage.finite import require_finite

BLOCK = 1 << 20  # values decoded at a time, so that little memory is needed besides the arrays


def check_name(name: Any, place: str) -> None:
    """Raises CheckpointError, beginning with `place`, unless `name` is a printable, nonempty text that is not too long:
    control characters could command the terminal."""
    printable = isinstance(name, str) and name.isprintable()  # which also excludes a lone surrogate
    if not printable or not 0 < len(name.encode()) <= names.LONGEST_NAME:
        raise CheckpointError(f"{place}: expected a printable name of at most {names.LONGEST_NAME} bytes, found "
                              f"{str(name)[:100]!r}")


def check_arrays(arrays: Mapping[str, np.ndarray], types: Iterable[str], place: str) -> None:
    """Raises CheckpointError, beginning with `place`, for arrays that could not be read back: too many, of a type not
    in `types`, or containing NaN or infinity."""
    names.check_count(len(arrays), place)
    for name, array in arrays.items():
        check_name(name, place)
        if array.dtype.name not in types:
            raise CheckpointError(f"{place}: {name}: expected {', '.join(types)}, found {array.dtype}")
        names.check_shape(array.shape, f"{place}: {name}")
        require_finite(array, f"{place}: {name}")


def read_exactly(file: BinaryIO, start: int, size: int, place: str) -> bytes:
    """`size` bytes from byte `start` on.  Raises CheckpointError, beginning with `place`, if the file ends earlier."""
    file.seek(start)
    data = file.read(size)
    if len(data) < size:
        raise CheckpointError(f"{place}: expected {size} bytes at byte {start}, found {len(data)}")
    return data


def read_values(file: BinaryIO, start: int, count: int, stored: str, native: str, place: str) -> np.ndarray:
    """`count` values from byte `start` on, (count,): of type `stored` in the file (<u2: the bits of a bfloat16),
    returned as type `native`.  Raises CheckpointError, beginning with `place`, if the file ends earlier."""
    size, values = np.dtype(stored).itemsize, np.empty(count, native)
    for first in range(0, count, BLOCK):
        block = values[first : first + BLOCK]
        decoded = np.frombuffer(read_exactly(file, start + first * size, len(block) * size, place), stored)
        # The bits of a bfloat16 are the upper 16 bits of a float32.
        block[:] = (decoded.astype("u4") << 16).view("f4") if stored == "<u2" else decoded
    return values
