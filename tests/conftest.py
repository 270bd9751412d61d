"""Before anything else is imported."""

import os
import platform
import signal
from pathlib import Path

import pytest

# A suite that is started in the background has Ctrl-C ignored, and so would all that it starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Several processes of tests, each with as many threads as there are cores, would stand in each other's way; and NumPy's
# products are rounded otherwise by more threads than the command, whose bytes are compared, gives itself.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# Tests for Arm run under an emulator more often than not. The one there is offers SVE, and NumPy's products with it are
# twenty times as slow there as those with NEON.
if platform.machine().lower() in ("arm64", "aarch64"):
    os.environ.setdefault("OPENBLAS_CORETYPE", "ARMV8")

HERE = Path(__file__).resolve().parent
ON_A_GPU = (HERE / "ops/cuda", HERE / "inference/test_cuda.py")  # where tests are marked gpu


def pytest_ignore_collect(collection_path, config):
    """`-m gpu` reads no other tests: a machine with a GPU needs nothing of what those import."""
    if not config.option.markexpr.startswith("gpu"):
        return None
    related = any(collection_path in (place, *place.parents) or place in collection_path.parents for place in ON_A_GPU)
    return None if related else True


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The longest tests are the last ones: whoever has none left takes some of another process's."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture
def not_under_nohup():
    """Whoever started the suite may have had the end of a terminal ignored, and a training started so goes on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
