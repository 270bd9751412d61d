"""All the algebra of folding BatchNorm at inference, once.

In evaluation BN is y = scale · x + shift a channel, with scale = gamma / √(variance + eps) and shift = beta - mean ·
scale. That is linear, so it folds into the linear map before or after it. Everything is computed in float64 and rounded
once."""

import numpy as np


def scale_and_shift(bn):
    """(scale, shift), float64 (C,), of a BatchNorm layer."""
    gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in (bn.gamma, bn.beta, bn.mean, bn.variance))
    scale = gamma / np.sqrt(variance + bn.eps)
    return scale, beta - mean * scale


def fold_after(weight, bn):
    """BN(w x) = (scale w) x + shift.  weight (O, ...) of a linear map or a convolution -> weight, bias (O,)."""
    scale, shift = scale_and_shift(bn)
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), shift


def fold_before(bn, weight, bias):
    """w BN(x) + b = (w scale) x + (b + w shift).  weight (O, C), bias (O,) -> weight, bias."""
    scale, shift = scale_and_shift(bn)
    return weight * scale, bias + weight @ shift


def average_heads(first, second):
    """(w₁ x + b₁ + w₂ x + b₂) / 2: two classifiers (weight, bias) averaged into one."""
    return tuple((a + b) / 2 for a, b in zip(first, second))


def stack_heads(first, second):
    """(w₁ x + b₁, w₂ x + b₂): two classifiers (weight, bias) stacked into one."""
    return tuple(np.concatenate(pair) for pair in zip(first, second))


def group_by_role(array, heads, sizes):
    """Reorders rows from [q k v] of head 0, of head 1, … to all heads' q, all k, all v.  array (ΣO, ...)."""
    parts = np.split(array.reshape(heads, sum(sizes), *array.shape[1:]), np.cumsum(sizes)[:-1], axis=1)
    return np.concatenate([part.reshape(-1, *array.shape[1:]) for part in parts])
