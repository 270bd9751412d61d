"""Arrays as a page holds them: whole numbers of a power of ten, so that what is shown is exact to its last digit.

A value v is kept as n = round(v · 10^decimals), and shown as n · 10^-decimals: never more digits than are there, never
one that was not computed. `decimals` is chosen an array at a time, such that its largest value has `digits` of them.

On the way into the file: negative and positive take turns (0, -1, 1, -2, …) to keep the high bytes alike; the bytes
of one rank stand together; deflate; base64, which is all that HTML text can hold.
"""

import base64
import math
import zlib
from typing import NamedTuple

import numpy as np

# Not finite: the three numbers beyond what `digits` needs.
NAN, INFINITE, MINUS_INFINITE = range(3)


class Packed(NamedTuple):
    """kept: for each axis the indices that are there, None for all of them."""

    shape: tuple[int, ...]
    kept: tuple[list[int] | None, ...]
    decimals: int
    width: int  # bytes a value
    text: str


def pack(array: np.ndarray, kept=None, digits: int = 4, decimals: int | None = None) -> Packed:
    """`decimals`, where it is given, holds for all values; else the largest gets `digits` digits."""
    kept = tuple(kept) if kept is not None else (None,) * array.ndim
    part = array.astype(np.float64, copy=False)
    for axis, indices in enumerate(kept):
        if indices is not None:
            part = part.take(indices, axis)
    finite = np.isfinite(part)
    largest = float(np.abs(part[finite]).max(initial=0.0))
    if decimals is None:
        decimals = _decimals(largest, digits)
    whole = np.rint(_scaled(np.where(finite, part, 0.0), decimals)).astype(np.int64)
    zigzag = np.where(whole >= 0, 2 * whole, -2 * whole - 1) + 3
    if not finite.all():
        zigzag[np.isnan(part)] = NAN
        zigzag[np.isposinf(part)], zigzag[np.isneginf(part)] = INFINITE, MINUS_INFINITE
    width = max(1, (int(zigzag.max(initial=0)).bit_length() + 7) // 8)
    planes = zigzag.astype("<u8").reshape(-1).view(np.uint8).reshape(-1, 8)[:, :width].T
    text = base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode("ascii")
    return Packed(array.shape, kept, decimals, width, text)


def unpack(packed: Packed) -> np.ndarray:
    """The whole numbers n of the indices that are there, float64, with NaN and infinities: what the page decodes."""
    shape = [size if k is None else len(k) for size, k in zip(packed.shape, packed.kept)]
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed.text)), np.uint8).reshape(packed.width, -1)
    zigzag = sum(plane.astype(np.int64) << 8 * rank for rank, plane in enumerate(raw)) - 3
    whole = np.where(zigzag % 2, -(zigzag + 1) // 2, zigzag // 2).astype(np.float64)
    for code, value in ((NAN, np.nan), (INFINITE, np.inf), (MINUS_INFINITE, -np.inf)):
        whole[zigzag == code - 3] = value
    return whole.reshape(shape)


def _decimals(largest: float, digits: int) -> int:
    """How many decimals give `largest` that many digits: 5.3 with 4 digits has 3 (5.300), 0.00021 has 7."""
    return digits - 1 - math.floor(math.log10(largest)) if largest else 0


def _scaled(values: np.ndarray, decimals: int) -> np.ndarray:
    # A power of ten above 10^22 is no float64, nor are negative ones: two exact factors where there have to be two.
    if decimals < 0:
        return values / 10.0 ** -decimals
    first = min(decimals, 22)
    return values * 10.0**first * 10.0 ** min(decimals - first, 280)
