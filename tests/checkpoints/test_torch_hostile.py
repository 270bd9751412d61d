"""Hostile and damaged .pth files: each is a CheckpointError in one line, runs nothing and takes little memory."""

import collections
import io
import os
import pickletools
import random
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from levit_np.checkpoints import torch_file
from levit_np.errors import CheckpointError
from levit_np.storage import confined
from tests.checkpoints import torch_child
from tests.checkpoints.attacks_torch import ATTACKS, attacks
from tests.checkpoints.torch_forge import Part, archive, checkpoint
from tests.mutations import mutated
from tests.weight_files import NO_FILE, peak_megabytes, refusal_of

MEGABYTE = 1 << 20


def refusal(path: Path) -> str:
    return refusal_of(torch_file.read, path)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(tmp_path, name):
    (tmp_path / "a.pth").write_bytes(ATTACKS[name].data)
    assert ATTACKS[name].reason in refusal(tmp_path / "a.pth")


def test_no_attack_opens_imports_runs_or_allocates(tmp_path):
    numbered = dict(enumerate(attacks()))
    for i, (_, data) in numbered.items():
        (tmp_path / str(i)).write_bytes(data)
    (tmp_path / "sound").write_bytes(checkpoint())
    # A limit above the bar, so that the test measures the memory and the system does not stop the attack.
    found = confined.run(torch_child.audited, tmp_path, seconds=300, memory=4 << 30)
    assert found.pop("sound")[:2] == ["accepted", []]
    for number, (outcome, events, peak) in found.items():
        name, data = numbered[int(number)]
        assert (outcome, events) == ("refused", []), name
        assert peak <= 2 * len(data) + 64 * MEGABYTE, name
    assert len(found) == len(ATTACKS) > 200


def test_the_audit_sees_a_reader_that_misbehaves(tmp_path):
    (tmp_path / "a").write_bytes(checkpoint())
    outcome, events, peak = confined.run(torch_child.audited_culprit, tmp_path)["a"]
    assert outcome == "accepted" and peak > 64 * MEGABYTE
    assert events[0].startswith("open ('/dev/null'")
    assert {"compile", "exec", "import"} <= {event.split()[0] for event in events}


@NO_FILE
def test_what_is_no_file_is_refused(tmp_path, make, words):
    make(path := tmp_path / "a.pth")
    assert refusal(path) == f"{path}: {words}"


@pytest.mark.parametrize(
    "error", [MemoryError("no\nroom"), RecursionError("deep"), OverflowError("9"), OSError(5, "I/O")]
)
def test_whatever_goes_wrong_inside_is_one_exception(tmp_path, monkeypatch, error):
    def fails(*arguments):
        raise error

    (tmp_path / "a.pth").write_bytes(checkpoint())
    monkeypatch.setattr(np, "empty", fails)
    assert type(error).__name__ in refusal(tmp_path / "a.pth")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path, monkeypatch):
    torch.save({"a": torch.ones(1000)}, tmp_path / "a.pth")
    monkeypatch.setattr(torch_file, "_require_modest", lambda *_: os.truncate(tmp_path / "a.pth", 1000))
    assert "expected 4000 bytes" in refusal(tmp_path / "a.pth")


# Fuzz.


