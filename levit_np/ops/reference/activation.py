"""Pointwise activations, for which dx = dy · y'(x), and softmax.

Hardswish: Howard et al., arXiv 1905.02244; SiLU: Elfwing et al., arXiv 1702.03118.
"""

import numpy as np


def hardswish(x):
    """y = x · clip(x + 3, 0, 6) / 6: SiLU with a piecewise-linear sigmoid, so no exponential."""
    return x * np.clip(x + 3, 0, 6) / 6


def hardswish_backward(dy, x):
    """dx = dy · y'(x), y' = 0 below -3, 1 above 3, (2x + 3) / 6 between: there y = (x² + 3x) / 6."""
    return dy * np.where(x <= -3, 0, np.where(x >= 3, 1, (2 * x + 3) / 6))


def _sigmoid(x):
    # 1 / (1 + exp(-x)), written with tanh, which does not overflow for large |x|.
    return 0.5 * (1 + np.tanh(0.5 * x))


def silu(x):
    """y = x · sigmoid(x)."""
    return x * _sigmoid(x)


def silu_backward(dy, x):
    """dx = dy · s (1 + x (1 - s)) with s = sigmoid(x): the product rule, with s' = s (1 - s)."""
    s = _sigmoid(x)
    return dy * s * (1 + x * (1 - s))


def identity(x):
    """y = x: no activation (ablation A7)."""
    return x


def identity_backward(dy, x):
    """dx = dy."""
    return dy


def softmax(x):
    """y = exp(x) / Σ exp(x) over the last axis: the maximum is subtracted first, which cancels and avoids overflow."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_backward(dy, y):
    """dx = y (dy - Σ dy y): y is softmax(x), and Σ runs over the last axis.

    From ∂y_j/∂x_i = y_j ([i = j] - y_i):  dx_i = Σ_j dy_j ∂y_j/∂x_i = y_i (dy_i - Σ_j dy_j y_j)."""
    return y * (dy - (dy * y).sum(-1, keepdims=True))
