"""The page in a real browser: its numbers are the model's, it asks nobody, and a keyboard reaches all of it."""

import base64
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

import levit_np
from levit_np.cli import main
from levit_np.errors import LevitError
from levit_np.explain.page import writer
from levit_np.explain.page.packing import pack, unpack
from levit_np.explain.page.sums import Sum, with_sums

from ..random_model import random_images, random_model
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
    found = unpack(pack(array, (None, [1, 4, 10]), 4, floating=floating))
    expected = array[:, [1, 4, 10]].astype(np.float64)
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
        stops = [(direction, i, stop) for direction in ("forward", "backward")
                 for i, stop in enumerate(document[direction])
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
            cell = f"[data-tensor='{places[name]}'][data-index='{','.join(map(str, index))}']"
            shown, value = chromium.js(f'document.querySelector("{cell}")?.textContent'), array[tuple(index)]
            assert shown and rounded_right(shown, value), (stop["name"], name, index, shown, value)
            seen.add((layer, direction))
    assert len({layer for layer, _ in seen}) > 0.6 * min(count, len(layers))
    assert {direction for _, direction in seen} == {"forward", "backward"}


@browser
def test_it_asks_nobody(opened, page):
    for place in ("#/answer", "#/forward/0", "#/backward/0"):
        opened.go(place)
    assert opened.requests == [page.as_uri()]
    assert "default-src 'none'" in page.read_text(encoding="utf-8").split("</head>")[0]


@browser
def test_every_stop_can_be_shown(opened):
    """Forward and backward: no stop fails, and no text is missing in either language."""
    look_at_all(opened)
    missing = opened.js("Object.keys(language.table.en).filter((key) => !(key in language.table.zh))")
    assert missing == [] == opened.js("Object.keys(language.table.zh).filter((key) => !(key in language.table.en))")


def look_at_all(chromium):
    """One stop of each operation and direction, and each kind of view."""
    layers = ("stages.0", "stages.0.blocks.0", "stages.1.downsample", "stages.1.downsample.attention", "stem", "token",
              "head")
    layers = [name for name in layers if chromium.js(f"stopsWithin('{name}').length")]
    views = ["#/", "#/answer"]
    for direction in ("forward", "backward"):
        firsts = chromium.js(f"Object.values(doc.{direction}.reduce((a, s, i) => (a[s.op] ??= i, a), {{}}))")
        views += [f"#/{direction}/{i}" for i in firsts] + [f"#/layer/{name}" for name in layers]
    for view in views:
        chromium.go(view)
        text = chromium.js("document.getElementById('main').innerText")
        wrong = re.search(r"undefined|NaN|(?m:^|\s)(op|what|part|axis|about)\.\w+", text)
        assert not wrong and chromium.js("document.querySelector('h1').textContent"), (view, wrong, text)
        marked = chromium.js("[...document.querySelectorAll('.line.here')].map((l) => l.innerText.split('#')[0]).join()")
        assert marked.count("(") == marked.count(")"), (view, marked)  # a call to its end
        assert bool(marked) == view.startswith(("#/forward/", "#/backward/")), view


@browser
def test_every_number_has_its_maker(opened):
    check_makers(opened)


def check_makers(chromium):
    """What a stop is given, but for the parameters, the image and the labels, an earlier one gave: with either loss."""
    for loss in chromium.js("Object.keys(doc.losses)"):
        chromium.js(f"session.loss = '{loss}'")
        missing = chromium.js("""['forward', 'backward'].flatMap((direction) => doc[direction].flatMap((stop) =>
            Object.entries(placesOf(stop)).filter(([name, place]) => !(name in stop.out) && !makers.has(place))
            .map(([name]) => `${stop.op.replace('_backward', '')} ${name}`)))""")
        given = {"convolution": "x w", "linear": "w b", "normalize": "gamma beta mean variance",
                 "layer_norm": "gamma beta", "gather_bias": "table", "targets_of": "labels",
                 "prepend_token": "token", "add_embedding": "embedding", "add_beta": "beta"}
        assert set(missing) <= {f"{op} {name}" for op, names in given.items() for name in names.split()}
    chromium.js("session.loss = 'ce'")


@browser
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("layer", ["stages.0.blocks.1", "stages.1.downsample", "stages.1.downsample.attention"])
def test_the_diagram_of_a_block(opened, direction, layer):
    """Each operation is a box, which a key reaches and which leads to its stop; residuals go around."""
    opened.js(f"session.direction = '{direction}'")
    opened.go(f"#/layer/{layer}")
    links = opened.js("[...document.querySelectorAll('.diagram a.box')].map((a) => a.getAttribute('href'))")
    led = {int(re.match(rf"#/{direction}/(\d+)", link)[1]) for link in links}
    ops = opened.js(f"stopsWithin('{layer}', '{direction}').map((i) => [i, doc.{direction}[i].op])")
    elsewhere = {"bias_index", "split_heads_backward"} if "down" in layer else {"bias_index"}
    assert {i for i, op in ops if op not in elsewhere | {"sum_backward"}} <= led <= {i for i, _ in ops}
    boxes = "[...document.querySelectorAll('.diagram .box')]"
    assert opened.js(f"{boxes}.every((a) => (a.focus(), document.activeElement === a))")
    sums = sum(op.startswith("add") for _, op in ops)
    assert opened.js("document.querySelectorAll('.diagram circle').length") == sums + 1  # and the bias's
    parts = 0 if layer.endswith("attention") else 2
    assert opened.js("document.querySelectorAll('.diagram .grouplink').length") == parts
    opened.js("session.direction = 'forward'")


@browser
def test_two_classes_are_compared(opened, digits):
    """Any two of the top five: a choice draws another picture, and what is drawn are the logits' gradients."""
    opened.go("#/answer")
    top = opened.js("doc.why")
    pictures = "[...document.querySelectorAll('figure canvas')].map((c) => c.toDataURL()).join()"
    first = opened.js(pictures)
    opened.js("(() => { const [, other] = document.querySelectorAll('.choosers select'); other.value = 4;"
              " other.dispatchEvent(new Event('change')); })()")
    opened.wait(f"{pictures} !== {first!r}")
    caption = opened.js("document.querySelectorAll('figcaption')[2].textContent")
    assert caption.endswith(opened.js(f"doc.labels[{top[4]}]"))
    model = levit_np.load("levit_digits.h5", backend="reference", dtype="float64")
    x = digits.prepare(DIGIT)[None].astype(np.float64)
    step = np.zeros_like(x)
    step[0, 0, 14, 17] = 1e-4
    for place, c in enumerate(top):
        slope = (model.forward(x + step)[0][0, c] - model.forward(x - step)[0][0, c]) / 2e-4
        shown = opened.js(f"tensors.get(doc.saliency[{place}]).then((map) => map.at(0, 14, 17))")
        assert shown == pytest.approx(slope, rel=2e-3)


def test_a_class_by_name_or_number(digits):
    with pytest.raises(LevitError, match="class: expected a name, or a number from 0 to 9, found '11'"):
        digits.explain(DIGIT, target=11)


@browser
@pytest.mark.parametrize("cells", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_a_large_network_fits(chromium, tmp_path, cells):
    """LeViT-256 at 224 × 224: under 10 MB, nothing asked, and its numbers right, of which only a part is there."""
    model = random_model("levit_256", backend="reference")
    x, path = random_images(model, 1), tmp_path / "large.html"
    model.explain(x[0], target=3, teacher=5).save(path)
    assert 5e6 < path.stat().st_size < 10e6
    chromium.errors.clear(), chromium.requests.clear()
    chromium.open(path.as_uri())
    check_cells(chromium, model, x, cells, target=3, teacher=5)
    assert chromium.requests == [path.as_uri()] and chromium.errors == []


def test_a_whole_page_leaves_nothing_out(digits, monkeypatch):
    monkeypatch.setattr(writer, "LIMIT", 1_500_000)
    for whole in (False, True):
        page = digits.explain(DIGIT, whole=whole)
        left_out = [entry for entry in page.document["tensors"] if any(kept is not None for kept in entry["kept"])]
        assert (len(page.html) > 1_500_000) == whole == (not left_out)


def test_whole_on_the_command_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(writer, "LIMIT", 1_500_000)
    assert main(["explain", str(DIGIT), "--whole", "-o", str(tmp_path / "whole.html")]) == 0
    assert (tmp_path / "whole.html").stat().st_size > 1_500_000
    with pytest.raises(SystemExit, match="2"):
        main(["explain", str(DIGIT), "--whole", "--png", str(tmp_path / "pictures")])
    assert "expected --whole with -o PAGE" in capsys.readouterr().err


@browser
def test_what_is_left_out_is_said(chromium, digits, tmp_path, monkeypatch):
    """Which channels are there, how to get all, and, of one that was asked for, that another is shown."""
    monkeypatch.setattr(writer, "LIMIT", 1_500_000)
    digits.explain(DIGIT).save(tmp_path / "small.html")
    chromium.errors.clear()
    chromium.open((tmp_path / "small.html").as_uri())
    i = chromium.js("doc.forward.findIndex((s) => s.op === 'linear' && s.layer.endsWith('mlp.up'))")
    chromium.go(f"#/forward/{i}")
    assert "--whole" in chromium.js("document.getElementById('main').textContent")
    chromium.js("(() => { const field = document.querySelector('.panel input'); field.value = 127;"
                " field.dispatchEvent(new Event('change')); })()")
    said = chromium.js("document.querySelector('.readout').textContent")
    assert re.match(r"channel 127 is not on this page; the nearest: y\[\d+, \d+\] = ", said)
    assert chromium.errors == []


@browser
def test_all_by_keyboard(opened):
    """Single keys walk forward, turn and walk back; Tab reaches a number, arrows move on it, Enter follows a link."""
    def place():
        return opened.js("[location.hash.split('?')[0], document.querySelector('h1').textContent]")

    def press(key):
        before = opened.js("document.documentElement.dataset.ready")
        opened.press(key)
        opened.wait(f"document.documentElement.dataset.ready !== '{before}'")
        return place()[0]

    assert [press(key) for key in "nnp"] == ["#/forward/0", "#/forward/1", "#/forward/0"]
    assert press("b").startswith("#/backward/") and press("b") == "#/forward/0"
    assert press("u") == "#/layer/stem.convolutions.0" and press("u") == "#/layer/stem" and press("u") == "#/"
    assert press("a") == "#/answer" and press("o") == "#/"
    title = place()[1]
    press("l")
    assert place()[1] != title and opened.js("document.documentElement.lang") == "zh-Hans"
    press("l")
    opened.press("d")
    assert opened.js("document.documentElement.dataset.theme") == "dark"
    opened.press("d")
    opened.press("?")
    assert opened.js("document.getElementById('help').open")
    opened.press("Escape")
    assert not opened.js("document.getElementById('help').open")

    press("n")
    for _ in range(80):  # to the grid of numbers
        opened.press("Tab")
        if opened.js("document.activeElement.matches('td[data-index]')"):
            break
    index = opened.js("document.activeElement.dataset.index")
    opened.press("ArrowRight"), opened.press("ArrowDown")
    moved = [int(n) for n in opened.js("document.activeElement.dataset.index").split(",")]
    channel, row, column = map(int, index.split(","))
    assert moved == [channel, row + 1, column + 1]
    assert opened.js("document.querySelector('.made .value').dataset.made") == ",".join(map(str, moved))

    press("o")
    for _ in range(80):
        opened.press("Tab")
        if opened.js("document.activeElement.getAttribute('href') === '#/layer/stages.0.blocks.0'"):
            break
    assert press("Enter") == "#/layer/stages.0.blocks.0"


@browser
def test_the_tour(opened):
    """Every stop has its place and its words; it ends where it says."""
    opened.press("t")
    count, seen = opened.js("tourStops().length"), set()
    for i in range(count):
        opened.wait(f"document.querySelector('#tour .count')?.textContent.includes(' {i + 1} of {count}')")
        before = opened.js("document.documentElement.dataset.ready")
        seen.add(opened.js("document.getElementById('tourtext').textContent"))
        opened.js("document.querySelector('#tour button.main').click()")
        if i + 1 < count:
            opened.wait(f"document.documentElement.dataset.ready !== '{before}'")
    assert len(seen) == count >= 15 and not any("tour." in text for text in seen)
    assert opened.js("document.getElementById('tour').hidden") and opened.js("location.hash").startswith("#/backward/")


STROKES = {  # x, y of a square's; (x, y, its radii, from and to which degree) of an arc
    0: [[(0.5, 0.5, 0.25, 0.4, -90, 270)]], 1: [[(0.4, 0.25), (0.55, 0.1), (0.55, 0.9)]],
    2: [[(0.5, 0.3, 0.25, 0.2, -170, 20), (0.27, 0.9), (0.75, 0.9)]],
    3: [[(0.48, 0.3, 0.22, 0.2, -160, 90), (0.48, 0.7, 0.25, 0.2, -90, 150)]],
    4: [[(0.6, 0.1), (0.25, 0.6), (0.8, 0.6)], [(0.62, 0.4), (0.62, 0.9)]],
    5: [[(0.72, 0.1), (0.35, 0.1), (0.32, 0.45), (0.5, 0.66, 0.24, 0.23, -130, 140)]],
    6: [[(0.65, 0.1), (0.4, 0.4), (0.5, 0.68, 0.22, 0.22, -150, 200)]], 7: [[(0.25, 0.12), (0.75, 0.12), (0.45, 0.9)]],
    8: [[(0.5, 0.3, 0.19, 0.19, 90, -270), (0.5, 0.7, 0.22, 0.2, -90, 270)]],
    9: [[(0.5, 0.32, 0.22, 0.2, 0, -360), (0.7, 0.35), (0.62, 0.9)]],
}


@browser
@pytest.mark.parametrize("scale, shift", [(1, 0), (0.6, 0.12)])
def test_drawn_digits_are_what_the_weights_know(opened, digits, scale, shift):
    """Ten digits, drawn small and beside the middle too, are answered rightly."""
    for digit, strokes in STROKES.items():
        lines = [[((x - 0.5) * scale + 0.5 + shift, (y - 0.5) * scale + 0.5 - shift)
                  for part in stroke for x, y in _points(*part)] for stroke in strokes]
        picture = opened.js(f"""(() => {{
            const {{ canvas }} = drawing(), context = canvas.getContext("2d");
            for (const line of {json.dumps(lines)}) {{
                context.beginPath();
                line.forEach(([x, y]) => context.lineTo(DRAWING * x, DRAWING * y));
                context.stroke();
            }}
            return scanned(canvas).toDataURL("image/png"); }})()""")
        assert digits.predict(base64.b64decode(picture.partition(",")[2]))[0][0] == str(digit)


def _points(x, y, *arc):
    if not arc:
        return [(x, y)]
    angles = np.radians(np.linspace(*arc[2:], 21))
    return list(zip((x + arc[0] * np.cos(angles)).tolist(), (y + arc[1] * np.sin(angles)).tolist()))


@browser
def test_in_a_notebook(chromium, digits, tmp_path):
    """The frame shows the page, and its links and keys work though the browser lets it change no address."""
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{digits.explain(DIGIT)._repr_html_()}", encoding="utf-8")
    chromium.errors.clear(), chromium.requests.clear()
    chromium.call("Page.navigate", url=path.as_uri())
    for link, title in ((".card a[href*='layer']", "Convolution 1"), (".stops a", "convolution")):
        click = f'document.querySelector("{link}")'
        chromium.wait(click, frame=True)
        before = chromium.js("document.documentElement.dataset.ready", frame=True)
        chromium.js(f"{click}.click()", frame=True)
        chromium.wait(f"document.documentElement.dataset.ready !== '{before}'", frame=True)
        assert title in chromium.js("document.querySelector('h1').textContent", frame=True)
    assert chromium.requests == [path.as_uri()] and chromium.errors == []


@browser
@pytest.mark.parametrize("name, changes", [
    ("levit_128s_a3", {}), ("levit_128s_a5", {"distillation": False}), ("deit_tiny", {"image_size": 32}),
    ("levit_digits", {"activation": "silu", "attention_activation": "identity"})])
def test_other_networks(chromium, tmp_path, name, changes):
    """LayerNorm, an embedding, a class token, one head, other activations: every operation has its view."""
    model = random_model(name, backend="reference", **{"image_size": 48, "num_classes": 7} | changes)
    model.explain(random_images(model, 1)[0]).save(tmp_path / "page.html")
    chromium.errors.clear()
    chromium.open((tmp_path / "page.html").as_uri())
    look_at_all(chromium)
    check_makers(chromium)
    assert chromium.errors == []


def test_every_operation_has_its_stop_formula_and_source():
    """Of LeViT-256 (at a small size: the operations are the same), forward, both losses and backward."""
    model = random_model("levit_256", backend="reference", image_size=64, num_classes=7)
    x = random_images(model, 1)
    document = model.explain(x[0], target=3, teacher=5).document
    stops = {(direction, stop["name"], stop.get("only")): stop for direction in ("forward", "backward")
             for stop in document[direction]}
    for loss, recorded in (("ce", levit_np.trace(model, x, 3)), ("kd", levit_np.trace(model, x, 3, teacher=5))):
        for step in recorded.steps:
            stop = stops[step.direction, step.name, loss if step.layer == "loss" else None]
            assert stop["op"] == step.op and stop["formula"] == step.formula
            source, caller = (document["code"][stop["code"][which]] for which in ("op", "layer"))
            assert (source["file"], source["first"], tuple(source["lines"])) == step.source
            called = caller["lines"][step.line - caller["first"]]
            assert any(word in called for word in (step.op, "function", "derivative", "pool")), called
            assert stop["code"]["line"] == step.line
    sums = [record.name for record in recorded.forward if record.kind == "Residual"]
    assert all((direction, name, None) in stops for name in sums for direction in ("forward", "backward"))
    assert sums and ("forward", "average", None) in stops and ("backward", "heads", None) in stops


@pytest.mark.parametrize("teacher", [None, 5])
def test_sums(digits, teacher):
    """What the layers add up and halve themselves: numbers and line."""
    found = levit_np.trace(digits, digits.prepare(DIGIT)[None], 3, teacher=teacher)
    sums = [step for direction in ("forward", "backward") for step in with_sums(found, direction)
            if isinstance(step, Sum)]
    counts = dict.fromkeys(("add", "add_backward"), 14) | {"average": 1, "sum_backward": 3, "average_backward": 1}
    counts |= {"mean_loss": 1} if teacher else {}
    assert {op: sum(s.op == op for s in sums) for op in {s.op for s in sums}} == counts
    for told in sums:
        parts, half = list(told.inputs.values()), 0.5 if told.op in ("average", "average_backward", "mean_loss") else 1
        expected = [half * part for part in parts] if told.op == "average_backward" else [half * sum(parts)]
        for value, wanted in zip(told.outputs.values(), expected * 2):
            np.testing.assert_allclose(value, wanted, rtol=1e-6)
        assert any(sign in told.source.lines[told.line - told.source.first] for sign in ("ops.add(", "/ 2"))


AXE = os.environ.get("AXE")


@browser
@pytest.mark.slow
@pytest.mark.skipif(not AXE, reason="needs axe-core: npm pack axe-core, and AXE=…/package/axe.min.js")
@pytest.mark.parametrize("width", [1280, 390])
def test_accessibility(chromium, page, width):
    """axe-core finds nothing, serious or not, in any view, light and dark, in both languages."""
    chromium.resize(width, 900, mobile=width < 600)
    chromium.open(page.as_uri())
    chromium.js(Path(AXE).read_text(encoding="utf-8"))
    stops = dict(chromium.js(
        "['forward', 'backward'].flatMap((d) => doc[d].map((s, i) => [`${s.op}`, `#/${d}/${i}`])).reverse()"))
    layers = [f"#/layer/{name}" for name in ("stem", "stages.1", "stages.0.blocks.0", "stages.1.downsample", "head")]
    found = {}

    def look(*where):
        for violation in chromium.js("axe.run().then((r) => r.violations.map((v) => [v.id, v.impact, "
                                     "v.nodes[0].html.slice(0, 200), v.nodes[0].failureSummary]))"):
            found.setdefault(violation[0], (*where, *violation[1:]))

    for theme in ("light", "dark"):
        for language in ("en", "zh"):
            chromium.js(f"setTheme('{theme}'), setLanguage('{language}')")
            for place in ("#/", "#/answer", *layers, *stops.values(), *layers):  # the last time backward
                chromium.go(place)
                look(place, theme, language)
            chromium.js("tour.go(5)")
            chromium.wait("document.querySelector('.diagram')")
            look("tour", theme, language)
            chromium.js("tour.leave(), commands.help()")
            look("help", theme, language)
            chromium.js("document.getElementById('help').close(), session.direction = 'forward'")
    chromium.resize(1280, 900)
    assert found == {}
