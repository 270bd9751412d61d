"""Using the page: by keyboard, on the tour, drawing digits, in a notebook, with assistive technology."""

import base64
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from . import DIGIT
from .chromium import browser


@browser
def test_all_by_keyboard(opened):
    """Single keys go forward, switch direction and go back; Tab reaches a number, arrows move between numbers, Enter
    follows a link."""
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
    for _ in range(80):  # Tab to the grid of numbers
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
    """Every stop of the tour has a place and a text; the tour ends in the backward pass."""
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


@browser
def test_back_within_the_tour(opened):
    """The browser's back and forward buttons move between stops of the tour, and its text follows."""
    said = "document.querySelector('#tour .count').textContent"
    opened.press("t")
    for i in (2, 3):
        opened.js("document.querySelector('#tour button.main').click()")
        opened.wait(f"{said}.includes(' {i} of ') && document.querySelector('.stop')")
    third = opened.js("location.hash")
    opened.js("history.back()")
    opened.wait(f"{said}.includes(' 2 of ') && location.hash.startsWith('#/forward/0')")
    opened.js("history.forward()")
    opened.wait(f"{said}.includes(' 3 of ') && location.hash.startsWith('{third.partition('?')[0]}')")
    opened.js("tour.leave()")


@browser
def test_the_tour_leaves_room_on_a_small_screen(opened):
    """A phone held sideways, or text at four times its size."""
    opened.resize(320, 256)
    opened.go("#/")
    opened.js("tour.go(7)")
    opened.wait("document.querySelector('.attention')")
    opened.js("document.querySelector('.attention').scrollIntoView()")
    assert opened.js("Boolean(document.elementFromPoint(160, 20).closest('main'))")
    opened.js("tour.leave()")
    opened.resize(1280, 900)


@browser
def test_a_number_that_does_not_fit_is_brought_into_range(opened):
    """In a link, and typed into the field for the convolution's input channel."""
    attention = opened.js("doc.forward.findIndex((s) => s.op === 'attention')")
    opened.go(f"#/forward/{attention}?head=-1&query=x&key=2.6")
    fields = "[...document.querySelectorAll('.attention .choosers input')].map((input) => input.value)"
    assert opened.js(fields) == ["0", "0", "3"] and "NaN" not in opened.js("document.body.innerText")
    opened.go(f"#/forward/{opened.js('doc.forward.findLastIndex((s) => s.op === `convolution`)')}")
    for typed, taken in (("99", 31), ("-4", 0), ("0.5", 1)):
        opened.js(f"(() => {{ const input = document.querySelector('.special input'); input.value = '{typed}';"
                  " input.dispatchEvent(new Event('change')); })()")
        assert f"input channel {taken}, " in opened.js("document.querySelector('.special').textContent"), typed


@browser
def test_a_pressed_button_keeps_the_focus(opened):
    """Pressing a button redraws what depends on it, but the button keeps the focus."""
    opened.go(f"#/forward/{opened.js('doc.forward.findIndex((s) => s.op === `attention`)')}")
    for button, text in ((".headbutton:nth-child(2)", "head 1"), (".attention .terms tr:nth-child(3) button", "")):
        opened.js(f"document.querySelector('{button}').focus()")
        text = text or opened.js("document.activeElement.textContent")
        opened.press("Enter")
        opened.wait(f"document.activeElement.textContent === {text!r} && document.activeElement.closest('.chosen')")


@browser
@pytest.mark.parametrize("link", ["#/forward/9999", "#/backward/-1", "#/forward", "#/layer/nowhere", "#/%E7%B1"])
def test_a_link_to_no_place(chromium, page, link):
    """It says that there is no such place, and navigation still works."""
    chromium.errors.clear()
    chromium.call("Page.navigate", url="about:blank")
    chromium.open(page.as_uri() + link)
    assert chromium.js("document.querySelector('h1').textContent") == "There is no such place in this network."
    assert chromium.js("document.title") == "There is no such place in this network. — levit_digits"
    chromium.press("n")
    chromium.wait("document.querySelector('.stop')")
    assert len(chromium.errors) == 1 and re.match(r"\['Error: no (layer|place) ", chromium.errors[0])


STROKES = {  # points (x, y) of a unit square; arcs (x, y, radii, first and last angle in degrees)
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
def test_drawn_digits_are_classified_correctly(opened, digits, scale, shift):
    """Ten digits, also drawn small and off-centre, are classified correctly."""
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


@browser
def test_a_stroke_ends_without_a_release_event(opened):
    """If a menu or another program took the pointer, moving it without a pressed button must not draw."""
    opened.go("#/")
    opened.js("document.getElementById('main').replaceChildren(window.pad = drawing().canvas), scrollTo(0, 0)")
    x, y = opened.js("(() => { const box = pad.getBoundingClientRect(); return [box.x, box.y]; })()")
    blank = opened.js("pad.toDataURL()")
    for kind, place in (("mousePressed", 60), ("mouseMoved", 100)):
        opened.call("Input.dispatchMouseEvent", type=kind, x=x + place, y=y + 60, button="left", buttons=1)
    drawn = opened.js("pad.toDataURL()")
    for place in (150, 200):
        opened.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + place, y=y + place)
    assert opened.js("pad.toDataURL()") == drawn != blank
    opened.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + 200, y=y + 200, button="left")


def _points(x, y, *arc):
    if not arc:
        return [(x, y)]
    angles = np.radians(np.linspace(*arc[2:], 21))
    return list(zip((x + arc[0] * np.cos(angles)).tolist(), (y + arc[1] * np.sin(angles)).tolist()))


def test_a_notebooks_frame_shows_the_page_and_only_lets_its_scripts_run(digits):
    """Without allow-same-origin the page reaches neither the notebook nor its server."""
    page, frames = digits.explain(DIGIT), []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: frames.append((tag, dict(attributes)))
    parser.feed(page._repr_html_())
    (tag, attributes), = frames
    assert (tag, attributes["sandbox"]) == ("iframe", "allow-scripts") and attributes["srcdoc"] == page.html


@browser
def test_in_a_notebook(chromium, digits, tmp_path):
    """The frame shows the page; links and keys work though the browser does not let it change the address."""
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


AXE = os.environ.get("AXE")


@browser
@pytest.mark.slow
@pytest.mark.skipif(not AXE, reason="needs axe-core: npm pack axe-core, and AXE=…/package/axe.min.js")
@pytest.mark.parametrize("width", [1280, 390])
def test_accessibility(chromium, page, width):
    """axe-core reports no violation in any view, light and dark, in both languages."""
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
            for place in ("#/", "#/answer", *layers, *stops.values(), *layers):  # then backward
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
