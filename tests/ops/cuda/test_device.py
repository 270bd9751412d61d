"""Finding a GPU: without one, one line says why, and `auto` takes the processor; compiling and launching kernels,
through a stand-in for CuPy."""

import os
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest

import levit_np
from levit_np import ops
from levit_np.ops.cuda import device, operands
from levit_np.ops.cuda.kernel import Kernel, Launch, View

from .standing_cupy import Cupy, Runtime


class Refused:
    """A finder that makes `import cupy` fail as if it were not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "cupy":
            raise ModuleNotFoundError(name, name="cupy")


LOG = """k.cu(7): warning #177-D: variable "WARP" was declared but never referenced

k.cu(9): error: identifier "wgmma" is undefined"""


@pytest.fixture(autouse=True)
def nothing_stands_for_the_gpu():
    device.use(None)
    ops._fastest.cache_clear()
    yield
    ops._fastest.cache_clear()


@pytest.mark.parametrize("cupy, message", [
    (None, r"expected the package cupy \(pip install 'levit_np\[cuda\]'\), which is not installed"),
    (Cupy(1, compiler=None),
     r"compiler NVRTC, its headers and a driver .* \(pip install 'levit_np\[cuda\]'\), found no libnvrtc.so$"),
    (Cupy(1, nothing=RuntimeError("Failed to find CUDA headers.")), "NVRTC, .* found Failed to find CUDA headers.$"),
    (Cupy(1, nothing=RuntimeError("CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image")),
     "and a driver for what it makes .* found CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image$"),
    (Cupy(0), "expected an NVIDIA GPU, found none"), (Cupy(1, "75"), "compute capability 8.0 or later, found 7.5"),
    (Cupy(Runtime.CUDARuntimeError("driver is insufficient")),
     "an NVIDIA GPU and its driver, found driver is insufficient")])
def test_what_is_missing_is_reported_in_one_line(cupy, message, monkeypatch, capsys):
    if cupy is None:
        monkeypatch.delitem(sys.modules, "cupy", raising=False)
        monkeypatch.setattr(sys, "meta_path", [Refused(), *sys.meta_path])
    else:
        monkeypatch.setitem(sys.modules, "cupy", cupy)
    for asked in (lambda: levit_np.create("levit_digits", backend="cuda"),
                  lambda: levit_np.load("none.h5", backend="cuda"), lambda: levit_np.create("levit_digits").to("cuda")):
        with pytest.raises(levit_np.BackendError, match=message) as caught:
            asked()
        assert "\n" not in str(caught.value) and str(caught.value).startswith("backend cuda: ")
    for _ in range(2):  # printed once
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


class Broken:
    """A finder that makes `import cupy` fail, by default as if a shared library were missing."""

    def __init__(self, error=None):
        self.error = error

    def find_spec(self, name, path=None, target=None):
        if name == "cupy" and self.error:
            raise self.error
        if name == "cupy":
            raise ImportError("\n=====\na page of advice") from OSError("libnuma.so.1: no such file")


@pytest.mark.parametrize("error, found", [(None, "libnuma.so.1: no such file"),
                                          (PermissionError(13, "Permission denied", "/.cupy"),
                                           r"\[Errno 13\] Permission denied: '/.cupy'"),
                                          (AttributeError("module 'numpy' has no attribute 'product'"),
                                           "module 'numpy' has no attribute 'product'"),
                                          (ValueError("numpy.dtype size changed, may indicate binary incompatibility"),
                                           "numpy.dtype size changed, may indicate binary incompatibility")])
def test_a_cupy_that_cannot_be_imported_is_not_reported_as_missing(error, found, monkeypatch):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path])
    with pytest.raises(levit_np.BackendError, match=f"expected a cupy that can be imported, found {found}$"):
        device.current()


@pytest.mark.parametrize("place, kept", [("new/folder", True), ("file/folder", False)])
def test_a_folder_for_kernels_that_cannot_be_made_costs_a_compilation(place, kept, tmp_path, monkeypatch):
    """CuPy itself could not be imported with such a folder."""
    (tmp_path / "file").touch()
    for name in ("CUPY_CACHE_DIR", "CUPY_CACHE_IN_MEMORY"):
        monkeypatch.setenv(name, "")  # so that it is restored in the end
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / place))
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(levit_np.BackendError):
        device.current()
    found = os.environ.get("CUPY_CACHE_DIR"), os.environ.get("CUPY_CACHE_IN_MEMORY")
    assert found == ((None, None) if kept else (tempfile.gettempdir(), "1"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # creating the folder is left to CuPy


@pytest.mark.parametrize("home, chosen, kept", [("file/home", "new", True), ("home", "file/new", False)])
def test_the_folder_for_kernels_may_be_chosen(home, chosen, kept, tmp_path, monkeypatch):
    """Then it alone matters."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "")
    monkeypatch.setenv("HOME", str(tmp_path / home))
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / chosen))
    device._where_kernels_are_kept()
    found = os.environ["CUPY_CACHE_DIR"], os.environ["CUPY_CACHE_IN_MEMORY"]
    assert found == ((str(tmp_path / chosen), "") if kept else (tempfile.gettempdir(), "1"))


