"""The lines of an operation, run one by one."""

import sys

import numpy as np
import torch

from levit_np.explain import operations
from levit_np.explain.inside import function_named, look_inside
from levit_np.explain.trace import trace
from levit_np.ops.reference import softmax

from ..random_model import random_images, random_model


def test_inside_every_operation_the_same_bits(any_walk):
    """Running it line by line gives its results, and the values after the last line are these results."""
    seen = set()
    for step in any_walk.trace.steps:
        if step.op in seen:
            continue
        seen.add(step.op)
        inside = look_inside(step)
        for ours, theirs in zip(inside.outputs.values(), step.outputs.values(), strict=True):
            assert np.array_equal(ours, theirs), step.name
        file, first, lines = step.source
        assert all(first < line.number < first + len(lines) and line.times for line in inside.lines)
        assert set(step.inputs) <= set(inside.inputs)
    assert len(seen) > 15


def kinds_below(stop):
    yield stop.kind
    for part in stop.parts:
        yield from kinds_below(part)


def test_every_reference_function_that_is_called_is_reached(walk):
    """Including those that operations call: the softmax within attention, the helpers of the convolution."""
    called, folder = set(), f"{operations.PACKAGE / 'ops/reference'}"

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(folder) and not frame.f_code.co_name.startswith("<"):
            called.add(frame.f_code.co_name)

    model = random_model(backend="reference")
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        trace(model, random_images(model, 1), 3, teacher=4)
    finally:
        sys.setprofile(before)
    reached = set()
    for stop in {stop.kind: stop for stop in walk.stops if stop.is_operation}.values():
        walk.into(stop)
        reached |= set(kinds_below(stop))
    assert {"softmax", "softmax_backward", "log_softmax", "_windows", "attention", "convolution_backward"} <= reached
    assert called - reached <= {"hard_distillation", "hard_distillation_backward"}  # the walk has no teacher


def test_the_lines_of_attention_are_equation_1(walk):
    stop = walk.find("stages.1.downsample.attention.attention")[0]
    q, k, v, bias, scale = (stop.record.inputs[name] for name in ("q", "k", "v", "bias", "scale"))
    lines = {stop.record.source.lines[line.number - stop.record.source.first].strip(): line
             for line in look_inside(stop.record).lines}
    scores = torch.tensor(q) @ torch.tensor(k).mT * scale
    first = next(line for code, line in lines.items() if code.startswith("scores = (q @"))
    added, probabilities = lines["scores = scores + bias"], lines["probabilities = softmax(scores)"]
    np.testing.assert_allclose(first.values["scores"], scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(added.values["scores"], scores + torch.tensor(bias), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(probabilities.values["probabilities"], (scores + torch.tensor(bias)).softmax(-1),
                               rtol=1e-4)
    assert [call.op for call in probabilities.calls] == ["softmax"]
    assert np.array_equal(probabilities.calls[0].inputs["x"], added.values["scores"])


def test_the_lines_of_a_loop_show_the_last_round(walk):
    stop = walk.find("stem.convolutions.0.convolution")[0]
    lines = {line.number: line for line in look_inside(stop.record).lines}
    loop = [line for line in lines.values() if line.times == 9]
    assert len(loop) == 2 and loop[0].values["pixels"].shape == (1, 16, 16, 1) and "y" in loop[1].values
    x, w = stop.record.inputs["x"], stop.record.inputs["w"]
    last = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))[:, :, 2::2, 2::2].transpose(0, 2, 3, 1)
    assert np.array_equal(loop[0].values["pixels"], last) and w.shape[2:] == (3, 3)
    zeros = next(line for line in lines.values() if line.times == 1 and "y" in line.values)
    assert not zeros.values["y"].any() and loop[1].values["y"].any()  # at that moment


def test_looking_inside_leaves_a_debugger_alone(walk):
    def tracer(*_):
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        look_inside(walk.trace.steps[0])
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


def test_looking_for_a_function_while_another_thread_imports(monkeypatch):
    class Module(str):
        def startswith(self, *_):
            monkeypatch.setitem(sys.modules, "imported meanwhile", sys)
            return False

    monkeypatch.setitem(sys.modules, Module("in the middle"), sys)
    assert function_named("softmax") is softmax
    assert "imported meanwhile" in sys.modules
