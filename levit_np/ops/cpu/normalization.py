"""Batch normalization in two passes over the data each way, sums and what they give, all in one call of the kernels."""

from .. import reference
from ..reference import Statistics
from .arithmetic import constants_of, each
from .running import bits, channels_at, contiguous, empty, fits, past_caches, rows_of, run, scratch
from .training_step import COLUMN_BYTES, Function, Kind
from .training_step import Normalization as N

ROW = 64  # numbers of a row at least, where there are rows enough


def batch_statistics(x, axis=-1) -> Statistics:
    """Mean and biased variance a channel, from sums of the differences to a mean of a few rows."""
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
    """hardswish(batch_norm(x)): what stands between is neither written to memory nor read.  -> y, Statistics."""
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
    """batch_norm_backward after hardswish_backward, whose x is computed again.  -> dx, dgamma, dbeta."""
    mean, variance, count = statistics
    if not _channels(x, axis, gamma, beta, mean, variance) or not fits(dy) or dy.shape != x.shape:
        between = reference.normalize(x, gamma, beta, mean, variance, eps, axis)
        return reference.batch_norm_backward(reference.hardswish_backward(dy, between), x, gamma, statistics, eps, axis)
    return _backward(dy, x, gamma, mean, variance, eps, axis, 1 / count, beta)


def update_running(running, statistics, momentum):
    """running = (1 - momentum) running + momentum · the batch's: mean and variance, its variance unbiased."""
    mean, variance, count = statistics
    if not fits(*running, mean, variance) or any(a.shape != mean.shape for a in (*running, variance)):
        return reference.update_running(running, statistics, momentum)
    factors = 1.0, count / (count - 1)
    return tuple(each(Function.BLEND, old, new, constants=constants_of(1 - momentum, momentum, factor))
                 for old, new, factor in zip(running, (mean, variance), factors))


def _backward(dy, x, gamma, mean, variance, eps, axis, share, beta=None):
    """share: 1 / count where mean and variance are the batch's own, 0 where they are constants; beta where Hardswish
    comes after it."""
    rows, (dgamma, dbeta) = rows_of(x, axis), empty(2, len(gamma))
    arrays = {N.MEAN: mean, N.VARIANCE: variance, N.GAMMA: gamma}
    dx, columns = _columns(rows, eps, arrays if beta is None else arrays | {N.BETA: beta})
    columns |= {N.DY: rows_of(dy, axis), N.DGAMMA: dgamma, N.DBETA: dbeta, N.SHARE: bits(share),
                N.ACTIVATED: beta is not None}
    run((Kind.SCALES, columns), (Kind.BACKWARD_SUMS, columns), (Kind.THROUGH, columns),
        (Kind.NORMALIZE_BACKWARD, columns))
    return channels_at(dx, axis), dgamma, dbeta


def _channels(x, axis, *arrays):
    """Whether the kernels may be trusted with x and a number a channel in each of the arrays."""
    return fits(x, *arrays) and all(a.shape == (x.shape[axis],) for a in arrays)


def _statistics(x):
    """-> the statistics of x (…, channels), for MOMENTS to fill, and the columns that tell it where they are."""
    mean, variance = empty(2, x.shape[-1])
    return Statistics(mean, variance, x.size // x.shape[-1]), {N.MEAN: mean, N.VARIANCE: variance}


def _passes(x) -> dict:
    """The columns that say how x (…, channels) is gone through.  Where channels are few, several rows count as one, so
    that a row has whole vectors and is worth a call."""
    channels, beside = x.shape[-1], 1
    rows = x.size // channels
    while channels * beside < ROW and rows % (2 * beside) == 0:
        beside *= 2
    return {N.X: x, N.ROWS: rows // beside, N.WIDTH: channels * beside, N.BESIDE: beside,
            N.SCRATCH: scratch(COLUMN_BYTES * channels * beside)[0]}


def _columns(x, eps, arrays):
    """-> an array for the result, and the columns of the steps to it; arrays: {column: a number a channel}."""
    y, columns = empty(*x.shape), _passes(x)
    columns |= {column: contiguous(a) for column, a in arrays.items()}
    return y, columns | {N.EPS: bits(eps), N.OUT: y, N.PAST: past_caches(y, columns[N.WIDTH])}
