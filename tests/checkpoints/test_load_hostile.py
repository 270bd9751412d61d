"""`load` on valid containers with hostile content (random names, shapes, types and documents): a model or a
CheckpointError; and its peak memory."""

import collections
import copy
import dataclasses
import json
import os
import random
import re
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import levit_np
from levit_np.checkpoints import loading, reading
from levit_np.checkpoints.formats import name_table
from levit_np.config import FAMILY, Stage
from levit_np.errors import CheckpointError
from levit_np.images.preprocessing import preprocessing_named
from levit_np.model import build, initial_state
from levit_np.storage import confined, hdf5

from ..storage.attacks_hdf5 import CONTENT_ATTACKS
from ..storage.attacks_headers import HEADER_ATTACKS
from ..storage.forgeries import FORGERIES
from ..weight_files import write_plain_hdf5
from . import attacks_torch, load_child, test_safetensors_file

FORMS = ("facebook", "timm", "transformers", "fused")
NUMBERS = (0, 1, 2, 3, 7, 16, 64, 196, 65536, 65537, 1 << 31, 1 << 47)
VALUES = (None, True, False, -1, *NUMBERS, 1 << 70, 0.5, -0.0, 1e308, "", "x", "silu", "layer", "\x1b[31m", "9" * 400,
          [], {}, [[]], [1, 2], [[1, 1, 1, 1]] * 2000)


def tensors(form):
    config = FAMILY["levit_128s"] if form == "transformers" else FAMILY["levit_digits"]
    state = initial_state(build(config), 0, np.float32)
    return {there: state[own] for own, there in name_table(config, form).items()}


def damaged_tensors(sound, rng):
    found = dict(sound)
    for _ in range(rng.choice((1, 1, 2, 5))):
        names = list(found)
        name, other = rng.choice(names), rng.choice(names)
        match rng.randrange(7):
            case 0:
                del found[name]
            case 1:  # another number in a name, or in all names with the same prefix
                number = rng.choice([*map(str, NUMBERS), "-1", "007", "٣"])
                new = re.sub(r"\d+", lambda m: number if rng.random() < 0.5 else m[0], name)
                found[new] = found.pop(name)
            case 2:
                start = name[: rng.randrange(1, len(name))]
                for each in [each for each in found if each.startswith(start)]:
                    found[other[: rng.randrange(len(other))] + each] = found.pop(each)
                    if len(found) < 2:
                        return found
            case 3:
                found[name] = found[other]
            case 4:
                found[name] = found[name].T if rng.random() < 0.5 else found[name].astype(np.int64)
            case 5:  # a large shape needs a size of 0, as a container cannot hold the array otherwise
                shape = [rng.choice(NUMBERS[1:8]) for _ in range(rng.randrange(5))]
                shape = shape if np.prod(shape) < 1 << 20 else [0, 1 << 20, rng.choice(NUMBERS[:9])]
                found[name] = np.zeros(shape, np.float32)
            case 6:
                found[rng.choice((name + "x", "extra", name[:-1] or "y"))] = found[name]
        if not found:
            return dict(sound)
    return found


def damaged_document(document, rng):
    """A copy of the JSON value with one of its parts replaced or removed."""
    document = copy.deepcopy(document)
    at = document
    while True:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        key = rng.choice(keys)
        if isinstance(at[key], (dict, list)) and at[key] and rng.random() < 0.8:
            at = at[key]
        elif rng.random() < 0.2:
            del at[key]
            return document
        else:
            at[key] = copy.deepcopy(rng.choice(VALUES))
            return document


class Fuzz:
    """`count`: how many contents were read and how many refused. `slowest`: the processor time of the slowest, in
    seconds."""

    def __init__(self, seed):
        self.rng, self.count, self.slowest = random.Random(seed), collections.Counter(), 0.0

    def foreign(self, form, times):
        sound = tensors(form)
        for _ in range(times):
            self.read(reading._foreign, damaged_tensors(sound, self.rng), None)

    def own(self, times):
        config = FAMILY["levit_digits"]
        arrays = initial_state(build(config), 0, np.float32)
        documents = {"config": config.to_dict(), "labels": list("0123456789"),
                     "recipe": preprocessing_named("digits").to_dict()}
        documents = json.loads(json.dumps(documents))
        for _ in range(times):
            damaged = damaged_document(documents, self.rng)
            if self.rng.random() < 0.3:
                damaged = damaged_document(damaged, self.rng)
            self.read(reading._own, arrays, damaged)

    def read(self, read, *content):
        start = time.process_time()
        try:
            found = read("file", *content)
            assert {n: a.shape for n, a in found.state.items()} == {
                n: s.shape for n, s in build(found.config).specs_by_name().items()}
            self.count["read"] += 1
        except CheckpointError as error:
            message = str(error)
            assert message.startswith("file: ") and message.isprintable() and len(message) < 2000, message
            self.count["refused"] += 1
        self.slowest = max(self.slowest, time.process_time() - start)