def test_bfloat16_needs_a_cupy_and_a_numpy_that_know_it(monkeypatch):
    pytest.importorskip("ml_dtypes")
    cupy = Cupy(1)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert operands.type_of("bfloat16").name == "bfloat16" and operands.type_of("float16") == np.float16
    cupy.__version__ = "13.6.0"
    with pytest.raises(levit_np.BackendError, match="expected CuPy 14 or later to train in it, found 13.6.0"):
        operands.type_of("bfloat16")
    cupy.__version__ = "14.2.0"
    monkeypatch.setattr(np, "__version__", "2.1.1")  # with which CuPy leaves bfloat16 out
    with pytest.raises(levit_np.BackendError, match="expected NumPy 2.1.2 or later to train in it .*, found 2.1.1$"):
        operands.type_of("bfloat16")


@pytest.mark.parametrize("memory, kept", [("", "once: CuPy keeps them"),
                                          ("1", "in each process: CuPy has no folder for them")])
def test_waiting_for_the_compiler_is_reported_once(memory, kept, monkeypatch, capsys):
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", memory)
    cupy, now = Cupy(1), [0.0]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    device.current()
    module = type("Module", (), {"get_function": lambda self, name: now.append(now[-1] + 0.6)})
    cupy.RawModule = lambda code, options: module()
    monkeypatch.setattr(device.time, "monotonic", lambda: now[-1])
    for number in range(4):
        device.current().function(Kernel("bias", "arrange_bias", defines=(("N", number),)))
    assert capsys.readouterr().err == f"levit_np: compiling the kernels for this GPU ({kept})\n"


@pytest.mark.parametrize("error, found", [
    (type("CompileException", (Exception,), {})(LOG), 'k.cu(9): error: identifier "wgmma" is undefined'),
    (type("CompileException", (Exception,), {})("nvrtc: error: failed to open libnvrtc-builtins.so.13.0.\n  Make sure"),
     "nvrtc: error: failed to open libnvrtc-builtins.so.13.0."),
    (PermissionError(13, "Permission denied", "cache/tmp1"), "[Errno 13] Permission denied: 'cache/tmp1'")])
