"""Batch normalization in two passes over the data each way: sums, then what they give."""

import numpy as np

from .. import reference
from ..reference import Statistics
from .running import channels_at, empty, fits, past_caches, rows_of, run
from .training_step import Kind, Normalization

ROW = 64  # numbers of a row at least, where there are rows enough
FIRST = 16  # rows whose mean stands near the mean of all, so that the variance's sum of squares does not cancel


def batch_statistics(x, axis=-1) -> Statistics:
    """Mean and biased variance a channel, from sums of the differences to a mean of a few rows."""
    if not fits(x):
        return reference.batch_statistics(x, axis)
    return _statistics(rows_of(x, axis))


def _channels(x, axis, *arrays):
    """Whether the kernels may be trusted with x and a number a channel in each of the arrays."""
    return fits(x, *arrays) and all(a.shape == (x.shape[axis],) for a in arrays)


def _statistics(x):
    channels = x.shape[-1]
    count, rows = x.size // channels, x.reshape(-1, channels)
    some = rows[:FIRST]
    near = np.add.reduce(some) / np.float32(len(some))
    sums, squares = _totals(Kind.STATISTICS, x, near)
    offset = sums / count
    variance = np.maximum(squares / count - offset**2, 0)
    return Statistics((near + offset).astype(np.float32), variance.astype(np.float32), count)


def _totals(kind, x, centre, dy=None, activation=()):
    """Two float64 totals a channel over all rows of x (…, channels): see step.Normalization.  activation: the scale and
    shift before Hardswish."""
    columns, (centre, *activation) = _columns(x, centre, *activation)
    totals, n = np.zeros((2, columns[Normalization.CHANNELS])), Normalization
    run((kind, columns | {n.MEAN: centre.ctypes.data, n.TOTALS: totals.ctypes.data,
                          n.DY: 0 if dy is None else dy.ctypes.data}
         | {column: a.ctypes.data for column, a in zip((n.A, n.D), activation)}))
    return totals if totals.shape[1] == x.shape[-1] else totals.reshape(2, -1, x.shape[-1]).sum(1)


def _columns(x, *arrays):
    """A step's columns for x (…, channels), and its arrays of a number a channel.  Where channels are few, several rows
    count as one, so that a row has whole vectors and is worth a call."""
    n, channels = Normalization, x.shape[-1]
    rows, beside = x.size // channels, 1
    while channels * beside < ROW and rows % (2 * beside) == 0:
        beside *= 2
    arrays = [np.ascontiguousarray(a, np.float32) for a in arrays]
    if beside > 1:
        arrays = [np.tile(a, beside) for a in arrays]
    return {n.ROWS: rows // beside, n.CHANNELS: channels * beside, n.X: x.ctypes.data}, arrays


def normalize(x, gamma, beta, mean, variance, eps, axis=-1):
    """y = gamma (x - mean) / √(variance + eps) + beta: BN in evaluation, and the last step of BN in training."""
    if not _channels(x, axis, gamma, beta, mean, variance):
        return reference.normalize(x, gamma, beta, mean, variance, eps, axis)
    return channels_at(_normalized(rows_of(x, axis), gamma, beta, mean, variance, eps), axis)


def _normalized(x, gamma, beta, mean, variance, eps, activated=False):
    y, n = empty(*x.shape), Normalization
    columns, arrays = _columns(x, mean, gamma / np.sqrt(variance + np.float32(eps)), beta)
    run((Kind.NORMALIZE, columns | {n.OUT: y.ctypes.data, n.PAST: past_caches(y, columns[n.CHANNELS]),
                                    n.ACTIVATED: activated}
         | {n.MEAN + i: a.ctypes.data for i, a in enumerate(arrays)}))
    return y


def normalize_backward(dy, x, gamma, mean, variance, eps, axis=-1):
    """Mean and variance are constants here.  -> dx, dgamma, dbeta."""
    if not _channels(x, axis, gamma, mean, variance) or not fits(dy) or dy.shape != x.shape:
        return reference.normalize_backward(dy, x, gamma, mean, variance, eps, axis)
    return _backward(dy, x, gamma, mean, variance, eps, axis, 0)


def batch_norm(x, gamma, beta, eps, axis=-1):
    """BN in training: normalize with the batch's own statistics.  -> y, Statistics."""
    if not _channels(x, axis, gamma, beta):
        return reference.batch_norm(x, gamma, beta, eps, axis)
    return _batch_norm(x, gamma, beta, eps, axis)


def _batch_norm(x, gamma, beta, eps, axis, activated=False):
    rows = rows_of(x, axis)
    statistics = _statistics(rows)
    y = _normalized(rows, gamma, beta, statistics.mean, statistics.variance, eps, activated)
    return channels_at(y, axis), statistics


def batch_norm_hardswish(x, gamma, beta, eps, axis=-1):
    """hardswish(batch_norm(x)): what stands between is neither written to memory nor read.  -> y, Statistics."""
    if not _channels(x, axis, gamma, beta):
        y, statistics = reference.batch_norm(x, gamma, beta, eps, axis)
        return reference.hardswish(y), statistics
    return _batch_norm(x, gamma, beta, eps, axis, True)


def batch_norm_hardswish_backward(dy, x, gamma, beta, statistics, eps, axis=-1):
    """batch_norm_backward after hardswish_backward, whose x is computed again.  -> dx, dgamma, dbeta."""
    mean, variance, count = statistics
    if not _channels(x, axis, gamma, beta, mean, variance) or not fits(dy) or dy.shape != x.shape:
        between = reference.normalize(x, gamma, beta, mean, variance, eps, axis)
        return reference.batch_norm_backward(reference.hardswish_backward(dy, between), x, gamma, statistics, eps, axis)
    return _backward(dy, x, gamma, mean, variance, eps, axis, 1 / count, beta)


def batch_norm_backward(dy, x, gamma, statistics, eps, axis=-1):
    """With x̂ the normalized input: dx = gamma/σ (dy - mean(dy) - x̂ mean(dy x̂)); the two means are what
    flows through the batch's mean and variance.  -> dx, dgamma, dbeta."""
    if not _channels(x, axis, gamma, *statistics[:2]) or not fits(dy) or dy.shape != x.shape:
        return reference.batch_norm_backward(dy, x, gamma, statistics, eps, axis)
    return _backward(dy, x, gamma, statistics.mean, statistics.variance, eps, axis, 1 / statistics.count)


def _backward(dy, x, gamma, mean, variance, eps, axis, through, beta=None):
    """through: 1 / count where mean and variance are the batch's own, 0 where they are constants; beta where Hardswish
    comes after it."""
    dy, x, n = rows_of(dy, axis), rows_of(x, axis), Normalization
    deviation = 1 / np.sqrt(variance.astype(np.float64) + eps)
    scale, shift = gamma * deviation, () if beta is None else (beta,)
    dbeta, products = _totals(Kind.BACKWARD_SUMS, x, mean, dy, (scale, *shift) if shift else ())
    dgamma, dx = products * deviation, empty(*x.shape)
    columns, arrays = _columns(x, mean, scale, dbeta * through, dgamma * deviation * through, *shift)
    run((Kind.NORMALIZE_BACKWARD, columns | {
        n.DY: dy.ctypes.data, n.OUT: dx.ctypes.data, n.PAST: past_caches(dx, columns[n.CHANNELS])}
         | {n.MEAN + i: a.ctypes.data for i, a in enumerate(arrays)}))
    return channels_at(dx, axis), dgamma.astype(np.float32), dbeta.astype(np.float32)
