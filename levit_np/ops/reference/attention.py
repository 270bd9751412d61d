"""Attention with a translation-invariant bias (the paper's equation 1), and the lookup and reshapes around it.

Attention is one operation, so that a backend can fuse it into one kernel.
"""

import numpy as np

from .activation import softmax, softmax_backward


def attention(q, k, v, bias, scale):
    """y = softmax(scale · q kᵀ + bias) v.

    q (B, heads, Nq, D), k (B, heads, Nk, D), v (B, heads, Nk, V), bias (heads, Nq, Nk) or None
    -> y (B, heads, Nq, V), probabilities (B, heads, Nq, Nk): the softmax, kept for the backward.
    """
    scores = (q @ k.swapaxes(-1, -2)) * scale  # (B, heads, Nq, Nk)
    if bias is not None:
        scores = scores + bias
    probabilities = softmax(scores)
    return probabilities @ v, probabilities


def attention_backward(dy, q, k, v, scale, probabilities):
    """dv = pᵀ dy, dp = dy vᵀ, ds = p (dp - Σ_k dp p), dq = scale · ds k, dk = scale · dsᵀ q, dbias = Σ_b ds.

    The forward's steps in reverse, p being the probabilities and s the scores: y = p v gives dv and dp; p = softmax(s),
    over the keys k of each query, gives ds; s = scale · q kᵀ + bias gives dq, dk and dbias. All images share the bias,
    so dbias sums over the batch.  -> dq, dk, dv, dbias (heads, Nq, Nk).
    """
    dv = probabilities.swapaxes(-1, -2) @ dy
    dprobabilities = dy @ v.swapaxes(-1, -2)
    dscores = softmax_backward(dprobabilities, probabilities)
    dq = (dscores @ k) * scale
    dk = (dscores.swapaxes(-1, -2) @ q) * scale
    return dq, dk, dv, dscores.sum(0)


def attention_probabilities(probabilities):
    """softmax(scale · q kᵀ + bias), (B, heads, Nq, Nk), from the second result of `attention`: here the same array;
    a backend whose kernel does not store the probabilities recomputes them."""
    return probabilities


def bias_index(height, width, stride=1):
    """index[q, k] = |Δy|·width + |Δx|: the entry of a head's table (height·width,) for a query's and a key's pixel.

    Every pixel has a key; every stride-th pixel of every stride-th row has a query.  -> index (Nq, Nk) int64."""
    y, x = np.divmod(np.arange(height * width), width)
    queries = (y % stride == 0) & (x % stride == 0)
    return np.abs(y[queries, None] - y) * width + np.abs(x[queries, None] - x)


def gather_bias(table, index):
    """bias[h, q, k] = table[h, index[q, k]]: all pairs at the same offset share one learned number.

    table (heads, offsets), index (Nq, Nk) -> bias (heads, Nq, Nk)."""
    return table.take(index, axis=1)


def gather_bias_backward(dbias, index, offsets):
    """dtable[h, i] = Σ dbias[h, q, k] where index[q, k] = i: a shared number gets the sum over the pairs sharing it.

    -> dtable (heads, offsets)."""
    flat = index.ravel()
    return np.stack([np.bincount(flat, d.ravel(), offsets) for d in dbias]).astype(dbias.dtype)


def split_heads(x, heads, sizes):
    """part[b, h, n, j] = x[b, n, h·Σsizes + start + j]: x holds the parts (q, k, v) of head 0, then those of head 1, ….

    x (B, N, heads·Σsizes) -> one (B, heads, N, size) for each size; start is the sum of the sizes before it."""
    parts = x.reshape(*x.shape[:2], heads, sum(sizes)).transpose(0, 2, 1, 3)
    return [parts[..., end - size : end] for size, end in zip(sizes, np.cumsum(sizes))]


def split_heads_backward(parts):
    """dx[b, n, h·Σsizes + start + j] = dpart[b, h, n, j]: the gradients are put back where the parts came from.

    The gradient of each part, (B, heads, N, size) -> dx (B, N, heads·Σsizes)."""
    return merge_heads(np.concatenate(parts, -1))


def merge_heads(x):
    """y[b, n, h·V + j] = x[b, h, n, j]: concatenates the heads.  x (B, heads, N, V) -> y (B, N, heads·V)."""
    x = x.transpose(0, 2, 1, 3)
    return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3])


def merge_heads_backward(dy, heads):
    """dx[b, h, n, j] = dy[b, n, h·V + j]: splits the gradient into the heads again.

    dy (B, N, heads·V) -> dx (B, heads, N, V)."""
    return dy.reshape(*dy.shape[:2], heads, dy.shape[2] // heads).transpose(0, 2, 1, 3)
