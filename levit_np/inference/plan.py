"""What a model computes at inference, as a flat list of steps: BN folded, the two heads in one linear map, the query
scale in the query weights. An executor runs the list: reference.py, cpu.py or cuda.py.

A step reads the tensor named `source` and writes the one named `target`; "x" is the residual stream. Arrays are float64
copies of the model's."""

from typing import Iterator, NamedTuple

import numpy as np

from ..errors import LevitError
from ..layers.attention import Attention as AttentionLayer
from ..layers.attention import ShrinkingAttention
from ..layers.block import MLP, Block, Downsample, PreNorm, Residual, Stage
from ..layers.linear import Linear as LinearLayer
from ..layers.linear import LinearBN
from ..layers.position import PositionEmbedding as PositionLayer
from ..layers.stem import ChannelBias, ConvBN, Stem
from ..layers.token import ClassToken
from ..model import LeViT
from . import fold


class Convolution(NamedTuple):
    """map = activation(weight ∗ map + bias).  weight (O, C, K, K). The first reads "image"; the last map, as tokens, is
    "x"."""

    name: str
    weight: np.ndarray
    bias: np.ndarray
    stride: int
    padding: int
    activation: str

    @property
    def formula(self):
        return f"map = {_applied(self.activation, 'weight ∗ map + bias')}"


class Linear(NamedTuple):
    """target = activation(source weightᵀ + bias), or target += … with residual.  weight (O, C).

    groups: (heads, size) of each group of output columns that attention reads (q, k, v); () elsewhere."""

    name: str
    source: str
    target: str
    weight: np.ndarray
    bias: np.ndarray
    activation: str = "identity"
    residual: bool = False
    groups: tuple[tuple[int, int], ...] = ()

    @property
    def formula(self):
        y = _applied(self.activation, f"{self.source} weightᵀ + bias")
        return f"{self.target} {'+=' if self.residual else '='} {y}"


class Subsample(NamedTuple):
    """target = source's tokens on every stride-th pixel of every stride-th row of its grid."""

    name: str
    source: str
    target: str
    grid: tuple[int, int]
    stride: int

    @property
    def formula(self):
        return f"{self.target} = {self.source} at a stride of {self.stride} pixels"


class Attention(NamedTuple):
    """target = activation(softmax(q kᵀ + bias) v), heads side by side.

    The columns of `source` are [q of all heads,] k of all heads, v of all heads. q, already scaled, is in `queries`
    where that is another tensor. bias (heads, Nq, Nk) or None."""

    name: str
    source: str
    queries: str
    target: str
    heads: int
    key: int
    value: int
    bias: np.ndarray | None
    activation: str

    @property
    def formula(self):
        scores = "q kᵀ" if self.bias is None else "q kᵀ + bias"
        return f"{self.target} = {_applied(self.activation, f'softmax({scores}) v')}"


class LayerNorm(NamedTuple):
    """target = gamma x̂ + beta (ablation A3)."""

    name: str
    source: str
    target: str
    gamma: np.ndarray
    beta: np.ndarray
    eps: float

    @property
    def formula(self):
        return f"{self.target} = gamma ({self.source} - mean) / √(variance + eps) + beta"


class Embedding(NamedTuple):
    """x += embedding (N, C) (ablation A5)."""

    name: str
    embedding: np.ndarray
    formula = "x += embedding"


class Token(NamedTuple):
    """x = (token, x): one more token (1, C), before the others."""

    name: str
    token: np.ndarray
    formula = "x = (token, x)"


class Pool(NamedTuple):
    """target = the mean token of source, or its first."""

    name: str
    first: bool
    source: str = "x"
    target: str = "pooled"

    @property
    def formula(self):
        return f"{self.target} = {'first' if self.first else 'mean'} token of {self.source}"


def _applied(activation, y):
    return y if activation == "identity" else f"{activation}({y})"


def steps_of(model: LeViT, apart: bool = False, pooled_early: bool = False) -> Iterator:
    """The steps of a model in the order of computation, each made when it is asked for.

    "logits" is the average of the two heads or, with apart, the one's logits, then the other's, (B, 2·classes).
    pooled_early: the last linear map of the last MLP comes after the pool, and sees one token instead of all. Raises
    LevitError for a layer that has no lowering."""
    yield from _lower(model.stem, "x")
    for layer in filter(None, (model.token, model.position)):
        yield from _lower(layer, "x")
    *branches, last = (branch for stage in model.stages for layer in filter(None, (stage.downsample, *stage.blocks))
                       for branch in (layer.attention, layer.mlp))
    for branch in branches:
        yield from _lower(branch, "x")
    pool = Pool("pool", model.config.pooling == "token")
    if pooled_early:
        yield from _pooled_early(last, pool)
    else:
        yield from _lower(last, "x")
        yield pool
    yield from _head(model, fold.stack_heads if apart else fold.average_heads)


