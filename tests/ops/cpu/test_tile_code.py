"""The machine code of the kernels' inner loops, for processors that need not be present: only multiply-adds on whole
vectors, loads and address arithmetic, without spills to the stack."""

import ast
import re
from inspect import signature
from pathlib import Path

import pytest
from llvmlite import binding, ir

from levit_np.ops.cpu import routines, training_routines
from levit_np.ops.cpu.instruction_set import SETS
from levit_np.ops.cpu.tile import UNROLL, tiles, transposed_tiles

X86 = {"multiply": r"vfmadd\d+ps|vdpbf16ps", "label": r"^\.\w+:", "jump": r"^j[a-z]+ (\.\w+)$", "stack": r"\(%rsp",
       "vector": r"%[xyz]mm", "copy": r"vmovap[sd] %[xyz]mm\d+, %[xyz]mm"}
ARM = {"multiply": r"fmla", "label": r"^\.\w+:", "jump": r"^b(?:\.[a-z]+)? (\.\w+)$", "stack": r"\[sp",
       "vector": r"\b[qdsv]\d+", "copy": r"mov v\d+\.16b"}
# For each instruction set: LLVM's name of the system, processors (for which LLVM orders instructions differently), the
# syntax of the assembly, and a whole vector register.
TARGETS = {
    "avx512": ("x86_64-unknown-linux-gnu", ("skylake-avx512", "znver4"), X86, r"%zmm\d+"),
    "avx2": ("x86_64-unknown-linux-gnu", ("haswell",), X86, r"%ymm\d+"),
    "neon": ("aarch64-unknown-linux-gnu", ("generic", "cortex-a53", "neoverse-n1", "apple-m1"), ARM, r"v\d+\.4s"),
}


def assembly(name, processor, define, rows, vectors, **more):
    """The assembly of a tile of this size, optimised as Numba does."""
    target = TARGETS[name][0]
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    module = ir.Module()
    module.triple = target
    routines.define_routine(module, "tile", *define(SETS[name].lanes, [rows], [vectors], **more))
    machine = binding.Target.from_triple(target).create_target_machine(cpu=processor, opt=3, reloc="pic",
                                                                       codemodel="small")
    compiled = binding.parse_assembly(str(module))
    compiled.verify()
    builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(compiled, builder)
    return machine.emit_assembly(compiled)


def blocks(text, words):
    """{label: instructions} of the code from one label to the next."""
    found, label = {}, ""
    for line in text.splitlines():
        line = " ".join(re.split(r"\s*(?:# |//)", line.strip())[0].split())
        if re.match(words["label"], line):
            label = line.split(":")[0]
        elif line and not line.startswith((".", "#", "//")):
            found.setdefault(label, []).append(line)
    return found


def inner_loop(name, text):
    """The instructions of the loop (a block that jumps to itself) with the most multiply-adds."""
    words = TARGETS[name][2]
    loops = [code for label, code in blocks(text, words).items()
             if any((m := re.match(words["jump"], line)) and m[1] == label for line in code)]
    return max(loops, key=lambda code: sum(bool(re.match(words["multiply"], line)) for line in code))


def training(emit):
    """The tile of training's products, alone in a routine."""
    def define(lanes, rows, widths, panels=1):
        count = len(signature(emit).parameters) - 3  # all but v, rows and vectors
        return routines.emits(lanes, count, lambda v, *arguments: emit(v, *rows, *widths, *arguments))

    define.__name__ = f"training{emit.__name__}"
    return define


MULTIPLY, TRANSPOSED, DOUBLE = map(training, (
    training_routines._multiply, training_routines._multiply_transposed, training_routines._multiply_double))


def sizes(name):
    """(function that makes the routine, rows, vectors, options) of the tiles that do nearly all the work."""
    chosen = SETS[name]
    yield MULTIPLY, chosen.rows, chosen.vectors, {}
    yield TRANSPOSED, chosen.rows, chosen.vectors, {}
    yield tiles, chosen.rows, chosen.vectors, {}
    yield tiles, chosen.rows - 1, chosen.vectors, {}
    yield transposed_tiles, chosen.rows, chosen.vectors, {"width": chosen.width}
    if chosen.double_rows:
        yield tiles, chosen.double_rows, chosen.vectors, {"panels": 2}
        yield DOUBLE, chosen.double_rows, chosen.vectors, {"panels": 2}
    if name == "avx512":
        yield tiles, chosen.rows, chosen.vectors, {"pairs": "widened"}
        yield tiles, chosen.rows, chosen.vectors, {"pairs": "dot", "halves": True}
        yield transposed_tiles, chosen.rows, chosen.vectors, {"width": chosen.width, "pairs": "dot", "halves": True}


@pytest.mark.parametrize("name, processor, define, rows, vectors, more", [
    pytest.param(name, processor, *size,
                 id=f"{processor}-{size[0].__name__}-{size[1]}x{size[2]}" + "x2" * ("panels" in size[3])
                 + size[3].get("pairs", ""))
    for name in TARGETS for processor in TARGETS[name][1] for size in sizes(name)
    # AMD's processors multiply pairs of bfloat16, Intel's widen them.
    if {"dot": "znver4", "widened": "skylake-avx512"}.get(size[3].get("pairs"), processor) == processor])
def test_the_inner_loop(name, processor, define, rows, vectors, more):
    words, register = TARGETS[name][2:]
    loop = inner_loop(name, assembly(name, processor, define, rows, vectors, **more))
    multiplies = [line for line in loop if re.match(words["multiply"], line)]
    sums, widened = rows * vectors * more.get("panels", 1), more.get("pairs") == "widened"
    terms = UNROLL * (1 + widened)
    assert len(multiplies) == terms * sums
    assert all(len(re.findall(register, line)) >= (2 if name == "neon" else 3) or "{1to" in line for line in multiplies)
    # A sum stays in its register from one term to the next: it is neither copied nor stored on the stack.
    last = (lambda line: line.split(",")[-1]) if words is X86 else (lambda line: line.split()[1])
    assert len({last(line).strip() for line in multiplies}) == sums
    assert [line for line in loop if re.search(words["stack"], line) and re.search(words["vector"], line)] == []
    assert [line for line in loop if re.match(words["copy"], line)] == []
    # Other instructions: a load for each vector of weights, perhaps its widening, a load for each row, and some for
    # addresses.
    assert len(loop) - len(multiplies) <= terms * (rows + vectors * (more.get("panels", 1) + widened)) + 32


@pytest.mark.parametrize("name", TARGETS)
def test_the_next_weights_are_prefetched_on_avx512(name):
    """And results too large for the caches can be written with non-temporal stores."""
    chosen, processor = SETS[name], TARGETS[name][1][0]
    text = assembly(name, processor, MULTIPLY, chosen.rows, chosen.vectors)
    fetches = [line for line in inner_loop(name, text) if re.match(r"prefetcht1|prfm", line)]
    assert len(fetches) == (name == "avx512")
    assert ("vmovntps" in text) == (name == "avx512")


def test_no_kernel_uses_fast_math():
    """`fastmath` in Numba, and `flags` or their names in LLVM, would assume that there is no NaN or infinity."""
    words = {"fastmath", "fast", "nnan", "ninf", "nsz", "arcp", "contract", "afn", "reassoc"}
    for path in Path(routines.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        assert not {node.arg for node in nodes if isinstance(node, ast.keyword)} & {"fastmath", "flags"}, path
        assert not {node.value for node in nodes if isinstance(node, ast.Constant)} & words, path
