"""Models with random weights and statistics: a fresh LeViT is nearly the identity, which would hide errors."""

import numpy as np

import levit_np

FIVE = tuple(levit_np.list_models()[:5])  # the paper's models


def random_state(specs, seed=0, dtype=np.float64):
    """{name: array} for {name: Parameter}, with no array at its starting value and the size of the signal kept."""
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
    """create(name) with random weights of size 1/√fan_in, which keep the signal's size, gammas about 0.7 and variances
    about 1."""
    model = levit_np.create(name, dtype=dtype, **changes)
    model.set_state(random_state(model.specs_by_name(), seed, dtype))
    return model


def random_images(model, batch=2, seed=2):
    shape = batch, model.config.in_channels, *model.config.image_size
    return np.random.default_rng(seed).standard_normal(shape).astype(model.dtype)
