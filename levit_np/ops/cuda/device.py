"""The GPU: where arrays live, and how kernels (kernel.py) are compiled and launched.  CuPy is loaded when first needed.

What the operations use is two things, `arrays()`, a module like NumPy, and `launch`: the tests put NumPy and the same
kernels compiled for the processor in their place (`use`).
"""

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
HOPPER = 90  # which has instructions that none has before or after it
TAKES_TWO_TARGETS = 12, 9  # the first NVRTC to take Hopper's own target beside the one that CuPy adds to every source
NOTHING = 'extern "C" __global__ void nothing() {}'
NO_MEMORY = 2  # the status of an error of CUDA's driver, and of its runtime
PATIENCE = 1.0  # seconds of compiling that go without a word
# A graph takes the processor some 1 µs a kernel to launch, during which the GPU would wait.  So the kernels of a long
# recording become several graphs, which end after so many: while the GPU works at one, the next, larger, is launched.
CUTS = 32, 256
KNOWS_BFLOAT16 = 14  # the first CuPy with arrays of it; evaluation, which has only kernels of its own, needs none
_used, _number = None, None
# While a thread records, no other may wait for the whole GPU, and none may count its launches among the recording's:
# one thread at a time records or evaluates.
alone = threading.RLock()
_recording = threading.local()  # .rounded: see rounded


def _cupy():
    try:
        if "cupy" not in sys.modules:
            _where_kernels_are_kept()
        import cupy
    except Exception as error:  # one made for another NumPy may raise whatever it likes
        if isinstance(error, ImportError) and error.name == "cupy":
            raise BackendError("backend cuda: expected the package cupy (pip install 'levit_np[cuda]'), "
                               "which is not installed") from None
        # CuPy explains on a page what it was caused by.
        raise BackendError("backend cuda: expected a cupy that can be imported, found "
                           f"{_line_of(error.__cause__ or error)}") from None
    return cupy


