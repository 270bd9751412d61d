"""Where there is no GPU: one line says so, `auto` takes the processor, and the rest of the package does not mind."""

import subprocess
import sys

import numpy as np
import pytest

import levit_np
from levit_np import ops
from levit_np.ops.cuda import device


class Refused:
    """What `import cupy` finds where it is not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "cupy":
            raise ImportError(name)


class Runtime:
    CUDARuntimeError = type("CUDARuntimeError", (RuntimeError,), {})

    def __init__(self, count):
        self.count = count

    def getDeviceCount(self):  # noqa: N802: CuPy's name
        if isinstance(self.count, Exception):
            raise self.count
        return self.count


class Cupy:
    """As much of CuPy as is asked before anything is computed."""

    def __init__(self, count, capability="90"):
        self.cuda = type("cuda", (), {"runtime": Runtime(count), "Device": type("Device", (), {
            "compute_capability": capability})})


@pytest.fixture(autouse=True)
def nothing_stands_for_the_gpu():
    device.use(None)
    ops._fastest.cache_clear()
    yield
    ops._fastest.cache_clear()


@pytest.mark.parametrize("cupy, message", [
    (None, r"expected the package cupy \(pip install 'levit_np\[cuda\]'\), which is not installed"),
    (Cupy(0), "expected an NVIDIA GPU, found none"), (Cupy(1, "75"), "compute capability 8.0 or later, found 7.5"),
    (Cupy(Runtime.CUDARuntimeError("driver is insufficient")), "an NVIDIA GPU and its driver, found driver is insufficient")])
def test_what_is_missing_is_said_in_one_line(cupy, message, monkeypatch, capsys):
    if cupy is None:
        monkeypatch.delitem(sys.modules, "cupy", raising=False)
        monkeypatch.setattr(sys, "meta_path", [Refused(), *sys.meta_path])
    else:
        monkeypatch.setitem(sys.modules, "cupy", cupy)
    for asked in (lambda: levit_np.create("levit_digits", backend="cuda"), lambda: levit_np.load("none.h5", backend="cuda"),
                  lambda: levit_np.create("levit_digits").to("cuda")):
        with pytest.raises(levit_np.BackendError, match=message) as caught:
            asked()
        assert "\n" not in str(caught.value) and str(caught.value).startswith("backend cuda: ")
    for _ in range(2):  # said once
        model = levit_np.create("levit_digits", backend="auto")
    assert model.ops.NAME == "cpu" and type(model.head.weight) is np.ndarray
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("levit_np: auto takes the backend cpu (backend cuda: expected")


def test_the_type_of_the_parameters():
    with pytest.raises(levit_np.BackendError, match="expected one of float32, float16, bfloat16 on the cuda backend"):
        ops.stored_type("cuda", "float64")


def test_importing_the_operations_loads_no_cupy():
    code = "import sys; from levit_np.ops import cuda; print('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
