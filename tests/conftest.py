"""Settings for the whole suite: signals and threads, which must be set before NumPy is imported; collection; the order
of tests under pytest-xdist."""

import os
import platform
import signal
from pathlib import Path

import pytest

# A process started in the background ignores Ctrl-C, and its children inherit that; some tests interrupt children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One BLAS thread a process: several test processes would compete for the cores, and results that are compared byte for
# byte with the command's would be rounded differently.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# On Arm the tests usually run under an emulator. It offers SVE, with which NumPy's matrix products are twenty times
# slower there than with NEON.
if platform.machine().lower() in ("arm64", "aarch64"):
    os.environ.setdefault("OPENBLAS_CORETYPE", "ARMV8")

HERE = Path(__file__).resolve().parent
ON_A_GPU = (HERE / "ops/cuda", HERE / "inference/test_cuda.py")  # the tests that are marked gpu


def pytest_ignore_collect(collection_path, config):
    """With `-m gpu` other files are not even imported, so a machine with a GPU does not need the packages that they
    use."""
    if not config.option.markexpr.startswith("gpu"):
        return None
    related = any(collection_path in (place, *place.parents) or place in collection_path.parents for place in ON_A_GPU)
    return None if related else True


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The longest tests come last, so an idle process takes over tests of another one."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture
def not_under_nohup():
    """The suite may have been started under nohup, where SIGHUP is ignored; a training started then would ignore it
    too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def no_latex(monkeypatch):
    """The user's matplotlibrc leaves text to LaTeX, which is not installed (or takes our % and _ for its commands)."""
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib.texmanager import TexManager

    def refuse(*arguments):
        raise RuntimeError("latex could not be found")

    monkeypatch.setattr(TexManager, "make_dvi", refuse)
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