@pytest.mark.parametrize("form", FORMS)
def test_damaged_tensors_are_refused_or_read(form):
    fuzz = Fuzz(seed=1)
    fuzz.foreign(form, 300)
    assert fuzz.count["refused"] > 200 and fuzz.count["read"] > 3 and fuzz.slowest < 5, (fuzz.count, fuzz.slowest)


def test_damaged_documents_are_refused_or_read():
    fuzz = Fuzz(seed=2)
    fuzz.own(1000)
    assert fuzz.count["refused"] > 500 and fuzz.count["read"] > 30 and fuzz.slowest < 5, (fuzz.count, fuzz.slowest)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_100000_damaged_tensors_are_refused_or_read(form):
    fuzz = Fuzz(seed=3)
    fuzz.foreign(form, 100_000)
    print(form, fuzz.count, fuzz.slowest)
    assert fuzz.count["refused"] and fuzz.count["read"]


@pytest.mark.slow
def test_100000_damaged_documents_are_refused_or_read():
    fuzz = Fuzz(seed=4)
    fuzz.own(100_000)
    print(fuzz.count, fuzz.slowest)
    assert fuzz.count["refused"] and fuzz.count["read"]


# Every named attack, through load.


def test_every_named_attack_is_refused_by_load(tmp_path):
    """Plain HDF5 files need a child process each: test_hdf5_hostile reads those, and here they only count."""
    attacks = {f"pth: {name}": attack.data for name, attack in attacks_torch.ATTACKS.items()}
    attacks |= {f"safetensors: {name}": data for name, data in test_safetensors_file.ATTACKS.items()}
    attacks |= {f"sealed HDF5: {name}": data for name, data in FORGERIES.items()}
    assert len(attacks) + len(CONTENT_ATTACKS) + len(HEADER_ATTACKS) >= 300
    for name, data in attacks.items():
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(CheckpointError) as caught:
            levit_np.load(tmp_path / "a")
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'a'}: ") and message.isprintable() and len(message) < 1000, name


# Memory.


def megabytes_of_weights(path, form):
    """Writes about 16 MB of weights; returns the file's size in MiB."""
    config = dataclasses.replace(FAMILY["levit_128s"], name="levit", num_classes=5, stages=(
        Stage(128, 1, 4), Stage(256, 1, 6, 8), Stage(384, 2, 8, 16)))
    model = build(config)
    model.set_state(initial_state(model, 0, np.float32))
    if form == "HDF5":
        loading.save(model, path)
    elif form == "plain HDF5":
        loading.save(model, path)
        write_plain_hdf5(path, *hdf5.read(path))
    elif form in ("half", "double"):
        named = loading.rename(model.state(), config=config, format="timm")
        kind = {"half": torch.float16, "double": torch.float64}[form]
        save_file({name: torch.from_numpy(array).to(kind) for name, array in named.items()}, path)
    else:
        loading.export(model, path, form)
    return path.stat().st_size / 2**20


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="measured in /proc")
@pytest.mark.parametrize("form", ["HDF5", "plain HDF5", "facebook", "timm", "transformers", "half", "double"])
def test_load_takes_at_most_twice_the_file(form, tmp_path):
    size = megabytes_of_weights(tmp_path / "a", form)
    own, child = confined.run(load_child.peak_megabytes, tmp_path / "a", memory=4 << 30)
    print(f"{form}: {size:.1f} MB, load {own:.1f} MB, its child {child:.1f} MB")
    # The bar is twice the file and 64 MB; only the interpreter of a child process needs much of the 64.
    assert own <= 2 * size + 8 and child <= 2 * size + 64
    assert own > 0.4 * size  # the measurement works (double becomes float32, half the size)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="measured in /proc")
def test_so_it_does_as_float64(tmp_path):
    size = megabytes_of_weights(tmp_path / "a", "HDF5")
    assert 2 * size <= confined.run(load_child.peak_megabytes, tmp_path / "a", "float64", memory=4 << 30)[0] <= (
        2 * size + 8)
