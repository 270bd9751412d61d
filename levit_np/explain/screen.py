"""Shows one stop of the walk as lines of text: position, formula, numbers, source code and a picture."""

import textwrap
from dataclasses import dataclass

import numpy as np
from rich.text import Text

from ..errors import shown
from ..ops.reference import softmax
from . import operations, reasons
from .ask import arrays_at
from .inside import function_named
from .operations import PACKAGE, Source
from .values import exact, histogram, number, picture, plane_of, statistics, table
from .walk import Stop, Walk

PICTURE_WIDTH = 24  # leaves 54 columns for the source
# Replacements for output that is limited to ASCII.
_ASCII = str.maketrans(dict(zip("→←↑↓▪▾×·…∗ᵀΣΔσε₀₁⌊⌋\u0302", "><^v#vx*~*TSdse01[]^")) | {"½": "1/2", "√": "sqrt "})


@dataclass(frozen=True)
class Page:
    """The output: its size (height None: as long as needed) and what it can show."""

    width: int = 80
    height: int | None = None
    colour: bool = False
    unicode: bool = True


@dataclass
class View:
    """What is displayed of a stop: which of its arrays as the picture (None: the result), which plane of that array,
    and the value that was asked for."""

    array: int | None = None
    plane: int = 0
    asked: tuple[str, np.ndarray] | None = None


def show(walk: Walk, stop: Stop, view: View, page: Page, labels=()) -> list[Text]:
    """The lines of a stop, none wider than the page; if the page has a height, exactly that many."""
    arrays = arrays_at(stop, walk)
    head = [_title(walk, stop, page), _map(walk, stop), _name(stop), *_formula(stop, page)]
    head += _shapes(stop, page) + _planned(walk, stop, page)
    reason = _reason(stop, page.width)
    head += reason[: 3 if page.height else None]
    head += [Text(line, "bold") for line in _notes(walk, stop, labels)]
    numbers = _numbers(arrays, stop, view, page)
    if page.height:  # a line for the rule, six for source and picture
        room = max(4, page.height - len(head) - 7)
        if len(numbers) > room:  # leave out inputs before results, which are marked ">"
            numbers[1:] = sorted(numbers[1:], key=lambda line: not line.plain.startswith(">"))
            numbers = numbers[: room - 1] + [Text(f"… and {len(numbers) - room + 1} more lines: v NAME", "dim")]
    lines = head + numbers
    left = page.height - len(lines) - 1 if page.height else None
    if left is None or left > 0:
        if view.asked:
            below, caption = _answer(view, page, left)
        else:
            below, caption = _source_and_picture(walk, stop, view, arrays, page, left)
        lines += [_rule(caption, page), *below]
    if page.height:
        lines = lines[: page.height] + [Text()] * (page.height - len(lines))
    return [fitted(line, page) for line in lines]


def fitted(line: Text, page: Page) -> Text:
    """The line in characters that the page can show, truncated to its width."""
    if not page.unicode:
        line.plain = line.plain.translate(_ASCII)
    line.truncate(page.width)
    return line


def _rule(caption: str, page: Page) -> Text:
    """────────── caption ─"""
    dash = "─" if page.unicode else "-"
    caption = f" {caption} "[: page.width - 4] if caption else ""
    return Text(dash * (page.width - 1 - len(caption)) + caption + dash, "dim")


def _title(walk: Walk, stop: Stop, page: Page) -> Text:
    left = f" levit-np step  {walk.trace.about}  {walk.trace.config.name}"
    right = f"{stop.direction}  {stop.place}/{len(walk.stops)} "
    left = left[: max(0, page.width - len(right) - 1)]
    return Text(left + " " * max(1, page.width - len(left) - len(right)) + right, "reverse")


