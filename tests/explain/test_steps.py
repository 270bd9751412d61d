"""The steps of a trace: exactly the operations that a profiler sees, forward and backward, with formula, source and
caller."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import levit_np
from levit_np.explain import operations
from levit_np.explain.trace import trace

from ..can_start import NEEDS_INTERPRETER
from ..random_model import random_images, random_model
from .test_trace import NETWORKS

PACKAGE = Path(levit_np.__file__).resolve().parent


def calls_of_operations(work):
    """[(operation, line, file, result)] of every call of a reference operation from outside the reference
    operations."""
    inside, found, callers = str(PACKAGE / "ops/reference"), [], []

    def watch(frame, event, result):
        if event not in ("call", "return") or not frame.f_code.co_filename.startswith(inside):
            return
        caller = frame.f_back
        if caller.f_code.co_filename.startswith(inside):
            return
        if event == "call":
            callers.append(caller.f_lineno)
        else:
            file = Path(caller.f_code.co_filename).relative_to(PACKAGE).as_posix()
            found.append((frame.f_code.co_name, callers.pop(), file, result))

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(before)
    return found


def test_every_operation_of_levit_256_has_a_step_with_the_same_bits():
    """They equal those of the model's own computation without a trace."""
    model = random_model("levit_256", backend="reference")
    x = random_images(model, 1)
    record = trace(model, x, 3)
    dlogits = next(step for step in record.steps if step.op == "cross_entropy_backward").outputs["dlogits"] / 2

    def work():
        outputs, saved = model.forward(x, training="frozen")
        model.backward((dlogits, dlogits), saved)

    seen, steps = calls_of_operations(work), [step for step in record.steps if step.layer != "loss"]
    assert len(seen) == len(steps) > 400
    for (name, line, file, result), step in zip(seen, steps):
        assert (name, line, file) == (step.op, step.line, step.caller.file)
        results = result if isinstance(result, (tuple, list)) else (result,)
        for ours, theirs in zip(step.outputs.values(), results, strict=True):
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs), step.name
    for name, gradient in model.gradients().items():
        assert np.array_equal(record.gradients[name], gradient), name
    assert record.nbytes < 250 * 2**20  # including 72 MiB of parameters


@pytest.fixture(scope="module", params=NETWORKS)
def record(request):
    model = random_model(**NETWORKS[request.param])
    return trace(model, random_images(model, 2), [2, 0])


def test_each_step_has_formula_source_and_caller(record):
    for step in record.steps:
        assert all(name.isidentifier() for name in step.outputs)
        assert " = " in step.formula and len(step.formula) <= 115 and "\n" not in step.formula
        file, first, lines = step.source
        written = (PACKAGE / file).read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith(f"def {step.op}(") and list(lines) == written[first - 1 : first - 1 + len(lines)]
        file, first, lines = step.caller
        calling = lines[step.line - first]
        pointwise = f"self.{'derivative' if step.op.endswith('_backward') else 'function'}("
        assert any(call in calling for call in (f"ops.{step.op}(", pointwise, "self.pool"))
        assert f"def {step.direction}(" in lines[0]


def test_values_are_arrays_or_plain_python_values(record):
    """So that a file or a page can show them directly."""
    values = [value for step in record.steps for value in (*step.inputs.values(), *step.outputs.values())]
    kinds = {type(value) for value in values}
    assert np.ndarray in kinds <= {np.ndarray, int, float, str, bool, tuple, type(None)}
    assert all(value.ndim for value in values if isinstance(value, np.ndarray))


def test_each_step_repeated_gives_the_same_bits(record):
    """The recorded inputs, passed by the names of the arguments, are all that an operation needs."""
    for step in record.steps:
        result = getattr(levit_np.ops.backend("reference"), step.op)(**step.inputs)
        results = result if isinstance(result, (tuple, list)) else (result,)
        for ours, theirs in zip(step.outputs.values(), results, strict=True):
            assert np.array_equal(ours, theirs), step.name


def test_steps_are_numbered_in_order_of_computation(record):
    calls = sorted([*record.forward, *record.backward, *record.steps], key=lambda call: call.number)
    numbers = [call.number for call in calls]
    assert len(set(numbers)) == len(numbers) and len({step.name for step in record.steps}) == len(record.steps)
    forward, backward = ({call.name: call for call in calls} for calls in (record.forward, record.backward))
    for layers in (forward, backward):
        for name, layer in layers.items():
            assert (layer.parent is None) == (name == "")
            if name:
                parent = layers[layer.parent]
                assert parent.number < layer.number
                direction = "forward" if layers is forward else "backward"
                _, first, lines = operations.layer_source(parent.kind, direction)
                assert f".{direction}(" in lines[layer.line - first], name
    for step in record.steps:
        layers = forward if step.direction == "forward" else backward
        assert step.layer == "loss" or layers[step.layer].number < step.number
    assert [step.direction for step in record.steps] == sorted((s.direction for s in record.steps), reverse=True)
    assert record.steps[0].op == "convolution" and record.steps[-1].op == "convolution_backward"


def test_the_parts_of_attention_bear_the_names_of_the_paper():
    model = random_model()
    steps = {step.name: step for step in trace(model, random_images(model, 1), 3).steps}
    block, shrinking = "stages.0.blocks.0.attention", "stages.1.downsample.attention"
    split, attention = steps[f"{block}.split_heads"], steps[f"{block}.attention"]
    assert list(split.outputs) == ["q", "k", "v"] and list(attention.inputs) == ["q", "k", "v", "bias", "scale"]
    assert all(split.outputs[name] is attention.inputs[name] for name in "qkv")
    assert list(steps[f"{shrinking}.split_heads.0"].outputs) == ["k", "v"]
    assert list(steps[f"{shrinking}.split_heads.1"].outputs) == ["q"]
    assert list(attention.outputs) == ["y", "probabilities"]
    assert list(steps[f"{block}.attention_backward"].outputs) == ["dq", "dk", "dv", "dbias"]
    assert list(steps[f"{block}.split_heads_backward"].arrays()) == ["parts.0", "parts.1", "parts.2", "dx"]


