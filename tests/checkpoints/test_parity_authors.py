"""The authors' files and ours, both ways: a torch network whose arrays bear their names, by rules of this test alone.

Their code is not needed for that: transformers' network computes the same, and `renamed` says how its arrays are called
in theirs.
"""

import pytest
import torch

import levit_np

from ..authors import renamed
from ..parity import FIVE, images, pair, worst


@pytest.mark.parametrize("name", FIVE)
def test_their_weights_here_and_ours_there(name, tmp_path):
    _, theirs = pair(name)
    theirs.eval()
    state = dict(theirs.named_parameters()) | dict(theirs.named_buffers())  # the authors store the bias indices too
    state = {key: array.detach() for key, array in state.items()}
    names = renamed({key: key for key in state})  # theirs -> transformers'
    assert "blocks.0.m.attention_bias_idxs" in names and len(names) == len(state)
    torch.save({"model": {there: state[key] for there, key in names.items()}, "epoch": 999}, tmp_path / "theirs.pth")
    ours = levit_np.load(tmp_path / "theirs.pth", dtype="float64")
    assert ours.config.name == name
    x = images(1)
    logits = ours(x)
    with torch.no_grad():
        assert worst(logits, theirs(torch.from_numpy(x)).logits.numpy()) < 1e-11

    levit_np.export(ours, tmp_path / "ours.pth", format="facebook")
    written = torch.load(tmp_path / "ours.pth", weights_only=True)["model"]
    assert written.keys() == names.keys()
    for there, array in written.items():
        expected = state[names[there]]
        assert array.dtype == expected.dtype and array.shape == expected.shape, there
        if not there.endswith("num_batches_tracked"):
            assert torch.equal(array, expected), there
    theirs.load_state_dict({key: written[there] for there, key in names.items() if key in theirs.state_dict()},
                           strict=True)
    with torch.no_grad():
        assert worst(logits, theirs(torch.from_numpy(x)).logits.numpy()) < 1e-11
