"""The vocabulary of operations: one module a backend, the same names in each."""

from functools import cache
from importlib import import_module

from ..errors import BackendError, say

# What each backend can compute in.  Parameters are kept in float32 for the precisions of 16 bits.
PRECISIONS = {"reference": ("float32", "float64"), "cpu": ("float32", "float64", "bfloat16"),
              "cuda": ("float32", "float16", "bfloat16")}


def backend(name: str):
    """The module of operations called `name`; "auto" is the fastest there is: the GPU's, or where there is none the
    processor's, which is said once.  Raises BackendError for any other name.  Of "cuda", whether there is a GPU is
    looked at when the first array is made."""
    if name not in (*PRECISIONS, "auto"):
        raise BackendError(f"backend: expected one of {', '.join(PRECISIONS)} or auto, found {name!r}")
    return import_module(f".{_fastest() if name == 'auto' else name}", __name__)


@cache
def _fastest() -> str:
    from .cuda import device

    try:
        device.current()
    except BackendError as error:
        say(f"levit_np: auto takes the backend cpu ({error})")
        return "cpu"
    return "cuda"


def stored_type(name: str, precision: str) -> str:
    """The type of the parameters for a precision on a backend.  Raises BackendError where the backend lacks it."""
    module = backend(name)
    allowed = PRECISIONS[module.NAME]
    if precision not in allowed:
        raise BackendError(f"dtype: expected one of {', '.join(allowed)} on the {module.NAME} backend, "
                           f"found {precision!r}")
    if module.NAME == "cuda":
        module.device.current()  # before anything is read or fetched
    elif precision == "bfloat16":
        from .cpu.instruction_set import chosen

        if not chosen().half:
            raise BackendError("dtype bfloat16: expected a processor with AVX512-BF16 or AMX (and "
                               f"LEVIT_NP_INSTRUCTIONS to allow it), found {chosen().name}; use float32")
    return precision if precision == "float64" else "float32"
