"""`levit-np bench`, and the scripts in bench/, as a user starts them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from levit_np.benchmark.short import operations
from levit_np.config import config_of
from levit_np.model import build

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, text=True, capture_output=True, timeout=120,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    return done.returncode, done.stdout, done.stderr


def test_bench_times_the_weights_that_ship():
    status, out, err = run("-m", "levit_np.cli", "bench", "levit_digits.h5", "--batch", "1", "3")
    assert status == 0
    rows = re.findall(r"^(reference|cpu) +float32 +(\d+) +([\d.]+) +([\d.]+) ", out, re.MULTILINE)
    assert [row[:2] for row in rows] == [("reference", "1"), ("cpu", "1"), ("reference", "3"), ("cpu", "3")]
    for *_, rate, milliseconds in rows:
        assert float(rate) * float(milliseconds) == pytest.approx(1000, rel=0.01)


def test_bench_refuses_what_it_cannot_use():
    assert run("-m", "levit_np.cli", "bench", "--threads", "0")[0] == 2
    status, out, err = run("-m", "levit_np.cli", "bench", "none.h5")
    assert (status, out, len(err.splitlines())) == (1, "", 1) and "none.h5" in err


def test_operations_are_the_papers():
    assert operations(build(config_of("levit_256"))) == 2 * 1_128_024_056
