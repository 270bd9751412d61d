"""levit_np's HDF5 files: every array and document comes back, and any damage is a CheckpointError in one line."""

import io
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_np.errors import CheckpointError
from levit_np.storage import confined, extents, hdf5, seal, strict_hdf5
from tests.storage import child_functions, forgeries
from tests.weight_files import NO_FILE, assert_same, peak_megabytes, refusal_of, values, write_plain_hdf5

ARRAYS = {
    "stages.0.attention.weight": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "stages.0.attention.steps": np.array(5),
    "stages.10.weight": np.linspace(0, 1, 5),
    "head.bias": np.zeros((0, 3), np.float32),
}
DOCUMENTS = {"config": {"depth": [2, 3], "name": "é", "scale": 0.5}, "labels": ["cat", None, True]}


def refusal(path: Path) -> str:
    return refusal_of(hdf5.read, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    hdf5.write(tmp_path / "a.h5", ARRAYS, DOCUMENTS)
    return tmp_path / "a.h5"


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    write_plain_hdf5(tmp_path / "stranger.h5", ARRAYS, {"config": {"a": 1}})
    return tmp_path / "stranger.h5"


# Round trips.


def test_arrays_and_documents_come_back(path):
    arrays, documents = hdf5.read(path)
    assert_same(arrays, ARRAYS)
    assert documents == DOCUMENTS


names = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4).map(".".join)
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.dictionaries(names, values, max_size=4), st.dictionaries(st.text(max_size=4), json, max_size=2))
def test_what_is_written_comes_back_or_is_refused(tmp_path_factory, given_arrays, given_documents):
    path = tmp_path_factory.mktemp("round") / "a.h5"
    before = {name: array.copy() for name, array in given_arrays.items()}
    try:
        hdf5.write(path, given_arrays, given_documents)
    except CheckpointError:
        assert not path.exists()
        return
    data = path.read_bytes()
    for found, documents in (hdf5.read(path), extents.content(data, strict_hdf5.find(data, "file"), "file")):
        assert_same(found, before)
        assert documents == given_documents


@pytest.mark.parametrize("name", ["ü.重み.w", "with space.w", "a" * 256, ".".join("a" * 16)])
def test_an_unusual_name_is_kept(tmp_path, name):
    hdf5.write(tmp_path / "a.h5", {name: np.ones(2)}, {})
    assert list(hdf5.read(tmp_path / "a.h5")[0]) == [name]


@pytest.mark.parametrize(
    "name",
    ["", ".", "a.", ".a", "a..b", "a/b", "../a", "a\0b", "a\nb", "\x1b[31m", "\ud800", "a" * 257, "ü" * 129,
     ".".join("a" * 17), "documents", "documents.config", "contents", "contents.a"],
)
def test_a_name_that_cannot_be_kept_is_refused(tmp_path, name):
    words = ("expected (a name of (printable parts joined by dots|at most 256 bytes), found |"
             "a name of at most 16 parts, found 17: |the name of an array, found the reserved name )")
    with pytest.raises(CheckpointError, match=rf"a\.h5: {words}{re.escape(f'{name!r:.300}')}\Z"):
        hdf5.write(tmp_path / "a.h5", {name: np.ones(2)}, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("array", "words"),
    [(np.zeros(2, "f2"), "float16"), (np.zeros(2, "i4"), "int32"), (np.zeros(2, "u1"), "uint8"),
     (np.zeros(2, bool), "bool"), (np.array(["a"]), "<U1"), (np.array([None]), "object"),
     (np.zeros(2, "f4,f4"), "f0"), (np.array([1, np.nan]), "nan"), (np.array([1, np.inf], ">f4"), "inf"),
     (np.ones((1,) * 9), "at most 8 dimensions, found 9"),
     (np.zeros((0, (1 << 48) + 1), "f4"), rf"at most {1 << 48} values, found \(0, {(1 << 48) + 1}\)")],
)
def test_an_array_that_cannot_be_kept_is_refused_by_name(tmp_path, array, words):
    with pytest.raises(CheckpointError, match=f"stages.0.weight: expected .*{words}"):
        hdf5.write(tmp_path / "a.h5", {"stages.0.weight": array}, {})
    assert os.listdir(tmp_path) == []


