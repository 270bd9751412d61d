"""Emulates a GPU: arrays are NumPy's but follow CuPy's rules, and the kernels' own sources are compiled by g++.

Every argument of a launch is checked against the kernel's parameters, and every array is surrounded by guard bytes."""

import ctypes
import hashlib
import os
import re
import subprocess
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np

from levit_np.ops.cuda.device import HOPPER
from levit_np.ops.cuda.geometry import SHARED_AT_MOST, SHARED_OF_HOPPER
from levit_np.ops.cuda.kernel import View, source

HERE = Path(__file__).resolve().parent
GUARD = 512  # bytes before and after an array
# With -O1, compiling takes twice as long, and the kernels run hardly faster.
FLAGS = ("-std=c++17", "-Og", "-march=native", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-w", "-DEMULATED")
# The array types allowed for pointers to these C++ types.
POINTERS = {"float": ("float32",), "unsigned char": ("uint8",), "int": ("int32",), "long long": ("int64",)}
SCALARS = {"int": np.int32, "float": np.float32, "long long": np.int64}


class DeviceArray(np.ndarray):
    """An array that, like CuPy's, cannot be mixed with NumPy's."""

    def __array_ufunc__(self, ufunc, method, *inputs, **more):
        same_device(inputs)
        same_device(more.get("out") or ())
        return on_device(getattr(ufunc, method)(*plain(inputs), **plain(more)))

    def __array_function__(self, function, types, args, kwargs):
        same_device(args[:1] if function is np.split else args)  # the positions to split at are on the host
        return on_device(function(*plain(args), **plain(kwargs)))

    def __setitem__(self, key, value):
        same_device((value,))
        super().__setitem__(key, value)

    def item(self, *place):
        """A number for the host, which must wait for it; the same holds for float, int and bool."""
        not_recording("a number for the host")
        return self.view(np.ndarray).item(*place)

    __float__ = __int__ = __bool__ = None  # defined below


for name, kind in (("__float__", float), ("__int__", int), ("__bool__", bool)):
    setattr(DeviceArray, name, lambda self, kind=kind: kind(self.item()))


def not_recording(what):
    """Copies to or from the host cannot be part of a CUDA graph."""
    if Arrays.recording:
        raise RuntimeError(f"{what} in what is recorded")


def same_device(values):
    for value in values:
        if isinstance(value, (tuple, list)):
            same_device(value)
        elif isinstance(value, np.ndarray) and not isinstance(value, DeviceArray):
            raise TypeError("an array of the host among those of the device")


def plain(value):
    if isinstance(value, (tuple, list)):
        return type(value)(plain(v) for v in value)
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return value.view(np.ndarray) if isinstance(value, DeviceArray) else value


def on_device(value):
    if isinstance(value, (tuple, list)):
        return type(value)(on_device(v) for v in value)
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value).view(DeviceArray)
    return value


class Arrays:
    """The part of CuPy that the backend uses. Uninitialised arrays contain NaN."""

    float32, float16, ndarray = np.float32, np.float16, DeviceArray
    recording = False

    @staticmethod
    def empty(shape, dtype):
        y = np.empty(shape, dtype)
        y.reshape(-1).view(np.uint8)[...] = 255
        return on_device(y)

    @classmethod
    def empty_like(cls, x):
        return cls.empty(x.shape, x.dtype)

    @staticmethod
    def zeros(shape, dtype):
        return on_device(np.zeros(shape, dtype))

    @staticmethod
    def asarray(x, dtype=None):
        if not isinstance(x, DeviceArray):
            not_recording("an array of the host")
        return on_device(np.array(x, dtype))

    @staticmethod
    def asnumpy(x):
        not_recording("an array for the host")
        return np.array(x)

    @staticmethod
    def ascontiguousarray(x, dtype=None):
        if not isinstance(x, DeviceArray):
            raise TypeError(f"expected an array of the device, found {type(x)}")
        return on_device(np.ascontiguousarray(x.view(np.ndarray), dtype))

    def __getattr__(self, name):  # functions of arrays: concatenate, exp, …
        function = getattr(np, name)

        def checked(*args, **kwargs):
            same_device(args)
            return on_device(function(*plain(args), **plain(kwargs)))

        return checked


@cache
def parameters(kernel_source, name):
    """[(type, whether it is a pointer)] of a kernel's parameters, read from its source."""
    found = re.search(rf"KERNEL\s+(?:__launch_bounds__\(.*?\)\s+)?{name}\((.*?)\)\s*\{{", source(kernel_source), re.S)
    assert found, f"{kernel_source}.cu has no kernel {name}"
    listed = []
    for parameter in found[1].split(","):
        words = parameter.replace("const ", "").replace("*", " * ").split()
        listed.append((" ".join(words[:-2] if "*" in words else words[:-1]), "*" in words))
    return listed


