"""Reads and writes PyTorch's .pth files, in the format of `torch.save` since 1.6, without torch.

The file is a zip archive: the pickle `data.pkl` describes the tensors, whose values are in the raw records `data/0`,
`data/1`, ….
"""

import math
import os
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from ..errors import CheckpointError, checkpoint_errors_alone
from ..storage.atomic import replacing
from ..storage.finite import require_finite
from ..storage.regular import open_regular
from . import pickle_reader, stored_zip
from .pickle_reader import Container, Storage, Tensor, described
from .values import check_arrays, check_name, read_values

# torch.load accepts versions 1 to 10; torch.save writes 3.
_VERSIONS = range(1, 11)
_LARGEST_PROGRAM = 4 << 20
_SPARE = 32 << 20  # bytes of memory allowed in addition to twice the file's size
_WRITTEN = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}
_ALIGNMENT = 64  # of each record, so that torch can map it
_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"  # the pickle program that makes an empty one
_LARGEST_ARRAYS = 2_000_000_000  # bytes; above, zip needs its 64-bit fields


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors by name, in the file's order: the file's dict if all its values are tensors, else the dict of tensors
    under its key `model` or `state_dict`.

    float32, float16 and bfloat16 become float32; float64 stays; int32 and int64 become int64. Arrays are native,
    writable, C-contiguous and share no memory. Nothing in the file is executed or imported; peak memory is at most
    twice the file's size plus 64 MB. Raises CheckpointError, in one line, for anything else: other or compressed
    containers, other objects and types, tensors larger than their record, a damaged record, NaN or infinity.
    """
    place = os.fspath(path)
    with checkpoint_errors_alone(place, "a PyTorch checkpoint"), open_regular(path) as file:
        return _read(file, place)


def write(path: str | os.PathLike, state: Mapping[str, np.ndarray]) -> None:
    """Writes `path` with the content `{'model': OrderedDict(state)}`, which torch loads with weights_only=True.

    Arrays are float32, float64 or int64. The same content gives the same bytes. Raises CheckpointError, before anything
    is written, for what `read` would refuse; OSError as `replacing` does.
    """
    place = os.fspath(path)
    check_arrays(state, _WRITTEN, place)
    total = sum(array.nbytes for array in state.values())
    if total > _LARGEST_ARRAYS:
        raise CheckpointError(f"{place}: expected at most {_LARGEST_ARRAYS} bytes of arrays, found {total}")
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        _add(archive, "data.pkl", _pickled(state))
        _add(archive, "byteorder", b"little")
        for i, array in enumerate(state.values()):
            # Flattened, as the memoryview of an array with a zero in its shape gives no bytes.
            values = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C").reshape(-1)
            _add(archive, f"data/{i}", values.view("u1").data)
        _add(archive, "version", b"3\n")


# Reading.


def _read(file: BinaryIO, place: str) -> dict[str, np.ndarray]:
    _require_zip(file, place)
    found = stored_zip.members(file, place)
    length = file.seek(0, os.SEEK_END)
    stored_zip.require_intact(file, found, place)
    members = _without_archive_name(found, place)
    _require_version(file, members, place)
    records = {name.removeprefix("data/"): member for name, member in members.items() if name.startswith("data/")}
    part = f"{place}: data.pkl"
    program = stored_zip.content(file, members["data.pkl"], _LARGEST_PROGRAM, part)
    sizes = {key: record.size for key, record in records.items()}
    tensors = _state(pickle_reader.loads(program, sizes, part), place)
    _require_modest(tensors, length, place)
    return _arrays(file, records, tensors, place)


def _require_zip(file: BinaryIO, place: str) -> None:
    start = file.read(4)
    if start != b"PK\3\4":
        kind = "a pickle of an older one" if start.startswith(b"\x80") else repr(start)
        raise CheckpointError(f"{place}: expected a zip archive of torch.save 1.6 or newer, found {kind}")


def _without_archive_name(found: dict[str, stored_zip.Member], place: str) -> dict[str, stored_zip.Member]:
    """The members by their names without the archive's one folder."""
    folder = next(iter(found), "").partition("/")[0]
    members = {}
    for name, member in found.items():
        inner = name.removeprefix(f"{folder}/")
        known = inner in ("data.pkl", "version", "byteorder") or inner.startswith("data/")
        # Newer versions of torch add members with hidden names, such as an alignment or an id; none holds code.
        if inner == name or not known and not inner.startswith("."):
            raise CheckpointError(f"{place}: expected data.pkl, version, byteorder and data/* in one folder, found "
                                  f"{name!r}")
        members[inner] = member
    for inner in ("data.pkl", "version"):
        if inner not in members:
            raise CheckpointError(f"{place}: expected a PyTorch checkpoint, found an archive without {inner}")
    return members


def _require_version(file: BinaryIO, members: dict[str, stored_zip.Member], place: str) -> None:
    version = stored_zip.content(file, members["version"], 8, f"{place}: version").strip()
    if not version.isdigit() or int(version) not in _VERSIONS:
        raise CheckpointError(f"{place}: expected a version from 1 to 10, found {version!r}")
    if "byteorder" in members:  # since 2.1
        order = stored_zip.content(file, members["byteorder"], 8, f"{place}: byteorder")
        if order != b"little":
            raise CheckpointError(f"{place}: expected the byte order little, found {order!r}")


