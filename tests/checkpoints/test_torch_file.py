"""The .pth reader and writer: what torch saves is read, and torch loads what is written, to the last bit."""

import argparse
import math
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from levit_np.checkpoints import stored_zip, torch_file
from levit_np.checkpoints.values import BLOCK
from levit_np.errors import CheckpointError
from levit_np.storage import confined
from tests.checkpoints import torch_child
from tests.checkpoints.torch_forge import (
    FOLLOWS,
    FOUR,
    UTF8,
    Part,
    altered,
    archive,
    checkpoint,
    parts,
    state,
    storage,
    tensor,
    text,
)
from tests.weight_files import ARRAYS, UNWRITABLE, names, values



def saved(content: object, path: Path) -> dict[str, np.ndarray]:
    """What is read from a file that torch saved."""
    torch.save(content, path)
    return torch_file.read(path)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, torch.Tensor]) -> None:
    """The arrays equal the tensors (halves and short integers are widened) and share no memory with each other."""
    assert list(found) == list(expected)
    for name, array in found.items():
        wide = torch.int64 if not expected[name].is_floating_point() else torch.float32
        wide = torch.float64 if expected[name].dtype == torch.float64 else wide
        theirs = expected[name].detach().to(wide).numpy()
        assert array.dtype == theirs.dtype and array.shape == theirs.shape
        assert array.dtype.isnative and array.flags.c_contiguous and array.flags.writeable
        np.testing.assert_array_equal(array, theirs)
        assert not any(np.shares_memory(array, other) for key, other in found.items() if key != name)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Sequential(torch.nn.Linear(4, 2))
    )


# From torch.


@pytest.mark.parametrize(
    "wrap",
    [lambda weights: weights, dict, lambda weights: {"model": weights},
     lambda weights: {"state_dict": weights},
     lambda weights: {"model": dict(weights), "epoch": 3, "best": 0.5, "name": "é", "ok": True, "none": None,
                      "large": 1 << 40, "list": [1, [2.0], (3, "a")], "ema": weights, "one": torch.ones(2)},
     lambda weights: {"model": 3, "state_dict": weights}, lambda weights: {"model": [3], "state_dict": weights}],
    ids=["OrderedDict", "dict", "model", "state_dict", "beside others", "model is no dict", "model is a list"],
)
def test_a_state_is_read_wherever_it_stands_in_the_file(tmp_path, wrap):
    weights = network().state_dict()
    assert hasattr(weights, "_metadata")
    assert_same(saved(wrap(weights), tmp_path / "a.pth"), weights)


@pytest.mark.parametrize(
    ("wrap", "where"),
    [(dict, ""), (lambda state: {"model": state}, " as 'model'"),
     (lambda state: {"epoch": 3, "one": torch.ones(2), "state_dict": state}, " as 'state_dict'")],
    ids=["top", "model", "state_dict"],
)
def test_what_is_no_tensor_in_a_state_is_named(tmp_path, wrap, where):
    with pytest.raises(CheckpointError, match=f"found {{'note': 'hello', '0.weight': a tensor.*}}{where}$"):
        saved(wrap(dict(network().state_dict()) | {"note": "hello"}), tmp_path / "a.pth")


def test_a_training_checkpoint_is_read(tmp_path):
    module = network()
    optimizer = torch.optim.AdamW(module.parameters(), foreach=False)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    module[2](torch.ones(1, 4)).sum().backward()
    optimizer.step()
    content = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3,
               "lr_scheduler": schedule.state_dict()}
    assert_same(saved(content, tmp_path / "a.pth"), module.state_dict())
    with pytest.raises(CheckpointError, match="found the global 'argparse.Namespace'"):
        saved(content | {"args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")


def test_parameters_are_read(tmp_path):
    module = network()
    assert_same(saved({"model": dict(module.named_parameters())}, tmp_path / "a.pth"),
                dict(module.named_parameters()))


def test_an_empty_state_is_read(tmp_path):
    assert saved({}, tmp_path / "a.pth") == saved({"model": {}, "epoch": 1}, tmp_path / "a.pth") == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.int32])
def test_types_are_read(tmp_path, dtype):
    tensors = {"a": torch.arange(-6, 6).reshape(3, 4).to(dtype), "scalar": torch.tensor(3).to(dtype),
               "empty": torch.zeros(0, 3, dtype=dtype), "empty rows": torch.zeros(3, 0, dtype=dtype),
               "one": torch.ones(1, 1, 1, dtype=dtype)}
    extreme = 1e30 if dtype.is_floating_point else torch.iinfo(dtype).min
    tensors["extreme"] = torch.tensor([0, extreme], dtype=dtype)
    assert_same(saved(tensors, tmp_path / "a.pth"), tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_finite_half_is_widened_exactly(tmp_path, dtype):
    halves = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    halves = halves[halves.isfinite()].repeat(40)
    assert len(halves) > 2 * BLOCK
    tensors = {"before": torch.ones(3, dtype=dtype), "halves": halves, "turned": halves[:12].reshape(3, 4).T}
    assert_same(saved(tensors, tmp_path / "a.pth"), tensors)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "bool", "complex64", "float8_e4m3fn"])
