"""Which of training's products run on AMX's tiles, how many rows they take at a time, and the memory they need. The
kernels are in amx_training.py, sizes that kernels and wrappers share in amx_sizes.py."""

from . import training_step as step
from .amx_sizes import SPAN, TILE_SIDE, equal_part, padded_terms, row_size
from .library import library
from .running import padded
from .step import PARTS, TILE_SUMS
from .training_step import AMX_HEADER, Kind

GRADIENT_TERMS = 128  # rows of dy and x that a gradient takes at a time
# In L2 together: a block's rows in parts, their sums, and the next block's rows, prefetched.
BLOCK_BYTES = 768 << 10
FEW_ROWS = 256  # rows up to which one block takes all: splitting the weights for each of several would cost too much
SPARE_ROWS = TILE_SIDE - 1  # rows beyond the last that a tile reads and does not use


def suits(rows: int, terms: int, outputs: int) -> bool:
    """Whether AMX's tiles make c (rows, outputs) = a (rows, terms) b: where the processor has them, the panels are
    whole, and there is enough work to pay for splitting the operands. Rows split for a single panel do not pay."""
    return (library("training_kernels").instructions.bfloat16 == "tiles" and padded(outputs) % TILE_SIDE == 0
            and outputs > TILE_SIDE and rows >= TILE_SIDE and terms >= 64)


def block_rows(rows: int, terms: int, outputs: int) -> int:
    """Rows of a block: whole tiles, about equally many in each block."""
    span = equal_part(terms, SPAN)
    sums = padded(outputs) if span < terms else 0
    most = max(FEW_ROWS // 2, BLOCK_BYTES // (PARTS * row_size(span) + 4 * (sums + terms)))
    if rows <= FEW_ROWS:
        most = FEW_ROWS
    return padded_terms(-(-rows // -(-rows // most)))


def scratch_size(rows: int, terms: int, outputs: int) -> int:
    """Bytes of a thread's scratch for `rows` rows at a time: sums, a panel in parts and what it is split from, the rows
    in parts."""
    span = equal_part(terms, SPAN)
    sums = -(-rows // TILE_SIDE) * (padded(outputs) // TILE_SIDE) * TILE_SUMS
    return AMX_HEADER + sums + span * TILE_SIDE * (2 * PARTS + 4) + (PARTS * rows + SPARE_ROWS) * row_size(span)


def gradient_size(terms: int, columns: int, channels: int) -> int:
    """Bytes of a thread's scratch for a gradient (columns, channels) that takes `terms` terms at a time."""
    sums = -(-columns // TILE_SIDE) * (padded(channels) // TILE_SIDE) * TILE_SUMS
    left = (PARTS * padded(columns) + SPARE_ROWS) * row_size(terms)
    return AMX_HEADER + left + PARTS * 2 * padded_terms(terms) * padded(channels) + sums


def packed_size(terms: int, outputs: int) -> int:
    """Bytes of a packed b (terms, outputs) in parts."""
    return PARTS * 2 * padded_terms(terms) * padded(outputs)


def pack(b, terms, outputs, transposed, target, scratch, size):
    """The step that splits the contiguous array b into packed panels at address `target`.  scratch, size: a thread's.
    """
    p = step.Pack
    return Kind.AMX_PACK, {p.SOURCE: b, p.ROW: b.shape[-1] * 4, p.TERMS: terms, p.OUTPUTS: outputs,
                           p.TRANSPOSED: transposed, p.TARGET: target, p.SCRATCH: scratch, p.SCRATCH_SIZE: size}
