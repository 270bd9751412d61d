"""The processor's peak, measured: a loop of independent multiply-adds, which no matrix product can outrun.

Each accumulator waits only for its own last result, and there are enough of them (latency × units, up to 4 × 4) that no
unit is ever idle. It is written in LLVM IR, so that no compiler removes the loop or chooses other instructions."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import NamedTuple

from ..ops.cpu import processor
from ..ops.cpu.instruction_set import tiles_permitted

ROUNDS = 2_000_000  # iterations, if one were a thousand operations


class Unit(NamedTuple):
    """One kind of multiply-add: its types and name in LLVM, how many accumulators keep it busy, and the operations of
    one."""

    name: str
    precision: str
    features: tuple[str, ...]
    cpu: str  # what LLVM calls a processor with no wider vectors; "" is this one
    vector: str
    factor: str
    call: str
    accumulators: int
    operations: int


UNITS = (
    Unit("avx512", "float32", ("avx512f",), "", "<16 x float>", "<16 x float>", "llvm.fma.v16f32", 24, 32),
    Unit("avx2", "float32", ("avx2", "fma"), "haswell", "<8 x float>", "<8 x float>", "llvm.fma.v8f32", 12, 16),
    Unit("neon", "float32", ("neon",), "", "<4 x float>", "<4 x float>", "llvm.fma.v4f32", 24, 8),
    Unit("avx512_bf16", "bfloat16", ("avx512bf16",), "", "<16 x float>", "<32 x bfloat>",
         "llvm.x86.avx512bf16.dpbf16ps.512", 24, 64),
)


def peaks(threads: int = 1) -> dict[str, float]:
    """{unit: GFLOP/s of `threads` threads together}, for every unit that this processor has.

    Empty without llvmlite."""
    try:
        from llvmlite import binding
    except ImportError:
        return {}
    features = binding.get_host_cpu_features()
    if processor.is_arm():
        features["neon"] = True
    found = {unit.name: _rate(_compiled(_loop(unit), unit.cpu), unit.accumulators * unit.operations, threads)
             for unit in UNITS if all(features.get(need) for need in unit.features)}
    if features.get("amx-bf16") and tiles_permitted():
        found["amx_bf16"] = _rate(_compiled(_TILES, ""), 4 * 16 * 16 * 32 * 2, threads)
    return found


def peak_of(precision: str, found: dict[str, float]) -> float | None:
    """The limit that a share is taken of: the fastest unit for that precision or, for float32, the one that
    LEVIT_NP_INSTRUCTIONS restricts the kernels to. bfloat16 can use float32's units too, as each bfloat16 number is a
    float32 number. None where it was not measured."""
    names = [unit.name for unit in UNITS if unit.precision in ("float32", precision)]
    names += ["amx_bf16"] * (precision == "bfloat16")
    forced = os.environ.get("LEVIT_NP_INSTRUCTIONS")
    # another set may have the name of bfloat16's unit
    if precision == "float32" and forced in names and forced in found:
        return found[forced]
    return max((found[name] for name in names if name in found), default=None)


def _loop(unit: Unit) -> str:
    """x_i ← x_i + m · c for every accumulator i. NEON's instruction adds to its target register, so the sum must be
    x_i."""
    vector, factor, count = unit.vector, unit.factor, unit.accumulators
    phis = [f"%x{i} = phi {vector} [%start, %entry], [%y{i}, %loop]" for i in range(count)]
    # LLVM's fma takes the addend last, the dot product of bfloat16 pairs takes it first.
    arguments = (f"{{x}}, {factor} %m, {factor} %c" if unit.precision == "bfloat16" else
                 f"{factor} %m, {factor} %c, {{x}}")
    steps = [f"%y{i} = call {vector} @{unit.call}({arguments.format(x=f'{vector} %x{i}')})" for i in range(count)]
    sums = [f"%s{i} = fadd {vector} {f'%s{i - 1}' if i else '%start'}, %y{i}" for i in range(count)]
    return "\n".join([
        f"declare {vector} @{unit.call}({vector}, {factor}, {factor})", "define void @run(ptr %data, i64 %rounds) {",
        "entry:", f"%start = load {vector}, ptr %data, align 4", f"%m = load {factor}, ptr %data, align 4",
        f"%c = load {factor}, ptr %data, align 4", "br label %loop", "loop:",
        "%k = phi i64 [0, %entry], [%next, %loop]", *phis, *steps, "%next = add i64 %k, 1",
        "%more = icmp slt i64 %next, %rounds", "br i1 %more, label %loop, label %done", "done:", *sums,
        f"store {vector} %s{count - 1}, ptr %data, align 4", "ret void", "}"])


# Four tiles of 16 × 16 sums, each fed by two tiles of 16 rows of 32 bfloat16 (Intel's AMX). The configuration: palette
# 1, from byte 16 the bytes a row (64) of each of eight tiles, from byte 48 their rows (16).
_TILES = """
@configuration = internal constant [64 x i8] c"\\01""" + "\\00" * 15 + "\\40\\00" * 8 + "\\00" * 16 + "\\10" * 8 + \
    "\\00" * 8 + """"
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tilezero(i8)
declare void @llvm.x86.tdpbf16ps(i8, i8, i8)
define void @run(ptr %data, i64 %rounds) {
entry:
call void @llvm.x86.ldtilecfg(ptr @configuration)
""" + "\n".join(f"call void @llvm.x86.tilezero(i8 {i})" for i in range(8)) + """
br label %loop
loop:
%k = phi i64 [0, %entry], [%next, %loop]
""" + "\n".join(f"call void @llvm.x86.tdpbf16ps(i8 {i}, i8 {4 + i // 2}, i8 {6 + i % 2})" for i in range(4)) + """
%next = add i64 %k, 1
%more = icmp slt i64 %next, %rounds
br i1 %more, label %loop, label %done
done:
call void @llvm.x86.tilerelease()
ret void
}
"""


def _machine(cpu: str):
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = "" if cpu else binding.get_host_cpu_features().flatten()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=cpu or binding.get_host_cpu_name(), features=features, opt=3, jit=True)


def _compiled(source: str, cpu: str):
    """run(data, rounds), compiled for `cpu`; ctypes releases the GIL around it."""
    from llvmlite import binding

    engine = binding.create_mcjit_compiler(binding.parse_assembly(source), _machine(cpu))
    engine.finalize_object()
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(engine.get_function_address("run"))
    run.engine = engine  # the code lives as long as the engine does
    return run


def _rate(run, operations: int, threads: int) -> float:
    """GFLOP/s, the best of several runs: other work on the machine can only slow it down."""
    data = [(ctypes.c_float * 32)() for _ in range(threads)]
    rounds = ROUNDS * 1024 // operations
    with ThreadPoolExecutor(threads) as pool:
        def seconds():
            start = perf_counter()
            list(pool.map(lambda own: run(ctypes.addressof(own), rounds), data))
            return perf_counter() - start

        best = min(seconds() for _ in range(20))
    return operations * rounds * threads / best / 1e9
