"""Stateless operations on arrays: one module per backend (reference, cpu, cuda), with the same function names in each.

The layers are handed one of these modules, so nothing above this package depends on a backend.
"""

from functools import cache
from importlib import import_module

from ..errors import BackendError, say

# The precisions of each backend.  With a 16-bit precision the parameters stay float32.
PRECISIONS = {"reference": ("float32", "float64"), "cpu": ("float32", "float64", "bfloat16"),
              "cuda": ("float32", "float16", "bfloat16")}


def backend(name: str):
    """The backend module called `name`.  "auto" is "cuda" if there is a usable GPU, else "cpu", with one line on stderr
    that says why.  Raises BackendError for any other name.  "cuda" looks for the GPU when it makes its first array."""
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
    """The type of the parameters for computing in `precision` on backend `name`.  Raises BackendError if the backend
    does not have that precision."""
    module = backend(name)
    allowed = PRECISIONS[module.NAME]
    if precision not in allowed:
        raise BackendError(f"dtype: expected one of {', '.join(allowed)} on the {module.NAME} backend, "
                           f"found {precision!r}")
    if module.NAME == "cuda":
        module.device.current()  # fails here if there is no GPU, before anything is read or downloaded
    elif precision == "bfloat16":
        from .cpu.instruction_set import chosen

        if not chosen().bfloat16:
            raise BackendError("dtype bfloat16: expected a processor with AVX512-BF16 or AMX (and "
                               f"LEVIT_NP_INSTRUCTIONS to allow it), found {chosen().name}; use float32")
    return precision if precision == "float64" else "float32"
