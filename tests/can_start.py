"""Whether a test can start Python again: an emulator's Python is no program that the system can start."""

import subprocess
import sys

import pytest


def _can_start():
    try:
        return subprocess.run([sys.executable, "-c", ""]).returncode == 0
    except OSError:
        return False


NEEDS_INTERPRETER = pytest.mark.skipif(not _can_start(), reason="the system cannot start this interpreter")
