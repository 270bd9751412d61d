"""The steps of training's kernels, as step.py has evaluation's: a table of int64, one row a step, whose first number
says which kernel runs. Addresses are absolute, strides in bytes. The wrappers of the operations write them, the kernels
read them.

STREAM, in any of them: write the result with non-temporal stores (see running.worth_streaming). SCRATCH, SCRATCH_SIZE:
address and bytes of the first thread's scratch memory, which the others' follow."""

from enum import IntEnum

# vectors of so many lanes or more come with an L2 cache large enough to prefetch what products read next
PREFETCH_LANES = 16
COLUMNS = 24  # int64 columns of a step
HEADER = 64  # bytes at the start of a thread's scratch, which hold a 1.0
COLUMN_BYTES = 2 * 8 + 5 * 4  # bytes of scratch for each column of a BN: see normalization_scalars.py
UPDATE_BYTES = 64  # of a thread's scratch: see update_kernel.py
QUERIES = 24  # of an attention at a time: their scores stay in L1
AMX_HEADER = 6144  # bytes at the start of a thread's scratch for AMX's products: see amx_panels.py


class Kind(IntEnum):
    """The kernels, as training_kernels.run knows them. COLUMN_SUMS to NORMALIZE_BACKWARD are steps of a Normalization,
    AMX_* of the same columns as without AMX."""

    PACK, PRODUCT, GRADIENT, POINTWISE, COLUMN_SUMS, MOMENTS, SCALES, NORMALIZE, BACKWARD_SUMS, BACKWARD_SCALES, \
        NORMALIZE_BACKWARD, CONVOLUTION, CONVOLUTION_INPUT, CONVOLUTION_WEIGHT, ATTENTION, ATTENTION_BACKWARD, UPDATE, \
        AMX_PACK, AMX_PRODUCT, AMX_GRADIENT, FILTERING, FILTERING_INPUT, FILTERING_WEIGHT, KERNEL_TERMS, \
        KERNEL_TERMS_BACKWARD, SCATTER = range(26)


class Product(IntEnum):
    """c (rows, outputs) = a (rows, terms) b, b packed; BLOCK rows go through all panels before the next. SOURCE,
    SOURCE_ROW and TRANSPOSED are for AMX: where B is 0, SOURCE holds b in float32, or bᵀ if TRANSPOSED, and it is split
    as it is used."""

    ROWS, TERMS, OUTPUTS, A, LDA, B, C, LDC, BLOCK, STREAM, SCRATCH, SCRATCH_SIZE, SOURCE, SOURCE_ROW, \
        TRANSPOSED = range(1, 16)


class Pack(IntEnum):
    """target = the packed panels of b (terms, outputs); TRANSPOSED: memory holds bᵀ. ONE: the address of a 1.0.
    SCRATCH: only for AMX, whose panels are in parts."""

    SOURCE, ROW, TERMS, OUTPUTS, TRANSPOSED, TARGET, ONE, SCRATCH, SCRATCH_SIZE = range(1, 10)


class Gradient(IntEnum):
    """c = aᵀ b, summed over TERMS rows of both, a block of BLOCK rows at a time."""

    TERMS, A, A_ROW, A_COLUMNS, B, B_ROW, B_COLUMNS, C, C_ROW, BLOCK, SCRATCH, SCRATCH_SIZE = range(1, 13)


class Pointwise(IntEnum):
    """A Function of COUNT numbers. From column A on: the addresses of its arrays, the last perhaps its constants'."""

    FUNCTION, COUNT, STREAM, A = range(1, 5)


class Function(IntEnum):
    """Functions of single numbers; row_functions.py says which address is what."""

    HARDSWISH, HARDSWISH_BACKWARD, SILU, SILU_BACKWARD, BLEND, SCALE = range(6)


class Normalization(IntEnum):
    """All steps of a BN: two passes over x (ROWS, WIDTH), and before and between them what those need for each channel,
    in SCRATCH (normalization_scalars.py). A row is MERGED rows of channels, to fill vectors.

    MEAN to DBETA: arrays of one number a channel. ACTIVATED: Hardswish follows. EPS, SHARE: the bits of a float64;
    SHARE is how much of dbeta and dgamma flows through mean and variance: 1 / count, or 0 where they are constants."""

    ROWS, WIDTH, MERGED, X, DY, OUT, STREAM, ACTIVATED, MEAN, VARIANCE, GAMMA, BETA, DGAMMA, DBETA, EPS, SHARE, \
        SCRATCH = range(1, 18)


class Convolution(IntEnum):
    """x (IMAGES, PLANES, HEIGHT, WIDTH, CHANNELS), each window one row of terms; y (…, OUT_HEIGHT, OUT_WIDTH, OUTPUTS),
    Y_ROW bytes a pixel; LINES of y at a time. B: packed weights (TERMS, OUTPUTS), for dx (OUTPUTS, TERMS). C: the
    weights' gradient. AMX: the offset in a thread's scratch of what AMX's products use; 0 if there are none."""

    X, IMAGES, PLANES, CHANNELS, HEIGHT, WIDTH, KERNEL, STRIDE, PADDING, OUT_HEIGHT, OUT_WIDTH, LINES, Y, Y_ROW, \
        OUTPUTS, B, C, C_ROW, SCRATCH, SCRATCH_SIZE, AMX, STREAM = range(1, 23)


class Filtering(IntEnum):
    """Convolution by minimal filtering: x (IMAGES, HEIGHT, WIDTH, CHANNELS), y of DOWN × ACROSS squares of 2 × 2
    outputs an image. B: the packed weights of its nine parts, one after another; C: their gradient, (OUTPUTS, 25 ·
    CHANNELS). SIZES: address of the terms a channel of each part. LINES of squares at a time; for the gradient up to
    ROWS squares."""

    X, IMAGES, CHANNELS, HEIGHT, WIDTH, DOWN, ACROSS, LINES, Y, OUTPUTS, B, C, SIZES, ROWS, SCRATCH, SCRATCH_SIZE, \
        STREAM = range(1, 18)


class KernelTerms(IntEnum):
    """minimal_filtering.kernel_terms of OUTPUTS kernels, or its adjoint: WEIGHT (OUTPUTS, CHANNELS, 9), TERMS (OUTPUTS,
    25, CHANNELS), ROW bytes an output."""

    OUTPUTS, CHANNELS, WEIGHT, TERMS, ROW = range(1, 6)


class Attention(IntEnum):
    """VIEWS: address and strides (image, head, row) of q, k, v, y; backward of q, k, v, dy, dq, dk, dv. SCALE: the bits
    of a float64. BIAS (heads, Nq, Nk), backward dbias; PROBABILITIES (images, heads, Nq, Nk)."""

    IMAGES, HEADS, QUERIES, KEYS, KEY, VALUE, VIEWS, BIAS, PROBABILITIES, SCALE, SCRATCH, SCRATCH_SIZE, \
        STREAM = range(1, 14)


class Scatter(IntEnum):
    """y (ROWS, WIDTH) = 0, then in each row y[TARGETS[n]] += x[n] for COUNT numbers; TARGETS: int64."""

    ROWS, X, Y, WIDTH, COUNT, TARGETS = range(1, 7)


class Update(IntEnum):
    """AdamW of UNITS × LENGTH numbers. The gradient is multiplied by SCALE, then clipped unit by unit with CLIP, unless
    that is 0; both are the bits of a float64. From column A on, addresses: parameter, gradient, two moments, where the
    new three go, optimizer.py's constants."""

    UNITS, LENGTH, CLIP, SCALE, SCRATCH, SCRATCH_SIZE, A = range(1, 8)
