"""The folder of a training run: who writes in it, what is being trained there, and where each file lies."""

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


# What some network file systems (Lustre, NFS, FUSE) answer who asks for a lock.
LOCKLESS = errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP
# Windows locks bytes, which nobody else can read then: this one, far behind the owner's number.
LOCKED = 1 << 20


class RunFolder:
    """config.json, log.jsonl, checkpoints/, best.h5, last.h5, curves.png; skipped.txt where images were.

    config.json is written when the first checkpoint is on the disk: a folder that has one is a run to go on with."""

    def __init__(self, path):
        self.path = Path(path)
        self.checkpoints, self.log = Checkpoints(self.path / "checkpoints"), Log(self.path / "log.jsonl")
        self.config, self.skipped = self.path / "config.json", self.path / "skipped.txt"
        self.best, self.last = self.path / "best.h5", self.path / "last.h5"

    @contextmanager
    def locked(self, fresh: bool) -> Iterator[None]:
        """The only writer for as long as the block lasts; `fresh` makes the folder.  Raises TrainingError where another
        process writes, or there is a run, or weights, where none is expected, or none where one is."""
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
        """Where no checkpoint was written, as of a run that was refused for its data, the folder is of no use."""
        with suppress(OSError, TrainingError):  # it holds something, or is another run's
            self.require_locked()
            self.checkpoints.folder.rmdir()
            (self.path / "lock").unlink()
            self.path.rmdir()

    def require_locked(self) -> None:
        """Raises TrainingError where the folder in this place is another by now: removed or renamed, and perhaps one
        that a second run has begun, whose files would be mixed with ours."""
        try:
            same = not self._locked or os.path.samestat(os.stat(self.path / "lock"), self._locked)
        except FileNotFoundError:
            same = False
        if not same:
            raise TrainingError(f"{self.path}: expected the folder that this run has locked, found it moved or removed")

    def record_skipped(self, reason: str) -> None:
        """A line of skipped.txt, unless it is there, by another rank or from before the run went on.  Raises
        OSError."""
        with _naming(self.skipped), open(self.skipped, "a+", encoding="utf-8", errors="backslashreplace") as file:
            file.seek(0)
            if f"{reason}\n" not in file:
                file.write(f"{reason}\n")

    def write_config(self, config: dict) -> None:
        """Raises OSError."""
        with replacing(self.config) as file:
            file.write(strict_json.dumps(config, str(self.config)) + b"\n")

    def read_config(self) -> dict:
        """Raises TrainingError where it is none."""
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
    """Raises TrainingError, naming the first difference, unless a run's configuration (ours) is what is wanted."""
    for key in {**ours, **theirs}:
        if isinstance(ours.get(key), dict) and isinstance(theirs.get(key), dict):
            require_same(ours[key], theirs[key], f"{place}: {key}")
        elif key not in ours or key not in theirs or ours[key] != theirs[key]:
            raise TrainingError(f"{place}: {key}: expected {ours.get(key)!a:.100} as the run began with, found "
                                f"{theirs.get(key)!a:.100}")


@contextmanager
def _lock(path: Path, folder: Path) -> Iterator[os.stat_result | None]:
    """A lock that the system takes back when the process ends, however it ends; -> which file it is, None where it
    locks nothing: there the numbers of files may change too."""
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
    """An OSError in the block names the file: that of a write to an open one, as to a full disk, does not."""
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
