"""The safetensors reader and writer: every tensor comes back, the safetensors library agrees, every hostile file is a
CheckpointError in one line."""

import collections
import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_np.checkpoints import safetensors_file
from levit_np.checkpoints.values import BLOCK
from levit_np.errors import CheckpointError
from tests.mutations import mutated
from tests.weight_files import ARRAYS, NO_FILE, UNWRITABLE, assert_same, names, peak_megabytes, refusal_of, values



def refusal(path: Path) -> str:
    return refusal_of(safetensors_file.read, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    safetensors_file.write(tmp_path / "a.safetensors", ARRAYS)
    return tmp_path / "a.safetensors"


# Round trips.


def test_arrays_come_back(path):
    assert_same(safetensors_file.read(path), ARRAYS)


def test_the_library_reads_what_is_written(path):
    assert_same(safetensors.numpy.load_file(path), ARRAYS)


def test_what_the_library_writes_is_read(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "a", {"a": "1", "b": "é\n"})
    assert_same(safetensors_file.read(tmp_path / "a"), ARRAYS)


def test_the_metadata_that_older_transformers_need_is_written(path):
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_finite_half_is_widened_exactly(tmp_path, dtype):
    halves = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    halves = halves[halves.isfinite()].repeat(40)
    assert len(halves) > 2 * BLOCK
    safetensors.torch.save_file({"before": torch.ones(3, dtype=dtype), "halves": halves}, tmp_path / "a")
    found = safetensors_file.read(tmp_path / "a")["halves"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, halves.float().numpy())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(names, values, max_size=4))
