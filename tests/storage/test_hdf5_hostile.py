"""Hostile and damaged HDF5 files: each is a CheckpointError in one line, even where libhdf5 crashes or hangs."""

import collections
import io
import os
import random
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from levit_np.errors import CheckpointError
from levit_np.storage import confined, extents, hdf5, seal, strict_hdf5
from tests.mutations import mutated
from tests.storage import forked_children
from tests.storage.attacks_hdf5 import CONTENT_ATTACKS, VALUES, image
from tests.storage.attacks_headers import HEADER_ATTACKS, endless
from tests.storage.forgeries import FORGERIES, HONEST
from tests.storage.harsh_worker import Worker
from tests.weight_files import refusal_of

ARRAYS = {
    "stages.0.weight": np.arange(12, dtype="f4").reshape(3, 4), "stages.0.steps": np.array(5),
    "bias": np.ones(5),
}
ATTACKS = CONTENT_ATTACKS | HEADER_ATTACKS
DOCUMENTS = {"config": {"depth": [2, 3]}, "labels": ["cat", "dog"]}


def refusal(path: Path) -> str:
    return refusal_of(hdf5.read, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    hdf5.write(tmp_path / "a.h5", ARRAYS, DOCUMENTS)
    return tmp_path / "a.h5"


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_libhdf5_is_refused(tmp_path, name):
    data = image(ATTACKS[name], tmp_path)
    with pytest.raises(CheckpointError, match=r"\Afile: [^\n]{10,700}\Z"):
        hdf5.write(tmp_path / "copy.h5", *extents.content(data, strict_hdf5.find(data, "file"), "file"))
    assert not (tmp_path / "copy.h5").exists()


REASONS = {
    "external storage": "stages.0.weight: expected storage in the file, found external files",
    "virtual dataset of the same file": "stages.0.weight: expected contiguous storage, found virtual",
    "gzip": "stages.0.weight: expected contiguous storage, found chunked",
    "compact storage": "stages.0.weight: expected contiguous storage, found compact",
    "null dataspace": "stages.0.weight: expected a shape, found a null dataspace",
    "nine dimensions": "stages.0.weight: expected at most 8 dimensions, found 9",
    "shape without storage": rf"stages.0.weight: expected {4 << 40} stored bytes for \({1 << 40},\), found 0",
    "external link": "stages.0.weight: expected a hard link, found an external link",
    "soft link": "stages.0.weight: expected a hard link, found a soft link",
    "big-endian": "stages.0.weight: expected the type <f4 or .*, found TypeFloatID of 4 bytes, big-endian",
    "float16": r"stages.0.weight: expected the type .*, found TypeFloatID of 2 bytes\Z",
    "strings of any length": "stages.0.weight: expected the type .*, found TypeStringID of 8 bytes",
    "committed type on a dataset": "stages.0.weight: expected the type",
    "committed type in the place of a dataset": "stages.0.weight: expected a group or an array, found TypeFloatID",
    "group that holds itself": "16 parts",
    "name that colours the terminal": "printable",
    "name that is not UTF-8": r"stages/0: expected names in UTF-8, found b'weight\\xff'",
    "attribute": "stages.0.weight: expected no HDF5 attributes, found 1",
    "attribute of the root": "/: expected no HDF5 attributes, found 1",
    "9,000 groups": "expected at most 8192 groups and datasets, found more",
    "values nowhere": "stored bytes",
}


@pytest.mark.parametrize("name", REASONS)
def test_an_attack_is_refused_for_the_right_reason_and_in_time(tmp_path, name):
    """Several checks would stop most attacks; this is the first one, before any values are read."""
    with pytest.raises(CheckpointError, match=rf"\Afile: .*{REASONS[name]}"):
        strict_hdf5.find(image(ATTACKS[name], tmp_path), "file")


@pytest.mark.parametrize(("name", "reason"), [
    ("NaN", "the constant NaN"), ("infinity by a large exponent", "a number too large, 1e999"),
    ("key twice", "the key 'a' twice"), ("depth of 65", "more than 64 levels")])
def test_a_document_is_refused_for_the_right_reason(tmp_path, name, reason):
    data = image(ATTACKS[f"document: {name}"], tmp_path)
    with pytest.raises(CheckpointError, match=f"file: documents/config: expected strict JSON, found {reason}"):
        extents.content(data, strict_hdf5.find(data, "file"), "file")


@pytest.mark.parametrize(
    "name", ["external storage", "virtual dataset of another file", "gzip bomb", "9,000 groups", "NaN"]
)
def test_an_attack_is_refused_through_the_child_too(tmp_path, name):
    (tmp_path / "a.h5").write_bytes(image(ATTACKS[name], tmp_path))
    refusal(tmp_path / "a.h5")


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_is_refused_through_the_child_too(tmp_path, name):
    (tmp_path / "a.h5").write_bytes(image(ATTACKS[name], tmp_path))
    refusal(tmp_path / "a.h5")


def test_a_file_on_which_libhdf5_never_ends_is_refused(tmp_path):
    (tmp_path / "a.h5").write_bytes(endless(tmp_path))
    refusal(tmp_path / "a.h5")


def test_no_attack_opens_a_file_beside_it(tmp_path):
    names = [name for name in ATTACKS if "external" in name or "another file" in name]
    assert len(names) == 6
    pointing = [image(ATTACKS[name], tmp_path) for name in names]
    for name in ("secret.bin", "secret.h5"):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
    # A reader that opened one of these pipes would wait forever.
    worker = Worker(seconds=5)
    assert [worker.read(data) for data in pointing] == ["r"] * len(pointing)
    worker.close()


def test_the_valid_file_that_the_attacks_start_from_is_accepted(tmp_path):
    attack = ATTACKS["NaN"]._replace(build=lambda file: file.create_dataset("stages/0/weight", data=VALUES))
    found = extents.content(data := image(attack, tmp_path), strict_hdf5.find(data, "file"), "file")
    assert list(found[0]) == ["honest.weight", "stages.0.weight"]


def test_filters_without_chunks_are_refused():
    class Created:
        get_layout = staticmethod(lambda: h5py.h5d.CONTIGUOUS)
        get_external_count = staticmethod(lambda: 0)
        get_nfilters = staticmethod(lambda: 1)

    with pytest.raises(CheckpointError, match="a: expected no filters, found 1"):
        strict_hdf5._require_plain_storage(Created, "a")


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused(tmp_path, name):
    (tmp_path / "a.h5").write_bytes(FORGERIES[name])
    assert "content hash" not in refusal(tmp_path / "a.h5")


@pytest.mark.parametrize("name", ["big-endian", "shape larger than the file", "offset below zero", "NaN"])
def test_a_forged_array_is_named(tmp_path, name):
    (tmp_path / "a.h5").write_bytes(FORGERIES[name])
    assert refusal(tmp_path / "a.h5").startswith(f"{tmp_path / 'a.h5'}: a: expected ")


@pytest.mark.parametrize(("name", "words"), [
    ("list that is not JSON", "expected strict JSON, found "),
    ("name twice", "expected each name once, found one twice"),
    ("entry of three fields", r"expected name, type, shape and offset, found \[\['a'\], '<f4', \[8\]\]"),
    ("list that is a number", "expected name, type, shape and offset, found 7")])
def test_a_forged_list_is_named(tmp_path, name, words):
    (tmp_path / "a.h5").write_bytes(FORGERIES[name])
    assert re.match(f"contents: {words}", refusal(tmp_path / "a.h5").removeprefix(f"{tmp_path / 'a.h5'}: "))


def test_the_valid_file_that_the_forgeries_start_from_is_accepted(tmp_path):
    (tmp_path / "a.h5").write_bytes(HONEST)
    np.testing.assert_array_equal(hdf5.read(tmp_path / "a.h5")[0]["a"], np.arange(8))


# Fuzz.


def fuzz_seal(sound: bytes, path: Path, times: int, seed: int) -> None:
    """Each damaged file must be refused."""
    rng = random.Random(seed)
    for _ in range(times):
        path.write_bytes(mutated(sound, rng))
        refusal(path)


def fuzz_forgery(sound: bytes, times: int, seed: int) -> collections.Counter[str]:
    """Damages the content and seals it again; any exception but CheckpointError fails the test."""
    rng = random.Random(seed)
    offset, nbytes = seal.check(sound, "file")
    count: collections.Counter[str] = collections.Counter()
    for _ in range(times):
        values, listing = sound[seal.SIZE : offset], sound[offset : offset + nbytes]
        if rng.random() < 0.8:
            listing = mutated(listing, rng)
        else:
            values = mutated(values, rng)
        content = values + listing
        data = seal.seal(content, seal.SIZE + len(values), len(listing)) + content
        try:
            found, _ = hdf5._read_sealed(data, "file")
            assert sum(array.nbytes for array in found.values()) <= len(data)
            count["accepted"] += 1
        except CheckpointError:
            count["refused"] += 1
    return count


def fuzz_stranger(libver: str, times: int, seed: int) -> Worker:
    """Damages an HDF5 file without a seal, in a worker that libhdf5 may crash."""
    file = io.BytesIO()
    with h5py.File(file, "w", libver=libver) as written:
        for name, array in ARRAYS.items():
            written[name.replace(".", "/")] = array
        for i in range(12):
            written[f"wide/{i}"] = np.arange(2.0)
        written["documents/config"] = np.frombuffer(b'{"a": 1}', "u1")
    rng = random.Random(seed)
    worker = Worker(seconds=10)
    for _ in range(times):
        worker.read(mutated(file.getvalue(), rng))
    worker.close()
    return worker


def test_damaged_files_are_refused(path):
    fuzz_seal(path.read_bytes(), path, 1000, seed=1)


def test_damaged_lists_are_refused_or_read(path):
    count = fuzz_forgery(path.read_bytes(), 2000, seed=2)
    assert count["refused"] > 1000 and count["accepted"] > 10


@pytest.mark.parametrize("libver", ["earliest", "v108"])
def test_damaged_hdf5_raises_nothing_else(libver):
    count = fuzz_stranger(libver, 400, seed=3).count
    assert count["x"] == 0 and count["a"] > 0 and count["r"] > 100


@pytest.mark.slow
def test_100000_damaged_files_are_refused(path):
    fuzz_seal(path.read_bytes(), path, 100_000, seed=4)


@pytest.mark.slow
def test_100000_damaged_lists_are_refused_or_read(path):
    count = fuzz_forgery(path.read_bytes(), 100_000, seed=5)
    print(count)
    assert count["refused"] and count["accepted"]


@pytest.mark.slow
@pytest.mark.parametrize("libver", ["earliest", "v108"])
def test_100000_damaged_hdf5_raise_nothing_else(libver):
    """libhdf5 may crash or hang, at most once in a thousand files, and only in the worker."""
    worker = fuzz_stranger(libver, 100_000, seed=6)
    print(worker.count, worker.peak_kilobytes)
    assert worker.count["x"] == 0 and worker.count["a"] and worker.count["r"]
    assert worker.count["crash"] + worker.count["hang"] <= 100


def fuzz_children(libver: str, times: int, seed: int, directory: Path) -> dict[str, int]:
    count, slowest = confined.run(forked_children.fuzz, libver, times, seed, 5, directory, seconds=20_000,
                                  memory=4 << 30)
    print(libver, count, slowest)
    assert "another exception" not in count and slowest < 30
    return count


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("libver", ["earliest", "v108"])
def test_damaged_hdf5_in_limited_children(tmp_path, libver):
    count = fuzz_children(libver, 150, 7, tmp_path)
    assert count["read"] > 2 and count["refused"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("libver", ["earliest", "v108"])
def test_100000_damaged_hdf5_in_limited_children(tmp_path, libver):
    """Whatever libhdf5 does, the child ends in time."""
    count = fuzz_children(libver, 50_000, 8, tmp_path)
    assert count["read"] and count["refused"]
