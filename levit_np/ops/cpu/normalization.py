"""Batch normalization in training: two passes over the data each way (sums, then the result), all steps in one call of
the kernels (normalization_kernels.py, normalization_scalars.py)."""

from .. import reference
from ..reference import Statistics
from .arithmetic import constants_of, pointwise
from .running import bits, channels_at, contiguous, empty, fits, rows_of, run, scratch, worth_streaming
from .training_step import COLUMN_BYTES, Function, Kind
from .training_step import Normalization as N

ROW = 64  # numbers of a row, at least, where there are rows enough to merge


def batch_statistics(x, axis=-1) -> Statistics:
    """Mean and biased variance a channel, from sums of the differences to the mean of the first few rows."""
    if not fits(x):
        return reference.batch_statistics(x, axis)
    rows = rows_of(x, axis)
    statistics, into = _statistics(rows)
    columns = _passes(rows) | into
    run((Kind.COLUMN_SUMS, columns), (Kind.MOMENTS, columns))
    return statistics


def normalize(x, gamma, beta, mean, variance, eps, axis=-1):
    """y = gamma (x - mean) / √(variance + eps) + beta: BN in evaluation, and the last step of BN in training."""
    if not _channels(x, axis, gamma, beta, mean, variance):
        return reference.normalize(x, gamma, beta, mean, variance, eps, axis)
    rows = rows_of(x, axis)
    y, columns = _columns(rows, eps, {N.MEAN: mean, N.VARIANCE: variance, N.GAMMA: gamma, N.BETA: beta})
    run((Kind.SCALES, columns), (Kind.NORMALIZE, columns))
    return channels_at(y, axis)


def normalize_backward(dy, x, gamma, mean, variance, eps, axis=-1):
    """dx = dy gamma/σ, dgamma = Σ dy x̂, dbeta = Σ dy: mean and variance are constants.  -> dx, dgamma, dbeta."""
    if not _channels(x, axis, gamma, mean, variance) or not fits(dy) or dy.shape != x.shape:
        return reference.normalize_backward(dy, x, gamma, mean, variance, eps, axis)
    return _backward(dy, x, gamma, mean, variance, eps, axis, 0.0)


def batch_norm(x, gamma, beta, eps, axis=-1):
    """BN in training: normalize with the batch's own statistics.  -> y, Statistics."""
    if not _channels(x, axis, gamma, beta):
        return reference.batch_norm(x, gamma, beta, eps, axis)
    return _batch_norm(x, gamma, beta, eps, axis)


def batch_norm_hardswish(x, gamma, beta, eps, axis=-1):
    """hardswish(batch_norm(x)) without writing the value between to memory.  -> y, Statistics."""
    if not _channels(x, axis, gamma, beta):
        y, statistics = reference.batch_norm(x, gamma, beta, eps, axis)
        return reference.hardswish(y), statistics
    return _batch_norm(x, gamma, beta, eps, axis, True)


def _batch_norm(x, gamma, beta, eps, axis, activated=False):
    rows = rows_of(x, axis)
    statistics, into = _statistics(rows)
    y, columns = _columns(rows, eps, {N.GAMMA: gamma, N.BETA: beta})
    columns |= into | {N.ACTIVATED: activated}
    run((Kind.COLUMN_SUMS, columns), (Kind.MOMENTS, columns), (Kind.SCALES, columns), (Kind.NORMALIZE, columns))
    return channels_at(y, axis), statistics


def batch_norm_backward(dy, x, gamma, statistics, eps, axis=-1):
    """With x̂ the normalized input: dx = gamma/σ (dy - mean(dy) - x̂ mean(dy x̂)); the two means are what
    flows through the batch's mean and variance.  -> dx, dgamma, dbeta."""
    mean, variance, count = statistics
    if not _channels(x, axis, gamma, mean, variance) or not fits(dy) or dy.shape != x.shape:
        return reference.batch_norm_backward(dy, x, gamma, statistics, eps, axis)
    return _backward(dy, x, gamma, mean, variance, eps, axis, 1 / count)