def test_other_types_are_refused_by_name(tmp_path, dtype):
    with pytest.raises(CheckpointError, match="global 'torch"):
        saved({"a": torch.zeros(2).to(getattr(torch, dtype))}, tmp_path / "a.pth")


def test_tensors_that_share_a_storage_are_read(tmp_path):
    base = torch.arange(60.0)
    tensors = {
        "base": base, "again": base, "slice": base[7:12], "scalar": base[59], "steps": base[1::7],
        "turned": base.view(5, 12).T, "columns": base.view(5, 12)[:, 3:5], "empty": base[60:],
        "permuted": base.view(3, 4, 5).permute(2, 0, 1), "one": base.as_strided((1, 3), (1 << 62, 2), 4),
        "windows": base.as_strided((5, 4), (1, 1)), "constant": base.as_strided((2, 3), (0, 0), 8),
        "nowhere": base.as_strided((5, 0), (7, 7), 1000),
    }
    assert_same(saved(tensors, tmp_path / "a.pth"), tensors)


def test_channels_last_is_read(tmp_path):
    module = network().to(memory_format=torch.channels_last)
    assert not module[0].weight.is_contiguous()
    assert_same(saved({"model": module.state_dict()}, tmp_path / "a.pth"), module.state_dict())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_any_view_is_read(tmp_path_factory, data):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64]))
    view = torch.arange(math.prod(shape)).to(dtype).reshape(shape)
    view = view.permute(data.draw(st.permutations(range(len(shape)))))
    for axis in range(len(shape)):
        start = data.draw(st.integers(0, view.shape[axis]))
        view = view.narrow(axis, start, data.draw(st.integers(0, view.shape[axis] - start)))
        if data.draw(st.booleans()):
            view = view[(slice(None),) * axis + (slice(None, None, data.draw(st.integers(1, 3))),)]
    assert_same(saved({"a": view}, tmp_path_factory.mktemp("view") / "a.pth"), {"a": view})


def test_torch_is_not_needed(tmp_path):
    torch.save({"model": {"a": torch.arange(3), "b": torch.ones(2).half()}}, tmp_path / "a.pth")
    found = confined.run(torch_child.names_without_torch, tmp_path / "a.pth")
    assert found == {"a": [0, 1, 2], "b": [1, 1]}


# What other versions of torch write.


def test_the_layout_of_torch_1_6_is_read(tmp_path):
    key = "94361835454080"  # torch 1.6 used an address as the key
    stored = storage(key=key).replace(text("cpu"), text("cuda:0"))
    members = parts(state(a=tensor(stored)), {key: FOUR})
    del members["byteorder"]
    version = members.pop("version")
    (tmp_path / "a.pth").write_bytes(archive([version, *members.values()]))
    found = torch_file.read(tmp_path / "a.pth")
    assert_same(found, {"a": torch.arange(4.0).reshape(2, 2)})
    assert_same(found, torch.load(tmp_path / "a.pth", weights_only=True, map_location="cpu")["model"])


def zip64_part(part: Part, offset: int | None) -> Part:
    """The part with its sizes, and its offset, stored as torch stores those above 4 GB."""
    size, crc = len(part.data), zlib.crc32(part.data)
    numbers = [size, size] if offset is None else [size, size, offset]
    central = {"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF}
    if offset is not None:
        central["offset"] = 0xFFFFFFFF
    central_extra = struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers)
    extra = central_extra[:12] + bytes(8) + central_extra[20:]
    central_extra, extra = (fields + b"FB\3\0ZZZ" for fields in (central_extra, extra))  # followed by padding
    descriptor = struct.pack("<4sL2Q", b"PK\7\10", crc, size, size)
    return part._replace(central=central, central_extra=central_extra, extra=extra, descriptor=descriptor)


@pytest.mark.parametrize("with_offset", [False, True])
def test_zip64_members_are_read(tmp_path, with_offset):
    honest = list(parts().values())
    offset = archive(honest).index(b"archive/data/0") - 30
    honest[2] = zip64_part(honest[2], offset if with_offset else None)
    (tmp_path / "a.pth").write_bytes(archive(honest))
    found = torch_file.read(tmp_path / "a.pth")
    assert_same(found, {"a": torch.arange(4.0).reshape(2, 2)})
    assert_same(found, torch.load(tmp_path / "a.pth", weights_only=True)["model"])


