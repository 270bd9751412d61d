"""Before anything else is imported."""

import os
import platform
import signal

# A suite that is started in the background has Ctrl-C ignored, and so would all that it starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Several processes of tests, each with as many threads as there are cores, would stand in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

# Tests for Arm run under an emulator more often than not. The one there is offers SVE, and NumPy's products with it are
# twenty times as slow there as those with NEON.
if platform.machine().lower() in ("arm64", "aarch64"):
    os.environ.setdefault("OPENBLAS_CORETYPE", "ARMV8")
