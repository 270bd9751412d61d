"""Recording launches as CUDA graphs, through a stand-in for CuPy: its memory, several graphs, and what streams, threads
and GPUs wait for."""

import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from levit_np.ops.cuda import device, operands
from levit_np.ops.cuda.kernel import Kernel, Launch

from .standing_cupy import Cupy, Runtime


@pytest.fixture(autouse=True)
def nothing_stands_for_the_gpu():
    device.use(None)
    yield
    device.use(None)


class Stream:
    """As much of CuPy's stream as recording needs; it logs what happens."""

    def __init__(self, log, non_blocking):
        self.log = log
        assert non_blocking  # as recording requires

    def __enter__(self):
        self.log.append("stream")

    def __exit__(self, *_):
        self.log.append("no stream")

    def begin_capture(self):
        self.log.append("begin")

    def end_capture(self):
        self.log.append("end")
        return type("Graph", (), {"launch": lambda graph: self.log.append("launch")})()


class Pool:
    """Like CuPy's: it keeps the memory that it has taken until it is told to free it, even if no array uses it; then it
    keeps what arrays use."""

    using = None

    def __init__(self, take):
        self.take, self.held, self.used = take, 0, 0

    def malloc(self, size):
        self.take(size)
        self.held += size

    def total_bytes(self):
        return self.held

    def free_all_blocks(self):
        self.held = self.used


@contextmanager
def using(log, malloc):
    Pool.using = malloc.__self__
    log.append("pool")
    yield
    log.append("no pool")


@pytest.fixture
def log(monkeypatch):
    """The log of what the stand-in for CuPy was asked to do."""
    cupy, log = Cupy(1), []
    cupy.cuda.Stream, cupy.cuda.using_allocator = partial(Stream, log), partial(using, log)
    cupy.cuda.MemoryPool, cupy.cuda.Memory, cupy.cuda.MemoryPointer = Pool, int, lambda memory, offset: memory
    cupy.cuda.Device.synchronize = lambda one: log.append("finished")
    cupy.get_default_memory_pool = lambda: type("", (), {"free_all_blocks": lambda pool: log.append("freed")})()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return log


@pytest.mark.parametrize("error", [None, MemoryError("no room")])
def test_what_is_recorded_has_memory_of_its_own(log, monkeypatch, error):
    """The recording also ends if the recorded function fails."""
    def function():
        log.append("function")
        if error:
            raise error
        return ["found"]

    if error:
        with pytest.raises(MemoryError):
            device.captured(function)
        assert log[-4:] == ["function", "end", "no stream", "freed"]
        return
    replay = device.captured(function)
    recording = ["finished", "freed", "stream", "pool", "begin", "function", "end", "no pool", "no stream"]
    assert log == recording
    assert replay() is replay() == ["found"] and log == [*recording, "launch", "launch"]
    log.clear()
    monkeypatch.setattr(device.CupyDevice, "launch", lambda gpu, call: log.append(call))
    device.current().recorded(["a", "b"])()
    assert log == ["a", "b", *recording[:5], "a", "b", *recording[6:], "launch"]


def test_the_error_that_broke_a_recording_is_raised(log, monkeypatch):
    """Not CUDA's error that the recording is invalid: if memory ran out, a smaller batch is tried."""
    def broken(stream):
        raise Runtime.CUDARuntimeError("cudaErrorStreamCaptureInvalidated")

    def function():
        raise MemoryError("no room")

    monkeypatch.setattr(Stream, "end_capture", broken)
    with pytest.raises(MemoryError, match="no room"):
        device.captured(function)
    with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureInvalidated"):
        device.captured(lambda: "recorded")
    assert log[-2:] == ["no stream", "freed"]


@pytest.mark.parametrize("status, kind", [(2, MemoryError), (700, Runtime.CUDARuntimeError)])
def test_memory_that_a_launch_lacks_is_a_memory_error(status, kind, log, monkeypatch):
    """Which a training says in one line: of a graph, and of a kernel whose code is loaded only then."""
    def broken(*_, **__):
        error = Runtime.CUDARuntimeError("cudaErrorAny")
        error.status = status
        raise error

    monkeypatch.setattr(Stream, "end_capture", lambda stream: SimpleNamespace(launch=broken))
    monkeypatch.setattr(device.CupyDevice, "function", lambda gpu, kernel: broken)
    replay, call = device.captured(lambda: "recorded"), Launch(Kernel("a", "b"), (1, 1, 1), (32, 1, 1), 0, ())
    for launch, what in ((replay, "CUDA graph"), (lambda: device.current().launch(call), "b")):
        with pytest.raises(kind, match=f"^{what}: cudaErrorAny$" if kind is MemoryError else "^cudaErrorAny$"):
            launch()


def test_a_recording_that_is_gone_gives_its_memory_back(log):
    """At the next time that memory is freed, but for what its results use, when the GPU has finished; that of a failed
    recording is freed at once, its arrays first, which its error would keep alive."""
    replay = device.captured(lambda: Pool.using.malloc(100))
    pool, gpu = Pool.using, device.current()
    gpu.free()
    assert pool.held == 100
    del replay
    for pool.used in (40, 0):
        log.clear()
        device.free()
        assert log == ["finished", "freed"] and pool.held == pool.used and len(gpu._pools) == (pool.used > 0)

    def scarce(size):
        array = np.ones(size)
        kept.append(weakref.ref(array))
        Pool.using.malloc(100)
        raise MemoryError("no more")

    kept = []
    with pytest.raises(MemoryError, match="no more") as error:
        device.captured(lambda: scarce(3))
    assert error.tb and kept[0]() is None and Pool.using.held == 0 and gpu._pools == []


