"""Displays arrays as text: statistics, a one-line histogram, a small picture, a table of values."""

from typing import NamedTuple

import numpy as np
from rich.color import Color
from rich.style import Style
from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
_SHADES, _ASCII_SHADES = " ░▒▓█", " .:+#"


class Statistics(NamedTuple):
    low: float
    mean: float
    high: float
    deviation: float


def statistics(array: np.ndarray) -> Statistics | None:
    """Of the finite values, in float64; None if there are none."""
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array.ravel()
    if not finite.size:
        return None
    return Statistics(float(finite.min()), float(finite.mean(dtype=np.float64)), float(finite.max()),
                      float(finite.std(dtype=np.float64)))


def histogram(array: np.ndarray, bins: int = 8) -> str:
    """A histogram in one line, from the lowest value (left) to the highest; heights are the square roots of the
    counts."""
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array.ravel()
    if not finite.size or finite.min() == finite.max():
        return ""
    counts = np.sqrt(np.histogram(finite.astype(np.float64), bins)[0])
    heights = np.ceil(counts / counts.max() * len(_BARS)).astype(int)
    return "".join(_BARS[height - 1] if height else " " for height in heights)


def number(value: float) -> str:
    """Four significant digits, or as many as fit in nine characters."""
    return next(text for digits in (4, 3, 2, 1) if len(text := f"{value:.{digits}g}") <= 9)


def exact(value) -> str:
    """The value with enough digits to distinguish it from every other of its type."""
    return str(value) if isinstance(value, np.generic) else repr(value)


class Picture(NamedTuple):
    """A two-dimensional part of an array, with a caption."""

    plane: np.ndarray  # two-dimensional, or (H, W, 3) of colours from 0 to 1
    caption: str
    planes: int  # how many there are to choose from


def plane_of(name: str, array: np.ndarray, choice: int, grids) -> Picture:
    """Plane number `choice` of an array: for tokens (B, N, C) on one of `grids` (height, width), the map of one
    channel; otherwise the last two axes; a vector is laid out in rows."""
    if array.ndim < 2:
        side = max(1, int(np.ceil(np.sqrt(array.size))))
        rows = np.full(-(-max(array.size, 1) // side) * side, np.nan)
        rows[: array.size] = array.ravel()
        return Picture(rows.reshape(-1, side), f"{name}, in rows of {side}", 1)
    grid = next((grid for grid in grids if array.ndim == 3 and grid[0] * grid[1] == array.shape[1]), None)
    if grid:
        choice %= array.shape[2]
        caption = f"{name}[0, :, {choice}]: channel {choice}, {grid[0]}×{grid[1]} pixels"
        return Picture(array[0, :, choice].reshape(grid), caption, array.shape[2])
    leading = array.shape[:-2]
    planes = int(np.prod(leading))
    index = np.unravel_index(choice % planes, leading) if planes else ()
    place = ", ".join(map(str, map(int, index)))
    caption = f"{name}[{place}]" if index else name
    axes = " queries × keys" if name.endswith(("probabilities", "scores", "bias")) and array.ndim > 2 else ""
    return Picture(array[index], f"{caption}: {array.shape[-2]}×{array.shape[-1]}{axes}", planes)


def picture(plane: np.ndarray, width: int, height: int, colour: bool, ascii_only: bool = False) -> list[Text]:
    """The plane in at most width × height characters; if several values share a dot, it shows their mean.

    In colour a character holds two pixels, red above 0 and blue below; otherwise two characters hold one, darker for
    higher values."""
    if plane.ndim == 3 and not colour:
        plane = plane.mean(-1)
    if colour:
        return _in_colour(_fit(plane, width, 2 * height))
    shades = _ASCII_SHADES if ascii_only else _SHADES
    small = _fit(plane, width // 2, height)  # a character is twice as high as wide
    low, high = np.nanmin(small, initial=np.inf), np.nanmax(small, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        levels = np.nan_to_num((small - low) / ((high - low) or 1) * (len(shades) - 1)).round().astype(int)
    return [Text("".join(2 * shades[level] for level in row)) for row in levels]


def _in_colour(plane: np.ndarray) -> list[Text]:
    if len(plane) % 2:
        plane = np.concatenate([plane, np.full_like(plane[:1], np.nan)])
    colours = plane * 255 if plane.ndim == 3 else _signed(plane)
    rows = []
    for upper, lower in zip(colours[::2], colours[1::2]):
        row = Text()
        for a, b in zip(upper, lower):
            row.append("▀", Style(color=_colour(a), bgcolor=_colour(b)))
        rows.append(row)
    return rows


def _signed(plane: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W, 3): white at 0, red above, blue below, full at the largest absolute value."""
    largest = np.abs(plane[np.isfinite(plane)]).max(initial=0) or 1
    share = np.clip(plane / largest, -1, 1)[..., None]
    red, blue = np.array([190, 20, 30]), np.array([20, 60, 190])
    return 245 + np.where(share > 0, share * (red - 245), -share * (blue - 245))


def _colour(rgb: np.ndarray) -> Color | None:
    return None if np.isnan(rgb).any() else Color.from_rgb(*rgb)


def _fit(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    """Enlarges a small plane by a whole factor, shrinks a large one to means; keeps the proportions unless it is
    narrow."""
    rows, columns = plane.shape[:2]
    scale = max(1, min(width // max(columns, 1), height // max(rows, 1)))
    plane = np.repeat(np.repeat(plane, scale, 0), scale, 1) if scale > 1 else plane
    rows, columns = plane.shape[:2]
    shrink = max(rows / height, columns / width, 1)
    wanted = max(1, min(height, round(rows / shrink))), max(1, min(width, round(columns / shrink)))
    if min(rows, columns) / shrink < 3:  # a narrow strip would vanish: scale each axis separately
        wanted = min(rows, height), min(columns, width)
    return _means(_means(plane, wanted[0], 0), wanted[1], 1)


def _means(plane: np.ndarray, count: int, axis: int) -> np.ndarray:
    """The means of `count` groups of neighbours along an axis."""
    size = plane.shape[axis]
    if count >= size:
        return plane.astype(np.float64)
    first = np.arange(count) * size // count
    sums = np.add.reduceat(plane.astype(np.float64), first, axis)
    shape = [-1 if a == axis else 1 for a in range(plane.ndim)]
    return sums / np.diff([*first, size]).reshape(shape)


def table(array: np.ndarray, width: int, height: int) -> list[str]:
    """The values with all their digits, as many as fit in width × height: one line per row of the array; a vector takes
    as many lines as it needs."""
    if not array.size or array.ndim == 0:
        return [exact(array[()])] if array.size else ["no values"]
    rows = max(1, height - 1)  # the last line says how many are missing
    vector = array.ndim == 1
    plane = array[None, : rows * width] if vector else array.reshape(-1, array.shape[-1])[:rows, :width]
    cells = [[exact(value) for value in row] for row in plane]
    widest = max(len(cell) for row in cells for cell in row)
    columns = max(1, (width + 1) // (widest + 1))
    if vector:
        cells = [cells[0][i : i + columns] for i in range(0, len(cells[0]), columns)]
    cells = [row[:columns] for row in cells[:rows]]
    left = array.size - sum(map(len, cells))
    return [" ".join(f"{cell:>{widest}}" for cell in row) for row in cells] + (
        [f"… and {left:,} more: ask for a smaller part"] if left else [])
