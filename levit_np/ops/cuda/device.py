"""The GPU: where arrays live, and how kernels (kernel.py) are compiled and launched. CuPy is loaded when first needed.

The operations use two things of it: `arrays()`, a module like NumPy, and `launch`. The tests put NumPy, and the same
kernels compiled for the processor, in their place (`use`)."""

import os
import re
import sys
import tempfile
import threading
import time
import traceback
import weakref
from contextlib import suppress

import numpy as np

from ...errors import BackendError, say
from .geometry import SHARED_WITHOUT_ASKING, tiles_of
from .kernel import Kernel, Launch, View

OLDEST = 80  # compute capability 8.0, Ampere: the first with bfloat16 and asynchronous copies
HOPPER = 90  # the only one with warpgroup instructions
TAKES_TWO_TARGETS = 12, 9  # the first NVRTC that accepts Hopper's own target beside the one CuPy adds to every source
NOTHING = 'extern "C" __global__ void nothing() {}'
NO_MEMORY = 2  # out of memory, as an error's status in CUDA's driver and runtime
PATIENCE = 1.0  # seconds of compiling before a message is printed
# Launching a graph takes the processor about 1 µs a kernel, during which the GPU would wait. So a long recording
# becomes several graphs, cut after so many kernels: while the GPU runs one, the next, larger, is launched.
CUTS = 32, 256
# The first CuPy with bfloat16 arrays, and the oldest NumPy with which it computes with them; evaluation needs none.
KNOWS_BFLOAT16, PROMOTES_BFLOAT16 = 14, "2.1.2"
_used, _number = None, None
# While a thread records, no other may synchronize the GPU, or launch what would count as recorded: one thread at a time
# records or evaluates.
alone = threading.RLock()
_recording = threading.local()  # .rounded: see the function


def _cupy():
    try:
        if "cupy" not in sys.modules:
            _where_kernels_are_kept()
        import cupy
    except Exception as error:  # one built for another NumPy may raise anything
        if isinstance(error, ImportError) and error.name == "cupy":
            raise BackendError("backend cuda: expected the package cupy (pip install 'levit_np[cuda]'), "
                               "which is not installed") from None
        # CuPy's own message is a page long; its cause is one line.
        raise BackendError("backend cuda: expected a cupy that can be imported, found "
                           f"{_line_of(error.__cause__ or error)}") from None
    return cupy


