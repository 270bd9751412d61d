"""A program for the kernels: a table of int64, one row a step, its first number saying which kernel runs.

Addresses are absolute, sizes and strides in bytes unless a name says otherwise.  This file is the one place that knows
the columns; inference/cpu.py writes them, the kernels read them.
"""

from enum import IntEnum

COLUMNS = 32  # int64 numbers a step

# What becomes of a finished sum.
PLAIN, HARDSWISH_SIX, SILU, RESIDUAL = 0, 1, 2, 3  # HARDSWISH_SIX: six times hardswish


class Kind(IntEnum):
    PRODUCT, ATTENTION, PAD, ROWS, SUM, LAYER_NORM, ADD, ROUND = range(8)


class Product(IntEnum):
    """c = finish(a b + bias): `tiles` rows of (rows, a's offset, c's offset); a row of a is groups · count segments of
    `length` terms, a group summed on its own; b in `panels` packed panels and perhaps a narrow `tail`; `block` tiles go through all panels
    before the next.

    PAIRS: a and b are bfloat16, a term a pair of them.  HALF: where c goes rounded to bfloat16, each offset half of
    c's; 0 for nowhere.  C may be 0 then: c is not kept, LDC and the offsets being what they would be."""

    TILES, TILE_COUNT, A, LDA, SEGMENTS, GROUPS, COUNT, LENGTH, B, B_PANEL, PANELS, TAIL, C, LDC, C_PANEL, BIAS, \
        FINISH, BLOCK, PAIRS, HALF, SCRATCH, SCRATCH_SIZE = range(1, 23)


class Attention(IntEnum):
    """For each image and head: out = finish(softmax(q kᵀ + bias) v), the softmax to base 2.

    q, k and v lie in panels of `width` columns, (panel, images · tokens, width), *_PANEL bytes apart; KEY and VALUE
    are columns a head.  bias (heads, blocks, keys, width): the queries of a block side by side.  HALF: as in Product.
    PAIRS: q, k and v are bfloat16, in AMX's tiles; *_PANEL are half as large."""

    IMAGES, HEADS, QUERIES, KEYS, KEY, VALUE, Q, Q_PANEL, K, K_PANEL, V, V_PANEL, SEGMENTS, BIAS, OUT, LDO, SCRATCH, \
        SCRATCH_SIZE, FINISH, HALF, PAIRS = range(1, 22)


class Pad(IntEnum):
    """Images (count, channels, height, width) into the middle of larger ones, whose border stays 0."""

    IMAGES, CHANNELS, HEIGHT, WIDTH, SOURCE, TARGET, TARGET_ROW, TARGET_CHANNEL = range(1, 9)


class Rows(IntEnum):
    """Copies rows: `pairs` of (source's offset, target's offset)."""

    PAIRS, COUNT, SOURCE, TARGET, VECTORS = range(1, 6)


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
    """Rows of float32 to bfloat16."""

    ROWS, SOURCE, SOURCE_ROW, TARGET, TARGET_ROW, VECTORS = range(1, 7)
