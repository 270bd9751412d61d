"""The states of a training on the disk: the three newest, each whole or not there."""

import re
from pathlib import Path

from ..errors import CheckpointError, TrainingError
from ..storage import hdf5, seal

KEPT = 3
_NAME = re.compile(r"step-(\d{9,})\.h5")


class Checkpoints:
    """A folder of sealed HDF5 files step-<steps so far>.h5.

    Whatever happens, and whenever: a file is written beside its place, forced to the disk and renamed onto it; an older
    one is removed only once the new one was read back."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def save(self, arrays: dict, document: dict) -> None:
        """Writes a state (see Trainer.state).  Raises OSError, and CheckpointError for values that are not finite or a
        file that does not read back as it was written; the older ones are then all there."""
        path = self.folder / f"step-{document['steps']:09}.h5"
        hdf5.write(path, arrays, {"training": document})
        seal.check(path.read_bytes(), str(path))
        # What is further than this state was damaged when this training went on from an older one: it must not count,
        # and the training comes by to replace it.
        own = [other for other in self.paths() if _steps(other) <= document["steps"]]
        for old in own[KEPT:]:
            old.unlink()

    def newest(self) -> tuple[dict, dict, list[str]]:
        """-> (arrays, document, why each newer file was left out).  Raises TrainingError where none is whole."""
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
        """The files that bear a checkpoint's name, the furthest first."""
        found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)] if self.folder.is_dir() else []
        return sorted(found, key=_steps, reverse=True)


def _steps(path: Path) -> int:
    return int(_NAME.fullmatch(path.name)[1])
