"""Sizes of float32 operands in three parts, as training's products on AMX's tiles lay them out. Plain functions: the
wrappers call them (amx_planning.py), the kernels compile them."""

TILE_SIDE = 32  # bfloat16 in a row of a tile register (a term each), rows of a tile, columns of a panel
SPAN = 576  # terms split at a time, at most; the actual spans are equally long
GROUP = 288  # terms, at most, summed in the tile registers before they are added to the other groups' sum


def padded_terms(terms: int) -> int:
    """Terms rounded up to whole tile rows."""
    return (terms + TILE_SIDE - 1) // TILE_SIDE * TILE_SIDE


def row_size(terms: int) -> int:
    """Bytes of a row in one part: an odd number of cache lines, so that a tile's rows do not compete for a few cache
    sets."""
    return (terms + TILE_SIDE - 1) // TILE_SIDE // 2 * 128 + 64


def equal_part(terms: int, most: int) -> int:
    """The length of the parts when `terms` terms are divided equally into parts of at most `most`, each whole tile
    rows."""
    tiles = (terms + TILE_SIDE - 1) // TILE_SIDE
    count = (tiles * TILE_SIDE + most - 1) // most
    return (tiles + count - 1) // count * TILE_SIDE
