"""The plan (the folded steps of evaluation) against the network from which it was made."""

import inspect
import pkgutil
import re
from importlib import import_module

import numpy as np
import pytest

import levit_np
from levit_np import layers
from levit_np.explain.trace import trace
from levit_np.inference import fold, listing, plan
from levit_np.inference.reference import RUN, ReferenceExecutor
from levit_np.layers.activation import Activation
from levit_np.layers.attention import AttentionBias
from levit_np.layers.layer import Layer
from levit_np.layers.linear import Head
from levit_np.layers.normalization import BatchNorm, LayerNorm

from ..random_model import random_images, random_model

SMALL = {"image_size": (64, 48), "num_classes": 7}
NETWORKS = {name: SMALL for name in levit_np.list_models() if "levit_128" in name} | {
    "levit_digits": {}, "levit_256d": SMALL, "levit_384_s8": {"image_size": 32}, "deit_tiny": SMALL}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """(model, three images, its plan as an executor, the logits that the executor computes)."""
    model = random_model(request.param, dtype="float64", **NETWORKS[request.param])
    x, executor = random_images(model, 3), ReferenceExecutor(model)
    return model, x, executor, executor(x)


def test_a_plan_computes_the_networks_logits(network):
    model, x, _, logits = network
    expected = model.forward(x)[0]
    assert np.abs(logits - expected).max() < 1e-12 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["levit_digits", "levit_128s_a3", "levit_256d"])
def test_a_plan_with_the_heads_apart(name):
    model = random_model(name, dtype="float64", **NETWORKS[name])
    x = random_images(model, 3)
    expected = model.forward(x, training="frozen")[0]
    expected = np.concatenate(expected if model.config.distillation else (expected,), axis=1)
    logits = ReferenceExecutor(model, apart=True)(x)
    assert logits.shape == expected.shape and np.abs(logits - expected).max() < 1e-12 * np.abs(expected).max()


def test_the_pool_may_come_before_the_last_linear_map(network):
    """The last linear map then sees one token; the other steps are unchanged."""
    model, x, executor, expected = network
    late, early = executor.steps, list(plan.steps_of(model, pooled_early=True))
    pool = next(i for i, step in enumerate(late) if isinstance(step, plan.Pool))
    names = [step.name for step in late]
    assert [step.name for step in early] == [*names[: pool - 1], "pool", "pool", names[pool - 1], *names[pool + 1 :]]
    tensors = {"image": x}
    for step in early:
        RUN[type(step)](step, tensors)
    assert np.abs(tensors["logits"] - expected).max() < 1e-12 * np.abs(expected).max()
    assert tensors["pooled_hidden"].shape == (3, late[pool - 1].weight.shape[1])


def test_every_layer_has_a_form_for_inference():
    """A layer without one would be left out of a plan: add it to plan.LOWERINGS or plan.INSIDE."""
    every = {kind for module in pkgutil.iter_modules(layers.__path__)
             for kind in vars(import_module(f"levit_np.layers.{module.name}")).values()
             if inspect.isclass(kind) and issubclass(kind, Layer) and not kind.__name__.startswith("_")}
    inside = {*plan.INSIDE, Layer, Activation, AttentionBias, Head, BatchNorm, LayerNorm}
    assert every == set(plan.LOWERINGS) | inside


def test_a_layer_without_one_is_named():
    class Unknown(Layer):
        pass

    model = random_model()
    model.stages[0].blocks[0].mlp.branch = unknown = Unknown(model.ops)
    unknown.name = "stages.0.blocks.0.mlp.branch"
    with pytest.raises(levit_np.LevitError, match="^stages.0.blocks.0.mlp.branch: Unknown has no form for inference"):
        list(plan.steps_of(model))


def test_a_plan_is_a_snapshot():
    """Even arrays that need no conversion are copied."""
    model = random_model(dtype="float64", position="embedding")
    x, executor = random_images(model), ReferenceExecutor(model)
    arrays = [value for step in plan.steps_of(model) for value in step if isinstance(value, np.ndarray)]
    before, kept = executor(x), [array.copy() for array in arrays]
    for array in model.state().values():
        array += 1
    assert np.array_equal(executor(x), before) and all(map(np.array_equal, arrays, kept))


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_folding_is_computed_in_float64(normalization):
    """Folding float32 weights gives the same as if they had been float64 from the start."""
    model, wide = (random_model(dtype=dtype, normalization=normalization) for dtype in ("float32", "float64"))
    wide.set_state({name: array.astype(np.float64) for name, array in model.state().items()})
    for step, exact in zip(plan.steps_of(model), plan.steps_of(wide)):
        for found, expected in zip(step, exact):
            assert np.array_equal(found, expected) and getattr(found, "dtype", np.float64) == np.float64, step.name


def test_names_are_those_of_the_layers():
    model = random_model("levit_128s", **SMALL)
    names = {name for name, _ in model.walk()}
    for step in plan.steps_of(model):
        assert step.name in names | {"pool"}, step.name


