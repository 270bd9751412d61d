"""Compiled code as a file sealed by its SHA-256, and loaded into memory, ready to be called.

On Linux it is an image (linker.py): the system maps it executable and never writable, and no compiler is loaded.
Elsewhere it is the compiler's object file, which llvmlite links as Numba does; that is tested on Linux alone."""

import ctypes
import hashlib
import json
import mmap
import sys
import tempfile

import numpy as np

from ...errors import BackendError

IS_IMAGE = sys.platform == "linux"
MFD_CLOEXEC = 1  # close-on-exec
MAGIC = b"levit_np kernels 2\n"


def packed(code: bytes, entry: int | str) -> bytes:
    """The content of a file.  entry: the function's offset in an image, or its symbol in an object file."""
    content = json.dumps({"image": IS_IMAGE, "entry": entry}).encode() + b"\n" + code
    return MAGIC + hashlib.sha256(content).digest() + content


def unpacked(data: bytes) -> tuple[bytes, int | str] | None:
    """(code, entry), or None if `data` is not a whole file of that kind."""
    start = len(MAGIC) + 32
    if data[: len(MAGIC)] != MAGIC or hashlib.sha256(data[start:]).digest() != data[len(MAGIC) : start]:
        return None
    head, _, code = data[start:].partition(b"\n")
    head = json.loads(head)
    return (code, head["entry"]) if head["image"] == IS_IMAGE else None


def loaded(code: bytes, entry: int | str) -> tuple[object, int]:
    """(the object that keeps the code in memory, the function's address). Raises BackendError where the system forbids
    it."""
    try:
        return _mapped(code, entry) if IS_IMAGE else _linked(code, entry)
    except OSError as error:
        raise BackendError(f"cpu: expected the system to let compiled code be run, found: {error.strerror}; "
                           "use backend='reference'") from error


def _mapped(image, entry):
    """By way of a file in memory, so that the executable mapping is never writable."""
    with _memory_file() as file:
        file.write(image)
        file.flush()
        memory = mmap.mmap(file.fileno(), len(image), mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
    return memory, np.frombuffer(memory, np.uint8).ctypes.data + entry


def _memory_file():
    """By way of the C library: Pythons built for old systems, as conda's and uv's, lack os.memfd_create."""
    try:
        descriptor = ctypes.CDLL(None).memfd_create(b"levit_np kernels", MFD_CLOEXEC)
    except AttributeError:  # glibc before 2.27
        descriptor = -1
    return open(descriptor, "wb") if descriptor >= 0 else tempfile.TemporaryFile()


def _linked(code, entry):
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine, engine.get_function_address(entry)
