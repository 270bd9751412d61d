"""Finds the arrays and documents of an untrusted HDF5 file, and refuses every other feature of HDF5.

Links and storage outside the file, virtual datasets, filters, and shapes without storage have each been used to attack
a loader. libhdf5 only parses names and headers here and never reads a value. Some damaged directories still make it
loop for ever, taking memory, so this runs only in a child process with limits (confined.py).
"""

import io
import itertools
from collections.abc import Iterator

from h5py import h5a, h5d, h5f, h5fd, h5g, h5l, h5o, h5p, h5s, h5t

from ..errors import CheckpointError, checkpoint_errors_alone
from . import extents, names

_TYPES = {"<f4": h5t.IEEE_F32LE, "<f8": h5t.IEEE_F64LE, "<i8": h5t.STD_I64LE, "|u1": h5t.STD_U8LE}
_LINKS = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}
_LAYOUTS = {h5d.COMPACT: "compact", h5d.CHUNKED: "chunked", h5d.VIRTUAL: "virtual"}
_MOST_OBJECTS = 2 * names.MOST_DATASETS


def find(data: memoryview, place: str) -> list[extents.Extent]:
    """All datasets, except /contents, of the HDF5 file whose bytes, including the user block, are `data`.

    Accepts groups and datasets connected by hard links, without attributes; the types of extents.py, contiguous,
    unfiltered, with exactly the storage that the shape needs. Raises CheckpointError, beginning with `place`, for
    anything else.
    """
    # h5py raises libhdf5's errors as almost any type of exception.
    with checkpoint_errors_alone(place, "readable HDF5"):
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_fileobj_driver(h5fd.fileobj_driver, io.BytesIO(data))
        access.set_fclose_degree(h5f.CLOSE_STRONG)
        file = h5f.open(b"levit_np", h5f.ACC_RDONLY, access)
        try:
            root = h5g.open(file, b"/")
            _refuse_attributes(root, f"{place}: /")
            found = []
            for path, dataset in _datasets(root, place):
                found.append(_extent(dataset, path, place))
                names.check_count(len(found), place)
            return found
        finally:
            file.close()


def _datasets(root: h5g.GroupID, place: str) -> Iterator[tuple[tuple[str, ...], h5d.DatasetID]]:
    """(path, dataset) of all datasets below `root`. Cycles of hard links end at the limit on depth or on number."""
    visited = itertools.count(1)

    def walk(group: h5g.GroupID, parts: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], h5d.DatasetID]]:
        for path in _links(group, parts, place):
            if next(visited) > _MOST_OBJECTS:
                raise CheckpointError(f"{place}: expected at most {_MOST_OBJECTS} groups and datasets, found more")
            child = _child(group, path, place)
            if isinstance(child, h5g.GroupID):
                yield from walk(child, path)
            elif path != (names.CONTENTS,):
                yield path, child

    return walk(root, ())


def _links(group: h5g.GroupID, parts: tuple[str, ...], place: str) -> list[tuple[str, ...]]:
    """The paths of the group's members, after checking their names."""
    found: list[bytes] = []

    def visit(name: bytes) -> bool | None:
        found.append(name)
        return len(found) > _MOST_OBJECTS or None

    group.links.iterate(visit)
    paths = []
    for name in found:
        try:
            paths.append((*parts, name.decode()))
        except UnicodeDecodeError:
            raise CheckpointError(f"{place}: {'/'.join(parts)}: expected names in UTF-8, found {name!r:.300}") from None
        names.check_parts(paths[-1], place)
    return paths


def _child(group: h5g.GroupID, path: tuple[str, ...], place: str) -> h5g.GroupID | h5d.DatasetID:
    name = path[-1].encode()
    place = f"{place}: {'.'.join(path)}"
    kind = group.links.get_info(name).type
    if kind != h5l.TYPE_HARD:
        raise CheckpointError(f"{place}: expected a hard link, found {_LINKS.get(kind, f'a link of type {kind}')}")
    child = h5o.open(group, name)
    if not isinstance(child, h5g.GroupID | h5d.DatasetID):
        raise CheckpointError(f"{place}: expected a group or an array, found {type(child).__name__}")
    _refuse_attributes(child, place)
    return child


def _refuse_attributes(owner: h5g.GroupID | h5d.DatasetID, place: str) -> None:
    # They are not used, and would only be more for libhdf5 to parse.
    count = h5a.get_num_attrs(owner)
    if count:
        raise CheckpointError(f"{place}: expected no HDF5 attributes, found {count}")


def _extent(dataset: h5d.DatasetID, parts: tuple[str, ...], place: str) -> extents.Extent:
    place = f"{place}: {'.'.join(parts)}"
    _require_plain_storage(dataset.get_create_plist(), place)
    extent = extents.Extent(parts, _dtype(dataset.get_type(), place), _shape(dataset.get_space(), place), 0)
    stored = dataset.get_storage_size()
    if stored != extent.nbytes:
        raise CheckpointError(f"{place}: expected {extent.nbytes} stored bytes for {extent.shape}, found {stored}")
    return extent._replace(offset=dataset.get_offset()) if stored else extent


def _require_plain_storage(created: h5p.PropDCID, place: str) -> None:
    layout = created.get_layout()
    if layout != h5d.CONTIGUOUS:
        raise CheckpointError(f"{place}: expected contiguous storage, found {_LAYOUTS.get(layout, layout)}")
    if created.get_external_count():
        raise CheckpointError(f"{place}: expected storage in the file, found external files")
    if created.get_nfilters():
        raise CheckpointError(f"{place}: expected no filters, found {created.get_nfilters()}")


def _dtype(found: h5t.TypeID, place: str) -> str:
    for name, exact in _TYPES.items():
        if found == exact and not found.committed():
            return name
    big = isinstance(found, h5t.TypeAtomicID) and found.get_order() == h5t.ORDER_BE
    kind = f"{type(found).__name__} of {found.get_size()} bytes{', big-endian' if big else ''}"
    raise CheckpointError(f"{place}: expected the type {' or '.join(_TYPES)}, found {kind}")


def _shape(space: h5s.SpaceID, place: str) -> tuple[int, ...]:
    if space.get_simple_extent_type() not in (h5s.SIMPLE, h5s.SCALAR):
        raise CheckpointError(f"{place}: expected a shape, found a null dataspace")
    shape = space.get_simple_extent_dims()
    names.check_shape(shape, place)
    return shape
