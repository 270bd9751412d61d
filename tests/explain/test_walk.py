"""The walk through a trace: its order, and questions about values."""

from itertools import pairwise

import pytest

from levit_np import LevitError
from levit_np.explain.ask import look_up, parse
from levit_np.explain.screen import Page, View, show
from levit_np.explain.trace import trace
from levit_np.explain.walk import Walk

from ..random_model import random_images, random_model


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
