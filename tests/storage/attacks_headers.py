"""Hostile HDF5 files by name whose headers were changed after writing, as no library would write them."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from tests.storage.attacks_hdf5 import TARGET, Attack, image

HEADER_ATTACKS: dict[str, Attack] = {}


def _replace(old: bytes, new: bytes, count: int = 1) -> Callable[[bytes], bytes]:
    def patch(data: bytes) -> bytes:
        assert data.count(old) == count
        return data.replace(old, new)

    return patch


def _with_marked_shape(file):
    file[TARGET] = np.zeros((4, 77), "<f4")


_SHAPE = struct.pack("<QQ", 4, 77)
_STORED = struct.pack("<Q", 4 * 77 * 4)
for _name, _patch in (
    ("shape larger than the storage", _replace(_SHAPE, struct.pack("<QQ", 1 << 30, 77), 2)),
    ("shape smaller than the storage", _replace(_SHAPE, struct.pack("<QQ", 1, 77), 2)),
    ("storage larger than the file", _replace(_STORED, struct.pack("<Q", 1 << 40))),
    ("storage smaller than the shape", _replace(_STORED, struct.pack("<Q", 4))),
):
    HEADER_ATTACKS[_name] = Attack(_with_marked_shape, _patch, "earliest")


def _moved(to: Callable[[int], int]) -> Callable[[bytes], bytes]:
    """Changes where the values of TARGET are; `to` gets the file's length."""

    def patch(data: bytes) -> bytes:
        with h5py.File(io.BytesIO(data)) as file:
            offset = file[TARGET].id.get_offset()
        return _replace(struct.pack("<Q", offset) + _STORED, struct.pack("<Q", to(len(data))) + _STORED)(data)

    return patch


for _name, _to in (
    ("values behind the end", lambda length: length - 4),
    ("values far behind the end", lambda length: 1 << 62),
    ("values before the start", lambda length: (1 << 64) - 600),
    ("values nowhere", lambda length: (1 << 64) - 1),
):
    HEADER_ATTACKS[_name] = Attack(_with_marked_shape, _moved(_to), "earliest")


def _overlapped(data: bytes) -> bytes:
    with h5py.File(io.BytesIO(data)) as file:
        first, second = (file[name].id.get_offset() for name in ("stages/0/weight", "stages/0/other"))
    return _replace(struct.pack("<QQ", second, 40), struct.pack("<QQ", first + 8, 40))(data)


def _with_two_arrays(file: h5py.File) -> None:
    for name in ("weight", "other"):
        file[f"stages/0/{name}"] = np.arange(10, dtype="<f4")


HEADER_ATTACKS["values of two arrays in the same bytes"] = Attack(_with_two_arrays, _overlapped, "earliest")


def endless(directory: Path) -> bytes:
    """A group whose list of free space contains itself: libhdf5 2.0 follows it until memory is full."""
    data = bytearray(image(Attack(lambda file: file.create_group("stages"), libver="earliest"), directory))
    heap = data.find(b"HEAP")
    while heap >= 0:
        free, address = struct.unpack_from("<QQ", data, heap + 16)
        if free != 1:  # 1 marks the end of the list
            struct.pack_into("<Q", data, address + free, free)
        heap = data.find(b"HEAP", heap + 1)
    return bytes(data)
