"""Training's 3 × 3 convolutions with stride 2 and padding 1, in 25 products for 36 (see minimal_filtering.py). Checks
and memory here, kernels in filtering_kernels.py."""

import numpy as np

from . import amx_planning, minimal_filtering
from .library import library
from .linear import packed_size
from .minimal_filtering import FEW_SQUARES, NINE_PARTS, SIZES, TERMS, WINDOW_BYTES
from .running import ONE, contiguous, empty, padded, prefetches, run, scratch, worth_streaming
from .training_step import HEADER, Kind, KernelTerms, Pack
from .training_step import Filtering as F

GRADIENT_ROWS = 112  # squares (2 × 2 outputs) that the weight's gradient takes at a time
MANY_SQUARES = 49  # at least, where L2 has room: all of LeViT's last convolution
NUMBERS = np.array(SIZES, np.int64)


def suits(w, stride, padding, out) -> bool:
    """Whether a convolution to (H', W') pixels is made so: its outputs come in pairs, its channels fill vectors, and
    its products have no faster form, on AMX's tiles."""
    outputs, channels, kernel, _ = w.shape
    return (padding == 1 and minimal_filtering.suits(kernel, stride, out)
            and not channels % max(8, library("training_kernels").instructions.lanes) and not outputs % 16
            and not amx_planning.suits(out[0] * out[1], TERMS * channels, outputs))


def forward(x, w, out):
    """x (B, C, H, W) -> y (B, O, H', W'), both with a pixel's channels side by side."""
    return _Shape(x, w, out).output(w)


def backward(dy, x, w, out, input_gradient):
    """dy (B, O, H', W') -> dx (B, C, H, W), None without input_gradient; dw (O, C, 3, 3)."""
    shape = _Shape(x, w, out)
    columns = {F.Y: contiguous(dy.transpose(0, 2, 3, 1))}
    return shape.input(columns, w) if input_gradient else None, shape.weight(columns)


class _Shape:
    """How x, its squares of 2 × 2 outputs and their windows lie in memory, and the steps that the operations run."""

    def __init__(self, x, w, out):
        self.outputs, self.channels = w.shape[:2]
        self.down, self.across = out[0] // 2, out[1] // 2
        self.x = contiguous(x.transpose(0, 2, 3, 1))
        self.terms = TERMS * self.channels
        self.window = padded(self.terms) * 4  # bytes
        self.line = (4 * self.across + 1) * self.channels * 4  # bytes of a bordered line
        self.columns = {
            F.X: self.x, F.IMAGES: len(x), F.CHANNELS: self.channels, F.HEIGHT: x.shape[2], F.WIDTH: x.shape[3],
            F.DOWN: self.down, F.ACROSS: self.across, F.OUTPUTS: self.outputs, F.SIZES: NUMBERS}

    def lines(self):
        """Lines of squares at a time, about equally many in each group."""
        squares = max(MANY_SQUARES if prefetches() else FEW_SQUARES, WINDOW_BYTES // self.window)
        groups = -(-self.down // max(1, squares // self.across))
        return -(-self.down // groups)

    def run(self, kind, square, columns, w, transposed):
        """Packs the weights of each of the nine parts, (terms, O) if transposed, else (O, terms), then runs the kernel,
        which needs `square` bytes for each square at hand."""
        lines, number = self.lines(), 0
        terms = empty(self.outputs, self.terms)
        steps = [self.kernel_terms(Kind.KERNEL_TERMS, contiguous(w), terms)]
        own = (4 * lines + 1) * self.line + lines * self.across * square
        address, size = scratch(own + padded(self.terms) * self.outputs * 4)
        for count in SIZES:
            count *= self.channels
            rows, columns_ = (count, self.outputs) if transposed else (self.outputs, count)
            steps.append((Kind.PACK, {
                Pack.SOURCE: terms.ctypes.data + number * 4, Pack.ROW: self.terms * 4, Pack.TERMS: rows,
                Pack.OUTPUTS: columns_, Pack.TRANSPOSED: transposed, Pack.ONE: ONE,
                Pack.TARGET: address + own + number * self.outputs * 4}))
            number += count
        run(*steps, (kind, self.columns | columns | {
            F.LINES: lines, F.B: address + own, F.SCRATCH: address, F.SCRATCH_SIZE: size}))

    def output(self, w):
        y = empty(len(self.x), 2 * self.down, 2 * self.across, self.outputs)
        parts = len(NINE_PARTS) * library("training_kernels").instructions.width * 4  # of one panel of outputs
        into = {F.Y: y, F.STREAM: worth_streaming(y, self.outputs, True)}
        self.run(Kind.FILTERING, self.window + parts, into, w, True)
        return y.transpose(0, 3, 1, 2)

    def input(self, columns, w):
        dx = empty(*self.x.shape)
        parts = len(NINE_PARTS) * self.outputs * 4
        into = {F.X: dx, F.STREAM: worth_streaming(dx, self.channels, True)}
        self.run(Kind.FILTERING_INPUT, self.window + parts, columns | into, w, False)
        return dx.transpose(0, 3, 1, 2)

    def weight(self, columns):
        terms, dw = empty(self.outputs, padded(self.terms)), empty(self.outputs, self.channels, 3, 3)
        lines = self.lines()
        rows = max(GRADIENT_ROWS, lines * self.across)
        address, size = scratch(HEADER + packed_size(rows, 4 * self.channels) + (4 * lines + 1) * self.line
                                + rows * (self.terms + len(NINE_PARTS) * self.outputs) * 4)
        run((Kind.FILTERING_WEIGHT, self.columns | columns | {
            F.C: terms, F.LINES: lines, F.ROWS: rows, F.SCRATCH: address, F.SCRATCH_SIZE: size}),
            self.kernel_terms(Kind.KERNEL_TERMS_BACKWARD, dw, terms))
        return dw

    def kernel_terms(self, kind, weight, terms):
        """The step between weight (O, C, 3, 3) and its terms (O, 25 C, perhaps more)."""
        return kind, {KernelTerms.OUTPUTS: self.outputs, KernelTerms.CHANNELS: self.channels,
                      KernelTerms.WEIGHT: weight, KernelTerms.TERMS: terms, KernelTerms.ROW: terms.strides[0]}
