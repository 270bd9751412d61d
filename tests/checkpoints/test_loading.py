"""Loading and saving weights: the transformers package's files, round trips through every format, and what is
refused."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from levit_np.checkpoints import safetensors_file, torch_file
from levit_np.checkpoints.formats import config_from_shapes, name_table
from levit_np.checkpoints.loading import export, load, rename, resize_bias, save
from levit_np.config import ABLATIONS, FAMILY
from levit_np.errors import CheckpointError
from levit_np.images.preprocessing import Preprocessing, preprocessing_named
from levit_np.model import build, create
from levit_np.storage import hdf5

from ..parity import images, pair
from ..random_model import FIVE, random_model


@pytest.mark.parametrize("name", FIVE)
def test_transformers_weights_come_in_and_go_out(name, tmp_path):
    ours, theirs = pair(name, dtype=torch.float32)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    loaded = load(tmp_path / "theirs.safetensors")
    assert loaded.config == replace(FAMILY[name], num_classes=17)
    for key, array in loaded.state().items():
        assert np.array_equal(array, ours.state()[key]), key
    export(loaded, tmp_path / "out.safetensors", format="transformers")
    theirs.load_state_dict(load_file(tmp_path / "out.safetensors"), strict=True)


@pytest.mark.parametrize("form", ["facebook", "timm", "transformers"])
@pytest.mark.parametrize("name", ["levit_128s", "levit_256d", "levit_384_s8"])
def test_round_trip(name, form, tmp_path):
    if form == "transformers" and name == "levit_384_s8":
        with pytest.raises(CheckpointError, match="4 convolutions"):
            name_table(FAMILY[name], form)
        return
    model = random_model(name, num_classes=5)
    if form != "timm" and name != "levit_128s":
        with pytest.raises(CheckpointError, match=f"{form} files do not say activation 'silu', .* read as 'hardswish'"):
            export(model, tmp_path / "file", format=form)
        return
    export(model, tmp_path / "file", format=form)
    again = load(tmp_path / "file")
    assert again.config == model.config
    assert all(np.array_equal(v, model.state()[k]) for k, v in again.state().items())


@pytest.mark.parametrize("form, activation", [("facebook", "hardswish"), ("transformers", "hardswish"),
                                              ("fused", "hardswish"), ("timm", "silu")])
def test_of_files_with_the_same_shapes_only_timms_have_silu(form, activation):
    config = FAMILY["levit_256d"]
    specs = build(config).specs_by_name()
    found = config_from_shapes({there: specs[own].shape for own, there in name_table(config, form).items()}, form)
    assert found.activation == found.attention_activation == activation
    assert found.stages == config.stages


def test_own_format_round_trip_with_labels(tmp_path):
    model = random_model("levit_digits")
    model.labels = list("abcdefghij")
    save(model, tmp_path / "a.h5")
    again = load(tmp_path / "a.h5")
    assert again.config == model.config and again.labels == list("abcdefghij")
    assert all(np.array_equal(v, model.state()[k]) for k, v in again.state().items())


def test_a_damaged_file_and_a_foreign_one_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    save(random_model("levit_digits"), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    for content in (bytes(data), b"", b"PK\x03\x04" + bytes(40), b"hello", data[:1000]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            load(path)
    with pytest.raises(CheckpointError):
        load(tmp_path / "none.h5")


def test_another_number_of_classes_starts_the_heads_anew_and_says_so(tmp_path):
    model = random_model("levit_128s", num_classes=5)
    save(model, tmp_path / "a.h5")
    with pytest.warns(UserWarning, match="head.weight"):
        again = load(tmp_path / "a.h5", num_classes=np.int64(7))
    assert type(again.config.num_classes) is int  # a file can store no NumPy integer
    assert again(images(1, dtype=np.float32)).shape == (1, 7)
    assert np.array_equal(again.state()["stem.convolutions.0.weight"], model.state()["stem.convolutions.0.weight"])


def test_names_of_classes_stay_while_their_number_does(tmp_path):
    model = random_model("levit_digits")
    model.labels = list("abcdefghij")
    save(model, tmp_path / "a.h5")
    assert load(tmp_path / "a.h5", num_classes=10).labels == model.labels
    with pytest.warns(UserWarning, match="expected 3 classes, found 10: .* start anew"):
        assert load(tmp_path / "a.h5", num_classes=3).labels is None


def test_another_image_size_resizes_the_biases(tmp_path):
    model = random_model("levit_128s", num_classes=5)
    save(model, tmp_path / "a.h5")
    again = load(tmp_path / "a.h5", image_size=(160, 192))
    assert again.config.resolutions[0] == (10, 12)
    x = np.random.default_rng(0).standard_normal((1, 3, 160, 192)).astype(np.float32)
    assert np.isfinite(again(x)).all()


@pytest.mark.parametrize("name, size", [("levit_128s_a5", (64, 48)),  # the same number of tokens on another grid
                                        ("deit_tiny", (48, 80))])
def test_another_image_size_resizes_the_embedding(tmp_path, name, size):
    model = random_model(name, num_classes=5, image_size=(48, 64))  # 3×4 tokens
    save(model, tmp_path / "a.h5")
    again = load(tmp_path / "a.h5", image_size=size)
    old, new = model.state()["position.embedding"], again.state()["position.embedding"]
    expected = torch.nn.functional.interpolate(torch.from_numpy(old[-12:].reshape(1, 3, 4, -1)).permute(0, 3, 1, 2),
                                               size=(size[0] // 16, size[1] // 16), mode="bilinear", align_corners=True)
    np.testing.assert_allclose(new[len(old) - 12:], expected[0].flatten(1).T.numpy(), atol=1e-6)
    assert np.array_equal(new[: len(old) - 12], old[:-12])  # the class token's row is unchanged


@pytest.mark.parametrize("new", [(10, 12), (14, 14), (1, 3), (20, 5)])
def test_resized_biases_are_bilinear(new):
    table = np.random.default_rng(0).standard_normal((3, 14 * 14))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(table.reshape(1, 3, 14, 14)), size=new, mode="bilinear", align_corners=True)
    np.testing.assert_allclose(resize_bias(table, (14, 14), new), expected.numpy().reshape(3, -1), atol=1e-12)


def test_the_authors_file_has_the_index_of_each_bias(tmp_path):
    """The authors' network has it as a buffer and loads with strict=True."""
    export(random_model("levit_128s", num_classes=5), tmp_path / "a.pth", format="facebook")
    state = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    assert state["blocks.4.attention_bias_idxs"].shape == (49, 196)
    assert state["blocks.0.m.attention_bias_idxs"][0].tolist() == list(range(196))
    assert state["head.bn.num_batches_tracked"].dtype == torch.int64


