"""The stem: strided convolutions that turn the image into tokens (paper section 4.2, "Patch embedding")."""

from typing import NamedTuple

from .activation import Activation
from .layer import Layer
from .normalization import BatchNorm


class SavedConvolution(NamedTuple):
    x: object
    bn: object


class ConvBN(Layer):
    """y = BN(w ∗ x): or w ∗ x + b, without BN, in ablation A3.  x (B, C, H, W) -> y (B, O, H', W')."""

    def __init__(self, ops, channels, outputs, kernel, stride, padding, normalization="batch"):
        super().__init__(ops)
        self.stride, self.padding = stride, padding
        self.parameter("weight", (outputs, channels, kernel, kernel), ("uniform", (channels * kernel**2) ** -0.5))
        self.bn = BatchNorm(ops, outputs, axis=1) if normalization == "batch" else ChannelBias(ops, outputs)

    def forward(self, x, training=False):
        channels = self.weight.shape[1]
        self.expect(x, 4, channels, 1, f"(B, {channels}, H, W)")
        h = self.ops.convolution(x, self.weight, self.stride, self.padding)  # 1
        y, bn = self.bn.forward(h, training)  # 2
        return y, SavedConvolution(x, bn) if training else None

    def backward(self, dy, saved, input_gradient=True):
        dh = self.bn.backward(dy, saved.bn)  # 2
        dx, dweight = self.ops.convolution_backward(  # 1
            dh, saved.x, self.weight, self.stride, self.padding, input_gradient)
        self.accumulate(weight=dweight)
        return dx

    def shapes(self, shape):
        outputs, channels, kernel, _ = self.specs["weight"].shape
        height, width = (self.ops.convolution_size(n, kernel, self.stride, self.padding) for n in shape[-2:])
        yield self, (shape[0], outputs, height, width), outputs * channels * kernel**2 * height * width


class ChannelBias(Layer):
    """y = x + b: one b per channel, in place of a convolution's BN in ablation A3."""

    def __init__(self, ops, channels):
        super().__init__(ops)
        self.parameter("beta", (channels,), 0.0)

    def forward(self, x, training=False):
        return self.ops.add(x, self.beta.reshape(-1, 1, 1)), None

    def backward(self, dy, saved):
        self.accumulate(beta=self.ops.sum(dy, (0, 2, 3)))
        return dy


class SavedStem(NamedTuple):
    convolutions: tuple
    activation: tuple
    grid: tuple


class Stem(Layer):
    """y = conv(act(… conv(x))): convolutions with activations between them.  x (B, C, H, W) -> tokens (B, N, C')."""

    def __init__(self, ops, config):
        super().__init__(ops)
        channels = (config.in_channels, *(c.channels for c in config.stem))
        self.convolutions = tuple(
            ConvBN(ops, n, c.channels, c.kernel, c.stride, c.padding, config.normalization)
            for n, c in zip(channels, config.stem)
        )
        self.activation = Activation(ops, config.activation)
        for convolution in self.convolutions[:-1]:
            self.activation.join(convolution)

    def forward(self, x, training=False):
        convolutions, activations = [], []
        for i, convolution in enumerate(self.convolutions):
            if i:  # between convolutions alone: the last one's output is the residual stream
                x, saved = self.activation.forward(x, training)  # 1
                activations.append(saved)
            x, saved = convolution.forward(x, training)  # 2  (B, O, H', W')
            convolutions.append(saved)
        saved = SavedStem(tuple(convolutions), tuple(activations), x.shape[2:]) if training else None
        return self.ops.image_to_tokens(x), saved  # 3  (B, N, C')

    def backward(self, dy, saved, image_gradient=True):
        dx = self.ops.tokens_to_image(dy, *saved.grid)  # 3
        for i in reversed(range(len(self.convolutions))):
            dx = self.convolutions[i].backward(dx, saved.convolutions[i], bool(i) or image_gradient)  # 2
            if i:
                dx = self.activation.backward(dx, saved.activation[i - 1])  # 1
        return dx

    def shapes(self, shape):
        for convolution in self.convolutions:
            for row in convolution.shapes(shape):
                yield row
                shape = row[1]
