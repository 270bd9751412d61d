"""MLP, residual connection with drop path and pre-normalization, and the blocks and stages built from them."""

from typing import NamedTuple

from .activation import Activation
from .attention import Attention, ShrinkingAttention
from .layer import Layer
from .linear import projection
from .normalization import LayerNorm


class SavedMLP(NamedTuple):
    up: object
    activation: object
    down: object


class MLP(Layer):
    """y = down(act(up(x))): up widens C channels to mlp_ratio·C, down narrows them.  x (B, N, C) -> y (B, N, C)."""

    def __init__(self, ops, channels, config):
        super().__init__(ops)
        self.up = projection(ops, channels, channels * config.mlp_ratio, config.normalization)
        self.activation = Activation(ops, config.activation)
        self.activation.join(self.up)
        self.down = projection(ops, channels * config.mlp_ratio, channels, config.normalization, gamma=0.0)

    def forward(self, x, training=False):
        h, up = self.up.forward(x, training)  # 1
        h, activation = self.activation.forward(h, training)  # 2
        y, down = self.down.forward(h, training)  # 3
        return y, SavedMLP(up, activation, down) if training else None

    def backward(self, dy, saved):
        dh = self.down.backward(dy, saved.down)  # 3
        dh = self.activation.backward(dh, saved.activation)  # 2
        return self.up.backward(dh, saved.up)  # 1

    def shapes(self, shape):
        rows = list(self.up.shapes(shape))
        yield from rows
        yield from self.down.shapes(rows[-1][1])


class SavedPreNorm(NamedTuple):
    norm: object
    branch: object


class PreNorm(Layer):
    """y = branch(LayerNorm(x)): as in ViT (ablation A3).  The branch takes this layer's name, without `.branch`."""

    def __init__(self, ops, channels, branch):
        super().__init__(ops)
        self.norm, self.branch = LayerNorm(ops, channels), branch

    def walk(self, name=""):
        yield from self.norm.walk(f"{name}.norm")
        yield from self.branch.walk(name)

    def forward(self, x, training=False):
        h, norm = self.norm.forward(x, training)  # 1
        y, branch = self.branch.forward(h, training)  # 2
        return y, SavedPreNorm(norm, branch) if training else None

    def backward(self, dy, saved):
        return self.norm.backward(self.branch.backward(dy, saved.branch), saved.norm)  # 2, 1

    def shapes(self, shape):
        yield from self.norm.shapes(shape)
        yield from self.branch.shapes(shape)


class SavedResidual(NamedTuple):
    branch: object
    mask: object


class Residual(Layer):
    """y = x + mask · branch(x): in training the mask drops an image's whole branch at random (drop path).

    A residual has no parameters of its own: its branch takes its name, without `.branch`."""

    def __init__(self, ops, branch, rate):
        super().__init__(ops)
        self.branch, self.rate, self.generator = branch, rate, None
        self.mask = None  # the next mask, if training.recorded has drawn it beforehand

    def walk(self, name=""):
        yield from self.branch.walk(name)

    def forward(self, x, training=False):
        h, branch = self.branch.forward(x, training)  # 1
        mask = None
        if training is True and self.rate:
            mask = self.draw(len(x), x.dtype) if self.mask is None else self.mask
            h = self.ops.multiply(h, mask)  # 2
        return self.ops.add(x, h), SavedResidual(branch, mask) if training else None  # 3

    def draw(self, batch, dtype):
        """A new mask for a batch, (B, 1, 1)."""
        return self.ops.drop_path_mask(self.generator(), batch, self.rate, dtype)

    def backward(self, dy, saved):
        dh = dy if saved.mask is None else self.ops.multiply(dy, saved.mask)  # 2
        return self.ops.add(dy, self.branch.backward(dh, saved.branch))  # 3, 1

    def shapes(self, shape):
        yield from self.branch.shapes(shape)


class SavedPair(NamedTuple):
    attention: object
    mlp: object


class _Pair(Layer):
    """y = mlp(attention(x)): shared by Block and Downsample, whose `attention` and `mlp` contain their residuals."""

    def forward(self, x, training=False):
        x, attention = self.attention.forward(x, training)  # 1
        x, mlp = self.mlp.forward(x, training)  # 2
        return x, SavedPair(attention, mlp) if training else None

    def backward(self, dy, saved):
        return self.attention.backward(self.mlp.backward(dy, saved.mlp), saved.attention)  # 2, 1

    def shapes(self, shape):
        rows = list(self.attention.shapes(shape))
        yield from rows
        yield from self.mlp.shapes(rows[-1][1])

    def _normalized(self, channels, branch, config):
        return branch if config.normalization == "batch" else PreNorm(self.ops, channels, branch)


class Block(_Pair):
    """z = x + attention(x), y = z + mlp(z)."""

    def __init__(self, ops, channels, heads, grid, config, rate):
        super().__init__(ops)
        attention = self._normalized(channels, Attention(ops, channels, heads, grid, config), config)
        mlp = self._normalized(channels, MLP(ops, channels, config), config)
        self.attention, self.mlp = Residual(ops, attention, rate), Residual(ops, mlp, rate)


class Downsample(_Pair):
    """z = attention(x), y = z + mlp(z): the shrinking attention has no residual, as x and z differ in shape."""

    def __init__(self, ops, channels, stage, grid, config, rate):
        super().__init__(ops)
        shrink = ShrinkingAttention(ops, channels, stage.channels, stage.shrink_heads, grid, config)
        self.attention = self._normalized(channels, shrink, config)
        self.mlp = Residual(ops, self._normalized(stage.channels, MLP(ops, stage.channels, config), config), rate)


class SavedStage(NamedTuple):
    downsample: object
    blocks: tuple


class Stage(Layer):
    """y = blocks(downsample(x)): every stage but the first begins with a downsample.  (B, N, C) -> (B, N', C')."""

    def __init__(self, ops, config, number):
        super().__init__(ops)
        stage, grids = config.stages[number], config.resolutions
        self.downsample = Downsample(
            ops, config.stages[number - 1].channels, stage, grids[number - 1], config, config.drop_path
        ) if number else None
        self.blocks = tuple(Block(ops, stage.channels, stage.heads, grids[number], config, config.drop_path)
                            for _ in range(stage.depth))

    def _sequence(self):
        return (self.downsample, *self.blocks) if self.downsample else self.blocks

    def forward(self, x, training=False):
        saved = []
        for layer in self._sequence():
            x, s = layer.forward(x, training)
            saved.append(s)
        if not training:
            return x, None
        return x, SavedStage(saved.pop(0) if self.downsample else None, tuple(saved))

    def backward(self, dy, saved):
        for block, s in zip(reversed(self.blocks), reversed(saved.blocks)):
            dy = block.backward(dy, s)
        return self.downsample.backward(dy, saved.downsample) if self.downsample else dy

    def shapes(self, shape):
        for layer in self._sequence():
            for row in layer.shapes(shape):
                yield row
                shape = row[1]
