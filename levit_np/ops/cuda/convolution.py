"""Convolution as products on channels-last images.  x decides the precision, as in linear.py.

Results are views (B, C, H, W) of memory (B, H, W, C): what follows reads a pixel's channels side by side."""

import numpy as np

from ...errors import BackendError
from ..reference import convolution_size
from .device import arrays, launch, on_hopper, tiles
from .geometry import MOST_TERMS, chunk_of, cover, parts_for, tile_for, whole
from .kernel import Kernel
from .operands import contiguous, element_of, padded
from .reduction import sum_parts

PIXELS = 128  # a block of threads, when an image's planes are laid side by side
MOST_SIDE = 2**15 - 1  # of what the kernels take for pixels: where a window begins, they keep in 16 bits


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
    shape = _Shape(x, w, stride, padding, input_gradient)
    dy = padded(dy.transpose(0, 2, 3, 1), shape.part, x.dtype)
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
    return shape.gradient(sum_parts(sums), w)


def require_countable(size, terms):
    """Raises BackendError for images, (height, width) in the kernels' pixels, or windows that are larger than these
    count."""
    if terms > MOST_TERMS:
        raise BackendError(f"backend cuda: expected a convolution of at most {MOST_TERMS:,} terms, found {terms:,}")
    if max(size) > MOST_SIDE:
        raise BackendError(f"backend cuda: expected a convolution of at most {MOST_SIDE:,} pixels, or blocks of 2×2, a "
                           f"side, found {' by '.join(f'{n:,}' for n in size)}")


def over_blocks(weight):
    """Of a 3×3 convolution with stride 2 and padding 1, weight (O, 3, 3, C), the same over blocks of 2×2 pixels:
    (O, 2, 2, 4 C), with stride 1.

    Output y reads the rows 2y - 1, 2y and 2y + 1: of block y - 1 the lower, of block y both.  The upper row of block
    y - 1 has zeros, and above block 0 is a border of one block.  Columns likewise."""
    outputs, _, _, channels = weight.shape
    cells = np.pad(weight, ((0, 0), (1, 0), (1, 0), (0, 0))).reshape(outputs, 2, 2, 2, 2, channels)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(outputs, 2, 2, 4 * channels)


def over_pixels(gradient):
    """The adjoint of over_blocks: (O, 2, 2, 4 C) -> (O, 3, 3, C)."""
    outputs, _, _, numbers = gradient.shape
    cells = gradient.reshape(outputs, 2, 2, 2, 2, numbers // 4).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(outputs, 4, 4, numbers // 4)[:, 1:, 1:]


class _Shape:
    """A convolution's sizes, channels padded to whole chunks, and its arrays in the kernels' layout.

    An image's three channels would leave most of a chunk empty: where its gradient is not asked for, blocks of 2×2
    pixels take the pixels' place, as in evaluation."""

    def __init__(self, x, w, stride, padding, input_gradient=False):
        (_, channels, *size), kernel = x.shape, w.shape[2]
        self.element, self.dtype = element_of(x), x.dtype
        self.part, self.few = chunk_of(self.element), channels < chunk_of(self.element)
        self.out = tuple(convolution_size(n, kernel, stride, padding) for n in size)
        in_blocks = (kernel, stride, padding) == (3, 2, 1) and 2 * channels <= self.part and not input_gradient
        self.side = 2 if in_blocks else 1
        if in_blocks:
            kernel, stride, channels, size = 2, 1, 4 * channels, [cover(n, 2) for n in size]
        self.kernel, self.stride = kernel, stride
        self.outputs, self.channels = whole(len(w), self.part), whole(channels, self.part)
        require_countable(size, kernel**2 * self.channels)
        self.laid = len(x), *size, self.channels  # the images, as the kernels have them
        self.numbers = (*self.laid, *self.out, self.outputs, kernel, stride, padding)

    def images(self, x):
        """(B, H, W, C), or blocks of pixels."""
        if not (self.few and x.size and (self.side == 2 or x.flags.c_contiguous)):
            return padded(x.transpose(0, 2, 3, 1), self.part)
        y = arrays().empty(self.laid, x.dtype)  # of an image's few planes
        launch(Kernel("image", "image_of_elements", self.element, (("SIDE", self.side), ("CHANNELS", x.shape[1]))),
               (len(x) * self.laid[1],), (PIXELS,), (contiguous(x), y, *x.shape[2:]))
        return y

    def weight(self, w):
        """(O, K, K, C), zeros in the channels and outputs that are padding."""
        w = w.transpose(0, 2, 3, 1)
        w = over_blocks(w) if self.side == 2 else w
        y = arrays().zeros((self.outputs, self.kernel, self.kernel, self.channels), self.dtype)
        y[: len(w), :, :, : w.shape[3]] = w
        return y

    def gradient(self, dw, w):
        """The same as w is."""
        channels = w.shape[1] * self.side**2
        dw = dw.reshape(self.outputs, self.kernel, self.kernel, self.channels)[: len(w), :, :, :channels]
        return arrays().ascontiguousarray((over_pixels(dw) if self.side == 2 else dw).transpose(0, 3, 1, 2))