def _where_kernels_are_kept():
    """CuPy creates its cache folder when it is imported, and fails where it may not: in a container whose user has no
    home, say. Then it keeps compiled kernels in memory, and each process compiles them."""
    folder = os.path.abspath(os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache"))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        os.environ |= {"CUPY_CACHE_DIR": tempfile.gettempdir(), "CUPY_CACHE_IN_MEMORY": "1"}


def _line_of(error) -> str:
    """The most informative line of its message: a compiler's warnings may precede its first error."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if re.search(r"\berror\s*:", line)), lines[0])


class CupyDevice:
    """A GPU: the first, or number `number` modulo how many there are. Raises BackendError, in one line, where there is
    none to compute with."""

    def __init__(self, number: int | None = None):
        cupy = self.arrays = _cupy()
        try:
            count = cupy.cuda.runtime.getDeviceCount()
            if count and number is not None:
                cupy.cuda.Device(number % count).use()
            capability = int(cupy.cuda.Device().compute_capability) if count else 0
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise BackendError(f"backend cuda: expected an NVIDIA GPU and its driver, found {error}") from None
        if not count:
            raise BackendError("backend cuda: expected an NVIDIA GPU, found none")
        self.capability = capability
        if capability < OLDEST:
            raise BackendError(f"backend cuda: expected compute capability {OLDEST / 10} or later, found "
                               f"{capability / 10}")
        try:
            compiler = tuple(cupy.cuda.nvrtc.getVersion())
            self._compiled(NOTHING, "nothing")  # needs CUDA's headers, and a driver that can load the result
        except Exception as error:  # CuPy's own, or one of the libraries that look for them
            raise BackendError("backend cuda: expected CUDA's compiler NVRTC, its headers and a driver for what it "
                               f"makes (pip install 'levit_np[cuda]'), found {_line_of(error)}") from None
        if capability == HOPPER and compiler < TAKES_TWO_TARGETS:
            self.capability -= 1  # without warpgroup instructions, like any other
        self.OutOfMemory = cupy.cuda.memory.OutOfMemoryError
        self._functions, self._shared = {}, {}  # bytes of shared memory requested on each GPU
        self._compiling = 0.0  # seconds
        self._launched, self._cuts, self._cut, self._recorder = 0, (), None, None  # see captured
        self._pools = []  # memory of recordings: [pool, a function: the recording, or None once it is gone]

    def function(self, kernel: Kernel):
        """The compiled kernel, perhaps from CuPy's cache. Says once that compiling takes a while."""
        if kernel not in self._functions:
            begun = time.monotonic()
            target = ("-arch=sm_90a",) if ("WARPGROUPS", 1) in kernel.defines else ()  # else CuPy's own
            try:
                # Two threads that come at the same time share one function: shared memory is requested of it once, for
                # both.
                self._functions.setdefault(kernel, self._compiled(kernel.text, kernel.name, *target))
            except Exception as error:
                if ran_out(error):
                    raise MemoryError(f"{kernel.name}: {_line_of(error)}") from None
                raise BackendError(f"backend cuda: {kernel.name}: expected that CUDA's compiler and this GPU take it, "
                                   f"found {_line_of(error)}") from None
            before, self._compiling = self._compiling, self._compiling + time.monotonic() - begun
            if before < PATIENCE <= self._compiling:
                kept = os.environ.get("CUPY_CACHE_IN_MEMORY") != "1"
                say("levit_np: compiling the kernels for this GPU "
                    f"({'once: CuPy keeps them' if kept else 'in each process: CuPy has no folder for them'})")
        return self._functions[kernel]

    def _compiled(self, text, name, *target):
        return self.arrays.RawModule(code=text, options=("-std=c++17", *target)).get_function(name)

    def asarray(self, x):
        """An array on this thread's GPU: one that is there already as it is, else a copy, also of another GPU's, which
        kernels may not be able to read."""
        xp, cuda = self.arrays, self.arrays.cuda
        if not isinstance(x, xp.ndarray) or x.device.id == cuda.Device().id:
            return xp.asarray(x)
        with x.device:
            x = x.astype(x.dtype, order="C", copy=False)  # copy() would do it there too, and not wait for it
            cuda.get_current_stream().synchronize()  # wait for what writes it
        y = x.copy()
        cuda.get_current_stream().synchronize()  # the owner may write to it again
        return y

    def address(self, x) -> int:
        return x.data.ptr

    def launch(self, call: Launch) -> None:
        function = self.function(call.kernel)
        if call.shared > SHARED_WITHOUT_ASKING:
            self._ask_for_shared(call, function)
        arguments = tuple(np.uint64(0) if a is None else a.array if isinstance(a, View) else a for a in call.arguments)
        try:
            function(call.grid, call.block, arguments, shared_mem=call.shared)
        except Exception as error:
            if ran_out(error):  # its code may be loaded only now
                raise MemoryError(f"{call.kernel.name}: {_line_of(error)}") from None
            raise
        self._launched += 1
        if self._launched in self._cuts and threading.get_ident() == self._recorder:
            self._cut()

    def _ask_for_shared(self, call, function):
        runtime = self.arrays.cuda.runtime
        number = runtime.getDevice()
        if call.shared <= self._shared.get((number, call.kernel), 0):
            return
        most = runtime.deviceGetAttribute(runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin, number)
        if call.shared > most:  # for attention with wider heads than any model of the family
            raise BackendError(f"backend cuda: {call.kernel.name}: expected a GPU with {call.shared:,} bytes of shared "
                               f"memory for a block, found {most:,}: its heads are too wide")
        with alone:  # another thread's launch may have requested more
            if call.shared > self._shared.get((number, call.kernel), 0):
                function.max_dynamic_shared_size_bytes = self._shared[number, call.kernel] = call.shared

    def recorded(self, calls: list):
        """A function that does all of these launches at once: a CUDA graph, which saves the processor the separate
        launches."""
        def launch_all():
            for call in calls:
                self.launch(call)

        launch_all()  # compiled and loaded before anything is recorded
        return self.captured(launch_all, cuts=())

    def captured(self, function, arrays=(), cuts=CUTS):
        """A function that repeats what the kernels of function() do, in the same memory, and returns the same arrays:
        CUDA graphs, cut after so many launches. function() itself is called once, now, and what it launches is only
        recorded; it must not wait, must not read from the host, and must have been called before, so that nothing is
        compiled. arrays: all that it reads and does not make. Raises OutOfMemory."""
        with alone:
            return self._captured(function, arrays, cuts)

    def _captured(self, function, arrays, cuts):
        cuda, taken, graphs = self.arrays.cuda, 0, []

        def take(size):
            nonlocal taken
            found, taken = cuda.MemoryPointer(cuda.Memory(size), 0), taken + size
            return found

        def cut():
            graphs.append(stream.end_capture())
            stream.begin_capture()

        # Memory from a pool of its own: what is freed in between the graph reuses, and nobody else may meanwhile.
        pool, stream = cuda.MemoryPool(take), cuda.Stream(non_blocking=True)
        self.finish()
        self.free()  # the graph needs as much memory as the calls before it
        own = [pool, lambda: None]
        self._pools.append(own)
        with stream, cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            self._launched, self._cuts, self._cut, self._recorder = 0, cuts, cut, threading.get_ident()
            try:
                result = function()
            except BaseException:
                with suppress(cuda.runtime.CUDARuntimeError):  # a broken recording: the first error is what matters
                    stream.end_capture()
                raise
            finally:
                self._cuts, self._cut = (), None
            graphs.append(stream.end_capture())
        if pool.total_bytes() < taken:
            # Memory ran short: the pool gave some back, which recorded kernels write to, before it found more.
            raise self.OutOfMemory(taken, pool.total_bytes())

        def replay(needed=(pool, arrays)):
            try:
                for graph in graphs:
                    graph.launch()
            except Exception as error:
                if ran_out(error):
                    raise MemoryError(f"CUDA graph: {_line_of(error)}") from None
                raise
            return result

        own[1] = weakref.ref(replay)
        return replay

    def copy(self, target, values) -> None:
        """Copies an array of the host or of the GPU into one of the GPU, of the same shape."""
        if isinstance(values, np.ndarray):
            target.set(np.ascontiguousarray(values, target.dtype))
        else:
            target[...] = values

    def require_bfloat16(self) -> None:
        """Raises BackendError where CuPy has no bfloat16 arrays."""
        found = self.arrays.__version__
        if int(found.partition(".")[0]) < KNOWS_BFLOAT16:
            raise BackendError(f"dtype bfloat16: expected CuPy {KNOWS_BFLOAT16} or later to train in it, found {found}")
        if np.lib.NumpyVersion(np.__version__) < PROMOTES_BFLOAT16:
            raise BackendError(f"dtype bfloat16: expected NumPy {PROMOTES_BFLOAT16} or later to train in it on a GPU, "
                               f"found {np.__version__}")

    def finish(self) -> None:
        """Returns when the GPU has finished all its work."""
        self.arrays.cuda.Device().synchronize()

    def here(self):
        """This thread's GPU: inside `with`, another thread works on it too, rather than on the first."""
        return self.arrays.cuda.Device()

    def in_turn(self, last):
        """For memory that one call after another uses: waits for the GPU if this call comes from another thread or
        stream than the last, whose work it would not wait for by itself.  -> what the next call passes as `last`."""
        here = threading.get_ident(), self.arrays.cuda.get_current_stream().ptr
        if last not in (None, here):
            self.finish()
        return here

    def free(self) -> None:
        """Returns to the system the memory that CuPy keeps for later, and that of recordings that are gone: a pool
        keeps it even when nobody has the pool any more."""
        self.arrays.get_default_memory_pool().free_all_blocks()
        for pool, recording in self._pools:
            if recording() is None:
                pool.free_all_blocks()
        self._pools = [own for own in self._pools if own[1]() is not None or own[0].total_bytes()]


def captured(function, arrays=()):
    """See CupyDevice.captured. A weight rounded in the forward is not rounded again for the backward."""
    _recording.rounded = {id(array): {} for array in arrays}
    try:
        return current().captured(function, arrays)
    except (RuntimeError, MemoryError) as error:
        traceback.clear_frames(error.__traceback__)  # drops the arrays made so far
        current().free()
        raise
    finally:
        _recording.rounded = {}


def rounded(array) -> dict:
    """While this thread records: {type: the rounded copy} of an array that was given to the recording; entries last
    until its end. For any other array, and at other times, a new empty dictionary."""
    return getattr(_recording, "rounded", {}).get(id(array), {})


def free() -> None:
    """Returns the memory of recordings that are gone, which nothing else can use."""
    with alone:
        current().finish()
        current().free()


def ran_out(error: Exception) -> bool:
    """Whether the GPU's memory was not enough: for an array (CuPy's MemoryError), a kernel or a graph."""
    return isinstance(error, MemoryError) or getattr(error, "status", None) == NO_MEMORY


def use(device) -> None:
    """Makes `device` stand in for the GPU from now on; None: CuPy's again."""
    global _used
    _used = device


def choose(number: int) -> None:
    """The GPU to use from now on, its number taken modulo how many there are: each rank takes its own."""
    global _number
    _number = number


def current():
    """The device.  Raises BackendError."""
    global _used
    if _used is None:
        _used = CupyDevice(_number)
    return _used


def arrays():
    """CuPy, or what stands for it."""
    return current().arrays


def launch(kernel: Kernel, grid, block, arguments, shared: int = 0) -> None:
    """Runs a kernel on a grid of blocks of threads, each of up to three dimensions."""
    current().launch(call(kernel, grid, block, arguments, shared))


def call(kernel: Kernel, grid, block, arguments, shared: int = 0) -> Launch:
    """The same as a Launch, to be run later."""
    three = [(*(int(n) for n in size), 1, 1)[:3] for size in (grid, block)]
    return Launch(kernel, *three, shared, tuple(_argument(a) for a in arguments))


def _argument(value):
    """Arrays and None as they are; Python's int and float as the kernels' int32 and float32."""
    if isinstance(value, (bool, int)):
        return np.int32(value)
    if isinstance(value, float):
        return np.float32(value)
    assert value is None or isinstance(value, (View, np.generic)) or value.flags.c_contiguous
    return value


def on_hopper() -> bool:
    """Whether this GPU has Hopper's warpgroup instructions."""
    return current().capability == HOPPER


def tiles(element: str, across: bool = False) -> tuple:
    """The tiles for products of this type on this GPU."""
    return tiles_of(element, on_hopper(), across)
