"""Attention and what feeds it.  Scores and probabilities are never in memory: the backward computes them again, from
what stands in `Kept` in the probabilities' place."""

from typing import NamedTuple

import numpy as np

from ...errors import BackendError
from .. import reference
from ..reference import merge_heads, merge_heads_backward, split_heads  # noqa: F401
from ..side_by_side import whole_of
from .device import arrays, current, launch, on_hopper
from .geometry import CHUNK_BYTES, SIZES, WARP, attention_for, cover, head_size, heads_for, images_for
from .kernel import Kernel, View
from .operands import contiguous, element_of
from .reduction import sum_parts

LOG2_E = 1.4426950408889634  # the kernels' softmax is to base 2
THREADS = 256
OFFSETS = 8  # as in bias.cu
MOST_NUMBERS = 2**31 - 1  # of a bias in the order of the lanes, which its kernels count


class Kept(NamedTuple):
    """What the backward needs in place of the probabilities."""

    bias: object  # (heads, Nq, Nk) float32 or None
    arranged: tuple  # the bias in the order of the lanes, with what `arranged` says of it
    logarithms: object  # (B, heads, Nq): log2 of the sum of a row's 2^score
    y: object  # (B, Nq, heads, V as the kernels have it)
    q: object
    k: object
    scale: float

    def probabilities(self):
        """The array itself."""
        return attention_probabilities(self)


def attention(q, k, v, bias, scale):
    """y = softmax(scale · q kᵀ + bias) v, scale > 0.

    q (B, heads, Nq, D), k (B, heads, Nk, D), v (B, heads, Nk, V), bias (heads, Nq, Nk) or None
    -> y (B, heads, Nq, V), Kept: see attention_probabilities.
    """
    element, (batch, heads, queries, _), keys = element_of(q, k, v), q.shape, k.shape[2]
    sizes = head_size(q.shape[-1]), head_size(v.shape[-1])
    bias = None if bias is None else contiguous(bias, np.float32)
    ordered = arranged(bias, queries, keys, False, element, q.dtype, scale)
    y = arrays().empty((batch, queries, heads, sizes[1]), q.dtype)
    logarithms = arrays().empty((batch, heads, queries), "float32")
    if y.size:
        tokens = [_Tokens(x, size) for x, size in zip((q, k, v), (sizes[0], *sizes))]
        name, shape = attention_for(queries, keys, batch * heads, *sizes, element, on_hopper())
        launch(_kernel(name, name, element, sizes), shape.grid, shape.block,
               (*(t.view for t in tokens), ordered[0], y, logarithms, batch, heads, queries, keys,
                *(s for t in tokens for s in t.strides), *ordered[1:], scale * LOG2_E, 0), shape.shared)
    return y[..., : v.shape[-1]].transpose(0, 2, 1, 3), Kept(bias, ordered, logarithms, y, q, k, scale)


def attention_backward(dy, q, k, v, scale, probabilities):
    """-> dq, dk, dv, dbias (heads, Nq, Nk): the bias was added to every image, so its gradient sums over them."""
    kept, element = probabilities, element_of(q, k, v)
    (batch, heads, queries, key), (keys, value) = q.shape, v.shape[2:]
    sizes = head_size(key), head_size(value)
    xp = arrays()
    tiles = kept.arranged[2:]
    rows = xp.empty((batch, heads, 16 * tiles[0], 2), "float32")  # of scores: the logarithm and Σ dy y
    ds = xp.empty((batch, heads, *tiles, 128), q.dtype)
    # Side by side, as split_heads found q, k and v: see split_heads_backward.
    together = [(queries, (sizes[0],)), (keys, sizes)] if queries != keys else [(keys, (sizes[0], *sizes))]
    views = [view for n, wide in together
             for view in split_heads(xp.empty((batch, n, heads * sum(wide)), q.dtype), heads, wide)]
    if not ds.size:
        return *(g[..., :n] for g, n in zip(views, (key, key, value))), xp.zeros((heads, queries, keys), "float32")
    dy = dy.astype(q.dtype, copy=False)
    tokens = [_Tokens(x, size) for x, size in zip((q, k, v, dy), (sizes[0], *sizes, sizes[1]))]
    strides, out = [s for t in tokens for s in t.strides], [_Tokens(g, g.shape[-1]) for g in views]
    inputs, shape = tuple(t.view for t in tokens), (batch, heads, queries, keys)
    size, factors, pairs = sum(sizes) * SIZES[element], (scale, scale * LOG2_E), batch * heads

    by_query = heads_for(queries, keys, pairs, size)
    launch(_kernel("attention_backward", "attention_queries", element, sizes), by_query.grid, by_query.block,
           (*inputs, kept.y, kept.arranged[0], kept.logarithms, out[0].view, rows, ds, *shape, *strides,
            *out[0].strides, *kept.arranged[1:], *factors), by_query.shared)
    turned = arranged(kept.bias, queries, keys, True, element, q.dtype, scale)
    by_key = heads_for(keys, queries, pairs, size)
    launch(_kernel("attention_backward", "attention_keys", element, sizes), by_key.grid, by_key.block,
           (*inputs, turned[0], rows, out[1].view, *shape, *strides, *out[1].strides, *turned[1:], *factors),
           by_key.shared)
    launch(_kernel("attention_backward", "attention_values", element, sizes), by_key.grid, by_key.block,
           (inputs[0], inputs[1], inputs[3], turned[0], rows, out[2].view, *shape, *strides[:6], *strides[9:],
            *out[2].strides, *turned[1:], factors[1]), by_key.shared)
    return *(g[..., :n] for g, n in zip(views, (key, key, value))), _sum_over_images(ds, queries, keys)


