"""A trace against the model's own forward, backward and features; its file; and the comparison that finds where two
networks differ."""

import gc
import weakref
from dataclasses import replace

import h5py
import numpy as np
import pytest

import levit_np
from levit_np.explain.compare import Row, compare_states, compare_with_trace, first_difference
from levit_np.explain.trace import Trace, is_trace, trace
from levit_np.layers.block import MLP
from levit_np.layers.linear import LinearBN
from levit_np.storage import hdf5

from ..random_model import random_images, random_model

# Every kind of layer: drop path, LayerNorm before the branches, an embedding, one head, other activations.
NETWORKS = {
    "digits": dict(name="levit_digits"),
    "drop path": dict(name="levit_128s", image_size=(48, 80), num_classes=7, drop_path=0.5),
    "LayerNorm": dict(name="levit_128s_a3", image_size=48, num_classes=7),
    "embedding, one head": dict(name="levit_128s_a5", image_size=48, num_classes=7, distillation=False),
    "class token": dict(name="deit_tiny", image_size=32, num_classes=7),
    "SiLU": dict(name="levit_digits", activation="silu", attention_activation="silu", image_size=(24, 16)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def model(request):
    return random_model(dtype="float64", **NETWORKS[request.param])


@pytest.fixture(scope="module")
def digits():
    return random_model(backend="reference")


def test_values_are_those_of_the_model(model):
    x, target = random_images(model, 3), [2, 0, 1]
    record = trace(model, x, target)
    assert np.array_equal(record.logits, model.forward(x)[0]) and np.array_equal(record.x, x)
    features = model.features(x)
    for i, grid in enumerate(model.config.resolutions):
        tokens = record.outputs[f"stages.{i}"][:, -grid[0] * grid[1] :]  # a class token would be before the pixels
        assert np.array_equal(model.ops.tokens_to_image(tokens, *grid), features[f"stage{i + 1}"])
    outputs, saved = model.forward(x, training="frozen")
    heads = ("head", "head_dist") if model.config.distillation else ("head",)
    for head, logits in zip(heads, outputs if len(heads) > 1 else (outputs,)):
        assert np.array_equal(record.outputs[head], logits)

    probabilities = np.exp(record.logits) / np.exp(record.logits).sum(-1, keepdims=True)
    assert record.loss == pytest.approx(-np.log(probabilities[range(3), target]).mean(), rel=1e-12)
    douts = (probabilities - np.eye(model.config.num_classes)[target]) / 3 / len(heads)
    model.zero_gradients()
    dx = model.backward((douts,) * 2 if len(heads) > 1 else douts, saved)
    np.testing.assert_allclose(record.dx, dx, rtol=1e-9, atol=1e-12 * np.abs(dx).max())
    gradients = model.gradients()
    model.zero_gradients()
    assert set(record.gradients) == set(gradients)
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        np.testing.assert_allclose(record.gradients[name], gradient, rtol=1e-6, atol=1e-12 * largest, err_msg=name)


def test_dx_is_the_derivative_of_the_loss(model):
    x, step = random_images(model, 2), 1e-5
    direction = np.random.default_rng(3).standard_normal(x.shape)
    record = trace(model, x, 1)
    high, low = (trace(model, x + s * direction, 1).loss for s in (step, -step))
    assert record.target == (1, 1)
    assert (record.dx * direction).sum() == pytest.approx((high - low) / (2 * step), rel=1e-5)


def test_each_layer_repeated_gives_its_recorded_results(model):
    """Given the recorded input, a layer computes the recorded output; given the recorded upstream gradient, the
    recorded gradients."""
    record = trace(model, random_images(model), [0, 2])
    forward, backward = ({step.name: step for step in steps} for steps in (record.forward, record.backward))
    assert len(forward) == len(record.forward) == len(backward) == len(record.backward)
    for name, layer in model.walk():
        layer.accumulated.clear()
        if not name or name not in forward:
            continue  # the network itself, and layers that are used repeatedly, which have a test of their own
        step = forward[name]
        assert step.kind == backward[name].kind == type(layer).__name__
        result = layer.forward() if step.input is None else layer.forward(step.input, "frozen")
        output, saved = result if isinstance(result, tuple) else (result, None)
        assert np.array_equal(output, step.output), name
        dx = layer.backward(backward[name].doutput, *(() if step.input is None else (saved,)))
        assert dx is backward[name].dinput is None or np.array_equal(dx, backward[name].dinput), name
        for key, gradient in backward[name].gradients.items():
            assert np.array_equal(gradient, layer.accumulated[key]), (name, key)
    model.zero_gradients()


def test_every_layer_has_its_steps_in_order(model):
    record = trace(model, random_images(model, 1), 0)
    names = [step.name for step in record.forward]
    turns = len(model.config.stem) - 1
    layers = {name for name, _ in model.walk()} - {"stem.activation"}
    layers |= {f"stem.activation.{i}" for i in range(turns)} if turns > 1 else {"stem.activation"} if turns else set()
    wrappers = {name for name in names if name.endswith((".residual", ".prenorm"))}
    assert set(names) - wrappers == layers and len(set(names)) == len(names)
    assert sorted(names) == sorted(step.name for step in record.backward)
    assert names[-1] == record.backward[-1].name == ""
    branches, bare = {name.rsplit(".", 1)[0] for name in wrappers}, set()
    if model.config.normalization == "batch":
        bare = {name for name in layers if name.endswith("downsample.attention")}
    assert branches == {name for name in layers if name.endswith((".attention", ".mlp"))} - bare
    for parent in layers - {""}:  # the parts of a layer come before the layer, except its wrappers
        parts = [i for i, name in enumerate(names) if name.startswith(f"{parent}.") and name not in wrappers]
        assert not parts or max(parts) < names.index(parent), parent
    steps = {step.name: step for step in record.forward}
    residual = steps["stages.0.blocks.0.attention.residual"]
    assert residual.output is steps["stages.0.blocks.0.mlp.residual"].input
    assert np.array_equal(residual.output, residual.input + record.outputs["stages.0.blocks.0.attention"])


def test_a_layer_that_is_used_repeatedly_has_a_step_for_each_use():
    model = random_model("levit_128s", image_size=32, num_classes=3)
    record = trace(model, random_images(model), 1)
    forward, backward = ({step.name: step for step in steps} for steps in (record.forward, record.backward))
    for i in range(3):
        step, back = forward[f"stem.activation.{i}"], backward[f"stem.activation.{i}"]
        assert step.input is forward[f"stem.convolutions.{i}"].output
        assert step.output is forward[f"stem.convolutions.{i + 1}"].input
        assert back.doutput.shape == step.output.shape and back.dinput is backward[f"stem.convolutions.{i}"].doutput


def test_tracing_does_not_change_the_model(digits):
    x = random_images(digits)
    digits.zero_gradients()
    before = {name: (array, array.copy()) for name, array in digits.state().items()}
    record = trace(digits, x, 3)
    assert all(digits.state()[name] is array and np.array_equal(array, copy) for name, (array, copy) in before.items())
    assert not any(array.any() for array in digits.gradients().values())
    assert not any({"forward", "backward"} & set(vars(layer)) for _, layer in digits.walk())
    x[:] = 0
    assert record.x.any()


@pytest.mark.parametrize("target", [None, 3])
def test_a_trace_is_freed_with_its_last_reference(digits, target):
    """Traces of many images, one after another: cycles of references would keep the arrays of several at a time."""
    gc.disable()
    try:
        found = trace(digits, random_images(digits, 1), target)
        arrays = [weakref.ref(array) for step in found.steps for array in step.arrays().values()]
        del found
        own = {id(array) for array in digits.state().values()}
        assert all(array() is None or id(array()) in own or array().dtype.kind == "i" for array in arrays)
    finally:
        gc.enable()


def test_without_a_target_there_is_no_gradient(digits):
    record = trace(digits, random_images(digits))
    assert repr(record) == "<Trace of levit_digits: images (2, 1, 32, 32), 144 steps forward>"
    assert repr(trace(digits, record.x, 7)).endswith(", 144 steps forward, 144 back from [7, 7]>")
    assert (record.target, record.loss, record.backward, record.dx, record.gradients) == (None, None, (), None, {})


@pytest.mark.parametrize("target", [10, -1, [1], [1, 2, 3], 1.0, "3", [[1, 2]]])
def test_a_target_that_does_not_fit_is_refused(digits, target):
    with pytest.raises(levit_np.LevitError, match="target: expected"):
        trace(digits, random_images(digits, 2), target)
    with pytest.raises(levit_np.LevitError, match="expected images"):
        trace(digits, random_images(digits)[:, :, 1:])


def test_a_class_by_name_is_refused_as_no_number(digits):
    """explain takes names too, so "expected a class" would not say what is wrong with one."""
    with pytest.raises(levit_np.LevitError, match="target: expected the number of a class, .* found '3'"):
        trace(digits, random_images(digits), "3")


def numbers(step):
    """The inputs and outputs of a step that are not arrays."""
    return {key: value for key, value in (step.inputs | step.outputs).items() if isinstance(value, (int, float, str))}


@pytest.mark.parametrize("target", [None, [4, 9]])
def test_a_trace_is_saved_completely_and_each_array_once(digits, target, tmp_path):
    record = trace(digits, random_images(digits, 2), target, about="two random images")
    record.save(tmp_path / "trace.h5")
    again = Trace.read(tmp_path / "trace.h5")
    assert (again.config, again.about, again.target, again.loss) == (
        record.config, "two random images", record.target, record.loss)
    assert np.array_equal(again.x, record.x) and again.x is again.forward[-1].input
    for ours, theirs in zip(record.forward + record.backward, again.forward + again.backward, strict=True):
        assert ours[:2] == theirs[:2]
        for a, b in zip(ours[2:4], theirs[2:4]):
            assert a is b is None or (a.dtype == b.dtype and np.array_equal(a, b))
    assert list(record.arrays) == list(again.arrays)
    assert all(np.array_equal(array, again.arrays[name]) for name, array in record.arrays.items())
    for ours, theirs in zip(record.steps, again.steps, strict=True):
        assert ours[:7] == theirs[:7] and numbers(ours) == numbers(theirs)
    with h5py.File(tmp_path / "trace.h5") as file:  # as any HDF5 tool sees it
        assert np.array_equal(file["stages/0/blocks/1/mlp/up/bn/output"], record.outputs["stages.0.blocks.1.mlp.up"])
        assert ("stages/2/downsample/attention/kv/dweight" in file) == (target is not None)
    distinct = {id(a): a.nbytes for a in record.arrays.values()}
    assert sum(distinct.values()) < (tmp_path / "trace.h5").stat().st_size < sum(distinct.values()) * 1.02 + 400_000


def test_files_that_are_not_a_valid_trace_are_refused(digits, tmp_path):
    path = tmp_path / "a.h5"
    digits.save(path)
    assert not is_trace(path) and not is_trace(tmp_path / "none.h5")
    with pytest.raises(levit_np.CheckpointError, match="expected a recorded trace, found another"):
        Trace.read(path)
    whole = trace(digits, random_images(digits), 1)
    replace(whole, forward=whole.forward[::143], backward=whole.backward[::143], steps=whole.steps[:1]).save(path)
    assert is_trace(path) and len(Trace.read(path).forward) == 2
    arrays, documents = hdf5.read(path)
    good = documents["trace"]
    step, back, op = good["forward"][0], good["backward"][0], good["steps"][0]
    for change in ({"config": {}}, {"config": 3}, {"forward": []}, {"forward": 7}, {"forward": [step[:3]]},
                   {"forward": [[*step[:3], {"array": "none"}, *step[4:]]]},
                   {"forward": [[*step[:3], None, *step[4:]]]}, {"forward": [step, [1]]},
                   {"forward": [[*step[:1], "Nothing", *step[2:]]]}, {"forward": [[*step[:4], "first", None]]},
                   {"backward": []}, {"backward": [[*back[:4], 1, *back[5:]]]},
                   {"backward": [[*back[:4], {"values": {"w": {"array": "nowhere"}}}, *back[5:]]]},
                   {"backward": [[*back[:4], {"values": {"w": 3}}, *back[5:]]]},
                   {"steps": [[*op[:5], "system", *op[6:]]]}, {"steps": [["1", *op[1:]]]},
                   {"steps": [[op[0], "sideways", *op[2:]]]}, {"parameters": {"values": {"w": 3}}},
                   {"target": None}, {"target": "many"}, {"target": 1}, {"loss": "low"},
                   {"x": "nowhere"}, {"x": []}, None, *({key: ...} for key in good)):
        damaged = None if change is None else {k: v for k, v in (good | change).items() if v is not ...}
        hdf5.write(path, arrays, {"trace": damaged})
        with pytest.raises(levit_np.CheckpointError, match="a.h5: trace: "):
            Trace.read(path)


def planted(model, name, key, amount=0.01):
    """A copy of the model with the array's largest value changed by a factor of 1 + `amount`."""
    other = model.to("reference")
    layer = dict(other.walk())[name]
    array = getattr(layer, key).copy()
    array.flat[np.abs(array).argmax()] *= 1 + amount
    setattr(layer, key, array)
    return other


def test_a_difference_in_any_array_is_found_and_its_layer_named(digits):
    """From the arrays, and from what is computed with them."""
    arrays = [(name, key) for name, layer in digits.walk() for key in layer.specs
              if not name.startswith(("stages.0", "stages.1"))]  # the last stage has the same kinds of layers
    record = trace(digits, random_images(digits, 1))
    for name, key in arrays:
        other = planted(digits, name, key)
        row = first_difference(compare_states(digits, other), 1e-5)
        assert (row.name, row.what) == (name, key) and row.relative == pytest.approx(0.01 / 1.01, rel=1e-3)
        row = first_difference(compare_with_trace(other, record), 1e-6)
        assert (row.name, row.what) == (name, "output"), key


def test_the_same_network_agrees(digits):
    record = trace(digits, random_images(digits), 2)
    rows = compare_with_trace(digits.to("reference"), record)
    assert first_difference(rows, 0) is None and len(rows) == len(record.forward) + 1 + len(record.backward)
    assert {row.relative for row in compare_states(digits, digits.to("reference"))} == {0}
    nothing = trace(digits, random_images(digits)[:0])
    assert {row.relative for row in compare_with_trace(digits, nothing)} == {0}


def test_gradients_are_compared_relative_to_those_of_the_same_block(digits):
    record = trace(digits, random_images(digits), 2)
    factors = {step.name: 1e6 if ".blocks.0." in step.name else 1 for step in record.backward}
    factors["stages.0.blocks.1.mlp.up"] = 1.01
    rows = compare_with_trace(digits, replace(record, backward=tuple(step._replace(
        gradients={key: factors[step.name] * gradient for key, gradient in step.gradients.items()})
        for step in record.backward)))
    relative = {row.name: row.relative for row in rows if row.what != "output"}
    assert relative["stages.0.blocks.0.mlp.up"] > 0.1 and 1e-4 < relative["stages.0.blocks.1.mlp.up"] < 0.01


def test_zero_in_both_agrees_and_zero_in_one_differs_at_any_tolerance():
    model = levit_np.create("levit_digits", image_size=16, backend="reference")  # fresh: biases and means are zero
    rows = compare_states(model, model.to("reference"))
    assert {(row.absolute, row.relative) for row in rows} == {(0, 0)}
    record = trace(model, random_images(model), 2)
    none = {key: np.zeros_like(gradient) for key, gradient in record.backward[0].gradients.items()}
    record = replace(record, backward=(record.backward[0]._replace(gradients=none), *record.backward[1:]))
    row = first_difference(compare_with_trace(model, record), 1e9)
    assert row.name == record.backward[0].name and row.relative == np.inf > row.absolute > 0


def test_float32_differs_from_float64_by_less_than_a_tenth_of_the_default_tolerance():
    """The default is 1e-4. Two processors' float32 sums differ by about as much as float32 from float64, 6e-6 in
    LeViT-256."""
    single = random_model("levit_128s", image_size=64, num_classes=10)
    double = levit_np.create("levit_128s", image_size=64, num_classes=10, dtype="float64")
    double.set_state({name: array.astype(np.float64) for name, array in single.state().items()})
    x = random_images(single, 1)
    record = trace(double, x.astype(np.float64), 3)
    rows = compare_with_trace(single, replace(record, x=x))
    assert 0 < np.max([row.relative for row in rows]) < 1e-5  # np.max returns NaN if any is NaN


@pytest.mark.parametrize("kind, name, what", [(MLP, "stages.1.blocks.1.mlp", "dinput"),
                                               (LinearBN, "stages.1.downsample.attention.q", "dweight")])
def test_a_wrong_backward_is_found_and_its_layer_named(digits, monkeypatch, kind, name, what):
    record, right = trace(digits, random_images(digits), 2), kind.backward

    def wrong(self, dy, saved):
        dx = right(self, dy, saved)
        if self.name == name and what == "dweight":
            self.accumulated["weight"] = 1.01 * self.accumulated["weight"]
        return 1.01 * dx if self.name == name and what == "dinput" else dx

    monkeypatch.setattr(kind, "backward", wrong)
    row = first_difference(compare_with_trace(digits, record), 1e-4)
    assert (row.name, row.what) == (name, what)


def test_an_evaluation_that_differs_from_the_layers_is_found(digits, monkeypatch):
    """As if a backend's own program for evaluation were wrong."""
    record = trace(digits, random_images(digits), 2)
    monkeypatch.setattr(type(digits), "__call__", lambda self, x: self.forward(x)[0] * np.float32(1.001))
    row = first_difference(compare_with_trace(digits, record), 1e-4)
    assert (row.name, row.what) == ("", "model(x)") and row.relative == pytest.approx(1e-3, rel=0.01)


def test_the_first_difference():
    rows = [Row("a", "output", 0, 0), Row("b.bn", "output", 1, 0.1, 0.1), Row("b", "output", 1, 0.1, 0.0)]
    assert first_difference(rows, 0.01).name == first_difference(rows, 0).name == "b"
    assert first_difference(rows[:2], 0.01).name == "b.bn"
    assert [row.begins(0.01) for row in rows] == [False, False, True]
    assert first_difference(rows, 0.1) is None and first_difference([Row("a", "output", np.nan, np.nan)], 1).name == "a"


def test_a_network_that_overflows_differs(digits):
    record = trace(digits, random_images(digits))
    other = planted(digits, "head", "bias", np.inf)
    row = first_difference(compare_with_trace(other, record), 1e-5)
    assert row.name == "head" and not np.isfinite(row.relative)


def test_the_trace_of_a_different_network_is_refused(digits):
    other = random_model(num_classes=3, image_size=(32, 48))
    record = trace(other, random_images(other), 2)
    with pytest.raises(levit_np.LevitError, match=r"same network.*image_size \(32, 32\) against \(32, 48\); "
                                                  "num_classes 10 against 3"):
        compare_with_trace(digits, record)
    with pytest.raises(levit_np.LevitError, match="same network"):
        compare_states(digits, other)
    renamed = random_model(drop_path=0.3, backend="reference")  # drop path does not change evaluation
    assert first_difference(compare_with_trace(renamed, trace(digits, random_images(digits))), 0) is None


def test_a_trace_of_other_steps_is_refused(digits):
    record = trace(digits, random_images(digits), 2)
    for forward in (record.forward[1:], record.forward[:-1], (*record.forward, record.forward[0])):
        with pytest.raises(levit_np.LevitError, match="another version recorded it"):
            compare_with_trace(digits, replace(record, forward=forward))
    odd = record.forward[0]._replace(output=record.forward[0].output[:, 1:])
    with pytest.raises(levit_np.LevitError, match=r"stem.convolutions.0.bn.*expected the same shape"):
        compare_with_trace(digits, replace(record, forward=(odd, *record.forward[1:])))
