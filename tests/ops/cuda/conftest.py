"""The device of these tests: emulated, with both orders of threads; with `-m gpu`, a real GPU."""

import os
import warnings

import pytest

from levit_np.errors import BackendError
from levit_np.ops.cuda import device

from .emulator import Emulator


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """The folder for the kernels that g++ compiles, shared by all processes of this session."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "kernels"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def emulators(compiled):
    return [Emulator(compiled, order) for order in (0, 1)]


def use_gpu():
    """Uses the real GPU; skips, with the reason, where there is none."""
    device.use(None)
    try:
        with warnings.catch_warnings():  # CuPy may warn when it is imported
            warnings.simplefilter("ignore")
            device.current()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["threads 0 to n", "threads n to 0", pytest.param("gpu", marks=pytest.mark.gpu)])
def on(request, emulators):
    """The device: emulated in one or the other order of threads, or the GPU."""
    if request.param == "gpu":
        use_gpu()
    else:
        device.use(emulators[request.param == "threads n to 0"])
    yield device
    device.use(None)


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def one(request, emulators):
    """The same for whole networks, in one order, as single operations are tested in both."""
    if request.param == "gpu":
        use_gpu()
    else:
        device.use(emulators[1])
    yield device
    device.use(None)
