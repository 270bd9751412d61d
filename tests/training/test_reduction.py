"""Summing gradients over ranks in buckets, with a stand-in for the sum; test_mpi.py uses several processes."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from levit_np.ops import reference
from levit_np.training import reduction
from levit_np.training.reduction import Reduction

from ..random_model import random_images, random_model


class Sum:
    """The sum with two other ranks that have the same gradients: three times the array, once it is finished."""

    def __init__(self, array):
        self.array, self.moves, self.before = array, 0, array.copy()

    def move(self):
        self.moves += 1

    def finish(self):
        assert np.array_equal(self.array, self.before)  # the array was not modified while it was being sent
        self.array *= 3


@pytest.mark.parametrize("bucket", [512, 4096, 1 << 20])
def test_gradients_become_their_sum_whatever_travels_together(monkeypatch, bucket):
    monkeypatch.setattr(reduction, "BUCKET", bucket)
    model, started = random_model(backend="reference"), []
    x = random_images(model, 2)

    def backward():
        model.zero_gradients()
        (first, second), saved = model.forward(x, training=True)
        model.backward((first, second), saved)

    model.random = np.random.default_rng(0)
    backward()
    expected = {name: 3 * gradient for name, gradient in model.gradients().items()}
    reducing = Reduction(model, lambda array: started.append(Sum(array)) or started[-1])
    for times in (1, 2):
        model.random = np.random.default_rng(0)
        with reducing:
            backward()
        found = dict(model.gradients())
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            assert gradient.shape == expected[name].shape and np.array_equal(gradient, expected[name]), name
        assert sum(sum_.array.size for sum_ in started) == times * sum(map(np.size, found.values()))
        assert max(sum_.array.nbytes for sum_ in started) <= bucket
        if times == 1:
            messages, bias = [sum_.array.size for sum_ in started], found["head.bias"]
    assert [sum_.array.size for sum_ in started] == 2 * messages
    assert started[0].moves > 1 or len(started) == 2  # the first was sent while the backward continued
    assert np.shares_memory(found["head.bias"], bias)  # the memory is used again
    assert len(messages) < len(found) or bucket < 1 << 20  # few messages
    model.freeze(["stem"])  # now less is sent
    parts = []
    for context in (nullcontext(), reducing):
        model.random = np.random.default_rng(0)
        with context:
            backward()
        parts.append(dict(model.gradients()))
    for name, gradient in parts[0].items():
        assert np.array_equal(parts[1][name], 3 * gradient), name


def test_between_reductions_gradients_are_not_summed(monkeypatch):
    monkeypatch.setattr(reduction, "BUCKET", 1 << 30)
    model = random_model(backend="reference")
    reducing = Reduction(model, lambda array: pytest.fail("was sent"))
    x = random_images(model, 2)
    logits, saved = model.forward(x, training=True)
    model.backward(logits, saved)
    with pytest.raises(KeyError), reducing:
        model.backward(*model.forward(x, training=True))
        raise KeyError  # the caller ends the other ranks
    monkeypatch.setattr(reduction, "BUCKET", 512)  # what an open reduction would send at once
    logits, saved = model.forward(x, training=True)
    model.backward(logits, saved)


def reduced(*gradients, reducing=None):
    """(the gradients of a layer, each alone in its layer, after their reduction; the arrays sent; the reduction)."""
    layers, sent = [SimpleNamespace(accumulated={}) for _ in gradients], []
    model = SimpleNamespace(ops=reference, walk=lambda: [("", layer) for layer in layers])
    kept = reducing and reducing._memory
    reducing = Reduction(model, lambda array: sent.append(array) or Sum(array))
    reducing._memory = kept or []
    with reducing:
        for layer, gradient in zip(layers, gradients):
            layer.accumulated["weight"] = gradient
            layer.completed(layer)
    return [layer.accumulated["weight"] for layer in layers], sent, reducing


@pytest.mark.parametrize("gradient, in_place", [
    (np.ones(2), True), (np.ones(1), False), (np.ones((2, 3), order="F"), False), (np.ones(3)[:2], False)],
    ids=["large", "small", "not contiguous", "a view"])
def test_a_large_gradient_is_summed_where_it_lies_if_it_is_its_own(monkeypatch, gradient, in_place):
    monkeypatch.setattr(reduction, "BUCKET", 64)
    (found,), sent, _ = reduced(gradient)
    assert np.array_equal(found, 3 * np.ones(gradient.shape)) and len(sent) == 1
    assert np.shares_memory(found, gradient) == in_place and (gradient == (3 if in_place else 1)).all()


def test_nothing_is_sent_when_nothing_waits(monkeypatch):
    monkeypatch.setattr(reduction, "BUCKET", 64)
    _, sent, _ = reduced(np.ones(8), *[np.ones(1) for _ in range(8)])
    assert [array.size for array in sent] == [8, 8]


def test_memory_of_another_type_is_not_used_again():
    *_, before = reduced(np.ones(1, np.float32))
    (found,), *_ = reduced(np.full(1, 1 / 3), reducing=before)
    assert found.dtype == np.float64 and found == 1
