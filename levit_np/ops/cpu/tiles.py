"""When training's products are made on AMX's tiles, and what memory that takes: see amx_training.py."""

from . import training_step as step
from .library import library
from .parts import SPAN, WHOLE, equal_part, row_size, whole_terms
from .running import whole
from .step import PARTS, TILE_SUMS
from .training_step import AMX_HEAD, Kind

GRADIENT_TERMS = 128  # rows of dy and x at a time
BLOCK_BYTES = 768 << 10  # of rows, the next ones and sums, which go through all panels: in the L2 cache with those
FEW_ROWS = 256  # are one block: splitting weights for each block of them would take too large a share
SPARE_ROWS = WHOLE - 1  # behind the last: a tile reads them, and does not use them


def suits(rows: int, terms: int, outputs: int) -> bool:
    """Whether there are tiles, whole panels for them, and enough of everything that splitting what they multiply
    pays: rows that are split for a single panel do not."""
    return (library("training_kernels").instructions.half == "tiles" and whole(outputs) % WHOLE == 0
            and outputs > WHOLE and rows >= WHOLE and terms >= 64)


def block_rows(rows: int, terms: int, outputs: int) -> int:
    """Rows of a block: whole tiles, about as many in each block."""
    span = equal_part(terms, SPAN)
    sums = whole(outputs) if span < terms else 0
    most = max(FEW_ROWS // 2, BLOCK_BYTES // (PARTS * row_size(span) + 4 * (sums + terms)))
    if rows <= FEW_ROWS:
        most = FEW_ROWS
    return whole_terms(-(-rows // -(-rows // most)))


def scratch_size(rows: int, terms: int, outputs: int) -> int:
    """Bytes a thread needs for so many rows at a time: their sums, a panel and what it is split from, and the rows."""
    span = equal_part(terms, SPAN)
    sums = -(-rows // WHOLE) * (whole(outputs) // WHOLE) * TILE_SUMS
    return AMX_HEAD + sums + span * WHOLE * (2 * PARTS + 4) + (PARTS * rows + SPARE_ROWS) * row_size(span)


def gradient_size(terms: int, columns: int, channels: int) -> int:
    """Bytes a thread needs for so many terms of a gradient at a time."""
    sums = -(-columns // WHOLE) * (whole(channels) // WHOLE) * TILE_SUMS
    left = (PARTS * whole(columns) + SPARE_ROWS) * row_size(terms)
    return AMX_HEAD + left + PARTS * 2 * whole_terms(terms) * whole(channels) + sums


def packed_size(terms: int, outputs: int) -> int:
    """Bytes of b (terms, outputs) in parts."""
    return PARTS * 2 * whole_terms(terms) * whole(outputs)


def pack(b, terms, outputs, transposed, target, scratch, size):
    """The step that splits the contiguous array b into address `target`; scratch, size: a thread's."""
    p = step.Pack
    return Kind.AMX_PACK, {p.SOURCE: b, p.ROW: b.shape[-1] * 4, p.TERMS: terms, p.OUTPUTS: outputs,
                           p.TRANSPOSED: transposed, p.TARGET: target, p.SCRATCH: scratch, p.SCRATCH_SIZE: size}
