"""Recognises parts (queries, keys, values) that are views of one array, as reference.split_heads returns them.
Gradients laid out that way already are the gradient of the whole array, so split_heads_backward needs no copy."""

from itertools import accumulate


def whole_of(parts, address):
    """The array (B, N, heads·Σsizes) of which `parts`, (B, heads, N, size) each, are adjacent views; None if they are
    not.  address(array) returns the address of its first number."""
    base, (batch, heads, tokens, _), number = parts[0].base, parts[0].shape, parts[0].dtype.itemsize
    size = sum(p.shape[-1] for p in parts)
    begin, starts = address(parts[0]), accumulate((number * p.shape[-1] for p in parts[:-1]), initial=0)
    strides = tuple(number * n for n in (tokens * heads * size, size, heads * size, 1))
    # All parts must be views of the same base, with the strides and the offsets of split_heads.
    if (not isinstance(base, type(parts[0])) or base.dtype != parts[0].dtype or not base.flags.c_contiguous
            or any(p.base is not base or p.strides != strides for p in parts)
            or [address(p) - begin for p in parts] != list(starts)):
        return None
    first = (begin - address(base)) // number
    return base.reshape(-1)[first : first + batch * tokens * heads * size].reshape(batch, tokens, heads * size)
