"""Reads and writes the safetensors container: eight bytes with the length of the header, the JSON header, then the
values of the tensors one after the other."""

import math
import os
import struct
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import CheckpointError, checkpoint_errors_alone
from ..storage import names, strict_json
from ..storage.atomic import replacing
from ..storage.finite import require_finite
from ..storage.regular import open_regular
from .values import check_arrays, check_name, read_values

_LENGTH = struct.Struct("<Q")
_LARGEST_HEADER = 1 << 20
_METADATA = "__metadata__"
# The type of the values in the file, and that of the array they become.
_TYPES = {"F32": ("<f4", "f4"), "F64": ("<f8", "f8"), "I64": ("<i8", "i8"), "F16": ("<f2", "f4"), "BF16": ("<u2", "f4")}
_WRITTEN = {"float32": "F32", "float64": "F64", "int64": "I64"}


class _Tensor(NamedTuple):
    """One entry of the header; `begin` and `end` count bytes after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors by name, in the header's order (native, writable, C-contiguous).

    Accepts F32, F64, I64, and F16 and BF16, which become float32; at most 4,096 tensors and a header of 1 MB; each byte
    of values must belong to exactly one tensor. Raises CheckpointError, in one line, for anything else, including
    metadata that are not strings, NaN or infinity, and whatever the safetensors library refuses.
    """
    place = os.fspath(path)
    with checkpoint_errors_alone(place, "readable safetensors"), open_regular(path) as file:
        header, start = _header(file, place)
        _check_metadata(header.pop(_METADATA, {}), place)
        names.check_count(len(header), place)
        tensors = [_tensor(name, entry, place) for name, entry in header.items()]
        _require_gapless(tensors, os.fstat(file.fileno()).st_size - start, place)
        _require_same_names(path, tensors, place)
        return {tensor.name: _values(file, start, tensor, place) for tensor in tensors}


def write(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Writes `path`, a safetensors file of these float32, float64 and int64 arrays.

    The same content gives the same bytes, which the library's own writer does not promise. Raises CheckpointError,
    before anything is written, for what `read` would refuse; OSError as `replacing` does.
    """
    place = os.fspath(path)
    check_arrays(arrays, _WRITTEN, place)
    if _METADATA in arrays:
        raise CheckpointError(f"{place}: expected names of arrays, found {_METADATA}")
    # Eight-byte values first: every tensor is then aligned to its own item size.
    ordered = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header = _encoded_header(arrays, ordered, place)
    with replacing(path) as file:
        file.write(_LENGTH.pack(len(header)) + header)
        for name in ordered:
            array = arrays[name]
            file.write(np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C").data)


def _encoded_header(arrays: dict[str, np.ndarray], ordered: list[str], place: str) -> bytes:
    entries, end = {_METADATA: {"format": "pt"}}, 0  # transformers of early 2024 refuses files without it
    for name in ordered:
        array = arrays[name]
        begin, end = end, end + array.nbytes
        dtype = _WRITTEN[array.dtype.name]
        entries[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, end]}
    header = strict_json.dumps(entries, f"{place}: header")
    header += b" " * (-len(header) % 8)
    if len(header) > _LARGEST_HEADER:
        raise CheckpointError(f"{place}: expected a header of at most {_LARGEST_HEADER} bytes, found {len(header)}")
    return header


def _header(file: BinaryIO, place: str) -> tuple[dict[str, Any], int]:
    """The header's entries, and the byte at which the values begin."""
    prefix = file.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        raise CheckpointError(f"{place}: expected safetensors, found {len(prefix)} bytes")
    (length,) = _LENGTH.unpack(prefix)
    if length > _LARGEST_HEADER:
        raise CheckpointError(f"{place}: expected a header of at most {_LARGEST_HEADER} bytes, found {length}")
    text = file.read(length)
    if len(text) < length or not text.startswith(b"{"):
        raise CheckpointError(f"{place}: expected a JSON header of {length} bytes, found {text[:8]!r}, {len(text)} "
                              "bytes")
    return strict_json.loads(text, f"{place}: header"), _LENGTH.size + length


def _check_metadata(found: Any, place: str) -> None:
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in (*found, *found.values())):
        raise CheckpointError(f"{place}: expected metadata of strings, found another kind of value")


def _tensor(name: str, entry: Any, place: str) -> _Tensor:
    check_name(name, place)
    place = f"{place}: {name}"
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]} if len(entry) == 3:
            pass
        case _:
            raise CheckpointError(f"{place}: expected dtype, shape and two data_offsets, found {entry!r:.100}")
    if dtype not in _TYPES:
        raise CheckpointError(f"{place}: expected one of the types {', '.join(_TYPES)}, found {dtype!r:.100}")
    # A bool is an int to isinstance.
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in (*shape, begin, end)):
        raise CheckpointError(f"{place}: expected sizes and offsets of 0 or more, found {entry!r:.100}")
    names.check_shape(shape, place)
    nbytes = math.prod(shape) * np.dtype(_TYPES[dtype][0]).itemsize
    if end - begin != nbytes:
        raise CheckpointError(f"{place}: expected {nbytes} bytes for {dtype} {tuple(shape)}, found {end - begin}")
    return _Tensor(name, dtype, tuple(shape), begin, end)


def _require_gapless(tensors: list[_Tensor], length: int, place: str) -> None:
    reached = 0
    for tensor in sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != reached:
            raise CheckpointError(f"{place}: {tensor.name}: expected to begin at byte {reached}, found {tensor.begin}")
        reached = tensor.end
    if reached != length:
        raise CheckpointError(f"{place}: expected {reached} bytes of values, found {length}")


def _require_same_names(path: str | os.PathLike, tensors: list[_Tensor], place: str) -> None:
    """Parses the header with the safetensors library too: a file that two parsers read differently is refused."""
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as opened:
        found = sorted(opened.keys())
    if found != sorted(tensor.name for tensor in tensors):
        raise CheckpointError(f"{place}: expected {len(tensors)} tensors, the safetensors library found {len(found)}")


def _values(file: BinaryIO, start: int, tensor: _Tensor, place: str) -> np.ndarray:
    """Read here and not by the library, which would map the file into memory and cannot give bfloat16 to NumPy."""
    place = f"{place}: {tensor.name}"
    values = read_values(file, start + tensor.begin, math.prod(tensor.shape), *_TYPES[tensor.dtype], place)
    require_finite(values, place)
    return values.reshape(tensor.shape)
