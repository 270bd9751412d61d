"""The folder of a training run: its files, its configuration, and the lock that keeps other writers out."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import CheckpointError, TrainingError
from ..storage import strict_json
from ..storage.atomic import replacing
from .checkpoint import Checkpoints
from .log import Log


# The errors of network file systems without locks (some of Lustre, NFS, FUSE).
LOCKLESS = errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP
# Windows locks bytes, which others then cannot read: so lock this one, far behind the owner's process id.
LOCKED = 1 << 20


class RunFolder:
    """config.json, log.jsonl, checkpoints/, best.h5, last.h5, curves.png, and skipped.txt if images were skipped.

    config.json is written after the first checkpoint: a folder that has one holds a run that can be resumed."""

    def __init__(self, path):
        try:
            self.path = Path(path).absolute()  # a teacher or a validation may change the working directory
        except OSError as error:  # of the working directory, which was removed
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        self.checkpoints, self.log = Checkpoints(self.path / "checkpoints"), Log(self.path / "log.jsonl")
        self.config, self.skipped = self.path / "config.json", self.path / "skipped.txt"
        self.best, self.last = self.path / "best.h5", self.path / "last.h5"

    @contextmanager
    def locked(self, fresh: bool) -> Iterator[None]:
        """A context manager: inside it, this process is the only writer.  `fresh` creates the folder.  Raises
        TrainingError if another process writes there; if `fresh`, also if there is a run or weights already; otherwise,
        if there is no run."""
        if not fresh and not self.config.is_file():
            raise TrainingError(f"{self.path}: expected a run to go on with, found no {self.config.name}")
        made = not os.path.lexists(self.path)
        self.checkpoints.folder.mkdir(parents=True, exist_ok=True)
        with _lock(self.path / "lock", self.path) as self._locked:
            if fresh and (self.config.exists() or any(int(path.stem[5:]) for path in self.checkpoints.paths())):
                raise TrainingError(f"{self.path}: expected no run yet, found one; --resume goes on with it")
            if found := [path for path in (self.best, self.last) if fresh and os.path.lexists(path)]:
                raise TrainingError(f"{found[0]}: expected no weights before a run, found some, which it would replace")
            for folder in (self.path, self.checkpoints.folder):
                for leftover in folder.glob(".levit_np-*.tmp"):  # of a process that was killed
                    leftover.unlink()
            try:
                yield
            finally:
                if made:
                    self._remove_unless_begun()

    def _remove_unless_begun(self) -> None:
        """Removes the folder if no checkpoint was written, because the run was refused for its data, say."""
        with suppress(OSError, TrainingError):  # the folder is not empty, or is another run's
            self.require_locked()
            self.checkpoints.folder.rmdir()
            (self.path / "lock").unlink()
            self.path.rmdir()

    def require_locked(self) -> None:
        """Raises TrainingError if the folder at this path is no longer the locked one: it was removed or renamed, and
        perhaps replaced by a second run's, whose files would be mixed with ours."""
        try:
            same = not self._locked or os.path.samestat(os.stat(self.path / "lock"), self._locked)
        except FileNotFoundError:
            same = False
        if not same:
            raise TrainingError(f"{self.path}: expected the folder that this run has locked, found it moved or removed")

    def record_skipped(self, reason: str) -> None:
        """Adds a line to skipped.txt, unless it is there already (from another rank, or from before the run was
        resumed).  Raises OSError."""
        with _naming(self.skipped), open(self.skipped, "a+", encoding="utf-8", errors="backslashreplace") as file:
            file.seek(0)
            if f"{reason}\n" not in file:
                file.write(f"{reason}\n")

    def write_config(self, config: dict) -> None:
        """Writes config.json.  Raises OSError."""
        with replacing(self.config) as file:
            file.write(strict_json.dumps(config, str(self.config)) + b"\n")

    def read_config(self) -> dict:
        """The content of config.json.  Raises TrainingError if it is not the configuration of a run."""
        try:
            config = strict_json.loads(self.config.read_bytes(), str(self.config))
        except (OSError, CheckpointError) as error:
            raise TrainingError(f"{self.config}: expected the configuration of a run, found: {error}") from None
        if not isinstance(config, dict):
            raise TrainingError(f"{self.config}: expected the configuration of a run, found {str(config)!a:.60}")
        for key in ("settings", "network", "preprocessing"):
            if key not in config:
                raise TrainingError(f"{self.path}: expected the {key} of a run in {self.config.name}, found none")
        return config


def require_same(ours: dict, theirs: dict, place: str) -> None:
    """Raises TrainingError, naming the first difference, unless a run's configuration (ours) is the wanted one."""
    for key in {**ours, **theirs}:
        if isinstance(ours.get(key), dict) and isinstance(theirs.get(key), dict):
            require_same(ours[key], theirs[key], f"{place}: {key}")
        elif key not in ours or key not in theirs or ours[key] != theirs[key]:
            raise TrainingError(f"{place}: {key}: expected {ours.get(key)!a:.100} as the run began with, found "
                                f"{theirs.get(key)!a:.100}")


@contextmanager
def _lock(path: Path, folder: Path) -> Iterator[os.stat_result | None]:
    """A lock that the system releases when the process ends, however it ends; -> the lock file's status, or None on a
    file system without locks, where inode numbers may change too."""
    with open(path, "a+b", buffering=0) as file:
        locked = os.fstat(file.fileno())
        try:
            _take(file)
        except OSError as error:
            if error.errno not in LOCKLESS:
                file.seek(0)
                owner = file.read(20).decode(errors="replace")
                raise TrainingError(f"{folder}: expected to be the only writer, found another, process {owner!a}"
                                    ) from None
            warnings.warn(f"{folder}: its file system has no locks ({error.strerror}): nothing would keep a second run "
                          "from writing there too", stacklevel=2)
            locked = None
        with _naming(path):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield locked


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Adds the file's name to an OSError raised inside: errors of writing to an open file lack it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _take(file) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(LOCKED)
        return msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
