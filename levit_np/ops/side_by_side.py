"""Heads' queries, keys and values that lie in one array, as reference.split_heads takes them out of it: their
gradients, written so, need no copy to become the gradient of that array."""

from itertools import accumulate


def whole_of(parts, address):
    """The array (B, N, heads·Σsizes) of which parts, (B, heads, N, size) each, are the views side by side; None where
    they are not.  address(array): where its first number is."""
    base, (batch, heads, tokens, _), number = parts[0].base, parts[0].shape, parts[0].dtype.itemsize
    size = sum(p.shape[-1] for p in parts)
    begin, starts = address(parts[0]), accumulate((number * p.shape[-1] for p in parts[:-1]), initial=0)
    strides = tuple(number * n for n in (tokens * heads * size, size, heads * size, 1))
    # Views whose numbers interleave so lie in one array, which is the `base` of each.
    if (not isinstance(base, type(parts[0])) or base.dtype != parts[0].dtype or not base.flags.c_contiguous
            or any(p.base is not base or p.strides != strides for p in parts)
            or [address(p) - begin for p in parts] != list(starts)):
        return None
    first = (begin - address(base)) // number
    return base.reshape(-1)[first : first + batch * tokens * heads * size].reshape(batch, tokens, heads * size)
