"""Operands in the form the kernels read: on the GPU, of one type, contiguous, in whole chunks of 16 bytes."""

from functools import cache

import numpy as np

from ...errors import BackendError
from .device import arrays, current, rounded
from .geometry import CHUNK_BYTES
from .kernel import ELEMENTS


def element_of(*values) -> str:
    """The kernels' name of the type that all of these have. Raises BackendError for a type that they do not compute in.
    """
    kinds = {_name(value.dtype) for value in values}
    if len(kinds) > 1 or not kinds <= set(ELEMENTS):
        raise BackendError(f"backend cuda: expected arrays of one type of {', '.join(ELEMENTS)}, "
                           f"found {', '.join(sorted(kinds))}")
    return ELEMENTS[kinds.pop()]


@cache
def _name(dtype) -> str:  # NumPy builds the string anew each time
    return dtype.name


def contiguous(x, dtype=None):
    """x as the kernels read it: of `dtype`, contiguous, starting at a multiple of 16 bytes."""
    if x.flags.c_contiguous and dtype in (None, x.dtype) and current().address(x) % CHUNK_BYTES == 0:
        return x
    known = rounded(x)
    if dtype not in known:
        y = arrays().ascontiguousarray(x, dtype=dtype).reshape(x.shape)  # ascontiguousarray makes (1,) of ()
        known[dtype] = y if current().address(y) % CHUNK_BYTES == 0 else y.copy()
    return known[dtype]


def padded(x, part: int, dtype=None):
    """contiguous(x), its last axis padded with zeros to whole parts."""
    missing = -x.shape[-1] % part
    if not missing:
        return contiguous(x, dtype)
    y = arrays().zeros((*x.shape[:-1], x.shape[-1] + missing), dtype or x.dtype)
    y[..., : x.shape[-1]] = x
    return y


def type_of(precision: str) -> np.dtype:
    """NumPy's type of a precision. Raises BackendError for bfloat16 where ml_dtypes, the package that adds it, or a
    CuPy that supports it is missing."""
    if precision != "bfloat16":
        return np.dtype(precision)
    try:
        import ml_dtypes
    except ImportError:
        raise BackendError("dtype bfloat16: expected the package ml_dtypes to train in it, which is not installed"
                           ) from None
    current().require_bfloat16()
    return np.dtype(ml_dtypes.bfloat16)


def asarray(x):
    """On the GPU."""
    return current().asarray(x)


def to_host(x) -> np.ndarray:
    """The inverse: a NumPy array."""
    return arrays().asnumpy(x)


def zeros(shape, dtype=float):
    """As NumPy's."""
    return arrays().zeros(shape, dtype)


def zeros_like(x):
    """As NumPy's."""
    return arrays().zeros(x.shape, x.dtype)
