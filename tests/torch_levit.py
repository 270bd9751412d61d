"""LeViT in torch.nn.functional, written from the paper and independently of levit_np. It takes a state under our names
and a configuration, and leaves gradients to autograd. `p` is always {name: tensor} of one layer."""

from itertools import repeat

import torch
import torch.nn.functional as F

ACTIVATIONS = {"hardswish": F.hardswish, "silu": F.silu, "identity": lambda x: x}


def tensors(state):
    """{name: array} -> {name: tensor}; all but running statistics require a gradient."""
    made = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
    for name, tensor in made.items():
        tensor.requires_grad_(not name.endswith((".mean", ".variance")) and name not in ("mean", "variance"))
    return made


def under(p, name):
    """The tensors of the layer called `name` within the layer whose tensors are p."""
    return {key.removeprefix(name + "."): value for key, value in p.items() if key.startswith(name + ".")}


def batch_norm(x, p, training):
    """Channels last. Always reshaped to rows, as PyTorch 2.13's gradient for a batch of one image can be wrong."""
    rows = x.reshape(-1, x.shape[-1])
    return F.batch_norm(rows, p["mean"], p["variance"], p["gamma"], p["beta"], training is True).reshape(x.shape)


def layer_norm(x, p):
    return F.layer_norm(x, x.shape[-1:], p["gamma"], p["beta"], 1e-6)


def linear(x, p, training):
    if "bias" in p:
        return F.linear(x, p["weight"], p["bias"])
    return batch_norm(F.linear(x, p["weight"]), under(p, "bn"), training)


def head(x, p, training):
    bn = under(p, "bn")
    return linear(batch_norm(x, bn, training) if "mean" in bn else layer_norm(x, bn), p, training)


def convolution(x, p, stride, padding, training):
    bn = under(p, "bn")
    if "mean" not in bn:
        return F.conv2d(x, p["weight"], bn["beta"], stride, padding)
    y = F.conv2d(x, p["weight"], None, stride, padding)
    return batch_norm(y.permute(0, 2, 3, 1), bn, training).permute(0, 3, 1, 2)


def stem(x, p, config, training):
    for i, c in enumerate(config.stem):
        x = ACTIVATIONS[config.activation](x) if i else x
        x = convolution(x, under(p, f"convolutions.{i}"), c.stride, c.padding, training)
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def pair_bias(table, grid, stride):
    """The bias of a query to every key is the table mirrored around the query: it is read at |Δy| and |Δx|."""
    table, ys, xs = table.unflatten(1, grid), torch.arange(grid[0]), torch.arange(grid[1])
    return torch.stack([table[:, (ys - y).abs()][:, :, (xs - x).abs()].flatten(1)
                        for y in ys[::stride] for x in xs[::stride]], 1)


def attention(x, p, config, grid, training):
    size = config.key_size
    shrinking = "kv.weight" in p
    if shrinking:
        k, v = linear(x, under(p, "kv"), training).unflatten(-1, (-1, size * (1 + config.shrink_value_ratio))).split(
            (size, size * config.shrink_value_ratio), -1)
        kept = x.unflatten(1, grid)[:, ::2, ::2].flatten(1, 2)
        q = linear(kept, under(p, "q"), training).unflatten(-1, (-1, size))
    else:
        q, k, v = linear(x, under(p, "qkv"), training).unflatten(-1, (-1, size * (2 + config.value_ratio))).split(
            (size, size, size * config.value_ratio), -1)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / size**0.5
    if "bias.table" in p:
        scores = scores + pair_bias(p["bias.table"], grid, 1 + shrinking)
    y = torch.einsum("bhqk,bkhv->bqhv", scores.softmax(-1), v).flatten(2)
    return linear(ACTIVATIONS[config.attention_activation](y), under(p, "projection"), training)


def mlp(x, p, config, training):
    return linear(ACTIVATIONS[config.activation](linear(x, under(p, "up"), training)), under(p, "down"), training)


def block(x, p, config, grid, training, masks):
    """Attention and MLP, each with a residual connection (except the shrinking attention), and with LayerNorm before
    where there is one."""
    for name, function in (("attention", lambda h, p: attention(h, p, config, grid, training)),
                           ("mlp", lambda h, p: mlp(h, p, config, training))):
        part = under(p, name)
        h = function(layer_norm(x, under(part, "norm")) if "norm.gamma" in part else x, part)
        x = h if "kv.weight" in part else x + h * next(masks)
    return x


def levit(images, p, config, training=False, masks=()):
    """The logits of each head in training (and "frozen"), their mean in evaluation. masks: the drop-path masks in
    order; without them no branch is dropped."""
    x, masks, grid = stem(images, under(p, "stem"), config, training), iter(masks or repeat(1.0)), config.resolutions[0]
    if "token.token" in p:
        x = torch.cat([p["token.token"].expand(len(x), 1, -1), x], 1)
    if "position.embedding" in p:
        x = x + p["position.embedding"]
    for s, stage in enumerate(config.stages):
        if s:
            x = block(x, under(p, f"stages.{s}.downsample"), config, grid, training, masks)
            grid = tuple(-(-n // 2) for n in grid)
        for b in range(stage.depth):
            x = block(x, under(p, f"stages.{s}.blocks.{b}"), config, grid, training, masks)
    pooled = x[:, 0] if "token.token" in p else x.mean(1)
    logits = [head(pooled, under(p, name), training) for name in ("head", "head_dist") if f"{name}.weight" in p]
    return logits if training else sum(logits) / len(logits)
