"""The compiled kernels of this processor: from the cache on disk, or compiled now; linked into the process.

The cache is a folder of our own, one file a (kernel sources, versions, processor): whatever changes one of them has
another file.  A file carries the SHA-256 of its content; one that is missing, damaged or cannot be written costs a
compilation and nothing else.
"""

import ctypes
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from ...errors import BackendError
from .instruction_set import InstructionSet, chosen

MAGIC = b"levit_np kernels 1\n"
NOTICE = "levit_np: compiling the kernels for this processor (once, about ten seconds)"


def cache_folder() -> Path:
    """LEVIT_NP_CACHE, else what the system keeps for such files."""
    if "LEVIT_NP_CACHE" in os.environ:
        return Path(os.environ["LEVIT_NP_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/levit_np"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "levit_np"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "levit_np"


def _key(instructions: InstructionSet) -> str:
    """A name for everything the machine code depends on."""
    from llvmlite import binding

    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    features = binding.get_host_cpu_features() if not instructions.cpu else {}
    parts = (instructions, version("numba"), version("llvmlite"), sys.version_info[:3],
             instructions.cpu or binding.get_host_cpu_name(), sorted(features.items()))
    digest.update(repr(parts).encode())
    return f"{instructions.name}-{digest.hexdigest()[:32]}"


def _read(path: Path):
    """The content of a cached file, or None if it is not there or not whole."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    head, seal, content = data[: len(MAGIC)], data[len(MAGIC) : len(MAGIC) + 32], data[len(MAGIC) + 32 :]
    whole = head == MAGIC and hashlib.sha256(content).digest() == seal
    return content if whole else None


def _keep(path: Path, content: bytes) -> None:
    """Puts the file in its place in one step, so that another process sees all of it or nothing."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            file.write(MAGIC + hashlib.sha256(content).digest() + content)
        os.replace(file.name, path)
    except OSError:
        pass  # a folder that cannot be written costs the next process a compilation


def _compile(instructions: InstructionSet) -> bytes:
    print(NOTICE, file=sys.stderr, flush=True)
    package = Path(__file__).resolve().parents[3]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))}
    for name in [name for name in environment if name.startswith("NUMBA_")]:
        del environment[name]  # debug switches and the like: the code is the same whatever the user's Numba does
    if instructions.cpu:
        environment |= {"NUMBA_CPU_NAME": instructions.cpu, "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run([sys.executable, "-m", f"{__package__}.build", instructions.name], env=environment,
                          stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise BackendError(f"cpu: expected the kernels to compile for {instructions.name}, found: {reason[0]}")
    return done.stdout


def _link(content: bytes):
    from llvmlite import binding

    head, _, code = content.partition(b"\n")
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine, engine.get_function_address(json.loads(head)["symbol"])


class Library:
    """The linked kernels; `run` releases the interpreter's lock."""

    def __init__(self, instructions: InstructionSet):
        self.instructions = instructions
        path = cache_folder() / f"{_key(instructions)}.kernels"
        content = _read(path)
        if content is None:
            content = _compile(instructions)
            _keep(path, content)
        self._engine, address = _link(content)
        kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 7)
        self._run, self._nothing = kind(address), ctypes.create_string_buffer(64)
        self._give_way = ctypes.cast(_give_way(), ctypes.c_void_p).value

    def run(self, program: int, first: int, last: int, thread: int, threads: int, counter: int) -> None:
        """Steps first to last of the program at that address, as one of `threads` threads that all make this call;
        counter: the address of an int64 that starts at 0."""
        nothing = ctypes.addressof(self._nothing)
        status = self._run(nothing, nothing + 8, program, first, last, thread, threads, counter, self._give_way)
        assert status == 0, "no kernel raises"


def _give_way():
    """The system's function that lets another thread run."""
    if sys.platform == "win32":
        return ctypes.windll.kernel32.SwitchToThread
    return ctypes.CDLL(None).sched_yield


@lru_cache(maxsize=None)
def library() -> Library:
    return Library(chosen())
