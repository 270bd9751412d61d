"""The page in a real browser: its numbers are those of the model, every part can be shown, and it makes no network
request."""

import re

import numpy as np
import pytest

import levit_np
from levit_np.cli import main
from levit_np.errors import LevitError
from levit_np.explain.page import writer

from ..random_model import random_images, random_model
from . import DIGIT
from .chromium import browser


def rounded_right(shown: str, value: float) -> bool:
    """Whether the shown digits are the value rounded: within half a unit of the last digit."""
    match = re.fullmatch(r"-?\d+(?:\.(\d+))?(?:e([+-]?\d+))?", shown)
    assert match, shown
    unit = 10.0 ** (int(match[2] or 0) - len(match[1] or ""))
    return abs(float(shown) - float(value)) <= unit / 2 * (1 + 1e-6)


@browser
def test_two_hundred_numbers_are_the_models(opened, digits):
    check_cells(opened, digits, digits.prepare(DIGIT)[None], 200, target=3, teacher=5)


def check_cells(chromium, model, x, count, **loss):
    """Compares cells, drawn at random from all layers and both directions, with a trace of the model: in each place
    one that is drawn and another one of those shown beside it, as showing a place takes longest."""
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
        for layer in generator.permutation(layers * 3)[: count // 4]:
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
            cells = f"[data-tensor='{places[name]}'][data-index]"
            shown = {tuple(map(int, filter(None, at.split(",")))): text for at, text in reversed(chromium.js(
                f'[...document.querySelectorAll("{cells}")].map((cell) => [cell.dataset.index, cell.textContent])'))
                if text}  # cells of channels that are left out are empty
            for at in {tuple(index), tuple(generator.choice(sorted(shown)))}:
                assert rounded_right(shown[at], array[at]), (stop["name"], name, at, shown[at], array[at])
            seen.add((layer, direction))
    assert len({layer for layer, _ in seen}) > 0.6 * min(count // 2, len(layers))
    assert {direction for _, direction in seen} == {"forward", "backward"}


@browser
def test_it_makes_no_network_request(opened, page):
    for place in ("#/answer", "#/forward/0", "#/backward/0"):
        opened.go(place)
    assert opened.requests == [page.as_uri()]
    assert "default-src 'none'" in page.read_text(encoding="utf-8").split("</head>")[0]


@browser
def test_every_stop_can_be_shown(opened):
    """No stop fails, forward or backward, and no text is missing in either language."""
    look_at_all(opened)
    missing = opened.js("Object.keys(language.table.en).filter((key) => !(key in language.table.zh))")
    assert missing == [] == opened.js("Object.keys(language.table.zh).filter((key) => !(key in language.table.en))")


def look_at_all(chromium):
    """Visits a stop of each operation in each direction, and each kind of view."""
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
        marked = chromium.js("[...document.querySelectorAll('.line.here')].map((l) => l.innerText.split('#')[0])"
                             ".join()")
        assert marked.count("(") == marked.count(")"), (view, marked)  # a call is marked to its closing bracket
        assert bool(marked) == view.startswith(("#/forward/", "#/backward/")), view


@browser
def test_every_input_comes_from_an_earlier_stop(opened):
    check_inputs(opened)


def check_inputs(chromium):
    """With either loss, each input of a stop is an output of an earlier stop, a parameter, the image or the labels."""
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
def test_what_a_number_is_made_of(opened):
    check_terms(opened)


def check_terms(chromium):
    """For the last number of each output: if all its terms are on the page they add up to it, otherwise its line or its
    source gives it; nothing that is shown contains NaN."""
    found = chromium.js("""(async () => {
        const found = [];
        for (const direction of ["forward", "backward"]) for (const stop of doc[direction]) {
            const a = await tensors.all({ ...stop.in, ...stop.out });
            for (const name of Object.keys(stop.out)) {
                if (stop.op === "gather_bias" || stop.op === "bias_index") continue; // a table shows them
                const index = a[name].shape.map((_, axis) => a[name].there(axis).at(-1));
                const made = MAKES[stop.op]?.(a, name, index, stop), value = a[name].at(...index);
                const terms = made?.terms?.map(([, one, other]) => one * other).filter(Number.isFinite) ?? [];
                const line = made?.lines?.at(-1)?.match(/= (-?[\\d.e+-]+)(?= *\\(|$)/);
                const from = made?.from && a[made.from[0]].at(...made.from[1]);
                const sum = terms.length && terms.length === made.all ? add(terms) : value;
                const said = made?.terms ? sum : line ? Number(line[1]) : from;
                const size = Math.max(...[value, ...terms, ...a[name].extent].map(Math.abs));
                found.push([`${direction} ${stop.name} ${name}[${index}]`, Boolean(made), said ?? value, value, size,
                            madeOf(stop, a, name, index).textContent]);
            }
        }
        return found;
    })()""")
    for where, made, said, value, size, text in found:
        assert made and not re.search("NaN|undefined|Infinity", text), (where, text)
        assert said == pytest.approx(value, abs=1e-2 * size), (where, text)


@browser
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("layer", ["stages.0.blocks.1", "stages.1.downsample", "stages.1.downsample.attention"])
def test_the_diagram_of_a_block(opened, direction, layer):
    """Each operation is a box, reachable by keyboard, that links to its stop; residual connections go around."""
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
def test_every_layer_has_its_diagram_and_its_cost(opened, digits):
    """A single layer has a diagram like a block's; parameters are counted for each layer, including biases and BN."""
    attention = "stages.1.downsample.attention"
    for part, boxes in (("q", 2), ("kv", 2), ("bias", 2), ("q.bn", 1)):
        layer = f"{attention}.{part}"
        opened.go(f"#/layer/{layer}")
        assert opened.js("document.querySelectorAll('.diagram a.box').length") == boxes, layer
        own = sum(array.size for name, array in digits.trained().items() if name.startswith(f"{layer}."))
        assert f"{own:,} parameters" in opened.js("document.getElementById('main').innerText"), layer
    assert opened.js("costOf('').parameters") == opened.js("doc.model.parameters")


@browser
@pytest.mark.parametrize("layer, at, weights, where", [
    ("stem.convolutions.1", (5, 4, 4), (5, [0, 1, 2], 0, 0), "before"), ("head_dist", (5,), ([0, 1, 2], 5), "after")])
def test_bn_is_folded_into_its_own_layer(opened, digits, layer, at, weights, where):
    """Into the weights before it, or, in a head, where BN comes first, into the weights after it."""
    state = digits.state()
    scale = state[f"{layer}.bn.gamma"] / np.sqrt(state[f"{layer}.bn.variance"] + 1e-5)
    i = opened.js(f"doc.forward.findIndex((s) => s.layer === '{layer}.bn')")
    opened.go(f"#/forward/{i}?name=y&at={','.join(map(str, at))}")
    told = opened.js("document.querySelectorAll('.way')[2].innerText")
    shown = [float(n) for n in re.findall(r" = (-?[\d.e-]+)(?=,)", told.partition("w′")[2])]
    assert np.allclose(shown, scale[5] * state[f"{layer}.weight"][weights], rtol=5e-3, atol=1e-4)
    assert f"the weights {where} it" in told


@browser
def test_two_classes_are_compared(opened, digits):
    """Choosing any two of the top five changes the pictures, which show the gradients of the logits."""
    opened.go("#/answer")
    top = opened.js("doc.why")
    pictures = "[...document.querySelectorAll('figure canvas')].map((c) => c.toDataURL()).join()"
    first = opened.js(pictures)
    layer = "[...document.querySelectorAll('#main select')].at(-1)"
    opened.js(f"{layer}.value = 'stages.2.blocks.0.attention', {layer}.dispatchEvent(new Event('change'))")
    opened.wait(f"{pictures} !== {first!r}")
    first = opened.js(pictures)
    opened.js("(() => { const [, other] = document.querySelectorAll('.choosers select'); other.value = 4;"
              " other.dispatchEvent(new Event('change')); })()")
    opened.wait(f"{pictures} !== {first!r}")
    assert opened.js(f"{layer}.value") == "stages.2.blocks.0.attention"
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
    with pytest.raises(LevitError, match="rival: expected a class other than the target, found 4 for both"):
        digits.explain(DIGIT, target=4, rival="4")
    with pytest.raises(LevitError, match=r"levit_digits: expected one image \(1, 32, 32\), found \(2, 1, 32, 32\)"):
        digits.explain(np.zeros((2, 1, 32, 32), np.float32))
    with pytest.raises(LevitError, match="teacher: expected a model with two heads, found levit_digits"):
        levit_np.create("levit_digits", distillation=False).explain(DIGIT, teacher=4)


@pytest.mark.parametrize("pixel", [np.nan, np.inf, 1e30])
def test_no_page_for_a_loss_that_is_not_finite(digits, pixel):
    """JSON cannot contain it, and the page would stay empty."""
    with pytest.raises(LevitError, match="levit_digits: expected a finite loss, found another"), \
            np.errstate(all="ignore"):
        digits.explain(np.full((1, 32, 32), pixel, np.float32))


@browser
@pytest.mark.parametrize("cells", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_a_large_network_fits(chromium, tmp_path, cells):
    """LeViT-256 at 224 × 224: under 10 MB, no network request, and right numbers, though only some channels are
    included."""
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
def test_channels_that_are_left_out_are_reported(chromium, digits, tmp_path, monkeypatch):
    """The page says which channels it has and how to get all; asked for a missing one, it names the one that it
    shows."""
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
@pytest.mark.parametrize("name, changes", [
    ("levit_128s_a3", {}), ("levit_128s_a5", {"distillation": False}), ("deit_tiny", {"image_size": 32}),
    ("levit_digits", {"image_size": 24, "activation": "silu", "attention_activation": "identity"})])
def test_other_networks(chromium, tmp_path, name, changes):
    """LayerNorm, an embedding, a class token, one head, other activations: every operation has a view, and the texts
    describe this network."""
    model = random_model(name, backend="reference", **{"image_size": 48, "num_classes": 7} | changes)
    model.explain(random_images(model, 1)[0]).save(tmp_path / "page.html")
    chromium.errors.clear()
    chromium.open((tmp_path / "page.html").as_uri())
    look_at_all(chromium)
    check_inputs(chromium)
    check_terms(chromium)
    check_texts(chromium, model.config)
    assert chromium.errors == []


@browser
def test_a_class_token_has_no_pixel(chromium, tmp_path):
    """6 of the 7 tokens are the 2 × 3 pixels: the maps of attention show only these, and a click selects one."""
    model = random_model("deit_tiny", backend="reference", image_size=(32, 48), num_classes=3)
    model.explain(random_images(model, 1)[0]).save(tmp_path / "page.html")
    chromium.errors.clear()
    chromium.open((tmp_path / "page.html").as_uri())
    chromium.go(f"#/forward/{chromium.js('doc.forward.findIndex((s) => s.op === `attention`)')}?head=1&query=0&key=6")
    said = chromium.js("document.querySelector('.attention').innerText")
    assert "Query 0 and key 6: 0 is the class token" in said and "B[" not in said  # DeiT has no attention bias
    sizes = chromium.js("[...document.querySelectorAll('.attention .overlay > canvas:last-of-type')]"
                        ".map((c) => [c.height, c.width])")
    assert sizes[1:] == [[2, 3]] * (len(sizes) - 1) and len(sizes) == 5 + 3
    chromium.js("""(() => {
        const box = document.querySelector('.attention .overlay'), area = box.getBoundingClientRect();
        const at = { clientX: area.right - 1, clientY: area.bottom - 1 };
        box.dispatchEvent(new MouseEvent('click', at));
    })()""")
    chromium.wait("document.querySelector('.attention h3').textContent.startsWith('Query 6 ')")
    shown = chromium.js("[...document.querySelectorAll('.attention b[data-index]')].map((b) => b.textContent)")
    step = next(s for s in levit_np.trace(model, random_images(model, 1)).steps if s.op == "attention")
    assert float(shown[0]) == pytest.approx(step.outputs["probabilities"][0, 1, 6, 6], abs=1e-4)
    assert chromium.errors == []


def check_texts(chromium, config):
    """The overview, the tour and the descriptions of layers mention exactly the parts that the network has."""
    said = chromium.js("tourStops().map(([place, key, values]) => t(`tour.${key}`, values)).join(' ')")
    chromium.go("#/")
    sizes = chromium.js("[...document.querySelectorAll('.scale .size')].map((size) => size.textContent)")
    note = chromium.js("document.querySelector('.overview > .note').textContent")
    example, channels = re.search(r"“(\S+)” means (\d+) channels of \d+ × \d+ pixels", note).groups()
    assert example == sizes[1] and example.startswith(channels)  # after the image's
    for view in ("#/", "#/layer/stem.convolutions.0", "#/layer/stages.0.blocks.0.attention",
                 "#/layer/stages.0.blocks.0.mlp", "#/layer/head"):
        chromium.go(view)
        said += chromium.js("document.getElementById('main').innerText")
    parts = {"Hardswish": "hardswish" in (config.activation, config.attention_activation),
             "Two heads|two heads|both heads": config.distillation, "2 times": config.mlp_ratio == 2,
             r"\bBN\b|Batch norm": config.normalization == "batch", "stride of 16": config.stem[0].stride == 16,
             r"The bias instead|\+ B\b": config.position == "bias",
             "[Mm]ean of what|mean over": config.pooling == "average",
             "shrinks the grid|[Bb]etween two stages": len(config.stages) > 1}
    for part, there in parts.items():
        assert bool(re.search(part, said)) == there, part
    assert not re.search(r"{\w\w+}", said)
