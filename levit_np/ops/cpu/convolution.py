"""Training's convolution as matrix products (im2col): each output pixel's window becomes a row, a few output lines at a
time. Checks and memory here, kernels in convolution_kernels.py; a 3 × 3 with stride 2 goes to filtering.py where that
is faster.

Results have a pixel's channels side by side, as views (B, C, H, W): the operations that follow read them as rows."""

import numpy as np

from .. import reference
from ..reference import convolution_size
from . import amx_planning, filtering
from .linear import pack, packed_size
from .recording import computed
from .running import contiguous, empty, fits, padded, run, scratch, without_padding, worth_streaming
from .training_step import HEADER, Kind
from .training_step import Convolution as C

PIXELS = 224  # output pixels, about, whose windows are unfolded at a time


def convolution(x, w, stride, padding):
    """y[b,o,u,v] = Σ_{c,i,j} w[o,c,i,j] · x[b,c, u·s+i-p, v·s+j-p].

    x (B, C, H, W), w (O, C, K, K) -> y (B, O, H', W')."""
    if not fits(x, w) or not _supported(x, w, stride, padding):
        return reference.convolution(x, w, stride, padding)
    out = _out(x, w, stride, padding)
    if filtering.suits(w, stride, padding, out):
        return filtering.forward(x, w, out)
    shape = _Shape(x, w, stride, padding)
    outputs = shape.outputs
    y = empty(len(x), *shape.out, padded(outputs))
    weight = contiguous(computed(shape.rows, w).T)  # (terms, O)
    _run(Kind.CONVOLUTION, shape, weight, {
        C.Y: y, C.Y_ROW: padded(outputs) * 4, C.STREAM: worth_streaming(y, product=True)})
    return without_padding(y, outputs).transpose(0, 3, 1, 2)


def convolution_backward(dy, x, w, stride, padding, input_gradient=True):
    """The adjoint: see reference.convolution_backward.  dy (B, O, H', W') -> dx (B, C, H, W), None without
    input_gradient; dw (O, C, K, K)."""
    if not fits(dy, x, w) or not _supported(x, w, stride, padding):
        return reference.convolution_backward(dy, x, w, stride, padding, input_gradient)
    out = _out(x, w, stride, padding)
    if dy.shape != (len(x), len(w), *out):
        return reference.convolution_backward(dy, x, w, stride, padding, input_gradient)
    if filtering.suits(w, stride, padding, out):
        return filtering.backward(dy, x, w, out, input_gradient)
    shape = _Shape(x, w, stride, padding)
    dy = contiguous(dy.transpose(0, 2, 3, 1))
    y_columns = {C.Y: dy, C.Y_ROW: shape.outputs * 4}
    return _input(shape, y_columns, w) if input_gradient else None, _weight(shape, y_columns)


def _input(shape, y_columns, w):
    weight = contiguous(computed(shape.rows, w))  # (O, terms)
    dx = empty(*shape.x.shape)
    _run(Kind.CONVOLUTION_INPUT, shape, weight, y_columns | {C.X: dx})
    return shape.view(dx)


def _run(kind, shape, weight, columns):
    """Runs a kernel after the step that packs its weight (terms, outputs), which all threads read, behind the first
    thread's scratch."""
    terms, outputs = weight.shape
    pixels, unfolded = shape.lines * shape.out[1], HEADER + shape.unfolded
    amx = -(-unfolded // 64) * 64 if amx_planning.suits(pixels, terms, outputs) else 0
    own = amx + amx_planning.scratch_size(pixels, terms, outputs) if amx else unfolded
    address, size = scratch(own + (amx_planning.packed_size if amx else packed_size)(terms, outputs))
    packed = address + own
    before = (amx_planning.pack(weight, terms, outputs, False, packed, address + amx, size) if amx
              else pack(weight, terms, outputs, False, packed))
    run(before, (kind, shape.columns | columns | {C.B: packed, C.AMX: amx, C.SCRATCH: address, C.SCRATCH_SIZE: size}))


def _weight(shape, y_columns):
    dw = empty(shape.outputs, padded(shape.terms))
    pixels = shape.lines * shape.out[1]
    amx = HEADER if amx_planning.suits(shape.outputs, pixels, shape.terms) and shape.terms >= 64 else 0
    own = amx_planning.gradient_size(pixels, shape.outputs, shape.terms) if amx else packed_size(pixels, shape.terms)
    address, size = scratch(shape.unfolded + HEADER + own)
    run((Kind.CONVOLUTION_WEIGHT, shape.columns | y_columns | {
        C.C: dw, C.C_ROW: padded(shape.terms) * 4, C.AMX: amx, C.SCRATCH: address, C.SCRATCH_SIZE: size}))
    return computed(shape.weight, dw[:, : shape.terms])


def _supported(x, w, stride, padding):
    """Whether the kernels take these; errors are left to the reference to raise."""
    if x.ndim != 4 or w.ndim != 4 or w.shape[1] != x.shape[1] or w.shape[2] != w.shape[3] or padding < 0 or stride < 1:
        return False
    return all(convolution_size(n, w.shape[2], stride, padding) > 0 for n in x.shape[2:])


def _out(x, w, stride, padding):
    """(H', W')."""
    return tuple(convolution_size(n, w.shape[2], stride, padding) for n in x.shape[2:])


class _Shape:
    """How x lies in memory, and so the order of a window's terms: (B, H, W, C), or an image as it comes, (B, C, H, W),
    one plane a channel."""

    def __init__(self, x, w, stride, padding):
        self.outputs, channels, self.kernel, _ = w.shape
        height, width = x.shape[2:]
        self.channels_last = x.transpose(0, 2, 3, 1).flags.c_contiguous or channels >= 16
        self.x = contiguous(x.transpose(0, 2, 3, 1) if self.channels_last else x)
        self.out = _out(x, w, stride, padding)
        self.channels, self.terms = channels, channels * self.kernel**2
        self.lines = max(1, min(self.out[0], PIXELS // self.out[1]))
        self.unfolded = self.lines * self.out[1] * padded(self.terms) * 4
        planes, beside = (1, channels) if self.channels_last else (channels, 1)
        self.columns = {
            C.X: self.x, C.IMAGES: len(x), C.PLANES: planes, C.CHANNELS: beside, C.HEIGHT: height,
            C.WIDTH: width, C.KERNEL: self.kernel, C.STRIDE: stride, C.PADDING: padding, C.OUT_HEIGHT: self.out[0],
            C.OUT_WIDTH: self.out[1], C.LINES: self.lines, C.OUTPUTS: self.outputs}

    def view(self, x):
        return x.transpose(0, 3, 1, 2) if self.channels_last else x

    def rows(self, w):
        """w (O, C, K, K) -> (O, terms)."""
        return (w.transpose(0, 2, 3, 1) if self.channels_last else w).reshape(self.outputs, self.terms)

    def weight(self, rows):
        """The inverse of rows."""
        if not self.channels_last:
            return rows.reshape(self.outputs, self.channels, self.kernel, self.kernel)
        w = rows.reshape(self.outputs, self.kernel, self.kernel, self.channels)
        return np.ascontiguousarray(w.transpose(0, 3, 1, 2))
