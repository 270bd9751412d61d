"""The limit is only one if the loop is what it says: that many multiply-adds, all on whole vectors, nothing spilled."""

import math

import pytest

from levit_np.benchmark import peak

binding = pytest.importorskip("llvmlite.binding")


@pytest.mark.parametrize("name, mnemonic, register", [("avx512", "vfmadd", "zmm"), ("avx2", "vfmadd", "ymm"),
                                                      ("avx512_bf16", "vdpbf16ps", "zmm")])
def test_the_loop_is_nothing_but_its_multiply_adds(name, mnemonic, register):
    (unit,) = (unit for unit in peak.UNITS if unit.name == name)
    if not all(binding.get_host_cpu_features().get(need) for need in unit.features):
        pytest.skip(f"this processor has no {name}")
    assembly = peak._machine(unit.cpu).emit_assembly(binding.parse_assembly(peak._loop(unit)))
    lines = [line.strip() for line in assembly.splitlines()]
    at = [i for i, line in enumerate(lines) if line.startswith(mnemonic)]
    loop = lines[at[0] : at[-1] + 1]
    assert len(loop) == len(at) == unit.accumulators
    assert all(line.count(register) == 3 and "(" not in line for line in loop)
    assert len({line.split(",")[-1].split("#")[0].strip() for line in loop}) == unit.accumulators


def test_every_unit_of_this_processor_has_a_rate(monkeypatch):
    """Of a short run: an emulated processor has one too."""
    monkeypatch.setattr(peak, "ROUNDS", 20_000)
    found = peak.peaks()
    assert found and all(math.isfinite(rate) and rate > 0.001 for rate in found.values())


def test_the_share_is_taken_of_the_fastest_unit_or_of_the_one_forced(monkeypatch):
    found = {"avx512": 200.0, "avx2": 100.0, "avx512_bf16": 90.0, "amx_bf16": 3000.0}
    monkeypatch.delenv("LEVIT_NP_INSTRUCTIONS", raising=False)
    assert peak.peak_of("float32", found) == 200 and peak.peak_of("bfloat16", found) == 3000
    monkeypatch.setenv("LEVIT_NP_INSTRUCTIONS", "avx2")
    assert peak.peak_of("float32", found) == 100 and peak.peak_of("bfloat16", {}) is None
