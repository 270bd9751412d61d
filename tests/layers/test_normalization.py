"""BatchNorm and LayerNorm as layers, and the running statistics over several batches, against torch."""

import numpy as np
import pytest
import torch

from levit_np.layers.normalization import BatchNorm, LayerNorm
from levit_np.ops import reference as ops
from tests import torch_levit

from .compare import CLOSE, MODES, agree, filled, tokens


@MODES
@pytest.mark.parametrize("shape", [(3, 5), (1, 4, 5), (2, 3, 5)])
def test_batch_norm(shape, training):
    agree(filled(BatchNorm(ops, 5)), torch_levit.batch_norm, tokens(*shape), training)


@MODES
@pytest.mark.parametrize("batch", [1, 3])
def test_batch_norm_of_images(batch, training):
    def peer(x, p, training):
        return torch_levit.batch_norm(x.permute(0, 2, 3, 1), p, training).permute(0, 3, 1, 2)

    agree(filled(BatchNorm(ops, 5, axis=1)), peer, tokens(batch, 5, 3, 4), training)


@MODES
def test_layer_norm(training):
    agree(filled(LayerNorm(ops, 5)), lambda x, p, training: torch_levit.layer_norm(x, p), tokens(1, 3, 5), training)


def test_running_statistics_are_torchs():
    """Over batches of different sizes, down to two, the smallest allowed; the variance is the unbiased one."""
    layer, peer = BatchNorm(ops, 5), torch.nn.BatchNorm1d(5, dtype=torch.float64)
    layer.gamma, layer.beta, layer.mean, layer.variance = np.ones(5), np.zeros(5), np.zeros(5), np.ones(5)
    for batch in (2, 7, 3):
        x = 3 * tokens(batch, 5, seed=batch) + 1
        layer.forward(x, training=True)
        peer(torch.from_numpy(x.copy()))
    np.testing.assert_allclose(layer.mean, peer.running_mean.numpy(), **CLOSE)
    np.testing.assert_allclose(layer.variance, peer.running_var.numpy(), **CLOSE)
    for training in (False, "frozen"):
        layer.forward(x, training)
    np.testing.assert_allclose(layer.mean, peer.running_mean.numpy(), **CLOSE)
