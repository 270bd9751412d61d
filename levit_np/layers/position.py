"""A learned position embedding at the input (ablation A5)."""

from .layer import Layer


class PositionEmbedding(Layer):
    """y = x + e: adds a learned vector to each token.  x (B, N, C), e (N, C)."""

    def __init__(self, ops, tokens, channels):
        super().__init__(ops)
        self.parameter("embedding", (tokens, channels), ("normal", 0.02))

    def forward(self, x, training=False):
        return self.ops.add(x, self.embedding), None

    def backward(self, dy, saved):
        self.accumulate(embedding=self.ops.sum(dy, 0))
        return dy

    def shapes(self, shape):
        yield self, shape, 0
