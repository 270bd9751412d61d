"""The class token of ViT: an extra token, whose value after the last block represents the image."""

from .layer import Layer


class ClassToken(Layer):
    """y = (t, x₁, …, x_N): puts the learned t (1, C) before every image's tokens.  x (B, N, C) -> y (B, N + 1, C)."""

    def __init__(self, ops, channels):
        super().__init__(ops)
        self.parameter("token", (1, channels), ("normal", 0.02))

    def forward(self, x, training=False):
        return self.ops.prepend_token(x, self.token), None

    def backward(self, dy, saved):
        dx, dtoken = self.ops.prepend_token_backward(dy)
        self.accumulate(token=dtoken)
        return dx

    def shapes(self, shape):
        yield self, (shape[0], shape[1] + 1, shape[2]), 0