def test_a_stored_index_must_be_ours(tmp_path):
    """In the authors' network it decides which bias belongs to which pair."""
    export(random_model("levit_128s", num_classes=5, image_size=64), tmp_path / "a.pth", format="facebook")
    state = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    name = "blocks.4.attention_bias_idxs"
    state[name] = state[name].flip(0)
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"{name}: expected \|Δy\| · 4 \+ \|Δx\| .* 4×4 at a stride of 2"):
        load(tmp_path / "a.pth")


def test_an_index_of_another_shape_takes_no_memory(tmp_path, monkeypatch):
    """A table of 40,000 offsets is small, but its index would have 1.6e9 entries."""
    model = random_model("levit_digits")
    named = rename(model.state(), config=model.config, format="facebook")
    monkeypatch.setattr("levit_np.checkpoints.reading.bias_index", lambda *grid: pytest.fail("an index was made"))
    for shape in [(), (1, 1), (64,), (63, 64), (16, 64, 1)]:
        torch_file.write(tmp_path / "a.pth", named | {"blocks.4.attention_bias_idxs": np.zeros(shape, np.int64)})
        with pytest.raises(CheckpointError, match=f"8×8 at a stride of 2, found another index {re.escape(str(shape))}"):
            load(tmp_path / "a.pth")


