"""Sizes of float32 numbers in parts, as training's products on AMX's tiles have them: for the wrappers and, compiled,
for the kernels."""

WHOLE = 32  # terms of a row of a tile, rows of a tile, columns of a panel


def whole_terms(terms: int) -> int:
    """Terms padded to whole rows of a tile."""
    return (terms + WHOLE - 1) // WHOLE * WHOLE


def row_size(terms: int) -> int:
    """Bytes of a row in one part: an odd number of cache lines, so that a tile's rows do not share a few sets."""
    return (terms + WHOLE - 1) // WHOLE // 2 * 128 + 64