def test_no_array_is_copied():
    model = random_model()
    record = trace(model, random_images(model, 1), 3)
    steps, state = {step.name: step for step in record.steps}, model.state()
    up = steps["stages.0.blocks.0.mlp.up.linear"]
    assert up.inputs["w"] is state["stages.0.blocks.0.mlp.up.weight"]
    assert up.outputs["y"] is steps["stages.0.blocks.0.mlp.up.bn.normalize"].inputs["x"]
    assert up.inputs["x"] is {step.name: step for step in record.forward}["stages.0.blocks.0.mlp.up"].input


def test_names_outputs_and_formulas_of_operations_and_layers():
    assert operations.operation("linear_backward").outputs == ("dx", "dw")
    assert operations.operation("normalize").meaning == "BN in evaluation, and the last step of BN in training"
    assert operations.names() >= {"hardswish", "attention_backward", "cross_entropy"}
    assert not operations.names() & {"asarray", "softplus", "np", "_windows"}
    for kind in ("Attention", "ShrinkingAttention", "LinearBN", "Residual", "LeViT", "CrossEntropy", "Distillation"):
        assert " = " in operations.layer_formula(kind)[0], kind


def test_a_teacher():
    """The loss is half of one head's cross-entropy with the target, and half of the other's with the teacher's
    class."""
    model = random_model(dtype="float64")
    x, target, teacher = random_images(model, 3), [2, 0, 1], [2, 5, 7]
    record = trace(model, x, target, teacher=teacher)
    assert record.target == (2, 0, 1) and record.teacher == (2, 5, 7)
    outputs, saved = model.forward(x, training="frozen")
    shares = [np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) for logits in outputs]
    losses = [-np.log(share[range(3), labels]).mean() for share, labels in zip(shares, (target, teacher))]
    assert record.loss == pytest.approx(sum(losses) / 2, rel=1e-12)
    model.zero_gradients()
    dx = model.backward(tuple((share - np.eye(10)[labels]) / 6 for share, labels in zip(shares, (target, teacher))),
                        saved)
    np.testing.assert_allclose(record.dx, dx, rtol=1e-9, atol=1e-12 * np.abs(dx).max())
    assert Counter(step.op for step in record.steps if step.layer == "loss") == Counter(
        ["targets_of", "targets_of", "cross_entropy", "hard_distillation", "hard_distillation_backward",
         "cross_entropy_backward"])


@pytest.mark.parametrize("target, teacher, distillation",
                         [(None, 1, True), (1, 1, False), (1, 10, True), (1, "a", True)])
def test_a_teacher_that_does_not_fit_is_refused(target, teacher, distillation):
    model = random_model(distillation=distillation)
    with pytest.raises(levit_np.LevitError, match="teacher: expected"):
        trace(model, random_images(model, 1), target, teacher=teacher)


class Device(np.ndarray):
    """Stands for a GPU's array: results computed from it have its type."""


def test_arrays_of_a_device_are_copied_to_the_host_once(monkeypatch):
    """A trace holds NumPy arrays whatever computed them; what was one array before is one array in the trace."""
    device = SimpleNamespace(**vars(levit_np.ops.backend("reference")) | {
        "NAME": "device",
        "asarray": lambda x: x if isinstance(x, Device) else x.copy().view(Device),
        "to_host": lambda x: np.array(x)})
    model = random_model(backend="reference")
    x = random_images(model, 1)
    plain = trace(model, x, 3)
    monkeypatch.setattr("levit_np.ops.backend", lambda name: device)
    found = trace(model, x, 3)
    assert list(found.arrays) == list(plain.arrays) and {type(array) for array in found.arrays.values()} == {np.ndarray}
    assert all(np.array_equal(array, plain.arrays[name]) for name, array in found.arrays.items())
    first, second = ({}, {})
    for name in plain.arrays:  # the same names refer to the same array
        assert first.setdefault(id(plain.arrays[name]), name) == second.setdefault(id(found.arrays[name]), name)


def test_a_model_of_another_backend_is_traced_on_the_reference_backend():
    """So that the values are those of the lines that are shown; on another backend only if asked for."""
    model = random_model(backend="cpu")
    x = random_images(model, 2)
    record = trace(model, x)
    assert np.array_equal(record.logits, model.to("reference").forward(x)[0])
    own = trace(model, x, backend="cpu")
    assert np.array_equal(own.logits, model.forward(x)[0])
    assert [step[:7] for step in own.steps] == [step[:7] for step in record.steps]
    with pytest.raises(levit_np.BackendError):
        trace(model, x, backend="gpu")


@NEEDS_INTERPRETER
def test_formulas_are_there_where_python_keeps_no_docstrings():
    code = ("import levit_np.model; from levit_np.explain import operations as o\n"
            "print(*(o.operation(name) for name in sorted(o.names())), o.layer_formula('Attention'), "
            "o.layer_shapes('LinearBN'), sep='\\n')")
    without = subprocess.check_output([sys.executable, "-OO", "-c", code], cwd=PACKAGE.parent, encoding="utf-8",
                                      env=os.environ | {"PYTHONUTF8": "1"}).splitlines()
    assert without == [*(str(operations.operation(name)) for name in sorted(operations.names())),
                       str(operations.layer_formula("Attention")), operations.layer_shapes("LinearBN")]