@pytest.mark.parametrize(
    "data",
    [checkpoint(), altered("data/0", flags=UTF8), altered("data/0", flags=FOLLOWS, extra=b"FB\3\0ZZZ"),
     altered("data/0", central={"external": 0o100444 << 16 | 1}),
     altered("version", data=b"10".ljust(8)), altered("version", data=b"1"),
     archive([*parts().values(), Part(b"archive/." + b"a" * 503, b"1" * 40)]),
     archive([*parts().values(), *(Part(b"archive/.%d" % i, b"") for i in range(4156))]),
     checkpoint(state(a=tensor()) + text("n") + b"(K\1M\1\1J\1\0\0\1\x8a\0\x8a\x08" + b"\xff" * 8
                + b"G?\xf0\0\0\0\0\0\0N\x88])tr\x00\x02\x00\x00j\x00\x02\x00\x00\x86s"),
     checkpoint(state(a=tensor()) + text("n") + b"Nr\xff\xff\3\0" + b"s" + text("m") + b"](" + b"N" * 65_536 + b"es"
                + text("o") + b")" + b"\x85" * 62 + b"s"),
     checkpoint(b"}K\0NsJ\xff\xff\xff\x7fNs" + text("state_dict") + b"}" + text("a") + tensor() + b"ss")],
    ids=["honest", "sizes in the header", "no UTF-8", "file of Unix", "version 10", "version 1", "hidden member",
         "most members", "every opcode for a value", "largest memo, list and depth", "numbers as keys"],
)
def test_valid_files_like_the_attacks_are_accepted(tmp_path, data):
    (tmp_path / "a.pth").write_bytes(data)
    assert_same(torch_file.read(tmp_path / "a.pth"), {"a": torch.arange(4.0).reshape(2, 2)})


def test_another_folder_name_is_read(tmp_path):
    assert_same(saved({"a": torch.ones(2)}, tmp_path / "best 2.0 (1).pth"), {"a": torch.ones(2)})
    with zipfile.ZipFile(tmp_path / "best 2.0 (1).pth") as opened:
        assert opened.namelist()[0] == "best 2.0 (1)/data.pkl"
    named = [part._replace(name=part.name.replace(b"archive", "été".encode())) for part in parts().values()]
    (tmp_path / "a.pth").write_bytes(archive(named))
    assert list(torch_file.read(tmp_path / "a.pth")) == ["a"]


# To torch.


def test_torch_loads_what_is_written(tmp_path):
    torch_file.write(tmp_path / "a.pth", ARRAYS)
    for options in ({}, {"mmap": True}):
        loaded = torch.load(tmp_path / "a.pth", weights_only=True, **options)
        assert list(loaded) == ["model"]
        assert_same(ARRAYS, loaded["model"])
        assert loaded["model"]["stem.weight"].dtype == torch.float64


def test_a_module_takes_what_is_written(tmp_path):
    module, other = network(), network()
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    torch_file.write(tmp_path / "a.pth", weights)
    other.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True)["model"])
    assert_same({name: value.numpy() for name, value in other.state_dict().items()}, module.state_dict())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(names, values, max_size=4))
def test_what_is_written_comes_back_or_is_refused(tmp_path_factory, given_arrays):
    path = tmp_path_factory.mktemp("round") / "a.pth"
    before = {name: array.copy() for name, array in given_arrays.items()}
    try:
        torch_file.write(path, given_arrays)
    except CheckpointError:
        assert not path.exists() and not all(name.isprintable() and name for name in given_arrays)
        return
    loaded = torch.load(path, weights_only=True)["model"]
    assert_same(torch_file.read(path), loaded)
    assert list(loaded) == list(before)
    for name, array in before.items():
        np.testing.assert_array_equal(loaded[name].numpy(), array)


def test_records_are_aligned_and_the_zip_is_sound(tmp_path):
    torch_file.write(tmp_path / "a.pth", ARRAYS)
    with open(tmp_path / "a.pth", "rb") as file:
        assert all(member.start % 64 == 0 for member in stored_zip.members(file, "a").values())
    with zipfile.ZipFile(tmp_path / "a.pth") as opened:
        assert opened.testzip() is None
        assert opened.read("archive/version") == b"3\n" and opened.read("archive/byteorder") == b"little"


def test_as_many_tensors_with_as_long_names_as_allowed_come_back(tmp_path):
    state = {f"{i:04}{'é' * 126}": np.ones((1,) * 8, np.float32) for i in range(4096)}
    torch_file.write(tmp_path / "a.pth", state)
    assert list(torch_file.read(tmp_path / "a.pth")) == list(state)
    with pytest.raises(CheckpointError, match="at most 4096"):
        torch_file.write(tmp_path / "a.pth", state | {"a": np.ones(1)})


@pytest.mark.parametrize("platform", [sys.platform, "win32"])
def test_the_same_content_gives_the_same_bytes(tmp_path, monkeypatch, platform):
    torch_file.write(tmp_path / "a", ARRAYS)
    with monkeypatch.context() as there:
        there.setattr(sys, "platform", platform)
        torch_file.write(tmp_path / "b", ARRAYS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    torch_file.write(tmp_path / "a.pth", ARRAYS)
    before = (tmp_path / "a.pth").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        torch_file.write(tmp_path / "a.pth", {"a": np.ones(1)})
    assert (tmp_path / "a.pth").read_bytes() == before and os.listdir(tmp_path) == ["a.pth"]


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [*UNWRITABLE, (3, np.ones(1), "printable name"),
     ("a", np.broadcast_to(np.float32(1), (1 << 30,)), "at most 2000000000 bytes")],
)
def test_what_cannot_be_read_back_is_not_written(tmp_path, name, array, words):
    with pytest.raises(CheckpointError, match=words):
        torch_file.write(tmp_path / "a.pth", {name: array})
    assert os.listdir(tmp_path) == []
