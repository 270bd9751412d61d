"""Batch normalization (Ioffe and Szegedy, arXiv 1502.03167) over all axes but the channels', and layer normalization
(Ba et al., arXiv 1607.06450) over the channels."""

from typing import NamedTuple

import numpy as np


class Statistics(NamedTuple):
    """What a batch looked like: mean and biased variance (C,), from `count` values a channel."""

    mean: np.ndarray
    variance: np.ndarray
    count: int


def _reduced(x, axis):
    """The axes that are summed over, and the shape that puts (C,) back beside x."""
    axis = axis % x.ndim
    return tuple(a for a in range(x.ndim) if a != axis), tuple(-1 if a == axis else 1 for a in range(x.ndim))


def batch_statistics(x, axis=-1) -> Statistics:
    """mean = Σ x / n, variance = Σ (x - mean)² / n: a channel at a time, in two passes (one cancels in float32).

    -> mean, variance, count."""
    axes, _ = _reduced(x, axis)
    count = x.size // x.shape[axis] if x.size else 0
    return Statistics(x.mean(axes), x.var(axes), count)


def normalize(x, gamma, beta, mean, variance, eps, axis=-1):
    """y = gamma (x - mean) / √(variance + eps) + beta: BN in evaluation, and the last step of BN in training.

    x any shape with C at `axis`; gamma, beta, mean, variance (C,)."""
    _, shape = _reduced(x, axis)
    scale = gamma / np.sqrt(variance + eps)
    return (x - mean.reshape(shape)) * scale.reshape(shape) + beta.reshape(shape)


def normalize_backward(dy, x, gamma, mean, variance, eps, axis=-1):
    """dx = dy gamma/σ, dgamma = Σ dy x̂, dbeta = Σ dy: mean and variance are constants here.

    σ = √(variance + eps), x̂ = (x - mean)/σ; dy as x, gamma, mean, variance (C,).  -> dx, dgamma, dbeta."""
    axes, shape = _reduced(x, axis)
    inverse_deviation = 1 / np.sqrt(variance + eps)
    normalized = (x - mean.reshape(shape)) * inverse_deviation.reshape(shape)
    return dy * (gamma * inverse_deviation).reshape(shape), (dy * normalized).sum(axes), dy.sum(axes)


def batch_norm(x, gamma, beta, eps, axis=-1):
    """y = gamma (x - mean(x)) / √(variance(x) + eps) + beta: BN in training, with the batch's own statistics.

    x any shape with C at `axis`; gamma, beta (C,).  -> y, Statistics."""
    statistics = batch_statistics(x, axis)
    return normalize(x, gamma, beta, statistics.mean, statistics.variance, eps, axis), statistics


def batch_norm_backward(dy, x, gamma, statistics, eps, axis=-1):
    """dx = gamma/σ (dy - mean(dy) - x̂ mean(dy x̂)), dgamma = Σ dy x̂, dbeta = Σ dy.

    σ and x̂ as in normalize_backward, of the batch's statistics; the two means are what flows through the batch's mean
    and variance.  dy and x any shape with C at `axis`, gamma (C,).  -> dx, dgamma, dbeta."""
    axes, shape = _reduced(x, axis)
    inverse_deviation = 1 / np.sqrt(statistics.variance + eps)
    normalized = (x - statistics.mean.reshape(shape)) * inverse_deviation.reshape(shape)
    dgamma, dbeta = (dy * normalized).sum(axes), dy.sum(axes)
    through = (dbeta.reshape(shape) + normalized * dgamma.reshape(shape)) / statistics.count
    return (dy - through) * (gamma * inverse_deviation).reshape(shape), dgamma, dbeta


def update_running(running, statistics, momentum):
    """running = (1 - momentum) running + momentum · the batch's: mean and variance, its variance unbiased.

    Unbiased, n / (n - 1), as in PyTorch.  -> mean, variance."""
    mean, variance = running
    unbiased = statistics.variance * (statistics.count / (statistics.count - 1))
    return (1 - momentum) * mean + momentum * statistics.mean, (1 - momentum) * variance + momentum * unbiased


def layer_norm(x, gamma, beta, eps):
    """y = gamma (x - mean) / √(variance + eps) + beta: mean and variance are each token's own, over its channels.

    x (..., C), gamma and beta (C,)."""
    centred = x - x.mean(-1, keepdims=True)
    return gamma * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) + beta


def layer_norm_backward(dy, x, gamma, eps):
    """dx = (dx̂ - mean(dx̂) - x̂ mean(dx̂ x̂)) / σ with dx̂ = gamma dy, dgamma = Σ dy x̂, dbeta = Σ dy.

    σ = √(variance + eps), x̂ = (x - mean)/σ; the means go over a token's channels, the sums over all tokens.
    -> dx, dgamma, dbeta."""
    centred = x - x.mean(-1, keepdims=True)
    inverse_deviation = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    normalized = centred * inverse_deviation
    dnormalized = dy * gamma
    through = dnormalized.mean(-1, keepdims=True) + normalized * (dnormalized * normalized).mean(-1, keepdims=True)
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * normalized).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return (dnormalized - through) * inverse_deviation, dgamma, dbeta
