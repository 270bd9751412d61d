"""Before anything else is imported."""

import os

# Several processes of tests, each with as many threads as there are cores, would stand in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