def test_memory_is_freed_while_no_other_thread_records(log, monkeypatch):
    """Its waiting for the GPU would break a recording."""
    def finish(gpu):
        with ThreadPoolExecutor(1) as pool:
            log.append(pool.submit(device.alone.acquire, blocking=False).result())

    monkeypatch.setattr(device.CupyDevice, "finish", finish)
    device.free()
    assert log == [False, "freed"]


def test_a_recording_keeps_the_arrays_that_it_reads(log):
    """Its graphs hold only their addresses."""
    array = np.ones(3)
    kept, replay = weakref.ref(array), device.captured(lambda: None, (array,))
    del array
    assert kept() is not None
    del replay
    assert kept() is None


def test_another_stream_or_thread_waits_for_the_one_before(log):
    """If both use the same memory: nothing else makes the second wait."""
    cupy, gpu = sys.modules["cupy"], device.current()
    stream = type("", (), {"ptr": 0})()
    cupy.cuda.get_current_stream = lambda: stream
    first = gpu.in_turn(None)
    assert gpu.in_turn(first) == first and log == []
    stream.ptr = 7
    second = gpu.in_turn(first)
    assert log == ["finished"] and gpu.in_turn(second) == second and log == ["finished"]
    with ThreadPoolExecutor(1) as pool:  # threads may have different default streams with the same number
        pool.submit(gpu.in_turn, second).result()
    assert log == ["finished"] * 2


def test_memory_returned_during_a_recording_is_detected(log):
    """A recorded kernel would write to memory that has been returned."""
    def function():
        Pool.using.malloc(900)
        Pool.using.free_all_blocks()  # as CuPy does before it reports that there is no more memory
        Pool.using.malloc(1100)

    with pytest.raises(MemoryError):
        device.captured(function)


def test_a_long_recording_is_several_graphs(log, monkeypatch):
    """So that the GPU is busy while the rest is launched; a short recording, or one of an evaluation, is one graph."""
    monkeypatch.setattr(device.CupyDevice, "function", lambda gpu, kernel: lambda *launch, shared_mem: None)
    calls = [Launch(Kernel("a", "b"), (1, 1, 1), (32, 1, 1), 0, ())] * 300

    def launched(count):
        log.clear()
        device.captured(lambda: [device.current().launch(call) for call in calls[:count]])()
        return [log.count(what) for what in ("begin", "end", "launch")]

    assert device.CUTS == (32, 256)
    assert [launched(count) for count in (31, 32, 255, 300)] == [[1] * 3, [2] * 3, [2] * 3, [3] * 3]
    launched(31)
    log.clear()
    for call in calls:  # outside of a recording
        device.current().launch(call)
    assert log == []
    device.current().recorded(calls)()
    assert log.count("launch") == 1


def test_launches_of_another_thread_do_not_divide_a_recording(log, monkeypatch):
    """Otherwise launches between the two graphs would run immediately and be in neither. Nor may another thread record
    or evaluate meanwhile."""
    monkeypatch.setattr(device.CupyDevice, "function", lambda gpu, kernel: lambda *launch, shared_mem: None)
    call = Launch(Kernel("a", "b"), (1, 1, 1), (32, 1, 1), 0, ())

    def function():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: [device.current().launch(call) for _ in range(32)]).result()
            assert not pool.submit(device.alone.acquire, blocking=False).result()

    device.captured(function)
    assert log.count("begin") == log.count("end") == 1


def test_a_weight_is_rounded_once_per_recording(emulators, monkeypatch):
    device.use(emulators[0])
    monkeypatch.setattr(emulators[0], "captured", lambda function, arrays: function())
    w, other = (operands.asarray(np.ones((4, 8), np.float32)) for _ in "12")

    def function():
        kinds = "float16", "float16", "float32"
        return [operands.contiguous(array, np.dtype(kind)) for array in (w, other) for kind in kinds]

    def with_another_thread():
        with ThreadPoolExecutor(1) as pool:
            return function(), pool.submit(function).result()

    try:
        (found, elsewhere), apart = device.captured(with_another_thread, (w,)), function()
    finally:
        device.use(None)
    assert found[0] is found[1] is not found[2] and found[3] is not found[4]
    assert apart[0] is not apart[1]  # the values may have changed
    assert elsewhere[0] is not elsewhere[1]  # while recording there are no values yet
    assert [a.dtype.name for a in found[:3]] == ["float16", "float16", "float32"]


def test_an_array_of_another_gpu_is_copied(log, monkeypatch):
    """After its source is written, and before it may change: streams of different GPUs do not wait for each other. Its
    own GPU makes it contiguous, which must be waited for too."""
    cupy, gpu = sys.modules["cupy"], device.current()
    used = [0]

    class Device:
        def __init__(self, number=None):
            self.id = used[-1] if number is None else number

        def __enter__(self):
            used.append(self.id)

        def __exit__(self, *_):
            used.pop()

    class Array:
        dtype = np.dtype("float32")

        def __init__(self, number):
            self.device = Device(number)

        def astype(self, dtype, order, copy):
            assert dtype == self.dtype and order == "C" and not copy
            log.append(f"contiguous on {used[-1]}")
            return self

        def copy(self):
            log.append(f"copied to {used[-1]}")
            return Array(used[-1])

    stream = SimpleNamespace(synchronize=lambda: log.append(f"waited for {used[-1]}"))
    cupy.cuda.Device, cupy.ndarray, cupy.cuda.get_current_stream = Device, Array, lambda: stream
    cupy.asarray = lambda x: x
    own = Array(0)
    assert gpu.asarray(own) is own and gpu.asarray([1]) == [1] and log == []
    assert gpu.asarray(Array(1)).device.id == 0 and log == ["contiguous on 1", "waited for 1", "copied to 0",
                                                            "waited for 0"]
