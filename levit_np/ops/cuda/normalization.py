"""Batch normalization over all axes but the channels', and layer normalization over the channels. Statistics, gamma and
beta are float32 whatever x is."""

from ..reference import Statistics
from .activation import HARDSWISH, IDENTITY
from .device import arrays, launch
from .geometry import COLUMN_THREADS, ceil_div, chunk_of, columns_for
from .kernel import Kernel
from .operands import contiguous, element_of
from .reduction import sum_columns, sum_parts

THREADS = 128
JOINED, JOINERS = 8, 32  # channels of a block of join_statistics, and threads for each
TOKENS = 4  # tokens of a block of layer normalization, a warp each


def batch_statistics(x, axis=-1) -> Statistics:
    """Mean and biased variance a channel: of a few rows at a time in two passes, then joined."""
    return _statistics(_rows(x, axis))


def _statistics(x):
    rows, channels = x.shape
    columns = columns_for(rows, channels, chunk_of(element_of(x)))
    parts = arrays().empty((columns.parts, 2, channels), "float32")
    mean, variance = arrays().empty((channels,), "float32"), arrays().empty((channels,), "float32")
    _launch("batch_statistics", x, columns, (x, parts, rows, channels, columns.length), True)
    launch(Kernel("normalization", "join_statistics"), (ceil_div(channels, JOINED),), (JOINED, JOINERS),
           (parts, mean, variance, columns.parts, rows, channels, columns.length), JOINED * JOINERS * 8)
    return Statistics(mean, variance, rows)


def normalize(x, gamma, beta, mean, variance, eps, axis=-1):
    """y = gamma (x - mean) / √(variance + eps) + beta: BN in evaluation, and the last step of BN in training."""
    rows = _rows(x, axis)
    return _back(_normalized(rows, gamma, beta, mean, variance, eps), x, axis)


def _normalized(x, gamma, beta, mean, variance, eps, activation=IDENTITY):
    y = arrays().empty(x.shape, x.dtype)
    if y.size:
        columns = columns_for(*x.shape, chunk_of(element_of(x)))
        _launch("normalize", x, columns,
                (x, *_floats(gamma, beta, mean, variance), y, *x.shape, columns.length, float(eps)),
                activation=activation)
    return y


def normalize_backward(dy, x, gamma, mean, variance, eps, axis=-1):
    """The backward where mean and variance are constants.  -> dx, dgamma, dbeta."""
    return _backward(dy, x, gamma, mean, variance, eps, axis, 0.0)


def batch_norm(x, gamma, beta, eps, axis=-1):
    """BN in training: normalize with the batch's own statistics.  -> y, Statistics."""
    return _batch_norm(x, gamma, beta, eps, axis, IDENTITY)


def batch_norm_hardswish(x, gamma, beta, eps, axis=-1):
    """hardswish(batch_norm(x)) without writing the value between to memory.  -> y, Statistics."""
    return _batch_norm(x, gamma, beta, eps, axis, HARDSWISH)


def _batch_norm(x, gamma, beta, eps, axis, activation):
    rows = _rows(x, axis)
    statistics = _statistics(rows)
    return _back(_normalized(rows, gamma, beta, *statistics[:2], eps, activation), x, axis), statistics


def batch_norm_backward(dy, x, gamma, statistics, eps, axis=-1):
    """With x̂ the normalized input: dx = gamma/σ (dy - mean(dy) - x̂ mean(dy x̂)); the two means are what
    flows through the batch's mean and variance.  -> dx, dgamma, dbeta."""
    return _backward(dy, x, gamma, *statistics[:2], eps, axis, 1.0 / statistics.count)


def batch_norm_hardswish_backward(dy, x, gamma, beta, statistics, eps, axis=-1):
    """hardswish_backward, whose x is recomputed, then batch_norm_backward.  -> dx, dgamma, dbeta."""
    return _backward(dy, x, gamma, *statistics[:2], eps, axis, 1.0 / statistics.count, beta)


