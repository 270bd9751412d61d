"""Attention, shrinking attention and the attention bias against torch, with and without bias, on odd grids."""

import numpy as np
import pytest

from levit_np.layers.attention import Attention, AttentionBias, ShrinkingAttention
from levit_np.ops import reference as ops
from tests import torch_levit

from .compare import CONFIGS, MODES, agree, filled, tokens

GRIDS = pytest.mark.parametrize("grid", [(3, 5), (4, 3), (1, 2)])


def peer(config, grid):
    return lambda x, p, training: torch_levit.attention(x, p, config, grid, training)


@MODES
@GRIDS
@CONFIGS
@pytest.mark.parametrize("batch", [1, 2])
def test_attention(config, grid, batch, training):
    layer = filled(Attention(ops, 5, 2, grid, config))
    agree(layer, peer(config, grid), tokens(batch, grid[0] * grid[1], 5), training)


@MODES
@GRIDS
@CONFIGS
def test_shrinking_attention(config, grid, training):
    """With Nq ≠ Nk and another number of channels out than in."""
    layer = filled(ShrinkingAttention(ops, 5, 7, 3, grid, config))
    agree(layer, peer(config, grid), tokens(2, grid[0] * grid[1], 5), training)


@pytest.mark.parametrize("stride", [1, 2])
def test_bias_is_the_same_for_the_same_distance(stride):
    bias = filled(AttentionBias(ops, 2, (3, 5), stride)).forward()
    pixels = [(y, x) for y in range(3) for x in range(5)]
    queries = [(y, x) for y, x in pixels if y % stride == x % stride == 0]
    seen = {}
    for i, (qy, qx) in enumerate(queries):
        for j, (ky, kx) in enumerate(pixels):
            expected = seen.setdefault((abs(qy - ky), abs(qx - kx)), bias[:, i, j])
            np.testing.assert_array_equal(bias[:, i, j], expected)
    assert len({tuple(values) for values in seen.values()}) == len(seen)
