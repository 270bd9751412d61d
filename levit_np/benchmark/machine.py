"""A description of the machine: without it, no measured figure means anything."""

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Instruction sets that decide how fast a matrix product can be.
_FEATURES = ("avx2", "fma", "avx512f", "avx512bf16", "avx512vnni", "amx-bf16", "neon", "bf16")


def processor() -> str:
    """The processor's marketing name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def load_average() -> list[float] | None:
    """How many processes wanted a core over the last 1, 5 and 15 minutes; None where the system does not tell."""
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None


def describe(packages=("numpy", "numba", "llvmlite")) -> dict:
    """Processor, its vector units, cores, load, versions, the BLAS kernels that NumPy runs, and the time."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "processor": processor(), **_llvm(), "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": load_average(), "system": platform.platform(), "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("levit_np", *packages)}, "blas": _blas(),
        "variables": {name: value for name, value in sorted(os.environ.items())
                      # Where the cache is says nothing about speed, and something about the user.
                      if name.startswith(("OMP_", "OPENBLAS_", "MKL_", "NUMBA_", "LEVIT_NP_"))
                      and name != "LEVIT_NP_CACHE"},
    }


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _llvm():
    try:
        from llvmlite import binding
    except ImportError:
        return {"llvm_cpu": None, "features": None}
    features = binding.get_host_cpu_features()
    return {"llvm_cpu": binding.get_host_cpu_name(), "features": [name for name in _FEATURES if features.get(name)]}


def _blas() -> str:
    """NumPy's BLAS and the kernels it chose for this processor, which threadpoolctl can read; else the library alone.
    """
    import numpy as np

    np.ones((2, 2)) @ np.ones((2, 2))
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{blas['name']} {blas['version']}, kernels unknown (threadpoolctl is not installed)"
    found = [f"{p['internal_api']} {p['version']}, {p.get('architecture', '?')} kernels, {p['num_threads']} threads"
             for p in threadpool_info() if p["user_api"] == "blas"]
    return "; ".join(found) or "unknown"