def _map(walk: Walk, stop: Stop) -> Text:
    """image → stem → 1 ▪▪ → 2 ▾▪▪ → …: a mark per block, ▾ for shrinking; the current position in brackets."""
    config, places = walk.trace.config, [("image", None), ("stem", ["stem"])]
    for i, stage in enumerate(config.stages):
        shrink = [("▾", [f"stages.{i}.downsample"])] if i else []
        blocks = [("▪", [f"stages.{i}.blocks.{j}"]) for j in range(stage.depth)]
        places.append((f"{i + 1} ", [f"stages.{i}"], shrink + blocks))
    pooling = "average_pool" if config.pooling == "average" else "first_token"
    places += [("mean" if config.pooling == "average" else "token", [pooling, f"{pooling}_backward"]),
               ("heads" if config.distillation else "head", ["head", "head_dist"]), ("loss", ["loss"])]
    text, arrow = Text(), " → " if stop.direction == "forward" else " ← "
    for label, names, *parts in places:
        text.append(arrow if text else "", "dim")
        marks = parts[0] if parts else []
        within = any(_at(stop, inner) for _, inner in marks)
        _mark(text, label, names is not None and not within and _at(stop, names))
        for mark, inner in marks:
            _mark(text, mark, _at(stop, inner))
    return text


def _at(stop: Stop, names: list[str]) -> bool:
    return any(stop.name == name or stop.name.startswith(f"{name}.") for name in names)


def _mark(text: Text, label: str, here: bool):
    text.append(f"[{label.strip()}]" if here else label, "bold reverse" if here else "")


def _name(stop: Stop) -> Text:
    kind = f"line {stop.record.number} of {stop.kind}" if stop.is_line else stop.kind
    return Text.assemble((stop.name or "the network", "bold"), f"  {kind}")


def _formula(stop: Stop, page: Page) -> list[Text]:
    text = stop.formula if page.unicode else stop.formula.translate(_ASCII)  # before wrapping, as it may get longer
    if stop.direction == "backward" and stop.operation is None and stop.kind not in ("CrossEntropy", "Distillation"):
        text = f"backward of  {text}"
    wrapped = textwrap.wrap(text, page.width - 2, initial_indent="  ", subsequent_indent="    ")
    return [Text(line, "magenta") for line in wrapped]


def _shapes(stop: Stop, page: Page) -> list[Text]:
    """The shapes from the docstring; on a screen only if they fit in one line, as the table shows the actual ones."""
    if stop.is_line or not stop.shapes:
        return []
    lines = textwrap.wrap(f"shapes: {stop.shapes}", page.width - 2, initial_indent="  ", subsequent_indent="    ")
    return [Text(line, "dim") for line in lines] if page.height is None or len(lines) == 1 and page.height > 20 else []


def _planned(walk: Walk, stop: Stop, page: Page) -> list[Text]:
    """What fast evaluation computes instead; on a screen only if there is room."""
    formula = walk.planned(stop)
    if not formula or page.height is not None and page.height <= 20:
        return []
    lines = textwrap.wrap(f"plan: {formula}", page.width - 2, initial_indent="  ", subsequent_indent="    ")
    return [Text(line, "dim") for line in lines]


def _reason(stop: Stop, width: int) -> list[Text]:
    if stop.is_line:
        times = stop.record.times
        text = (f"Ran {times} times; the values are those of the last. " if times > 1 else "")
        text += f"It calls {', '.join(call.op for call in stop.record.calls)}: s goes in." if stop.record.calls else ""
    elif stop.is_operation:
        text = reasons.of_operation(stop.kind)
    else:
        text = reasons.of_layer(stop.name, stop.kind, stop.direction)
    return [Text(line, "italic") for line in textwrap.wrap(text, width)]


def _notes(walk: Walk, stop: Stop, labels) -> list[str]:
    """The predicted classes at the network's stop, the loss at the loss's."""
    trace = walk.trace
    if stop.name == "" and stop.direction == "forward":
        shares = softmax(trace.logits[0].astype(np.float64))
        best = np.argsort(-shares, kind="stable")[:3]
        return ["It answers: " + ", ".join(f"{_label(labels, i)} {shares[i]:.2%}" for i in best)]
    if stop.name == "loss" and stop.record is None:
        teacher = f", the teacher says {_label(labels, trace.teacher[0])}" if trace.teacher else ""
        return [f"loss = {exact(trace.loss)}, for the target {_label(labels, trace.target[0])}{teacher}"]
    return []


def _label(labels, i) -> str:
    label = labels[i] if i < len(labels) else f"class {i}"
    return shown(label)[:30]


