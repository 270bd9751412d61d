"""Renames a transformers LeViT's state to the authors' names, as is or with BN folded in. The package's own table of
names is compared with this one, which is derived independently."""

import re

import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

_PARTS = {"queries_keys_values": "qkv", "keys_values": "kv", "queries": "q.1", "projection": "proj.1",
          "linear_up": "0", "linear_down": "2"}


def renamed(state):
    """{transformers' name: value} -> {the authors' name: the same value}."""
    layers = sorted({(int(m[1]), int(m[2])) for m in map(re.compile(r".*stages\.(\d+)\.layers\.(\d+)\.").match, state)
                     if m})
    return {_name(name, layers): value for name, value in state.items()}


def _name(name, layers):
    if name.startswith("classifier"):
        head, part, array = name.split(".")
        return f"{'head_dist' if head == 'classifier_distill' else 'head'}.{'l' if part == 'linear' else 'bn'}.{array}"
    if m := re.match(r"levit\.patch_embeddings\.embedding_layer_(\d)\.(\w+)\.(\w+)$", name):
        return f"patch_embed.{2 * int(m[1]) - 2}.{'c' if m[2] == 'convolution' else 'bn'}.{m[3]}"
    stage, layer, module, rest = re.match(r"levit\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(module\.)?(.+)$",
                                          name).groups()
    if not rest.startswith("attention_bias"):
        part, cell, array = rest.split(".")
        rest = f"{_PARTS[part]}.{'c' if cell == 'linear' else 'bn'}.{array}"
    # The authors number residual branches and shrinking blocks consecutively.
    return f"blocks.{layers.index((int(stage), int(layer)))}.{'m.' if module else ''}{rest}"


def fused(state, eps=1e-5):
    """The state of the same network with every BN folded into the neighbouring layer, under the names that remain."""
    folded = {}
    for name, array in state.items():
        prefix = name.rpartition(".")[0].rpartition(".")[0]
        norm = [state.get(f"{prefix}.bn.{part}") for part in ("running_mean", "running_var", "weight", "bias")]
        if name.endswith(".c.weight"):
            fuse = fuse_conv_bn_weights if array.ndim == 4 else fuse_linear_bn_weights
            zero = torch.zeros(len(array), dtype=array.dtype)
            folded[f"{prefix}.weight"], folded[f"{prefix}.bias"] = fuse(array, zero, *norm[:2], eps, *norm[2:])
        elif name.endswith(".l.weight"):  # the head's BN comes first: w (s x + t) + b
            mean, variance, gamma, beta = norm
            scale = gamma / (variance + eps).sqrt()
            folded[f"{prefix}.weight"] = array * scale
            folded[f"{prefix}.bias"] = state[f"{prefix}.l.bias"] + array @ (beta - mean * scale)
        elif "attention_bias" in name:
            folded[name] = array
    return {name: array.detach() for name, array in folded.items()}
