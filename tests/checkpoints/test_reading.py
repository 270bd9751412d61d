"""Foreign files are recognised by their content: any names in any container, fused files, and one report of everything
that is wrong."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from levit_np.checkpoints.formats import FORMATS, config_from_shapes, name_table
from levit_np.checkpoints.loading import export, load, save
from levit_np.checkpoints.reading import read
from levit_np.config import FAMILY
from levit_np.errors import CheckpointError
from levit_np.model import build
from levit_np.storage import hdf5

from ..authors import fused, renamed
from ..distance import worst
from ..parity import images, pair
from ..random_model import FIVE, random_model

CONTAINERS = {
    "pth": torch.save,
    "pth under model": lambda state, path: torch.save({"model": state}, path),
    "safetensors": save_file,
}


@pytest.mark.parametrize("name", FIVE)
def test_the_authors_names(name):
    """The table of formats.py against names derived independently from transformers'."""
    own = {there: own for own, there in name_table(FAMILY[name], "transformers").items()}
    assert renamed(own) == {there: own for own, there in name_table(FAMILY[name], "facebook").items()}


@pytest.mark.parametrize("own, shape, expected", [
    ("stem.convolutions.1.weight", (32, 16), "expected 4 dimensions, each at least 1, found (32, 16)"),
    ("stages.0.blocks.0.attention.bias.table", (784,), "expected 2 dimensions, each at least 1, found (784,)"),
    ("head.weight", (), "expected 2 dimensions, each at least 1, found ()"),
    ("stages.1.downsample.attention.bias.table", (0, 196), "expected 2 dimensions, each at least 1, found (0, 196)"),
    ("stages.0.blocks.0.attention.qkv.weight", (128, 128),
     "key_size: expected at least 1 beside 32 values for a head, found 0")])
@pytest.mark.parametrize("form", FORMATS)
def test_an_impossible_shape_is_named(form, own, shape, expected):
    """The messages ended in Python's own, such as "tuple index out of range"."""
    config = FAMILY["levit_128s"]
    specs, names = build(config).specs_by_name(), name_table(config, form)
    shapes = {there: specs[name].shape for name, there in names.items()} | {names[own]: shape}
    with pytest.raises(CheckpointError) as raised:
        config_from_shapes(shapes, form)
    place = "the names or shapes describe no LeViT" if expected.startswith("key_size") else names[own]
    assert str(raised.value) == f"{place}: {expected}"


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("form", ["facebook", "timm", "transformers"])
def test_any_names_in_any_container(container, form, tmp_path):
    """The authors' names without `model` are what timm wrote up to version 0.6."""
    model = random_model("levit_128s", num_classes=5)
    named = {there: torch.from_numpy(model.state()[own]) for own, there in name_table(model.config, form).items()}
    CONTAINERS[container](named, tmp_path / "a")
    found = read(tmp_path / "a")
    assert found.config == model.config and found.preprocessing.name == ("timm" if form == "timm" else "authors")
    assert all(np.array_equal(array, found.state[own]) for own, array in model.state().items())


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_fused_file_gives_the_logits_of_the_unfused_network(container, tmp_path):
    _, theirs = pair("levit_128s")
    folded = fused(renamed(theirs.state_dict()))
    assert not any(".bn." in name or ".c." in name or ".l." in name for name in folded)
    CONTAINERS[container](folded, tmp_path / "a")
    x = images(2)
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(x)).logits.numpy()
    model = load(tmp_path / "a", dtype="float64")
    assert worst(model(x), expected) < 1e-11
    assert model.config == load_of(theirs, tmp_path).config
    # Our own file holds float32, so variances are rounded.
    save(model, tmp_path / "a.h5")
    assert worst(load(tmp_path / "a.h5")(x.astype(np.float32)), expected) < 1e-4


def load_of(theirs, tmp_path):
    save_file(theirs.state_dict(), tmp_path / "theirs")
    return load(tmp_path / "theirs")


@pytest.mark.parametrize("name", FIVE[1:])
def test_a_fused_file_of_every_model_is_recognised(name, tmp_path):
    _, theirs = pair(name, dtype=torch.float32)
    folded = fused(renamed(theirs.state_dict()))
    torch.save({"model": folded}, tmp_path / "a.pth")
    found = read(tmp_path / "a.pth")
    assert found.config.name == name
    # levit_c is the same with 1×1 convolutions instead of linear maps.
    convolved = {n: t[:, :, None, None] if n.endswith(".weight") and t.ndim == 2 and "head" not in n else t
                 for n, t in folded.items()}
    torch.save(convolved, tmp_path / "a.pth")
    again = read(tmp_path / "a.pth")
    assert again.config == found.config
    assert all(np.array_equal(array, again.state[own]) for own, array in found.state.items())


