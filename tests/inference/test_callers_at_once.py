"""The cpu backend's evaluation when several threads of the caller use or change one network at the same time."""

from contextlib import suppress

import numpy as np
import pytest

import levit_np
from levit_np.config import Stage
from levit_np.layers.layer import Layer

from ..at_once import at_once
from ..ops.cpu.conftest import one_thread_again  # noqa: F401  (a fixture)
from ..random_model import random_images, random_model


@pytest.mark.parametrize("inside", [1, 2])
def test_eight_callers_at_once(inside):
    """Each call has its own buffers, and calls that use several threads each do not deadlock."""
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
def test_another_thread_evaluates_between_the_two_checks_of_the_plan(evaluated, monkeypatch):
    """The network looks up its stored plan, then asks what has changed since; between the two another thread evaluates,
    so there was no plan or an old one, and by then nothing has changed."""
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


def test_an_evaluation_while_a_state_of_another_dtype_is_set(monkeypatch):
    """Another thread evaluates just before the new precision is set: the plan that it made is not kept for the new
    arrays."""
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


def test_a_parameter_replaced_while_changes_are_looked_for(monkeypatch):
    """Another thread replaces a parameter after its version was read: the next call sees it."""
    model = random_model(backend="cpu")
    x, walk, bias = random_images(model, 2), model.walk, [model.head.bias + 5]
    model(x)

    def slow_walk(*arguments):
        yield from walk(*arguments)
        if bias:
            model.head.bias = bias.pop()

    Layer.changes += 1  # as if a parameter of another model had been replaced
    monkeypatch.setattr(model, "walk", slow_walk)
    model(x)
    np.testing.assert_allclose(model(x), model.forward(x)[0], rtol=1e-4, atol=1e-4)
