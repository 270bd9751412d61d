"""The linear map: weights packed into panels at every call, for they change at every step of training."""

import numpy as np

from .. import reference
from . import tiles
from . import training_step as step
from .library import library
from .parts import WHOLE
from .recording import computed
from .running import (
    ONE, contiguous, empty, fetches_ahead, fits, past_caches, rows_of, run, scratch, unshared, whole, without_padding)
from .training_step import HEAD, Kind

BLOCK_BYTES = 256 << 10  # of a product's rows go through all panels before the next rows
# Rows of dy and x at most that are packed and multiplied at a time: of a panel and a strip so much fits into the L1
# cache.
GRADIENT_TERMS = 288
# About so many, if they are not all, where the next ones are fetched meanwhile: the L2 cache has both.
FETCHED_TERMS = 144


def linear(x, w, b=None):
    """y = x wᵀ + b.  x (..., C), w (O, C), b (O,) -> y (..., O)."""
    if not fits(x, w) or w.ndim != 2 or x.shape[-1:] != w.shape[1:]:
        return reference.linear(x, w, b)
    y = _product(rows_of(x), contiguous(w), True)
    return y if b is None else computed(np.add, y, b)


def linear_backward(dy, x, w):
    """dx = dy w, dw = dyᵀ x.  dy (..., O), x (..., C), w (O, C) -> dx (..., C), dw (O, C)."""
    if not fits(dy, x, w) or w.ndim != 2 or (dy.shape[-1], x.shape[-1]) != w.shape or dy.shape[:-1] != x.shape[:-1]:
        return reference.linear_backward(dy, x, w)
    dy, x, w = rows_of(dy), rows_of(x), contiguous(w)
    return _product(dy, w, False), _gradient(dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1]))


def _gradient_terms(terms: int) -> int:
    """Rows at a time, about as many each."""
    if terms <= GRADIENT_TERMS:
        return terms
    return -(-terms // -(-terms // (FETCHED_TERMS if fetches_ahead() else GRADIENT_TERMS)))


def packed_size(terms: int, outputs: int) -> int:
    """Bytes of a packed b (terms, outputs)."""
    return terms * whole(outputs) * 4


def gradient_size(terms: int, outputs: int, channels: int) -> int:
    """Bytes of scratch for that of `terms` rows: see add_gradient."""
    instructions = library("training_kernels").instructions
    strips = -(-outputs // instructions.rows)
    return HEAD + strips * (terms * instructions.rows + instructions.lanes) * 4 + packed_size(terms, channels)


def pack(b, terms, outputs, transposed, target):
    """The step that packs the contiguous array b at address `target`."""
    p = step.Pack
    return Kind.PACK, {p.SOURCE: b, p.ROW: b.shape[-1] * 4, p.TERMS: terms, p.OUTPUTS: outputs,
                       p.TRANSPOSED: transposed, p.TARGET: target, p.ONE: ONE}


def _product(x, w, transposed):
    """x wᵀ or x w, on the last axis."""
    terms, outputs = w.shape[::-1] if transposed else w.shape
    rows, p = x.size // terms, step.Product
    y = empty(*x.shape[:-1], whole(outputs))
    columns = {p.ROWS: rows, p.TERMS: terms, p.OUTPUTS: outputs, p.A: x, p.LDA: terms * 4, p.C: y,
               p.LDC: whole(outputs) * 4, p.PAST: past_caches(y, product=True)}
    if tiles.suits(rows, terms, outputs):
        block = tiles.block_rows(rows, terms, outputs)
        few, own = rows <= block, tiles.scratch_size(block, terms, outputs)
        address, size = scratch(own + (0 if few else tiles.packed_size(terms, outputs)))
        product = Kind.AMX_PRODUCT, columns | {
            p.B: 0 if few else address + own, p.BLOCK: block, p.SCRATCH: address, p.SCRATCH_SIZE: size, p.SOURCE: w,
            p.SOURCE_ROW: w.shape[1] * 4, p.TRANSPOSED: transposed}
        before = () if few else (tiles.pack(w, terms, outputs, transposed, address + own, address, size),)
        run(*before, product)
    else:
        address, _ = scratch(packed_size(terms, outputs))
        run(pack(w, terms, outputs, transposed, address), (Kind.PRODUCT, columns | {
            p.B: address, p.BLOCK: max(14, BLOCK_BYTES // (terms * 4))}))
    return without_padding(y, outputs)


def _gradient(dy, x):
    """dyᵀ x of two matrices."""
    terms, outputs, channels = len(dy), dy.shape[1], x.shape[1]
    dw, g = unshared(outputs, whole(channels)), step.Gradient
    columns = {g.TERMS: terms, g.A: dy, g.A_ROW: outputs * 4, g.A_COLUMNS: outputs, g.B: x, g.B_ROW: channels * 4,
               g.B_COLUMNS: channels, g.C: dw, g.C_ROW: whole(channels) * 4}
    if tiles.suits(outputs, terms, channels) and channels % WHOLE == 0:
        kind, block = Kind.AMX_GRADIENT, tiles.GRADIENT_TERMS
        address, size = scratch(tiles.gradient_size(block, outputs, channels))
    else:
        kind, block = Kind.GRADIENT, _gradient_terms(terms)
        address, size = scratch(gradient_size(block, outputs, channels))
    run((kind, columns | {g.BLOCK: block, g.SCRATCH: address, g.SCRATCH_SIZE: size}))
    return dw if dw.shape[1] == channels else contiguous(dw[:, :channels])
