"""A model whose every array is random: a fresh LeViT is nearly the identity, and hides what a test should see."""

import numpy as np

import levit_np


def random_model(name="levit_digits", seed=0, dtype="float32", **changes):
    """create(name), then weights of 1/√fan_in (they keep the signal's size), gammas about 0.7, variances about 1."""
    model, generator, state = levit_np.create(name, dtype=dtype, **changes), np.random.default_rng(seed), {}
    for key, array in model.state().items():
        draw = generator.standard_normal(array.shape)
        if key.endswith("variance"):
            draw = generator.uniform(0.5, 1.5, array.shape)
        elif key.endswith("gamma"):
            draw = 0.7 + 0.3 * draw
        elif key.endswith("weight"):
            draw /= array[0].size ** 0.5
        else:
            draw *= 0.3
        state[key] = draw.astype(dtype)
    model.set_state(state)
    return model


def random_images(model, batch=2, seed=2):
    shape = batch, model.config.in_channels, *model.config.image_size
    return np.random.default_rng(seed).standard_normal(shape).astype(model.dtype)
