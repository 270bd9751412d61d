"""Convolution as matrix products on channels-last images (implicit im2col, see convolution.cu). x decides the
precision, as in linear.py.

Results are views (B, C, H, W) of memory (B, H, W, C): the operations that follow read a pixel's channels side by side.
"""

import numpy as np

from ...errors import BackendError
from ..reference import convolution_size
from .device import arrays, launch, on_hopper, tiles
from .geometry import MOST_TERMS, ceil_div, chunk_of, parts_for, round_up, tile_for
from .kernel import Kernel
from .operands import contiguous, element_of, padded
from .reduction import sum_parts

PIXELS = 128  # threads of a block that makes an image channels-last
MOST_SIDE = 2**15 - 1  # pixels a side, at most: the kernels keep a window's first pixel in 16 bits


def convolution(x, w, stride, padding):
    """y[b,o,u,v] = Σ_{c,i,j} w[o,c,i,j] · x[b,c, u·s+i-p, v·s+j-p].

    x (B, C, H, W), w (O, C, K, K) -> y (B, O, H', W')."""
    shape = _Shape(x, w, stride, padding)
    y = arrays().empty((len(x), *shape.out, shape.outputs), x.dtype)
    if y.size:
        rows = y.size // shape.outputs
        tile = tile_for(rows, shape.outputs, tiles(shape.element))
        launch(Kernel("convolution", "convolution", shape.element, tile.defines),
               (ceil_div(rows, tile.rows), ceil_div(shape.outputs, tile.columns)), (tile.threads,),
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
        # the most that a class has: see convolution_data
        rows = len(x) * ceil_div(x.shape[2], stride) * ceil_div(x.shape[3], stride)
        tile = tile_for(rows, shape.channels, tiles(shape.element, across=True), stride**2)
        launch(Kernel("convolution", "convolution_data", shape.element, tile.defines),
               (ceil_div(rows, tile.rows), ceil_div(shape.channels, tile.columns), stride**2), (tile.threads,),
               (dy, shape.weight(w), dx, *shape.numbers), tile.shared)
    return dx[..., : x.shape[1]].transpose(0, 3, 1, 2)


def _weight(shape, dy, x, w):
    columns, pixels = shape.kernel**2 * shape.channels, dy.size // shape.outputs
    if not pixels:
        return arrays().zeros(w.shape, "float32")
    tile, parts, length = parts_for(shape.outputs, columns, pixels, shape.element, on_hopper())
    sums = arrays().empty((parts, shape.outputs, columns), "float32")
    launch(Kernel("convolution", "convolution_weight", shape.element, tile.defines),
           (ceil_div(shape.outputs, tile.rows), ceil_div(columns, tile.columns), parts), (tile.threads,),
           (dy, shape.images(x), sums, *shape.numbers, length), tile.shared)
    return shape.gradient(sum_parts(sums), w)


def require_countable(size, terms):
    """Raises BackendError for images, (height, width) in the kernels' pixels, or windows too large for the kernels'
    counters."""
    if terms > MOST_TERMS:
        raise BackendError(f"backend cuda: expected a convolution of at most {MOST_TERMS:,} terms, found {terms:,}")
    if max(size) > MOST_SIDE:
        raise BackendError(f"backend cuda: expected a convolution of at most {MOST_SIDE:,} pixels, or blocks of 2×2, a "
                           f"side, found {' by '.join(f'{n:,}' for n in size)}")


def over_blocks(weight):
    """The weight (O, 3, 3, C) of a convolution with stride 2 and padding 1 -> that of the same convolution over blocks
    of 2×2 pixels, with stride 1: (O, 2, 2, 4 C).

    Output y reads the rows 2y - 1, 2y and 2y + 1: the lower one of block y - 1, both of block y. The upper row of block
    y - 1 gets zeros, and above block 0 is a border of one block. Columns likewise."""
    outputs, _, _, channels = weight.shape
    cells = np.pad(weight, ((0, 0), (1, 0), (1, 0), (0, 0))).reshape(outputs, 2, 2, 2, 2, channels)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(outputs, 2, 2, 4 * channels)


def over_pixels(gradient):
    """The adjoint of over_blocks: (O, 2, 2, 4 C) -> (O, 3, 3, C)."""
    outputs, _, _, numbers = gradient.shape
    cells = gradient.reshape(outputs, 2, 2, 2, 2, numbers // 4).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(outputs, 4, 4, numbers // 4)[:, 1:, 1:]


class _Shape:
    """A convolution's sizes, with channels padded to whole chunks, and its arrays in the kernels' layout.

    An image's three channels would leave most of a chunk empty: where its gradient is not asked for, blocks of 2×2
    pixels take the place of pixels, as in evaluation."""

    def __init__(self, x, w, stride, padding, input_gradient=False):
        (_, channels, *size), kernel = x.shape, w.shape[2]
        self.element, self.dtype = element_of(x), x.dtype
        self.part, self.few = chunk_of(self.element), channels < chunk_of(self.element)
        self.out = tuple(convolution_size(n, kernel, stride, padding) for n in size)
        in_blocks = (kernel, stride, padding) == (3, 2, 1) and 2 * channels <= self.part and not input_gradient
        self.side = 2 if in_blocks else 1
        if in_blocks:
            kernel, stride, channels, size = 2, 1, 4 * channels, [ceil_div(n, 2) for n in size]
        self.kernel, self.stride = kernel, stride
        self.outputs, self.channels = round_up(len(w), self.part), round_up(channels, self.part)
        require_countable(size, kernel**2 * self.channels)
        self.laid = len(x), *size, self.channels  # the shape of the images in the kernels' layout
        self.numbers = (*self.laid, *self.out, self.outputs, kernel, stride, padding)

    def images(self, x):
        """(B, H, W, C), of pixels or of blocks."""
        if not (self.few and x.size and (self.side == 2 or x.flags.c_contiguous)):
            return padded(x.transpose(0, 2, 3, 1), self.part)
        y = arrays().empty(self.laid, x.dtype)  # from an image's few planes
        launch(Kernel("image", "image_of_elements", self.element, (("SIDE", self.side), ("CHANNELS", x.shape[1]))),
               (len(x) * self.laid[1],), (PIXELS,), (contiguous(x), y, *x.shape[2:]))
        return y

    def weight(self, w):
        """(O, K, K, C), with zeros in the padding."""
        w = w.transpose(0, 2, 3, 1)
        w = over_blocks(w) if self.side == 2 else w
        y = arrays().zeros((self.outputs, self.kernel, self.kernel, self.channels), self.dtype)
        y[: len(w), :, :, : w.shape[3]] = w
        return y

    def gradient(self, dw, w):
        """dw in the shape of w."""
        channels = w.shape[1] * self.side**2
        dw = dw.reshape(self.outputs, self.kernel, self.kernel, self.channels)[: len(w), :, :, :channels]
        return arrays().ascontiguousarray((over_pixels(dw) if self.side == 2 else dw).transpose(0, 3, 1, 2))
