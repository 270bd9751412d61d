"""Sums over the ranks' GPUs: by NCCL, directly between GPUs, if each rank has its own; otherwise through the host.

It has been tested only with a stand-in for NCCL, never on several GPUs."""

import importlib
import platform
import warnings
from collections.abc import Callable

from ..ops.cuda import device, operands
from .collective import Started, started_sum


def gpu_sums(communicator) -> Callable:
    """-> a function start(array) that starts summing a float32 GPU array over all ranks, in place; -> Started.

    All ranks call this together, and then start the same sums in the same order."""
    nccl = _nccl()
    everyone = communicator.allgather((platform.node(), _own_gpu(), nccl is not None))
    if len(set(everyone)) == communicator.size and all(there for _, _, there in everyone):
        return NCCLSums(communicator, nccl)
    return HostSums(communicator)


class NCCLSums:
    """Sums by NCCL on a separate CUDA stream, so that computation continues meanwhile."""

    def __init__(self, communicator, nccl):
        self._nccl, self._cuda = nccl, device.arrays().cuda
        name = communicator.bcast(nccl.get_unique_id() if communicator.rank == 0 else None)
        self._all = nccl.NcclCommunicator(communicator.size, name, communicator.rank)
        self._stream = self._cuda.Stream(non_blocking=True)

    def __call__(self, array) -> Started:
        assert array.dtype == "float32" and array.flags.c_contiguous
        computing = self._cuda.get_current_stream()
        self._stream.wait_event(computing.record())  # until the array has been computed
        address = device.current().address(array)
        self._all.allReduce(address, address, array.size, self._nccl.NCCL_FLOAT32, self._nccl.NCCL_SUM,
                            self._stream.ptr)
        arrived = self._stream.record()
        return Started(None, lambda: computing.wait_event(arrived))


class HostSums:
    """Sums by MPI on the host: for ranks that share a GPU, which NCCL refuses, or without NCCL."""

    def __init__(self, communicator):
        self._communicator = communicator

    def __call__(self, array) -> Started:
        host = operands.to_host(array)
        return Started(started_sum(self._communicator, host), lambda: device.current().copy(array, host))


def _nccl():
    """CuPy's NCCL module, or None if it or the library is missing."""
    try:
        with warnings.catch_warnings():  # CuPy warns if the library is missing
            warnings.simplefilter("ignore")
            nccl = importlib.import_module("cupy.cuda.nccl")
    except ImportError:
        return None
    return nccl if nccl.available else None


def _own_gpu() -> str:
    """An id that distinguishes this rank's GPU from others in its machine."""
    cuda = getattr(device.arrays(), "cuda", None)
    return cuda.runtime.deviceGetPCIBusId(cuda.Device().id) if cuda else ""
