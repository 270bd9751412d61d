"""The page in a real browser: its numbers are the model's, it asks nobody, and a keyboard reaches all of it."""

import re
from pathlib import Path

import numpy as np
import pytest

import levit_np
from levit_np.errors import LevitError
from levit_np.explain.page.packing import pack, unpack

from .chromium import PROGRAM, Chromium

ROOT = Path(__file__).resolve().parents[2]
DIGIT = ROOT / "weights/samples/digit_3.png"
browser = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def digits():
    return levit_np.load("levit_digits.h5", backend="reference")


@pytest.fixture(scope="module")
def page(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "digits.html"
    digits.explain(DIGIT, target=3, teacher=5).save(path)
    return path


@pytest.fixture(scope="module")
def chromium():
    with Chromium() as found:
        yield found


@pytest.fixture
def opened(chromium, page):
    chromium.errors.clear(), chromium.requests.clear()
    chromium.open(page.as_uri())
    yield chromium
    assert chromium.errors == []


def rounded_right(shown: str, value: float) -> bool:
    """Whether the digits shown are the value's: within half a unit of the last."""
    match = re.fullmatch(r"-?\d+(?:\.(\d+))?(?:e([+-]?\d+))?", shown)
    assert match, shown
    unit = 10.0 ** (int(match[2] or 0) - len(match[1] or ""))
    return abs(float(shown) - float(value)) <= unit / 2 * (1 + 1e-6)


@pytest.mark.parametrize("floating", [False, True])
@pytest.mark.parametrize("scale", [1e-30, 3e-7, 0.02, 1, 730, 2e9, 1e30])
def test_packed_numbers_are_rounded_right(scale, floating):
    array = (np.random.default_rng(0).standard_normal((7, 11)) ** 5 * scale).astype(np.float32)
    found, expected = unpack(pack(array, (None, [1, 4, 10]), 4, floating=floating)), array[:, [1, 4, 10]].astype(np.float64)
    of = np.abs(expected) if floating else np.abs(expected).max()
    assert (np.abs(found - expected) <= 0.5 * 10.0 ** (np.floor(np.log10(of)) - 3) * (1 + 1e-9)).all()


@pytest.mark.parametrize("floating", [False, True])
def test_packed_numbers_that_are_special(floating):
    array = np.array([np.nan, np.inf, -np.inf, 0.0, -1.25, 9.999, 1e-45])
    expected = [np.nan, np.inf, -np.inf, 0, -1.25, 10, 1e-45 if floating else 0]
    assert np.array_equal(unpack(pack(array, digits=3, floating=floating)), expected, equal_nan=True)
    assert np.array_equal(unpack(pack(np.zeros(3), floating=floating)), np.zeros(3))


@browser
def test_two_hundred_numbers_are_the_models(opened, digits):
    check_cells(opened, digits, digits.prepare(DIGIT)[None], 200, target=3, teacher=5)


def check_cells(chromium, model, x, count, **loss):
    """Cells drawn over all layers and directions, read from the page's own tables, against a trace of the model."""
    found = levit_np.trace(model, x, loss["target"])
    taught = levit_np.trace(model, x, **loss)
    document = chromium.js("levit.document")
    generator, seen = np.random.default_rng(5), set()
    for loss_name, recorded in (("ce", found), ("kd", taught)):
        steps = {step.name: step for step in recorded.steps}
        chromium.js(f"document.getElementById('loss').value = '{loss_name}', session.loss = '{loss_name}'")
        stops = [(direction, i, stop) for direction in ("forward", "backward") for i, stop in enumerate(document[direction])
                 if stop["name"] in steps and stop.get("only") in (None, loss_name)]
        layers = sorted({stop["layer"] for _, _, stop in stops})
        for layer in generator.permutation(layers * 3)[: count // 2]:
            mine = [place for place in stops if place[2]["layer"] == layer]
            direction, i, stop = mine[generator.integers(len(mine))]
            places = stop.get("kd", stop)["out"] if loss_name == "kd" and direction == "backward" else stop["out"]
            if not places:
                continue
            name = sorted(places)[generator.integers(len(places))]
            entry = document["tensors"][places[name]]
            array = np.asarray(steps[stop["name"]].outputs[name])
            array = array[0] if list(array.shape[1:]) == entry["shape"] and array.shape[0] == 1 else array
            assert list(array.shape) == entry["shape"], (stop["name"], name)
            index = [int(generator.choice(kept if isinstance(kept, list) else kept or size))
                     for kept, size in zip(entry["kept"], entry["shape"])]
            chromium.go(f"#/{direction}/{i}?name={name}&at={','.join(map(str, index))}")
            shown = chromium.js(f"document.querySelector('[data-tensor=\"{places[name]}\"][data-index=\"{','.join(map(str, index))}\"]')"
                                "?.textContent")
            assert shown and rounded_right(shown, array[tuple(index)]), (stop["name"], name, index, shown, array[tuple(index)])
            seen.add((layer, direction))
    assert len({layer for layer, _ in seen}) > 0.6 * len(layers) and {d for _, d in seen} == {"forward", "backward"}


@browser
def test_it_asks_nobody(opened, page):
    for place in ("#/answer", "#/forward/0", "#/backward/0"):
        opened.go(place)
    assert opened.requests == [page.as_uri()]
    assert "default-src 'none'" in page.read_text(encoding="utf-8").split("</head>")[0]


@browser
def test_every_stop_can_be_shown(opened):
    """Forward and backward, both losses, both languages: no stop fails, and no text is missing."""
    counts = opened.js("[doc.forward.length, doc.backward.length]")
    for direction, count in zip(("forward", "backward"), counts):
        kinds = opened.js(f"Object.entries(doc.{direction}.reduce((a, s, i) => (a[s.op] ??= i, a), {{}}))")
        for op, i in kinds:
            opened.go(f"#/{direction}/{i}")
            text = opened.js("document.getElementById('main').innerText")
            assert not re.search(r"(undefined|NaN|\b(op|what|part|axis|about)\.\w+)", text), (op, text)
            assert opened.js("document.querySelector('h1').textContent")
    for view in ("#/", "#/answer", "#/layer/stages.0", "#/layer/stages.1.downsample", "#/layer/head"):
        opened.go(view)
        assert not re.search(r"undefined|NaN|\b(op|what|part|about)\.\w+", opened.js("document.getElementById('main').innerText")), view
    missing = opened.js("Object.keys(language.table.en).filter((key) => !(key in language.table.zh))")
    assert missing == [] == opened.js("Object.keys(language.table.zh).filter((key) => !(key in language.table.en))")


def test_a_class_by_name_or_number(digits):
    with pytest.raises(LevitError, match="class: expected a name, or a number from 0 to 9, found '11'"):
        digits.explain(DIGIT, target=11)