def test_an_array_as_large_as_may_be_is_kept(tmp_path):
    arrays = {"a": np.ones((1,) * 8), "b": np.zeros((0, 1 << 48), "f4")}
    hdf5.write(tmp_path / "a.h5", arrays, {})
    assert_same(hdf5.read(tmp_path / "a.h5")[0], arrays)


@pytest.mark.parametrize(
    "document",
    [np.ones(2), {1, 2}, float("nan"), [float("inf")], {float("nan"): 1}, {1: "a", "1": "b"}, "\ud800", b"a"],
)
def test_a_document_that_cannot_be_kept_is_refused(tmp_path, document):
    words = r"a\.h5: documents/config: expected (a JSON document|strict JSON), found ."
    with pytest.raises(CheckpointError, match=words):
        hdf5.write(tmp_path / "a.h5", {}, {"config": document})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "\x1b[31m", "a" * 247])
def test_a_document_whose_name_cannot_be_kept_is_refused(tmp_path, name):
    hdf5.write(tmp_path / "a.h5", {}, {"a" * 246: 1})  # 256 bytes with the folder
    with pytest.raises(CheckpointError, match="b.h5: expected a name of .*, found 'documents."):
        hdf5.write(tmp_path / "b.h5", {}, {name: 1})


@pytest.mark.parametrize("nested", [lambda inner: [inner], lambda inner: {"a": inner}], ids=["lists", "objects"])
def test_a_document_is_at_most_64_levels_deep(tmp_path, nested):
    document = 1
    for _ in range(63):
        document = nested(document)
    hdf5.write(tmp_path / "a.h5", {}, {"config": document})
    assert hdf5.read(tmp_path / "a.h5") == ({}, {"config": document})
    with pytest.raises(CheckpointError, match="documents/config: .*more than 64 levels"):
        hdf5.write(tmp_path / "a.h5", {}, {"config": nested(document)})
    for _ in range(100_000):  # more than Python's encoder can go into
        document = nested(document)
    with pytest.raises(CheckpointError, match="documents/config: expected (a JSON document|strict JSON), found ."):
        hdf5.write(tmp_path / "a.h5", {}, {"config": document})


def test_documents_are_at_most_a_megabyte_together(tmp_path):
    half = "a" * ((1 << 19) - 2)
    hdf5.write(tmp_path / "a.h5", {}, {"one": half, "two": half})
    with pytest.raises(CheckpointError, match=r"a\.h5: expected at most 1048576 bytes of documents, found 1048577\Z"):
        hdf5.write(tmp_path / "a.h5", {}, {"one": half, "two": half + "a"})


@pytest.mark.parametrize("above", ["a", "a.b"])
def test_an_array_cannot_be_a_group_too(tmp_path, above):
    with pytest.raises(CheckpointError, match=r"a\.h5: a\.b\.c: expected a group above it"):
        hdf5.write(tmp_path / "a.h5", {"a.b.c": np.ones(1), above: np.ones(1)}, {})


def test_too_many_arrays_are_refused_and_4096_are_not(tmp_path):
    many = {str(i): np.zeros(0) for i in range(4096)}
    hdf5.write(tmp_path / "a.h5", many, {})
    assert len(hdf5.read(tmp_path / "a.h5")[0]) == 4096
    with pytest.raises(CheckpointError, match="at most 4096"):
        hdf5.write(tmp_path / "a.h5", many, {"config": 1})


def test_names_that_together_are_too_long_to_be_listed_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("levit_np.storage.names.LARGEST_DOCUMENTS", 1000)
    with pytest.raises(CheckpointError, match="a.h5: expected at most 1000 bytes of documents, found 1"):
        hdf5.write(tmp_path / "a.h5", {f"{i:0200}": np.zeros(1) for i in range(5)}, {})
    assert os.listdir(tmp_path) == []


