"""How much of a pass goes into a page.  A pass of LeViT-256 has 93 million numbers, 56 million of them weights and
their gradients; a page of 10 MB holds six million, and only a `whole` one, of 160 MB, holds all.

Pictures need every pixel, so arrays are reduced to their first channels: fewer, the more pixels they have. Numbers are
reduced to as many digits as one would read. Attention weights are kept for every key and head and, unless there are too
many (`pairs`), for every query.
"""

import math
from typing import NamedTuple

import numpy as np


class Detail(NamedTuple):
    """reach: a map of N pixels keeps about reach/√N channels, but at least `least`. pairs: about how many values of an
    attention map are kept (but at least one query's), 0 for none."""

    reach: float
    digits: int  # of the largest value of an array
    gradient_digits: int  # of every gradient
    pairs: float
    least: int = 8

    def half(self) -> "Detail":
        """The detail for the second of two losses: half the channels and no attention maps, unless everything is
        kept."""
        return self if self.reach == math.inf else self._replace(reach=self.reach / 2, pairs=0, least=self.least // 2)

    def channels(self, pixels: int) -> int:
        return 10**9 if self.reach == math.inf else max(self.least, 8 * round(self.reach / math.sqrt(pixels) / 8))


# From everything to little; a page uses the first that fits.
DETAILS = (Detail(math.inf, 5, 4, math.inf), Detail(math.inf, 4, 3, math.inf),
           *(Detail(reach, 4, 3, 1e6) for reach in (896, 640, 448, 300, 224, 192, 160, 136)), Detail(112, 4, 2, 4e5),
           Detail(112, 3, 2, 2e5), Detail(56, 3, 2, 1e5), Detail(28, 3, 2, 4e4), Detail(1, 2, 2, 1e4, 4),
           Detail(1, 2, 2, 2e3, 2))


def layout(op: str, name: str, array: np.ndarray) -> str:
    """The meaning of an array's axes, without the batch axis: "image" (C, H, W), "tokens" (N, C), "heads" (heads, N,
    size), "pairs" (heads, Nq, Nk), "filters" (O, C, K, K), "matrix" (O, C), "table" (heads, offsets), "vector"."""
    if name in ("w", "dw"):
        return "filters" if array.ndim == 4 else "matrix"
    if name in ("table", "dtable"):
        return "table"
    if name in ("bias", "dbias", "probabilities", "dprobabilities", "scores") and array.ndim > 2:
        return "pairs"
    if name in ("embedding", "token", "dembedding", "dtoken"):
        return "tokens"
    if array.ndim == 4:
        attends = op.startswith(("attention", "split_heads", "merge_heads"))
        return "heads" if attends else "image"
    return "tokens" if array.ndim == 3 else "vector"


def kept(kind: str, name: str, shape: tuple[int, ...], detail: Detail, rows: list[int] | None = None):
    """For each axis, the indices that are kept, None for all.  rows: the classes to keep of a head's matrix."""
    if detail.reach == math.inf and kind != "pairs":
        return (None,) * len(shape)
    if kind == "image":
        return _first(shape[0], detail.channels(shape[1] * shape[2])) if shape[0] > 3 else None, None, None
    if kind == "tokens":
        return None, _first(shape[1], detail.channels(shape[0]))
    if kind == "heads":  # all queries and keys, so that equation 1 can be computed for any pair
        return None, None, None if name in ("q", "k") else _first(shape[2], max(4, detail.channels(shape[1]) // 4))
    if kind == "pairs":
        step = math.ceil(math.prod(shape) / detail.pairs) if detail.pairs != math.inf else 1
        return None, None if step == 1 else list(range(0, shape[1], step)), None
    if kind in ("filters", "matrix"):
        if rows is not None:
            return rows, None
        if math.prod(shape) > 4096:  # the first convolution's few filters are kept, as colour pictures
            few = max(8, min(64, detail.channels(49)))
            return _first(shape[0], few), _first(shape[1], few), *[None] * (len(shape) - 2)
    if kind == "vector" and name in ("gamma", "beta", "mean", "variance", "dgamma", "dbeta"):
        return (_first(shape[0], max(64, detail.channels(16))),)
    return (None,) * len(shape)


def _first(size: int, count: int) -> list[int] | None:
    return None if count >= size else list(range(count))
