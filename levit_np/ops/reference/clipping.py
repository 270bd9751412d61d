"""Adaptive gradient clipping (Brock et al., arXiv 2102.06171, section 4): limits each gradient's norm relative to the
norm of the weights that it updates."""

import numpy as np

EPS = 1e-3  # lower bound of ‖w‖: otherwise a weight that starts at zero could never move
LEAST = 1e-6  # lower bound of ‖g‖ where it divides


def squared_norm(*tensors):
    """Σ x² over all tensors, a float; infinite or NaN if any element is."""
    return sum(float(np.vdot(x, x)) for x in tensors)


def unit_norms(x):
    """‖x‖ of each output unit, (O, 1, …) for x (O, …); a vector or a scalar is one unit."""
    axes = tuple(range(1, x.ndim)) or None
    return np.sqrt((x * x).sum(axes, keepdims=x.ndim > 1))


def clip_adaptively(gradient, parameter, factor=0.01, eps=EPS, out=None):
    """g · λ max(‖w‖, ε) / ‖g‖ where ‖g‖ exceeds λ max(‖w‖, ε), else g: norms are taken over each output unit.

    g: the gradient, w: the parameter, λ: factor, ε: eps.  Returns a new array, or `out`."""
    largest = factor * np.maximum(unit_norms(parameter), eps)
    norms = unit_norms(gradient)
    scale = np.where(norms < largest, 1, largest / np.maximum(norms, LEAST))
    return np.multiply(gradient, scale.astype(gradient.dtype, copy=False), out=out)
