"""A pointwise activation as a layer, chosen by name."""

from .layer import Layer
from .normalization import BatchNorm


class Activation(Layer):
    """y = kind(x): pointwise, for any shape; kind is "hardswish", "silu" or "identity"."""

    def __init__(self, ops, kind):
        super().__init__(ops)
        self.kind = kind
        self.function, self.derivative, self.joined = getattr(ops, kind), getattr(ops, f"{kind}_backward"), False

    def join(self, before):
        """Lets the BN at the end of layer `before` compute this activation too, in training, if the backend has both as
        one operation: this saves two passes over memory, and the array between them need not be kept."""
        if isinstance(getattr(before, "bn", None), BatchNorm) and hasattr(self.ops, f"batch_norm_{self.kind}"):
            before.bn.activation, self.joined = self.kind, True

    def forward(self, x, training=False):
        if self.joined and training is True:
            return x, None
        return self.function(x), x if training else None

    def backward(self, dy, saved):
        return dy if saved is None else self.derivative(dy, saved)

    def shapes(self, shape):
        yield self, shape, 0
