"""The program of evaluation's kernels: a table of int64, one row a step, whose first number says which kernel runs.

Addresses are absolute; sizes and strides are in bytes unless a name says otherwise. Only this file knows the columns:
inference/lowering.py writes them, the kernels read them. The vocabulary of products:

    term       one k of c[i, j] = Σ_k a[i, k] b[k, j]
    panel      `width` neighbouring columns of b, packed (terms, width)
    tile       a few rows × one panel (or two) of c, whose sums stay in registers or tile registers
    segment    contiguous terms of a row of a; a convolution's row has one for each line of the window (implicit im2col)
    group      terms that a tile sums before the sum is added to c
    block      tiles that go through all panels before the next ones do
    finish     the epilogue: what becomes of a finished sum
"""

from enum import IntEnum

COLUMNS = 32  # int64 columns of a step
AMX_JOB = 256  # bytes of a Job
TILE = 24  # bytes of an entry in a table of tiles: its rows, byte offset in a, byte offset in c
LINE = 64  # bytes of a cache line
TILE_SUMS = 4096  # bytes of an AMX tile's sums
LOG2_E = 1.4426950408889634  # softmax is computed to base 2: eˣ = 2^(x LOG2_E)
PARTS = 3  # bfloat16 numbers (8 bits of mantissa each) that add up to a float32 (24)

# Values of FINISH. HARDSWISH_SIX: 6 · hardswish; RESIDUAL: added to what is there; STREAM: as PLAIN, with non-temporal
# stores.
PLAIN, HARDSWISH_SIX, SILU, RESIDUAL, STREAM = range(5)


class Kind(IntEnum):
    """The kernels, as kernels.run knows them; the class of that name below has the step's columns."""

    PRODUCT, ATTENTION, PAD, ROWS, SUM, LAYER_NORM, ADD, ROUND, FILTERING = range(9)


class Product(IntEnum):
    """c = finish(a b + bias): TILES, a table of TILE_COUNT (rows, a's offset, c's offset); a row of a is GROUPS · COUNT
    segments of LENGTH terms, each group summed on its own; b is PANELS packed panels and perhaps a narrow TAIL; BLOCK
    tiles go through all panels before the next.

    PAIRS: whether b has 16 bits a number, a term being two. PARTS: 0: a is float32; 1: a is bfloat16, as b is; 3: each
    number of a is the sum of three bfloat16, A_PART bytes apart, and b is float32. HALF: where c goes rounded to
    bfloat16, at half of c's offsets, or 0; with a HALF_PART, split into three parts that far apart. C may then be 0: c
    is not kept, while LDC and the offsets are as if it were."""

    TILES, TILE_COUNT, A, LDA, SEGMENTS, GROUPS, COUNT, LENGTH, B, B_PANEL, PANELS, TAIL, C, LDC, C_PANEL, BIAS, \
        FINISH, BLOCK, PARTS, A_PART, HALF, HALF_PART, SCRATCH, SCRATCH_SIZE, \
        PAIRS = range(1, 26)


class Job(IntEnum):
    """The arguments of an AMX tile: its product; the tile before, whose sums wait to be finished; the weights of tiles
    to come, which are split meanwhile (see amx.multiply_function)."""

    A, LDA, A_PART, SEGMENTS, COUNT, LENGTH, B, B_PART, AHEAD, ADVANCE, SUMS, \
        DONE, C, LDC, BIAS, LDBIAS, FINISH, HALF, LDHALF, HALF_PART, ROWS, ROWS_A_STEP, \
        SOURCE, TARGET, PART, FURTHER, FIRST, LAST, PAIRS_A_STEP = range(29)


class Attention(IntEnum):
    """For each image and head: out = finish(softmax(q kᵀ + bias) v), the softmax to base 2.

    q, k and v lie in panels of `width` columns, (panel, images · tokens, width), *_PANEL bytes apart. KEY, VALUE:
    columns a head. bias (heads, blocks, keys, width): a block's queries side by side. HALF, HALF_PART: as in Product.
    BFLOAT16: q, k and v are bfloat16, multiplied in pairs or on AMX's tiles; *_PANEL are then half as large. *_TILES:
    how register tiles divide the keys, a block's queries, and the last block's queries; see tile.py."""

    IMAGES, HEADS, QUERIES, KEYS, KEY, VALUE, Q, Q_PANEL, K, K_PANEL, V, V_PANEL, SEGMENTS, BIAS, OUT, LDO, SCRATCH, \
        SCRATCH_SIZE, FINISH, HALF, HALF_PART, BFLOAT16, KEY_TILES, KEY_COUNT, BLOCK_TILES, BLOCK_COUNT, \
        LAST_TILES, LAST_COUNT = range(1, 29)


class Filtering(IntEnum):
    """Convolution by minimal filtering (minimal_filtering.py): LINES × COLUMNS squares of 2 × 2 outputs an image, whose
    windows are 5 × 5 pixels of CHANNELS numbers. SOURCE_PIXEL … TARGET_IMAGE: bytes to the next pixel, line, image. B:
    packed panels of 25 · CHANNELS terms, summed LONGEST at a time. SIZES: address of the terms a channel of each of the
    nine parts. ROWS: squares at a time."""

    IMAGES, LINES, COLUMNS, CHANNELS, SOURCE, SOURCE_PIXEL, SOURCE_LINE, SOURCE_IMAGE, B, B_PANEL, PANELS, TAIL, \
        TARGET, TARGET_PIXEL, TARGET_LINE, TARGET_IMAGE, BIAS, FINISH, ROWS, SIZES, LONGEST, SCRATCH, \
        SCRATCH_SIZE = range(1, 24)


class Pad(IntEnum):
    """Copies images (IMAGES, CHANNELS, HEIGHT, WIDTH) into the middle of larger ones, whose border stays 0. PIXELS: of
    three planes one is made, in which a pixel's channels lie side by side, rounded to bfloat16; CHANNELS is then 1."""

    IMAGES, CHANNELS, HEIGHT, WIDTH, SOURCE, TARGET, TARGET_ROW, TARGET_CHANNEL, PIXELS = range(1, 10)


class Rows(IntEnum):
    """Copies COUNT rows; OFFSETS: address of (source offset, target offset) of each."""

    OFFSETS, COUNT, SOURCE, TARGET, VECTORS = range(1, 6)


class Sum(IntEnum):
    """target[image] = the sum of an image's first TOKENS rows."""

    IMAGES, TOKENS, SOURCE, SOURCE_ROW, SOURCE_IMAGE, TARGET, TARGET_ROW, VECTORS = range(1, 9)


class LayerNorm(IntEnum):
    """target = gamma x̂ + beta, row by row, over the first CHANNELS columns.  EPS: the bits of a float64."""

    ROWS, CHANNELS, SOURCE, TARGET, ROW, GAMMA, BETA, EPS, VECTORS = range(1, 10)


class Add(IntEnum):
    """target[image] += source, TOKENS rows each."""

    IMAGES, TOKENS, SOURCE, SOURCE_ROW, TARGET, TARGET_ROW, VECTORS = range(1, 8)


class Round(IntEnum):
    """Rows of float32 -> bfloat16, or, with a PART, three parts that far apart."""

    ROWS, SOURCE, SOURCE_ROW, TARGET, TARGET_ROW, VECTORS, PART = range(1, 8)
