"""timm's models against ours, in both directions. Skipped where timm, which needs torchvision, is not installed."""

import importlib.util

import pytest

from levit_np.storage import confined

from ..random_model import FIVE
from . import timm_child

pytestmark = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


@pytest.mark.parametrize("name", [*FIVE, "levit_conv_128s"])
def test_both_read_the_others_weights(name, tmp_path):
    found = confined.run(timm_child.differences, name, tmp_path, seconds=300, memory=16 << 30)
    assert max(found["logits"], found["statistics"], found["evaluation"]) < 1e-11, found
    assert found["their evaluation of our export"] < 1e-11, found
    assert max(found["gradients"], found["images' gradient"]) < 1e-9, found
