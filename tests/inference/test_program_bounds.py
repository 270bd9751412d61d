"""The kernels stay within their arrays: every array against a page that must not be touched, in a child process.

Addresses are all that the kernels know, so NUMBA_BOUNDSCHECK has nothing to check in them; here the processor does, for
what the compiled code itself reads and writes.  fenced.py also compares each answer with an unfenced one.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import levit_np
from levit_np.ops.cpu.instruction_set import chosen

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")
NAMES = "levit_digits", "levit_128s", "levit_128s_a1", "levit_128s_a3", "levit_128s_a5"  # all kinds of step


def fenced(side, precision, missing, *names):
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "tests.inference.fenced", side, precision, str(missing), *names],
                          cwd=Path(__file__).resolve().parents[2], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("side", ["end", "start"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("names", [NAMES, pytest.param(levit_np.list_models(), marks=pytest.mark.slow)],
                         ids=("some", "every model"))
def test_nothing_outside_is_touched(side, precision, names):
    if precision == "bfloat16" and not chosen().half:
        pytest.skip("no bfloat16 products on this processor")
    done = fenced(side, precision, 0, *names)
    assert done.returncode == 0, f"after\n{done.stdout}{done.stderr}"
    kinds = {kind for line in done.stdout.splitlines() for kind in line.split()[1:]}
    assert kinds >= {"PRODUCT", "ATTENTION", "PAD", "ROWS", "SUM", "LAYER_NORM", "ADD"}


@pytest.mark.parametrize("side", ["end", "start"])
def test_the_fence_stands(side):
    """Arrays of which a cache line lies behind the fence."""
    assert fenced(side, "float32", 64, "levit_digits").returncode in (-signal.SIGSEGV, -signal.SIGBUS)
