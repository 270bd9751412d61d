"""The pointwise activation as a layer, against torch, on both sides of Hardswish's kinks."""

import pytest

from levit_np.layers.activation import Activation
from levit_np.ops import reference as ops
from tests.torch_levit import ACTIVATIONS

from .compare import MODES, agree, tokens


@MODES
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation(kind, training):
    agree(Activation(ops, kind), lambda x, p, _: ACTIVATIONS[kind](x) * 1, 4 * tokens(2, 30, 5), training)
