"""Compiles a set of kernels: python -m levit_np.ops.cpu.build PART INSTRUCTIONS writes its machine code to standard
output.

library.py runs it as a process of its own: Numba then costs the computing process neither time nor memory, and can be
told of a processor other than this one."""

import sys
from importlib import import_module

from . import machine_code
from .instruction_set import SETS
from .linker import flatten


def compiled(part: str, name: str) -> tuple[bytes, str]:
    """(an object file, the symbol of `run` in it), for the instruction set called `name`. part: "kernels",
    evaluation's, or "training_kernels".

    Numba would optimise and assemble each function alone, and again inside each caller. It is told not to (NUMBA_OPT,
    before it is imported), and the whole module is optimised once, in half the time."""
    from llvmlite import binding

    run = getattr(import_module(f".{part}", __package__), part)(SETS[name])
    (signature,) = run.signatures
    module = binding.parse_assembly(run.inspect_llvm(signature))
    machine = _machine(SETS[name].cpu)
    options = binding.create_pipeline_tuning_options(speed_level=3)
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module), run.overloads[signature].fndesc.llvm_func_name


def _machine(cpu: str):
    """LLVM's target machine for the processor it calls `cpu`, or for this one."""
    from llvmlite import binding

    near = {"reloc": "pic", "codemodel": "small"}  # 32-bit relative addresses: the code runs wherever it is loaded
    return binding.Target.from_default_triple().create_target_machine(
        cpu=cpu or binding.get_host_cpu_name(), features="" if cpu else binding.get_host_cpu_features().flatten(),
        opt=3, **near if machine_code.IS_IMAGE else {"jit": True})


def write(part: str, name: str, file: int) -> None:
    """Compiles `part` for the instruction set called `name`, and writes the sealed result to an open file descriptor.
    """
    code, symbol = compiled(part, name)
    if machine_code.IS_IMAGE:
        code, symbol = flatten(code, symbol)
    with open(file, "wb") as out:
        out.write(machine_code.packed(code, symbol))


if __name__ == "__main__":
    write(*sys.argv[1:], sys.stdout.fileno())
