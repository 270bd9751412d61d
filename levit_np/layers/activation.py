"""A pointwise activation as a layer, chosen by name."""

from .layer import Layer


class Activation(Layer):
    """y = kind(x): any shape; kind is "hardswish", "silu" or "identity"."""

    def __init__(self, ops, kind):
        super().__init__(ops)
        self.kind = kind
        self.function, self.derivative = getattr(ops, kind), getattr(ops, f"{kind}_backward")

    def forward(self, x, training=False):
        return self.function(x), x if training else None

    def backward(self, dy, saved):
        return self.derivative(dy, saved)

    def shapes(self, shape):
        yield self, shape, 0
