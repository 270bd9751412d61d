"""When training's products are made on AMX's tiles, and what memory that takes: see amx_training.py."""

from . import training_step as step
from .library import library
from .parts import WHOLE, row_size, whole_terms
from .running import ONE, whole
from .step import PARTS
from .training_step import AMX_HEAD, Kind

GRADIENT_TERMS = 128  # rows of dy and x at a time
ROW_BYTES = 384 << 10  # of rows in parts go through all panels before the next rows: they stay in the L2 cache
TILE_BYTES = 4096  # of the sums of a tile
SPARE_ROWS = WHOLE - 1  # behind the last: a tile reads them, and does not use them


def suit(rows: int, terms: int, outputs: int) -> bool:
    """Whether there are tiles, whole panels for them, and enough of everything that splitting what they multiply
    pays."""
    return (library("training_kernels").instructions.half == "tiles" and whole(outputs) % WHOLE == 0
            and rows >= WHOLE and terms >= 64)


def scratch_size(rows: int, terms: int) -> int:
    """Bytes a thread needs for so many rows at a time."""
    return AMX_HEAD + -(-rows // WHOLE) * TILE_BYTES + (PARTS * rows + SPARE_ROWS) * row_size(terms)


def gradient_size(terms: int, columns: int, channels: int) -> int:
    """Bytes a thread needs for so many terms of a gradient at a time."""
    totals = -(-columns // WHOLE) * (whole(channels) // WHOLE) * TILE_BYTES
    return scratch_size(whole(columns), terms) + PARTS * 2 * whole_terms(terms) * whole(channels) + totals


def packed_size(terms: int, outputs: int) -> int:
    """Bytes of b (terms, outputs), packed and then in parts."""
    return whole_terms(terms) * whole(outputs) * (4 + 2 * PARTS)


def parts_of(packed: int, terms: int, outputs: int) -> int:
    """The address of the parts."""
    return packed + whole_terms(terms) * whole(outputs) * 4


def pack(b, terms, outputs, transposed, target):
    """The step that packs the contiguous array b at address `target`."""
    p = step.Pack
    return Kind.AMX_PACK, {p.SOURCE: b.ctypes.data, p.ROW: b.shape[-1] * 4, p.TERMS: terms, p.OUTPUTS: outputs,
                           p.TRANSPOSED: transposed, p.TARGET: target, p.ONE: ONE.ctypes.data,
                           p.PARTS: parts_of(target, terms, outputs)}
