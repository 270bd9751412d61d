"""Random configurations: sizes and combinations of options that no published network has."""

import numpy as np

from levit_np.config import Convolution, LeViTConfig, Stage
from levit_np.errors import ConfigError

CHANNELS = 1, 3, 7, 8, 12, 16, 17, 24, 33, 48, 64, 65, 96
KEYS = 1, 2, 4, 7, 8, 12, 16, 16, 20, 32, 32, 48, 64


def any_config(seed: int, most_tokens: int = 200) -> LeViTConfig:
    """The random configuration of this seed, with at most `most_tokens` tokens in the first stage."""
    random = np.random.default_rng(seed)
    while True:
        try:
            config = _drawn(random)
            height, width = config.resolutions[0]
        except ConfigError:  # for example, no token would be left
            continue
        if height * width <= most_tokens:
            return config


def _drawn(random):
    def one_of(*values):
        return values[random.integers(len(values))]

    def upto(most):
        return int(random.integers(1, most + 1))

    channels = [one_of(*CHANNELS) for _ in range(upto(3))]
    stem = [one_of(1, 2, 4, 5, 8, 12, 16, 20, 32) for _ in range(upto(4) - 1)] + channels[:1]
    position = one_of("bias", "bias", "embedding")
    key = one_of(*KEYS)
    return LeViTConfig(
        "any",
        tuple(Convolution(c, kernel := one_of(1, 2, 3, 3, 3, 4, 5, 8), one_of(1, 2, 2, 3, kernel)) for c in stem),
        tuple(Stage(c, upto(2), upto(4), upto(4) if number else 0) for number, c in enumerate(channels)), key,
        image_size=(upto(66) + 3, upto(66) + 3), in_channels=one_of(1, 2, 3, 3, 4, 5), num_classes=one_of(1, 2, 10, 37),
        distillation=one_of(True, False), value_ratio=upto(3), shrink_value_ratio=upto(5), mlp_ratio=upto(4),
        activation=one_of("hardswish", "hardswish", "silu"),
        attention_activation=one_of("hardswish", "hardswish", "silu", "identity"),
        normalization=one_of("batch", "batch", "batch", "layer"), position=position,
        pooling=one_of("average", "token") if position == "embedding" and len(channels) == 1 else "average")
