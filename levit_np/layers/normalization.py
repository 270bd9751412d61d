"""The normalization layers: BatchNorm, which keeps running statistics, and LayerNorm, which needs none."""

from typing import NamedTuple

from ..errors import LevitError
from .layer import Layer


class SavedBatchNorm(NamedTuple):
    x: object
    statistics: object  # of the batch; None if the running statistics were used
    running: tuple  # (mean, variance) if they were used, else ()


class BatchNorm(Layer):
    """y = gamma (x - mean) / √(variance + eps) + beta: per channel; `axis` is the axis of the channels."""

    eps, momentum = 1e-5, 0.1

    def __init__(self, ops, channels, axis=-1, gamma=1.0):
        super().__init__(ops)
        self.axis, self.activation = axis, None  # activation: computed here too in training, see Activation.join
        self.parameter("gamma", (channels,), gamma)
        self.parameter("beta", (channels,), 0.0)
        self.parameter("mean", (channels,), 0.0, trainable=False)
        self.parameter("variance", (channels,), 1.0, trainable=False)

    def forward(self, x, training=False):
        if training is not True:
            y = self.ops.normalize(x, self.gamma, self.beta, self.mean, self.variance, self.eps, self.axis)
            return y, SavedBatchNorm(x, None, (self.mean, self.variance)) if training else None
        if x.size <= x.shape[self.axis]:
            raise LevitError(f"{self.name}: expected at least two values per channel to train on, found "
                             f"{tuple(x.shape)}: a batch of one cannot be normalized; use a larger batch")
        batch_norm = getattr(self.ops, f"batch_norm_{self.activation}") if self.activation else self.ops.batch_norm
        y, statistics = batch_norm(x, self.gamma, self.beta, self.eps, self.axis)
        self.mean, self.variance = self.ops.update_running((self.mean, self.variance), statistics, self.momentum)
        return y, SavedBatchNorm(x, statistics, ())

    def backward(self, dy, saved):
        if saved.statistics is None:
            dx, dgamma, dbeta = self.ops.normalize_backward(dy, saved.x, self.gamma, *saved.running, self.eps,
                                                            self.axis)
        elif self.activation:
            backward = getattr(self.ops, f"batch_norm_{self.activation}_backward")
            dx, dgamma, dbeta = backward(dy, saved.x, self.gamma, self.beta, saved.statistics, self.eps, self.axis)
        else:
            dx, dgamma, dbeta = self.ops.batch_norm_backward(dy, saved.x, self.gamma, saved.statistics, self.eps,
                                                             self.axis)
        self.accumulate(gamma=dgamma, beta=dbeta)
        return dx

    def shapes(self, shape):
        yield self, shape, 0


class LayerNorm(Layer):
    """y = gamma (x - mean) / √(variance + eps) + beta: per token, over its channels (ablation A3)."""

    eps = 1e-6

    def __init__(self, ops, channels):
        super().__init__(ops)
        self.parameter("gamma", (channels,), 1.0)
        self.parameter("beta", (channels,), 0.0)

    def forward(self, x, training=False):
        return self.ops.layer_norm(x, self.gamma, self.beta, self.eps), x if training else None

    def backward(self, dy, saved):
        dx, dgamma, dbeta = self.ops.layer_norm_backward(dy, saved, self.gamma, self.eps)
        self.accumulate(gamma=dgamma, beta=dbeta)
        return dx

    def shapes(self, shape):
        yield self, shape, 0
