"""How Numba compiles a kernel's functions."""

import numba

# The functions are called by address, so no Python wrapper is made. Without one, and with divisions unchecked, the
# machine code needs no symbol of Numba or Python.
OPTIONS = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy"}


def jit(function):
    """Compiles a function of int64 numbers. Numba left to itself would compile it once more for each constant that
    some call hands it."""
    return numba.njit([(numba.types.int64,) * function.__code__.co_argcount], **OPTIONS)(function)
