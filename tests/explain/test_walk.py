"""The walk through a trace, without a terminal: its order, questions about values, and what a page of text shows."""

import re
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

import levit_np
from levit_np import LevitError
from levit_np.explain import operations, reasons
from levit_np.explain.ask import arrays_at, look_up, parse
from levit_np.explain.inside import function_named, look_inside
from levit_np.explain.screen import Page, View, show
from levit_np.explain.session import HELP, WORDS, Session
from levit_np.explain.trace import trace
from levit_np.explain.values import exact, histogram, number, picture, plane_of, statistics, table
from levit_np.explain.walk import Walk
from levit_np.ops.reference import softmax

from ..random_model import random_images, random_model
from .test_trace import NETWORKS


@pytest.fixture(scope="module")
def walk():
    model = random_model(backend="reference")
    return Walk(trace(model, random_images(model, 1), 3, about="random"))


@pytest.fixture(scope="module", params=NETWORKS)
def any_walk(request):
    model = random_model(**NETWORKS[request.param])
    return Walk(trace(model, random_images(model, 2), [2, 0]))


def test_the_walk_has_every_call_in_order(any_walk):
    record, stops = any_walk.trace, any_walk.stops
    assert len(stops) == len(record.forward) + len(record.backward) + len(record.steps) + 2  # the loss, twice
    assert [stop.place for stop in stops] == list(range(1, len(stops) + 1))
    numbers = [stop.record.number for stop in stops if stop.record]
    assert numbers == sorted(numbers)
    top = [stop.name for stop in stops if stop.parent is None]
    forward = top[: top.index("loss")]
    assert forward[:3] == ["", "stem", forward[2]] and forward[-1].startswith("head")
    assert [name for name in top[top.index("loss") + 3 :]][-1] == "stem"
    for stop in stops:
        for one, two in pairwise(stop.parts):
            assert any_walk.next(one) is two and any_walk.previous(two) is one and any_walk.out(one) is stop


def test_what_is_planned_for_a_layer():
    """Of a layer's forward and of the BN that is folded into it; not of the backward, of operations, of other layers.
    """
    model = random_model(backend="reference")
    walk = Walk(trace(model, random_images(model, 1), 3), {"head": "the plan's"})
    assert [stop.name for stop in walk.stops if walk.planned(stop)] == ["head", "head.bn"]
    (stop, *_), page = walk.find("head"), Page(80, None)
    assert walk.planned(stop) == "the plan's" and "  plan: the plan's" in [
        line.plain for line in show(walk, stop, View(), page)]
    for height, seen in ((20, False), (21, True)):
        text = "\n".join(line.plain for line in show(walk, stop, View(), Page(80, height)))
        assert ("plan: the plan's" in text) == seen


def test_into_reaches_every_stop_and_next_the_whole_level(walk):
    """Repeated s visits every stop, only with lines of source in between."""
    seen, stop = [], walk.stops[0]
    while stop:
        if not stop.is_line:
            seen.append(stop)
        stop = walk.into(stop)
    assert seen == walk.stops
    level, stop = [], walk.stops[0]
    while stop:
        level.append(stop.name)
        stop = walk.next(stop)
    assert level == ["", "stem", *(f"stages.{i}" for i in range(3)), "average_pool", "head", "head_dist", "loss",
                     "loss", "", "head", "head_dist", "average_pool_backward", *(f"stages.{i}" for i in (2, 1, 0)),
                     "stem"]


def test_from_a_forward_step_to_its_backward_and_back(walk):
    linear = walk.find("stages.1.blocks.0.mlp.up.linear")[0]
    back = walk.turned(linear, "backward")
    assert back.name == "stages.1.blocks.0.mlp.up.linear_backward" and walk.turned(back, "forward") is linear
    layer = walk.find("stages.1.blocks.0.mlp")[0]
    assert (walk.turned(layer, "backward").name, walk.turned(layer, "backward").direction) == (layer.name, "backward")
    assert walk.turned(walk.find("average_pool")[0], "backward").name == "average_pool_backward"
    assert walk.turned(walk.stops[0], "backward").direction == "backward"
    assert walk.turned(walk.find("loss")[0], "backward").kind == "CrossEntropy"
    assert walk.turned(walk.into(linear), "backward") is back


