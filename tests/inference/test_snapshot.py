"""That evaluation on the cpu backend follows the network: a plan is a snapshot of its parameters, made anew when they
change, and refused when they do not fit."""

from copy import deepcopy

import numpy as np
import pytest

import levit_np

from ..distance import worst
from ..random_model import random_images, random_model


def test_a_replaced_parameter_is_seen():
    model = random_model(backend="cpu")
    x = random_images(model)
    before = model(x)
    model.head.bias = model.head.bias + 1
    np.testing.assert_allclose(model(x), before + (0.5 if model.head_dist else 1), rtol=1e-5)
    model.set_state(random_model(seed=9).state())
    assert worst(model(x), random_model(seed=9, backend="reference")(x)) < 1e-5
    model.forward(x, training=True)  # BN's running statistics count as parameters too
    exact = model.to("reference")(x)
    assert worst(model(x), exact) < 1e-5


@pytest.mark.parametrize("name, wrong", [
    ("position.embedding", np.ones((4000, 64), np.float32)),  # its rows would be written beyond the buffer
    ("stem.convolutions.0.weight", np.ones((32, 2, 3, 3), np.float32)),  # only a part would be used
    ("head.bias", None), ("head.bias", np.ones(10, int))])
def test_a_parameter_replaced_by_a_wrong_array_is_refused_by_name(name, wrong):
    model = random_model("levit_digits", position="embedding", backend="cpu")
    x = random_images(model)
    expected, layers = model(x), dict(model.walk())
    layer, key = name.rsplit(".", 1)
    right = getattr(layers[layer], key)
    setattr(layers[layer], key, wrong)
    for evaluate in (model, model.heads):
        with pytest.raises(levit_np.LevitError, match=f"{name}: expected a floating array .*, found "):
            evaluate(x)
    setattr(layers[layer], key, right)
    assert np.array_equal(model(x), expected)


@pytest.mark.parametrize("place, name, gone", [
    (lambda model: model, "head", "head"), (lambda model: model, "stages", "stages.0"),
    (lambda model: model.stages[0].blocks[1].mlp, "branch", "stages.0.blocks.1.mlp")])
def test_another_layer_in_the_place_of_one_is_refused_by_name(place, name, gone, tmp_path):
    """It would be evaluated, but neither saved nor trained; and the configuration may not describe it."""
    model, other = random_model(backend="cpu"), random_model(backend="cpu", num_classes=3)
    x = random_images(model)
    model(x)
    setattr(place(model), name, getattr(place(other), name))
    for use in (lambda: model(x), lambda: model.save(tmp_path / "a.h5"), model.state, lambda: deepcopy(model)):
        with pytest.raises(levit_np.LevitError, match=f"^{gone}: expected the layer of the configuration, found "):
            use()


def test_a_parameter_modified_in_place_is_seen_after_written():
    model = random_model(backend="cpu")
    x = random_images(model)
    model(x)
    model.stages[0].blocks[0].mlp.branch.up.weight *= 2
    model.head.bias[...] += 1
    model.written()
    assert worst(model(x), model.to("reference")(x)) < 1e-5


@pytest.mark.parametrize("arrays", [levit_np.LeViT.state, levit_np.LeViT.trained])
def test_what_is_written_into_arrays_that_were_given_out_is_seen(arrays):
    model = random_model(backend="cpu")
    x = random_images(model)
    model(x)
    for array in arrays(model).values():
        array *= 1.01
    assert worst(model(x), model.to("reference")(x)) < 1e-5


def test_a_plan_is_kept_while_nothing_changes(monkeypatch):
    model = random_model(backend="cpu")
    x = random_images(model, 1)
    model(x), model.heads(x)
    monkeypatch.setattr("levit_np.classifier.executor", None)
    monkeypatch.setattr(levit_np.LeViT, "forward", None)  # which would evaluate layer by layer
    random_model()  # another network changes
    model.gradients()
    model(x), model.heads(x)
