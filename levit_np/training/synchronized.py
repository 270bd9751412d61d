"""Synchronized BN, with statistics over the batches of all ranks: replaces the operations of the BN layers."""

import numpy as np

from ..layers.normalization import BatchNorm
from ..ops.reference import Statistics
from .collective import collected, summed


def synchronize(model, communicator) -> None:
    """From now on every BN of the model normalizes with the statistics over all ranks' batches."""
    for _, layer in model.walk():
        if isinstance(layer, BatchNorm):
            layer.ops = _Synchronized(layer.ops, communicator)


class _Synchronized:
    """A backend's operations, except that BN in training sums over all ranks."""

    def __init__(self, ops, communicator):
        self._ops, self._communicator = ops, communicator

    def __getattr__(self, name):
        return getattr(self._ops, name)

    def batch_norm(self, x, gamma, beta, eps, axis=-1):
        """As the backend's, with the mean and variance over all ranks' values.  -> y, Statistics."""
        found = merged(self._gathered(self._ops.batch_statistics(x, axis)), gamma.dtype)
        statistics = Statistics(*map(self._ops.asarray, found[:2]), found.count)
        return self._ops.normalize(x, gamma, beta, statistics.mean, statistics.variance, eps, axis), statistics

    def batch_norm_backward(self, dy, x, gamma, statistics, eps, axis=-1):
        """dx = gamma/σ (dy - mean(dy) - x̂ mean(dy x̂)), with both means over all ranks.  -> dx, and this rank's own
        dgamma and dbeta, which the reduction of the gradients sums later.

        The first term is normalize_backward's; the other two have the form gamma' x̂ + beta', a normalize of x."""
        mean, variance = statistics.mean, statistics.variance
        dx, dgamma, dbeta = self._ops.normalize_backward(dy, x, gamma, mean, variance, eps, axis)
        sums = summed(self._communicator, np.array([self._ops.to_host(d) for d in (dgamma, dbeta)], np.float64))
        scale = gamma / np.sqrt(variance + eps) / statistics.count
        through = ((scale * self._ops.asarray(total)).astype(gamma.dtype) for total in sums)
        return dx - self._ops.normalize(x, *through, mean, variance, eps, axis), dgamma, dbeta

    def batch_norm_hardswish(self, x, gamma, beta, eps, axis=-1):
        """hardswish(batch_norm(x)): see Activation.join.  -> y, Statistics."""
        y, statistics = self.batch_norm(x, gamma, beta, eps, axis)
        return self._ops.hardswish(y), statistics

    def batch_norm_hardswish_backward(self, dy, x, gamma, beta, statistics, eps, axis=-1):
        """-> dx, this rank's dgamma and dbeta."""
        y = self._ops.normalize(x, gamma, beta, statistics.mean, statistics.variance, eps, axis)
        return self.batch_norm_backward(self._ops.hardswish_backward(dy, y), x, gamma, statistics, eps, axis)

    def _gathered(self, own):
        """The statistics of all ranks, in their order, so that every rank computes the same bits from them."""
        channels = len(own.mean)
        mean, variance = (self._ops.to_host(array) for array in own[:2])
        rows = collected(self._communicator, np.concatenate([mean, variance, [own.count]]))
        return [Statistics(row[:channels], row[channels:-1], int(row[-1])) for row in rows]


def merged(parts, dtype) -> Statistics:
    """The statistics of all values, from those of each part: the variance is the mean variance within the parts plus
    the variance of their means (which avoids a difference of large squares)."""
    count = sum(part.count for part in parts)
    mean = sum(part.count * part.mean for part in parts) / count
    variance = sum(part.count * (part.variance + (part.mean - mean) ** 2) for part in parts) / count
    return Statistics(mean.astype(dtype), variance.astype(dtype), count)
