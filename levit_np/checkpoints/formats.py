"""The array names of every published checkpoint format, and the configuration that a file's names and shapes imply.

A mapping is always own name -> foreign name; BN's four arrays and the linear weights follow one rule per format.
"""

import re
from dataclasses import replace
from math import isqrt, prod

from ..config import FAMILY, Convolution, LeViTConfig, Stage
from ..errors import CheckpointError, ConfigError

FORMATS = ("facebook", "timm", "transformers")
_BN = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}
# Each format's name for the linear map and for the BN of a LinearBN or ConvBN, and for the linear map of a head.
_LINEAR = {"facebook": "c", "timm": "linear", "transformers": "linear"}
_NORM = {"facebook": "bn", "timm": "bn", "transformers": "batch_norm"}
_HEAD_LINEAR = {"facebook": "l", "timm": "linear", "transformers": "linear"}
_HEADS = {"facebook": ("head", "head_dist"), "timm": ("head", "head_dist"),
          "transformers": ("classifier", "classifier_distill")}
# The layers of a block: own name -> names in facebook, timm, transformers.
_ATTENTION = {"qkv": ("qkv", "qkv", "queries_keys_values"), "projection": ("proj.1", "proj.ln", "projection")}
_SHRINKING = {"kv": ("kv", "kv", "keys_values"), "q": ("q.1", "q.ln", "queries"),
              "projection": ("proj.1", "proj.ln", "projection")}
_MLP = {"up": ("0", "ln1", "linear_up"), "down": ("2", "ln2", "linear_down")}


def _blocks(config: LeViTConfig, form: str):
    """(own prefix, foreign prefix, table of layers) of each attention and MLP, in the order of computation."""
    count = 0  # the authors number all residual branches and shrinking blocks consecutively
    for s, stage in enumerate(config.stages):
        layer = 0  # transformers numbers within a stage and puts the shrinking block and its MLP at the stage's end
        blocks = [(f"stages.{s}.blocks.{b}", _ATTENTION) for b in range(stage.depth)]
        if s + 1 < len(config.stages):
            blocks.append((f"stages.{s + 1}.downsample", _SHRINKING))
        for own, parts in blocks:
            shrinking = parts is _SHRINKING
            there = f"levit.encoder.stages.{s}.layers"
            attention, mlp = {
                "facebook": (f"blocks.{count}" + ("" if shrinking else ".m"), f"blocks.{count + 1}.m"),
                "timm": (f"{own}.attn_downsample" if shrinking else f"{own}.attn", f"{own}.mlp"),
                "transformers": (f"{there}.{layer}" + ("" if shrinking else ".module"), f"{there}.{layer + 1}.module"),
            }[form]
            yield f"{own}.attention", attention, parts
            yield f"{own}.mlp", mlp, _MLP
            count, layer = count + 2, layer + 2


def _linear_bn(own, foreign, linear, norm):
    yield f"{own}.weight", f"{foreign}.{linear}.weight"
    for ours, theirs in _BN.items():
        yield f"{own}.bn.{ours}", f"{foreign}.{norm}.{theirs}"


def name_table(config: LeViTConfig, form: str) -> dict[str, str]:
    """{own name: foreign name} of every parameter and BN statistic; form is one of FORMATS, or "fused" for the arrays
    of the authors' fused files.  Raises CheckpointError if the format cannot name every array of this network."""
    if form == "fused":
        return _fused(name_table(config, "facebook"))
    if config.normalization != "batch" or config.position != "bias":
        raise CheckpointError(f"{config.name}: {form} has no names for a network without BN or attention bias")
    if form == "transformers" and len(config.stem) != 4:
        raise CheckpointError(f"{config.name}: transformers' stem has 4 convolutions, this one {len(config.stem)}")
    column, linear, norm = FORMATS.index(form), _LINEAR[form], _NORM[form]
    table = {}
    for k in range(len(config.stem)):
        there = {"facebook": f"patch_embed.{2 * k}", "timm": f"stem.conv{k + 1}",
                 "transformers": f"levit.patch_embeddings.embedding_layer_{k + 1}"}[form]
        cell = "convolution" if form == "transformers" else linear
        table |= _linear_bn(f"stem.convolutions.{k}", there, cell, norm)
    for own, there, parts in _blocks(config, form):
        if parts is not _MLP:
            table[f"{own}.bias.table"] = f"{there}.attention_biases"
        for part, names in parts.items():
            table |= _linear_bn(f"{own}.{part}", f"{there}.{names[column]}", linear, norm)
    for own, there in zip(("head", "head_dist")[: 1 + config.distillation], _HEADS[form]):
        table |= {f"{own}.bn.{ours}": f"{there}.{norm}.{theirs}" for ours, theirs in _BN.items()}
        table |= {f"{own}.{part}": f"{there}.{_HEAD_LINEAR[form]}.{part}" for part in ("weight", "bias")}
    return table


