"""The linear map on tensor cores. x decides the precision: float32 weights are rounded to its type, and their gradients
are float32 again."""

from .device import arrays, launch, on_hopper, tiles
from .geometry import ceil_div, chunk_of, cut_for, parts_for, round_up, tile_for
from .kernel import Kernel
from .operands import contiguous, element_of, padded
from .reduction import sum_columns, sum_parts


def linear(x, w, b=None):
    """y = x wᵀ + b.  x (..., C), w (O, C), b (O,) -> y (..., O)."""
    element, outputs = element_of(x), len(w)
    part = chunk_of(element)
    rows = padded(x, part)
    y = arrays().empty((rows.size // rows.shape[-1], round_up(outputs, part)), x.dtype)
    if y.size:
        count, channels = rows.size // rows.shape[-1], rows.shape[-1]
        cut = cut_for(tile_for(count, outputs, tiles(element)), count, outputs, channels, element)
        residual = () if cut.resident else (None,)
        launch(Kernel(*cut.kernel("linear"), element, cut.tile.defines), cut.grid, (cut.tile.threads,),
               (rows, padded(w, part, x.dtype), None if b is None else contiguous(b, "float32"), *residual, y, count,
                outputs, channels, y.shape[1], 0, *cut.tiles), cut.shared)
    return y[:, :outputs].reshape(*x.shape[:-1], outputs)


def linear_backward(dy, x, w):
    """dx = dy w, dw = dyᵀ x.  dy (..., O), x (..., C), w (O, C) -> dx (..., C), dw (O, C)."""
    element, (outputs, channels) = element_of(x), w.shape
    part = chunk_of(element)
    dy = padded(dy, part, x.dtype)
    return _data(dy, x, w, element, part), _weight(dy, padded(x, part), element)[:outputs, :channels]


def _data(dy, x, w, element, part):
    (outputs, channels), w = w.shape, padded(w, part, x.dtype)
    dx = arrays().empty((dy.size // dy.shape[-1], w.shape[1]), x.dtype)
    if dx.size:
        cut = cut_for(tile_for(*dx.shape, tiles(element, across=True)), *dx.shape, outputs, element)
        launch(Kernel(*cut.kernel("linear_data"), element, cut.tile.defines), cut.grid, (cut.tile.threads,),
               (dy, w, dx, len(dx), outputs, dx.shape[1], dy.shape[-1], *cut.tiles), cut.shared)
    return dx[:, :channels].reshape(x.shape)


def _weight(dy, x, element):
    outputs, channels = dy.shape[-1], x.shape[-1]
    rows = dy.size // outputs
    if not rows:
        return arrays().zeros((outputs, channels), "float32")
    tile, parts, length = parts_for(outputs, channels, rows, element, on_hopper())
    sums = arrays().empty((parts, outputs, channels), "float32")
    launch(Kernel("linear", "linear_weight", element, tile.defines),
           (ceil_div(outputs, tile.rows), ceil_div(channels, tile.columns), parts), (tile.threads,),
           (dy, x, sums, rows, outputs, channels, length), tile.shared)
    return sum_parts(sums)


def bias_backward(dy):
    """db = Σ dy over all axes but the last: the same b was added at every position."""
    return sum_columns(dy)
