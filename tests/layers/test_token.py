"""The class token against torch, and the pooling that reads only this token."""

import numpy as np
import pytest
import torch

from levit_np.layers.token import ClassToken
from levit_np.ops import reference as ops

from .compare import MODES, agree, filled, tokens


@MODES
@pytest.mark.parametrize("batch", [1, 3])
def test_class_token(batch, training):
    def peer(x, p, training):
        return torch.cat([p["token"][None].repeat(len(x), 1, 1), x], 1)

    agree(filled(ClassToken(ops, 5)), peer, tokens(batch, 7, 5), training)


def test_nothing_but_the_class_token_is_read():
    x = tokens(2, 4, 3)
    np.testing.assert_array_equal(ops.first_token(x), x[:, 0])
    dx = ops.first_token_backward(x[:, 1], 4)
    assert (dx[:, 0] == x[:, 1]).all() and not dx[:, 1:].any()
