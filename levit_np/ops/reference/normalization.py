"""Batch normalization (Ioffe and Szegedy, arXiv 1502.03167), which normalizes each channel over the batch and all
positions, and layer normalization (Ba et al., arXiv 1607.06450), which normalizes each token over its channels.

Throughout, σ = √(variance + eps) and x̂ = (x - mean) / σ, so that y = gamma x̂ + beta.
"""

from typing import NamedTuple

import numpy as np


class Statistics(NamedTuple):
    """Mean and biased variance (C,) of a batch, each channel's from `count` values."""

    mean: np.ndarray
    variance: np.ndarray
    count: int


def _reduced(x, axis):
    """The axes to sum over, all but `axis`, and the shape in which a (C,) array broadcasts against x."""
    axis = axis % x.ndim
    return tuple(a for a in range(x.ndim) if a != axis), tuple(-1 if a == axis else 1 for a in range(x.ndim))


def batch_statistics(x, axis=-1) -> Statistics:
    """mean = Σ x / n, variance = Σ (x - mean)² / n: per channel, in two passes.

    One pass, mean(x²) - mean², loses its digits to cancellation in float32.  -> mean, variance, count."""
    axes, _ = _reduced(x, axis)
    count = x.size // x.shape[axis] if x.size else 0
    return Statistics(x.mean(axes), x.var(axes), count)


def normalize(x, gamma, beta, mean, variance, eps, axis=-1):
    """y = gamma (x - mean) / √(variance + eps) + beta: BN in evaluation, and the last step of BN in training.

    x: any shape with C at `axis`; gamma, beta, mean, variance (C,)."""
    _, shape = _reduced(x, axis)
    scale = gamma / np.sqrt(variance + eps)
    return (x - mean.reshape(shape)) * scale.reshape(shape) + beta.reshape(shape)


def normalize_backward(dy, x, gamma, mean, variance, eps, axis=-1):
    """dx = dy gamma/σ, dgamma = Σ dy x̂, dbeta = Σ dy: mean and variance are constants here, the running statistics.

    σ = √(variance + eps), x̂ = (x - mean)/σ; dy shaped as x; gamma, mean, variance (C,).  -> dx, dgamma, dbeta."""
    axes, shape = _reduced(x, axis)
    inverse_deviation = 1 / np.sqrt(variance + eps)
    normalized = (x - mean.reshape(shape)) * inverse_deviation.reshape(shape)  # x̂
    return dy * (gamma * inverse_deviation).reshape(shape), (dy * normalized).sum(axes), dy.sum(axes)


def batch_norm(x, gamma, beta, eps, axis=-1):
    """y = gamma (x - mean(x)) / √(variance(x) + eps) + beta: BN in training, with the batch's own statistics.

    x: any shape with C at `axis`; gamma, beta (C,).  -> y, Statistics."""
    statistics = batch_statistics(x, axis)
    return normalize(x, gamma, beta, statistics.mean, statistics.variance, eps, axis), statistics


def batch_norm_backward(dy, x, gamma, statistics, eps, axis=-1):
    """dx = gamma/σ (dy - mean(dy) - x̂ mean(dy x̂)), dgamma = Σ dy x̂, dbeta = Σ dy.

    dy and x: any shape with C at `axis`; gamma (C,).  -> dx, dgamma, dbeta.

    In a channel of n values, mean and variance depend on every x_i: ∂mean/∂x_i = 1/n and ∂σ/∂x_i = x̂_i/n. Hence
    ∂x̂_j/∂x_i = ([i = j] - 1/n - x̂_i x̂_j/n) / σ, and dx_i = Σ_j gamma dy_j ∂x̂_j/∂x_i is the formula above: the two
    means are the paths through the batch's mean and variance."""
    axes, shape = _reduced(x, axis)
    inverse_deviation = 1 / np.sqrt(statistics.variance + eps)
    normalized = (x - statistics.mean.reshape(shape)) * inverse_deviation.reshape(shape)  # x̂
    dgamma, dbeta = (dy * normalized).sum(axes), dy.sum(axes)
    through = (dbeta.reshape(shape) + normalized * dgamma.reshape(shape)) / statistics.count
    return (dy - through) * (gamma * inverse_deviation).reshape(shape), dgamma, dbeta


def update_running(running, statistics, momentum):
    """running = (1 - momentum) running + momentum · batch: for mean and variance.

    The batch's variance is made unbiased by n / (n - 1), as in PyTorch.  -> mean, variance."""
    mean, variance = running
    unbiased = statistics.variance * (statistics.count / (statistics.count - 1))
    return (1 - momentum) * mean + momentum * statistics.mean, (1 - momentum) * variance + momentum * unbiased


def layer_norm(x, gamma, beta, eps):
    """y = gamma (x - mean) / √(variance + eps) + beta: each token has its own mean and variance, over its channels.

    x (..., C), gamma and beta (C,)."""
    centred = x - x.mean(-1, keepdims=True)
    return gamma * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) + beta


def layer_norm_backward(dy, x, gamma, eps):
    """dx = (dx̂ - mean(dx̂) - x̂ mean(dx̂ x̂)) / σ with dx̂ = gamma dy, dgamma = Σ dy x̂, dbeta = Σ dy.

    The derivation is batch_norm_backward's, with means over a token's channels; gamma differs between these, so it
    stays inside the means. The sums run over all tokens.  -> dx, dgamma, dbeta."""
    centred = x - x.mean(-1, keepdims=True)
    inverse_deviation = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    normalized = centred * inverse_deviation  # x̂
    dnormalized = dy * gamma
    through = dnormalized.mean(-1, keepdims=True) + normalized * (dnormalized * normalized).mean(-1, keepdims=True)
    rows = (-1, x.shape[-1])
    dgamma, dbeta = (dy * normalized).reshape(rows).sum(0), dy.reshape(rows).sum(0)
    return (dnormalized - through) * inverse_deviation, dgamma, dbeta
