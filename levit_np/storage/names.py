"""The limits on names, number and shapes of the arrays in a file, shared by the writers and the strict readers.

A name is an attribute path such as `stages.0.blocks.1.attention.qkv.weight`; its parts are the groups of an HDF5 file.
"""

import math

from ..errors import CheckpointError

MOST_DATASETS = 4096
MOST_DIMENSIONS = 8
LARGEST_SHAPE = 1 << 48
LONGEST_NAME = 256
DEEPEST = 16
DOCUMENTS = "documents"
CONTENTS = "contents"  # the dataset that lists all others
# Bytes of all documents together: one megabyte of hostile JSON becomes 44 MB of Python lists.
LARGEST_DOCUMENTS = 1 << 20


def check_parts(parts: tuple[str, ...], place: str) -> None:
    """Raises CheckpointError, beginning with `place`, unless these parts form a valid name."""
    name = ".".join(parts)
    for part in parts:
        # isprintable refuses control characters, which could command a terminal, and lone surrogates.
        if not part or not part.isprintable() or "." in part or "/" in part:
            raise CheckpointError(f"{place}: expected a name of printable parts joined by dots, found {name!r:.300}")
    if len(parts) > DEEPEST:
        raise CheckpointError(f"{place}: expected a name of at most {DEEPEST} parts, found {len(parts)}: {name!r:.300}")
    if len(name.encode()) > LONGEST_NAME:
        raise CheckpointError(f"{place}: expected a name of at most {LONGEST_NAME} bytes, found {name!r:.300}")


def check_array_parts(parts: tuple[str, ...], place: str) -> None:
    """`check_parts`, and refuses the names that the container itself uses."""
    check_parts(parts, place)
    if parts[0] in (DOCUMENTS, CONTENTS):
        raise CheckpointError(f"{place}: expected the name of an array, found the reserved name {'.'.join(parts)!r}")


def check_count(count: int, place: str) -> None:
    """Raises CheckpointError, beginning with `place`, for more datasets than any model has."""
    if count > MOST_DATASETS:
        raise CheckpointError(f"{place}: expected at most {MOST_DATASETS} datasets, found more")


def check_shape(shape: tuple[int, ...], place: str) -> None:
    """Raises CheckpointError, beginning with `place`, for a shape that no array of a model has."""
    if len(shape) > MOST_DIMENSIONS:
        raise CheckpointError(f"{place}: expected at most {MOST_DIMENSIONS} dimensions, found {len(shape)}")
    # A size of 0 counts as 1: NumPy multiplies the other sizes, and could overflow, even if no value is stored.
    if math.prod(max(size, 1) for size in shape) > LARGEST_SHAPE:
        raise CheckpointError(f"{place}: expected a shape of at most {LARGEST_SHAPE} values, found {shape}")


def check_documents(count: int, place: str) -> None:
    """Raises CheckpointError, beginning with `place`, for more bytes of JSON than is safe to parse."""
    if count > LARGEST_DOCUMENTS:
        raise CheckpointError(f"{place}: expected at most {LARGEST_DOCUMENTS} bytes of documents, found {count}")
