"""A register tile by itself: every epilogue, also those that only other processors' kernels ask for: AMX's three
parts."""

import ctypes
from functools import cache
from itertools import product

import numpy as np
import pytest
from llvmlite import binding, ir

from levit_np.ops.cpu import processor, routines
from levit_np.ops.cpu.instruction_set import chosen
from levit_np.ops.cpu.step import HARDSWISH_SIX, PARTS, PLAIN, RESIDUAL, SILU
from levit_np.ops.cpu.tile import ARGUMENTS, tiles

TERMS, ROW = 20, 64  # numbers of a row of c
FINISH = {PLAIN: lambda y, old: y, HARDSWISH_SIX: lambda y, old: y * np.clip(y + 3, 0, 6),
          SILU: lambda y, old: y / (1 + np.exp(-y)), RESIDUAL: lambda y, old: y + old}
ROUNDS = chosen().lanes == 16 and "avx512bf16" in processor.features()


@cache
def compiled(rows, vectors, halves, pairs):
    """(the routine as a function of integers, what keeps it alive)."""
    module, triple = ir.Module(), binding.get_process_triple()
    module.triple = triple
    routines.define_routine(module, "tile", *tiles(chosen().lanes, [rows], [vectors], pairs=pairs, halves=halves))
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_triple(triple).create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(str(module)), machine)
    engine.finalize_object()
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(ARGUMENTS))
    return kind(engine.get_function_address("levit_tile")), engine


def widened(halves):
    return (halves.astype(np.uint32) << 16).view(np.float32)


def rounded(x):
    """To bfloat16, ties to even."""
    bits = x.view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


@pytest.mark.parametrize("rows", [1, chosen().rows])
@pytest.mark.parametrize("pairs", ["", pytest.param("dot", marks=pytest.mark.skipif(not ROUNDS, reason="no bfloat16"))])
def test_every_epilogue(rows, pairs):
    random, instructions = np.random.default_rng(rows), chosen()
    parts = (0, 1) if pairs else (0, 1, PARTS) if ROUNDS else (0,)
    widths = {instructions.tail, instructions.vectors}
    for vectors, finish, kept, count in product(widths, FINISH, (True, False), parts):
        if not kept and (not count or finish == RESIDUAL):
            continue
        width, terms = vectors * instructions.lanes, TERMS // (2 if pairs else 1)
        a, b = (random.standard_normal(shape).astype(np.float32) for shape in ((rows, TERMS), (TERMS, width)))
        bias, c = random.standard_normal(width).astype(np.float32), random.standard_normal((rows, ROW), np.float32)
        y = FINISH[finish](a.astype(float) @ b + bias, c[:, :width])
        given = a, b
        if pairs:
            given = rounded(a), np.ascontiguousarray(rounded(b).reshape(terms, 2, width).swapaxes(1, 2))
            y = FINISH[finish](widened(given[0]).astype(float) @ widened(rounded(b)) + bias, c[:, :width])
        before, scratch, half = c.copy(), np.zeros((rows, ROW), np.float32), np.zeros((PARTS, rows, ROW), np.uint16)
        table, segments = np.array([[rows, 0, 0]]), np.zeros(1, np.int64)
        to, left, right = (c if kept else scratch).ctypes.data, given[0].ctypes.data, given[1].ctypes.data
        numbers = {"vectors": vectors, "tiles": table.ctypes.data, "number": 1, "a": left, "lda": given[0].strides[0],
                   "segments": segments.ctypes.data, "count": 1, "length": terms, "b": right, "ahead": right, "c": to,
                   "ldc": 4 * ROW, "c_mask": -int(kept), "bias": bias.ctypes.data, "finish": finish,
                   "half": half.ctypes.data if count else 0, "ldhalf": 2 * ROW,
                   "part": half[0].nbytes if count == PARTS else 0}
        compiled(rows, vectors, ROUNDS, pairs)[0](*(numbers.get(name, 0) for name in ARGUMENTS))
        case = vectors, finish, kept, count
        if kept:
            assert np.abs(c[:, :width] - y).max() < 1e-4 and np.array_equal(c[:, width:], before[:, width:]), case
        if kept and count == 1:
            assert np.array_equal(half[0, :, :width], rounded(np.ascontiguousarray(c[:, :width]))), case
        if count:
            error = 1e-4 if count == PARTS else np.abs(y).max() / 256
            assert np.abs(widened(half[:, :, :width]).sum(0, float) - y).max() < error, case
        assert not half[count:].any() and not half[:, :, width:].any(), case