def _fused(table):
    """The authors' names after folding BN into the linear maps: a weight and a bias each, and no BN."""
    kept = {own: there for own, there in table.items() if own.rpartition(".")[2] not in ("gamma", "mean", "variance")
            and not own.endswith(("head.bn.beta", "head_dist.bn.beta"))}
    return {own: re.sub(r"\.(c|bn|l)(?=\.(weight|bias)$)", "", there) for own, there in kept.items()}


def recognize(names) -> str:
    """The format of a file, from its array names: "facebook", "timm", "transformers", or "fused", the authors' with BN
    folded in.  Raises CheckpointError if it is none of these."""
    for form, first in zip((*FORMATS, "fused"),
                           ("patch_embed.0.c.weight", "stem.conv1.linear.weight",
                            "levit.patch_embeddings.embedding_layer_1.convolution.weight", "patch_embed.0.weight")):
        if first in names:
            return form
    raise CheckpointError(f"expected a LeViT by the authors, timm or transformers, found {sorted(names)[:3]}")


def _count(names, pattern, start=0, step=1):
    """The length of the run start, start + step, … of numbers that occur in names as the pattern's group."""
    numbers = {int(m[1]) for m in map(re.compile(pattern).match, names) if m and len(m[1]) < 4}
    return next(n for n in range(len(numbers) + 1) if start + n * step not in numbers)


def config_from_shapes(shapes: dict[str, tuple], form: str, image_size=None) -> LeViTConfig:
    """The configuration that a foreign file's names and shapes imply.

    Images have size image_size (H, W) if that gives the file's number of tokens, else they are taken to be square. What
    no shape shows (drop path, activation) comes from the family member with the same shapes, if there is one; timm's
    variants with another activation count only for timm's files. Raises CheckpointError for names or shapes that are no
    LeViT's.
    """
    names = {}
    try:
        names = _timm_names(shapes, form)
        found = _derive({timm: shapes[there] for timm, there in names.items() if there in shapes}, image_size)
        return _known(found, form)
    except KeyError as error:
        raise CheckpointError(f"missing: {names.get(error.args[0], error.args[0])}") from None
    except (ConfigError, IndexError, ValueError, ZeroDivisionError) as error:
        _require_dimensions(names, shapes)
        raise CheckpointError(f"the names or shapes describe no LeViT: {error}") from None


def _require_dimensions(names, shapes):
    """Raises CheckpointError for a weight or table of another number of dimensions, or without numbers."""
    for timm, there in names.items():
        if there in shapes and timm.endswith(("linear.weight", "attention_biases")):
            dimensions = 4 if timm.startswith("stem.") else 2
            if len(shapes[there]) != dimensions or 0 in shapes[there]:
                raise CheckpointError(f"{there}: expected {dimensions} dimensions, each at least 1, found "
                                      f"{shapes[there]}")


