"""Hostile HDF5 files by name: what loaders have been attacked with, and what h5py can write but a model never contains.

Each attack starts from one valid array, /honest/weight; most put something hostile at /stages/0/weight."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

TARGET = "stages/0/weight"
VALUES = np.arange(4, dtype="<f4") + 0.123
HONEST = np.arange(3, dtype="<f4")


class Attack(NamedTuple):
    """`build` writes into an open file, `patch` changes its bytes; 'earliest' is a file format without checksums."""

    build: Callable[[h5py.File], None]
    patch: Callable[[bytes], bytes] = bytes
    libver: str = "v108"


CONTENT_ATTACKS: dict[str, Attack] = {}


def image(attack: Attack, directory: Path) -> bytes:
    """The bytes of the HDF5 file. Files that it points to are in `directory`."""
    _outside(directory)
    path = directory / "attack.h5"
    with h5py.File(path, "w", libver=attack.libver) as file:
        file["honest/weight"] = HONEST
        attack.build(file)
    return attack.patch(path.read_bytes())


def _outside(directory: Path) -> None:
    """What a successful attack would read: the same values, in files beside it."""
    (directory / "secret.bin").write_bytes(VALUES.tobytes())
    with h5py.File(directory / "secret.h5", "w") as file:
        file["weight"] = VALUES


def _attack(name: str) -> Callable:
    def add(build: Callable[[h5py.File], None]) -> Callable[[h5py.File], None]:
        assert name not in CONTENT_ATTACKS
        CONTENT_ATTACKS[name] = Attack(build)
        return build

    return add


def _dataset(name: str, **arguments) -> None:
    """An attack that consists of one call of create_dataset."""
    CONTENT_ATTACKS[name] = Attack(lambda file: file.create_dataset(TARGET, **arguments))


def _typed(name: str, dtype: object) -> None:
    CONTENT_ATTACKS[name] = Attack(lambda file: file.create_dataset(TARGET, data=np.zeros(4, dtype)))


def _document(name: str, text: bytes) -> None:
    def build(file: h5py.File) -> None:
        file["documents/config"] = np.frombuffer(text, "u1")

    CONTENT_ATTACKS[f"document: {name}"] = Attack(build)


# Storage outside of the file, or smaller than the shape.


@_attack("external storage")
def _(file):
    file.create_dataset(TARGET, (4,), "<f4", external=[(_beside(file, "secret.bin"), 0, 16)])


@_attack("external storage that does not exist")
def _(file):
    file.create_dataset(TARGET, (4,), "<f4", external=[("/nowhere/at/all", 0, 16)])


@_attack("virtual dataset of another file")
def _(file):
    layout = h5py.VirtualLayout((4,), "<f4")
    layout[:] = h5py.VirtualSource(_beside(file, "secret.h5"), "weight", (4,))
    file.create_virtual_dataset(TARGET, layout)


@_attack("virtual dataset of the same file")
def _(file):
    layout = h5py.VirtualLayout((3,), "<f4")
    layout[:] = h5py.VirtualSource(".", "honest/weight", (3,))
    file.create_virtual_dataset(TARGET, layout)


def _beside(file: h5py.File, name: str) -> str:
    return str(Path(file.filename).parent / name)


_dataset("shape without storage", shape=(1 << 40,), dtype="<f4")
_dataset("shape without storage, eight dimensions", shape=(1 << 7,) * 8, dtype="<f8")
_dataset("shape larger than an address", shape=(1 << 20, 1 << 20, 1 << 20), dtype="<i8")
_dataset("chunks without storage", shape=(1 << 40,), dtype="<f4", chunks=(1024,))
_dataset("chunks", data=VALUES, chunks=(2,))
_dataset("chunks that may grow", data=VALUES, maxshape=(None,), chunks=(4,))
_dataset("gzip", data=VALUES, compression="gzip")
_dataset("gzip bomb", data=np.zeros(1 << 20, "<f4"), compression="gzip", compression_opts=9)
_dataset("lzf", data=VALUES, compression="lzf")
_dataset("shuffle", data=VALUES, shuffle=True)
_dataset("fletcher32", data=VALUES, fletcher32=True)
_dataset("scale offset", data=np.arange(4), scaleoffset=2)
_dataset("nine dimensions", data=np.ones((1,) * 9, "<f4"))


@_attack("filter of the user")
def _(file):
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((4,))
    created.set_filter(40000, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
    _create(file, created, h5py.h5s.create_simple((4,)))


@_attack("compact storage")
def _(file):
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_layout(h5py.h5d.COMPACT)
    _create(file, created, h5py.h5s.create_simple((4,)))


@_attack("null dataspace")
def _(file):
    _create(file, None, h5py.h5s.create(h5py.h5s.NULL))


def _create(file, created, space, dtype=h5py.h5t.IEEE_F32LE):
    linked = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    linked.set_create_intermediate_group(True)
    h5py.h5d.create(file.id, TARGET.encode(), dtype, space, created, linked)


# Types other than the floats and integers that we write.

_typed("big-endian", ">f4")
_typed("float16", "<f2")
_typed("int32", "<i4")
_typed("unsigned", "<u8")
_typed("complex", "<c8")
_typed("bool", "?")
_typed("compound", [("a", "<f4"), ("b", "<i4")])
_typed("opaque", "V4")
_typed("bytes of fixed length", "S4")
_dataset("strings of any length", data=["a", "bc"])
_dataset("sequences of any length", shape=(2,), dtype=h5py.vlen_dtype("<f4"))
_dataset("enum", data=np.zeros(4, "i1"), dtype=h5py.enum_dtype({"A": 0}, basetype="i1"))


@_attack("object reference")
def _(file):
    file.create_dataset(TARGET, data=[file["honest"].ref] * 2, dtype=h5py.ref_dtype)


@_attack("region reference")
def _(file):
    file.create_dataset(TARGET, data=[file["honest/weight"].regionref[:2]], dtype=h5py.regionref_dtype)


@_attack("array type")
def _(file):
    _create(file, None, h5py.h5s.create_simple((4,)), h5py.h5t.array_create(h5py.h5t.IEEE_F32LE, (2,)))


@_attack("float with another bias")
def _(file):
    strange = h5py.h5t.IEEE_F32LE.copy()
    strange.set_ebias(100)
    _create(file, None, h5py.h5s.create_simple((4,)), strange)


@_attack("float of 31 bits")
def _(file):
    strange = h5py.h5t.IEEE_F32LE.copy()
    strange.set_fields(30, 22, 8, 0, 22)
    strange.set_precision(31)
    _create(file, None, h5py.h5s.create_simple((4,)), strange)


@_attack("committed type on a dataset")
def _(file):
    file["type"] = np.dtype("<f4")
    file.create_dataset(TARGET, data=VALUES, dtype=file["type"])


@_attack("committed type in the place of a dataset")
def _(file):
    file[TARGET] = np.dtype("<f4")


# Links.


@_attack("external link")
def _(file):
    file[TARGET] = h5py.ExternalLink(_beside(file, "secret.h5"), "/weight")


@_attack("external link to a group")
def _(file):
    file.create_group("stages")
    file["stages/0"] = h5py.ExternalLink(_beside(file, "secret.h5"), "/")


@_attack("soft link")
def _(file):
    file[TARGET] = h5py.SoftLink("/honest/weight")


@_attack("soft link to a group")
def _(file):
    file.create_group("stages")
    file["stages/0"] = h5py.SoftLink("/honest")


@_attack("soft link to itself")
def _(file):
    file[TARGET] = h5py.SoftLink("/" + TARGET)


@_attack("soft link to nothing")
def _(file):
    file[TARGET] = h5py.SoftLink("/nowhere")


@_attack("two names for one dataset")
def _(file):
    file[TARGET] = file["honest/weight"]


@_attack("group that holds itself")
def _(file):
    group = file.create_group("loop")
    group["loop"] = group


@_attack("group that holds itself a hundred times")
def _(file):
    group = file.create_group("loop")
    for i in range(100):
        group[str(i)] = group


# Too many, too deep, and names.


@_attack("depth of 40")
def _(file):
    file["a/" * 40 + "weight"] = VALUES


@_attack("5,000 datasets")
def _(file):
    group = file.create_group("many")
    for i in range(5000):
        h5py.h5d.create(group.id, b"%d" % i, h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((0,)))


@_attack("9,000 groups")
def _(file):
    group = file.create_group("many")
    for i in range(9000):
        h5py.h5g.create(group.id, b"%d" % i)


@_attack("dataset in the place of the documents")
def _(file):
    file["documents"] = VALUES


@_attack("name that is not UTF-8")
def _(file):
    group = file.create_group("stages/0")
    h5py.h5d.create(group.id, b"weight\xff", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)))


@_attack("name that colours the terminal")
def _(file):
    file["stages/\x1b[31m"] = VALUES


@_attack("name with a dot")
def _(file):
    file["stages/0.weight"] = VALUES


@_attack("name of 4,000 bytes")
def _(file):
    file["a" * 4000] = VALUES


@_attack("reserved name")
def _(file):
    file["contents/weight"] = VALUES


# Attributes.


@_attack("attribute")
def _(file):
    file[TARGET] = VALUES
    file[TARGET].attrs["a"] = 1


@_attack("1,000 attributes")
def _(file):
    file[TARGET] = VALUES
    for i in range(1000):
        file[TARGET].attrs[str(i)] = np.ones(100)


@_attack("attribute of the root")
def _(file):
    file[TARGET] = VALUES
    file.attrs["a"] = "b" * 60000


# Values.


@_attack("NaN")
def _(file):
    file[TARGET] = np.array([1, np.nan, 3, 4], "<f4")


@_attack("infinity")
def _(file):
    file[TARGET] = np.array([1, 2, 3, -np.inf], "<f8")


# Documents.

_document("not JSON", b"{'a': 1}")
_document("empty", b"")
_document("two values", b"1 2")
_document("NaN", b'{"a": NaN}')
_document("infinity by a large exponent", b'{"a": 1e999}')
_document("integer of 100,000 digits", b"1" * 100_000)
_document("key twice", b'{"a": 1, "a": 2}')
_document("depth of 65", b"[" * 65 + b"]" * 65)
_document("depth of 100,000", b"[" * 100_000 + b"]" * 100_000)
_document("not UTF-8", b'"\xff"')
_document("half a surrogate pair", rb'"\ud800"')
_document("half a surrogate pair in an object", rb'{"a": ["\ud800"]}')
_document("half a surrogate pair as a key", rb'{"\ud800": 1}')
_document("objects 65 deep", b'{"a":' * 65 + b"1" + b"}" * 65)
_document("two megabytes", b'"' + b"a" * (2 << 20) + b'"')


@_attack("document: twenty of 100 KB")
def _(file):
    for i in range(20):
        file[f"documents/d{i}"] = np.frombuffer(b'"' + b"a" * 100_000 + b'"', "u1")


@_attack("document: a float array")
def _(file):
    file["documents/config"] = VALUES


@_attack("document: one byte without a shape")
def _(file):
    file["documents/config"] = np.uint8(ord("1"))


@_attack("document: bytes in a matrix")
def _(file):
    file["documents/config"] = np.frombuffer(b"[1,2]   ", "u1").reshape(2, 4)


@_attack("document: in a group")
def _(file):
    file["documents/a/config"] = np.frombuffer(b"1", "u1")


@_attack("document: external link")
def _(file):
    file["documents/config"] = h5py.ExternalLink(_beside(file, "secret.h5"), "/weight")


@_attack("document: gzip")
def _(file):
    file.create_dataset("documents/config", data=np.frombuffer(b"1", "u1"), compression="gzip", chunks=(1,))
