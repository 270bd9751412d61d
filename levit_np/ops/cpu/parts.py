"""Sizes of float32 numbers in parts, as training's products on AMX's tiles have them: for the wrappers and, compiled,
for the kernels."""

WHOLE = 32  # terms of a row of a tile, rows of a tile, columns of a panel
SPAN = 576  # terms that are split at a time, at most: equal parts
GROUP = 288  # of them, whose sum is made in the tiles before it is added to the others'


def whole_terms(terms: int) -> int:
    """Terms padded to whole rows of a tile."""
    return (terms + WHOLE - 1) // WHOLE * WHOLE


def row_size(terms: int) -> int:
    """Bytes of a row in one part: an odd number of cache lines, so that a tile's rows do not share a few sets."""
    return (terms + WHOLE - 1) // WHOLE // 2 * 128 + 64


def equal_part(terms: int, most: int) -> int:
    """Terms of each of the equal parts of so many, whole rows of a tile, `most` at most."""
    tiles = (terms + WHOLE - 1) // WHOLE
    count = (tiles * WHOLE + most - 1) // most
    return (tiles + count - 1) // count * WHOLE
