"""The command in a process of its own, for its tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from levit_np.ops.cpu.library import library

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = [str(ROOT / f"weights/samples/digit_{n}.png") for n in range(8)]


def run(*arguments, cwd=ROOT, **environment):
    """(exit status, stdout, stderr) of levit-np."""
    done = subprocess.run([sys.executable, "-m", "levit_np.cli", *map(str, arguments)], cwd=cwd, text=True,
                          encoding="utf-8", capture_output=True, timeout=120,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"} | environment)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(autouse=True, scope="module")
def compiled():
    """Compiles the kernels now; otherwise the first command would report on stderr that it does."""
    library()
