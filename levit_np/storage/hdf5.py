"""Our container: HDF5 that any HDF5 tool opens, preceded by a seal (see seal.py) that reveals any damage.

The array `stages.0.blocks.0.mlp.up.weight` is the dataset /stages/0/blocks/0/mlp/up/weight: contiguous, unfiltered,
little-endian. A document is UTF-8 JSON in a dataset of bytes, /documents/<name>, as an HDF5 attribute could not exceed
64 KB. /contents, also JSON, lists where each of them begins, so that reading a sealed file does not need libhdf5.
"""

import io
import os
import tempfile
from typing import Any, BinaryIO

import numpy as np

from ..errors import CheckpointError
from . import confined, names, seal, strict_json
from .atomic import replacing
from .extents import ARRAY_TYPES, DOCUMENT_TYPE, Extent, content
from .finite import require_finite
from .regular import open_regular

ALIGNMENT = 64  # bytes: a cache line
MAGICS = (seal.MAGIC, b"\x89HDF\r\n\x1a\n")

_Content = tuple[dict[str, np.ndarray], dict[str, Any]]


def write(path: str | os.PathLike, arrays: dict[str, np.ndarray], documents: dict[str, Any]) -> None:
    """Writes `path`, a sealed file with these arrays (float32, float64, int64) and JSON documents.

    The same content gives the same bytes, whatever the order of the dictionaries. Raises CheckpointError, before
    anything is written, for what `read` would refuse: NaN, another dtype, an invalid name; OSError as `replacing` does.
    Needs memory for one copy of the content.
    """
    image, contents = _image(_datasets(arrays, documents, os.fspath(path)), os.fspath(path))
    with image.getbuffer() as data, replacing(path) as file:
        data[: seal.SIZE] = seal.seal(data[seal.SIZE :], *contents)
        file.write(data)


def read(path: str | os.PathLike) -> _Content:
    """The arrays (native, writable, C-contiguous) and the documents of an HDF5 file, by name.

    A sealed file is checked against its seal, then read by its list of contents, without libhdf5. A file without a seal
    is not trusted: a child process with limited time and memory reads it with strict_hdf5 and writes a sealed copy,
    which is read instead. Raises CheckpointError, and nothing else, for anything wrong with the file. Needs the file's
    size in memory, in which the arrays lie, or twice as much for a file that leaves them unaligned.
    """
    place = os.fspath(path)
    try:
        with open_regular(path) as file:
            magic = file.read(len(MAGICS[0]))
            if magic not in MAGICS:
                raise CheckpointError(f"{place}: expected an HDF5 file, found one that begins with {magic!r}")
            if magic != seal.MAGIC:
                return _read_stranger(path, os.fstat(file.fileno()).st_size)
            return _read_sealed(_whole(file), place)
    except OSError as error:
        raise CheckpointError(f"{place}: {error.strerror or error}") from error
    except MemoryError as error:
        raise CheckpointError(f"{place}: expected enough memory for the file, found too little") from error


def _whole(file: BinaryIO) -> memoryview:
    """The bytes of a file, in writable memory; not NumPy's, whose large pages the system may first have to make room
    for, which takes longer than small ones."""
    file.seek(0)
    memory = memoryview(bytearray(os.fstat(file.fileno()).st_size))
    return memory[: file.readinto(memory)]


def _read_sealed(data: memoryview, place: str) -> _Content:
    offset, nbytes = seal.check(data, place)
    names.check_documents(nbytes, place)
    listing = strict_json.loads(bytes(data[offset : offset + nbytes]), f"{place}: {names.CONTENTS}")
    return content(data, _listed(listing, place), place)


def _listed(listing: Any, place: str) -> list[Extent]:
    """The extents of /contents: [[part, ...], dtype, shape, offset] each."""
    extents = []
    for entry in listing if isinstance(listing, list) else [listing]:
        match entry:
            case [[str(), *rest] as parts, str(dtype), list(shape), int(offset)] if _are_strings(rest):
                extents.append(Extent(tuple(parts), dtype, tuple(shape), offset))
            case _:
                raise CheckpointError(f"{place}: {names.CONTENTS}: expected name, type, shape and offset, found "
                                      f"{entry!r:.100}")
    if len({extent.parts for extent in extents}) != len(extents):
        raise CheckpointError(f"{place}: {names.CONTENTS}: expected each name once, found one twice")
    return extents


