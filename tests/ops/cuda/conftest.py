"""Tests run on the emulated device, each operation in both orders of threads; with `-m gpu` on the GPU that there is."""

import pytest

from levit_np.ops.cuda import device

from .emulator import Emulator


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Where g++ leaves the kernels of this session."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session")
def emulators(compiled):
    return [Emulator(compiled, order) for order in (0, 1)]


@pytest.fixture(params=["threads 0 to n", "threads n to 0", pytest.param("gpu", marks=pytest.mark.gpu)])
def on(request, emulators):
    """What stands for the GPU."""
    device.use({"threads 0 to n": emulators[0], "threads n to 0": emulators[1], "gpu": None}[request.param])
    yield device
    device.use(None)


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def one(request, emulators):
    """The same for whole networks, of whose kernels each was seen in both orders."""
    device.use(emulators[1] if request.param == "emulated" else None)
    yield device
    device.use(None)