def _backward(dy, x, gamma, mean, variance, eps, axis, through, beta=None):
    """through: 1 / count where mean and variance are the batch's own, 0 where they are constants; beta: given where
    Hardswish follows."""
    rows, dy = _rows(x, axis), _rows(dy.astype(x.dtype, copy=False), axis)
    count, channels = rows.shape
    dx = arrays().empty(rows.shape, x.dtype)
    if not dx.size:
        return _back(dx, x, axis), arrays().zeros((channels,), "float32"), arrays().zeros((channels,), "float32")
    columns = columns_for(count, channels, chunk_of(element_of(x)))
    parts = arrays().empty((columns.parts, 2, channels), "float32")
    activation = IDENTITY if beta is None else HARDSWISH
    gamma, mean, variance = _floats(gamma, mean, variance)
    inputs = dy, rows, gamma, beta if beta is None else contiguous(beta, "float32"), mean, variance
    sizes = count, channels, columns.length, float(eps)
    _launch("normalize_backward_sums", x, columns, (*inputs, parts, *sizes), True, activation)
    sums = sum_parts(parts)
    _launch("normalize_backward", x, columns, (*inputs, sums, dx, *sizes, float(through)), activation=activation)
    return _back(dx, x, axis), sums[0], sums[1]


def update_running(running, statistics, momentum):
    """running = (1 - momentum) running + momentum · the batch's, its variance unbiased.  -> mean, variance."""
    channels, count = len(statistics.mean), statistics.count
    found = tuple(arrays().empty((channels,), "float32") for _ in "12")
    launch(Kernel("normalization", "update_running"), (ceil_div(channels, THREADS),), (THREADS,),
           (*_floats(*running, *statistics[:2]), *found, channels, float(momentum), count / (count - 1)))
    return found


def layer_norm(x, gamma, beta, eps):
    """y = gamma (x - mean) / √(variance + eps) + beta: mean and variance are each token's own.  x (..., C)."""
    rows = contiguous(x)
    y = arrays().empty(x.shape, x.dtype)
    count = x.size // x.shape[-1]
    if count:
        launch(Kernel("normalization", "layer_norm", element_of(x)), (ceil_div(count, TOKENS),), (32, TOKENS),
               (rows, *_floats(gamma, beta), y, count, x.shape[-1], x.shape[-1], float(eps)))
    return y


def layer_norm_backward(dy, x, gamma, eps):
    """dx = (dx̂ - mean(dx̂) - x̂ mean(dx̂ x̂)) / σ with dx̂ = gamma dy.  -> dx, dgamma, dbeta."""
    channels, dy = x.shape[-1], contiguous(dy, x.dtype)
    dx, products = arrays().empty(x.shape, x.dtype), arrays().empty(x.shape, "float32")
    count = x.size // channels
    if count:
        launch(Kernel("normalization", "layer_norm_backward", element_of(x)), (ceil_div(count, TOKENS),), (32, TOKENS),
               (dy, contiguous(x), *_floats(gamma), dx, products, count, channels, float(eps)))
    return dx, sum_columns(products), sum_columns(dy)


def _rows(x, axis):
    """x as (rows, channels); a view where the channels already lie side by side."""
    return contiguous(arrays().moveaxis(x, axis, -1)).reshape(-1, x.shape[axis])


def _back(rows, x, axis):
    """The inverse of _rows, a view."""
    axis = axis % x.ndim
    return arrays().moveaxis(rows.reshape(*x.shape[:axis], *x.shape[axis + 1 :], x.shape[axis]), -1, axis)


def _floats(*values):
    return [contiguous(a, "float32") for a in values]


def _launch(name, x, columns, arguments, shared=False, activation=IDENTITY):
    defines = (("VECTOR", columns.vector), *((("ACTIVATION", activation),) if activation else ()))
    launch(Kernel("normalization", name, element_of(x), defines), columns.grid, columns.block, arguments,
           COLUMN_THREADS * columns.vector * 4 if shared else 0)
