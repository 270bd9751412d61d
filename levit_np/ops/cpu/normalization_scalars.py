"""What batch normalization computes for each channel, before and between its passes over the rows
(normalization_kernels.py).

A step's scratch holds, for each column of a row, two float64 totals, then in float32 the centre subtracted from x, the
scale, the shift, and the offset and slope that the gradient gets through mean and variance."""

from numba import types

from . import training_step as step
from .barrier import share
from .intrinsics import as_float, get, get_float, root, set_float
from .jit import jit

N_ROWS, N_WIDTH, N_MERGED, N_MEAN, N_VARIANCE, N_GAMMA, N_BETA, N_DGAMMA, N_DBETA, N_EPS, N_SHARE, N_SCRATCH = (
    int(step.Normalization[name]) for name in (
        "ROWS WIDTH MERGED MEAN VARIANCE GAMMA BETA DGAMMA DBETA EPS SHARE SCRATCH").split())


@jit
def totals(s):
    """The addresses of the two totals."""
    return get(s, N_SCRATCH), get(s, N_SCRATCH) + 8 * get(s, N_WIDTH)


@jit
def array(s, n):
    """The address of the n-th float32 array: centre, scale, shift, offset, slope."""
    return get(s, N_SCRATCH) + (16 + 4 * n) * get(s, N_WIDTH)


@jit
def number(address, n):
    """The n-th float64."""
    return as_float(get(address, n))


@jit
def moments(s, thread, threads):
    """mean = centre + Σ d / n, variance = Σ d² / n - (Σ d / n)², d = x - centre. A channel that has several columns
    (merged rows) gets the means of theirs, and its variance includes that between the columns' means."""
    channels, merged, rows = get(s, N_WIDTH) // get(s, N_MERGED), get(s, N_MERGED), get(s, N_ROWS)
    (sums, squares), centre = totals(s), array(s, 0)
    first, last = share(channels, thread, threads)
    for c in range(first, last):
        mean = 0.0
        for j in range(merged):
            at = c + j * channels
            mean += (get_float(centre + 4 * at) + number(sums, at) / rows) / merged
        variance = 0.0
        for j in range(merged):
            at = c + j * channels
            offset = number(sums, at) / rows
            between = get_float(centre + 4 * at) + offset - mean
            variance += (max(number(squares, at) / rows - offset * offset, 0.0) + between * between) / merged
        set_float(get(s, N_MEAN) + 4 * c, types.float32(mean))
        set_float(get(s, N_VARIANCE) + 4 * c, types.float32(variance))


@jit
def scales(s, thread, threads):
    """centre = mean, scale = gamma / √(variance + eps), shift = beta."""
    channels, merged, eps = get(s, N_WIDTH) // get(s, N_MERGED), get(s, N_MERGED), as_float(get(s, N_EPS))
    centre, scale, shift = array(s, 0), array(s, 1), array(s, 2)
    first, last = share(channels, thread, threads)
    for c in range(first, last):
        mean = get_float(get(s, N_MEAN) + 4 * c)
        factor = get_float(get(s, N_GAMMA) + 4 * c) / root(get_float(get(s, N_VARIANCE) + 4 * c) + eps)
        for j in range(merged):
            at = c + j * channels
            set_float(centre + 4 * at, mean)
            set_float(scale + 4 * at, types.float32(factor))
            if get(s, N_BETA):
                set_float(shift + 4 * at, get_float(get(s, N_BETA) + 4 * c))


@jit
def backward_scales(s, thread, threads):
    """dbeta = Σ dy, dgamma = Σ dy d / σ; and for dx = scale (dy - offset - d slope): offset = dbeta / n, slope =
    dgamma / (σ n). Where mean and variance are constants, dx = scale dy: centre = shift = 0 (see NORMALIZE)."""
    channels, merged, eps = get(s, N_WIDTH) // get(s, N_MERGED), get(s, N_MERGED), as_float(get(s, N_EPS))
    part, (sums, products), centre, shift = as_float(get(s, N_SHARE)), totals(s), array(s, 0), array(s, 2)
    offset, slope = array(s, 3), array(s, 4)
    first, last = share(channels, thread, threads)
    for c in range(first, last):
        dbeta = product = 0.0
        for j in range(merged):
            at = c + j * channels
            dbeta += number(sums, at)
            product += number(products, at)
        deviation = 1 / root(get_float(get(s, N_VARIANCE) + 4 * c) + eps)
        set_float(get(s, N_DGAMMA) + 4 * c, types.float32(product * deviation))
        set_float(get(s, N_DBETA) + 4 * c, types.float32(dbeta))
        for j in range(merged):
            at = c + j * channels
            if part:
                set_float(offset + 4 * at, types.float32(dbeta * part))
                set_float(slope + 4 * at, types.float32(product * deviation * deviation * part))
            else:
                set_float(centre + 4 * at, types.float32(0))
                set_float(shift + 4 * at, types.float32(0))