# The file itself.


def test_any_tool_reads_it(path):
    with h5py.File(path) as file:
        for name, array in ARRAYS.items():
            dataset = file[name.replace(".", "/")]
            assert dataset.dtype.str == array.dtype.newbyteorder("<").str
            assert dataset.chunks is None and dataset.compression is None and not dataset.attrs
            np.testing.assert_array_equal(dataset[()], array)
        assert file["documents/config"][:].tobytes().decode() == '{"depth":[2,3],"name":"é","scale":0.5}'
        assert file["documents/labels"][:].tobytes() == b'["cat",null,true]'
    assert path.read_bytes()[seal.SIZE :].startswith(hdf5.MAGICS[1] + b"\2")  # the superblock of HDF5 1.8


def test_the_same_content_gives_the_same_bytes_in_any_process(path, tmp_path):
    backwards = {name: np.array(array, array.dtype.newbyteorder(">"), order="F")
                 for name, array in reversed(ARRAYS.items())}
    hdf5.write(tmp_path / "b.h5", backwards, dict(reversed(DOCUMENTS.items())))
    code = ("import sys; sys.path[:] = sys.argv[2:]\nfrom levit_np.storage import hdf5\n"
            "from tests.storage.test_hdf5 import ARRAYS, DOCUMENTS\n"
            "hdf5.write(sys.argv[1], ARRAYS, DOCUMENTS)")
    subprocess.run([sys.executable, "-c", code, tmp_path / "c.h5", *sys.path], check=True)
    assert path.read_bytes() == (tmp_path / "b.h5").read_bytes() == (tmp_path / "c.h5").read_bytes()


def test_a_failure_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hdf5.write(path, {}, {})
    assert path.read_bytes() == before


def test_importing_and_reading_a_sealed_file_loads_no_h5py(path):
    code = ("import sys; sys.path[:] = sys.argv[2:]\n"
            "from levit_np.storage import hdf5\nhdf5.read(sys.argv[1])\n"
            "assert 'h5py' not in sys.modules")
    subprocess.run([sys.executable, "-c", code, path, *sys.path], check=True)


def test_the_seal_is_checked_before_anything_else_is_read(path, monkeypatch):
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    for module, function in ((confined, "run"), (strict_hdf5, "find"), (hdf5, "content")):
        monkeypatch.setattr(module, function, lambda *arguments, **options: pytest.fail("was read"))
    expected, found = re.fullmatch("damaged: content hash expected ([0-9a-f]{64}), found ([0-9a-f]{64})",
                                   refusal(path).removeprefix(f"{path}: ")).groups()
    assert expected != found


# Damage.


def test_every_flipped_bit_is_seen(path):
    sound = path.read_bytes()
    rng = random.Random(0)
    for i in range(len(sound)):
        damaged = bytearray(sound)
        damaged[i] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        message = refusal(path)
        assert i < 20 or "damaged" in message


def test_every_other_length_is_seen(path):
    sound = path.read_bytes()
    for length in (*range(0, len(sound), 7), 511, 512, len(sound) - 1):
        path.write_bytes(sound[:length])
        assert refusal(path).removeprefix(f"{path}: ") == (
            f"expected an HDF5 file, found one that begins with {sound[:length]!r}" if length < 8 else
            f"damaged: expected a seal of 512 bytes, found b'levit_np', {length} bytes" if length < 512 else
            f"damaged: expected {len(sound) - 512} bytes after the seal, found {length - 512}")
    path.write_bytes(sound + b"\0")
    assert "damaged: expected" in refusal(path)


def test_a_file_with_a_damaged_seal_is_not_read_as_a_strangers(path, monkeypatch):
    monkeypatch.setattr(confined, "run", lambda *arguments, **options: pytest.fail("was passed on"))
    sound = path.read_bytes()
    with h5py.File(io.BytesIO(sound)) as file:
        assert file.userblock_size == seal.SIZE
    for damaged in (b"levit_nq" + sound[8:], bytes(seal.SIZE) + sound[seal.SIZE :], sound[:600]):
        path.write_bytes(damaged)
        refusal(path)


