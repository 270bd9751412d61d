"""A compact list of names: a million Python strings would take a hundred megabytes in each worker process."""

import numpy as np


class Names:
    """A sequence of file names, stored as bytes, each followed by a NUL, the one byte that no file name can contain.

    Bytes that are not UTF-8 are returned as os.fsdecode does.
    """

    def __init__(self, text: bytes):
        """From `text` as above, which is not trusted.  Raises ValueError unless the last byte is NUL."""
        if text[-1:] != b"\0":
            raise ValueError("expected a NUL after each name")
        self.text = text
        self._ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 0)

    @classmethod
    def of(cls, names: list[str]) -> "Names":
        """From a list of at least one name."""
        return cls(b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in names))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, place: int) -> str:
        start = self._ends[place - 1] + 1 if place else 0
        return self.text[start : self._ends[place]].decode("utf-8", "surrogateescape")

    def __reduce__(self):
        return Names, (self.text,)


def fingerprint(classes: list[str], names: Names, targets: np.ndarray) -> str:
    """SHA-256, in hexadecimal, of everything that the order of training depends on: a resumed run needs the same
    data."""
    import hashlib

    digest = hashlib.sha256(Names.of(classes).text + b"\0" + names.text + b"\0")
    digest.update(np.asarray(targets, "<i8").tobytes())
    return digest.hexdigest()
