"""Whole networks against an independent LeViT in torch, in float64: A1-A7, timm's variants, DeiT-tiny, odd images, drop
path.

The torch LeViT itself is compared with the transformers package's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from levit_np.config import ABLATIONS, Stage, config_of
from levit_np.errors import ConfigError

from . import torch_levit
from .distance import worst, worst_gradient
from .networks import TINY, against_torch, images_of, is_right, random_network
from .parity import images, pair

ODD = dict(image_size=(112, 80), in_channels=4, num_classes=17)  # 7×5, 4×3 and 2×2 tokens
UNTRAINED = ("levit_384_s8", "levit_512_s8", "levit_512", "levit_256d", "levit_512d")


@pytest.mark.parametrize("training", [False, True])
def test_the_torch_levit_is_transformers(training):
    ours, theirs = pair("levit_128s")
    p, x = torch_levit.tensors(ours.state()), torch.from_numpy(images(3))
    with torch.no_grad():
        out = theirs.train(training)(x)
        mine = torch_levit.levit(x, p, ours.config, training)
    if training:
        assert worst(mine[0].numpy(), out.cls_logits.numpy()) < 1e-11
        assert worst(mine[1].numpy(), out.distillation_logits.numpy()) < 1e-11
    else:
        assert worst(mine.numpy(), out.logits.numpy()) < 1e-11


@pytest.mark.parametrize("training", [False, True, "frozen"])
@pytest.mark.parametrize("name", TINY)
def test_small_networks(name, training):
    assert is_right(against_torch(TINY[name], training))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations(name, training):
    found = against_torch(config_of(name, **ODD), training)
    assert is_right(found), found


@pytest.mark.parametrize("name", UNTRAINED)
def test_untrained_variants(name):
    """With one block in each stage: further blocks are alike, and the parameter counts test their number."""
    config = config_of(name, **ODD | {"image_size": (64, 48)})
    config = replace(config, stages=tuple(stage._replace(depth=1) for stage in config.stages))
    found = against_torch(config)
    assert is_right(found), found


def test_deit_tiny_is_a_transformer():
    """The class token, the position embedding and LayerNorm, around torch's own transformer blocks."""
    config = config_of("deit_tiny", image_size=64, num_classes=17)
    config = replace(config, stages=(config.stages[0]._replace(depth=2),))
    ours, x = random_network(config), images_of(config, 2)
    p, tx = torch_levit.tensors(ours.state()), torch.from_numpy(x.copy()).requires_grad_()
    h = F.conv2d(tx, p["stem.convolutions.0.weight"], p["stem.convolutions.0.bn.beta"], 16).flatten(2).mT
    h = torch.cat([p["token.token"].expand(2, 1, 192), h], 1) + p["position.embedding"]
    for i in range(2):
        block = torch.nn.TransformerEncoderLayer(192, 3, 768, 0.0, F.hardswish, 1e-6, True, True, dtype=torch.float64)
        h = torch.func.functional_call(block, _as_torch(torch_levit.under(p, f"stages.0.blocks.{i}")), h)
    logits = F.linear(F.layer_norm(h[:, 0], (192,), p["head.bn.gamma"], p["head.bn.beta"], 1e-6),
                      p["head.weight"], p["head.bias"])
    outputs, saved = ours.forward(x, training=True)
    assert worst(outputs, logits.detach().numpy()) < 1e-11
    upstream = np.random.default_rng(3).standard_normal(outputs.shape)
    logits.backward(torch.from_numpy(upstream))
    assert worst(ours.backward(upstream, saved), tx.grad.numpy()) < 1e-9
    assert worst_gradient(ours.gradients(), {name: tensor.grad.numpy() for name, tensor in p.items()}) < 1e-9


def _as_torch(p):
    """A block's tensors under torch's names. Our rows are ordered (heads, Q K V, 64), torch's (Q K V, heads, 64)."""
    qkv = {kind: p[f"attention.qkv.{kind}"].unflatten(0, (3, 3, 64)) for kind in ("weight", "bias")}
    named = {f"self_attn.in_proj_{kind}": rows.transpose(0, 1).flatten(0, 2) for kind, rows in qkv.items()}
    for own, there in (("attention.projection", "self_attn.out_proj"), ("mlp.up", "linear1"), ("mlp.down", "linear2")):
        named |= {f"{there}.{kind}": p[f"{own}.{kind}"] for kind in ("weight", "bias")}
    for own, there in (("attention.norm", "norm1"), ("mlp.norm", "norm2")):
        named |= {f"{there}.weight": p[f"{own}.gamma"], f"{there}.bias": p[f"{own}.beta"]}
    return named


@pytest.mark.parametrize("changes", [{"position": "bias"}, {"stages": (Stage(192, 1, 3), Stage(192, 1, 3, 3))}])
def test_a_class_token_needs_an_embedding_and_one_stage(changes):
    with pytest.raises(ConfigError, match="class token"):
        config_of("deit_tiny", **changes)


def test_features_of_a_network_with_a_class_token():
    """The map contains only the pixels' tokens; the pooled vector is the class token."""
    config = TINY["vit"]
    model, x = random_network(config), images_of(config, 2)
    found = model.features(x)
    assert found["stage1"].shape == (2, 6, 5, 3) and found["pooled"].shape == (2, 6)
    np.testing.assert_allclose(model.head.forward(found["pooled"])[0] + model.head_dist.forward(found["pooled"])[0],
                               2 * model(x))
    assert model.attention_maps(x)["stages.0.blocks.1.attention"].shape == (2, 2, 16, 16)