def test_another_version_of_the_format_is_named(path):
    sound = path.read_bytes()
    path.write_bytes(sound[:8] + b"\2" + sound[9:])
    assert "expected version 1 of the file format, found 2" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"", *hdf5.MAGICS, *(magic + bytes(600) for magic in hdf5.MAGICS), b"PK\3\4" + bytes(600)]
)
def test_files_that_are_not_hdf5_are_refused(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    refusal(tmp_path / "a.h5")


@NO_FILE
def test_what_is_no_file_is_refused(tmp_path, make, words):
    make(path := tmp_path / "a.h5")
    assert refusal(path) == f"{path}: {words}"


def test_a_path_that_no_file_can_have_is_refused():
    with pytest.raises(CheckpointError, match=r"\A'a\\x00b.h5': expected a path, found .*embedded null "):
        hdf5.read("a\0b.h5")


@pytest.mark.parametrize(
    ("error", "words"),
    [(OSError(5, "I/O error"), "I/O error"), (OSError("several"), "several"),
     (MemoryError(), "expected enough memory for the file, found too little")],
)
def test_whatever_goes_wrong_inside_is_one_exception(path, monkeypatch, error, words):
    def fails(*arguments):
        raise error

    monkeypatch.setattr(hdf5, "content", fails)
    assert refusal(path) == f"{path}: {words}"


# Strangers.


def test_a_strangers_file_is_read_in_a_child(stranger, monkeypatch):
    called = []
    run = confined.run

    def recorded(*arguments: Any, **limits: float) -> None:
        called.append(limits)
        run(*arguments, **limits)

    monkeypatch.setattr(confined, "run", recorded)
    monkeypatch.setattr(strict_hdf5, "find", lambda *arguments: pytest.fail("was read in the parent"))
    found, documents = hdf5.read(stranger)
    assert_same(found, ARRAYS)
    assert documents == {"config": {"a": 1}}
    size = stranger.stat().st_size
    assert called == [{"seconds": 20 + size / 20e6, "memory": 3 * size + (256 << 20)}]


def test_our_own_file_without_its_seal_is_a_strangers(path, tmp_path):
    with h5py.File(path) as file, h5py.File(tmp_path / "copy.h5", "w") as copy:
        for name in file:
            file.copy(name, copy)
    found, documents = hdf5.read(tmp_path / "copy.h5")
    assert_same(found, ARRAYS)
    assert documents == DOCUMENTS


# Memory.


def test_arrays_that_lie_unaligned_are_copied(tmp_path):
    """Versions before this one wrote them so."""
    path, start = tmp_path / "a.h5", forgeries.START
    for first in (0, 1, 4):  # float64 lies aligned at none of them
        listing = [[["a"], "<f4", [8], start + first], [["b"], "<f8", [2], start + first + 33]]
        path.write_bytes(forgeries.forged(listing, bytes(first) + forgeries.VALUES + b"-" + np.ones(2).tobytes()))
        arrays, _ = hdf5.read(path)
        assert_same(arrays, {"a": np.arange(8, dtype=np.float32), "b": np.ones(2)})
        assert all(array.flags.carray for array in arrays.values())


def test_writing_takes_one_copy_and_reading_none(tmp_path):
    path = tmp_path / "a.h5"
    written = confined.run(child_functions.peak_megabytes_of_writing, path, 96, memory=4 << 30)
    size = path.stat().st_size / (1 << 20)
    assert 96 < size < 97
    assert size <= written <= 2 * size + 64
    assert size / 2 < peak_megabytes("hdf5", path) <= size + 64  # less than the size where imports left memory free


def test_reading_a_strangers_file_takes_one_copy_at_most(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["weight"] = np.ones((96, 1 << 18), "f4")
    size = path.stat().st_size / (1 << 20)
    assert size <= peak_megabytes("hdf5", path) <= 2 * size + 64
