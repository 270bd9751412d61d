"""Whose arrays a caller has, NumPy's or CuPy's: what is computed of them comes back as the same kind."""

import sys

import numpy as np


def to_backend(ops, x):
    """x as a backend's array."""
    return ops.asarray(x if ops.NAME == "cuda" else as_numpy(x))


def as_numpy(x):
    """x as NumPy's array; a CuPy array is copied to the host, as NumPy does not by itself."""
    return x if isinstance(x, np.ndarray) or not hasattr(x, "get") else x.get()


def as_given(ops, found, x):
    """found, a backend's arrays, in tuples and dictionaries too, as NumPy's or CuPy's, whichever x is."""
    if isinstance(found, dict):
        return {key: as_given(ops, part, x) for key, part in found.items()}
    if isinstance(found, tuple):
        return tuple(as_given(ops, part, x) for part in found)
    if found is None or isinstance(x, type(found)):
        return found
    return ops.to_host(found) if isinstance(x, np.ndarray) else _module_of(x).asarray(found)


def _module_of(x):
    return sys.modules[type(x).__module__.partition(".")[0]]
