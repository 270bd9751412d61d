"""Convolution as products on channels-last images.  x decides the precision, as in linear.py.

Results are views (B, C, H, W) of memory (B, H, W, C): what follows reads a pixel's channels side by side."""

from ..reference import convolution_size
from .device import Kernel, arrays, chunk_of, element_of, launch, on_hopper, padded, tiles
from .geometry import cover, parts_for, tile_for, whole
from .reduction import sum_parts


def convolution(x, w, stride, padding):
    """y[b,o,u,v] = Σ_{c,i,j} w[o,c,i,j] · x[b,c, u·s+i-p, v·s+j-p].

    x (B, C, H, W), w (O, C, K, K) -> y (B, O, H', W')."""
    shape = _Shape(x, w, stride, padding)
    y = arrays().empty((len(x), *shape.out, shape.outputs), x.dtype)
    if y.size:
        rows = y.size // shape.outputs
        tile = tile_for(rows, shape.outputs, tiles(shape.element))
        launch(Kernel("convolution", "convolution", shape.element, tile.defines),
               (cover(rows, tile.rows), cover(shape.outputs, tile.columns)), (tile.threads,),
               (shape.images(x), shape.weight(w), None, y, *shape.numbers, 0), tile.shared)
    return y[..., : len(w)].transpose(0, 3, 1, 2)


def convolution_backward(dy, x, w, stride, padding, input_gradient=True):
    """The adjoint.  dy (B, O, H', W') -> dx (B, C, H, W), None without input_gradient; dw (O, C, K, K)."""
    shape = _Shape(x, w, stride, padding)
    dy = shape.images(dy.astype(x.dtype, copy=False))
    return _data(shape, dy, x, w) if input_gradient else None, _weight(shape, dy, x, w)


def _data(shape, dy, x, w):
    dx = arrays().empty((len(x), *x.shape[2:], shape.channels), x.dtype)
    if dx.size:
        stride = shape.stride
        rows = len(x) * cover(x.shape[2], stride) * cover(x.shape[3], stride)  # the most that a class has
        tile = tile_for(rows, shape.channels, tiles(shape.element, across=True), stride**2)
        launch(Kernel("convolution", "convolution_data", shape.element, tile.defines),
               (cover(rows, tile.rows), cover(shape.channels, tile.columns), stride**2), (tile.threads,),
               (dy, shape.weight(w), dx, *shape.numbers), tile.shared)
    return dx[..., : x.shape[1]].transpose(0, 3, 1, 2)


def _weight(shape, dy, x, w):
    columns, pixels = shape.kernel**2 * shape.channels, dy.size // shape.outputs
    if not pixels:
        return arrays().zeros(w.shape, "float32")
    tile, parts, length = parts_for(shape.outputs, columns, pixels, shape.element, on_hopper())
    sums = arrays().empty((parts, shape.outputs, columns), "float32")
    launch(Kernel("convolution", "convolution_weight", shape.element, tile.defines),
           (cover(shape.outputs, tile.rows), cover(columns, tile.columns), parts), (tile.threads,),
           (dy, shape.images(x), sums, *shape.numbers, length), tile.shared)
    dw = sum_parts(sums).reshape(shape.outputs, shape.kernel, shape.kernel, shape.channels)
    return dw[: len(w), :, :, : w.shape[1]].transpose(0, 3, 1, 2)


class _Shape:
    """A convolution's sizes, channels padded to whole chunks, and its arrays in the kernels' layout."""

    def __init__(self, x, w, stride, padding):
        self.element, self.kernel, self.stride, self.dtype = element_of(x), w.shape[2], stride, x.dtype
        self.part = chunk_of(self.element)
        self.outputs, self.channels = (whole(n, self.part) for n in w.shape[:2])
        self.out = tuple(convolution_size(n, self.kernel, stride, padding) for n in x.shape[2:])
        self.numbers = (len(x), *x.shape[2:], self.channels, *self.out, self.outputs, self.kernel, stride, padding)

    def images(self, x):
        return padded(x.transpose(0, 2, 3, 1), self.part)

    def weight(self, w):
        """(O, K, K, C), zeros in the channels and outputs that are padding."""
        y = arrays().zeros((self.outputs, self.kernel, self.kernel, self.channels), self.dtype)
        y[: len(w), :, :, : w.shape[1]] = w.transpose(0, 2, 3, 1)
        return y
