"""Convolutions of 3 × 3 with a stride of 2 and a border of 1, in 25 products for 36: see minimal_filtering.py."""

import numpy as np

from . import minimal_filtering, tiles
from .library import library
from .linear import packed_size
from .minimal_filtering import FEW_SQUARES, NINE_PARTS, SIZES, TERMS, WINDOW_BYTES, kernel_places
from .running import ONE, contiguous, empty, fetches_ahead, past_caches, run, scratch, whole
from .scatter import scatter_add
from .training_step import HEAD, Kind, Pack
from .training_step import Filtering as F

GRADIENT_ROWS = 112  # squares at a time in the gradient of the weight
MANY_SQUARES = 49  # at least at a time, all of LeViT's last convolution, where the L2 cache has room for them
NUMBERS = np.array(SIZES, np.int64)


def suits(w, stride, padding, out) -> bool:
    """Whether a convolution to (H', W') pixels is made so: its outputs come in pairs, its channels fill vectors, and
    products have no faster form, on AMX's tiles."""
    outputs, channels, kernel, _ = w.shape
    return (padding == 1 and minimal_filtering.suits(kernel, stride, out)
            and not channels % max(8, library("training_kernels").instructions.lanes) and not outputs % 16
            and not tiles.suits(out[0] * out[1], TERMS * channels, outputs))


def forward(x, w, out):
    """x (B, C, H, W) -> y (B, O, H', W'), both with a pixel's channels side by side."""
    return _Shape(x, w, out).output(w)


def backward(dy, x, w, out, input_gradient):
    """dy (B, O, H', W') -> dx (B, C, H, W), None without input_gradient; dw (O, C, 3, 3)."""
    shape = _Shape(x, w, out)
    columns = {F.Y: contiguous(dy.transpose(0, 2, 3, 1))}
    return shape.input(columns, w) if input_gradient else None, shape.weight(columns)


class _Shape:
    """How x, its squares of outputs and their windows lie in memory, and the steps that are made of them."""

    def __init__(self, x, w, out):
        self.outputs, self.channels = w.shape[:2]
        self.down, self.across = out[0] // 2, out[1] // 2
        self.x = contiguous(x.transpose(0, 2, 3, 1))
        self.terms = TERMS * self.channels
        self.window = whole(self.terms) * 4  # bytes
        self.line = (4 * self.across + 1) * self.channels * 4  # bytes of a bordered line
        self.columns = {
            F.X: self.x, F.IMAGES: len(x), F.CHANNELS: self.channels, F.HEIGHT: x.shape[2], F.WIDTH: x.shape[3],
            F.DOWN: self.down, F.ACROSS: self.across, F.OUTPUTS: self.outputs, F.SIZES: NUMBERS}

    def lines(self):
        """How many lines of squares at a time: about as many in each group."""
        squares = max(MANY_SQUARES if fetches_ahead() else FEW_SQUARES, WINDOW_BYTES // self.window)
        groups = -(-self.down // max(1, squares // self.across))
        return -(-self.down // groups)

    def run(self, kind, square, columns, w, transposed):
        """The kernel, which needs `square` bytes for each square at hand, after the packing of each part's weights,
        (terms, O) if transposed, else (O, terms)."""
        lines, number, steps = self.lines(), 0, []
        terms = scatter_add(contiguous(w), *kernel_places(self.channels), self.terms)  # (O, 25 C)
        own = (4 * lines + 1) * self.line + lines * self.across * square
        address, size = scratch(own + whole(self.terms) * self.outputs * 4)
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
        parts = len(NINE_PARTS) * library("training_kernels").instructions.width * 4  # of a panel
        self.run(Kind.FILTERING, self.window + parts, {F.Y: y, F.PAST: past_caches(y, self.outputs, True)}, w, True)
        return y.transpose(0, 3, 1, 2)

    def input(self, columns, w):
        dx = empty(*self.x.shape)
        parts = len(NINE_PARTS) * self.outputs * 4
        into = {F.X: dx, F.PAST: past_caches(dx, self.channels, True)}
        self.run(Kind.FILTERING_INPUT, self.window + parts, columns | into, w, False)
        return dx.transpose(0, 3, 1, 2)

    def weight(self, columns):
        dw = empty(self.outputs, whole(self.terms))
        lines = self.lines()
        rows = max(GRADIENT_ROWS, lines * self.across)
        address, size = scratch(HEAD + packed_size(rows, 4 * self.channels) + (4 * lines + 1) * self.line
                                + rows * (self.terms + len(NINE_PARTS) * self.outputs) * 4)
        run((Kind.FILTERING_WEIGHT, self.columns | columns | {
            F.C: dw, F.LINES: lines, F.ROWS: rows, F.SCRATCH: address, F.SCRATCH_SIZE: size}))
        sources, targets = kernel_places(self.channels)
        return scatter_add(dw, targets, sources, 9 * self.channels).reshape(self.outputs, self.channels, 3, 3)