def batch_norm_hardswish_backward(dy, x, gamma, beta, statistics, eps, axis=-1):
    """hardswish_backward, whose x is recomputed, then batch_norm_backward.  -> dx, dgamma, dbeta."""
    mean, variance, count = statistics
    if not _channels(x, axis, gamma, beta, mean, variance) or not fits(dy) or dy.shape != x.shape:
        between = reference.normalize(x, gamma, beta, mean, variance, eps, axis)
        return reference.batch_norm_backward(reference.hardswish_backward(dy, between), x, gamma, statistics, eps, axis)
    return _backward(dy, x, gamma, mean, variance, eps, axis, 1 / count, beta)


def update_running(running, statistics, momentum):
    """running = (1 - momentum) running + momentum · the batch's, for mean and variance, the batch's variance unbiased.
    """
    mean, variance, count = statistics
    if not fits(*running, mean, variance) or any(a.shape != mean.shape for a in (*running, variance)):
        return reference.update_running(running, statistics, momentum)
    factors = 1.0, count / (count - 1)
    return tuple(pointwise(Function.BLEND, old, new, constants=constants_of(1 - momentum, momentum, factor))
                 for old, new, factor in zip(running, (mean, variance), factors))


def _backward(dy, x, gamma, mean, variance, eps, axis, share, beta=None):
    """share: 1 / count where mean and variance are the batch's own, 0 where they are constants.  beta: given where
    Hardswish follows."""
    rows, (dgamma, dbeta) = rows_of(x, axis), empty(2, len(gamma))
    arrays = {N.MEAN: mean, N.VARIANCE: variance, N.GAMMA: gamma}
    dx, columns = _columns(rows, eps, arrays if beta is None else arrays | {N.BETA: beta})
    columns |= {N.DY: rows_of(dy, axis), N.DGAMMA: dgamma, N.DBETA: dbeta, N.SHARE: bits(share),
                N.ACTIVATED: beta is not None}
    # With constants dx = dy gamma/σ: dy normalized. What else there is times 0 would spread a NaN to all images.
    last = (Kind.NORMALIZE_BACKWARD, columns) if share else (Kind.NORMALIZE, columns | {N.X: columns[N.DY]})
    run((Kind.SCALES, columns), (Kind.BACKWARD_SUMS, columns), (Kind.BACKWARD_SCALES, columns), last)
    return channels_at(dx, axis), dgamma, dbeta


def _channels(x, axis, *arrays):
    """Whether the kernels take x, and these arrays of one number a channel."""
    return fits(x, *arrays) and all(a.shape == (x.shape[axis],) for a in arrays)


def _statistics(x):
    """-> the Statistics of x (…, channels), which the step MOMENTS fills, and the columns that point to them."""
    mean, variance = empty(2, x.shape[-1])
    return Statistics(mean, variance, x.size // x.shape[-1]), {N.MEAN: mean, N.VARIANCE: variance}


def _passes(x) -> dict:
    """The columns that say how to pass over x (…, channels). Where channels are few, several rows are merged into one,
    so that a row has whole vectors and is worth a call."""
    channels, merged = x.shape[-1], 1
    rows = x.size // channels
    while channels * merged < ROW and rows % (2 * merged) == 0:
        merged *= 2
    return {N.X: x, N.ROWS: rows // merged, N.WIDTH: channels * merged, N.MERGED: merged,
            N.SCRATCH: scratch(COLUMN_BYTES * channels * merged)[0]}


def _columns(x, eps, arrays):
    """-> an array for the result, and the columns of the steps that compute it.  arrays: {column: one number a
    channel}."""
    y, columns = empty(*x.shape), _passes(x)
    columns |= {column: contiguous(a) for column, a in arrays.items()}
    return y, columns | {N.EPS: bits(eps), N.OUT: y, N.STREAM: worth_streaming(y, columns[N.WIDTH])}
