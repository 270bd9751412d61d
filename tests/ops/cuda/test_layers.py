"""Each layer on the GPU's operations against the same layer on the reference operations in float64: output, gradients,
running statistics."""

from dataclasses import replace

import numpy as np
import pytest

from levit_np.config import Convolution, LeViTConfig, Stage
from levit_np.layers.attention import Attention, ShrinkingAttention
from levit_np.layers.block import MLP, Block, Downsample, PreNorm, Residual
from levit_np.layers.block import Stage as StageLayer
from levit_np.layers.linear import Head, Linear, LinearBN
from levit_np.layers.position import PositionEmbedding
from levit_np.layers.stem import ConvBN, Stem
from levit_np.layers.token import ClassToken
from levit_np.ops import cuda as ops
from levit_np.ops import reference

from ...random_model import random_state
from .rounded import draw, exact

pytestmark = pytest.mark.usefixtures("one")

# Odd sizes, Nq ≠ Nk, heads times key and value sizes that equal no number of channels.
CONFIG = LeViTConfig("tiny", (Convolution(4), Convolution(6)), (Stage(6, 1, 2), Stage(10, 1, 3, 2)), 3,
                     image_size=(18, 11), in_channels=2, num_classes=5)
PLAIN = replace(CONFIG, normalization="layer", position="embedding", activation="silu", attention_activation="identity")
GRID = (5, 3)  # the grid of CONFIG's tokens
LAYERS = {
    "linear with bn": (lambda o: LinearBN(o, 6, 7), (3, 15, 6)), "linear": (lambda o: Linear(o, 6, 7), (3, 15, 6)),
    "head": (lambda o: Head(o, 6, 5), (4, 6)), "head after layer norm": (lambda o: Head(o, 6, 5, "layer"), (4, 6)),
    "convolution": (lambda o: ConvBN(o, 2, 5, 3, 2, 1), (3, 2, 9, 6)),
    "convolution with bias": (lambda o: ConvBN(o, 2, 5, 3, 2, 1, "layer"), (3, 2, 9, 6)),
    "stem": (lambda o: Stem(o, CONFIG), (3, 2, 18, 11)),
    "attention": (lambda o: Attention(o, 6, 2, GRID, CONFIG), (3, 15, 6)),
    "attention without bias": (lambda o: Attention(o, 6, 2, GRID, PLAIN), (3, 15, 6)),
    "shrinking attention": (lambda o: ShrinkingAttention(o, 6, 10, 2, GRID, CONFIG), (3, 15, 6)),
    "mlp": (lambda o: MLP(o, 6, CONFIG), (3, 15, 6)),
    "pre-normalization": (lambda o: PreNorm(o, 6, Linear(o, 6, 6)), (3, 15, 6)),
    "block": (lambda o: Block(o, 6, 2, GRID, CONFIG, 0.4), (3, 15, 6)),
    "block of vit": (lambda o: Block(o, 6, 2, GRID, PLAIN, 0.0), (3, 15, 6)),
    "downsample": (lambda o: Downsample(o, 6, CONFIG.stages[1], GRID, CONFIG, 0.0), (3, 15, 6)),
    "stage": (lambda o: StageLayer(o, replace(CONFIG, stages=(CONFIG.stages[0], Stage(10, 2, 3, 2))), 1), (3, 15, 6)),
    "position": (lambda o: PositionEmbedding(o, 15, 6), (3, 15, 6)), "token": (lambda o: ClassToken(o, 6), (3, 15, 6)),
}


def filled(layer, put):
    """The layer with random arrays, the same for each backend, and the same random numbers for drop path."""
    generator = np.random.default_rng(4)
    for seed, (name, part) in enumerate(layer.walk()):
        part.name = name
        for key, array in random_state({f"{name}.{key}": spec for key, spec in part.specs.items()}, seed).items():
            setattr(part, key.removeprefix(f"{name}."), put(array.astype(np.float32)))
    for value in (layer, *vars(layer).values()):
        if isinstance(value, Residual):
            value.generator = lambda: generator
    return layer


@pytest.mark.parametrize("training", [False, True, "frozen"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name, training):
    make, shape = LAYERS[name]
    ours, theirs = filled(make(ops), ops.asarray), filled(make(reference), lambda a: a.astype(np.float64))
    x = draw(*shape).astype(np.float32)
    y, saved = ours.forward(ops.asarray(x), training)
    expected, kept = theirs.forward(x.astype(np.float64), training)
    close(y, expected)
    if not training:
        assert saved is None
        return
    dy = draw(*expected.shape, seed=1).astype(np.float32)
    close(ours.backward(ops.asarray(dy), saved), theirs.backward(dy.astype(np.float64), kept))
    for (path, part), (_, other) in zip(ours.walk(), theirs.walk(), strict=True):
        assert part.accumulated.keys() == other.accumulated.keys()
        largest = max((np.abs(g).max() for _, layer in theirs.walk() for g in layer.accumulated.values()), default=1)
        for key, gradient in other.accumulated.items():
            close(part.accumulated[key], gradient, floor=1e-2 * largest)
        for key in part.specs:
            close(getattr(part, key), getattr(other, key))


def close(found, expected, floor=0.1):
    """Within float32's rounding, relative to the largest value, but at least to `floor`, since terms may cancel."""
    found = exact(found)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 5e-5 * max(np.abs(expected).max(), floor)
