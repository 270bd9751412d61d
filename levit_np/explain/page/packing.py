"""Packs arrays into the text of a page, as decimal numbers, so that every digit shown is exact.

A value is stored as n · 10^e and shown as such, never with more digits than are stored. In the forward, an array has
one e, such that its largest value has `digits` digits: columns of numbers align, and add up. Gradients differ by orders
of magnitude, so each value has its own e and the full number of digits.

Each value becomes one whole number, with positive and negative values alternating so that high bytes stay similar;
bytes of equal significance are stored together, compressed by deflate, and written in base64, as HTML can only hold
text.
"""

import base64
import math
import zlib
from typing import NamedTuple

import numpy as np

# The first codes stand for values that are not finite; those of finite values follow.
NAN, INFINITE, MINUS_INFINITE, FIRST = range(4)


class Packed(NamedTuple):
    """A packed array.  kept: for each axis the indices that are kept, None for all."""

    shape: tuple[int, ...]
    kept: tuple[list[int] | None, ...]
    exponent: int  # shared by all values, or the smallest one
    digits: int  # of each value; 0 if they share an exponent
    width: int  # bytes per value
    text: str


def pack(array: np.ndarray, kept=None, digits: int = 4, exponent: int | None = None, floating: bool = False) -> Packed:
    """Packs the kept part of an array.  With `floating` each value has `digits` digits; otherwise all share an
    exponent: the given one, or the one that gives the largest value `digits` digits."""
    kept = tuple(kept) if kept is not None else (None,) * array.ndim
    part = array.astype(np.float64, copy=False)
    for axis, indices in enumerate(kept):
        if indices is not None:
            part = part.take(indices, axis)
    finite = np.isfinite(part)
    values = np.where(finite, part, 0.0)
    if floating:
        whole, exponents = _floating(values, digits)
        exponent = int(exponents[whole != 0].min(initial=0))
        # 0, then the 9·10^(digits - 1) values with the smallest exponent, then those with the next.
        code = np.where(whole == 0, 0,
                        (exponents - exponent) * 9 * 10 ** (digits - 1) + np.abs(whole) - 10 ** (digits - 1) + 1)
        code = 2 * code - (whole < 0)
    else:
        largest = float(np.abs(values).max(initial=0.0))
        if exponent is None:
            exponent = math.floor(math.log10(largest)) - digits + 1 if largest else 0
        whole = np.rint(_scaled(values, -exponent)).astype(np.int64)
        code = 2 * np.abs(whole) - (whole < 0)
    code += FIRST
    code[np.isnan(part)] = NAN
    code[np.isposinf(part)], code[np.isneginf(part)] = INFINITE, MINUS_INFINITE
    width = max(1, (int(code.max(initial=0)).bit_length() + 7) // 8)
    planes = code.astype("<u8").reshape(-1).view(np.uint8).reshape(-1, 8)[:, :width].T
    text = base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode("ascii")
    return Packed(array.shape, kept, exponent, digits if floating else 0, width, text)


def unpack(packed: Packed) -> np.ndarray:
    """The kept values as float64, exactly as the page's script decodes them."""
    shape = [size if k is None else len(k) for size, k in zip(packed.shape, packed.kept)]
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed.text)), np.uint8).reshape(packed.width, -1)
    code = sum(plane.astype(np.int64) << 8 * rank for rank, plane in enumerate(raw)) - FIRST
    sizes, signs = (code + 1) // 2, np.where(code % 2, -1.0, 1.0)
    exponents = np.full(code.shape, packed.exponent)
    if packed.digits:
        step = 9 * 10 ** (packed.digits - 1)
        exponents = exponents + (sizes - 1) // step
        sizes = np.where(sizes > 0, (sizes - 1) % step + 10 ** (packed.digits - 1), 0)
    # By parsing text, as 10^e is rarely exact in float64.
    values = np.array([float(f"{n}e{e}") for n, e in zip(sizes.tolist(), exponents.tolist())]) * signs
    for which, value in ((NAN, np.nan), (INFINITE, np.inf), (MINUS_INFINITE, -np.inf)):
        values[code == which - FIRST] = value
    return values.reshape(shape)


def _floating(values: np.ndarray, digits: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, e) of each value, n having `digits` digits or being 0."""
    with np.errstate(divide="ignore"):
        leading = np.where(values, np.floor(np.log10(np.abs(values))), 0).astype(np.int64)
    exponents, whole = leading - digits + 1, np.zeros(values.shape, np.int64)
    for e in np.unique(exponents):
        here = exponents == e
        whole[here] = np.rint(_scaled(values[here], -int(e)))
    above = np.abs(whole) >= 10**digits  # as 9.996 rounds to 10.00
    whole[above] //= 10  # exact, as it is 10^digits
    return np.where(np.abs(whole) < 10 ** (digits - 1), 0, whole), exponents + above


def _scaled(values: np.ndarray, decimals: int) -> np.ndarray:
    """values · 10^decimals."""
    # Only 10^0 to 10^22 are exact in float64: divide for negative powers, and use two factors for larger ones.
    if decimals < 0:
        return values / 10.0**-decimals
    first = min(decimals, 22)
    return values * 10.0**first * 10.0 ** (decimals - first)