def test_find(walk):
    assert walk.find("head")[0].name == "head"
    assert walk.find("mlp.up.linear")[0].name == "stages.0.blocks.0.mlp.up.linear"
    found = walk.find("mlp.up.linear")
    assert {stop.name[-13:] for stop in found} == {"mlp.up.linear"} and len(found) == 8
    assert {stop.name for stop in walk.search("head.linear")} == {"head.linear", "head.linear_backward"}
    assert walk.find("softmax(scale")[0].kind == "attention" and walk.find("nowhere") == [] == walk.find(" ")
    assert {stop.name.partition(".")[0] for stop in walk.below("head")} == {"head"}


@pytest.mark.parametrize("text, expected", [
    ("y", ("y", ())), (" y[0] ", ("y", (0,))),
    ("y[-1, 2:8:2, :, ...]", ("y", (-1, slice(2, 8, 2), slice(None), Ellipsis))),
    ("stages.0.blocks.1.mlp.up.weight[ : 3 ,::2]",
     ("stages.0.blocks.1.mlp.up.weight", (slice(None, 3), slice(None, None, 2))))])
def test_a_name_with_an_index_is_parsed(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize("text", [
    "", "y[", "y]", "y[0", "y[0]]", "y[0][1]", "y[a]", "y[0:1:2:3]", "y[1e3]", "y()", "__import__('os')", "y[0;1]",
    "y[,]", "y[()]", "y[None]", "y.T.dtype()", "y y", "../y", "y[99999999999]", "y[[0]]", "y[0]+1", "y[x:=1]",
    "y[--1]"])
def test_other_expressions_are_refused(text):
    with pytest.raises(LevitError, match="expected"):
        parse(text)


def test_any_value_by_name_and_index(walk):
    stop = walk.find("stages.1.downsample.attention.attention")[0]
    record = stop.record
    probabilities = look_up("probabilities[0, 3, :5]", stop, walk)[1]
    assert probabilities.tolist() == record.outputs["probabilities"][0, 3, :5].tolist()
    assert look_up("q", stop, walk)[1] is not None
    assert look_up("q[...]", stop, walk)[1].shape == record.inputs["q"].shape
    far = look_up("stages.0.blocks.0.mlp.up.weight[2, 3]", stop, walk)[1]
    assert far == walk.trace.parameters["stages.0.blocks.0.mlp.up.weight"][2, 3]
    gradient = look_up("stages.2.blocks.0.mlp.doutput[0,0,0]", stop, walk)[1]
    assert gradient == walk.trace.doutputs["stages.2.blocks.0.mlp"][0, 0, 0]
    for text in ("z", "q[99]", "q[0, 0, 0, 0, 0]", "q[::0]", "q[..., ...]"):
        with pytest.raises(LevitError):
            look_up(text, stop, walk)


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


def test_statistics_and_histogram():
    values = np.array([1, 2, 3, 6, np.nan, np.inf], np.float32)
    assert statistics(values) == (1, 3, 6, pytest.approx(np.std([1, 2, 3, 6])))
    assert statistics(np.array([np.nan], np.float32)) is None and statistics(np.zeros((0, 3))) is None
    assert statistics(np.arange(4)) == (0, 1.5, 3, pytest.approx(np.std(np.arange(4))))
    assert histogram(np.array([0.0, 0, 0, 0, 1]), 2) == "█▄" and histogram(np.ones(3)) == ""
    assert [number(v) for v in (0.0, -1.23456e-05, 12345.678, -0.5)] == ["0", "-1.23e-05", "1.235e+04", "-0.5"]
    assert exact(np.float32(0.1)) == "0.1" and np.float32(exact(np.float32(1 / 3))) == np.float32(1 / 3)


def test_a_picture_has_the_means_and_the_signs():
    plane = np.zeros((8, 8))
    plane[:4, :4], plane[4:, 4:] = 1, -1
    rows = picture(plane, 2, 1, colour=True)
    (left, right) = rows[0].spans
    top, bottom = left.style.color.triplet, right.style.bgcolor.triplet
    assert rows[0].plain == "▀▀" and top.red > top.blue and bottom.blue > bottom.red
    assert [row.plain for row in picture(np.eye(2), 4, 2, colour=False)] == ["██  ", "  ██"]
    assert [row.plain for row in picture(np.eye(2), 4, 2, colour=False, ascii_only=True)] == ["##  ", "  ##"]
    for shape in ((1, 1000), (1000, 1), (3, 5), (196, 196), (1, 1)):
        for colour in (True, False):
            rows = picture(np.random.default_rng(0).standard_normal(shape), 28, 9, colour)
            assert 0 < len(rows) <= 9 and all(0 < row.cell_len <= 28 for row in rows)
    assert picture(np.full((3, 3), np.nan), 8, 4, False) and picture(np.full((3, 3), np.nan), 8, 4, True)


def test_planes():
    tokens = np.arange(2 * 12 * 5).reshape(2, 12, 5)
    shown = plane_of("y", tokens, 6, [(3, 4)])
    assert shown.planes == 5 and np.array_equal(shown.plane, tokens[0, :, 1].reshape(3, 4))
    assert shown.caption == "y[0, :, 1]: channel 1, 3×4 pixels"
    maps = np.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    assert np.array_equal(plane_of("p", maps, 4, []).plane, maps[1, 1]) and plane_of("p", maps, 4, []).planes == 6
    assert plane_of("b", np.arange(10), 0, []).plane.shape == (3, 4)


def test_a_table_shows_every_digit():
    values = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    rows = table(values, 80, 9)
    assert np.array_equal(np.array([row.split() for row in rows], np.float32), values)
    vector = np.random.default_rng(1).standard_normal(20).astype(np.float32)
    assert np.array_equal(np.array(" ".join(table(vector, 40, 30)).split(), np.float32), vector)
    assert table(vector, 40, 3)[-1].startswith("… and ") and len(table(vector, 40, 3)) <= 3
    assert table(np.float32(0.25).reshape(()), 80, 5) == ["0.25"] and table(np.zeros((4, 0)), 80, 5) is not None


def test_every_stop_is_shown_within_its_page(any_walk):
    """It shows the formula, the numbers and the source with the calling line marked."""
    for page in (Page(80, 23), Page(80, None), Page(40, 10, colour=True), Page(200, 60)):
        for stop in any_walk.stops[:: 3 if page.height == 23 else 17]:
            lines = show(any_walk, stop, View(), page)
            assert all(line.cell_len <= page.width for line in lines) and (not page.height or len(lines) == page.height)
            if page.height is None:
                text = "\n".join(line.plain for line in lines)
                assert stop.formula[:30] in text and "levit_np/" in text
                for name, array in arrays_at(stop, any_walk).items():
                    assert "×".join(map(str, array.shape)) in text, (stop.name, name)
                if stop.is_operation:
                    assert "→" in text and f"def {stop.kind}(" in text


def test_a_narrow_page_has_room_for_source_and_picture(walk):
    for page in (Page(20, 24), Page(20, 24, colour=True), Page(27, 60), Page(40, 24)):
        for name in ("stem", "stem.convolutions.0.convolution", "stages.0.blocks.0.attention.attention"):
            stop = walk.find(name)[0]
            lines = [line.plain for line in show(walk, stop, View(), page)]
            assert max(map(len, lines)) <= page.width and any(line.startswith("→") for line in lines), (name, page)


@pytest.mark.parametrize("width, columns", [
    (40, []), (49, ["min"]), (60, ["min", "mean"]), (80, ["min", "mean", "max"])])
def test_a_narrow_page_cuts_no_number(walk, width, columns):
    """-1.234e-05 cut short would be another number."""
    stop = next(stop for stop in walk.stops if stop.kind == "normalize_backward")
    whole, narrow = (show(walk, stop, View(), Page(w, None)) for w in (200, width))
    head = next(i for i, line in enumerate(narrow) if " shape " in line.plain)
    assert [word for word in narrow[head].plain.split() if word in ("min", "mean", "max")] == columns
    wide = next(i for i, line in enumerate(whole) if " shape " in line.plain)
    for name, row in ((line.plain[2:15], line.plain) for line in narrow[head + 1 : head + 6]):
        words = next(line.plain for line in whole[wide:] if line.plain[2:15] == name).split()
        assert all(word in words or not word[-1].isdigit() for word in row.split()), row


def test_output_in_ascii(walk):
    """Each other character of formulas, help and pictures is replaced, not lost."""
    session, page = Session(walk), Page(80, None, colour=True, unicode=False)
    stops = {stop.kind: stop for stop in walk.stops}.values()
    shown = [line.plain for stop in stops for line in show(walk, stop, View(), page)]
    for _ in "12":
        session.do("?")
        shown += [line.plain for line in session.lines(page)]
    assert "".join(shown).isascii()
    assert "  dx = dy gamma/s, dgamma = S dy x^, dbeta = S dy" in shown
    assert "  y = gamma (x - mean) / sqrt (variance + eps) + beta" in shown
    assert shown[-len(WORDS.splitlines()) - len(HELP.splitlines()) - 2].startswith("n >  the next step")


@pytest.mark.parametrize("name, array", [("gather_bias", "bias"), ("attention_backward", "dbias")])
def test_a_bias_is_pictured_as_queries_and_keys(walk, name, array):
    """Though Nq equals a number of pixels, (heads, Nq, Nk) is not shown as tokens on a grid."""
    stop = next(stop for stop in walk.stops if stop.kind == name)
    heads, queries, keys = (bias := arrays_at(stop, walk)[array]).shape
    assert (queries in [height * width for height, width in walk.trace.config.resolutions]) and heads > 1
    view = View(list(arrays_at(stop, walk)).index(array), 1)
    shown = "\n".join(line.plain for line in show(walk, stop, view, Page(80)))
    assert f" {array}[1]: {queries}×{keys} queries × keys, one of {heads}: + -" in shown
    assert np.array_equal(plane_of(array, bias, 1, ()).plane, bias[1])


def test_the_numbers_shown_are_the_traces(any_walk):
    rows = re.compile(r"^[> ] (\S+) +(\S+) +(\S+) +(\S+) +(\S+) +(\S+)")
    for stop in any_walk.stops[::11]:
        shown = {m[1]: m.groups()[1:] for line in show(any_walk, stop, View(), Page(80))
                 if (m := rows.match(line.plain))}
        for name, array in arrays_at(stop, any_walk).items():
            found = shown[name[:13]]
            assert found[0] == "×".join(map(str, array.shape))
            for text, value in zip(found[1:], (array.min(), array.mean(dtype=np.float64), array.max(),
                                               array.std(dtype=np.float64))):
                assert float(text) == pytest.approx(float(value), rel=6e-3, abs=1e-12), (stop.name, name)


def test_every_step_says_why_it_is_there(any_walk):
    for stop in any_walk.stops:
        text = (reasons.of_operation(stop.kind) if stop.is_operation else
                reasons.of_layer(stop.name, stop.kind, stop.direction))
        assert text and text[-1] == ".", (stop.name, stop.kind)


def test_the_reasons_are_those_of_this_network(any_walk):
    """They mention each of these parts if, and only if, the network has it."""
    config = any_walk.trace.config
    said = " ".join(reasons.of_layer(stop.name, stop.kind, stop.direction) for stop in any_walk.stops
                    if not stop.is_operation)
    for part, there in (("every second pixel", len(config.stages) > 1), ("A second head", config.distillation),
                        ("by their offset alone", config.position == "bias"),
                        ("A learned vector for each position", config.position == "embedding"),
                        ("An additional token", config.pooling == "token"),
                        ("standard deviation gamma", config.normalization == "batch"),
                        ("standard deviation 1", config.normalization == "layer")):
        assert (part in said) == there, part


def test_a_session(walk):
    session = Session(walk, [str(i) for i in range(10)])
    page = Page(80, 24)

    def text():
        lines = session.lines(page)
        assert len(lines) == 24
        return "\n".join(line.plain for line in lines)

    assert "the network" in text() and "It answers: " in text()
    session.do("p")
    assert "the beginning of the walk" in text()
    session.do("n")
    session.do("s")
    assert "stem.convolutions.0  ConvBN" in text()
    session.do("g", "stages.1.downsample.attention.attention")
    assert "y = softmax(scale · q kᵀ + bias) v" in text()
    assert "probabilities[0, 0]: 16×64 queries × keys, one of 4: + -" in text()
    session.do("+")
    assert "probabilities[0, 1]: 16×64" in text()
    session.do("a")
    assert "the picture shows q" in text() and "q[0, 0]: 16×16" in text()
    session.do("v", "probabilities[0, 1, 2, 3]")
    assert exact(session.stop.record.outputs["probabilities"][0, 1, 2, 3]) in text().split()
    session.do("v", "probabilities[9]")
    assert "probabilities has the shape (1, 4, 16, 64)" in text()
    session.do("down")
    assert "→  17     scores = (q @ k" in text()
    session.do("o")
    session.do("b")
    assert "attention_backward" in text()
    session.do("?")
    assert "the backward of the current step" in text()
    session.do("?")
    assert "the change of the loss per unit of a small change of y" in text()
    session.do("q")
    assert not session.ended and "attention_backward" in text()
    session.do("/", "average_pool")
    assert session.stop.kind.startswith("average_pool")
    first = session.stop
    session.do("/", "")
    assert session.stop is not first and "average_pool" in session.stop.name
    session.do("z")
    assert "'z' is not a command" in text()
    session.do("q")
    assert session.ended


def test_the_help_fits_in_80_by_24():
    for text in (HELP, WORDS):
        assert len(text.splitlines()) < 24 and max(map(len, text.splitlines())) < 80


def test_the_results_of_a_step_are_always_shown(walk):
    """attention_backward has ten arrays; not all fit beside the source, but the results do."""
    stop = walk.find("stages.1.downsample.attention.attention_backward")[0]
    text = "\n".join(line.plain for line in show(walk, stop, View(), Page(80, 23)))
    assert all(f"\n> {name} " in text for name in ("dq", "dk", "dv", "dbias")) and "more lines: v NAME" in text


def test_a_walk_without_a_target_has_no_backward():
    model = random_model()
    session = Session(Walk(trace(model, random_images(model, 1))))
    session.do("b")
    assert "made without a target" in session.message and session.walk.stops[-1].direction == "forward"


def test_reasons_are_of_existing_operations_and_layers():
    """A text for an operation or layer that no longer exists would never be read."""
    assert set(reasons._OPERATIONS) <= operations.names()
    for kind in reasons._LAYERS:
        operations.layer_class(kind)


def test_a_picture_of_equal_values_says_so():
    """In a fresh network branches end in zeros, whose picture is empty."""
    model = levit_np.create("levit_digits", backend="reference")
    walk = Walk(trace(model, random_images(model, 1), 3))
    lines = show(walk, walk.find("stages.0.blocks.0.mlp")[0], View(), Page(80, 23))
    assert any("output[0, :, 0]: channel 0, 8×8 pixels, all 0, one of 64" in line.plain for line in lines)
