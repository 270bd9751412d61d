"""Training's linear map and its gradients. Weights change at every step, so they are packed into panels at every call;
products on AMX's tiles where amx_planning.py says so, else on register tiles (product_kernels.py)."""

import numpy as np

from .. import reference
from . import amx_planning
from . import training_step as step
from .amx_sizes import TILE_SIDE
from .library import library
from .recording import computed
from .running import (
    ONE, contiguous, empty, fits, padded, prefetches, rows_of, run, scratch, unshared, without_padding, worth_streaming)
from .training_step import HEADER, Kind

# Bytes of all panels, or of a gradient, for which L2 has room beside rows that are shortly needed and prefetched.
RESIDENT_BYTES = 1400 << 10
# Bytes of rows that go through all panels before the next rows, so that they stay in L2; beside resident panels fewer.
BLOCK_BYTES, SHORT_BLOCK_BYTES = 256 << 10, 64 << 10
# Rows of dy and x packed and multiplied at a time, at most: a panel and a strip of so many fit into L1.
GRADIENT_TERMS = 288
# About so many, unless they are all, where the next ones are prefetched: L2 holds both; beside a resident gradient
# fewer.
PREFETCHED_TERMS, FEW_PREFETCHED_TERMS = 144, 112


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


def _block_rows(terms: int, outputs: int) -> int:
    """Rows of a block, in whole tiles."""
    tile = library("training_kernels").instructions.rows
    short = prefetches() and packed_size(terms, outputs) <= RESIDENT_BYTES
    return -(-(SHORT_BLOCK_BYTES if short else BLOCK_BYTES) // (tile * terms * 4)) * tile


def _gradient_terms(terms: int, outputs: int, channels: int) -> int:
    """Rows at a time, about equally many each."""
    if terms <= GRADIENT_TERMS:
        return terms
    few = FEW_PREFETCHED_TERMS if packed_size(outputs, channels) <= RESIDENT_BYTES else PREFETCHED_TERMS
    return -(-terms // -(-terms // (few if prefetches() else GRADIENT_TERMS)))


def packed_size(terms: int, outputs: int) -> int:
    """Bytes of a packed b (terms, outputs)."""
    return terms * padded(outputs) * 4


def gradient_size(terms: int, outputs: int, channels: int) -> int:
    """Bytes of scratch for the gradient (outputs, channels) of `terms` rows: see add_gradient."""
    instructions = library("training_kernels").instructions
    strips = -(-outputs // instructions.rows)
    return HEADER + strips * (terms * instructions.rows + instructions.lanes) * 4 + packed_size(terms, channels)


def pack(b, terms, outputs, transposed, target):
    """The step that packs the contiguous array b at address `target`."""
    p = step.Pack
    return Kind.PACK, {p.SOURCE: b, p.ROW: b.shape[-1] * 4, p.TERMS: terms, p.OUTPUTS: outputs,
                       p.TRANSPOSED: transposed, p.TARGET: target, p.ONE: ONE}


def _product(x, w, transposed):
    """x wᵀ if transposed, else x w, on the last axis."""
    terms, outputs = w.shape[::-1] if transposed else w.shape
    rows, p = x.size // terms, step.Product
    y = empty(*x.shape[:-1], padded(outputs))
    columns = {p.ROWS: rows, p.TERMS: terms, p.OUTPUTS: outputs, p.A: x, p.LDA: terms * 4, p.C: y,
               p.LDC: padded(outputs) * 4, p.STREAM: worth_streaming(y, product=True)}
    if amx_planning.suits(rows, terms, outputs):
        block = amx_planning.block_rows(rows, terms, outputs)
        few, own = rows <= block, amx_planning.scratch_size(block, terms, outputs)
        address, size = scratch(own + (0 if few else amx_planning.packed_size(terms, outputs)))
        product = Kind.AMX_PRODUCT, columns | {
            p.B: 0 if few else address + own, p.BLOCK: block, p.SCRATCH: address, p.SCRATCH_SIZE: size, p.SOURCE: w,
            p.SOURCE_ROW: w.shape[1] * 4, p.TRANSPOSED: transposed}
        before = () if few else (amx_planning.pack(w, terms, outputs, transposed, address + own, address, size),)
        run(*before, product)
    else:
        address, _ = scratch(packed_size(terms, outputs))
        run(pack(w, terms, outputs, transposed, address), (Kind.PRODUCT, columns | {
            p.B: address, p.BLOCK: _block_rows(terms, outputs)}))
    return without_padding(y, outputs)


def _gradient(dy, x):
    """dw = dyᵀ x of two matrices."""
    terms, outputs, channels = len(dy), dy.shape[1], x.shape[1]
    dw, g = unshared(outputs, padded(channels)), step.Gradient
    columns = {g.TERMS: terms, g.A: dy, g.A_ROW: outputs * 4, g.A_COLUMNS: outputs, g.B: x, g.B_ROW: channels * 4,
               g.B_COLUMNS: channels, g.C: dw, g.C_ROW: padded(channels) * 4}
    if amx_planning.suits(outputs, terms, channels) and channels % TILE_SIDE == 0:
        kind, block = Kind.AMX_GRADIENT, amx_planning.GRADIENT_TERMS
        address, size = scratch(amx_planning.gradient_size(block, outputs, channels))
    else:
        kind, block = Kind.GRADIENT, _gradient_terms(terms, outputs, channels)
        address, size = scratch(gradient_size(block, outputs, channels))
    run((kind, columns | {g.BLOCK: block, g.SCRATCH: address, g.SCRATCH_SIZE: size}))
    return dw if dw.shape[1] == channels else contiguous(dw[:, :channels])
