"""LEVIT_NP_INSTRUCTIONS: every instruction set that this processor has computes the same network; others are
refused."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from levit_np import BackendError
from levit_np.inference.reference import ReferenceExecutor
from levit_np.ops.cpu import instruction_set, processor

from ...random_model import random_images, random_model
from ...can_start import NEEDS_INTERPRETER

ROOT = Path(__file__).resolve().parents[3]
THERE = instruction_set.available()
# Heads of 16 and of 32 columns, full and narrow panels, an image whose sides differ.
NETWORKS = {"levit_128s": {"image_size": (64, 48), "num_classes": 7}, "levit_192": {"image_size": 32, "num_classes": 5},
            "levit_256d": {"image_size": 32, "num_classes": 3}, "levit_digits": {}}
CHILD = """
import numpy as np
from tests.ops.cpu.test_instruction_sets import NETWORKS, relative_error
from levit_np.ops.cpu.library import library
kinds = ["float32"] + ["bfloat16"] * bool(library().instructions.bfloat16)
print(library().instructions.name, *(relative_error(name, kind) for kind in kinds for name in NETWORKS))
"""


def relative_error(name, precision):
    """The error of a batch of three; NaN if an image alone gives another answer."""
    model = random_model(name, backend="cpu", **NETWORKS[name])
    model.precision = precision
    x = random_images(model, 3)
    exact, logits = ReferenceExecutor(model)(x.astype(np.float64)), model(x)
    same = np.array_equal(logits, np.concatenate([model(image[None]) for image in x]))
    return np.abs(logits - exact).max() / np.abs(exact).max() if same else np.nan


@NEEDS_INTERPRETER
@pytest.mark.skipif(len(THERE) < 2, reason="a processor with one set of vector instructions")
@pytest.mark.parametrize("name", THERE[1:])
def test_a_lower_set_computes_the_same(name):
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run([sys.executable, "-c", CHILD], text=True, capture_output=True, cwd=ROOT,
                          env=os.environ | {"LEVIT_NP_INSTRUCTIONS": name, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    used, *errors = done.stdout.split()
    exact, rounded = errors[: len(NETWORKS)], errors[len(NETWORKS) :]
    assert used == name and len(rounded) == len(NETWORKS) * bool(instruction_set.SETS[name].bfloat16)
    assert all(float(error) < 3e-6 for error in exact) and all(1e-6 < float(error) < 2e-2 for error in rounded)


@pytest.mark.parametrize("wrong", ["sse", "AVX2", " ", "neon" if "neon" not in THERE else "avx2"])
def test_another_is_refused_by_name(monkeypatch, wrong):
    monkeypatch.setenv("LEVIT_NP_INSTRUCTIONS", wrong)
    with pytest.raises(BackendError) as refused:
        instruction_set.chosen()
    assert str(refused.value) == (f"LEVIT_NP_INSTRUCTIONS: expected one of {', '.join(THERE)} on this processor, "
                                  f"found {wrong!r}")


def test_empty_is_the_best(monkeypatch):
    for value in ("", *THERE):
        monkeypatch.setenv("LEVIT_NP_INSTRUCTIONS", value)
        assert instruction_set.chosen().name == (value or THERE[0])


@pytest.mark.parametrize("description, found", [
    ("vendor_id : GenuineIntel", ["avx512_widened", "avx512_bf16", "avx512", "avx2"]),
    ("vendor_id : AuthenticAMD", ["avx512_bf16", "avx512_widened", "avx512", "avx2"]),
    ("znver5", ["avx512_bf16", "avx512_widened", "avx512", "avx2"])])
def test_the_faster_way_to_multiply_bfloat16_comes_first(monkeypatch, description, found):
    """Dot products of pairs where they are as fast as multiply-adds, otherwise multiply-adds of widened numbers."""
    features = "avx2 fma avx512f avx512vl avx512bw avx512dq avx512_bf16"
    monkeypatch.setattr(processor, "description", lambda: f"{description}\nflags : {features}")
    monkeypatch.setattr(processor, "is_arm", lambda: False)
    processor.features.cache_clear()
    try:
        assert instruction_set.available() == found
    finally:
        processor.features.cache_clear()
