"""Subsampling in training: copies by NumPy, written where the backend's arrays lie. A recording would otherwise copy
each result once more."""

import numpy as np

from .. import reference
from .recording import computed
from .running import empty, fits


def subsample(x, height, width, stride):
    """y[u, v] = x[u·stride, v·stride].  x (B, height·width, C) -> y (B, Nq, C)."""
    if not fits(x):
        return reference.subsample(x, height, width, stride)
    kept = x.reshape(len(x), height, width, x.shape[-1])[:, ::stride, ::stride]
    y = empty(*kept.shape)
    computed(np.copyto, y, kept)
    return y.reshape(len(x), kept.shape[1] * kept.shape[2], x.shape[-1])


def subsample_backward(dy, height, width, stride):
    """dx[u·stride, v·stride] = dy[u, v], 0 elsewhere.  dy (B, Nq, C) -> dx (B, height·width, C)."""
    if not fits(dy):
        return reference.subsample_backward(dy, height, width, stride)
    dx = empty(len(dy), height, width, dy.shape[-1])
    kept = dx[:, ::stride, ::stride]
    computed(dx.fill, 0)
    computed(np.copyto, kept, dy.reshape(kept.shape))
    return dx.reshape(len(dy), height * width, dy.shape[-1])
