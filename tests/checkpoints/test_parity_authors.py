"""The authors' files read by us, and ours loaded by a torch network under the authors' names, with the same logits.

The authors' code is not needed: transformers' network computes the same, and `renamed` translates its names."""

import pytest
import torch

import levit_np

from ..authors import renamed
from ..distance import worst
from ..parity import images, pair
from ..random_model import FIVE


@pytest.mark.parametrize("name", FIVE)
def test_both_read_the_others_weights(name, tmp_path):
    _, theirs = pair(name)
    theirs.eval()
    state = dict(theirs.named_parameters()) | dict(theirs.named_buffers())  # the authors also store the bias indices
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
