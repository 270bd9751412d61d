"""Small networks with random weights, and their differences from the torch LeViT."""

from dataclasses import replace

import numpy as np
import torch

from levit_np.config import Convolution, LeViTConfig, Stage
from levit_np.model import build

from . import torch_levit
from .distance import worst, worst_gradient
from .random_model import random_state

_TINY = LeViTConfig("tiny", (Convolution(4), Convolution(6)), (Stage(6, 1, 2), Stage(10, 1, 3, 2)), 3,
                    image_size=(18, 11), in_channels=2, num_classes=5)
TINY = {
    "base": _TINY,  # 5×3 pixels, then 3×2: odd and even, Nq ≠ Nk
    "silu": replace(_TINY, activation="silu", attention_activation="silu", distillation=False),
    "vit": replace(_TINY, stages=(Stage(6, 2, 2),), normalization="layer", position="embedding", pooling="token",
                   attention_activation="identity"),
    "drop": replace(_TINY, drop_path=0.4),
}


def random_network(config, seed=0, dtype=np.float64):
    model = build(config)
    model.set_state(random_state(model.specs_by_name(), seed, dtype))
    return model


def images_of(config, batch, seed=1, dtype=np.float64):
    shape = (batch, config.in_channels, *config.image_size)
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def drawn_masks(config, batch, seed):
    """The masks that drop path must draw: one for each residual branch, in the order of computation."""
    branches = sum(2 * stage.depth + (number > 0) for number, stage in enumerate(config.stages))
    generator, rate = np.random.default_rng(seed), config.drop_path
    return [torch.from_numpy((generator.random((batch, 1, 1)) >= rate) / (1 - rate)) for _ in range(branches)]


def against_torch(config, training=True, batch=3, seed=0):
    """{what: largest difference from torch, relative to the largest value}: logits, and unless training is False also
    the gradients of the images and of each parameter, and the running statistics."""
    model, x = random_network(config, seed), images_of(config, batch, seed + 1)
    p, tx = torch_levit.tensors(model.state()), torch.from_numpy(x.copy()).requires_grad_()
    masks = drawn_masks(config, batch, 7) if config.drop_path and training is True else ()
    model.random = np.random.default_rng(7)
    theirs = torch_levit.levit(tx, p, config, training, masks)
    if not training:
        return {"logits": worst(model(x), theirs.detach().numpy())}
    outputs, saved = model.forward(x, training=training)
    outputs = outputs if config.distillation else (outputs,)
    upstream = [np.random.default_rng(i).standard_normal(out.shape) for i, out in enumerate(outputs)]
    dx = model.backward(upstream if config.distillation else upstream[0], saved)
    torch.autograd.backward(theirs, [torch.from_numpy(d) for d in upstream])
    gradients = model.gradients()
    return {
        "logits": max(worst(a, b.detach().numpy()) for a, b in zip(outputs, theirs, strict=True)),
        "images": worst(dx, tx.grad.numpy()),
        "gradients": worst_gradient(gradients, {name: p[name].grad.numpy() for name in gradients}),
        "statistics": max((worst(array, p[name].detach().numpy()) for name, array in model.state().items()
                           if name.endswith((".mean", ".variance"))), default=0.0),
    }


def is_right(found):
    """Whether float64's bars are met: logits and statistics within 1e-11, gradients within 1e-9."""
    bars = {"logits": 1e-11, "statistics": 1e-11, "images": 1e-9, "gradients": 1e-9}
    return all(difference < bars[what] for what, difference in found.items())
