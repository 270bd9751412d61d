"""MLP, pre-normalization, the residual with drop path, and the blocks and stages made of them, against torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from levit_np.layers.block import MLP, Block, Downsample, PreNorm, Residual, Stage
from levit_np.layers.linear import Linear
from levit_np.ops import reference as ops
from tests import torch_levit

from .compare import CLOSE, CONFIG, CONFIGS, MODES, agree, filled, tokens

RATE = 0.4


def undropped():
    return iter([1.0] * 9)


@MODES
@CONFIGS
def test_mlp(config, training):
    agree(filled(MLP(ops, 5, config)), lambda x, p, t: torch_levit.mlp(x, p, config, t), tokens(2, 3, 5), training)


@MODES
def test_pre_norm(training):
    def peer(x, p, training):
        return torch_levit.linear(torch_levit.layer_norm(x, torch_levit.under(p, "norm")), p, training)

    # The branch has the layer's name, and the norm's parameters are beside its own.
    agree(filled(PreNorm(ops, 5, Linear(ops, 5, 4))), peer, tokens(2, 3, 5), training)


@MODES
def test_residual_with_drop_path(training):
    """With the same masks on both sides; without any in evaluation and when frozen."""
    layer, torchs = filled(Residual(ops, Linear(ops, 5, 5), RATE)), np.random.default_rng(3)
    generator = np.random.default_rng(3)
    layer.generator = lambda: generator

    def peer(x, p, training):
        h = torch_levit.linear(x, p, training)
        if training is True:
            h = h * torch.from_numpy((torchs.random((len(x), 1, 1)) >= RATE) / (1 - RATE))
        return x + h

    agree(layer, peer, tokens(6, 2, 5), training)


def test_drop_path_keeps_the_expected_output():
    """The mean over many draws is the output without dropping; each image is dropped or kept as a whole."""
    layer, x = filled(Residual(ops, Linear(ops, 3, 3), RATE)), tokens(1, 2, 3)
    generator = np.random.default_rng(0)
    layer.generator = lambda: generator
    many, _ = layer.forward(np.repeat(x, 20_000, 0), training=True)
    plain, _ = layer.forward(x)
    dropped = (many == x).all((1, 2))
    np.testing.assert_allclose(many[~dropped] - x, np.broadcast_to((plain - x) / (1 - RATE), many[~dropped].shape),
                               **CLOSE)
    deviation = (RATE / (1 - RATE) / len(many)) ** 0.5  # of the mean of the masks
    np.testing.assert_array_less(np.abs(many.mean(0) - plain[0]), 5 * deviation * np.abs(plain - x)[0])


@MODES
@CONFIGS
@pytest.mark.parametrize("batch", [1, 2])
def test_block(config, batch, training):
    def peer(x, p, training):
        return torch_levit.block(x, p, config, (3, 5), training, undropped())

    agree(filled(Block(ops, 5, 2, (3, 5), config, 0.0)), peer, tokens(batch, 15, 5), training)


@MODES
@CONFIGS
def test_downsample(config, training):
    def peer(x, p, training):
        return torch_levit.block(x, p, config, (3, 5), training, undropped())

    layer = filled(Downsample(ops, 5, config.stages[1], (3, 5), config, 0.0))
    agree(layer, peer, tokens(2, 15, 5), training)


@MODES
def test_stage(training):
    """A downsample and two blocks; the gradients pass them in reverse."""
    config = replace(CONFIG, stages=(CONFIG.stages[0], CONFIG.stages[1]._replace(depth=2)))
    grids = config.resolutions

    def peer(x, p, training):
        x = torch_levit.block(x, torch_levit.under(p, "downsample"), config, grids[0], training, undropped())
        for i in range(2):
            x = torch_levit.block(x, torch_levit.under(p, f"blocks.{i}"), config, grids[1], training, undropped())
        return x

    agree(filled(Stage(ops, config, 1)), peer, tokens(2, grids[0][0] * grids[0][1], 6), training)
