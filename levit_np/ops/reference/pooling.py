"""From many tokens to fewer: the mean of all, the first, or every second pixel; and the tokens' two layouts."""

import numpy as np


def average_pool(x):
    """The mean token.  x (B, N, C) -> (B, C)."""
    return x.mean(1)


def average_pool_backward(dy, tokens):
    """Each of the N tokens took part with weight 1/N."""
    return np.repeat(dy[:, None] / tokens, tokens, 1)


def prepend_token(x, token):
    """The same token (1, C) before those of every image.  x (B, N, C) -> (B, N + 1, C)."""
    return np.concatenate([np.broadcast_to(token, (len(x), *token.shape)), x], 1)


def prepend_token_backward(dy):
    """-> dx (B, N, C), dtoken (1, C): every image had the same token, so its gradient sums over them."""
    return dy[:, 1:], dy[:, :1].sum(0)


def first_token(x):
    """The class token's last value.  x (B, N, C) -> (B, C)."""
    return x[:, 0]


def first_token_backward(dy, tokens):
    """None of the N tokens but the first took part."""
    dx = np.zeros((len(dy), tokens, dy.shape[-1]), dy.dtype)
    dx[:, 0] = dy
    return dx


def subsample(x, height, width, stride):
    """Every stride-th pixel of every stride-th row.  x (B, height·width, C) -> (B, Nq, C)."""
    grid = x.reshape(len(x), height, width, x.shape[-1])[:, ::stride, ::stride]
    return grid.reshape(len(x), grid.shape[1] * grid.shape[2], x.shape[-1])


def subsample_backward(dy, height, width, stride):
    """The pixels that were left out get 0."""
    dx = np.zeros((len(dy), height, width, dy.shape[-1]), dy.dtype)
    kept = dx[:, ::stride, ::stride]
    kept[...] = dy.reshape(kept.shape)
    return dx.reshape(len(dy), height * width, dy.shape[-1])


def image_to_tokens(x):
    """(B, C, H, W) -> (B, H·W, C)."""
    return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3]).swapaxes(1, 2)


def tokens_to_image(x, height, width):
    """(B, H·W, C) -> (B, C, H, W): the inverse of image_to_tokens, and so its backward."""
    return x.swapaxes(1, 2).reshape(len(x), x.shape[-1], height, width)


def drop_path_mask(generator, batch, rate, dtype):
    """(B, 1, 1): 0 with probability `rate`, else 1 / (1 - rate), so that the expected branch is unchanged."""
    return (generator.random((batch, 1, 1)) >= rate).astype(dtype) / dtype.type(1 - rate)
