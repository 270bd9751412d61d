"""Operations on whole tokens: pooling, the class token, subsampling, the layouts (B, N, C) and (B, C, H, W), and the
mask of drop path, which drops a residual branch for all tokens of an image."""

import numpy as np


def average_pool(x):
    """y = 1/N Σ_n x[:, n]: the mean token.  x (B, N, C) -> y (B, C)."""
    return x.mean(1)


def average_pool_backward(dy, tokens):
    """dx[:, n] = dy / N: each of the N tokens has weight 1/N in the mean.  dy (B, C) -> dx (B, N, C)."""
    return np.repeat(dy[:, None] / tokens, tokens, 1)


def prepend_token(x, token):
    """y = (token, x₁, …, x_N): puts one token (1, C) before every image's.  x (B, N, C) -> y (B, N + 1, C)."""
    return np.concatenate([np.broadcast_to(token, (len(x), *token.shape)), x], 1)


def prepend_token_backward(dy):
    """dx = dy[:, 1:], dtoken = Σ_b dy[:, 0]: all images share the token, so its gradient sums over the batch.

    -> dx (B, N, C), dtoken (1, C)."""
    return dy[:, 1:], dy[:, :1].sum(0)


def first_token(x):
    """y = x₀: the class token, after the last layer.  x (B, N, C) -> y (B, C)."""
    return x[:, 0]


def first_token_backward(dy, tokens):
    """dx₀ = dy, all others 0: only the first of the N tokens is read.  -> dx (B, N, C)."""
    dx = np.zeros_like(dy, shape=(len(dy), tokens, dy.shape[-1]))
    dx[:, 0] = dy
    return dx


def subsample(x, height, width, stride):
    """y[u, v] = x[u·stride, v·stride]: every stride-th pixel of every stride-th row.

    x (B, height·width, C) -> y (B, Nq, C)."""
    grid = x.reshape(len(x), height, width, x.shape[-1])[:, ::stride, ::stride]
    return grid.reshape(len(x), grid.shape[1] * grid.shape[2], x.shape[-1])


def subsample_backward(dy, height, width, stride):
    """dx[u·stride, v·stride] = dy[u, v]: the pixels that were skipped get 0.  -> dx (B, height·width, C)."""
    dx = np.zeros_like(dy, shape=(len(dy), height, width, dy.shape[-1]))
    kept = dx[:, ::stride, ::stride]
    kept[...] = dy.reshape(kept.shape)
    return dx.reshape(len(dy), height * width, dy.shape[-1])


def image_to_tokens(x):
    """y[b, u·W + v, c] = x[b, c, u, v]: each pixel becomes a token.  x (B, C, H, W) -> y (B, H·W, C)."""
    return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3]).swapaxes(1, 2)


def tokens_to_image(x, height, width):
    """y[b, c, u, v] = x[b, u·W + v, c]: the inverse of image_to_tokens, and so its backward.

    x (B, H·W, C) -> y (B, C, H, W)."""
    return x.swapaxes(1, 2).reshape(len(x), x.shape[-1], height, width)


def drop_path_mask(generator, batch, rate, dtype):
    """mask = 0 with probability rate, else 1 / (1 - rate): its expectation is 1.  -> mask (B, 1, 1).

    Drop path, or stochastic depth (Huang et al., arXiv 1603.09382)."""
    return (generator.random((batch, 1, 1)) >= rate).astype(dtype) / dtype.type(1 - rate)
