"""The five models against the transformers package in float64, with random weights and images: logits, gradients,
running statistics, AdamW steps."""

import numpy as np
import pytest
import torch

from levit_np.checkpoints.formats import name_table
from levit_np.config import FAMILY
from levit_np.ops import reference as ops

from .distance import worst, worst_gradient
from .parity import images, pair, share_drop_path
from .random_model import FIVE


@pytest.mark.parametrize("name", FIVE)
def test_logits_gradients_and_statistics(name, monkeypatch):
    ours, theirs = pair(name, drop_path=FAMILY[name].drop_path)
    share_drop_path(ours, monkeypatch)
    # Three images: with two, the head's BN keeps little more than the sign of each channel, and amplifies rounding.
    x, generator = images(3), np.random.default_rng(3)
    upstream = [generator.standard_normal((3, 17)) for _ in range(2)]
    tx = torch.from_numpy(x.copy()).requires_grad_()
    out = theirs(tx)
    (out.cls_logits * torch.from_numpy(upstream[0])).sum().add(
        (out.distillation_logits * torch.from_numpy(upstream[1])).sum()).backward()
    (logits, logits_dist), saved = ours.forward(x, training=True)
    dx = ours.backward(upstream, saved)

    assert worst(logits, out.cls_logits.detach().numpy()) < 1e-11
    assert worst(logits_dist, out.distillation_logits.detach().numpy()) < 1e-11
    assert worst(dx, tx.grad.numpy()) < 1e-9
    table, parameters = name_table(ours.config, "transformers"), dict(theirs.named_parameters())
    gradients = ours.gradients()
    assert worst_gradient(gradients, {own: parameters[table[own]].grad.numpy() for own in gradients}) < 1e-9
    buffers = dict(theirs.named_buffers())
    for own, array in ours.state().items():
        if own.endswith((".mean", ".variance")):
            assert worst(array, buffers[table[own]].numpy()) < 1e-11, own
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(x)).logits.numpy()
    assert worst(ours(x), expected) < 1e-11
    single = ours.to("reference")
    single.set_state({k: v.astype(np.float32) for k, v in ours.state().items()})
    assert worst(single(x.astype(np.float32)), expected) < 1e-4


def test_frozen_gradient_is_the_evaluated_networks_derivative():
    """Against finite differences of transformers' logits. PyTorch 2.13's own BatchNorm gradient is wrong for a batch of
    one whose incoming gradient is transposed, as behind this stem; with two images it agrees."""
    ours, theirs = pair("levit_128s")
    theirs.eval()
    x, step = images(1), 1e-4
    direction = np.random.default_rng(5).standard_normal(x.shape)
    with torch.no_grad():
        high, low = (theirs(torch.from_numpy(x + s * direction)).logits[0, 3].item() for s in (step, -step))
    outputs, saved = ours.forward(x, training="frozen")
    douts = np.zeros((1, 17))
    douts[0, 3] = 0.5
    derivative = (ours.backward((douts, douts), saved) * direction).sum()
    assert derivative == pytest.approx((high - low) / (2 * step), rel=1e-5)


# 80 pixels give 5×5, 3×3 and 2×2 tokens.
@pytest.mark.parametrize("name, size, batch, drop_path", [
    ("levit_128s", 80, 8, 0.0), ("levit_128s", 80, 8, 0.1),
    *(pytest.param(*case, marks=pytest.mark.slow)
      for case in [*((name, 80, 8, FAMILY[name].drop_path) for name in FIVE[1:]), ("levit_128s", 224, 4, 0.0)])])
def test_ten_adamw_steps(name, size, batch, drop_path, monkeypatch):
    """Cross-entropy on both heads; the losses agree within a relative 1e-9.

    Small images come in eights, as the head's BN over four images would amplify rounding from step to step."""
    rate = 5e-4 * batch / 512  # the recipe's; a larger one amplifies the rounding of gradients that are nearly 0
    ours, theirs = pair(name, size=size, drop_path=drop_path)
    share_drop_path(ours, monkeypatch)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=rate, weight_decay=0.025)
    x, labels = images(batch, size), np.array([1, 5, 11, 16, 0, 2, 7, 9])[:batch]
    targets, moments = ops.targets_of(labels, 17, 0.1), {}
    for step in range(1, 11):
        out = theirs(torch.from_numpy(x))
        loss = sum(torch.nn.functional.cross_entropy(o, torch.from_numpy(labels), label_smoothing=0.1)
                   for o in (out.cls_logits, out.distillation_logits))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        outputs, saved = ours.forward(x, training=True)
        mine = sum(ops.cross_entropy(o, targets) for o in outputs)
        assert abs(mine - loss.item()) < 1e-9 * abs(loss.item()), step
        ours.zero_gradients()
        ours.backward([ops.cross_entropy_backward(o, targets) for o in outputs], saved)
        state = ours.state()
        for name, gradient in ours.gradients().items():
            first, second = moments.get(name, (0.0, 0.0))
            state[name], *moments[name] = ops.adamw(state[name], gradient, first, second, step, rate, decay=0.025)
        ours.set_state(state)
