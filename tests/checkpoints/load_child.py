"""Measures the memory of `load` in a child process."""

import os
import resource
from pathlib import Path


def peak_megabytes(path: str, dtype: str = "float32") -> tuple[float, float]:
    """How much `load` raised this process's peak memory, and the peak of its children, in MiB."""
    import h5py
    import safetensors

    import levit_np
    from levit_np.checkpoints import torch_file

    assert h5py and safetensors and torch_file
    model = levit_np.load("levit_digits.h5")  # imports and one-time allocations happen here
    del model
    # From /proc, as a new process inherits the ru_maxrss of the process that started it.
    before = _kilobytes("VmRSS")
    levit_np.load(path, dtype=dtype)
    return (_kilobytes("VmHWM") - before) / 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _kilobytes(field: str) -> int:
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