def _are_strings(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _read_stranger(path: str | os.PathLike, size: int) -> _Content:
    with tempfile.TemporaryDirectory(prefix="levit_np-") as directory:
        copy = os.path.join(directory, "sealed.h5")
        # The child holds the content twice, once read and once to be written; the rest is for libhdf5.
        confined.run(_seal_stranger, path, copy, seconds=20 + size / 20e6, memory=3 * size + (256 << 20))
        with open_regular(copy) as file:
            return _read_sealed(_whole(file), os.fspath(path))


def _seal_stranger(path: str, copy: str) -> None:
    """The child process: writes what strict_hdf5 finds in `path` to the sealed file `copy`."""
    from . import strict_hdf5

    with open_regular(path) as file:
        data = _whole(file)
    write(copy, *content(data, strict_hdf5.find(data, path), path))


def _datasets(arrays: dict[str, np.ndarray], documents: dict[str, Any],
              place: str) -> dict[tuple[str, ...], np.ndarray]:
    """The datasets to store, by path, with everything checked except the values."""
    names.check_count(len(arrays) + len(documents), place)
    datasets = {tuple(name.split(".")): array for name, array in arrays.items()}
    for parts in datasets:
        names.check_array_parts(parts, place)
        for depth in range(1, len(parts)):
            if parts[:depth] in datasets:
                raise CheckpointError(f"{place}: {'.'.join(parts)}: expected a group above it, found an array")
    return datasets | {parts: np.frombuffer(text, np.uint8) for parts, text in texts(documents, place).items()}


def texts(documents: dict[str, Any], place: str) -> dict[tuple[str, ...], bytes]:
    """The documents as stored in a file, by path.  Raises CheckpointError, beginning with `place`, if they are larger
    than a file may hold; so it can be called before hours of work whose result could not be written."""
    found = {}
    for name, document in documents.items():
        names.check_parts((names.DOCUMENTS, name), place)
        found[names.DOCUMENTS, name] = strict_json.dumps(document, f"{place}: {names.DOCUMENTS}/{name}")
    names.check_documents(sum(map(len, found.values())), place)
    return found


def _image(datasets: dict[tuple[str, ...], np.ndarray], place: str) -> tuple[io.BytesIO, tuple[int, int]]:
    """The HDF5 file with an empty user block, and (offset, size in bytes) of /contents in it.

    It is made in memory: libhdf5 itself never writes to the disk, and so cannot fail on a full one.
    """
    import h5py

    image, extents = io.BytesIO(), []
    # v108: compact headers with checksums, readable by every HDF5 since 2008. Aligned, so that `read` need not copy.
    with h5py.File(image, "w", userblock_size=seal.SIZE, libver=("v108", "v108"), alignment_threshold=ALIGNMENT,
                   alignment_interval=ALIGNMENT) as file:
        groups = {(): file}  # by path: looking each path up from the root would take half of the time here

        def group(parts: tuple[str, ...]) -> h5py.Group:
            if parts not in groups:
                groups[parts] = group(parts[:-1]).create_group(parts[-1])
            return groups[parts]

        def store(parts: tuple[str, ...], values: np.ndarray) -> int:
            # With times, the same content would give different bytes.
            dataset = group(parts[:-1]).create_dataset(parts[-1], data=values, track_times=False)
            return dataset.id.get_offset() or 0  # None where there are no values

        for parts in sorted(datasets):
            values = _storable(datasets[parts], parts, place)
            extents.append(Extent(parts, values.dtype.str, values.shape, store(parts, values)))
        listing = strict_json.dumps(extents, f"{place}: {names.CONTENTS}")
        names.check_documents(len(listing), place)
        offset = store((names.CONTENTS,), np.frombuffer(listing, np.uint8))
    return image, (offset, len(listing))


def _storable(array: np.ndarray, parts: tuple[str, ...], place: str) -> np.ndarray:
    """The array in little-endian order. Raises CheckpointError for what could not be read back."""
    place = f"{place}: {'.'.join(parts)}"
    values = np.asarray(array)
    little = values.dtype.newbyteorder("<")
    if little.str not in ((DOCUMENT_TYPE,) if parts[0] == names.DOCUMENTS else ARRAY_TYPES):
        raise CheckpointError(f"{place}: expected the type {' or '.join(ARRAY_TYPES)}, found {values.dtype}")
    names.check_shape(values.shape, place)
    require_finite(values, place)
    return np.asarray(values, dtype=little)