def _where_kernels_are_kept():
    """CuPy makes a folder for its kernels when it is imported, and fails where it may not: in a container whose user
    has no home, say.  There it keeps none, and compiles them in each process."""
    folder = os.path.abspath(os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache"))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        os.environ |= {"CUPY_CACHE_DIR": tempfile.gettempdir(), "CUPY_CACHE_IN_MEMORY": "1"}


def _line_of(error) -> str:
    """The line of its message that says the most: a compiler's warnings may come before its first error."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if re.search(r"\berror\s*:", line)), lines[0])


class CupyDevice:
    """A GPU: the first, or which of several, counted round.  Raises BackendError, in one line, where there is none to
    compute with."""

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
            self._compiled(NOTHING, "nothing")  # which needs CUDA's headers, and a driver that knows what is compiled
        except Exception as error:  # of CuPy's own and of the libraries that look for them
            raise BackendError("backend cuda: expected CUDA's compiler NVRTC, its headers and a driver for what it "
                               f"makes (pip install 'levit_np[cuda]'), found {_line_of(error)}") from None
        if capability == HOPPER and compiler < TAKES_TWO_TARGETS:
            self.capability -= 1  # as any other
        self.OutOfMemory = cupy.cuda.memory.OutOfMemoryError
        self._functions, self._shared = {}, {}  # bytes of shared memory that were asked for, on each GPU
        self._compiling = 0.0  # seconds
        self._launched, self._cuts, self._cut, self._recorder = 0, (), None, None  # see captured
        self._pools = []  # recordings' memory: [pool, a function that gives the recording while there is one]

    def function(self, kernel: Kernel):
        """Compiled, or from CuPy's cache.  That somebody waits is said once."""
        if kernel not in self._functions:
            begun = time.monotonic()
            target = ("-arch=sm_90a",) if ("WARPGROUPS", 1) in kernel.defines else ()  # else CuPy's own
            try:
                # Two threads that come at once have one function: shared memory is asked of it once, for both.
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
        """On this thread's GPU: an array of it as it is, a copy of the host's or another GPU's, which kernels may not
        be able to read."""
        xp, cuda = self.arrays, self.arrays.cuda
        if not isinstance(x, xp.ndarray) or x.device.id == cuda.Device().id:
            return xp.asarray(x)
        with x.device:
            cuda.get_current_stream().synchronize()  # what writes it
        y = x.copy()
        cuda.get_current_stream().synchronize()  # whoever gives it may write to it again
        return y

    def address(self, x) -> int:
        return x.data.ptr

    def launch(self, call: Launch) -> None:
        function = self.function(call.kernel)
        if call.shared > SHARED_WITHOUT_ASKING:
            self._ask_for_shared(call, function)
        arguments = tuple(np.uint64(0) if a is None else a.array if isinstance(a, View) else a for a in call.arguments)
        function(call.grid, call.block, arguments, shared_mem=call.shared)
        self._launched += 1
        if self._launched in self._cuts and threading.get_ident() == self._recorder:
            self._cut()

    def _ask_for_shared(self, call, function):
        runtime = self.arrays.cuda.runtime
        number = runtime.getDevice()
        if call.shared <= self._shared.get((number, call.kernel), 0):
            return
        most = runtime.deviceGetAttribute(runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin, number)
        if call.shared > most:  # for attention of heads that no model of the family has
            raise BackendError(f"backend cuda: {call.kernel.name}: expected a GPU with {call.shared:,} bytes of shared "
                               f"memory for a block, found {most:,}: its heads are too wide")
        with alone:  # another thread's launch may have asked for more meanwhile
            if call.shared > self._shared.get((number, call.kernel), 0):
                function.max_dynamic_shared_size_bytes = self._shared[number, call.kernel] = call.shared

    def recorded(self, calls: list):
        """A function that does all of these at once: a CUDA graph, which spares the processor a launch each."""
        def launch_all():
            for call in calls:
                self.launch(call)

        launch_all()  # compiled and loaded before anything is recorded
        return self.captured(launch_all, cuts=())

    def captured(self, function, arrays=(), cuts=CUTS):
        """A function that does again what the kernels of function() do, in the same memory, and gives the same arrays:
        CUDA graphs, cut after so many launches.  function() itself is called once, now, and nothing that it launches is
        run yet; it must wait for nothing, read nothing of the host's, and have been called before, so that nothing is
        compiled.  arrays: all that it reads and does not make.  Raises OutOfMemory."""
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

        # Of a pool that nothing else uses: what is freed in between, the graph uses again, and nobody may meanwhile.
        pool, stream = cuda.MemoryPool(take), cuda.Stream(non_blocking=True)
        self.finish()
        self.free()  # what the calls before have needed, the graph will need beside them
        own = [pool, lambda: None]
        self._pools.append(own)
        with stream, cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            self._launched, self._cuts, self._cut, self._recorder = 0, cuts, cut, threading.get_ident()
            try:
                result = function()
            except BaseException:
                with suppress(cuda.runtime.CUDARuntimeError):  # that the recording is broken; why is what matters
                    stream.end_capture()
                raise
            finally:
                self._cuts, self._cut = (), None
            graphs.append(stream.end_capture())
        if pool.total_bytes() < taken:
            # Where memory was scarce the pool gave some back, which recorded kernels write to, before it found more.
            raise self.OutOfMemory(taken, pool.total_bytes())

        def replay(needed=(pool, arrays)):
            for graph in graphs:
                graph.launch()
            return result

        own[1] = weakref.ref(replay)
        return replay

    def copy(self, target, values) -> None:
        """Writes an array of the host, or of the GPU, into one of the GPU, of the same shape."""
        if isinstance(values, np.ndarray):
            target.set(np.ascontiguousarray(values, target.dtype))
        else:
            target[...] = values

    def require_bfloat16(self) -> None:
        """Raises BackendError where CuPy has no arrays of it."""
        found = self.arrays.__version__
        if int(found.partition(".")[0]) < KNOWS_BFLOAT16:
            raise BackendError(f"dtype bfloat16: expected CuPy {KNOWS_BFLOAT16} or later to train in it, found {found}")

    def finish(self) -> None:
        """Returns when the GPU has done all that it was given."""
        self.arrays.cuda.Device().synchronize()

    def here(self):
        """This thread's GPU: `with` it, another thread works on it too, which by itself would take the first."""
        return self.arrays.cuda.Device()

    def in_turn(self, last):
        """For memory that one call after another uses: waits for the GPU where this call is another thread's than the
        last, or on another stream, which would not wait for that one's.  -> what the next call gives as `last`."""
        here = threading.get_ident(), self.arrays.cuda.get_current_stream().ptr
        if last not in (None, here):
            self.finish()
        return here

    def free(self) -> None:
        """Gives the memory back that CuPy keeps for later, and recordings that are gone had: a pool keeps it even when
        nobody has the pool any more."""
        self.arrays.get_default_memory_pool().free_all_blocks()
        for pool, recording in self._pools:
            if recording() is None:
                pool.free_all_blocks()
        self._pools = [own for own in self._pools if own[1]() is not None or own[0].total_bytes()]


def captured(function, arrays=()):
    """See CupyDevice.captured.  A weight that the forward rounds is not rounded again for the backward."""
    _recording.rounded = {id(array): {} for array in arrays}
    try:
        return current().captured(function, arrays)
    except (RuntimeError, MemoryError) as error:
        traceback.clear_frames(error.__traceback__)  # of the arrays that were made so far
        current().free()
        raise
    finally:
        _recording.rounded = {}


def rounded(array) -> dict:
    """While this thread records: what an array that the recording is given has become, by type; what is put in stays
    until the end.  Of any other array, and at other times, an empty one that nobody keeps."""
    return getattr(_recording, "rounded", {}).get(id(array), {})


def free() -> None:
    """Gives back what recordings that are gone had, which nothing else can use."""
    with alone:
        current().finish()
        current().free()


def ran_out(error: Exception) -> bool:
    """Whether the GPU's memory did not suffice: for an array, which CuPy has a MemoryError for, a kernel or a graph."""
    return isinstance(error, MemoryError) or getattr(error, "status", None) == NO_MEMORY


def use(device) -> None:
    """What stands for the GPU from now on; None for CuPy's."""
    global _used
    _used = device


def choose(number: int) -> None:
    """The GPU of this number, counted round, is the one from now on: a rank's of several."""
    global _number
    _number = number


def current():
    """What computes.  Raises BackendError."""
    global _used
    if _used is None:
        _used = CupyDevice(_number)
    return _used


def arrays():
    """CuPy, or what stands for it."""
    return current().arrays


def launch(kernel: Kernel, grid, block, arguments, shared: int = 0) -> None:
    """Runs a kernel: grid of blocks, block of threads, each up to three numbers."""
    current().launch(call(kernel, grid, block, arguments, shared))


def call(kernel: Kernel, grid, block, arguments, shared: int = 0) -> Launch:
    """The same, to be run later."""
    three = [(*(int(n) for n in size), 1, 1)[:3] for size in (grid, block)]
    return Launch(kernel, *three, shared, tuple(_argument(a) for a in arguments))


def _argument(value):
    """An array or None as it is; of numbers, Python's int and float become the kernels'."""
    if isinstance(value, (bool, int)):
        return np.int32(value)
    if isinstance(value, float):
        return np.float32(value)
    assert value is None or isinstance(value, (View, np.generic)) or value.flags.c_contiguous
    return value


def on_hopper() -> bool:
    """Whether this GPU has the instructions that Hopper alone has."""
    return current().capability == HOPPER


def tiles(element: str, across: bool = False) -> tuple:
    """Of products of this type, on this GPU."""
    return tiles_of(element, on_hopper(), across)