class Emulator:
    """order: 0 or 1, which threads run first. `launches` counts launches by kernel; `captures` counts recordings."""

    OutOfMemory = MemoryError

    def __init__(self, folder, order=0, edit=None, capability=80):
        self.capability, self.arrays, self.folder, self.order, self.edit, self.launches = (
            capability, Arrays(), Path(folder), order, edit, {})
        self._functions, self.captures = {}, 0

    def function(self, kernel):
        """The compiled launcher of a kernel; `edit` may change its source first, to plant a bug."""
        if kernel not in self._functions:
            text = kernel.text
            if self.edit:
                text = self.edit(text)
            parts = text, (HERE / "emulation.h").read_text()
            library = self.folder / f"{kernel.source}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.so"
            if not library.exists():
                made = Path(f"{library}.{os.getpid()}")  # another process may be compiling the same
                subprocess.run(["g++", *FLAGS, f"-I{HERE}", "-x", "c++", "-", "-o", str(made)],
                               input=text, text=True, check=True)
                made.rename(library)
            function = getattr(ctypes.CDLL(str(library)), f"launch_{kernel.name}")
            function.restype = ctypes.c_char_p
            self._functions[kernel] = function
        return self._functions[kernel]

    def asarray(self, x):
        return self.arrays.asarray(x)

    def address(self, x):
        return x.ctypes.data

    def recorded(self, calls):
        return lambda: [self.launch(call) for call in calls] and None

    def captured(self, function, arrays=()):
        """Computes anew on each replay, but returns the results in the memory of the first."""
        first, self.captures = [], self.captures + 1

        def replay():
            Arrays.recording = True
            try:
                found = [on_device(np.array(plain(value))) for value in function()]
            finally:
                Arrays.recording = False
            first.extend(found[len(first) :])
            for own, value in zip(first, found, strict=True):
                own[...] = value
            return tuple(first)

        return replay

    def copy(self, target, values):
        target[...] = self.arrays.asarray(values)

    def require_bfloat16(self):
        pass

    def finish(self):
        pass

    def here(self):
        return nullcontext()

    def in_turn(self, last):
        pass

    def free(self):
        pass

    def launch(self, call):
        kernel = call.kernel
        self.launches[kernel.name] = self.launches.get(kernel.name, 0) + 1
        expected = parameters(kernel.source, kernel.name)
        assert len(expected) == len(call.arguments), f"{kernel.name}: {len(call.arguments)} arguments for {expected}"
        guarded = [Guarded(kernel, number, value, kind) if pointer else Scalar(kernel, number, value, kind)
                   for number, (value, (kind, pointer)) in enumerate(zip(call.arguments, expected))]
        pointers = (ctypes.c_void_p * len(guarded))(*(g.place for g in guarded))
        sizes = (ctypes.c_uint * 6)(*call.grid, *call.block)
        assert min(call.grid) > 0 and call.grid[1] < 65536 and call.grid[2] < 65536, f"{kernel.name}: grid {call.grid}"
        most = SHARED_OF_HOPPER if self.capability == HOPPER else SHARED_AT_MOST
        assert call.shared <= most, f"{kernel.name}: {call.shared} bytes of shared memory for {most}"
        # Arrays reached through a table of addresses are not arguments; the kernels that use such a table copy no
        # chunks.
        ranges = [n for g in guarded if getattr(g, "bytes", None) is not None
                  for n in (int(g.address[0]), int(g.address[0]) + len(g.bytes))]
        wrong = self.function(kernel)(sizes, ctypes.c_size_t(call.shared), self.order, pointers, len(guarded),
                                      (ctypes.c_size_t * len(ranges))(*ranges), len(ranges) // 2)
        if wrong:
            raise RuntimeError(f"{kernel.name}: {wrong.decode()}")
        for g in guarded:
            g.finish()


class Scalar:
    def __init__(self, kernel, number, value, kind):
        assert type(value) is SCALARS[kind], f"{kernel.name}, argument {number}: expected {kind}, got {type(value)}"
        self.value = np.array(value)
        self.place = self.value.ctypes.data

    def finish(self):
        pass


class Guarded:
    """A copy of an array's memory between guard bytes, which must not be written and read as NaN."""

    def __init__(self, kernel, number, value, kind):
        self.name, self.address = f"{kernel.name}, argument {number}", np.zeros(1, np.uint64)
        self.place, self.bytes = self.address.ctypes.data, None
        if value is None:
            return
        array = value.array if isinstance(value, View) else value
        allowed = POINTERS.get(kind) or {"float": ("float32",), "float16": ("float16", "uint16"),
                                         "bfloat16": ("bfloat16", "uint16")}[kernel.element]
        assert isinstance(array, DeviceArray) and array.dtype.name in allowed, \
            f"{self.name}: expected {allowed} on the device, got {type(array)} of {getattr(array, 'dtype', None)}"
        whole = isinstance(value, View) or array.flags.c_contiguous
        assert array.ctypes.data % 16 == 0 and array.size and whole, self.name
        self.bytes = span(array)
        self.memory = np.full(len(self.bytes) + 2 * GUARD + 64, 255, np.uint8)
        self.start = GUARD + -(self.memory.ctypes.data + GUARD) % 64
        self.end = self.start + len(self.bytes)
        self.memory[self.start : self.end] = self.before = self.bytes.copy()
        self.address[0] = self.memory.ctypes.data + self.start

    def finish(self):
        if self.bytes is None:
            return
        if (self.memory[: self.start] != 255).any() or (self.memory[self.end :] != 255).any():
            raise RuntimeError(f"{self.name}: written outside the array")
        written = self.memory[self.start : self.end] != self.before  # another argument may be a view of the same memory
        self.bytes[written] = self.memory[self.start : self.end][written]


def span(array):
    """The bytes from an array's first to its last number."""
    length = sum((n - 1) * s for n, s in zip(array.shape, array.strides)) + array.itemsize
    return np.ctypeslib.as_array((ctypes.c_ubyte * length).from_address(array.ctypes.data))
