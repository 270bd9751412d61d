"""Compiles the kernels: python -m levit_np.ops.cpu.build PART INSTRUCTIONS writes the machine code to standard
output.

Always in a process of its own: Numba then takes neither time nor memory from the one that computes, and can be told of
another processor than this one.
"""

import sys
from importlib import import_module

from . import machine_code
from .image import flatten
from .instruction_set import SETS


def compiled(part: str, name: str) -> tuple[bytes, str]:
    """(an object file, the name of `run` in it) of "kernels", evaluation's, or "training_kernels", for the instruction
    set called `name`."""
    from numba import types
    from numba.core.codegen import JITCPUCodegen

    options_of = JITCPUCodegen._customize_tm_options

    def near(codegen, options):
        """Numba's code names absolute addresses of 64 bits; this, distances of 32: it runs wherever it lies."""
        options_of(codegen, options)
        options |= {"reloc": "pic", "codemodel": "small"}

    if machine_code.IS_IMAGE:
        JITCPUCodegen._customize_tm_options = near
    run = getattr(import_module(f".{part}", __package__), part)(SETS[name])
    run.compile(types.void(*[types.int64] * 7))
    (result,) = run.overloads.values()
    # Numba's own way to keep compiled code.
    _, kind, (code, _) = result.library.serialize_using_object_code()
    assert kind == "object"
    return code, result.fndesc.llvm_func_name


def write(part: str, name: str, file: int) -> None:
    """Compiles `part` for the instruction set called `name`, and writes the sealed result to an open file."""
    code, symbol = compiled(part, name)
    if machine_code.IS_IMAGE:
        code, symbol = flatten(code, symbol)
    with open(file, "wb") as out:
        out.write(machine_code.packed(code, symbol))


if __name__ == "__main__":
    write(*sys.argv[1:], sys.stdout.fileno())
