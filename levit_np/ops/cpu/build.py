"""Compiles the kernels: python -m levit_np.ops.cpu.build INSTRUCTIONS writes the machine code to standard output.

Always in a process of its own: Numba then takes neither time nor memory from the one that computes, and can be told of
another processor than this one.
"""

import json
import sys

from .instruction_set import SETS


def machine_code(name: str) -> tuple[str, bytes]:
    """(the symbol of `run`, an object file) for the instruction set called `name`."""
    from numba import types

    from .kernels import kernels

    run = kernels(SETS[name])
    run.compile(types.void(*[types.int64] * 7))
    (compiled,) = run.overloads.values()
    # Numba's own way to keep compiled code; an object file, ready to be linked.
    _, kind, (code, _) = compiled.library.serialize_using_object_code()
    assert kind == "object"
    return compiled.fndesc.llvm_func_name, code


def main():
    symbol, code = machine_code(sys.argv[1])
    sys.stdout.buffer.write(json.dumps({"symbol": symbol}).encode() + b"\n" + code)


if __name__ == "__main__":
    main()