def test_a_safetensors_file_under_the_authors_names_is_read(tmp_path):
    """As timm wrote them up to version 0.6."""
    model = random_model("levit_128s", num_classes=5)
    named = rename(model.state(), config=model.config, format="facebook")
    save_file({n: torch.from_numpy(a.copy()) for n, a in named.items()}, tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors").config == model.config


def test_names_of_the_authors():
    names = rename(create("levit_128s").state(), config=FAMILY["levit_128s"], format="facebook")
    for name in ("patch_embed.6.bn.running_var", "blocks.0.m.attention_biases", "blocks.1.m.2.c.weight",
                 "blocks.4.q.1.c.weight", "blocks.5.m.0.c.weight", "blocks.12.kv.bn.weight", "head_dist.l.bias"):
        assert name in names
    with pytest.raises(CheckpointError, match="no names"):
        name_table(ABLATIONS["levit_128s_a3"], "timm")
    with pytest.raises(CheckpointError, match="no names"):
        name_table(ABLATIONS["levit_128s_a5"], "timm")


def test_missing_and_unexpected_tensors_are_named(tmp_path):
    model = random_model("levit_128s", num_classes=5)
    export(model, tmp_path / "a.safetensors", format="timm")
    tensors = load_file(tmp_path / "a.safetensors")
    tensors["extra"] = tensors.pop("head.bn.bias")
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="missing: head.bn.bias; unexpected: extra"):
        load(tmp_path / "a.safetensors")


def test_a_network_without_arrays_allocates_nothing():
    assert not hasattr(build(FAMILY["levit_384"]).head, "weight")


def test_a_second_head_is_added_or_left_out(tmp_path):
    model = random_model("levit_digits")
    save(model, tmp_path / "a.h5")
    one = load(tmp_path / "a.h5", distillation=False)
    assert not one.config.distillation and "head_dist.weight" not in one.state()
    assert all(np.array_equal(array, model.state()[name]) for name, array in one.state().items())
    save(one, tmp_path / "one.h5")
    with pytest.warns(UserWarning,
                      match="expected two heads, found one: head_dist.bn.gamma, .*head_dist.bias start anew"):
        two = load(tmp_path / "one.h5", distillation=True)
    assert all(np.array_equal(two.state()[name], array) for name, array in one.state().items())
    assert two(np.zeros((2, 1, 32, 32), np.float32)).shape == (2, 10)
    assert load(tmp_path / "a.h5", distillation=True).config == model.config


def test_new_heads_depend_on_the_seed(tmp_path):
    save(random_model("levit_digits"), tmp_path / "a.h5")
    with pytest.warns(UserWarning, match="start anew"):
        weights = [load(tmp_path / "a.h5", num_classes=3, seed=seed).state()["head.weight"] for seed in (1, 1, 2)]
    assert np.array_equal(weights[0], weights[1]) and not np.isclose(weights[0], weights[2]).any()


@pytest.mark.parametrize("form", ["facebook", "timm", "timm_conv", "transformers"])
@pytest.mark.parametrize("key", ["a7", "a1", "a2", "a4", "a6"])
def test_an_ablation_comes_back_or_is_refused(key, form, tmp_path):
    model = random_model(f"levit_128s_{key}", num_classes=5, image_size=64)
    if key == "a7" or key == "a2" and form == "transformers":
        with pytest.raises(CheckpointError, match="do not say attention_activation 'identity'|4 convolutions"):
            export(model, tmp_path / "file", format=form)
        assert not (tmp_path / "file").exists()
        return
    export(model, tmp_path / "file", format=form)
    again = load(tmp_path / "file")
    assert replace(again.config, name=model.config.name) == model.config
    assert all(np.array_equal(v, model.state()[k]) for k, v in again.state().items())


@pytest.mark.parametrize("form", ["timm", "facebook"])
def test_a_foreign_file_of_images_that_are_not_square_needs_their_size(form, tmp_path):
    model = random_model("levit_128s", num_classes=5, image_size=(64, 96))
    export(model, tmp_path / "file", format=form)
    with pytest.raises(CheckpointError, match=r"found 24; give the size of other images as image_size=\(H, W\)"):
        load(tmp_path / "file")
    again = load(tmp_path / "file", image_size=(64, 96))
    assert again.config == model.config
    assert all(np.array_equal(v, model.state()[k]) for k, v in again.state().items())


def test_a_stem_that_could_not_be_read_back_is_not_exported(tmp_path):
    model = random_model("levit_digits", stem=[[32, 3, 2], [64, 3, 1]], image_size=(32, 64))
    with pytest.raises(CheckpointError, match="^levit_digits: timm files do not say stem .*, and could not be read$"):
        export(model, tmp_path / "file", format="timm")


