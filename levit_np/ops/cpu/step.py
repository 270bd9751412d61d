"""A program for the kernels: a table of int64, one row a step, its first number saying which kernel runs.

Addresses are absolute, sizes and strides in bytes unless a name says otherwise.  This file is the one place that knows
the columns; inference/lowering.py writes them, the kernels read them.
"""

from enum import IntEnum

COLUMNS = 32  # int64 numbers a step
AMX_JOB = 256  # bytes of a Job
TILE = 24  # bytes of a tile in a table of tiles: its rows, a's offset, c's offset
TILE_SUMS = 4096  # bytes of the sums of one of AMX's tiles
LOG2_E = 1.4426950408889634  # the kernels' softmax is to base 2: eˣ = 2^(x LOG2_E)
PARTS = 3  # bfloat16 numbers, of 8 bits each, that add up to a float32, of 24

# What becomes of a finished sum.
PLAIN, HARDSWISH_SIX, SILU, RESIDUAL, PAST = range(5)  # HARDSWISH_SIX: 6 hardswish; PAST: plain, past the caches


class Kind(IntEnum):
    PRODUCT, ATTENTION, PAD, ROWS, SUM, LAYER_NORM, ADD, ROUND, FILTERING = range(9)


class Product(IntEnum):
    """c = finish(a b + bias): `tiles` rows of (rows, a's offset, c's offset); a row of a is groups · count segments of
    `length` terms, a group summed on its own; b in `panels` packed panels and perhaps a narrow `tail`; `block` tiles go
    through all panels before the next.

    PAIRS: whether b has 16 bits a number, a term being two.  PARTS: 0 where a is float32; 1: it is bfloat16, as b is;
    or 3: each number of a is the sum of three bfloat16, A_PART bytes apart, and b is float32.  HALF: where c goes
    rounded to bfloat16, each offset half of c's; 0 for nowhere; or, with a HALF_PART, split into three.  C may be 0
    then: c is not kept, LDC and the offsets being what they would be."""

    TILES, TILE_COUNT, A, LDA, SEGMENTS, GROUPS, COUNT, LENGTH, B, B_PANEL, PANELS, TAIL, C, LDC, C_PANEL, BIAS, \
        FINISH, BLOCK, PARTS, A_PART, HALF, HALF_PART, SCRATCH, SCRATCH_SIZE, \
        PAIRS = range(1, 26)


class Job(IntEnum):
    """What AMX's tile is handed: the product; the tile before, whose sums wait to be finished; the weights of the tiles
    to come, which are split meanwhile (see amx.multiply_function)."""

    A, LDA, A_PART, SEGMENTS, COUNT, LENGTH, B, B_PART, AHEAD, ADVANCE, SUMS, \
        DONE, C, LDC, BIAS, LDBIAS, FINISH, HALF, LDHALF, HALF_PART, ROWS, ROWS_A_STEP, \
        SOURCE, TARGET, PART, FURTHER, FIRST, LAST, PAIRS_A_STEP = range(29)


class Attention(IntEnum):
    """For each image and head: out = finish(softmax(q kᵀ + bias) v), the softmax to base 2.

    q, k and v lie in panels of `width` columns, (panel, images · tokens, width), *_PANEL bytes apart; KEY and VALUE
    are columns a head.  bias (heads, blocks, keys, width): the queries of a block side by side.  HALF, HALF_PART: as in
    Product.
    BFLOAT16: whether q, k and v are, in AMX's tiles; *_PANEL are half as large.  *_TILES: how register tiles divide the
    keys, the queries of a block, and those of the last; see tile.py."""

    IMAGES, HEADS, QUERIES, KEYS, KEY, VALUE, Q, Q_PANEL, K, K_PANEL, V, V_PANEL, SEGMENTS, BIAS, OUT, LDO, SCRATCH, \
        SCRATCH_SIZE, FINISH, HALF, HALF_PART, BFLOAT16, KEY_TILES, KEY_COUNT, BLOCK_TILES, BLOCK_COUNT, \
        LAST_TILES, LAST_COUNT = range(1, 29)


class Filtering(IntEnum):
    """A convolution by minimal filtering (minimal_filtering.py): LINES × COLUMNS squares of four outputs an image,
    whose windows are 5 × 5 pixels of `channels` numbers; SOURCE_PIXEL … TARGET_IMAGE: bytes to the next pixel, line and
    image.  B: packed panels of 25 · channels terms, summed LONGEST at a time; SIZES: the address of how many numbers a
    channel each part has.  ROWS: squares at a time."""

    IMAGES, LINES, COLUMNS, CHANNELS, SOURCE, SOURCE_PIXEL, SOURCE_LINE, SOURCE_IMAGE, B, B_PANEL, PANELS, TAIL, \
        TARGET, TARGET_PIXEL, TARGET_LINE, TARGET_IMAGE, BIAS, FINISH, ROWS, SIZES, LONGEST, SCRATCH, \
        SCRATCH_SIZE = range(1, 24)


class Pad(IntEnum):
    """Images (count, channels, height, width) into the middle of larger ones, whose border stays 0."""

    IMAGES, CHANNELS, HEIGHT, WIDTH, SOURCE, TARGET, TARGET_ROW, TARGET_CHANNEL = range(1, 9)


class Rows(IntEnum):
    """Copies COUNT rows; OFFSETS: the source's and the target's of each."""

    OFFSETS, COUNT, SOURCE, TARGET, VECTORS = range(1, 6)


class Sum(IntEnum):
    """target[image] = the sum of the first `tokens` rows of an image."""

    IMAGES, TOKENS, SOURCE, SOURCE_ROW, SOURCE_IMAGE, TARGET, TARGET_ROW, VECTORS = range(1, 9)


class LayerNorm(IntEnum):
    """target = gamma x̂ + beta, row by row, over the first `channels` columns.  EPS: a float64's bits."""

    ROWS, CHANNELS, SOURCE, TARGET, ROW, GAMMA, BETA, EPS, VECTORS = range(1, 10)


class Add(IntEnum):
    """target[image] += source, `tokens` rows each."""

    IMAGES, TOKENS, SOURCE, SOURCE_ROW, TARGET, TARGET_ROW, VECTORS = range(1, 8)


class Round(IntEnum):
    """Rows of float32 to bfloat16, or, with a PART, to three parts that far apart."""

    ROWS, SOURCE, SOURCE_ROW, TARGET, TARGET_ROW, VECTORS, PART = range(1, 8)
