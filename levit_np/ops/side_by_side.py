"""Heads' queries, keys and values that lie in one array, as reference.split_heads takes them out of it: their
gradients, written so, need no copy to become the gradient of that array."""

from itertools import accumulate


def whole_of(parts, address):
    """The array (B, N, heads·Σsizes) of which parts, (B, heads, N, size) each, are the views side by side; None where
    they are not.  address: of an array's first number."""
    base, (batch, heads, tokens, _), number = parts[0].base, parts[0].shape, parts[0].dtype.itemsize
    size = sum(p.shape[-1] for p in parts)
    starts = accumulate((number * p.shape[-1] for p in parts[:-1]), initial=0)
    strides = tuple(number * n for n in (tokens * heads * size, size, heads * size, 1))
    side_by_side = (
        isinstance(base, type(parts[0])) and base.shape == (batch, tokens, heads * size) and base.flags.c_contiguous
        and all(p.base is base and p.dtype == base.dtype and p.strides == strides for p in parts)
        and [address(p) for p in parts] == [address(base) + start for start in starts])
    return base if side_by_side else None
