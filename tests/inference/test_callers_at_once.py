"""The cpu backend's evaluation where several threads of the caller's use, or change, one network at once."""

from contextlib import suppress

import numpy as np
import pytest

import levit_np
from levit_np.config import Stage
from levit_np.layers.layer import Layer

from ..at_once import at_once
from ..random_model import random_images, random_model


@pytest.fixture(autouse=True)
def one_thread_again():
    yield
    levit_np.set_threads(1)


@pytest.mark.parametrize("inside", [1, 2])
def test_eight_callers_at_once(inside):
    """Every call has buffers of its own, and calls that use several threads do not wait for each other forever."""
    model = random_model(image_size=16, stages=(Stage(64, 1, 2),), backend="cpu")
    levit_np.set_threads(inside)
    images = [random_images(model, 1 + n % 3, seed=n) for n in range(8)]
    expected, wrong = [model(x) for x in images], []

    def call(n):
        for _ in range(1000):
            if not np.array_equal(model(images[n]), expected[n]):
                wrong.append(n)

    at_once(call, 8)
    assert not wrong


@pytest.mark.parametrize("evaluated", [False, True])
def test_another_threads_evaluation_between_two_looks_at_what_there_is(evaluated, monkeypatch):
    """At what was made before, of other weights or nothing, and at what has changed since, which by then is nothing."""
    model, others = random_model(backend="cpu"), []
    x = random_images(model, 2)
    if evaluated:
        model(x)
        model.head.bias = model.head.bias + 5

    def changes(model):
        if not others:
            others.append(True)
            model(x)
        return vars(model).get("seen", -1)

    if evaluated:
        vars(model)["seen"] = vars(model).pop("_changes")
    monkeypatch.setattr(type(model), "_changes", property(changes, lambda model, value: vars(model).update(seen=value)))
    np.testing.assert_allclose(model(x), model.forward(x)[0], rtol=1e-4, atol=1e-4)
    assert others


def test_an_evaluation_while_a_state_of_another_type_is_taken(monkeypatch):
    """By another thread, after the arrays or before them: what it was given is not kept for the new ones."""
    model, double = random_model(backend="cpu"), random_model(dtype="float64", backend="cpu")
    x, kind = random_images(double, 2), type(model)

    def slow(model, name, value):
        if name == "precision":
            with suppress(levit_np.LevitError):
                model(x.astype(model.dtype))
        super(kind, model).__setattr__(name, value)

    monkeypatch.setattr(kind, "__setattr__", slow)
    model.set_state(double.state())
    np.testing.assert_allclose(model(x), double(x), rtol=1e-12)


def test_a_parameter_replaced_while_it_is_asked_what_has_changed(monkeypatch):
    """By another thread, after its version was read: seen by the next call."""
    model = random_model(backend="cpu")
    x, walk, bias = random_images(model, 2), model.walk, [model.head.bias + 5]
    model(x)

    def slow_walk(*arguments):
        yield from walk(*arguments)
        if bias:
            model.head.bias = bias.pop()

    Layer.changes += 1  # a parameter of another model was replaced
    monkeypatch.setattr(model, "walk", slow_walk)
    model(x)
    np.testing.assert_allclose(model(x), model.forward(x)[0], rtol=1e-4, atol=1e-4)
