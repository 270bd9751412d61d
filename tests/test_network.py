"""Properties of whole networks for any weights: gradients, independent images of a batch, mirrored and damaged images,
dtypes, frozen parts, replaced state."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_np.config import Convolution, Stage
from levit_np.errors import ConfigError, LevitError
from levit_np.model import create

from .networks import TINY, images_of, random_network
from .random_model import random_images, random_model

some = settings(max_examples=15, derandomize=True, deadline=None)
seeds = st.integers(0, 2**32)
every_network = pytest.mark.parametrize("name", TINY)


@every_network
@pytest.mark.parametrize("training", [True, "frozen"])
@settings(some, max_examples=4)
@given(seed=seeds)
def test_gradient_in_a_random_direction(name, training, seed):
    """All parameters and the images are moved at once, with random upstream gradients; the loss's derivative agrees
    within 1e-5."""
    config, generator = replace(TINY[name], drop_path=0.0), np.random.default_rng(seed)
    model, x = random_network(config, seed), images_of(config, 6, seed)
    state, dx = model.state(), generator.standard_normal(x.shape)
    direction = {name: generator.standard_normal(array.shape) for name, array in model.gradients().items()}
    upstream = [generator.standard_normal((6, 5)) for _ in range(1 + config.distillation)]

    def loss(step):
        model.set_state(state | {name: state[name] + step * d for name, d in direction.items()})
        outputs, saved = model.forward(x + step * dx, training)
        return sum(np.vdot(d, y) for d, y in zip(upstream, outputs if config.distillation else [outputs])), saved

    _, saved = loss(0.0)
    found = np.vdot(model.backward(upstream if config.distillation else upstream[0], saved), dx)
    found += sum(np.vdot(gradient, direction[name]) for name, gradient in model.gradients().items())
    expected = (loss(1e-7)[0] - loss(-1e-7)[0]) / 2e-7  # a step so short that it rarely crosses a kink of Hardswish
    assert found == pytest.approx(expected, rel=1e-5)


@every_network
@some
@given(seed=seeds, batch=st.integers(1, 5), training=st.sampled_from([False, "frozen"]))
def test_a_batch_is_its_images_one_by_one(name, seed, batch, training):
    model, x = random_network(TINY[name]), images_of(TINY[name], batch, seed)
    whole = np.asarray(model.forward(x, training)[0])
    single = np.concatenate([np.asarray(model.forward(x[i : i + 1], training)[0]) for i in range(batch)], -2)
    np.testing.assert_allclose(whole, single, rtol=1e-12, atol=1e-13)


@every_network
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_nan_image_affects_only_its_own_row(name, dtype, bad):
    model, x = random_network(TINY[name], dtype=dtype), images_of(TINY[name], 5, dtype=dtype)
    clean = model(x)
    x[3, 1, 4, 5] = bad
    with np.errstate(invalid="ignore"):
        damaged = model(x)
    others = [0, 1, 2, 4]
    assert np.isnan(damaged[3]).all()
    np.testing.assert_array_equal(damaged[others], clean[others])


@every_network
def test_an_empty_batch_is_evaluated(name):
    model, x = random_network(TINY[name]), images_of(TINY[name], 0)
    assert model(x).shape == (0, 5) and model.features(x)["pooled"].shape[0] == 0
    _, saved = model.forward(x, training="frozen")
    upstream = np.zeros((0, 5))
    assert model.backward((upstream, upstream) if TINY[name].distillation else upstream, saved).shape == x.shape


@pytest.mark.parametrize("batch, refused", [(0, True), (1, True), (2, False)])
def test_a_batch_of_one_is_refused_by_bn_alone(batch, refused):
    """Before anything has changed: the head's BN would have one value per channel."""
    model, x = random_network(TINY["base"]), images_of(TINY["base"], batch)
    before = model.state()
    if refused:
        with pytest.raises(LevitError, match=f"tiny: expected at least two images to train on, found {batch}: "):
            model.forward(x, training=True)
    else:
        model.forward(x, training=True)
    assert refused == all(array is before[name] for name, array in model.state().items())
    random_network(TINY["vit"]).forward(images_of(TINY["vit"], 1), training=True)


