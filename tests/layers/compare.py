"""Compares a layer with a torch function of (x, its tensors, training): output, every gradient, running statistics."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.networks import TINY, random_state
from tests.torch_levit import tensors

MODES = pytest.mark.parametrize("training", [False, True, "frozen"])
# Image sides odd and different; heads times key and value sizes that equal no number of channels.
CONFIG = replace(TINY["base"], key_size=3, value_ratio=2, shrink_value_ratio=4)
PLAIN = replace(CONFIG, normalization="layer", position="embedding", activation="silu", attention_activation="identity")
CONFIGS = pytest.mark.parametrize("config", [CONFIG, PLAIN])
CLOSE = dict(rtol=1e-10, atol=1e-11)


def filled(layer, seed=0):
    """The layer with every array random, since the starting values of norms and biases hide errors."""
    for name, part in layer.walk():
        part.name = name
        for key, array in random_state({f"{name}.{key}": spec for key, spec in part.specs.items()}, seed).items():
            setattr(part, key.removeprefix(f"{name}."), array)
        seed += 1
    return layer


def state(layer):
    return {f"{name}.{key}".removeprefix("."): getattr(part, key) for name, part in layer.walk() for key in part.specs}


def tokens(*shape, seed=5):
    """Random values, not contiguous in memory."""
    return np.random.default_rng(seed).standard_normal((*shape, 2))[..., 1]


def agree(layer, peer, x, training):
    """Asserts that layer and `peer` agree. Runs both twice, as gradients must accumulate."""
    p, tx = tensors(state(layer)), torch.from_numpy(x.copy()).requires_grad_()
    kept = x.copy()
    for _ in range(2):
        y, saved = layer.forward(x, training)
        expected = peer(tx, p, training)
        np.testing.assert_allclose(y, expected.detach().numpy(), **CLOSE)
        if not training:
            assert saved is None
            continue
        upstream = tokens(*y.shape, seed=6)
        dx = layer.backward(upstream, saved)
        tx.grad = None
        expected.backward(torch.from_numpy(upstream.copy()))
        np.testing.assert_allclose(dx, tx.grad.numpy(), **CLOSE)
    for name, part in layer.walk():
        for key, spec in part.specs.items():
            tensor = p[f"{name}.{key}".removeprefix(".")]
            if spec.trainable and training:
                np.testing.assert_allclose(part.accumulated[key], tensor.grad.numpy(), err_msg=f"{name}.{key}", **CLOSE)
            elif not spec.trainable:
                np.testing.assert_allclose(getattr(part, key), tensor.numpy(), err_msg=f"{name}.{key}", **CLOSE)
    np.testing.assert_array_equal(x, kept)
