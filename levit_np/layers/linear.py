"""The linear layers: LinearBN; Linear, with a bias instead of BN (ablation A3); and Head, the classifier."""

from typing import NamedTuple

from .layer import Layer
from .normalization import BatchNorm, LayerNorm


class SavedLinear(NamedTuple):
    x: object
    bn: object


class LinearBN(Layer):
    """y = BN(x wᵀ).  x (B, N, C) -> y (B, N, O)."""

    def __init__(self, ops, channels, outputs, gamma=1.0):
        super().__init__(ops)
        self.parameter("weight", (outputs, channels), ("uniform", channels**-0.5))
        self.bn = BatchNorm(ops, outputs, gamma=gamma)

    def forward(self, x, training=False):
        self.expect(x, 3, self.weight.shape[1], 2, f"(B, N, {self.weight.shape[1]})")
        h = self.ops.linear(x, self.weight)  # 1  (B, N, O)
        y, bn = self.bn.forward(h, training)  # 2
        return y, SavedLinear(x, bn) if training else None

    def backward(self, dy, saved):
        dh = self.bn.backward(dy, saved.bn)  # 2
        dx, dweight = self.ops.linear_backward(dh, saved.x, self.weight)  # 1
        self.accumulate(weight=dweight)
        return dx

    def shapes(self, shape):
        outputs, channels = self.specs["weight"].shape
        yield self, (*shape[:-1], outputs), shape[-2] * channels * outputs


class Linear(Layer):
    """y = x wᵀ + b: the linear layer of ViT (ablation A3).  x (B, N, C) -> y (B, N, O)."""

    def __init__(self, ops, channels, outputs):
        super().__init__(ops)
        self.parameter("weight", (outputs, channels), ("uniform", channels**-0.5))
        self.parameter("bias", (outputs,), 0.0)

    def forward(self, x, training=False):
        self.expect(x, 3, self.weight.shape[1], 2, f"(B, N, {self.weight.shape[1]})")
        return self.ops.linear(x, self.weight, self.bias), x if training else None

    def backward(self, dy, saved):
        dx, dweight = self.ops.linear_backward(dy, saved, self.weight)
        self.accumulate(weight=dweight, bias=self.ops.bias_backward(dy))
        return dx

    shapes = LinearBN.shapes


class Head(Layer):
    """logits = norm(x) wᵀ + b: the classifier; its normalization comes first.  x (B, C) -> logits (B, classes)."""

    def __init__(self, ops, channels, classes, normalization="batch"):
        super().__init__(ops)
        self.bn = BatchNorm(ops, channels) if normalization == "batch" else LayerNorm(ops, channels)
        self.parameter("weight", (classes, channels), ("normal", 0.02))
        self.parameter("bias", (classes,), 0.0)

    def walk(self, name=""):
        yield from self.bn.walk(f"{name}.bn")  # in the order of computation
        yield name, self

    def forward(self, x, training=False):
        h, bn = self.bn.forward(x, training)  # 1
        return self.ops.linear(h, self.weight, self.bias), SavedLinear(h, bn) if training else None  # 2

    def backward(self, dy, saved):
        dh, dweight = self.ops.linear_backward(dy, saved.x, self.weight)  # 2
        self.accumulate(weight=dweight, bias=self.ops.bias_backward(dy))
        return self.bn.backward(dh, saved.bn)  # 1

    def shapes(self, shape):
        classes, channels = self.specs["weight"].shape
        yield self, (*shape[:-1], classes), classes * channels


def projection(ops, channels, outputs, normalization, gamma=1.0):
    """The linear layer of attention and MLP: LinearBN, or Linear if the network normalizes by LayerNorm instead."""
    return LinearBN(ops, channels, outputs, gamma) if normalization == "batch" else Linear(ops, channels, outputs)
