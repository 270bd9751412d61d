"""Compares timm's LeViT with ours, in a process of its own: importing timm needs torchvision, which LeViT does not use,
so stubs stand in for it."""

import importlib.machinery
import importlib.util
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np


class _Anything(type):
    """A class with every attribute, so that timm can build its tables of interpolation modes and the like."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Stub(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


def import_timm():
    if importlib.util.find_spec("torchvision") is None:
        for name in ("torchvision", "torchvision.ops", "torchvision.ops.misc", "torchvision.transforms",
                     "torchvision.transforms.functional", "torchvision.datasets", "torchvision.datasets.folder",
                     "torchvision.models", "torchvision.models.feature_extraction", "torchvision.utils"):
            module = sys.modules[name] = _Stub(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            above, _, own = name.rpartition(".")
            if above:
                setattr(sys.modules[above], own, module)
    import timm

    return timm


def differences(name: str, directory: str) -> dict[str, float]:
    """The largest differences, relative to the largest value, in float64 with every array random: their weights read by
    us, and our export loaded by them with strict=True."""
    import torch

    import levit_np
    from levit_np.checkpoints.formats import name_table
    from levit_np.model import build

    from ..distance import worst, worst_gradient
    from ..parity import images, randomize

    timm = import_timm()
    conv = name.startswith("levit_conv")
    theirs = timm.create_model(name, num_classes=17, drop_path_rate=0.0)
    randomize(theirs, 1)
    with torch.no_grad():
        for key, array in theirs.named_parameters():
            if key.endswith("bn.weight"):
                array += 0.7
    theirs = theirs.double().train()
    theirs.set_distilled_training(True)

    from safetensors.torch import load_file, save_file

    path = Path(directory, name)
    save_file({key: array.contiguous() for key, array in theirs.state_dict().items()}, path)
    loaded = levit_np.load(path, dtype="float64")
    ours = build(replace(loaded.config, drop_path=0.0))  # drop path is random, and would differ between the two
    ours.set_state(loaded.state())

    x, generator = images(3), np.random.default_rng(3)
    upstream = [generator.standard_normal((3, 17)) for _ in range(2)]
    tx = torch.from_numpy(x.copy()).requires_grad_()
    outputs = theirs(tx)
    sum((o * torch.from_numpy(u)).sum() for o, u in zip(outputs, upstream)).backward()
    logits, saved = ours.forward(x, training=True)
    dx = ours.backward(upstream, saved)
    table, parameters = name_table(ours.config, "timm"), dict(theirs.named_parameters())
    mine = ours.gradients()
    expected = {own: parameters[table[own]].grad.numpy().reshape(array.shape) for own, array in mine.items()}
    assert len(mine) == len(parameters)
    buffers = dict(theirs.named_buffers())
    found = {
        "logits": max(worst(o, t.detach().numpy()) for o, t in zip(logits, outputs)),
        "images' gradient": worst(dx, tx.grad.numpy()),
        "gradients": worst_gradient(mine, expected),
        "statistics": max(worst(array, buffers[table[own]].numpy()) for own, array in ours.state().items()
                          if own.endswith((".mean", ".variance"))),
    }
    theirs.eval()
    with torch.no_grad():
        evaluated = theirs(torch.from_numpy(x)).numpy()
    found["evaluation"] = worst(ours(x), evaluated)
    levit_np.export(ours, path, format="timm_conv" if conv else "timm")
    fresh = timm.create_model(name, num_classes=17).double().eval()
    fresh.load_state_dict(load_file(path), strict=True)
    with torch.no_grad():
        found["their evaluation of our export"] = worst(fresh(torch.from_numpy(x)).numpy(), ours(x))
    return {what: float(value) for what, value in found.items()}
