"""Many names in little memory: a million Python strings would take a hundred megabytes in each worker process."""

import numpy as np


class Names:
    """A sequence of file names, held as their bytes, one after another with a NUL after each.

    NUL is the one byte that no file's name can hold.  Bytes that are no UTF-8 come back as os.fsdecode has them.
    """

    def __init__(self, text: bytes):
        """Of `text` as above, which may come from a stranger; ValueError where the last byte is no NUL."""
        if text[-1:] != b"\0":
            raise ValueError("expected a NUL after each name")
        self.text = text
        self._ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 0)

    @classmethod
    def of(cls, names: list[str]) -> "Names":
        """Of at least one name."""
        return cls(b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in names))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, place: int) -> str:
        start = self._ends[place - 1] + 1 if place else 0
        return self.text[start : self._ends[place]].decode("utf-8", "surrogateescape")

    def __reduce__(self):
        return Names, (self.text,)


def fingerprint(classes: list[str], names: Names, targets: np.ndarray) -> str:
    """SHA-256 in hexadecimal over what the order of a training depends on: a resumed training needs the same data."""
    import hashlib

    digest = hashlib.sha256(Names.of(classes).text + b"\0" + names.text + b"\0")
    digest.update(np.asarray(targets, "<i8").tobytes())
    return digest.hexdigest()
