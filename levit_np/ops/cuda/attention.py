"""Attention and what feeds it. Scores and probabilities never go to memory: the backward recomputes them from `Kept`,
which takes the probabilities' place."""

from typing import NamedTuple

import numpy as np

from ...errors import BackendError
from .. import reference
from ..reference import gather_bias, merge_heads, merge_heads_backward, split_heads  # noqa: F401
from ..side_by_side import whole_of
from .device import arrays, current, launch, on_hopper
from .geometry import CHUNK_BYTES, SIZES, WARP, attention_for, ceil_div, head_size, heads_for, images_for
from .kernel import Kernel, View
from .operands import contiguous, element_of
from .reduction import sum_parts

LOG2_E = 1.4426950408889634  # the kernels' softmax is to base 2
THREADS = 256
OFFSETS = 8  # as in bias.cu
MOST_NUMBERS = 2**31 - 1  # of a bias in lane order, which its kernel counts in int


class Kept(NamedTuple):
    """What the backward needs, in place of the probabilities."""

    bias: object  # (heads, Nq, Nk) float32 or None
    # The bias in lane order, its heads and tiles: what `arranged` returns.
    arranged: tuple
    logarithms: object  # (B, heads, Nq): log2 Σ 2^score of each row
    y: object  # (B, Nq, heads, V padded)
    q: object
    k: object
    scale: float

    def probabilities(self):
        """The probabilities as an array."""
        return attention_probabilities(self)


def attention(q, k, v, bias, scale):
    """y = softmax(scale · q kᵀ + bias) v, scale > 0.

    q (B, heads, Nq, D), k (B, heads, Nk, D), v (B, heads, Nk, V), bias (heads, Nq, Nk) or None -> y (B, heads, Nq, V),
    Kept (see attention_probabilities)."""
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
    rows = xp.empty((batch, heads, 16 * tiles[0], 2), "float32")  # of each row of scores: its logarithm and Σ dy y
    ds = xp.empty((batch, heads, *tiles, 128), q.dtype)
    # Side by side, as split_heads took q, k and v out of one array: see split_heads_backward.
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
    """The gradients to the parts, (B, heads, N, size) each -> dx (B, N, heads·Σsizes).

    Without a copy where the parts already lie side by side in one array, as attention_backward leaves them."""
    found = whole_of(parts, current().address)
    return reference.split_heads_backward(parts) if found is None else found


def attention_probabilities(probabilities):
    """The probabilities (B, heads, Nq, Nk), float32, recomputed from what attention returned beside y."""
    kept, q, k = probabilities, probabilities.q, probabilities.k
    sizes = head_size(q.shape[-1]), 16
    element, (batch, heads, queries, _), keys = element_of(q, k), q.shape, k.shape[2]
    tokens = [_Tokens(x, sizes[0]) for x in (q, k)]
    p = arrays().empty((batch, heads, queries, keys), "float32")
    if p.size:
        launch(_kernel("attention_backward", "attention_probabilities", element, sizes), (ceil_div(p.size, THREADS),),
               (THREADS,), (*(t.view for t in tokens), kept.bias, kept.logarithms, p, batch, heads, queries, keys,
                            *(s for t in tokens for s in t.strides), kept.scale * LOG2_E, LOG2_E))
    return p


def bias_index(height, width, stride=1):
    """Which entry of a head's table (height·width,) a pair of pixels uses: |Δy|·width + |Δx|.  -> (Nq, Nk) int64.

    Queries are every stride-th pixel, keys all."""
    return arrays().asarray(reference.bias_index(height, width, stride))


def gather_bias_backward(dbias, index, offsets):
    """Every pair that shared an offset adds to it.  -> dtable (heads, offsets)."""
    dtable = arrays().empty((len(dbias), offsets), "float32")
    threads = 1024  # the most a block may have: each block reads all pairs
    launch(Kernel("bias", "gather_bias_backward"), (ceil_div(offsets, OFFSETS), len(dbias)), (threads,),
           (contiguous(dbias, np.float32), contiguous(index), dtable, index.size, offsets),
           threads // WARP * OFFSETS * 4)
    return dtable


def arranged(bias, queries, keys, turned, element, dtype, scale):
    """(the bias in lane order, divided by the scores' scale; its heads, row tiles, column tiles). Rows are queries or,
    turned, keys."""
    rows, columns, strides = (keys, queries, (1, keys)) if turned else (queries, keys, (keys, 1))
    heads, tiles = 1 if bias is None else len(bias), (ceil_div(rows, 16), 2 * ceil_div(columns, 16))
    size = heads * tiles[0] * tiles[1] * 128
    if size > MOST_NUMBERS:
        raise BackendError(f"backend cuda: expected at most {MOST_NUMBERS:,} numbers of an attention's bias, found "
                           f"{size:,}: the images are too large")
    out = arrays().empty((heads, *tiles, 128), dtype)
    if out.size:
        launch(Kernel("bias", "arrange_bias", element), (ceil_div(out.size, THREADS),), (THREADS,),
               (bias, out, heads, rows, columns, *strides, *tiles, 1 / scale))
    return out, heads, *tiles


def _sum_over_images(ds, queries, keys):
    """ds (images, heads, row tiles, column tiles, 128), in lane order -> (heads, queries, keys)."""
    images, heads, *tiles = ds.shape[:4]
    size = ds.size // images
    chunks = size * ds.dtype.itemsize // CHUNK_BYTES
    parts, count = images_for(chunks, images)
    sums = arrays().empty((parts, heads, queries, keys), "float32")
    launch(Kernel("bias", "sum_over_images", element_of(ds)), (ceil_div(chunks, THREADS), parts), (THREADS,),
           (ds, sums, images, count, size, heads, queries, keys, *tiles))
    return sum_parts(sums)


def _kernel(source, name, element, sizes):
    return Kernel(source, name, element, (("KEY_SIZE", sizes[0]), ("VALUE_SIZE", sizes[1])))


class _Tokens:
    """x (B, heads, N, size) as the kernels read it: in place, if each token is `size` numbers in whole chunks, else as
    a padded copy; and its strides (image, token, head), in numbers."""

    def __init__(self, x, size):
        step = x.dtype.itemsize
        if x.shape[-1] != size or x.strides[-1] != step or any(s % 16 for s in (current().address(x), *x.strides[:-1])):
            y = arrays().zeros((*x.shape[:-1], size), x.dtype)
            y[..., : x.shape[-1]] = x
            x = y
        self.view = View(x)
        self.strides = tuple(np.int64(x.strides[axis] // step) for axis in (0, 2, 1))
