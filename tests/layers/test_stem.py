"""The stem, its convolutions with BN and with a bias, against torch.nn.functional."""

from dataclasses import replace

import numpy as np
import pytest

from levit_np.config import Convolution
from levit_np.errors import LevitError
from levit_np.layers.stem import ConvBN, Stem
from levit_np.ops import reference as ops
from tests import torch_levit

from .compare import CLOSE, CONFIG, MODES, PLAIN, agree, filled, tokens


@MODES
@pytest.mark.parametrize("normalization", ["batch", "layer"])
@pytest.mark.parametrize("kernel, stride, padding, size", [(3, 2, 1, (9, 6)), (3, 2, 1, (5, 4)), (16, 16, 0, (33, 16))])
@pytest.mark.parametrize("batch", [1, 2])
def test_convolution(kernel, stride, padding, size, batch, normalization, training):
    def peer(x, p, training):
        return torch_levit.convolution(x, p, stride, padding, training)

    agree(filled(ConvBN(ops, 3, 4, kernel, stride, padding, normalization)), peer, tokens(batch, 3, *size), training)


ONE, FOUR = (Convolution(6, kernel=4, stride=4),), tuple(map(Convolution, (3, 4, 5, 6)))


@MODES
@pytest.mark.parametrize("config", [CONFIG, PLAIN, replace(CONFIG, stem=ONE), replace(CONFIG, stem=FOUR)])
@pytest.mark.parametrize("batch", [1, 3])
def test_stem(config, batch, training):
    def peer(x, p, training):
        return torch_levit.stem(x, p, config, training)

    agree(filled(Stem(ops, config)), peer, tokens(batch, 2, 18, 11), training)


def test_folded_bn_is_bn():
    layer, x = filled(ConvBN(ops, 3, 4, 3, 2, 1)), tokens(2, 3, 7, 6)
    scale = layer.bn.gamma / np.sqrt(layer.bn.variance + layer.bn.eps)
    folded = ops.convolution(x, layer.weight * scale.reshape(-1, 1, 1, 1), 2, 1)
    shift = layer.bn.beta - layer.bn.mean * scale
    np.testing.assert_allclose(layer.forward(x)[0], folded + shift.reshape(-1, 1, 1), **CLOSE)


def test_one_pixel_of_one_image_cannot_be_trained_on():
    layer = filled(ConvBN(ops, 3, 4, 3, 2, 1))
    layer.forward(tokens(1, 3, 3, 2), training=True)
    with pytest.raises(LevitError, match="at least two values per channel"):
        layer.forward(tokens(1, 3, 2, 2), training=True)


def test_a_wrong_number_of_channels_is_named():
    with pytest.raises(LevitError, match=r"expected x \(B, 3, H, W\), found \(1, 2, 4, 4\)"):
        filled(ConvBN(ops, 3, 4, 3, 2, 1)).forward(tokens(1, 2, 4, 4))
