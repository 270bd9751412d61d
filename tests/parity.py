"""A transformers LeViT with random weights, and ours with the same weights."""

from dataclasses import replace

import numpy as np
import torch
from transformers import LevitConfig, LevitForImageClassificationWithTeacher
from transformers.models.levit.modeling_levit import LevitResidualLayer

from levit_np.checkpoints.formats import name_table
from levit_np.config import FAMILY
from levit_np.model import build


def randomize(module, seed):
    """Gives all gammas, betas, biases and statistics random values, as a fresh LeViT is nearly the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, array in module.state_dict().items():
            if "running_var" in name:
                array.copy_(torch.rand(array.shape, generator=generator) + 0.5)
            elif array.is_floating_point() and array.ndim == 1 or "attention_biases" in name:
                centre = 0.7 if "norm.weight" in name else 0.0
                array.copy_(torch.randn(array.shape, generator=generator) * 0.3 + centre)
            elif array.is_floating_point() and array.ndim > 1:
                # 1/√fan_in keeps the signal's size; transformers' own 0.02 lets it shrink to rounding errors in
                # evaluation.
                array.copy_(torch.randn(array.shape, generator=generator) / array[0].numel() ** 0.5)


def pair(name, classes=17, dtype=torch.float64, size=224, drop_path=0.0):
    """(ours, theirs) with the same weights. name: an architecture, or a configuration with transformers' stem."""
    config = FAMILY[name] if isinstance(name, str) else name
    theirs = LevitForImageClassificationWithTeacher(LevitConfig(
        hidden_sizes=[s.channels for s in config.stages], depths=[s.depth for s in config.stages],
        num_attention_heads=[s.heads for s in config.stages], key_dim=[config.key_size] * 3, num_labels=classes,
        image_size=size))
    for module in theirs.modules():
        if isinstance(module, LevitResidualLayer):  # its configuration allows only whole numbers as drop_path_rate
            module.drop_rate = drop_path
    randomize(theirs, 1)
    theirs = theirs.to(dtype).train()
    ours = build(replace(config, num_classes=classes, image_size=(size, size), drop_path=drop_path))
    state = {n: v.detach().numpy().copy() for n, v in theirs.state_dict().items()}
    ours.set_state({own: state[there] for own, there in name_table(ours.config, "transformers").items()})
    return ours, theirs


def share_drop_path(ours, monkeypatch):
    """transformers draws its masks from torch.rand in the order of computation, ours from model.random: both get the
    numbers of one seed."""
    ours.random, peer = np.random.default_rng(8), np.random.default_rng(8)
    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: torch.from_numpy(peer.random(shape)))


def images(batch, size=224, seed=2, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal((batch, 3, size, size)).astype(dtype)