@pytest.mark.parametrize("form", ["facebook", "timm", "timm_conv", "transformers"])
def test_a_stem_of_one_pixel_kernels_stays_a_convolution(form, tmp_path):
    """Elsewhere a weight of that shape is a linear map, as some projects store it."""
    model = random_model("levit_digits", stem=[[8, 1, 2], [16, 1, 2], [32, 1, 2], [64, 1, 2]], image_size=128)
    export(model, tmp_path / "file", format=form)
    again = load(tmp_path / "file")
    assert again.config.stem == model.config.stem
    assert all(np.array_equal(v, model.state()[k]) for k, v in again.state().items())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_stem_of_one_small_convolution_is_no_patch_embedding(channels, tmp_path):
    """A convolution that tiles the image has a larger kernel. The network is known by name for any number of input
    channels."""
    model = random_model("levit_digits", stem=[[64, 3, 2]], image_size=16, in_channels=channels)
    export(model, tmp_path / "file", format="timm")
    again = load(tmp_path / "file").config
    assert (again.stem, again.image_size, again.in_channels) == (model.config.stem, (16, 16), channels)
    model = random_model("levit_128s", num_classes=5, image_size=64, in_channels=channels)
    export(model, tmp_path / "file", format="timm")
    assert load(tmp_path / "file").config == model.config


def test_timm_conv_stores_linear_maps_but_not_heads_as_convolutions(tmp_path):
    """The files do not contain the drop path rate either, which evaluation does not need."""
    model = random_model("levit_128s", num_classes=5, image_size=64, drop_path=0.5)
    for form in ("timm", "timm_conv"):
        export(model, tmp_path / form, format=form)
    plain, convolutional = (load_file(tmp_path / form) for form in ("timm", "timm_conv"))
    for name, tensor in plain.items():
        linear = name.endswith("linear.weight") and not name.startswith(("stem", "head"))
        assert convolutional[name].shape == tensor.shape + (1, 1) * linear, name
    assert torch.equal(convolutional["head.linear.weight"], plain["head.linear.weight"])


def test_an_option_that_one_stage_does_not_use_need_not_be_stored(tmp_path):
    model = random_model("levit_128s_a1", num_classes=5, image_size=32, shrink_value_ratio=1)
    export(model, tmp_path / "file", format="timm")
    assert all(np.array_equal(v, model.state()[k]) for k, v in load(tmp_path / "file").state().items())


def test_another_image_size_keeps_the_preprocessing(tmp_path):
    model = random_model("levit_digits")
    model.preprocessing = Preprocessing("mine", 40, (32, 32), (0.25,), (0.75,), mode="L")
    save(model, tmp_path / "a.h5")
    assert load(tmp_path / "a.h5", image_size=32).preprocessing == model.preprocessing
    resized = load(tmp_path / "a.h5", image_size=(64, 48)).preprocessing
    assert resized == replace(model.preprocessing, resize=80, crop=(64, 48))
    for channels in (1, 3):
        export(random_model("levit_128s", num_classes=5, in_channels=channels), tmp_path / "timm", format="timm")
        for size in (64, 160, 200, 224, 384):
            found = load(tmp_path / "timm", image_size=size).preprocessing
            assert found == preprocessing_named("timm", (size, size), channels)
            assert found.to_dict()["crop"] == [size, size]


def test_a_changed_preprocessing_with_a_known_name_stays_changed(tmp_path):
    model = random_model("levit_digits")
    model.preprocessing = replace(preprocessing_named("digits"), mean=(0.25,))
    save(model, tmp_path / "a.h5")
    assert load(tmp_path / "a.h5", image_size=64).preprocessing == replace(
        preprocessing_named("digits", (64, 64)), mean=(0.25,))


@pytest.mark.parametrize("name", ["digits", "mine"])
def test_images_may_be_too_large_for_any_preprocessing(name, tmp_path):
    """A network also accepts arrays, so it can be saved and loaded without preprocessing."""
    model = random_model("levit_digits")
    model.preprocessing = replace(preprocessing_named("digits"), name=name)
    save(model, tmp_path / "a.h5")
    assert load(tmp_path / "a.h5", image_size=(32, 4096)).preprocessing.crop == (32, 4096)
    large = load(tmp_path / "a.h5", image_size=(32, 4112))
    assert large.preprocessing is None
    save(large, tmp_path / "large.h5")
    assert load(tmp_path / "large.h5").config.image_size == (32, 4112)


