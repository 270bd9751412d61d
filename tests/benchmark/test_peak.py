"""The processor's measured limit: its loop contains the multiply-adds that are counted, on whole vectors, without
spills."""

import math
import re

import pytest

from levit_np.benchmark import peak

binding = pytest.importorskip("llvmlite.binding")


def assembly(unit):
    """The loop's assembly for this processor, or for an Arm processor, which need not be present."""
    module = binding.parse_assembly(peak._loop(unit))
    if unit.name != "neon":
        if not all(binding.get_host_cpu_features().get(need) for need in unit.features):
            pytest.skip(f"this processor has no {unit.name}")
        return peak._machine(unit.cpu).emit_assembly(module)
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("aarch64-unknown-linux-gnu")
    return target.create_target_machine(cpu="neoverse-n1", opt=3).emit_assembly(module)


@pytest.mark.parametrize("name, mnemonic, register", [
    ("avx512", "vfmadd", r"%zmm\d+"), ("avx2", "vfmadd", r"%ymm\d+"), ("avx512_bf16", "vdpbf16ps", r"%zmm\d+"),
    ("neon", "fmla", r"v\d+\.4s")])
def test_the_loop_is_nothing_but_its_multiply_adds(name, mnemonic, register):
    (unit,) = (unit for unit in peak.UNITS if unit.name == name)
    lines = [line.strip() for line in assembly(unit).splitlines()]
    at = [i for i, line in enumerate(lines) if line.startswith(mnemonic)]
    # Counting the rounds uses no vector register and runs on other ports.
    loop = [line for line in lines[at[0] : at[-1] + 1] if not re.match(r"(add|cmp|inc)\t", line)]
    assert len(loop) == len(at) == unit.accumulators
    registers = [re.findall(register, line) for line in loop]
    assert all(len(found) == 3 and "(" not in line for found, line in zip(registers, loop))
    target = 0 if name == "neon" else -1
    assert len({found[target] for found in registers}) == unit.accumulators


def test_every_unit_of_this_processor_has_a_rate(monkeypatch):
    """With few rounds, because the processor may be emulated."""
    monkeypatch.setattr(peak, "ROUNDS", 20_000)
    found = peak.peaks()
    assert found and all(math.isfinite(rate) and rate > 0.001 for rate in found.values())


@pytest.mark.parametrize("machine, features, permitted, found", [
    ("x86_64", {"avx512f": True, "avx2": True, "fma": False}, True, {"avx512": 24 * 2 * 16}),
    ("x86_64", {"avx2": True, "fma": True, "amx-bf16": True}, False, {"avx2": 12 * 2 * 8}),
    ("x86_64", {"amx-bf16": True}, True, {"amx_bf16": 4 * 2 * 16 * 16 * 32}),
    ("aarch64", {}, True, {"neon": 24 * 2 * 4})])
def test_a_unit_needs_all_its_features_and_permission(monkeypatch, machine, features, permitted, found):
    """A round counts two operations for each multiply-add of each element of its vectors."""
    monkeypatch.setattr(binding, "get_host_cpu_features", features.copy)
    monkeypatch.setattr(peak.processor.platform, "machine", lambda: machine)
    monkeypatch.setattr(peak, "tiles_permitted", lambda: permitted)
    monkeypatch.setattr(peak, "_compiled", lambda source, cpu: source)
    monkeypatch.setattr(peak, "_rate", lambda run, operations, threads: operations)
    assert peak.peaks() == found


def test_the_rate_is_that_of_all_threads_in_the_fastest_round(monkeypatch):
    times, asked = [], []
    for start in range(20):
        times += [10.0 * start, 10.0 * start + (2 if start == 13 else 5)]
    monkeypatch.setattr(peak, "perf_counter", lambda: times.pop(0))
    rate = peak._rate(lambda data, rounds: asked.append(rounds), operations=256, threads=2)
    assert asked == 40 * [4 * peak.ROUNDS] and rate == 256 * 4 * peak.ROUNDS * 2 / 2 / 1e9


def test_the_share_is_taken_of_the_fastest_unit_or_of_the_one_forced(monkeypatch):
    found = {"avx512": 200.0, "avx2": 100.0, "avx512_bf16": 90.0, "amx_bf16": 3000.0}
    monkeypatch.delenv("LEVIT_NP_INSTRUCTIONS", raising=False)
    assert peak.peak_of("float32", found) == 200 and peak.peak_of("bfloat16", found) == 3000
    del found["amx_bf16"]
    assert peak.peak_of("bfloat16", found) == 200
    monkeypatch.setenv("LEVIT_NP_INSTRUCTIONS", "avx2")
    assert peak.peak_of("float32", found) == 100 and peak.peak_of("bfloat16", {}) is None
    monkeypatch.setenv("LEVIT_NP_INSTRUCTIONS", "avx512_bf16")  # which multiplies float32 as avx512 does
    assert peak.peak_of("float32", found) == 200
