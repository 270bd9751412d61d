"""LeViT in PyTorch for the other libraries: the same weights as ours, folded as far as ours.

Every BN is folded into the layer before it, the two heads are one linear map, the query scale is in the weights, and
one product computes Q, K and V (except in the shrinking attention, which has fewer queries)."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from levit_np.layers.normalization import BatchNorm
from levit_np.ops import reference


class FoldedLeViT(nn.Module):
    """images (B, 3, H, W) -> logits (B, classes): the evaluation of the LeViT with the given state().

    fused: uses scaled_dot_product_attention instead of two products and a softmax."""

    def __init__(self, config, state, fused):
        super().__init__()
        state = {name: np.asarray(array, np.float64) for name, array in state.items()}
        layers = []
        for i, convolution in enumerate(config.stem):
            if i:
                layers.append(nn.Hardswish())
            layers.append(_convolution(*_folded(state, f"stem.convolutions.{i}"), convolution))
        self.stem = nn.Sequential(*layers)
        blocks, grids = [], config.resolutions
        for i, stage in enumerate(config.stages):
            if i:
                name, sizes = f"stages.{i}.downsample", (config.key_size, config.shrink_value_ratio * config.key_size)
                blocks += [ShrinkingAttention(state, name, stage.shrink_heads, sizes, grids[i - 1], fused),
                           MLP(state, name)]
            for name in (f"stages.{i}.blocks.{j}" for j in range(stage.depth)):
                sizes = config.key_size, config.value_ratio * config.key_size
                blocks += [Attention(state, name, stage.heads, sizes, grids[i], fused), MLP(state, name)]
        self.blocks = nn.Sequential(*blocks)
        self.head = _linear(*_merged_heads(state))

    def forward(self, images):
        x = self.stem(images).flatten(2).transpose(1, 2)  # (B, N, C)
        return self.head(self.blocks(x).mean(1))


class Attention(nn.Module):
    """x + projection(hardswish(softmax(q kᵀ + bias) v))."""

    def __init__(self, state, name, heads, sizes, grid, fused):
        super().__init__()
        self.heads, self.sizes, self.fused = heads, sizes, fused
        weight, bias = _folded(state, f"{name}.attention.qkv")
        q, k, v = _by_part(weight, bias, heads, (sizes[0], *sizes))
        self.qkv = _linear(*_stacked(_scaled(q, sizes[0]), k, v))
        self.projection = _linear(*_folded(state, f"{name}.attention.projection"))
        self.register_buffer("bias", _bias(state, name, grid, 1))

    def forward(self, x):
        q, k, v = self.qkv(x).split([self.heads * size for size in (self.sizes[0], *self.sizes)], 2)
        return x + self.projection(F.hardswish(attention(q, k, v, self.heads, self.bias, self.fused)))


class ShrinkingAttention(nn.Module):
    """The same with queries for every second pixel, a wider V, and no residual connection."""

    def __init__(self, state, name, heads, sizes, grid, fused):
        super().__init__()
        self.heads, self.sizes, self.grid, self.fused = heads, sizes, grid, fused
        self.q = _linear(*_scaled(_folded(state, f"{name}.attention.q"), sizes[0]))
        self.kv = _linear(*_stacked(*_by_part(*_folded(state, f"{name}.attention.kv"), heads, sizes)))
        self.projection = _linear(*_folded(state, f"{name}.attention.projection"))
        self.register_buffer("bias", _bias(state, name, grid, 2))

    def forward(self, x):
        k, v = self.kv(x).split([self.heads * size for size in self.sizes], 2)
        kept = x.view(len(x), *self.grid, -1)[:, ::2, ::2].flatten(1, 2)  # (B, N', C)
        return self.projection(F.hardswish(attention(self.q(kept), k, v, self.heads, self.bias, self.fused)))


class MLP(nn.Module):
    """x + down(hardswish(up(x)))."""

    def __init__(self, state, name):
        super().__init__()
        self.up = _linear(*_folded(state, f"{name}.mlp.up"))
        self.down = _linear(*_folded(state, f"{name}.mlp.down"))

    def forward(self, x):
        return x + self.down(F.hardswish(self.up(x)))


def attention(q, k, v, heads, bias, fused):
    """q (B, Nq, heads·D), k (B, Nk, heads·D), v (B, Nk, heads·V), bias (heads, Nq, Nk) -> (B, Nq, heads·V)."""
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, heads, N, size)
    if fused:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None], scale=1.0)
    else:
        y = (q @ k.transpose(-1, -2) + bias).softmax(-1) @ v
    return y.transpose(1, 2).flatten(2)


def _folded(state, name):
    """(weight, bias) of a linear layer or convolution with the following BN, which scales its output channels by
    γ/√(σ²+ε)."""
    gamma, beta, mean, variance = (state[f"{name}.bn.{part}"] for part in ("gamma", "beta", "mean", "variance"))
    scale = gamma / np.sqrt(variance + BatchNorm.eps)
    weight = state[f"{name}.weight"]
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), beta - mean * scale


def _merged_heads(state):
    """The mean of the heads as one linear map, with their BN (which comes first) folded in."""
    weights, biases = [], []
    for name in ("head", "head_dist"):
        if f"{name}.weight" in state:
            gamma, beta, mean, variance = (state[f"{name}.bn.{p}"] for p in ("gamma", "beta", "mean", "variance"))
            scale = gamma / np.sqrt(variance + BatchNorm.eps)
            weights.append(state[f"{name}.weight"] * scale)
            biases.append(state[f"{name}.bias"] + state[f"{name}.weight"] @ (beta - mean * scale))
    return np.mean(weights, 0), np.mean(biases, 0)


def _by_part(weight, bias, heads, sizes):
    """Rows ordered by head, then part -> one (weight, bias) for each part, with its heads side by side."""
    weights = np.split(weight.reshape(heads, sum(sizes), -1), np.cumsum(sizes)[:-1], 1)
    biases = np.split(bias.reshape(heads, sum(sizes)), np.cumsum(sizes)[:-1], 1)
    return [(w.reshape(-1, weight.shape[1]), b.ravel()) for w, b in zip(weights, biases)]


def _scaled(pair, key_size):
    return tuple(array * key_size**-0.5 for array in pair)


def _stacked(*pairs):
    return tuple(np.concatenate(arrays) for arrays in zip(*pairs))


def _bias(state, name, grid, stride):
    bias = reference.gather_bias(state[f"{name}.attention.bias.table"], reference.bias_index(*grid, stride))
    return torch.from_numpy(bias).float()


def _linear(weight, bias):
    return _filled(nn.Linear(weight.shape[1], len(weight)), weight, bias)


def _convolution(weight, bias, convolution):
    layer = nn.Conv2d(weight.shape[1], len(weight), convolution.kernel, convolution.stride, convolution.padding)
    return _filled(layer, weight, bias)


def _filled(layer, weight, bias):
    layer.weight.data, layer.bias.data = torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
    return layer.requires_grad_(False)
