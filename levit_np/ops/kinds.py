"""Conversions between NumPy's and CuPy's arrays at the public border: results come back as the kind of array that the
caller passed, whatever the backend computes with."""

import sys

import numpy as np


def to_backend(ops, x):
    """x, of NumPy or CuPy, as an array of the backend."""
    return ops.asarray(x if ops.NAME == "cuda" else as_numpy(x))


def as_numpy(x):
    """x as a NumPy array; a CuPy array is copied to the host, which NumPy refuses to do implicitly."""
    return x if isinstance(x, np.ndarray) or not hasattr(x, "get") else x.get()


def as_given(ops, found, x):
    """`found`, an array of the backend or tuples and dictionaries of them, as the kind of array that x is."""
    if isinstance(found, dict):
        return {key: as_given(ops, part, x) for key, part in found.items()}
    if isinstance(found, tuple):
        return tuple(as_given(ops, part, x) for part in found)
    if found is None or isinstance(x, type(found)):
        return found
    return ops.to_host(found) if isinstance(x, np.ndarray) else _module_of(x).asarray(found)


def _module_of(x):
    return sys.modules[type(x).__module__.partition(".")[0]]
