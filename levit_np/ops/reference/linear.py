"""The linear map, applied to the last axis of an array with any number of axes."""


def linear(x, w, b=None):
    """y = x wᵀ + b.  x (..., C), w (O, C), b (O,) -> y (..., O)."""
    y = x @ w.T
    return y if b is None else y + b


def linear_backward(dy, x, w):
    """dx = dy w, dw = dyᵀ x.  dy (..., O), x (..., C), w (O, C) -> dx (..., C), dw (O, C).

    From y_o = Σ_c w_oc x_c at each position:  dx_c = Σ_o dy_o w_oc, and dw_oc = dy_o x_c summed over the positions."""
    dx = dy @ w
    dw = dy.reshape(-1, w.shape[0]).T @ x.reshape(-1, w.shape[1])
    return dx, dw


def bias_backward(dy):
    """db = Σ dy over all axes but the last: b was added at every position.  dy (..., O) -> db (O,)."""
    return dy.reshape(-1, dy.shape[-1]).sum(0)
