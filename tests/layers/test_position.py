"""The position embedding against torch."""

import pytest

from levit_np.layers.position import PositionEmbedding
from levit_np.ops import reference as ops

from .compare import MODES, agree, filled, tokens


@MODES
@pytest.mark.parametrize("batch", [1, 3])
def test_position_embedding(batch, training):
    agree(filled(PositionEmbedding(ops, 7, 5)), lambda x, p, _: x + p["embedding"], tokens(batch, 7, 5), training)