@every_network
@pytest.mark.parametrize("training", [False, True, "frozen"])
def test_arguments_are_not_written_to(name, training):
    """Read-only images, weights and upstream gradients work; strided ones give the same to rounding."""
    results = []
    for strided in (False, True):
        model, x = random_network(TINY[name]), images_of(TINY[name], 3)
        model.random = np.random.default_rng(5)
        if strided:
            x = np.repeat(x, 2, 3)[..., ::2]
        for array in (x, *model.state().values()):
            array.flags.writeable = False
        outputs, saved = model.forward(x, training)
        results.append([np.asarray(outputs)])
        if training:
            upstream = np.random.default_rng(1).standard_normal(results[-1][0].shape)
            upstream.flags.writeable = False
            results[-1].append(model.backward(upstream, saved))
            results[-1] += model.gradients().values()
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@every_network
@pytest.mark.parametrize("training", [False, True, "frozen"])
def test_float32_stays_float32(name, training):
    model, x = random_network(TINY[name], dtype=np.float32), images_of(TINY[name], 3, dtype=np.float32)
    outputs, saved = model.forward(x, training)
    if training:
        dtypes = {array.dtype for array in _arrays((outputs, saved))}
        upstream = np.ones(np.shape(outputs), np.float32)
        dx = model.backward(upstream, saved)
        dtypes |= {a.dtype for a in (dx, *model.gradients().values(), *model.state().values())}
        assert dtypes == {np.dtype(np.float32)}
    else:
        assert {a.dtype for a in (outputs, *model.features(x).values())} == {np.dtype(np.float32)}


