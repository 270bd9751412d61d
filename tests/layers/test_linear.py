"""LinearBN, Linear and Head against torch.nn.functional."""

import numpy as np
import pytest

from levit_np.errors import LevitError
from levit_np.layers.linear import Head, Linear, LinearBN
from levit_np.ops import reference as ops
from tests import torch_levit

from .compare import CLOSE, MODES, agree, filled, tokens


@MODES
@pytest.mark.parametrize("batch, count", [(3, 5), (1, 7), (2, 1)])
def test_linear_bn(batch, count, training):
    agree(filled(LinearBN(ops, 4, 7)), torch_levit.linear, tokens(batch, count, 4), training)


@MODES
@pytest.mark.parametrize("batch, count", [(3, 5), (1, 1)])
def test_linear(batch, count, training):
    agree(filled(Linear(ops, 4, 7)), torch_levit.linear, tokens(batch, count, 4), training)


@MODES
@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_head(normalization, training):
    agree(filled(Head(ops, 6, 5, normalization)), torch_levit.head, tokens(4, 6), training)


def test_folded_bn_is_bn():
    """Evaluation is one linear map: BN scales the rows of LinearBN's weight, and the columns of Head's, where BN comes
    first."""
    layer, x = filled(LinearBN(ops, 4, 7)), tokens(2, 3, 4)
    scale = layer.bn.gamma / np.sqrt(layer.bn.variance + layer.bn.eps)
    folded = x @ (layer.weight * scale[:, None]).T + layer.bn.beta - layer.bn.mean * scale
    np.testing.assert_allclose(layer.forward(x)[0], folded, **CLOSE)
    layer, x = filled(Head(ops, 6, 5)), tokens(4, 6)
    scale = layer.bn.gamma / np.sqrt(layer.bn.variance + layer.bn.eps)
    shift = layer.weight @ (layer.bn.beta - layer.bn.mean * scale)
    np.testing.assert_allclose(layer.forward(x)[0], x @ (layer.weight * scale).T + shift + layer.bias, **CLOSE)


def test_one_value_a_channel_cannot_be_trained_on():
    """A batch of one is refused only if it has one token; then nothing has changed."""
    layer = filled(LinearBN(ops, 4, 7))
    layer.forward(tokens(1, 2, 4), training=True)
    before = layer.bn.mean
    with pytest.raises(LevitError,
                       match=r"bn: expected at least two values per channel .* found \(1, 1, 7\).*larger batch"):
        layer.forward(tokens(1, 1, 4), training=True)
    with pytest.raises(LevitError, match="two values"):
        layer.forward(tokens(0, 5, 4), training=True)
    assert layer.bn.mean is before


def test_a_wrong_shape_is_named():
    layer = filled(LinearBN(ops, 4, 7))
    layer.name = "stages.0.blocks.1.mlp.up"
    with pytest.raises(LevitError, match=r"stages.0.blocks.1.mlp.up: expected x \(B, N, 4\), found \(2, 3, 5\)"):
        layer.forward(tokens(2, 3, 5))
