"""From many tokens to fewer, and between the two layouts of tokens: the mean is a kernel, the rest only moves numbers.
"""

from .. import reference
from ..reference import (  # noqa: F401
    first_token, first_token_backward, image_to_tokens, subsample, subsample_backward, tokens_to_image)
from .device import arrays, launch
from .geometry import ceil_div
from .kernel import Kernel
from .operands import contiguous, element_of
from .reduction import sum_columns

THREADS = 128


def average_pool(x):
    """The mean token.  x (B, N, C) -> (B, C)."""
    batch, tokens, channels = x.shape
    y = arrays().empty((batch, channels), x.dtype)
    if y.size:
        launch(Kernel("reduction", "average_tokens", element_of(x)), (ceil_div(y.size, THREADS),), (THREADS,),
               (contiguous(x), y, batch, tokens, tokens, channels))
    return y


def average_pool_backward(dy, tokens):
    """Each of the N tokens took part with weight 1/N."""
    return arrays().repeat((dy * (1 / tokens)).astype(dy.dtype)[:, None], tokens, 1)


def prepend_token(x, token):
    """One token (1, C) before every image's: rounded to their type.  x (B, N, C) -> (B, N + 1, C)."""
    return reference.prepend_token(x, token.astype(x.dtype, copy=False))


def prepend_token_backward(dy):
    """-> dx (B, N, C), dtoken (1, C): every image had the same token, so its gradient sums over them."""
    return dy[:, 1:], sum_columns(dy[:, 0])[None]


def drop_path_mask(generator, batch, rate, dtype):
    """(B, 1, 1): 0 with probability `rate`, else 1 / (1 - rate), so that the expected branch is unchanged.

    Drawn on the host, so that every backend draws the same."""
    return arrays().asarray(reference.drop_path_mask(generator, batch, rate, dtype))