def _arrays(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _arrays(part)


@some
@given(seed=seeds)
def test_a_mirrored_image_gives_mirrored_attention(seed):
    """With kernels that are their own mirror images and odd widths, so that strides begin and end at the edge.

    The widths are 17 pixels, then 9, 5, and 3 after the shrinking block."""
    config = replace(TINY["base"], image_size=(12, 17), stages=(Stage(6, 1, 2), Stage(10, 2, 3, 2)),
                     stem=(Convolution(4), Convolution(6)))
    model, x = random_network(config, seed % 97), images_of(config, 2, seed)
    state = model.state()
    model.set_state({name: (array + array[..., ::-1]) / 2 if array.ndim == 4 else array
                     for name, array in state.items()})
    np.testing.assert_allclose(model(x[..., ::-1]), model(x), rtol=1e-9, atol=1e-12)
    mirrored, maps = model.attention_maps(x[..., ::-1]), model.attention_maps(x)
    grids = {"stages.0.blocks.0": ((3, 5), (3, 5)), "stages.1.downsample": ((2, 3), (3, 5)),
             "stages.1.blocks.0": ((2, 3), (2, 3)), "stages.1.blocks.1": ((2, 3), (2, 3))}
    assert set(maps) == {f"{name}.attention" for name in grids}
    for name, (queries, keys) in grids.items():
        shape = (2, -1, *queries, *keys)
        expected = maps[f"{name}.attention"].reshape(shape)[:, :, :, ::-1, :, ::-1]
        np.testing.assert_allclose(mirrored[f"{name}.attention"].reshape(shape), expected, rtol=1e-9, atol=1e-12)
    model.set_state(state)
    assert not np.allclose(model(x[..., ::-1]), model(x), rtol=1e-3)


@every_network
def test_folded_bn_is_bn(name):
    """Evaluation is unchanged when every BN is folded into the linear map beside it and replaced by the identity."""
    config = TINY[name]
    model, x = random_network(config), images_of(config, 2)
    expected, state = model(x), model.state()
    for gamma in [key for key in state if key.endswith("bn.gamma") and key.replace("gamma", "mean") in state]:
        layer = gamma.removesuffix("bn.gamma")
        mean, variance, beta = (state[f"{layer}bn.{key}"] for key in ("mean", "variance", "beta"))
        scale, weight = state[gamma] / np.sqrt(variance + 1e-5), state[f"{layer}weight"]
        if f"{layer}bias" in state:  # in a head, BN comes first
            state[f"{layer}bias"] = state[f"{layer}bias"] + weight @ (beta - mean * scale)
            state |= {f"{layer}weight": weight * scale, f"{layer}bn.beta": 0 * beta}
        else:
            state |= {f"{layer}weight": weight * scale.reshape(-1, *[1] * (weight.ndim - 1)),
                      f"{layer}bn.beta": beta - mean * scale}
        state |= {gamma: np.full_like(scale, (1 + 1e-5) ** 0.5), f"{layer}bn.mean": 0 * mean,
                  f"{layer}bn.variance": np.ones_like(variance)}
    model.set_state(state)
    np.testing.assert_allclose(model(x), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["levit_128s", "deit_tiny"])
def test_the_initial_weights(name):
    """Like the authors': weights uniform in ±1/√fan_in; heads and embeddings from a truncated normal; branches that add
    nothing."""
    model = create(name, image_size=64, seed=1)
    for key, array in model.state().items():
        kind = key.rpartition(".")[2]
        if kind not in ("weight", "embedding", "token"):
            ends_a_branch = key.endswith((".mlp.down.bn.gamma", ".attention.projection.bn.gamma"))
            residual = ends_a_branch and not key.endswith("downsample.attention.projection.bn.gamma")
            assert (array == (kind == "variance" or kind == "gamma" and not residual)).all(), key
            continue
        uniform = kind == "weight" and not key.startswith("head")
        width = np.prod(array.shape[1:]) ** -0.5 if uniform else 0.04
        deviation = width / 3**0.5 if uniform else 0.02 * 0.8796  # of a truncated normal
        assert 0.95 * width < np.abs(array).max() <= width * (1 + 1e-6), key
        few = 4 / array.size**0.5
        assert abs(array.mean()) < few * deviation and abs(array.std() / deviation - 1) < few, key


def test_drop_path_is_set_for_all_branches_or_refused():
    model = random_network(TINY["base"])
    assert model.dropping() == []
    model.set_drop_path(np.float64(0.25))  # from np.linspace, say
    assert type(model.config.drop_path) is float  # a file can store no NumPy number
    assert model.config.drop_path == 0.25 and [branch.rate for branch in model.dropping()] == [0.25] * 5
    model.freeze(["stage1"])
    assert len(model.dropping()) == 3
    for rate in (1, -0.5):
        with pytest.raises(ConfigError, match="drop_path"):
            model.set_drop_path(rate)
    assert model.config.drop_path == 0.25 and [branch.rate for branch in model.dropping()] == [0.25] * 3


def test_a_state_is_taken_whole_or_not_at_all():
    model = random_network(TINY["base"], dtype=np.float32)
    state = {name: array.copy() for name, array in model.state().items()}
    for wrong, found in ((None, "nothing"), (np.zeros(5, np.int64), r"int64 \(5,\)"), ([0.0] * 5, "list "),
                         (np.zeros((5, 1), np.float32), r"float32 \(5, 1\)"),
                         (SimpleNamespace(shape=(5,), dtype="torch.float32"), r"torch.float32 \(5,\)")):  # torch
        given = {name: array + 1 for name, array in state.items()} | {"head.bias": wrong}
        with pytest.raises(LevitError, match=rf"head.bias: expected a floating array \(5,\), found {found}\Z"):
            model.set_state({name: array for name, array in given.items() if array is not None})
    assert all(np.array_equal(array, state[name]) for name, array in model.state().items())


def test_a_state_that_was_given_is_not_written_to():
    """And the network does not change with it afterwards."""
    model = random_network(TINY["base"])
    state = {name: array.copy() for name, array in model.state().items()}
    model.set_state(state)
    for array in model.state().values():
        array += 1
    for name, array in model.state().items():
        assert not np.may_share_memory(array, state[name]) and (array == state[name] + 1).all()


@pytest.mark.parametrize("name, parts", [("base", ["stem"]), ("drop", ["stage2"]), ("base", ["stem", "stage1"]),
                                         ("silu", ["stage1"]), ("vit", ["stem"]),
                                         ("base", ["stem", "stage1", "stage2"])])
def test_frozen_parts_stay_and_the_others_have_the_gradients_of_that_network(name, parts):
    """The gradient of the trained part agrees in a random direction; frozen statistics do not change, and no frozen
    branch is dropped."""
    config = TINY[name]
    model, x = random_network(config, 3), images_of(config, 6, 3)
    model.freeze(parts)
    prefixes = tuple(f"{'stem' if part == 'stem' else f'stages.{int(part[5:]) - 1}'}." for part in parts)
    if "stem" in parts:
        prefixes += ("token.", "position.")
    before, generator = {n: a.copy() for n, a in model.state().items()}, np.random.default_rng(1)
    trained = {n for n, spec in model.specs_by_name().items() if spec.trainable and not n.startswith(prefixes)}
    direction = {n: generator.standard_normal(before[n].shape) for n in before if n in trained}
    upstream = [generator.standard_normal((6, 5)) for _ in range(1 + config.distillation)]

    def loss(step):
        model.random = np.random.default_rng(5)
        model.set_state(before | {n: before[n] + step * d for n, d in direction.items()})
        outputs, saved = model.forward(x, training=True)
        return sum(np.vdot(d, y) for d, y in zip(upstream, outputs if config.distillation else [outputs])), saved

    _, saved = loss(0.0)
    changed = {n for n, a in model.state().items() if not np.array_equal(a, before[n])}
    assert not any(n.startswith(prefixes) for n in changed)
    assert changed == {n for n in before if n.endswith((".mean", ".variance")) and not n.startswith(prefixes)}
    dx = model.backward(upstream if config.distillation else upstream[0], saved)
    assert (dx is None) is ("stem" in parts)
    gradients = model.gradients()
    assert set(gradients) == set(model.trained()) == trained
    found = sum(np.vdot(gradient, direction[n]) for n, gradient in gradients.items())
    assert found == pytest.approx((loss(1e-7)[0] - loss(-1e-7)[0]) / 2e-7, rel=1e-5)


@pytest.mark.parametrize("name", ["base", "vit"])
def test_training_needs_no_gradient_of_its_images(name):
    """Leaving it out changes no other gradient."""
    model, x = random_network(TINY[name], 4), images_of(TINY[name], 3, 4)
    found = []
    for wanted in (True, False):
        outputs, saved = model.forward(x, training=True)
        model.zero_gradients()
        found.append((model.backward(outputs, saved, image_gradient=wanted), model.gradients()))
    (dx, gradients), (nothing, same) = found
    assert dx.shape == x.shape and nothing is None
    assert gradients.keys() == same.keys() and all(np.array_equal(gradients[n], same[n]) for n in same)


def test_a_walk_continues_while_another_thread_calls_written():
    """The first call of written() adds an attribute to the network, while an evaluation that looks for changes iterates
    over its attributes."""
    model = random_network(TINY["base"])
    expected, walk = [name for name, _ in model.walk()], model.walk()
    found = [next(walk)[0] for _ in "123"]
    model.written()
    assert found + [name for name, _ in walk] == expected


def test_parts_can_be_unfrozen_and_must_exist():
    model = random_network(TINY["base"])
    model.freeze(["stem"])
    assert not any(n.startswith("stem") for n in model.trained()) and model.to("reference").frozen == {"stem"}
    model.freeze()
    assert any(n.startswith("stem") for n in model.trained())
    with pytest.raises(LevitError, match="freeze: expected parts among stem, stage1, stage2, found 'stage3'"):
        model.freeze(["stage3"])
    model.freeze(part for part in model.parts() if part != "stem")  # can be gone through only once
    assert model.frozen == model.parts().keys() - {"stem"}
    model.freeze("stem")  # a single name, not four letters
    assert model.frozen == {"stem"}


def test_freezing_matters_only_in_training():
    model, x = random_network(TINY["base"]), images_of(TINY["base"], 3)
    found = []
    for parts in ((), ("stem", "stage1")):
        model.freeze(parts)
        outputs, saved = model.forward(x, training="frozen")
        found.append([model.backward(outputs, saved), *model.attention_maps(x).values()])
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_a_backward_of_other_gradients_is_refused_by_name():
    model, x = random_network(TINY["base"]), images_of(TINY["base"], 3)
    (y, y_dist), saved = model.forward(x, training=True)
    tensor = SimpleNamespace(shape=y.shape, dtype="torch.float32")
    for wrong in (y, (y,), (y, y_dist, y), (y[:, :-1], y_dist), (y[:-1], y_dist[:-1]), None, (y, None), (y, tensor),
                  1.0, np.ones(())):
        with pytest.raises(LevitError, match=r"doutputs: expected arrays \[\(3, 5\), \(3, 5\)\], found \["):
            model.backward(wrong, saved)
    with pytest.raises(LevitError, match="saved: expected what forward saved"):
        model.backward((y, y_dist), model.forward(x)[1])
    with pytest.raises(LevitError, match="training: expected False, True or 'frozen', found 'yes'"):
        model.forward(x, training="yes")
    before = model.state()["head.bn.mean"].copy()
    model.forward(x, training=np.True_)
    assert not np.array_equal(model.state()["head.bn.mean"], before)
    model.zero_gradients()
    model.backward((np.ones(y.shape, np.int64), np.ones(y.shape, np.float16)), saved)
    assert {gradient.dtype for gradient in model.gradients().values()} == {model.dtype}


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_arrays_of_cupy_come_back_as_such(backend, monkeypatch):
    """Arrays of a GPU may be passed to a network on the processor. The stand-in for CuPy's arrays here, like CuPy's,
    refuses NumPy's implicit conversion."""
    class Theirs:
        __module__ = "cupy"

        def __init__(self, array):
            self.array, self.dtype, self.shape = array, array.dtype, array.shape

        def __len__(self):
            return len(self.array)

        def __getitem__(self, index):
            return Theirs(self.array[index])

        def get(self):
            return self.array

        def __array__(self, *_, **__):
            raise TypeError("Implicit conversion to a NumPy array is not allowed.")

        def __array_function__(self, function, _, arguments, options):
            return [Theirs(part) for part in function(arguments[0].array, *arguments[1:], **options)]  # np.split

    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(asarray=Theirs))
    model = random_model("levit_digits", backend=backend, image_size=16)
    x, upstream, found = random_images(model), [np.ones((2, 10), np.float32)] * 2, []
    values = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), np.uint8)
    for given in (np.asarray, Theirs):
        outputs, saved = model.forward(given(x), training="frozen")
        found.append([model(given(x)), *model.heads(given(x)), *outputs, model.backward(
            [given(dy) for dy in upstream], saved), *model.features(given(x)).values(), *model.attention_maps(
            given(x)).values(), model(given(values))])
        assert {type(array) for array in found[-1]} == {type(given(x))}
    for ours, theirs in zip(*found, strict=True):
        assert np.array_equal(ours, theirs.array)
