"""The vocabulary of operations: one module a backend, the same names in each."""

from ..errors import BackendError

BACKENDS = ("reference",)


def backend(name: str):
    """The module of operations called `name`; "auto" takes the fastest there is."""
    if name not in (*BACKENDS, "auto"):
        raise BackendError(f"backend: expected one of {', '.join(BACKENDS)} or auto, found {name!r}")
    from . import reference

    return reference
