"""Every public name, called as the documentation shows it, on small random input: shapes, dtypes, agreement with the
layers, and errors."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import levit_np

from .random_model import random_images, random_model

@pytest.fixture(scope="module", params=["levit_digits", "levit_128s"])
def model(request):
    size = {"levit_digits": (32, 32), "levit_128s": (48, 80)}[request.param]
    return random_model(request.param, num_classes=7, distillation=True, image_size=size)


@pytest.fixture()
def x(model):
    return random_images(model)


def test_public_names():
    for name in levit_np.__all__:
        assert getattr(levit_np, name) is not None
    assert set(levit_np.__all__) >= {
        "create", "load", "export", "rename", "list_models", "trace", "Trace", "LeViT", "LeViTConfig", "Classifier",
        "LevitError", "CheckpointError", "ConfigError", "BackendError", "ImageError"}
    assert set(dir(levit_np)) >= set(levit_np.__all__)  # for completion in an interactive session
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        levit_np.nothing


def test_list_models_names_what_create_takes():
    names = levit_np.list_models()
    assert names[:5] == ["levit_128s", "levit_128", "levit_192", "levit_256", "levit_384"]
    assert len(set(names)) == len(names)
    assert levit_np.create(names[0], num_classes=2).config.name == names[0]
    with pytest.raises(levit_np.ConfigError, match="levit_256"):
        levit_np.create("levit_257")


def test_create_takes_every_field_and_the_same_seed_gives_the_same_model():
    one, same, other = (levit_np.create("levit_128s", num_classes=10, distillation=False, image_size=(64, 96),
                                        in_channels=2, seed=seed, dtype="float64") for seed in (3, 3, 4))
    assert (one.config.num_classes, one.config.distillation, one.config.image_size, one.config.in_channels) == (
        10, False, (64, 96), 2)
    assert all(np.array_equal(array, same.state()[name]) for name, array in one.state().items())
    assert not np.array_equal(one.state()["head.weight"], other.state()["head.weight"])
    drawn = [fresh.random.random() for fresh in (one, same, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert one.dtype == np.float64 and one.forward(np.zeros((1, 2, 64, 96)), training="frozen")[0].shape == (1, 10)


@pytest.mark.parametrize("seed", [-1, 1.5, "x", None])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(levit_np.LevitError, match="seed: expected a whole number from 0, found"):
        levit_np.create("levit_digits", seed=seed)


def test_load_with_backend_and_dtype(model, x, tmp_path):
    model.save(tmp_path / "mine.h5")
    for dtype in ("float32", "float64"):
        for backend in ("reference", "auto"):
            again = levit_np.load(tmp_path / "mine.h5", backend=backend, dtype=dtype)
            np.testing.assert_allclose(again(x.astype(dtype)), model(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(levit_np.BackendError, match="expected one of .*'abacus'"):
        levit_np.load(tmp_path / "mine.h5", backend="abacus")
    with pytest.raises(levit_np.BackendError):
        levit_np.create("levit_digits", dtype="int8")
    with pytest.raises(levit_np.CheckpointError, match="none.h5"):
        levit_np.load(tmp_path / "none.h5")


def test_a_precision_below_that_of_the_arrays_is_kept(model, tmp_path, monkeypatch):
    monkeypatch.setattr(levit_np.ops, "stored_type", lambda *asked: "float32")  # as where there is bfloat16
    model.save(tmp_path / "mine.h5")
    loaded = levit_np.load(tmp_path / "mine.h5", dtype="bfloat16")
    for found in (loaded, levit_np.create("levit_digits", dtype="bfloat16")):
        assert found.precision == "bfloat16" and found.dtype == np.float32


def test_load_fits_another_size_and_number_of_heads(model, tmp_path):
    model.save(tmp_path / "mine.h5")
    found = levit_np.load(tmp_path / "mine.h5", image_size=(64, 96), distillation=False)
    assert found.config == replace(model.config, image_size=(64, 96), distillation=False)


def test_call_is_the_evaluation_with_the_heads_averaged(model, x):
    before = x.copy()
    logits = model(x)
    (one, two), _ = model.forward(x, training="frozen")
    assert type(logits) is np.ndarray and logits.shape == (2, 7) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, (one + two) / 2, rtol=1e-5, atol=1e-5)
    assert np.abs(one - two).max() > 1e-3 and np.array_equal(x, before)
    images = f"images (B, {', '.join(map(str, x.shape[1:]))}), found"
    for wrong, words in ((x[0], f"{images} {x[0].shape}"), (x[:, :, 1:], f"{images} {x[:, :, 1:].shape}"),
                         (x.astype(np.float64), "images of float32, as head.weight, found float64"),
                         (None, "an array of NumPy or CuPy, found NoneType"),
                         (x.tolist(), "an array of NumPy or CuPy, found list")):
        for evaluation in (model, model.heads, model.features, model.attention_maps):
            with pytest.raises(levit_np.LevitError) as caught:
                evaluation(wrong)
            assert str(caught.value) == f"{model.config.name}: expected {words}"


def test_predict(model):
    image = np.random.default_rng(3).integers(0, 256, (90, 120, 3), np.uint8)
    answer = model.predict(image, top=3)
    assert len(answer) == 3 and 0 <= answer[2][1] <= answer[1][1] <= answer[0][1] <= 1
    assert answer[0][0] in {f"class {n}" for n in range(7)}
    assert [pairs[0][0] for pairs in model.predict([image, image])] == [answer[0][0]] * 2


def test_features(model, x):
    maps = model.features(x)
    config = model.config
    assert list(maps) == ["stage1", "stage2", "stage3", "pooled"]
    for name, stage, grid in zip(maps, config.stages, config.resolutions):
        assert maps[name].shape == (2, stage.channels, *grid)
    np.testing.assert_allclose(maps["stage3"].mean((2, 3)), maps["pooled"], rtol=1e-4, atol=1e-5)
    heads = [head.forward(maps["pooled"])[0] for head in (model.head, model.head_dist)]
    np.testing.assert_allclose(sum(heads) / 2, model(x), rtol=1e-4, atol=1e-5)


def test_attention_maps(model, x):
    maps, config = model.attention_maps(x), model.config
    tokens = [height * width for height, width in config.resolutions]
    expected = {}
    for i, stage in enumerate(config.stages):
        if i:
            expected[f"stages.{i}.downsample.attention"] = (2, stage.shrink_heads, tokens[i], tokens[i - 1])
        expected |= {f"stages.{i}.blocks.{b}.attention": (2, stage.heads, tokens[i], tokens[i])
                     for b in range(stage.depth)}
    assert {name: array.shape for name, array in maps.items()} == expected
    for name, array in maps.items():
        assert name in dict(model.walk())
        np.testing.assert_allclose(array.sum(-1), 1, rtol=1e-5)
        assert array.min() >= 0 and array.std() > 1e-6


def test_forward_backward_and_gradients(model, x):
    model = model.to("reference")  # a copy, as training changes the running statistics
    before = {name: array.copy() for name, array in model.state().items()}
    outputs, saved = model.forward(x, training=True)
    assert [o.shape for o in outputs] == [(2, 7), (2, 7)]
    model.zero_gradients()
    assert not any(array.any() for array in model.gradients().values())
    upstream = [np.random.default_rng(4).standard_normal((2, 7), np.float32) for _ in range(2)]
    dx = model.backward(upstream, saved)
    assert dx.shape == x.shape and dx.any()
    state, once = model.state(), {name: array.copy() for name, array in model.gradients().items()}
    statistics = {name for name in state if name.endswith((".mean", ".variance"))}
    assert set(once) == set(state) - statistics
    assert all(array.shape == state[name].shape and array.dtype == np.float32 for name, array in once.items())
    assert all(np.array_equal(state[name], before[name]) == (name not in statistics) for name in state)
    model.backward(upstream, saved)  # gradients accumulate
    for name, array in model.gradients().items():
        np.testing.assert_allclose(array, 2 * once[name], rtol=1e-4, atol=1e-6 * max(1, np.abs(once[name]).max()))
    model.zero_gradients()
    assert not any(array.any() for array in model.gradients().values())


class DeviceArray:
    """A stand-in for CuPy's arrays: not NumPy's, and converted only by `get`."""

    __module__ = "some_cupy.arrays"
    __array__ = None

    def __init__(self, numbers):
        self.numbers = numbers
        self.shape, self.ndim, self.dtype = numbers.shape, numbers.ndim, numbers.dtype

    def __len__(self):
        return len(self.numbers)

    def get(self):
        return self.numbers.copy()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_call_returns_the_kind_of_array_that_it_was_given(model, x, backend, monkeypatch):
    monkeypatch.setitem(sys.modules, "some_cupy", SimpleNamespace(asarray=DeviceArray))
    model = model.to(backend)
    found, expected = [], []
    for kind, results in ((DeviceArray, found), (np.asarray, expected)):
        results += [model(kind(x)), *model.features(kind(x)).values(), *model.attention_maps(kind(x)).values()]
        outputs, saved = model.forward(kind(x), training="frozen")
        results += [*outputs, model.backward([kind(np.ones((2, 7), np.float32)) for _ in range(2)], saved)]
    assert {type(array) for array in found} == {DeviceArray} and {type(array) for array in expected} == {np.ndarray}
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours.get(), theirs)
    assert model.rank(DeviceArray(x)) == model.rank(x)  # names and numbers; CuPy's arrays cannot be an index


def test_without_distillation_outputs_are_one_array():
    model = levit_np.create("levit_digits", distillation=False)
    x = np.random.default_rng(0).standard_normal((2, 1, 32, 32), np.float32)
    logits, saved = model.forward(x, training=True)
    assert logits.shape == (2, 10) and model.backward(np.ones_like(logits), saved).shape == x.shape


def test_state_and_set_state(model, x):
    other = levit_np.create(model.config.name, num_classes=7, image_size=model.config.image_size, seed=9)
    other.set_state(model.state())
    assert np.array_equal(other(x), model(x))
    assert "stages.0.blocks.0.attention.qkv.bn.variance" in model.state()
    wrong = model.state() | {"head.bias": np.zeros(8, np.float32)}
    with pytest.raises(levit_np.LevitError, match=r"head.bias: expected a floating array \(7,\), found float32 \(8,\)"):
        other.set_state(wrong)
    with pytest.raises(levit_np.LevitError, match="'head.offset': expected no such array"):
        other.set_state(model.state() | {"head.offset": np.zeros(7, np.float32)})


def test_to(model, x):
    other = model.to("auto")
    assert type(other) is type(model)
    np.testing.assert_allclose(other(x), model(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(levit_np.BackendError):
        model.to("abacus")


def test_export_and_rename(model, x, tmp_path):
    forms = ("timm", "facebook") if model.config.name == "levit_digits" else ("timm", "facebook", "transformers")
    for form in forms:
        named = levit_np.rename(model.gradients(), config=model.config, format=form)
        assert len(named) == len(model.gradients()) and not set(named) & set(model.gradients())
    if model.config.image_size[0] == model.config.image_size[1]:  # other projects' files contain no image size
        levit_np.export(model, tmp_path / "out.safetensors", format="timm")
        assert np.array_equal(levit_np.load(tmp_path / "out.safetensors")(x), model(x))
    with pytest.raises(levit_np.CheckpointError, match="format: expected one of .*, timm_conv, found 'onnx'"):
        levit_np.export(model, tmp_path / "out", format="onnx")
    for unknown in ("onnx", "timm_conv", "fused"):
        with pytest.raises(levit_np.CheckpointError, match="format: expected one of facebook, timm, transformers, "):
            levit_np.rename({}, config=model.config, format=unknown)
    with pytest.raises(levit_np.CheckpointError, match="expected names of its arrays, found 'weight'"):
        levit_np.rename({"weight": 0}, config=model.config, format="timm")


def test_trace(model, x):
    record, textbook = levit_np.trace(model, x, target=3), model.to("reference")
    assert np.array_equal(record.logits, textbook.forward(x)[0]) and set(record.gradients) == set(model.gradients())


def test_summary_adds_up(model):
    lines = model.summary().splitlines()
    assert lines[0].split() == ["layer", "output", "parameters", "multiply-adds"] and lines[-1].startswith("total")
    parameters = [int(line.split()[-2].replace(",", "")) for line in lines[1:]]
    products = [int(line.split()[-1].replace(",", "")) for line in lines[1:]]
    assert sum(parameters[:-1]) == parameters[-1] == sum(array.size for array in model.gradients().values())
    assert sum(products[:-1]) == products[-1] > 0
