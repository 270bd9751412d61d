"""Classifiers, as `load` and `create` return them: images in, label names out, and what copies and saved files keep."""

import gc
import io
import pickle
import shutil
import weakref
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import levit_np
from levit_np import classifier
from levit_np.images.preprocessing import preprocess, preprocessing_named
from levit_np.ops.cpu.instruction_set import chosen

from .random_model import random_images, random_model

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "weights/levit_digits.h5"
SAMPLES = [ROOT / f"weights/samples/digit_{n}.png" for n in range(8)]


@pytest.fixture(scope="module")
def model():
    return levit_np.load(WEIGHTS)


def test_every_source_gives_one_answer(model):
    """A path (text or Path), bytes, a file, a PIL image, and a grey and a colour array of the same picture."""
    image = Image.open(SAMPLES[3])
    grey = np.asarray(image)
    expected = model.predict(SAMPLES[3], top=3)
    assert [label for label, _ in expected][0] == "3" and len(expected) == 3
    assert all(isinstance(label, str) and isinstance(p, float) for label, p in expected)
    for source in (str(SAMPLES[3]), SAMPLES[3].read_bytes(), io.BytesIO(SAMPLES[3].read_bytes()), image, grey,
                   np.repeat(grey[:, :, None], 3, axis=2)):
        assert model.predict(source, top=3) == expected