@pytest.mark.parametrize("name", NETWORKS)
def test_summary_and_step_through_show_what_is_planned(name):
    """The same layers with the same shapes; the plan's also in the same order and with the same multiply-adds. The
    plan's head is both heads."""
    model = random_model(name, **NETWORKS[name])
    x = random_images(model, 1)
    planned = {row.name: (row.shape, row.multiply_adds) for row in listing.rows(plan.steps_of(model), model.config)
               if row.name not in ("pool", "head.bn")}  # those that are not layers
    summary = {layer: (shape, cost) for layer, shape, _, cost in model.rows()}
    calls = trace(model, x).forward
    walked = {call.name: call.output.shape[1:] for call in calls if call.name in summary}
    walked |= {call.parent: call.input.shape[1:] for call in calls if call.name.endswith(".projection")}
    assert walked == {layer: shape for layer, (shape, _) in summary.items()}
    assert summary.pop("head_dist", summary["head"]) == summary["head"]
    places = list(planned)  # a shrinking attention's is that of its subsampling, before its queries
    assert planned == summary and [name for name in places if "downsample" not in name] == [
        name for name in summary if "downsample" not in name]


@pytest.mark.parametrize("pooled_early", [False, True])
def test_a_listing_has_the_shapes_and_sizes_of_what_is_computed(network, pooled_early):
    model, x, _, _ = network
    steps, tensors = list(plan.steps_of(model, pooled_early=pooled_early)), {"image": x}
    rows = list(listing.rows(steps, model.config))
    assert len(rows) == len(steps)
    for step, row in zip(steps, rows):
        RUN[type(step)](step, tensors)
        y = tensors[getattr(step, "target", "image" if isinstance(step, plan.Convolution) else "x")][0]
        assert (row.name, row.shape) == (step.name, y.shape)
        assert row.numbers == sum(value.size for value in step if isinstance(value, np.ndarray))
        if hasattr(step, "weight"):
            assert row.multiply_adds == step.weight[0].size * y.size


def test_a_summary_of_the_plan_shows_what_is_folded():
    """For a newcomer: each step with its formula, and the totals."""
    model = levit_np.create("levit_digits")
    lines = model.summary(plan=True).splitlines()
    shown = {line.split("  ")[0]: line for line in lines}
    assert lines[0].split() == ["step", "output", "numbers", "multiply-adds", "computes"]
    assert shown["stem.convolutions.0"].endswith("  map = hardswish(weight ∗ map + bias)")
    assert shown["stages.0.blocks.0.mlp.down"].endswith("64 × 64    8,256        524,288  x += hidden weightᵀ + bias")
    assert shown["stages.1.blocks.0.attention"].endswith("  context = hardswish(softmax(q kᵀ + bias) v)")
    assert shown["stages.1.downsample.attention.q"].endswith("  q = kept weightᵀ + bias")
    assert shown["stages.2.blocks.1.mlp.down"].endswith("  pooled += pooled_hidden weightᵀ + bias")
    assert shown["head"].endswith("10      810            800  logits = pooled weightᵀ + bias") and "bn" not in shown
    counts = [re.search(r" ([\d,]+) +([\d,]+)(  [^\d ]|$)", line).groups()[:2] for line in lines[1:]]
    numbers, products = zip(*[[int(count.replace(",", "")) for count in pair] for pair in counts])
    assert sum(numbers[:-1]) == numbers[-1] and sum(products[:-1]) == products[-1]


@pytest.mark.parametrize("name, layer, formula", [
    ("levit_128s_a3", "stages.0.blocks.0.attention.norm", "normalized = gamma (x - mean) / √(variance + eps) + beta"),
    ("levit_128s_a3", "stages.0.blocks.0.attention.qkv", "qkv = normalized weightᵀ + bias"),
    ("levit_128s_a5", "position", "x += embedding"),
    ("levit_128s_a5", "stages.0.blocks.0.attention", "context = hardswish(softmax(q kᵀ) v)"),
    ("levit_128s_a7", "stages.0.blocks.0.attention", "context = softmax(q kᵀ + bias) v"),
    ("levit_128s", "stages.1.downsample.attention",
     "kept = x at a stride of 2 pixels; context = hardswish(softmax(q kᵀ + bias) v)"),
    ("levit_128s", "pool", "pooled = mean token of x"), ("deit_tiny", "pool", "pooled = first token of x"),
    ("deit_tiny", "token", "x = (token, x)"),
    ("levit_384_s8", "stem.convolutions.0", "map = silu(weight ∗ map + bias)")])
def test_formulas(name, layer, formula):
    assert listing.formulas(levit_np.create(name, image_size=32))[layer] == formula


def test_grouping_by_role():
    rows = np.array([f"{head}{part}{i}" for head in "01" for part, size in (("q", 2), ("k", 1), ("v", 3))
                     for i in range(size)])
    grouped = fold.group_by_role(rows, 2, (2, 1, 3))
    assert list(grouped) == ["0q0", "0q1", "1q0", "1q1", "0k0", "1k0", "0v0", "0v1", "0v2", "1v0", "1v1", "1v2"]