def test_the_identity_is_exact():
    """1/√(variance + eps) is exactly 1 in both precisions, so a folded bias is unchanged."""
    from levit_np.ops.reference import normalize
    from levit_np.checkpoints.reading import _IDENTITY as identity

    for dtype in (np.float32, np.float64):
        x = np.random.default_rng(0).standard_normal((3, 5)).astype(dtype)
        arrays = [np.full(5, identity[part], dtype) for part in ("gamma", "beta", "mean", "variance")]
        assert np.array_equal(normalize(x, *arrays, 1e-5, -1), x)


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("form", ["facebook", "timm", "transformers"])
def test_one_report_of_all_that_is_wrong(form, tmp_path):
    model = random_model("levit_128s", num_classes=5)
    export(model, tmp_path / "a", format=form)
    table = name_table(model.config, form)
    tensors = (load_file(tmp_path / "a") if form != "facebook" else
               torch.load(tmp_path / "a", weights_only=True)["model"])
    wide, gone, whole = (table[f"stages.1.blocks.2.mlp.{part}"] for part in ("up.weight", "down.bn.mean", "up.bn.beta"))
    tensors |= {"extra": tensors.pop(gone), wide: torch.ones(3, 2), whole: torch.ones(512, dtype=torch.int64)}
    save_file(tensors, tmp_path / "a")
    assert refusal(tmp_path / "a") == (
        f"missing: {gone}; unexpected: extra; wrong shape or type: " + ", ".join(sorted(
            [f"{wide} float32 (3, 2) for floating (512, 256)", f"{whole} int64 (512,) for floating (512,)"])))


def test_what_decides_the_network_is_named_in_the_files_own_names(tmp_path):
    _, theirs = pair("levit_128s", dtype=torch.float32)
    folded = fused(renamed(theirs.state_dict()))
    for gone in ("blocks.12.kv.weight", "blocks.0.m.attention_biases", "patch_embed.2.weight"):
        torch.save({name: array for name, array in folded.items() if name != gone}, tmp_path / "a.pth")
        assert refusal(tmp_path / "a.pth") == f"missing: {gone}"


def test_files_that_are_no_weights(tmp_path):
    for content, words in ((b"hello, world", "expected HDF5, safetensors or a .pth, found"),
                           (b"", "found an empty file"), (b"\x80\x02}q\x00.", "a pickle of an older one")):
        (tmp_path / "a").write_bytes(content)
        assert words in refusal(tmp_path / "a")
    torch.save({"conv1.weight": torch.ones(2)}, tmp_path / "a")
    assert "expected a LeViT by the authors, timm or transformers, found ['conv1.weight']" in refusal(tmp_path / "a")
    hdf5.write(tmp_path / "a", {"b": np.ones(2)}, {"labels": []})
    assert refusal(tmp_path / "a") == ("expected weights that levit_np wrote, found HDF5 without their documents "
                                       "config, recipe")


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that cannot be read")
def test_a_failing_disk_is_a_checkpoint_error_too():
    assert refusal("/proc/self/mem") == "expected a weight file, found OSError: [Errno 5] Input/output error"


@pytest.mark.parametrize("recipe", [[], {}, "", 0, False])
def test_an_empty_recipe_is_refused(recipe, tmp_path):
    """If it were taken for a missing one, another preprocessing would be used."""
    save(random_model("levit_digits"), tmp_path / "a")
    arrays, documents = hdf5.read(tmp_path / "a")
    hdf5.write(tmp_path / "a", arrays, documents | {"recipe": recipe})
    assert refusal(tmp_path / "a").startswith("preprocessing: expected the fields ['crop', ")


@pytest.mark.parametrize("labels", [None, "0123456789", {}, list("012345678"), [*"012345678", 9], [*"0123456789a"]])
def test_a_file_needs_a_label_for_each_class(labels, tmp_path):
    save(random_model("levit_digits"), tmp_path / "a")
    arrays, documents = hdf5.read(tmp_path / "a")
    hdf5.write(tmp_path / "a", arrays, documents | {"labels": labels})
    assert refusal(tmp_path / "a") == f"labels: expected 10 texts, found {labels!a}"


@pytest.mark.parametrize("count, words", [(4, "a0, a1, a2, a3"), (6, "a0, a1, a2, a3 and 2 more")])
def test_of_many_names_four_are_reported(count, words, tmp_path):
    save(random_model("levit_digits"), tmp_path / "a")
    arrays, documents = hdf5.read(tmp_path / "a")
    hdf5.write(tmp_path / "a", arrays | {f"a{n}": np.ones(1) for n in range(count)}, documents)
    assert refusal(tmp_path / "a") == f"unexpected: {words}"


def test_a_network_of_six_channels_goes_through_two_formats(tmp_path):
    """There is a named preprocessing for one and three channels only."""
    model = random_model("levit_128s", num_classes=5, in_channels=6)
    save(model, tmp_path / "a.h5")
    export(load(tmp_path / "a.h5"), tmp_path / "a", format="timm")
    assert load(tmp_path / "a").config == model.config
    for name in ("a", "a.h5"):
        resized = load(tmp_path / name, image_size=64)
        assert resized.config == replace(model.config, image_size=(64, 64)) and resized.preprocessing is None