def test_weights_that_are_not_finite_and_negative_variances_are_refused(tmp_path):
    model = random_model("levit_digits", dtype="float64")
    model.set_state({n: a.astype(np.float64) for n, a in model.state().items()})
    model.head.weight[0, 0] = 1e300
    export(model, tmp_path / "large", format="timm")
    with pytest.raises(CheckpointError, match="head.weight: expected finite values, found inf"):
        load(tmp_path / "large")
    with pytest.raises(CheckpointError, match="head.weight: expected finite values, found inf"):
        save(model, tmp_path / "a.h5")
    model = random_model("levit_digits")
    named = rename(model.state(), config=model.config, format="timm")
    named["head.bn.running_var"][3] = 0  # a channel that is constant over the training set
    safetensors_file.write(tmp_path / "zero", named)
    assert load(tmp_path / "zero").head.bn.variance[3] == 0
    named["head.bn.running_var"][3] = -1e-6
    safetensors_file.write(tmp_path / "negative", named)
    with pytest.raises(CheckpointError, match="head.bn.running_var: expected variances from 0, found -1e-06"):
        load(tmp_path / "negative")


@pytest.mark.parametrize("name, array, words", [
    ("bias", np.zeros(3, np.float32), r"wrong shape or type: head.bias float32 \(3,\) for floating \(10,\)"),
    ("bias", np.zeros(10, int), r"wrong shape or type: head.bias int64 \(10,\) for floating \(10,\)"),
    ("variance", np.full(80, -0.5, np.float32), "head.bn.variance: expected variances from 0, found -0.5"),
    ("variance", np.full(80, np.nan, np.float32), "head.bn.(variance|running_var): expected finite values, found nan")])
def test_what_could_not_be_read_back_does_not_replace_a_file(name, array, words, tmp_path):
    model = random_model("levit_digits")
    save(model, tmp_path / "a.h5")
    before = (tmp_path / "a.h5").read_bytes()
    setattr(model.head.bn if name == "variance" else model.head, name, array)
    for write in (save, lambda *there: export(*there, format="timm"), lambda *there: export(*there, format="facebook")):
        with pytest.raises(CheckpointError, match=words):
            write(model, tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_bytes() == before


@pytest.mark.parametrize("changes", [{"image_size": (32, 48)}, {"image_size": (16, 16)}, {"channels": 3}])
def test_the_preprocessing_must_give_images_of_the_networks_size(changes, tmp_path):
    """Otherwise the first image would be blamed for the mismatch."""
    model = random_model("levit_digits")
    save(model, tmp_path / "a.h5")
    arrays, documents = hdf5.read(tmp_path / "a.h5")
    model.preprocessing = preprocessing_named("digits", **changes)
    hdf5.write(tmp_path / "a.h5", arrays, documents | {"recipe": model.preprocessing.to_dict()})
    for refused in (lambda: load(tmp_path / "a.h5"), lambda: save(model, tmp_path / "b.h5")):
        with pytest.raises(CheckpointError, match=r"[ab].h5: preprocessing: expected images \(1, 32, 32\), found \("):
            refused()
    other = replace(model.config, image_size=(64, 64))
    hdf5.write(tmp_path / "a.h5", arrays, documents | {"config": other.to_dict()})
    with pytest.raises(CheckpointError, match="wrong shape or type: stages.0.blocks.0.attention.bias.table"):
        load(tmp_path / "a.h5")  # here the arrays give the more precise message


def test_labels_must_be_strings_to_be_saved(tmp_path):
    model = random_model("levit_digits")
    model.labels = list(range(10))
    with pytest.raises(CheckpointError, match="labels: expected 10 texts"):
        save(model, tmp_path / "a.h5")
    model.labels = np.array(list("abcdefghij"))
    save(model, tmp_path / "a.h5")
    assert list(load(tmp_path / "a.h5").labels) == list("abcdefghij")
    model.labels = []  # the same as none
    save(model, tmp_path / "a.h5")
    assert load(tmp_path / "a.h5").labels == [f"class {n}" for n in range(10)]


@pytest.mark.parametrize("form", ["facebook", "timm"])
def test_digits_in_a_foreign_file_are_prepared_as_digits(form, tmp_path):
    export(random_model("levit_digits"), tmp_path / "file", format=form)
    assert load(tmp_path / "file").preprocessing == preprocessing_named("digits")