def _pooled_early(mlp, pool):
    """mean(x + W h + b) = mean(x) + W mean(h) + b; likewise for the first token."""
    *steps, up, down = _lower(mlp, "x")
    yield from steps
    yield up._replace(target="last_hidden")
    yield pool
    yield pool._replace(source="last_hidden", target="pooled_hidden")
    yield down._replace(source="pooled_hidden", target="pooled")


def _lower(layer, source):
    """The steps of a layer that reads `source`."""
    try:
        lowering = LOWERINGS[type(layer)]
    except KeyError:
        raise LevitError(f"{layer.name}: {type(layer).__name__} has no form for inference") from None
    yield from lowering(layer, source)


def _stem(stem, _):
    for i, convolution in enumerate(stem.convolutions):
        last = i + 1 == len(stem.convolutions)
        yield from _convolution(convolution, "identity" if last else stem.activation.kind)


def _convolution(layer, activation):
    weight = _exact(layer.weight)
    if isinstance(layer.bn, ChannelBias):
        bias = _exact(layer.bn.beta)
    else:
        weight, bias = fold.fold_after(weight, layer.bn)
    yield Convolution(layer.name, weight, bias, layer.stride, layer.padding, activation)


def _position(layer, _):
    yield Embedding(layer.name, _exact(layer.embedding))


def _token(layer, _):
    yield Token(layer.name, _exact(layer.token))


def _pre_norm(layer, source):
    norm = layer.norm
    yield LayerNorm(norm.name, source, "normalized", _exact(norm.gamma), _exact(norm.beta), norm.eps)
    yield from _lower(layer.branch, "normalized")


def _residual(layer, source):
    *steps, last = _lower(layer.branch, source)
    yield from steps
    yield last._replace(residual=True)


def _mlp(layer, source):
    yield Linear(layer.up.name, source, "hidden", *_folded(layer.up), layer.activation.kind)
    yield Linear(layer.down.name, "hidden", "x", *_folded(layer.down))


def _attention(layer, source):
    key, _, value = layer.sizes
    weight, bias = (fold.group_by_role(array, layer.heads, layer.sizes) for array in _folded(layer.qkv))
    queries = slice(0, layer.heads * key)
    weight[queries] *= key**-0.5
    bias[queries] *= key**-0.5
    yield Linear(layer.qkv.name, source, "qkv", weight, bias, groups=_groups(layer.heads, key, key, value))
    yield Attention(layer.name, "qkv", "qkv", "context", layer.heads, key, value, _bias(layer), layer.activation.kind)
    yield Linear(layer.projection.name, "context", "x", *_folded(layer.projection))


def _shrinking(layer, source):
    key, value = layer.sizes
    weight, bias = (fold.group_by_role(array, layer.heads, layer.sizes) for array in _folded(layer.kv))
    yield Linear(layer.kv.name, source, "kv", weight, bias, groups=_groups(layer.heads, key, value))
    yield Subsample(layer.name, source, "kept", layer.grid, layer.stride)
    weight, bias = _folded(layer.q)
    yield Linear(layer.q.name, "kept", "q", weight * key**-0.5, bias * key**-0.5, groups=_groups(layer.heads, key))
    yield Attention(layer.name, "kv", "q", "context", layer.heads, key, value, _bias(layer), layer.activation.kind)
    yield Linear(layer.projection.name, "context", "x", *_folded(layer.projection))


def _groups(heads, *sizes):
    return tuple((heads, size) for size in sizes)


def _head(model, joined):
    """Folds BN (or LayerNorm's gamma and beta, likewise) into the classifier, and makes two classifiers one."""
    heads = list(filter(None, (model.head, model.head_dist)))
    source = "pooled"
    if model.config.normalization == "layer":
        channels, source = model.head.bn.gamma.shape[0], "normalized"
        yield LayerNorm("head.bn", "pooled", source, np.ones(channels), np.zeros(channels), model.head.bn.eps)
        folded = [(_exact(h.weight) * _exact(h.bn.gamma), _exact(h.bias) + _exact(h.weight) @ _exact(h.bn.beta))
                  for h in heads]
    else:
        folded = [fold.fold_before(h.bn, _exact(h.weight), _exact(h.bias)) for h in heads]
    yield Linear("head", source, "logits", *(folded[0] if len(heads) == 1 else joined(*folded)))


def _folded(layer):
    """(weight, bias) of a LinearBN or a Linear."""
    if isinstance(layer, LinearBN):
        return fold.fold_after(np.asarray(layer.weight), layer.bn)
    return _exact(layer.weight), _exact(layer.bias)


def _bias(layer):
    return _exact(layer.bias.forward()) if layer.bias else None


def _exact(array):
    return np.array(array, np.float64)


LOWERINGS = {
    Stem: _stem, PositionLayer: _position, ClassToken: _token, PreNorm: _pre_norm, Residual: _residual,
    MLP: _mlp, AttentionLayer: _attention, ShrinkingAttention: _shrinking,
}
# Layers that are lowered as part of the one around them.
INSIDE = (Stage, Block, Downsample, ConvBN, ChannelBias, LinearBN, LinearLayer)
