"""Training checkpoints on the disk: the three newest are kept, each written atomically."""

import re
from pathlib import Path

from ..errors import CheckpointError, TrainingError
from ..storage import hdf5, seal

KEPT = 3
_NAME = re.compile(r"step-(\d{9,})\.h5")


class Checkpoints:
    """A folder of sealed HDF5 files step-<steps so far>.h5.

    Safe against a crash at any time: a file is written under a temporary name, forced to the disk, then renamed; older
    ones are removed only after the new one has been read back."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def save(self, arrays: dict, document: dict) -> None:
        """Writes a state (see Trainer.state).  Raises OSError, and CheckpointError for values that are not finite or if
        the file does not read back as written; all older files are then still there."""
        path = self.folder / f"step-{document['steps']:09}.h5"
        hdf5.write(path, arrays, {"training": document})
        seal.check(path.read_bytes(), str(path))
        # Files with more steps were found damaged when the run resumed from an older one: they do not count among the
        # kept, and will be overwritten when training gets there.
        own = [other for other in self.paths() if _steps(other) <= document["steps"]]
        for old in own[KEPT:]:
            old.unlink()

    def newest(self) -> tuple[dict, dict, list[str]]:
        """-> (arrays, document, why each newer file was skipped).  Raises TrainingError if no file is intact."""
        skipped = []
        for path in self.paths():
            try:
                arrays, documents = hdf5.read(path)
                if not isinstance(documents.get("training"), dict):
                    raise CheckpointError(f"{path}: expected the state of a training, found another file")
                return arrays, documents["training"], skipped
            except CheckpointError as error:
                skipped.append(str(error))
        raise TrainingError(f"{self.folder}: expected a whole checkpoint to go on from, found none"
                            + "".join(f"; {reason}" for reason in skipped))

    def paths(self) -> list[Path]:
        """The files named as checkpoints, those with the most steps first."""
        found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)] if self.folder.is_dir() else []
        return sorted(found, key=_steps, reverse=True)


def _steps(path: Path) -> int:
    return int(_NAME.fullmatch(path.name)[1])
