"""The training log: one line of JSON per epoch."""

import json
import os
from pathlib import Path

from ..errors import CheckpointError
from ..storage import strict_json
from ..storage.atomic import force, replacing


class Log:
    """log.jsonl: lines are appended, so that other programs can follow it; each is forced to the disk as a whole."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def lines(self) -> list[dict]:
        """The lines written so far, without invalid ones, which a kill or a user's edit may leave."""
        lines = []
        for text in self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else ():
            try:
                line = strict_json.loads(text, str(self.path))
            except CheckpointError:
                continue
            if isinstance(line, dict) and type(line.get("epoch")) is int:
                lines.append(line)
        return lines

    def cut(self, epochs: int) -> None:
        """Keeps the lines of the first `epochs` epochs: training resumes there and will write the others again."""
        lines = [line for line in self.lines() if line["epoch"] <= epochs]
        with replacing(self.path) as file:
            file.writelines(_text(line) for line in lines)

    def append(self, line: dict) -> None:
        """Adds a line.  Raises OSError, leaving the file as it was."""
        binary = getattr(os, "O_BINARY", 0)  # without it Windows writes \r\n for \n
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | binary, 0o666)
        try:
            size, rest = os.fstat(descriptor).st_size, _text(line)
            try:
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                force(descriptor)
            except BaseException:
                os.ftruncate(descriptor, size)
                raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        finally:
            os.close(descriptor)


def _text(line: dict) -> bytes:
    return json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"