def _timm_names(shapes, form):
    """{timm's name: name in the file}: timm numbers by stage and block, which is the easiest to read."""
    if form == "timm":
        return {name: name for name in shapes}
    depths = [0]
    if form == "transformers":
        stem, stages = 4, _count(shapes, r"levit\.encoder\.stages\.(\d+)\.")
        layers = [_count(shapes, rf"levit\.encoder\.stages\.{s}\.layers\.(\d+)\.") for s in range(stages)]
        depths = [n // 2 - (s + 1 < stages) for s, n in enumerate(layers)]
    else:
        stem = _count(shapes, r"patch_embed\.(\d+)\.", step=2)
        attentions = map(re.compile(r"blocks\.(\d{1,3})\.(m\.qkv|kv)\.").match, shapes)
        for _, kind in sorted({(int(m[1]), m[2]) for m in attentions if m}):
            if kind == "kv":
                depths.append(0)
            else:
                depths[-1] += 1
    # The names depend on the number of layers alone, so the sizes may be anything.
    skeleton = LeViTConfig("skeleton", (Convolution(1),) * stem,
                           tuple(Stage(1, d, 1, int(s > 0)) for s, d in enumerate(depths)), 1,
                           distillation=any(name.startswith(("head_dist.", "classifier_distill.")) for name in shapes))
    here, timm = name_table(skeleton, form), name_table(skeleton, "timm")
    return {timm[own]: there for own, there in here.items()}


def _derive(shapes, image_size):
    stages = []
    for s in range(_count(shapes, r"stages\.(\d+)\.") or 1):  # without any, the first is reported as missing
        depth = _count(shapes, rf"stages\.{s}\.blocks\.(\d+)\.")
        block = f"stages.{s}.blocks.0.attn"
        heads, offsets = shapes[f"{block}.attention_biases"]
        value = shapes[f"{block}.proj.ln.linear.weight"][1] // heads
        key = (shapes[f"{block}.qkv.linear.weight"][0] // heads - value) // 2
        if key < 1:
            raise ConfigError(f"key_size: expected at least 1 beside {value} values for a head, found {key}")
        shrink = shapes[f"stages.{s}.downsample.attn_downsample.attention_biases"][0] if s else 0
        stages.append(Stage(shapes[f"{block}.qkv.linear.weight"][1], depth, heads, shrink))
        ratio = shapes[f"stages.{s}.blocks.0.mlp.ln1.linear.weight"][0] // stages[-1].channels
        if s == 0:
            tokens, key_size, value_ratio, mlp_ratio = offsets, key, value // key, ratio
    wide = 4
    if len(stages) > 1:
        down = "stages.1.downsample.attn_downsample"
        wide = shapes[f"{down}.proj.ln.linear.weight"][1] // stages[1].shrink_heads // key_size
    stem = [shapes[f"stem.conv{k + 1}.linear.weight"] for k in range(_count(shapes, r"stem\.conv(\d+)\.", start=1))]
    patches = len(stem) == 1 and stem[0][2] > 3  # one convolution, which tiles the image (A2)
    convolutions = tuple(Convolution(w[0], w[2], w[2] if patches else 2) for w in stem)
    side = isqrt(tokens) * prod(c.stride for c in convolutions)
    config = LeViTConfig("levit", convolutions, tuple(stages), key_size, (side, side), stem[0][1],
                         shapes["head.linear.weight"][0], "head_dist.linear.weight" in shapes,
                         value_ratio, wide, mlp_ratio)
    if image_size and prod(replace(config, image_size=image_size).resolutions[0]) == tokens:
        return replace(config, image_size=image_size)
    if isqrt(tokens) ** 2 != tokens:
        raise ConfigError(f"expected the number of tokens of a square image, found {tokens}; give the size of other "
                          "images as image_size=(H, W)")
    return config


def _known(config, form):
    for member in FAMILY.values():
        if form != "timm" and member.activation != config.activation:
            continue  # the authors' code and transformers compute Hardswish, whatever the shapes
        same = replace(member, image_size=config.image_size, in_channels=config.in_channels,
                       num_classes=config.num_classes, distillation=config.distillation)
        shape = replace(config, name=member.name, drop_path=member.drop_path, activation=member.activation,
                        attention_activation=member.attention_activation)
        if shape == same:
            return same
    return config
