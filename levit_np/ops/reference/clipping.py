"""Adaptive gradient clipping (Brock et al., arXiv 2102.06171, section 4.1), one parameter at a time."""

import numpy as np

EPS = 1e-3  # floor of a parameter's norm: what is still zero can move
LEAST = 1e-6  # floor of a gradient's norm, which is divided by


def squared_norm(*tensors):
    """Σ x² over all tensors, a float; infinite or NaN as soon as any of them is."""
    return sum(float(np.vdot(x, x)) for x in tensors)


def unit_norms(x):
    """‖x‖ of each output unit, (O, 1, …) for x (O, …); of a vector or a number as a whole."""
    axes = tuple(range(1, x.ndim)) or None
    return np.sqrt((x * x).sum(axes, keepdims=x.ndim > 1))


def clip_adaptively(gradient, parameter, factor=0.01, eps=EPS, out=None):
    """g · λ max(‖w‖, ε) / ‖g‖ where ‖g‖ exceeds λ max(‖w‖, ε), else g: a norm for each output unit.

    g: the gradient, w: the parameter, λ: factor, ε: eps.  A new array, or `out`."""
    largest = factor * np.maximum(unit_norms(parameter), eps)
    norms = unit_norms(gradient)
    scale = np.where(norms < largest, 1, largest / np.maximum(norms, LEAST))
    return np.multiply(gradient, scale.astype(gradient.dtype, copy=False), out=out)