def test_a_kernel_that_does_not_compile_is_reported_in_one_line(error, found, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", Cupy(1, arrange_bias=error))
    with pytest.raises(levit_np.BackendError) as caught:
        device.current().function(Kernel("bias", "arrange_bias"))
    assert str(caught.value) == ("backend cuda: arrange_bias: expected that CUDA's compiler and this GPU take it, "
                                 f"found {found}")


def test_a_kernel_that_does_not_fit_into_memory_is_a_memory_error(monkeypatch):
    """An evaluation then takes fewer images; a training reports that it needs more memory. CuPy's own error is no
    MemoryError."""
    error = type("CUDADriverError", (RuntimeError,), {"status": 2})("CUDA_ERROR_OUT_OF_MEMORY")
    monkeypatch.setitem(sys.modules, "cupy", Cupy(1, arrange_bias=error))
    with pytest.raises(MemoryError, match="^arrange_bias: CUDA_ERROR_OUT_OF_MEMORY$") as caught:
        device.current().function(Kernel("bias", "arrange_bias"))
    assert device.ran_out(caught.value)


def test_definitions_are_not_passed_as_compiler_options(monkeypatch):
    """CuPy starts the compiler once in a process for each set of options, even for kernels in its cache."""
    cupy, asked = Cupy(1), []
    cupy.RawModule = lambda code, options: asked.append((code, options)) or SimpleNamespace(get_function=str)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for defines in ((("KEY_SIZE", 32),), (("KEY_SIZE", 64),), (("WARPGROUPS", 1),)):
        device.current().function(Kernel("attention", "attention", "float16", defines))
    codes, options = zip(*asked[-3:])
    first = "#define ELEMENT float16\n#define "
    assert options == (("-std=c++17",), ("-std=c++17",), ("-std=c++17", "-arch=sm_90a"))
    assert [code.startswith(f"{first}{definition}\n")
            for code, definition in zip(codes, ("KEY_SIZE 32", "KEY_SIZE 64", "WARPGROUPS 1"))] == [True] * 3


def test_a_rank_takes_a_gpu_of_its_own(monkeypatch):
    cupy = Cupy(4)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(device, "_number", None)
    device.current()
    assert cupy.chosen == []  # CUDA's default
    device.use(None)
    device.choose(6)
    device.current()
    assert cupy.chosen == [2]
    device.use(None)
    monkeypatch.setitem(sys.modules, "cupy", Cupy(0))
    with pytest.raises(levit_np.BackendError, match="expected an NVIDIA GPU, found none"):
        device.current()


def test_the_oldest_gpu_is_one_of_8_0(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", Cupy(1, "80"))
    assert device.current().capability == 80 and not device.on_hopper()


def test_shared_memory_is_asked_for(monkeypatch):
    """Once for each kernel and GPU; if the GPU has too little, the error is one line."""
    cupy, asked = Cupy(2), []
    runtime = cupy.cuda.runtime
    runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin, runtime.getDevice = 97, lambda: number
    runtime.deviceGetAttribute = lambda attribute, number: {97: 99 << 10}[attribute]
    monkeypatch.setitem(sys.modules, "cupy", cupy)

    class Function:
        def __setattr__(self, name, size):
            asked.append((name, number, size))

        def __call__(self, *launch, shared_mem):
            pass

    monkeypatch.setattr(device.CupyDevice, "function", lambda gpu, kernel: Function())
    kernel, gpu = Kernel("attention", "attention"), device.current()
    for number, size in ((0, 48 << 10), (0, 64 << 10), (0, 50 << 10), (0, 99 << 10), (1, 50 << 10), (1, 50 << 10)):
        gpu.launch(Launch(kernel, (1, 1, 1), (32, 1, 1), size, ()))
    assert asked == [("max_dynamic_shared_size_bytes", *which)
                     for which in ((0, 64 << 10), (0, 99 << 10), (1, 50 << 10))]
    with pytest.raises(levit_np.BackendError, match="backend cuda: attention: expected a GPU with 101,392 bytes of "
                                                    "shared memory for a block, found 101,376: its heads are too wide"):
        gpu.launch(Launch(kernel, (1, 1, 1), (32, 1, 1), (99 << 10) + 16, ()))


def test_what_a_kernel_is_given(monkeypatch):
    """A view as its array, None as a null pointer, Python's numbers as the kernels' types."""
    given, x = [], np.zeros((2, 3))
    monkeypatch.setitem(sys.modules, "cupy", Cupy(1))
    monkeypatch.setattr(device.CupyDevice, "function",
                        lambda gpu, kernel: lambda *launch, shared_mem: given.append((*launch, shared_mem)))
    launch = device.call(Kernel("a", "b"), (5,), (32, 2), (View(x), x, None, 3, 0.5), 16)
    device.current().launch(launch)
    grid, block, (view, array, null, *numbers), shared = given.pop()
    assert (grid, block, shared) == ((5, 1, 1), (32, 2, 1), 16) and view is array is x
    assert [(n, n.dtype.name) for n in (null, *numbers)] == [(0, "uint64"), (3, "int32"), (0.5, "float32")]


def test_arrays_of_the_host_are_copied_in_the_targets_type(monkeypatch):
    """CuPy refuses others."""
    monkeypatch.setitem(sys.modules, "cupy", Cupy(1))
    found, values = [], np.arange(12.0).reshape(3, 4)[:, ::2]
    device.current().copy(SimpleNamespace(dtype=np.dtype("float32"), set=found.append), values)
    assert found[0].flags.c_contiguous and found[0].dtype == "float32" and np.array_equal(found[0], values)


def test_two_threads_compile_and_launch_a_kernel_for_the_first_time(monkeypatch):
    """The second thread comes while the first compiles, and again while it asks for the limit of shared memory: both
    launch the same function, and the larger request remains."""
    cupy, asked, launched, others = Cupy(1), [], [], []
    runtime, kernel = cupy.cuda.runtime, Kernel("attention", "attention")
    runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin, runtime.getDevice = 97, lambda: 0

    def launch(size):
        gpu.launch(Launch(kernel, (1, 1, 1), (32, 1, 1), size, ()))

    def meanwhile(size, what):
        if what not in others:
            others.append(what)
            launch(size)

    class Function:
        def __setattr__(self, name, size):
            asked.append((self, size))

        def __call__(self, *launch, shared_mem):
            launched.append(self)

    def compiled(name):
        meanwhile(50 << 10, "compiling")
        return Function()

    monkeypatch.setitem(sys.modules, "cupy", cupy)
    gpu = device.current()
    cupy.RawModule = lambda code, options: SimpleNamespace(get_function=compiled)
    runtime.deviceGetAttribute = lambda *_: meanwhile(80 << 10, "asking") or 99 << 10
    launch(64 << 10)
    assert asked == [(launched[0], 80 << 10)] and launched == 3 * launched[:1]


@pytest.mark.parametrize("compiler, suits", [((12, 8), False), ((12, 9), True), ((13, 0), True)])
def test_hoppers_instructions_need_a_compiler_that_takes_their_target(compiler, suits, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", Cupy(1, "90", compiler))
    assert device.on_hopper() is suits


def test_errors_that_mean_out_of_memory(emulators):
    device.use(emulators[0])
    try:
        errors = MemoryError(), type("CUDARuntimeError", (RuntimeError,), {"status": 2})(), RuntimeError("another")
        assert [device.ran_out(error) for error in errors] == [True, True, False]
    finally:
        device.use(None)
