"""A model whose every array is random: a fresh LeViT is nearly the identity, and hides what a test should see."""

import numpy as np

import levit_np


def random_state(specs, seed=0, dtype=np.float64):
    """{name: array} for {name: Parameter}: nothing at the value it starts from, and the signal's size kept."""
    generator, state = np.random.default_rng(seed), {}
    for name, spec in specs.items():
        draw = 0.3 * generator.standard_normal(spec.shape)
        if name.endswith("variance"):
            draw = 0.5 + generator.random(spec.shape)
        elif name.endswith("weight"):
            draw /= 0.3 * np.prod(spec.shape[1:]) ** 0.5
        elif name.endswith("gamma"):
            draw += 0.7
        state[name] = draw.astype(dtype)
    return state


def random_model(name="levit_digits", seed=0, dtype="float32", **changes):
    """create(name), then weights of 1/√fan_in (they keep the signal's size), gammas about 0.7, variances about 1."""
    model = levit_np.create(name, dtype=dtype, **changes)
    model.set_state(random_state(model.specs_by_name(), seed, dtype))
    return model


def random_images(model, batch=2, seed=2):
    shape = batch, model.config.in_channels, *model.config.image_size
    return np.random.default_rng(seed).standard_normal(shape).astype(model.dtype)
