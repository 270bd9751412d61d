"""LeViT in PyTorch for the other libraries: the steps of our own plan, and so the same weights, folded as far as ours.

Every BN is folded into the layer beside it, the two heads are one linear map, the query scale is in the weights, and
one product computes Q, K and V (except in the shrinking attention, which has fewer queries)."""

import torch
from torch import nn
from torch.nn import functional as F

from levit_np.inference import plan
from levit_np.model import build

ACTIVATIONS = {"identity": lambda x: x, "hardswish": F.hardswish}


class FoldedLeViT(nn.Module):
    """images (B, 3, H, W) -> logits (B, classes): the evaluation of the LeViT with the given state().

    fused: uses scaled_dot_product_attention instead of two products and a softmax."""

    def __init__(self, config, state, fused):
        super().__init__()
        network = build(config)
        network.set_state(state)
        steps = list(plan.steps_of(network))
        count = len(config.stem)
        self.stem = nn.Sequential(*map(Convolution, steps[:count]))
        self.steps = nn.ModuleList(Attention(step, fused) if isinstance(step, plan.Attention) else
                                   STEPS[type(step)](step) for step in steps[count:])

    def forward(self, images):
        tensors = {"x": self.stem(images).flatten(2).transpose(1, 2)}  # (B, N, C)
        for step in self.steps:
            step(tensors)
        return tensors["logits"]


class Convolution(nn.Module):
    def __init__(self, step):
        super().__init__()
        outputs, inputs, kernel, _ = step.weight.shape
        self.map = _filled(nn.Conv2d(inputs, outputs, kernel, step.stride, step.padding), step)
        self.activation = ACTIVATIONS[step.activation]

    def forward(self, image):
        return self.activation(self.map(image))


class Linear(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.source, self.target, self.residual = step.source, step.target, step.residual
        self.map = _filled(nn.Linear(*step.weight.shape[::-1]), step)
        self.activation = ACTIVATIONS[step.activation]

    def forward(self, tensors):
        y = self.activation(self.map(_read(tensors, self.source)))
        tensors[self.target] = tensors[self.target] + y if self.residual else y


class Subsample(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, tensors):
        x, stride = tensors[self.step.source], self.step.stride
        kept = x.view(len(x), *self.step.grid, -1)[:, ::stride, ::stride]
        tensors[self.step.target] = kept.flatten(1, 2)  # (B, N', C)


class Attention(nn.Module):
    def __init__(self, step, fused):
        super().__init__()
        self.source, self.queries, self.target = step.source, step.queries, step.target
        self.heads, self.fused, self.activation = step.heads, fused, ACTIVATIONS[step.activation]
        keys = 2 if step.queries == step.source else 1  # whether q is there too, beside k and v
        self.sizes = [step.heads * size for size in (*[step.key] * keys, step.value)]
        self.register_buffer("bias", torch.from_numpy(step.bias).float())

    def forward(self, tensors):
        *q, k, v = _read(tensors, self.source).split(self.sizes, 2)
        (q,) = q or (_read(tensors, self.queries),)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, heads, N, size)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[None], scale=1.0)
        else:
            y = (q @ k.transpose(-1, -2) + self.bias).softmax(-1) @ v
        tensors[self.target] = self.activation(y.transpose(1, 2).flatten(2))


class Pool(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.source, self.target = step.source, step.target

    def forward(self, tensors):
        tensors[self.target] = tensors[self.source].mean(1)


STEPS = {plan.Linear: Linear, plan.Subsample: Subsample, plan.Pool: Pool}


def _read(tensors, name):
    """The tensor; all but the residual stream are read once, and their memory is then free for the next."""
    return tensors[name] if name == "x" else tensors.pop(name)


def _filled(layer, step):
    layer.weight.data, layer.bias.data = (torch.from_numpy(a).float() for a in (step.weight, step.bias))
    return layer.requires_grad_(False)
