"""The steps of training's kernels, as step.py has them for evaluation: a table of int64, one row a step, its first
number saying which kernel runs; addresses absolute, strides in bytes.  The operations write them, the kernels read
them.
"""

from enum import IntEnum

FETCHES = 16  # lanes, from which on there is an L2 cache with room for what products read next
COLUMNS = 24  # int64 numbers a step
HEAD = 64  # bytes at the start of a thread's scratch, which hold a 1.0
COLUMN_BYTES = 2 * 8 + 5 * 4  # of scratch a column of a BN: see normalization_scalars.py
UPDATE_BYTES = 64  # of a thread's scratch: see update_kernel.py
QUERIES = 24  # of an attention at a time: their scores stay in the L1 cache
AMX_HEAD = 6144  # bytes of a thread's scratch before what AMX's products split: see amx_training.py


class Kind(IntEnum):
    PACK, PRODUCT, GRADIENT, EACH, COLUMN_SUMS, MOMENTS, SCALES, NORMALIZE, BACKWARD_SUMS, THROUGH, \
        NORMALIZE_BACKWARD, CONVOLUTION, CONVOLUTION_INPUT, CONVOLUTION_WEIGHT, ATTENTION, ATTENTION_BACKWARD, UPDATE, \
        AMX_PACK, AMX_PRODUCT, AMX_GRADIENT, FILTERING, FILTERING_INPUT, FILTERING_WEIGHT, SCATTER = range(24)


class Product(IntEnum):
    """c (rows, outputs) = a (rows, terms) b, b packed; `block` rows go through all panels before the next.  PAST: see
    running.past_caches.  What follows it is for AMX: where B is 0, b stands at SOURCE as it came, its transpose if
    TRANSPOSED, and is split as it is used."""

    ROWS, TERMS, OUTPUTS, A, LDA, B, C, LDC, BLOCK, PAST, SCRATCH, SCRATCH_SIZE, SOURCE, SOURCE_ROW, \
        TRANSPOSED = range(1, 16)


class Pack(IntEnum):
    """target = the panels of b (terms, outputs), for a product; TRANSPOSED: what lies in memory is bᵀ.  ONE: the
    address of a 1.0.  SCRATCH: for AMX, which has the panels in parts."""

    SOURCE, ROW, TERMS, OUTPUTS, TRANSPOSED, TARGET, ONE, SCRATCH, SCRATCH_SIZE = range(1, 10)


class Gradient(IntEnum):
    """c = aᵀ b, summed over `terms` rows, a block of them at a time."""

    TERMS, A, A_ROW, A_COLUMNS, B, B_ROW, B_COLUMNS, C, C_ROW, BLOCK, SCRATCH, SCRATCH_SIZE = range(1, 13)


class Each(IntEnum):
    """A Function of `count` numbers, at addresses from A on, the last its constants'.  PAST: see
    running.past_caches."""

    FUNCTION, COUNT, PAST, A = range(1, 5)


class Function(IntEnum):
    """Of single numbers; row_functions.py says which address is what."""

    HARDSWISH, HARDSWISH_BACKWARD, SILU, SILU_BACKWARD, BLEND, SCALE = range(6)


class Normalization(IntEnum):
    """All steps of a BN: two passes over ROWS × WIDTH numbers x, and before and between them what those need, which
    stands in SCRATCH (normalization_scalars.py).  A row is BESIDE times the channels.

    MEAN to DBETA: a number a channel.  ACTIVATED: Hardswish comes behind.  EPS, SHARE: a float64's bits, the second
    what of dbeta and dgamma flows through mean and variance: 1 / count, or 0 where these are constants."""

    ROWS, WIDTH, BESIDE, X, DY, OUT, PAST, ACTIVATED, MEAN, VARIANCE, GAMMA, BETA, DGAMMA, DBETA, EPS, SHARE, \
        SCRATCH = range(1, 18)


class Convolution(IntEnum):
    """x (IMAGES, PLANES, HEIGHT, WIDTH, CHANNELS) of which a pixel's window is one row of terms; y (…, OUT_HEIGHT,
    OUT_WIDTH, OUTPUTS), Y_ROW bytes a pixel.  B: packed weights (TERMS, OUTPUTS), or (OUTPUTS, TERMS) for dx.  AMX:
    where in a thread's scratch AMX's begins; 0 if the products are not on its tiles."""

    X, IMAGES, PLANES, CHANNELS, HEIGHT, WIDTH, KERNEL, STRIDE, PADDING, OUT_HEIGHT, OUT_WIDTH, LINES, Y, Y_ROW, \
        OUTPUTS, B, C, C_ROW, SCRATCH, SCRATCH_SIZE, AMX, PAST = range(1, 23)


class Filtering(IntEnum):
    """A convolution by minimal filtering: x (IMAGES, HEIGHT, WIDTH, CHANNELS), y of DOWN × ACROSS squares of four
    outputs.  B: the packed weights of its nine parts, one after the other; C: their gradient, (OUTPUTS, 25 · CHANNELS).
    SIZES: the address of how many numbers a channel each part has.  LINES of squares, for the gradient up to ROWS
    squares, at a time.  PAST: see running.past_caches."""

    X, IMAGES, CHANNELS, HEIGHT, WIDTH, DOWN, ACROSS, LINES, Y, OUTPUTS, B, C, SIZES, ROWS, SCRATCH, SCRATCH_SIZE, \
        PAST = range(1, 18)


class Attention(IntEnum):
    """VIEWS: the address and the strides (image, head, row) of q, k, v, y and then backward dq, dk, dv; y is dy there.
    SCALE: a float64's bits.  BIAS, backward DBIAS, (heads, Nq, Nk); PROBABILITIES (images, heads, Nq, Nk).  PAST, of
    the backward: see running.past_caches."""

    IMAGES, HEADS, QUERIES, KEYS, KEY, VALUE, VIEWS, BIAS, PROBABILITIES, SCALE, SCRATCH, SCRATCH_SIZE, \
        PAST = range(1, 14)


class Scatter(IntEnum):
    """y (ROWS, WIDTH) = 0, then of each row y[target] += x[source] for COUNT pairs, whose places are int64."""

    ROWS, X, X_ROW, Y, WIDTH, COUNT, SOURCES, TARGETS = range(1, 9)


class Update(IntEnum):
    """AdamW of UNITS × LENGTH numbers, the gradient times SCALE and clipped by its units with CLIP, unless that is 0,
    both a float64's bits.  From A on: parameter, gradient, two moments, where the three that follow go, and
    optimizer.py's constants."""

    UNITS, LENGTH, CLIP, SCALE, SCRATCH, SCRATCH_SIZE, A = range(1, 8)