def test_probabilities_are_the_softmax_of_the_logits_in_falling_order(model):
    answer = model.predict(SAMPLES[5], top=10)
    logits = model(model.prepare(SAMPLES[5])[None])[0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [label for label, _ in answer] == [str(n) for n in np.argsort(-expected)]
    np.testing.assert_allclose([p for _, p in answer], np.sort(expected)[::-1], rtol=1e-4, atol=1e-7)
    assert model.predict(SAMPLES[5], top=99) == answer
    assert model.predict(SAMPLES[5]) == model.rank(model.prepare(SAMPLES[5])[None])[0] == answer[:5]
    for top in (0, -1, 2.0, "3", None):
        with pytest.raises(levit_np.LevitError, match=f"top: expected a whole number from 1, found {top!a}"):
            model.predict(SAMPLES[5], top=top)
    assert [model.predict(SAMPLES[5], top=n) for n in (1, np.int64(2))] == [answer[:1], answer[:2]]


def test_classes_that_are_equally_likely_are_in_their_order():
    """More of them than NumPy sorts by insertion, which would keep the order anyhow."""
    model = levit_np.create("levit_digits", backend="reference", num_classes=100)
    state = model.state()
    for head in ("head", "head_dist"):
        state[f"{head}.weight"][...] = state[f"{head}.bias"][...] = 0
        state[f"{head}.bias"][1::2] = 1
    odd = pytest.approx(1 / (50 + 50 / np.e), rel=1e-5)
    assert model.predict(SAMPLES[5], top=50) == [(f"class {n}", odd) for n in range(1, 100, 2)]


def test_a_list_is_evaluated_in_batches_and_answered_in_order(model, monkeypatch):
    sources, sizes, rank = (SAMPLES * 3)[:18], [], model.rank
    alone = [model.predict(source)[0] for source in sources]
    monkeypatch.setattr(model, "rank", lambda x, top: sizes.append(len(x)) or rank(x, top))
    together = model.predict(sources)
    assert sizes == [16, 2]
    for one, (label, probability) in zip(together, alone, strict=True):
        assert one[0][0] == label and one[0][1] == pytest.approx(probability, abs=1e-5) and len(one) == 5
    assert model.predict([]) == [] and model.predict((SAMPLES[0],))[0] == model.predict(SAMPLES[0])


def test_a_bad_image_in_a_list_is_named_with_its_place(model, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(levit_np.ImageError, match=r"image 17 of the list: .*bad\.png"):
        model.predict([*SAMPLES, *SAMPLES, SAMPLES[0], tmp_path / "bad.png"])
    with pytest.raises(levit_np.ImageError, match="none.png"):
        model.predict(tmp_path / "none.png")


def test_a_model_of_another_precision_predicts_too():
    model = levit_np.load(WEIGHTS, dtype="float64")
    assert model.prepare(SAMPLES[4]).dtype == np.float64 and model.predict(SAMPLES[4])[0][0] == "4"


def test_save_keeps_weights_labels_and_recipe(model, tmp_path):
    model.save(tmp_path / "copy.h5")
    again = levit_np.load(tmp_path / "copy.h5")
    assert type(again) is levit_np.Classifier
    assert (again.config, again.labels, again.preprocessing) == (model.config, model.labels, model.preprocessing)
    assert all(np.array_equal(array, model.state()[name]) for name, array in again.state().items())
    again.labels = ["one"]
    with pytest.raises(levit_np.LevitError, match="labels: expected 10 texts, found .'one'"):
        again.predict(np.zeros((32, 32), np.uint8))
    with pytest.raises(levit_np.CheckpointError, match="labels: expected 10 texts, found .'one'"):
        again.save(tmp_path / "copy.h5")
    again.labels, again.head.bias = None, np.full(10, np.nan, np.float32)
    with pytest.raises(levit_np.CheckpointError, match="head.bias"):
        again.save(tmp_path / "copy.h5")
    assert levit_np.load(tmp_path / "copy.h5").labels == model.labels  # existing labels are kept


def test_the_repr_of_a_model_says_which_it_is(model):
    assert repr(model) == "<Classifier levit_digits: images (B, 1, 32, 32), 10 classes, float32 on the backend cpu>"
    other = levit_np.create("levit_128s", backend="reference", dtype="float64", image_size=(64, 96), num_classes=3)
    assert repr(other).endswith("images (B, 3, 64, 96), 3 classes, float64 on the backend reference>")


def test_to_keeps_the_kind_labels_recipe_and_random_state(model):
    model.random.standard_normal(3)  # so that the generator is not in its initial state
    other = model.to("reference")
    assert type(other) is levit_np.Classifier and other is not model
    assert (other.labels, other.preprocessing) == (model.labels, model.preprocessing)
    assert other.random is not model.random
    assert np.array_equal(other.random.standard_normal(5), model.random.standard_normal(5))
    for (label, probability), (same, near) in zip(other.predict(SAMPLES[1]), model.predict(SAMPLES[1])):
        assert label == same and probability == pytest.approx(near, rel=1e-4)  # float32 on two backends
    with pytest.raises(levit_np.BackendError, match="on the reference backend, found 'bfloat16'"):
        other.precision = "bfloat16"


def test_a_fresh_model_predicts_by_number_or_by_imagenet_names():
    small = levit_np.create("levit_digits", num_classes=4, seed=1)
    assert {label for label, _ in small.predict(SAMPLES[0])} == {f"class {n}" for n in range(4)}
    assert type(small) is levit_np.Classifier
    named = levit_np.create("levit_128s")
    assert named.config.num_classes == len(classifier.loading.labels_of(named)) == 1000
    assert all(not label.startswith("class ") for label, _ in named.predict(np.zeros((300, 200, 3), np.uint8)))


def test_a_fresh_model_prepares_grey_images_as_digits_and_colour_as_the_authors():
    for name, recipe in (("levit_digits", "digits"), ("levit_128s", "authors")):
        fresh = levit_np.create(name, image_size=64)
        channels = fresh.config.in_channels
        expected = preprocess(SAMPLES[0], preprocessing_named(recipe, (64, 64), channels))
        assert np.array_equal(fresh.prepare(SAMPLES[0]), expected) and len(expected) == channels


def test_the_warning_about_a_new_head_points_at_the_caller():
    with pytest.warns(UserWarning, match="start anew") as caught:
        levit_np.load(WEIGHTS, num_classes=3)
    assert caught[0].filename == __file__


def test_a_name_in_the_working_directory(tmp_path, monkeypatch):
    shutil.copy(SAMPLES[2], tmp_path / "two.png")
    monkeypatch.chdir(tmp_path)
    assert levit_np.load(WEIGHTS).predict("two.png")[0][0] == "2"


@pytest.mark.parametrize("backend, dtype", [("cpu", "float32"), ("cpu", "float64"), ("reference", "float32")])
def test_the_heads_apart_and_averaged_are_one_network(backend, dtype):
    model = random_model(backend=backend, dtype=dtype)
    x = random_images(model, 18)
    expected, _ = model.to("reference").forward(x, training="frozen")
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    for head, wanted in zip(model.heads(x), expected, strict=True):
        assert np.abs(head - wanted).max() < tolerance * np.abs(wanted).max()
    average = sum(model.heads(x)) / 2
    assert np.abs(model(x) - average).max() < tolerance * np.abs(average).max()
    model.head_dist.bias = model.head_dist.bias + 1  # both forms see the change, whichever was used first
    assert np.abs(model(x) - average - 0.5).max() < 1e-4 and np.abs(model.heads(x)[1] - expected[1] - 1).max() < 1e-4
    single = random_model(backend=backend, dtype=dtype, distillation=False)
    (only,) = single.heads(x)
    assert np.abs(only - single(x)).max() <= tolerance * np.abs(only).max()


def test_an_evaluation_follows_a_state_that_is_written_into_or_of_another_type():
    model = random_model(backend="cpu")
    x = random_images(model)
    first = model(x)
    for array in model.state().values():
        array *= 1.25
    assert not np.allclose(model(x), first)
    np.testing.assert_allclose(model(x), model.to("reference")(x), rtol=1e-3, atol=1e-3)
    exact = model.to("reference")(x)
    model.set_state({name: array.astype(">f8") for name, array in model.state().items()})
    assert model(x.astype("f8")).dtype == np.float64 and model.precision == "float64"
    np.testing.assert_allclose(model(x.astype("f8")), exact, rtol=1e-3, atol=1e-3)
    model.set_state({name: array.astype("f2") for name, array in model.state().items()})
    assert model(x).dtype == np.float32
    model.head.weight = model.head.weight.astype("f8")
    with pytest.raises(levit_np.LevitError, match="expected images of float64, as head.weight, found float32"):
        model(x)
    for evaluate, images in ((model, x.astype("f8")), (model.heads, x.astype("f8")), (model.predict, SAMPLES[3])):
        with pytest.raises(levit_np.LevitError, match="^head.weight: expected an array of float32 .* of float64"):
            evaluate(images)


def test_the_dtype_of_an_array_is_a_precision(tmp_path):
    """A training takes the precision to be a text."""
    made = levit_np.create("levit_digits", dtype=np.zeros(1).dtype)
    made.save(tmp_path / "a.h5")
    read = levit_np.load(tmp_path / "a.h5", dtype=np.zeros(1).dtype)
    assert {type(model.precision) for model in (made, read)} == {str} and made.precision == read.precision == "float64"


def test_a_state_of_another_dtype_changes_the_precision(model):
    """With a state of another dtype, evaluation computes in that dtype."""
    model = deepcopy(model)
    state = {name: array.copy() for name, array in model.state().items()}
    double = {name: array.astype(np.float64) for name, array in state.items()}
    with pytest.raises(levit_np.LevitError, match="head.bias"):
        model.set_state(double | {"head.bias": np.zeros(3)})
    assert model.precision == "float32" and model.dtype == np.float32
    model.set_state(state)
    model.state()["head.bias"] += 1
    assert not np.array_equal(state["head.bias"], model.state()["head.bias"])
    model.set_state(double)
    assert model.precision == "float64" and model.to("reference").precision == "float64"
    model.set_state(state)
    assert model.precision == "float32"


@pytest.mark.skipif(not chosen().bfloat16, reason="this processor has no products of bfloat16")
def test_a_state_of_float32_leaves_bfloat16_as_it_is(model):
    model = deepcopy(model)
    state = {name: array.copy() for name, array in model.state().items()}
    model.precision = "bfloat16"
    model.set_state(state)
    assert model.precision == "bfloat16"
    with pytest.raises(levit_np.BackendError, match="bfloat16"):
        model.to("reference")
    model.set_state({name: array.astype(np.float64) for name, array in state.items()})
    assert model.precision == "float64"


@pytest.mark.skipif(not chosen().bfloat16, reason="this processor has no products of bfloat16")
def test_the_precision_may_change_between_calls(model):
    model, x = deepcopy(model), random_images(model)
    exact = model(x)
    model.precision = "bfloat16"
    rounded = model(x)
    model.precision = np.float32(0).dtype  # of an array, say
    assert not np.array_equal(rounded, exact) and np.array_equal(model(x), exact) and model.precision == "float32"


def test_a_precision_that_is_none_or_does_not_fit_the_weights_is_an_error(model):
    model, x = deepcopy(model), random_images(model)
    expected = model(x)
    for wrong in ("bf16", "float16", None):
        with pytest.raises(levit_np.BackendError, match=f"dtype: expected one of float32, .*, found '{wrong}'"):
            model.precision = wrong
    assert np.array_equal(model(x), expected)
    model.precision = "float64"
    with pytest.raises(levit_np.LevitError, match="array of float64 for .* in float64, found one of float32"):
        model(x)


def test_a_state_of_a_type_that_the_backend_lacks_is_refused_before_it_is_taken(monkeypatch):
    """For example float64 on a GPU."""
    model = random_model(backend="reference")
    monkeypatch.setitem(levit_np.ops.PRECISIONS, "reference", ("float32",))
    with pytest.raises(levit_np.BackendError, match="one of float32 on the reference backend, found 'float64'"):
        model.set_state({name: array.astype(np.float64) for name, array in model.state().items()})
    assert model.precision == "float32" and model.dtype == np.float32
    with pytest.raises(levit_np.BackendError, match="one of float32 on the reference backend, found 'float64'"):
        random_model(backend="cpu", dtype="float64").to("reference")


def test_a_copy_is_its_own(model):
    """Whether copied by to(), copy or pickle."""
    x = random_images(model)
    expected = model(x).copy()
    for other in (model.to("cpu"), deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is levit_np.Classifier
        assert (other.config, other.labels, other.preprocessing) == (model.config, model.labels, model.preprocessing)
        assert np.array_equal(other(x), expected)
        for array in other.state().values():
            array *= 2
        assert np.array_equal(model(x), expected) and not np.array_equal(other(x), expected)
    assert deepcopy(random_model(dtype="float64")).precision == "float64"
    half = deepcopy(model)
    half.precision = "bfloat16"  # the precision of evaluation, while the weights stay float32
    assert deepcopy(half).precision == pickle.loads(pickle.dumps(half)).precision == "bfloat16"


def test_logits_that_are_not_finite_are_an_error(model):
    model = deepcopy(model)
    model.head.bias = np.full(10, np.inf, np.float32)
    with pytest.raises(levit_np.LevitError, match="levit_digits: expected finite logits"):
        model.predict(SAMPLES[3])


def test_a_class_is_found_by_its_name_before_its_number():
    """But a number that is no text is the class's number, as argmax gives it and trace takes it."""
    labels = ("3", "1", "two", "0")
    for which, number in (("3", 0), (3, 3), ("0", 3), (0, 0), ("two", 2), ("2", 2), (2, 2), (np.int64(1), 1)):
        assert classifier.class_number(which, labels) == number
    assert classifier.class_number(3, ("a", "b", "c", "d")) == 3


@pytest.mark.parametrize("which", ["9" * 5000, "10", "ten", "-1", "1.0", "", None])
def test_a_class_that_is_not_there(model, which):
    with pytest.raises(levit_np.LevitError, match="class: expected a name, or a number from 0 to 9"):
        classifier.class_number(which, model.labels)


@pytest.mark.parametrize("backend, dtype", [("cpu", "float32"), ("cpu", "float64"), ("reference", "float32")])
@pytest.mark.parametrize("channels", [1, 3])
def test_uint8_images_are_evaluated_like_prepared_ones(backend, dtype, channels):
    model = random_model("levit_digits", in_channels=channels, image_size=(32, 48), backend=backend, dtype=dtype)
    image = np.random.default_rng(0).integers(0, 256, (70, 60, 3), np.uint8)
    crop = model.crop(image)
    assert (crop.shape, crop.dtype) == ((32, 48, channels), np.uint8)
    assert np.array_equal(model(np.stack([crop, crop[::-1]]))[:1], model(np.stack([model.prepare(image)] * 2))[:1])
    for wrong in (crop, np.moveaxis(crop, -1, 0)[None]):
        with pytest.raises(levit_np.LevitError) as caught:
            model(wrong)
        assert str(caught.value) == f"levit_digits: expected bytes (B, 32, 48, {channels}), found {wrong.shape}"


@pytest.mark.parametrize("backend, dtype", [("cpu", "float32"), ("cpu", "float64"), ("reference", "float32")])
def test_an_empty_batch(backend, dtype):
    model = levit_np.create("levit_digits", backend=backend, dtype=dtype)
    x = np.zeros((0, 1, 32, 32), dtype)
    assert model(x).shape == (0, 10) and [y.shape for y in model.heads(x)] == [(0, 10)] * 2


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_an_unused_model_is_freed(backend):
    """At once, with its buffers: freeing its memory does not need Python's cyclic garbage collector."""
    gc.disable()
    try:
        model = random_model(backend=backend, drop_path=0.1)
        x = random_images(model)
        model(x), model.heads(x), model.to("reference")
        model.backward(*model.forward(x, training=True))
        executors = filter(None, (model._executors or {}).values())
        gone = [weakref.ref(thing) for thing in (model, model.stages[0], *executors)]
        del model
        assert all(thing() is None for thing in gone)
    finally:
        gc.enable()