def source() -> dict[str, Part]:
    """The members of a small checkpoint as torch writes it, with views, halves and attributes."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    weights = module.state_dict()
    weights["turned"] = torch.arange(6.0).reshape(2, 3).T
    weights["half"] = weights["turned"][1:].half()
    weights["brain"] = torch.ones(4).bfloat16()
    weights["double"] = torch.zeros(0, 3).double()
    weights["parameter"] = module[0].weight
    file = io.BytesIO()
    torch.save({"model": weights, "epoch": 3, "lr": [0.1, (1, None)]}, file)
    with zipfile.ZipFile(file) as opened:
        return {name: Part(name.encode(), opened.read(name)) for name in opened.namelist()}


def shuffled(program: bytes, rng: random.Random) -> bytes:
    """The pickle with some of its instructions dropped, repeated, moved or replaced by others of its own."""
    starts = [position for _, _, position in pickletools.genops(program)] + [len(program)]
    steps = [program[i:j] for i, j in zip(starts, starts[1:], strict=False)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        i, j, count = rng.randrange(len(steps)), rng.randrange(len(steps)), rng.choice((1, 1, 2, 10, 50))
        match rng.randrange(4):
            case 0:
                del steps[i : i + count]
            case 1:
                steps[i:i] = steps[j : j + count]
            case 2:
                steps[i : i + count] = steps[j : j + count]
            case 3:
                steps[i], steps[j] = steps[j], steps[i]
        steps = steps or [b"."]
    return b"".join(steps)


class Fuzz:
    """Reads damaged files. `count`: how many were refused and accepted; `slowest`: seconds for the slowest."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.rng = random.Random(seed)
        self.count: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0

    def whole(self, times: int) -> None:
        sound = archive(source().values())
        for _ in range(times):
            self.read(mutated(sound, self.rng))

    def program(self, times: int) -> None:
        """Only the pickle is damaged, under right checksums of the zip, so that the interpreter sees the damage."""
        members = source()
        key = next(name for name in members if name.endswith("data.pkl"))
        sound = members[key]
        for _ in range(times):
            change = self.rng.choice((mutated, shuffled))
            members[key] = sound._replace(data=change(sound.data, self.rng))
            self.read(archive(members.values()))

    def read(self, data: bytes) -> None:
        self.path.write_bytes(data)
        start = time.perf_counter()
        try:
            found = torch_file.read(self.path)
        except CheckpointError:
            self.count["refused"] += 1
            found = None
        self.slowest = max(self.slowest, time.perf_counter() - start)
        if found is not None:
            assert sum(array.nbytes for array in found.values()) <= 2 * len(data)
            assert all(array.dtype in (np.float32, np.float64, np.int64) for array in found.values())
            self.count["accepted"] += 1
            self.compare(found, data)

    def compare(self, found: dict[str, np.ndarray], data: bytes) -> None:
        """If torch reads the file too, it reads the same arrays."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loaded = torch.load(io.BytesIO(data), weights_only=True)
        except Exception:
            self.count["accepted here alone"] += 1
            return
        for theirs in (loaded, loaded.get("model"), loaded.get("state_dict")):
            if isinstance(theirs, dict) and all(isinstance(value, torch.Tensor) for value in theirs.values()):
                break
        assert list(found) == list(theirs)
        for name, array in found.items():
            np.testing.assert_array_equal(array, theirs[name].detach().to(torch.float64).numpy())


def test_damaged_files_are_refused_or_read(tmp_path):
    fuzz = Fuzz(tmp_path / "a.pth", seed=1)
    fuzz.whole(800)
    assert fuzz.count["refused"] > 700


def test_damaged_programs_are_refused_or_read(tmp_path):
    fuzz = Fuzz(tmp_path / "a.pth", seed=2)
    fuzz.program(1200)
    assert fuzz.count["refused"] > 600
    assert fuzz.count["accepted"] - fuzz.count["accepted here alone"] > 30


@pytest.mark.slow
def test_100000_damaged_files_are_refused_or_read(tmp_path):
    fuzz = Fuzz(tmp_path / "a.pth", seed=3)
    fuzz.whole(100_000)
    print(fuzz.count, fuzz.slowest)
    assert fuzz.count["refused"] and fuzz.count["accepted"]


@pytest.mark.slow
def test_100000_damaged_programs_are_refused_or_read(tmp_path):
    fuzz = Fuzz(tmp_path / "a.pth", seed=4)
    fuzz.program(100_000)
    print(fuzz.count, fuzz.slowest)
    assert fuzz.count["refused"] and fuzz.count["accepted"] > fuzz.count["accepted here alone"]


# Memory.


@pytest.mark.parametrize("name", ["float32", "bfloat16", "turned", "columns"])
def test_reading_takes_at_most_twice_the_file(tmp_path, name):
    # Bytes of 1 are a small finite number in every type.
    values = torch.ones(80 << 20, dtype=torch.uint8)
    tensors = {
        "float32": {"a": values.view(torch.float32)},
        "bfloat16": {"a": values.view(torch.bfloat16)},
        "turned": {"a": values.view(torch.float32).view(1 << 10, -1).T},
        "columns": dict(zip("abcd", values.view(torch.float32).view(-1, 4).T, strict=True)),
    }
    torch.save(tensors[name], tmp_path / "a.pth")
    assert 80 <= peak_megabytes("torch", tmp_path / "a.pth") <= 2 * 80 + 64


def test_halves_whose_widened_array_would_be_too_large_are_refused(tmp_path):
    torch.save({"a": torch.ones(1 << 13, 5 << 10).half().T}, tmp_path / "a.pth")
    assert "expected tensors that take at most" in refusal(tmp_path / "a.pth")