def _numbers(arrays: dict, stop: Stop, view: View, page: Page) -> list[Text]:
    """A row per array, with the results marked, and a line with the values that are not arrays."""
    made, shown = _made(stop), _pictured(arrays, stop, view)
    fit = min(4, max(0, (page.width - 31) // 10))  # whole columns only: a truncated number would be a wrong number
    titles = " ".join(f"{title:>9}" for title in ("min", "mean", "max", "std")[:fit])
    lines = [Text(f"  {'':13} {'shape':15} {titles} values", "dim")]
    for name, array in arrays.items():
        found = statistics(array)
        numbers = [number(value) for value in found] if found else ["-"] * 4
        shape = "×".join(map(str, array.shape)) or "a number"
        bars = histogram(array) if page.unicode else ""
        broken = "" if array.dtype.kind != "f" or np.isfinite(array).all() else " not all finite!"
        mark, columns = ">" if name in made else " ", " ".join(f"{n:>9}" for n in numbers[:fit])
        row = f"{mark} {name:13.13} {shape:15} {columns} {bars}{broken}"
        lines.append(Text(row, "bold" if name == shown else ""))
    plain = _plain_values(stop)
    if plain:
        lines += [Text(line) for line in textwrap.wrap("  " + "   ".join(plain), page.width, subsequent_indent="  ")]
    return lines


def _made(stop: Stop) -> list[str]:
    """The names of a stop's results."""
    if stop.is_line:
        return [*stop.record.values, *(f"{key}.{i}" for key, value in stop.record.values.items()
                                       if isinstance(value, (tuple, list)) for i in range(len(value)))]
    if stop.is_operation:
        return list(stop.record.outputs)
    if stop.record is None:
        return [name for part in stop.parts for name in part.record.outputs]
    return ["output"] if stop.direction == "forward" else ["dinput", *(f"d{key}" for key in stop.record.gradients)]


def _pictured(arrays: dict, stop: Stop, view: View) -> str | None:
    """The name of the array to show as the picture: the chosen one, else the first result, else any."""
    names = list(arrays)
    if view.array is not None and names:
        return names[view.array % len(names)]
    if stop.is_operation and stop.kind == "attention" and "probabilities" in names:
        return "probabilities"
    if stop.name == "" and stop.direction == "forward":
        return "input"
    made = [name for name in _made(stop) if name in arrays]
    return made[0] if made else names[-1] if names else None


def _plain_values(stop: Stop) -> list[str]:
    """`name = value` of everything that is not an array: strides, sizes, eps."""
    values = {}
    if stop.is_line:
        values = stop.record.values
    elif stop.is_operation:
        values = stop.record.inputs | stop.record.outputs
    elif stop.record is None:
        calls = [part.record.inputs | part.record.outputs for part in stop.parts]
        values = {key: value for call in calls for key, value in call.items()}
    return [f"{key} = {value if isinstance(value, str) else exact(value)}" for key, value in values.items()
            if not isinstance(value, (np.ndarray, list)) and not
            (isinstance(value, tuple) and any(isinstance(part, np.ndarray) for part in value))]


def _answer(view: View, page: Page, height: int | None) -> tuple[list[Text], str]:
    """The value that was asked for: its shape, statistics and numbers."""
    question, value = view.asked
    value = np.asarray(value)
    found = statistics(value) if value.ndim else None
    text = f"{question} =" if value.ndim == 0 else f"{question}: shape {value.shape}, {value.dtype}"
    if found:
        text += "".join(f", {what} {number(n)}" for what, n in zip(("min", "mean", "max", "std"), found))
    head = [Text(line, "bold") for line in textwrap.wrap(text, page.width)]
    return [*head, *map(Text, table(value, page.width, max(1, (height or 16) - len(head))))], "asked for"


def _source_and_picture(walk: Walk, stop: Stop, view: View, arrays: dict, page: Page,
                        height: int | None) -> tuple[list[Text], str]:
    """The source and the picture side by side, and the picture's caption."""
    right, caption = _picture(walk, stop, view, arrays, page, height or 14)
    widest = max((line.cell_len for line in right), default=0)
    left_width = page.width - (widest + 2 if right else 0)
    left = _source(stop, left_width, height)
    lines = []
    for i in range(max(len(left), len(right))):
        line = Text().append_text(left[i] if i < len(left) else Text())  # its style ends where the picture begins
        if i < len(right):
            line.truncate(left_width)
            line.pad_right(left_width + 2 - line.cell_len)
            line.append(right[i])
        lines.append(line)
    return lines, caption


def _picture(walk: Walk, stop: Stop, view: View, arrays: dict, page: Page, height: int) -> tuple[list[Text], str]:
    name = _pictured(arrays, stop, view)
    if name is None or not arrays[name].size or height < 2:
        return [], ""
    array = arrays[name]
    width = min(max(PICTURE_WIDTH, page.width // 3), 60, page.width // 2)  # on a narrow page the source needs room too
    if array is walk.trace.x and view.plane == 0 and array.shape[1] in (1, 3):
        plane, caption = _as_colours(array[0]), "the image"
    else:
        # A bias (heads, Nq, Nk) has as many axes as tokens, but its first axis is not the images'.
        grids = walk.trace.config.resolutions if len(array) == len(walk.trace.x) else ()
        plane, caption, planes = plane_of(name, array, view.plane, grids)
        finite = plane[np.isfinite(plane)]
        caption += f", all {number(finite[0])}" if finite.size and finite.min() == finite.max() else ""
        caption += f", one of {planes}: + -" if planes > 1 else ""
    return picture(plane, width, height, page.colour and page.unicode, not page.unicode), caption


def _as_colours(image: np.ndarray) -> np.ndarray:
    """A normalised image (C, H, W) -> (H, W, 3), its range stretched to 0 to 1."""
    low, high = image.min(), image.max()
    plane = ((image - low) / ((high - low) or 1)).transpose(1, 2, 0)
    return np.broadcast_to(plane, (*plane.shape[:2], 3))


def _source(stop: Stop, width: int, height: int | None) -> list[Text]:
    """The source with the current line marked: the operation's for a line, the caller's for a call."""
    if stop.is_line:
        return _listing(operations.source_of(function_named(stop.kind)), stop.record.number, width, height)
    if stop.is_operation:
        own, caller = stop.record.source, stop.record.caller
        above = _listing(caller, stop.record.line, width, 4 if height is None or height >= 10 else 2)
        left = None if height is None else max(1, height - len(above))
        return above + _listing(own, None, width, left)
    if stop.record is not None and stop.parent is not None:
        return _listing(operations.layer_source(stop.parent.kind, stop.direction), stop.record.line, width, height)
    if stop.name and stop.record is not None:  # a part of the network
        return _listing(operations.layer_source("LeViT", stop.direction), stop.record.line, width, height)
    return _listing(operations.layer_source(stop.kind, stop.direction), None, width, height)


def _listing(source: Source, marked: int | None, width: int, height: int | None) -> list[Text]:
    """The file's name, then the lines without the docstring; if they do not all fit, those around the marked one."""
    rows = list(enumerate(source.lines, source.first))
    rows = _without_docstring(rows)
    room = len(rows) if height is None else max(1, height - 1)
    place = next((i for i, (n, _) in enumerate(rows) if n == marked), 0)
    start = max(0, min(place - room // 2, len(rows) - room))
    indent = len(rows[0][1]) - len(rows[0][1].lstrip())
    lines = [Text(f"{PACKAGE.name}/{source.file}", "dim")]
    for n, code in rows[start : start + room]:
        if n != marked:
            lines.append(Text(f" {n:4} {code[indent:]}"[:width]))
            continue
        text = f"→{n:4} {code[indent:]}"  # shown whole, wrapped if needed; without its comment if it is too long
        text = text if len(text) <= width else text.partition("  # ")[0]
        later = " " * (8 + len(code) - indent - len(code.lstrip()) + indent)
        lines += [Text(part, "reverse") for part in textwrap.wrap(text, width, subsequent_indent=later)]
    return lines


def _without_docstring(rows: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The rows of a function without those of its docstring, as the formula is shown separately."""
    start = next((i for i, (_, code) in enumerate(rows) if code.lstrip().startswith('"""')), None)
    if start is None:
        return rows
    end = start if rows[start][1].count('"""') > 1 else next(
        i for i in range(start + 1, len(rows)) if '"""' in rows[i][1])
    return rows[:start] + rows[end + 1 :]
