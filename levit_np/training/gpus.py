"""Sums over the ranks' GPUs: by NCCL, from one to the other, where each rank has its own; else through the host.

It has been tested against a stand-in for NCCL alone, never on GPUs."""

import importlib
import platform
import warnings
from collections.abc import Callable

from ..ops.cuda import device, operands
from .collective import Started, started_sum


def gpu_sums(communicator) -> Callable:
    """start(array): starts the sum, in place, of a float32 array on the GPU over all ranks; -> Started.

    All ranks call this together, and then start the same sums in the same order."""
    nccl = _nccl()
    everyone = communicator.allgather((platform.node(), _own_gpu(), nccl is not None))
    if len(set(everyone)) == communicator.size and all(there for _, _, there in everyone):
        return NCCLSums(communicator, nccl)
    return HostSums(communicator)


class NCCLSums:
    """On a stream of its own, so that what is computed meanwhile does not wait."""

    def __init__(self, communicator, nccl):
        self._nccl, self._cuda = nccl, device.arrays().cuda
        name = communicator.bcast(nccl.get_unique_id() if communicator.rank == 0 else None)
        self._all = nccl.NcclCommunicator(communicator.size, name, communicator.rank)
        self._stream = self._cuda.Stream(non_blocking=True)

    def __call__(self, array) -> Started:
        assert array.dtype == "float32" and array.flags.c_contiguous
        computing = self._cuda.get_current_stream()
        self._stream.wait_event(computing.record())  # until the array is there
        address = device.current().address(array)
        self._all.allReduce(address, address, array.size, self._nccl.NCCL_FLOAT32, self._nccl.NCCL_SUM,
                            self._stream.ptr)
        arrived = self._stream.record()
        return Started(None, lambda: computing.wait_event(arrived))


class HostSums:
    """By MPI: of ranks that share a GPU, which NCCL refuses, or where NCCL is not installed."""

    def __init__(self, communicator):
        self._communicator = communicator

    def __call__(self, array) -> Started:
        host = operands.to_host(array)
        return Started(started_sum(self._communicator, host), lambda: device.current().copy(array, host))


def _nccl():
    """CuPy's, or None where it or the library is missing."""
    try:
        with warnings.catch_warnings():  # CuPy's, of the library
            warnings.simplefilter("ignore")
            nccl = importlib.import_module("cupy.cuda.nccl")
    except ImportError:
        return None
    return nccl if nccl.available else None


def _own_gpu() -> str:
    """What tells this rank's GPU from others in its machine."""
    cuda = getattr(device.arrays(), "cuda", None)
    return cuda.runtime.deviceGetPCIBusId(cuda.Device().id) if cuda else ""
