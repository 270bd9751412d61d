"""The linear map, on the last axis of any array."""


def linear(x, w, b=None):
    """y = x wᵀ + b.  x (..., C), w (O, C), b (O,) -> y (..., O)."""
    y = x @ w.T
    return y if b is None else y + b


def linear_backward(dy, x, w):
    """dx = dy w, dw = dyᵀ x.  dy (..., O), x (..., C), w (O, C) -> dx (..., C), dw (O, C)."""
    dx = dy @ w
    dw = dy.reshape(-1, w.shape[0]).T @ x.reshape(-1, w.shape[1])
    return dx, dw


def bias_backward(dy):
    """db = Σ dy over all axes but the last: the same b was added at every position."""
    return dy.reshape(-1, dy.shape[-1]).sum(0)