def test_what_is_written_comes_back_or_is_refused(tmp_path_factory, given_arrays):
    path = tmp_path_factory.mktemp("round") / "a"
    before = {name: array.copy() for name, array in given_arrays.items()}
    try:
        safetensors_file.write(path, given_arrays)
    except CheckpointError:
        assert not path.exists()
        assert not all(name.isprintable() and name for name in given_arrays)
        return
    assert_same(safetensors_file.read(path), before)
    assert_same(safetensors.numpy.load_file(path), before)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    safetensors_file.write(tmp_path / "a", ARRAYS)
    safetensors_file.write(tmp_path / "b", dict(reversed(ARRAYS.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("long", ["b", "bb", "bbb"])
def test_every_tensor_is_aligned_to_its_item_size(tmp_path, long):
    safetensors_file.write(tmp_path / "a", {"a": np.ones(1, "f4"), long: np.ones(3), "c": np.ones(2, "f4")})
    data = (tmp_path / "a").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    assert [(start + header[name]["data_offsets"][0]) % 8 for name in (long, "a", "c")] == [0, 0, 4]


def test_a_failure_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        safetensors_file.write(path, {"a": np.ones(1)})
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [*UNWRITABLE, ("__metadata__", np.ones(1), "names of arrays, found __metadata__")],
)
def test_what_cannot_be_read_back_is_not_written(tmp_path, name, array, words):
    with pytest.raises(CheckpointError, match=words):
        safetensors_file.write(tmp_path / "a", {name: array})
    assert os.listdir(tmp_path) == []


def test_names_that_fill_more_than_the_header_are_not_written(tmp_path):
    with pytest.raises(CheckpointError, match="header of at most"):
        safetensors_file.write(tmp_path / "a", {f"{i:0256}": np.ones(1) for i in range(4096)})
    assert os.listdir(tmp_path) == []


# Attacks.


def container(header: Any, values: bytes = bytes(16), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


def entry(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16), **others: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets} | others


def doubled(text: str) -> bytes:
    """A file of one valid tensor whose header contains `text` twice."""
    sound = json.dumps({"a": entry()})
    assert sound.count(text) == 1
    return container(sound.replace(text, f"{text}, {text}").encode())


ENTRY = json.dumps(entry())
ATTACKS = {
    "empty file": b"",
    "seven bytes": bytes(7),
    "length alone": bytes(8),
    "header of no bytes": container(b"", b""),
    "header longer than the file": container({"a": entry()}, length=1000),
    "header of 1 MB and a byte": container(json.dumps({"a": entry()}).encode().ljust((1 << 20) + 1)),
    "header of 2^63 bytes": container({"a": entry()}, length=1 << 63),
    "header of 2^64 - 1 bytes": container({"a": entry()}, length=(1 << 64) - 1),
    "header that is not JSON": container(b"{a}"),
    "header that is a list": container([entry()]),
    "header that begins with a space": container(b" " + json.dumps({"a": entry()}).encode()),
    "header that is not UTF-8": container(b'{"\xff": ' + ENTRY.encode() + b"}"),
    "header 100,000 deep": container(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "header with a NaN": container({"a": entry(shape=[float("nan")])}),
    "name twice": doubled(f'"a": {ENTRY}'),
    # A reader that counts every name to find the duplicate would need many minutes.
    "last of 100,000 names twice": container(("{" + "".join(f'"{i:05x}":0,' for i in range(100_000))
                                              + f'"{99_999:05x}":0}}').encode()),
    "name of 500,000 bytes twice": container(b'{"%b":0,"%b":0}' % ((b"a" * 500_000,) * 2)),
    "dtype twice": doubled('"dtype": "F32"'),
    "offsets twice": doubled('"data_offsets": [0, 16]'),
    "metadata twice": container(b'{"__metadata__": {}, "__metadata__": {}, "a": ' + ENTRY.encode() + b"}"),
    "metadata key twice": container(b'{"__metadata__": {"b": "", "b": ""}, "a": ' + ENTRY.encode() + b"}"),
    "metadata of numbers": container({"__metadata__": {"a": 1}, "a": entry()}),
    "metadata that is a list": container({"__metadata__": [], "a": entry()}),
    "entry that is a number": container({"a": 1}),
    "entry without a shape": container({"a": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "entry with another field": container({"a": entry(file="/etc/passwd")}),
    "unknown type": container({"a": entry(dtype="F33")}),
    "type of 8 bits": container({"a": entry(dtype="F8_E4M3", shape=[16])}),
    "type of 32-bit integers": container({"a": entry(dtype="I32")}),
    "type bool": container({"a": entry(dtype="BOOL", shape=[16])}),
    "type that is a list": container({"a": entry(dtype=["F32"])}),
    "shape that is a number": container({"a": entry(shape=4)}),
    "shape below zero": container({"a": entry(shape=[-1, -1, 4])}),
    "shape of a fraction": container({"a": entry(shape=[4.0])}),
    "shape of a truth": container({"a": entry(shape=[4, True])}),
    "shape of nine dimensions": container({"a": entry(shape=[1] * 8 + [4])}),
    "shape larger than the values": container({"a": entry(shape=[1 << 40])}),
    "shape that overflows to the size": container({"a": entry(shape=[(1 << 62) + 4])}),
    "shape larger than an address but for a zero": container(
        {"a": entry(shape=[0, 1 << 62, 1 << 62], offsets=[0, 0])}, b""
    ),
    "shape of a number of 4,000 digits": container({"a": entry(shape=[10**4000])}),
    "offsets of one number": container({"a": entry(offsets=[16])}),
    "offsets below zero": container({"a": entry(offsets=[-16, 0])}),
    "offsets backwards": container({"a": entry(offsets=[16, 0])}),
    "beginning at a fraction": container({"a": entry(offsets=[0.0, 16])}),
    "end at a fraction": container({"a": entry(offsets=[0, 16.0])}),
    "offsets behind the end": container({"a": entry(offsets=[16, 32])}),
    "two tensors in the same bytes": container({"a": entry(), "b": entry()}),
    "overlapping tensors": container({"a": entry(), "b": entry(offsets=[8, 24])}, bytes(24)),
    "gap between tensors": container({"a": entry(), "b": entry(offsets=[20, 36])}, bytes(36)),
    "bytes before the first": container({"a": entry(offsets=[4, 20])}, bytes(20)),
    "bytes after the last": container({"a": entry()}, bytes(17)),
    "bytes cut off": container({"a": entry()}, bytes(15)),
    "5,000 tensors": container({str(i): entry(shape=[0], offsets=[0, 0]) for i in range(5000)}, b""),
    "name that colours the terminal": container({"\x1b[31m": entry()}),
    "name of 4,000 bytes": container({"a" * 4000: entry()}),
    "name of half a surrogate pair": container({"\ud800": entry()}),
    "empty name": container({"": entry()}),
    "NaN in F32": container({"a": entry()}, np.array([0, 1, np.nan, 2], "<f4").tobytes()),
    "infinity in F64": container({"a": entry("F64", [2])}, np.array([0, np.inf], "<f8").tobytes()),
    "infinity in F16": container({"a": entry("F16", [8])}, np.array([0] * 7 + [-np.inf], "<f2").tobytes()),
    "NaN in BF16": container({"a": entry("BF16", [8])}, bytes(14) + b"\xc0\x7f"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(tmp_path, name):
    (tmp_path / "a").write_bytes(ATTACKS[name])
    refusal(tmp_path / "a")


REASONS = {
    "seven bytes": "expected safetensors, found 7 bytes",
    "header of 1 MB and a byte": "header of at most 1048576 bytes, found 1048577",
    "header longer than the file": "expected a JSON header of 1000 bytes",
    "header that begins with a space": "expected a JSON header",
    "name twice": "the key 'a' twice",
    "last of 100,000 names twice": "the key '1869f' twice",
    "name of 500,000 bytes twice": "aaa twice",
    "metadata that is a list": "expected metadata of strings",
    "metadata of numbers": "expected metadata of strings",
    "entry with another field": "expected dtype, shape and two data_offsets",
    "type of 32-bit integers": "a: expected one of the types",
    "shape of a truth": "expected sizes and offsets",
    "shape below zero": "expected sizes and offsets",
    "beginning at a fraction": "expected sizes and offsets",
    "end at a fraction": "expected sizes and offsets",
    "shape larger than the values": "expected 4398046511104 bytes",
    "overlapping tensors": "b: expected to begin at byte 16, found 8",
    "bytes after the last": "expected 16 bytes of values, found 17",
}


@pytest.mark.parametrize("name", REASONS)
def test_an_attack_is_refused_before_the_library_sees_it(tmp_path, name, monkeypatch):
    monkeypatch.setattr(safetensors, "safe_open", lambda *arguments, **options: pytest.fail("was opened"))
    (tmp_path / "a").write_bytes(ATTACKS[name])
    assert REASONS[name] in refusal(tmp_path / "a")


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64", "I64"])
def test_the_honest_file_of_the_attacks_is_accepted(tmp_path, dtype):
    count = 16 * 8 // int(dtype[-2:])
    header = json.dumps({"a": entry(dtype, [count]), "b": entry("I64", [0], [16, 16])}).encode()
    (tmp_path / "a").write_bytes(container(header.ljust(1 << 20)))
    assert [array.shape for array in safetensors_file.read(tmp_path / "a").values()] == [(count,), (0,)]


def test_the_header_may_name_tensors_in_any_order(tmp_path):
    header = {"end": entry("I64", [0], [16, 16]), "b": entry("F32", [2], [8, 16]), "a": entry("F32", [2], [0, 8]),
              "start": entry("I64", [0], [0, 0])}
    (tmp_path / "a").write_bytes(container(header, np.arange(4, dtype="<f4").tobytes()))
    found = {name: array.tolist() for name, array in safetensors_file.read(tmp_path / "a").items()}
    assert found == {"end": [], "b": [2, 3], "a": [0, 1], "start": []}


def test_a_non_finite_value_is_refused_by_name_whatever_stands_around_it(tmp_path):
    halves = torch.zeros(BLOCK + 10, dtype=torch.bfloat16)
    halves[-3] = torch.inf
    safetensors.torch.save_file({"sound": torch.ones(2), "unsound": halves}, tmp_path / "a")
    assert "unsound: expected finite values, found inf" in refusal(tmp_path / "a")


@NO_FILE
def test_what_is_no_file_is_refused(tmp_path, make, words):
    make(path := tmp_path / "a")
    assert refusal(path) == f"{path}: {words}"


def test_a_file_that_the_library_reads_differently_is_refused(path, monkeypatch):
    opened = safetensors.safe_open
    monkeypatch.setattr(safetensors, "safe_open", lambda other, **options: opened(path, **options))
    other = path.with_name("other")
    safetensors_file.write(other, {"a": np.ones(1)})
    assert "expected 1 tensors, the safetensors library found 4" in refusal(other)


def test_whatever_the_library_raises_is_one_exception(path, monkeypatch):
    def fails(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("several\nlines")

    monkeypatch.setattr(safetensors, "safe_open", fails)
    assert "RuntimeError: several lines" in refusal(path)


# Fuzz.


def fuzz(sound: bytes, path: Path, times: int, seed: int) -> collections.Counter[str]:
    """Reads damaged files, mostly damaged in the header; any exception but CheckpointError fails the test."""
    rng = random.Random(seed)
    start = 8 + int.from_bytes(sound[:8], "little")
    count: collections.Counter[str] = collections.Counter()
    for _ in range(times):
        if rng.random() < 0.5:
            header = mutated(sound[8:start], rng)
            data = struct.pack("<Q", len(header)) + header + sound[start:]
        else:
            data = mutated(sound, rng)
        path.write_bytes(data)
        try:
            found = safetensors_file.read(path)
            assert sum(array.nbytes for array in found.values()) <= 2 * len(data)
            count["accepted"] += 1
        except CheckpointError:
            count["refused"] += 1
    return count


@pytest.fixture
def sound(tmp_path: Path) -> bytes:
    tensors = {"weight": torch.ones(3, 4), "brain": torch.ones(5).bfloat16(), "half": torch.ones(3).half()}
    tensors["steps"] = torch.tensor(3)
    safetensors.torch.save_file(tensors, tmp_path / "sound", {"format": "pt"})
    return (tmp_path / "sound").read_bytes()


def test_damaged_files_are_refused_or_read(tmp_path, sound):
    count = fuzz(sound, tmp_path / "a", 3000, seed=1)
    assert count["refused"] > 1500 and count["accepted"] > 100


@pytest.mark.slow
def test_100000_damaged_files_are_refused_or_read(tmp_path, sound):
    count = fuzz(sound, tmp_path / "a", 100_000, seed=2)
    print(count)
    assert count["refused"] and count["accepted"]


# Memory.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reading_takes_at_most_twice_the_file(tmp_path, dtype):
    # Bytes of 1 are a small finite number in every type.
    safetensors.torch.save_file({"a": torch.ones(80 << 20, dtype=torch.uint8).view(dtype)}, tmp_path / "a")
    assert 80 <= peak_megabytes("safetensors", tmp_path / "a") <= 2 * 80 + 64


def test_a_header_of_one_megabyte_takes_at_most_64(tmp_path):
    metadata = {format(i, "x"): "" for i in range(90_000)}
    safetensors.numpy.save_file({"a": np.ones(1)}, tmp_path / "a", metadata)
    assert (tmp_path / "a").stat().st_size > 900_000
    assert peak_megabytes("safetensors", tmp_path / "a") <= 64
