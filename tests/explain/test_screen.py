"""What a page of text shows of a stop, and what a session of commands does, without a terminal."""

import re

import numpy as np
import pytest

import levit_np
from levit_np.explain import operations, reasons
from levit_np.explain.ask import arrays_at
from levit_np.explain.screen import Page, View, show
from levit_np.explain.session import HELP, WORDS, Session
from levit_np.explain.trace import trace
from levit_np.explain.values import exact, histogram, number, picture, plane_of, statistics, table
from levit_np.explain.walk import Walk

from ..random_model import random_images, random_model


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
    session.do("g", "up.linear")
    first = session.stop
    assert "1 of 8; g and Enter goes to the next" in text()
    session.do("g", "")
    assert session.stop is not first and session.stop.name.endswith("up.linear") and "2 of 8" in text()
    session.do("/", "")
    assert "average_pool" in session.stop.name and "1 of 2; / and Enter goes to the next" in text()
    session.do("z")
    assert "'z' is not a command" in text()
    session.do("q")
    assert session.ended


def test_the_help_fits_in_80_by_24():
    for text in (HELP, WORDS):
        assert len(text.splitlines()) < 24 and max(map(len, text.splitlines())) < 80


def test_the_examples_of_the_help_work(walk):
    session = Session(walk)
    for command, text in (*re.findall(r"\b(g) (\w[\w.]*)", HELP), ("g", "stages.0.blocks.0.attention.attention"),
                          *re.findall(r"\b(v) (\w[\w.]*(?:\[.*?\])?)", HELP)):
        session.do(command, text)
        assert re.fullmatch(r"(\d of \d; .*)?", session.message), (command, text)


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
