"""Training in float32 on the cpu backend: a network's gradients against float64 on the reference backend, and losses
against PyTorch."""

import numpy as np
import pytest

import levit_np
from levit_np.ops import cpu as ops

from ...distance import worst_gradient
from ...random_model import FIVE, random_images, random_model


def gradients(model, x, targets):
    """{name: gradient} of the cross-entropy on every head, including the gradient of the images."""
    outputs, saved = model.forward(x, training=True)
    heads = outputs if model.head_dist else (outputs,)
    douts = [ops.cross_entropy_backward(o, targets.astype(o.dtype)) for o in heads]
    model.zero_gradients()
    dx = model.backward(douts if model.head_dist else douts[0], saved)
    return model.gradients() | {"images": dx}


# 65 pixels give 5×5, 3×3 and 2×2 tokens, and odd lines in the stem.
@pytest.mark.parametrize("name, changes", [
    ("levit_128s", dict(image_size=65, num_classes=10)), ("levit_192", dict(image_size=64, num_classes=10)),
    ("levit_digits", {}), ("levit_digits", dict(distillation=False)), ("levit_digits", dict(activation="silu")),
    *(pytest.param(name, {}, marks=pytest.mark.slow) for name in FIVE)])
def test_gradients(name, changes):
    """Within 1e-3 of the gradient's largest value, or of 1e-3 of the largest of all gradients where that is larger, as
    float32 errors are about 1e-7 of the summed terms. The number of threads changes nothing."""
    model = random_model(name, backend="cpu", drop_path=0.0, **changes)
    exact = random_model(name, backend="reference", dtype="float64", drop_path=0.0, **changes)
    exact.set_state({key: value.astype(np.float64) for key, value in model.state().items()})
    x = random_images(model, 8)
    targets = ops.targets_of(np.arange(8) % 10, model.config.num_classes, 0.1)
    theirs = gradients(exact, x.astype(np.float64), targets)
    ours = gradients(model, x, targets)
    assert all(g.dtype == np.float32 for g in ours.values())
    assert worst_gradient(ours, theirs, 1e-3) < 1e-3
    levit_np.set_threads(3)
    other = random_model(name, backend="cpu", drop_path=0.0, **changes)
    again = gradients(other, x, targets)
    assert all(np.array_equal(again[key], ours[key]) for key in ours)


def test_bn_and_hardswish_are_one_operation(monkeypatch):
    """In training, wherever Hardswish follows BN; evaluation of the layers uses both operations."""
    calls = []
    for name in ("hardswish", "batch_norm", "batch_norm_hardswish", "normalize"):
        def counted(*arguments, name=name, function=getattr(ops, name)):
            calls.append(name)
            return function(*arguments)
        monkeypatch.setattr(ops, name, counted)
    model = random_model("levit_digits", backend="cpu")
    layers = [layer for _, layer in model.walk()]
    attention, bn, act = (sum(type(layer).__name__ in kinds for layer in layers) for kinds in (
        ("Attention", "ShrinkingAttention"), ("BatchNorm",), ("MLP",)))
    act += len(model.stem.convolutions) - 1
    x = random_images(model, 2)
    model.forward(x, training=True)
    assert [calls.count(name) for name in ("hardswish", "batch_norm_hardswish", "batch_norm")] == [
        attention, act, bn - act]
    calls.clear()
    model.forward(x, training="frozen")
    assert calls.count("hardswish") == attention + act and calls.count("normalize") == bn


def test_ten_adamw_steps():
    """The losses agree with PyTorch's, computed in float64, within a relative 1e-5, which allows for ten steps of
    float32 rounding."""
    torch = pytest.importorskip("torch")
    from ...parity import images, pair

    rate, classes, labels = 5e-4 * 8 / 512, 17, np.array([1, 5, 11, 16, 0, 2, 7, 9])
    reference, theirs = pair("levit_128s", size=64)
    ours = levit_np.create("levit_128s", backend="cpu", image_size=64, num_classes=classes, drop_path=0.0)
    ours.set_state({name: value.astype(np.float32) for name, value in reference.state().items()})
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=rate, weight_decay=0.025)
    x, targets = images(8, 64), ops.targets_of(labels, classes, 0.1, np.float32)
    moments = {name: (np.zeros_like(g), np.zeros_like(g)) for name, g in ours.gradients().items()}
    for step in range(1, 11):
        out = theirs(torch.from_numpy(x))
        loss = sum(torch.nn.functional.cross_entropy(o, torch.from_numpy(labels), label_smoothing=0.1)
                   for o in (out.cls_logits, out.distillation_logits))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        outputs, saved = ours.forward(x.astype(np.float32), training=True)
        mine = sum(ops.cross_entropy(o, targets) for o in outputs)
        assert abs(mine - loss.item()) < 1e-5 * abs(loss.item()), step
        ours.zero_gradients()
        ours.backward([ops.cross_entropy_backward(o, targets) for o in outputs], saved)
        state = ours.state()
        for name, gradient in ours.gradients().items():
            state[name], *moments[name] = ops.adamw(state[name], gradient, *moments[name], step, rate, decay=0.025)
        ours.set_state(state)
