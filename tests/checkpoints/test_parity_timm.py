"""timm's models and ours, both ways, wherever timm is installed; it is not among the test requirements, since it brings
torchvision."""

import importlib.util

import pytest

from levit_np.storage import confined

from ..parity import FIVE
from . import timm_child

pytestmark = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


@pytest.mark.parametrize("name", [*FIVE, "levit_conv_128s"])
def test_their_weights_here_and_ours_there(name, tmp_path):
    found = confined.run(timm_child.differences, name, tmp_path, seconds=300, memory=16 << 30)
    assert max(found["logits"], found["statistics"], found["evaluation"]) < 1e-11, found
    assert found["their evaluation of our export"] < 1e-11, found
    assert max(found["gradients"], found["images' gradient"]) < 1e-9, found
