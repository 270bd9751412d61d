"""Recipes: the default is the paper's, impossible values are refused by name, and JSON keeps them."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from levit_np.errors import ConfigError
from levit_np.training.recipe import RECIPES, Recipe


def test_the_default_is_the_papers():
    """Section 5.2 of the paper, and the defaults of the authors' script."""
    recipe = Recipe()
    assert (recipe.epochs, recipe.rate, recipe.decay, recipe.final_rate) == (1000, 5e-4, 0.025, 1e-5)
    assert (recipe.warmup_epochs, recipe.warmup_rate, recipe.clip, recipe.average) == (5, 1e-6, 0.01, 0.99996)
    assert (recipe.smoothing, recipe.mixup, recipe.cutmix, recipe.mix_probability, recipe.mix_switch) == (
        0.1, 0.8, 1.0, 1.0, 0.5)
    assert (recipe.augment_layers, recipe.augment_magnitude, recipe.augment_deviation) == (2, 9, 0.5)
    assert (recipe.erase, recipe.repeats, recipe.distillation, recipe.alpha) == (0.25, 3, "hard", 0.5)
    assert (recipe.batch, recipe.rate_changes, recipe.beta1, recipe.beta2, recipe.adam_eps) == (
        256, "epoch", 0.9, 0.999, 1e-8)
    assert (recipe.crop_scale, recipe.crop_ratio, recipe.flip, recipe.jitter) == ((0.08, 1), (3 / 4, 4 / 3), 0.5, 0)
    assert (recipe.accumulation, recipe.drop_path, recipe.freeze, recipe.synchronize_norms) == (1, None, (), False)
    assert replace(recipe, batch=1024).peak_rate() == pytest.approx(1e-3)
    assert replace(recipe, batch=64, accumulation=2).peak_rate(ranks=4) == pytest.approx(5e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_json_and_back(name):
    recipe = RECIPES[name]
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert hash(recipe) == hash(replace(recipe))


def test_a_partial_recipe_changes_only_its_fields():
    small = RECIPES["small"]
    assert Recipe.from_dict({"epochs": 3, "freeze": ["stem"]}, small) == replace(small, epochs=3, freeze=("stem",))
    assert Recipe.from_dict({"erase": 1}) == replace(Recipe(), erase=1.0)


def test_numbers_may_be_numpys():
    """Of a search over np.logspace(-4, -2), say; JSON must be able to hold them all the same."""
    recipe = Recipe(rate=np.float64(1e-3), epochs=np.int64(3), clip=np.float32(0.5), drop_path=np.float64(0.25),
                    crop_scale=(np.float64(0.5), np.float32(1)))
    assert recipe == Recipe(rate=1e-3, epochs=3, clip=0.5, drop_path=0.25, crop_scale=(0.5, 1.0))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


WRONG = {"epochs": (0, 1.5, True, "3", None), "batch": (1,), "rate": (-1e-9, float("nan"), float("inf"), "fast"),
         "average": (1.0, 1, -0.1), "drop_path": (1.0, "half"),
         "freeze": ("stem", ("stem", "stem"), ("stages.0",), (1,), (["stem"],)),
         "rate_changes": ("minute",), "distillation": ("none", None), "synchronize_norms": (1,),
         "crop_scale": ((0.5,), (0.9, 0.1), 0.5, (0.0, 1.0), ("a", "b"), None), "repeats": (0,),
         "crop_ratio": ((0.05, 1.0), (1.0, 10.5), (True, 1.0)), "augment_magnitude": (11, True), "adam_eps": (0,),
         "accumulation": (65537,), "alpha": (1.01, -0.01), "smoothing": (1.0, -0.01, True), "warmup_epochs": (-1,)}


@pytest.mark.parametrize("key, value", [(key, value) for key, values in WRONG.items() for value in values])
def test_impossible_values_are_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=f"recipe: {key}: expected .*, found "):
        Recipe.from_dict({key: value})


@pytest.mark.parametrize("key, value", [
    ("epochs", 1), ("epochs", 1 << 31), ("batch", 2), ("batch", 65536), ("repeats", 64), ("warmup_epochs", 0),
    ("alpha", 0.0), ("alpha", 1.0), ("smoothing", 0.0), ("crop_scale", (0.001, 1.0)), ("crop_scale", (1.0, 1.0)),
    ("crop_ratio", (0.1, 10.0)), ("drop_path", 0.0), ("drop_path", None), ("freeze", ()),
    ("freeze", ("stem", "stage1"))])
def test_limits_are_accepted(key, value):
    assert getattr(Recipe.from_dict({key: value}), key) == value


def test_other_refusals():
    with pytest.raises(ConfigError, match="expected keys among epochs, .*found 'epoch'"):
        Recipe.from_dict({"epoch": 3})
    with pytest.raises(ConfigError, match="expected an object"):
        Recipe.from_dict([])


def test_every_field_has_a_description():
    for part in fields(Recipe):
        assert part.metadata["help"] and part.metadata["check"], part.name
