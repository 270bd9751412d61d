"""The arrays of a page: each is packed once and referred to by a number."""

import math

import numpy as np

from .detail import Detail, kept, layout
from .packing import pack


AXES = {"image": 3, "tokens": 2, "heads": 3, "pairs": 3, "filters": 4, "matrix": 2, "table": 2, "vector": 1}
BN = ("gamma", "beta", "mean", "variance")


class Tensors:
    """Collects arrays and numbers them.  The same array is often the output of one stop and the input of others."""

    def __init__(self, detail: Detail):
        self.detail, self._entries, self._numbers = detail, [], {}

    def add(self, op: str, name: str, array: np.ndarray, digits: int | None = None, detail: Detail | None = None,
            rows: list[int] | None = None) -> int | None:
        """The number of an operation's array; None if this detail leaves it out.

        digits: of the largest value, or for a gradient of each value (default: the detail's). rows: the rows to keep of
        a matrix."""
        kind, detail = layout(op, name, array), detail or self.detail
        if kind == "pairs" and not detail.pairs:
            return None
        place = array.__array_interface__["data"][0], array.shape, array.strides
        if place not in self._numbers:
            # The batch axis, if there is one, is the first, and there is one image.
            values = array[0] if array.ndim > AXES[kind] else array
            floating = digits is None and (name.startswith("d") or kind == "vector" and name in BN)
            if digits is None:
                more = name in BN or kind == "heads" and name in ("q", "k")  # the page computes with these
                digits = detail.gradient_digits if name.startswith("d") else detail.digits + more
            options = {"digits": digits, "floating": floating}
            if name == "probabilities":
                options["exponent"] = -4  # hundredths of a percent
            # Keep the array: if it were freed, another one could get its address, which is the key.
            self._entries.append((kind, array, values, kept(kind, name, values.shape, detail, rows), options))
            self._numbers[place] = len(self._entries) - 1
        return self._numbers[place]

    def estimate(self) -> float:
        """An estimate of the number of characters in `table`'s text, as if all 10^digits values were equally likely;
        the actual number was found to be 0.3 of it (in a fresh network, where much is 0) to 1.2 of it."""
        return sum(math.prod(size if k is None else len(k) for size, k in zip(values.shape, chosen))
                   * (3.32 * options["digits"] - 0.7) / 6 for _, _, values, chosen, options in self._entries)

    def table(self) -> tuple[list[dict], str]:
        """(what the page needs to find and decode each array, the text that contains all of them)."""
        rows, texts, start = [], [], 0
        for kind, _, values, chosen, options in self._entries:
            packed = pack(values, chosen, **options)
            rows.append({"layout": kind, "shape": packed.shape, "kept": [_short(k) for k in chosen],
                         "exponent": packed.exponent, "digits": packed.digits, "width": packed.width,
                         "at": [start, len(packed.text)]})
            texts.append(packed.text)
            start += len(packed.text)
        return rows, "".join(texts)


def _short(indices: list[int] | None):
    """A count if the first so many indices are kept, None for all, else the list."""
    return len(indices) if indices and indices == list(range(len(indices))) else indices