def _state(top: Any, place: str) -> dict[str, Tensor]:
    if not isinstance(top, Container) or not top.is_dict:
        raise CheckpointError(f"{place}: expected a dict, found {described(top)}")
    nearest, where = top, ""
    for key in (None, "model", "state_dict"):
        found = top.items.get(key) if key else top
        if isinstance(found, Container) and found.is_dict:
            tensors = sum(isinstance(value, Tensor) for value in found.items.values())
            if tensors == len(found.items):
                for name in found.items:
                    check_name(name, place)
                return found.items
            if key and tensors:
                nearest, where = found, f" as {key!r}"
    # What is no tensor comes first: a state may hold hundreds of tensors and one other value.
    entries = sorted(nearest.items.items(), key=lambda entry: isinstance(entry[1], Tensor))
    contents = (f"{described(name)}: {described(value)}" for name, value in entries[:8])
    raise CheckpointError(f"{place}: expected a dict of tensors, at the top or as 'model' or 'state_dict', found "
                          f"{{{', '.join(contents):.400}}}{where}")


def _require_modest(tensors: dict[str, Tensor], length: int, place: str) -> None:
    """Refuses tensors that need more than the bound on memory: tensors may share a storage, but each gets its own
    array."""
    needed = greatest = 0
    for tensor in tensors.values():
        itemsize = np.dtype(tensor.storage.native).itemsize
        needed += math.prod(tensor.shape) * itemsize
        if not _is_contiguous(tensor):
            greatest = max(greatest, tensor.storage.numel * itemsize)
    needed += greatest
    if needed > 2 * length + _SPARE:
        raise CheckpointError(f"{place}: expected tensors that take at most {2 * length + _SPARE} bytes, found "
                              f"{needed}")


def _is_contiguous(tensor: Tensor) -> bool:
    if 0 in tensor.shape:
        return True
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _arrays(file: BinaryIO, records: dict[str, stored_zip.Member], tensors: dict[str, Tensor],
            place: str) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = dict.fromkeys(tensors)
    strided: dict[Storage, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if _is_contiguous(tensor):
            values = _values(file, records, tensor.storage, tensor.offset, math.prod(tensor.shape), place)
            arrays[name] = values.reshape(tensor.shape)
        else:
            strided.setdefault(tensor.storage, {})[name] = tensor
    # A storage with non-contiguous tensors is read once as a whole, however many tensors view it.
    for storage, together in strided.items():
        arrays |= _strided(_values(file, records, storage, 0, storage.numel, place), together)
    for name, array in arrays.items():
        require_finite(array, f"{place}: {name}")
    return arrays


def _values(file: BinaryIO, records: dict[str, stored_zip.Member], storage: Storage, first: int, count: int,
            place: str) -> np.ndarray:
    start = records[storage.key].start + first * np.dtype(storage.stored).itemsize
    return read_values(file, start, count, storage.stored, storage.native, place)


def _strided(values: np.ndarray, tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Copies of the tensors that are views of a storage's values."""
    arrays = {}
    for name, tensor in tensors.items():
        # The stride of a dimension of one is never used, and may be any number.
        strides = [stride * values.itemsize if size > 1 else 0
                   for size, stride in zip(tensor.shape, tensor.strides, strict=True)]
        # The constructor checks again that the view lies inside the buffer.
        view = np.ndarray(tensor.shape, values.dtype, values, tensor.offset * values.itemsize, strides)
        arrays[name] = view.copy()
    return arrays


# Writing.


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """Adds an uncompressed member whose content is aligned by a padding extra field, as in torch's own files."""
    member = zipfile.ZipInfo(f"archive/{name}")
    member.create_system = 3  # Unix, on Windows too: the bytes are the same everywhere
    start = archive.fp.tell() + zipfile.sizeFileHeader + len(member.filename) + 4
    padding = -start % _ALIGNMENT
    member.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
    archive.writestr(member, data)


def _pickled(state: Mapping[str, np.ndarray]) -> bytes:
    """{'model': OrderedDict} as a pickle of protocol 2, modelled on what torch.save emits."""
    items = b"".join(_text(name) + _pickled_tensor(str(i), array) for i, (name, array) in enumerate(state.items()))
    return b"\x80\2}" + _text("model") + _ORDERED_DICT + b"(" + items + b"us."


def _pickled_tensor(key: str, array: np.ndarray) -> bytes:
    """_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)"""
    strides = [math.prod(array.shape[i + 1 :]) for i in range(array.ndim)]
    kind = f"ctorch\n{_WRITTEN[array.dtype.name]}\n".encode()
    storage = b"(" + _text("storage") + kind + _text(key) + _text("cpu") + _integer(array.size) + b"tQ"
    place = _integer(0) + _integers(array.shape) + _integers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + place + b"\x89" + _ORDERED_DICT + b"tR"


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _integer(number: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", number)


def _integers(numbers: tuple[int, ...] | list[int]) -> bytes:
    return b"(" + b"".join(_integer(number) for number in numbers) + b"t"
