"""A mark for tests that start another Python. Under an emulator, `sys.executable` is not a program that the system can
start."""

import subprocess
import sys

import pytest


def _can_start():
    try:
        return subprocess.run([sys.executable, "-c", ""]).returncode == 0
    except OSError:
        return False


NEEDS_INTERPRETER = pytest.mark.skipif(not _can_start(), reason="the system cannot start this interpreter")