def split_heads_backward(parts):
    """The gradient to each part, (B, heads, N, size) -> dx (B, N, heads·Σsizes): the inverse puts them back.

    Parts that lie side by side already, as attention_backward leaves them, are a view."""
    found = whole_of(parts, current().address)
    return reference.split_heads_backward(parts) if found is None else found


def attention_probabilities(probabilities):
    """What stands beside y as an array: the probabilities (B, heads, Nq, Nk), float32, computed anew."""
    kept, q, k = probabilities, probabilities.q, probabilities.k
    sizes = head_size(q.shape[-1]), 16
    element, (batch, heads, queries, _), keys = element_of(q, k), q.shape, k.shape[2]
    tokens = [_Tokens(x, sizes[0]) for x in (q, k)]
    p = arrays().empty((batch, heads, queries, keys), "float32")
    if p.size:
        launch(_kernel("attention_backward", "attention_probabilities", element, sizes), (cover(p.size, THREADS),),
               (THREADS,), (*(t.view for t in tokens), kept.bias, kept.logarithms, p, batch, heads, queries, keys,
                            *(s for t in tokens for s in t.strides), kept.scale * LOG2_E, LOG2_E))
    return p


def bias_index(height, width, stride=1):
    """Which entry of a head's table (height·width,) a pair of pixels uses: |Δy|·width + |Δx|.  -> (Nq, Nk) int64.

    Queries stand on every stride-th pixel, keys on all."""
    return arrays().asarray(reference.bias_index(height, width, stride))


def gather_bias(table, index):
    """bias[h, q, k] = table[h, index[q, k]].  table (heads, offsets), index (Nq, Nk) -> (heads, Nq, Nk)."""
    return table[:, index]


def gather_bias_backward(dbias, index, offsets):
    """Every pair that shared an offset adds to it.  -> dtable (heads, offsets)."""
    dtable = arrays().empty((len(dbias), offsets), "float32")
    threads = 1024  # as many as a block may have: each block goes over all pairs
    launch(Kernel("bias", "gather_bias_backward"), (cover(offsets, OFFSETS), len(dbias)), (threads,),
           (contiguous(dbias, np.float32), contiguous(index), dtable, index.size, offsets),
           threads // WARP * OFFSETS * 4)
    return dtable


def arranged(bias, queries, keys, turned, element, dtype, scale):
    """(the bias, divided by what the scores are multiplied by, in the order of the lanes; its heads, tiles down and
    across): rows are queries, or, turned, keys."""
    rows, columns, strides = (keys, queries, (1, keys)) if turned else (queries, keys, (keys, 1))
    heads, tiles = 1 if bias is None else len(bias), (cover(rows, 16), 2 * cover(columns, 16))
    size = heads * tiles[0] * tiles[1] * 128
    if size > MOST_NUMBERS:
        raise BackendError(f"backend cuda: expected at most {MOST_NUMBERS:,} numbers of an attention's bias, found "
                           f"{size:,}: the images are too large")
    out = arrays().empty((heads, *tiles, 128), dtype)
    if out.size:
        launch(Kernel("bias", "arrange_bias", element), (cover(out.size, THREADS),), (THREADS,),
               (bias, out, heads, rows, columns, *strides, *tiles, 1 / scale))
    return out, heads, *tiles


def _sum_over_images(ds, queries, keys):
    """ds (images, heads, tiles down and across, 128), in the order of the lanes -> (heads, queries, keys)."""
    images, heads, *tiles = ds.shape[:4]
    size = ds.size // images
    chunks = size * ds.dtype.itemsize // CHUNK_BYTES
    parts, count = images_for(chunks, images)
    sums = arrays().empty((parts, heads, queries, keys), "float32")
    launch(Kernel("bias", "sum_over_images", element_of(ds)), (cover(chunks, THREADS), parts), (THREADS,),
           (ds, sums, images, count, size, heads, queries, keys, *tiles))
    return sum_parts(sums)


def _kernel(source, name, element, sizes):
    return Kernel(source, name, element, (("KEY_SIZE", sizes[0]), ("VALUE_SIZE", sizes[1])))


class _Tokens:
    """x (B, heads, N, size) as the kernels read it: where it lies, if each token there is `size` numbers in whole
    chunks, else a padded copy; and its strides (image, token, head) in numbers."""

    def __init__(self, x, size):
        step = x.dtype.itemsize
        if x.shape[-1] != size or x.strides[-1] != step or any(s % 16 for s in (current().address(x), *x.strides[:-1])):
            y = arrays().zeros((*x.shape[:-1], size), x.dtype)
            y[..., : x.shape[-1]] = x
            x = y
        self.view = View(x)
        self.strides = tuple(np.int64(x.strides[axis] // step) for axis in (0, 2, 1))
