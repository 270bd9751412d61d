"""Functions that the tests of the .pth reader run in child processes."""

import os
import sys
import tracemalloc
from pathlib import Path

from levit_np.checkpoints import torch_file
from levit_np.errors import CheckpointError

_WATCHED = (
    "import", "open", "exec", "compile", "os.", "subprocess.", "socket.", "ctypes.", "shutil.", "marshal.",
    "pickle.", "builtins.", "code.", "urllib.", "webbrowser.", "pathlib.", "glob.", "mmap.",
)


def names_without_torch(path: str) -> dict[str, list]:
    """What is read where torch cannot be imported and pickles cannot be loaded."""
    import pickle

    assert "torch" not in sys.modules
    sys.modules["torch"] = None
    pickle.Unpickler = pickle.loads = pickle.load = pickle._Unpickler = None
    return {name: array.tolist() for name, array in torch_file.read(path).items()}


def audited(directory: str) -> dict[str, list]:
    """For each file of a folder: the outcome, the audit events except the file's own opening, and the peak memory in
    bytes."""
    found = {}
    seen: list[str] = []

    def hook(event: str, arguments: tuple) -> None:
        if watching and event.startswith(_WATCHED):
            if event != "open" or arguments[0] != path:
                seen.append(f"{event} {arguments!r:.100}")

    watching = False
    sys.addaudithook(hook)
    for path in sorted(str(file) for file in Path(directory).iterdir()):
        seen.clear()
        tracemalloc.start()
        watching = True
        try:
            torch_file.read(path)
            outcome = "accepted"
        except CheckpointError:
            outcome = "refused"
        except BaseException as error:
            outcome = repr(error)
        watching = False
        found[os.path.basename(path)] = [outcome, list(seen), tracemalloc.get_traced_memory()[1]]
        tracemalloc.stop()
    return found


def audited_culprit(directory: str) -> dict[str, list]:
    """The same for a reader that does everything forbidden."""
    def read(path: str) -> None:
        with open(path), open(os.devnull):
            exec("bytes(100 << 20)")
        import wave  # noqa: F401

    torch_file.read = read
    return audited(directory)
