"""Matplotlib figures of a model applied to an image: attention, attention biases, filters, feature maps.

Each function takes (model, image) and returns a figure, which a notebook shows and `figure.savefig("a.png")` writes.
image: anything model.predict accepts, or one prepared image (C, H, W) of the model's dtype.
"""

import operator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Iterator

import numpy as np

from .errors import LevitError
from .layers.attention import Attention, ShrinkingAttention
from .layers.stem import ConvBN
from .storage.atomic import replacing

_ATTENTION, _SIGNED, _IMAGE = "inferno", "RdBu_r", "gray"


def attention(model, image, layer: str | None = None, query: tuple[int, int] | None = None, head: int | None = None):
    """Where one pixel looks: the image with the query marked and, for each head, how much of the query's attention goes
    to each pixel (a row of softmax(QKᵀ/√D + B), which sums to 1).

    layer: an attention's name, such as stages.1.downsample.attention (default: the first); query: (row, column) among
    the layer's queries (default: the middle); head: show only this one. Raises LevitError for a layer, query or head
    that does not exist, and for attention that is not finite."""
    x, name, module = _prepared(model, image), *_attention_layer(model, layer)
    queries, keys = _grids(module)
    row, column = _place(query, queries, name)
    heads = range(module.heads) if head is None else [_within("head", head, module.heads)]
    maps = _maps(model, x, name)
    # Skip the class token, which comes before the pixels, if there is one.
    token_q, token_k = maps.shape[1] - queries[0] * queries[1], maps.shape[2] - keys[0] * keys[1]
    shares = maps[:, token_q + row * queries[1] + column, token_k:].reshape(-1, *keys)
    step = getattr(module, "stride", 1)
    title = f"{name}: where query ({row}, {column}) of {queries[0]}×{queries[1]} looks"
    figure, panels = _panels(len(heads) + 1, title)
    pixels, grey = _pixels(model, x), _pixels(model, x).mean(-1)
    _show(panels[0], pixels, "the image, the query marked")
    for panel, h in zip(panels[1:], heads):
        _heat(panel, shares[h], grey, f"head {h}")
    for panel in panels:
        _outline(panel, row * step, column * step, keys, grey.shape)
    _scale(figure, panels)
    return figure


def attention_heads(model, image, layer: str | None = None):
    """What each head looks at over the whole image: the image, and for each pixel the attention that it receives, as a
    mean over all queries; without any preference it would be 1/Nk everywhere.

    layer: an attention's name (default: the first). Raises LevitError for a layer that does not exist, and for
    attention that is not finite."""
    x, name, module = _prepared(model, image), *_attention_layer(model, layer)
    _, keys = _grids(module)
    maps = _maps(model, x, name)
    received = maps.mean(1)[:, maps.shape[2] - keys[0] * keys[1] :].reshape(-1, *keys)
    title = f"{name}: how much attention each pixel receives, mean over all queries"
    figure, panels = _panels(len(received) + 1, title)
    grey = _pixels(model, x).mean(-1)
    _show(panels[0], _pixels(model, x), "the image")
    for h, (panel, plane) in enumerate(zip(panels[1:], received)):
        _heat(panel, plane, grey, f"head {h}")
    _scale(figure, panels)
    return figure


def bias_maps(model, image=None, layer: str | None = None):
    """The learned attention bias B of each head, as in the paper's Figure 6: a map over the offset between query and
    key, |Δx| to the right, |Δy| downwards; the corner is a pixel's bias to itself. It does not depend on the image.

    layer: an attention's name (default: the first). Raises LevitError for a layer or a bias that does not exist."""
    name, module = _attention_layer(model, layer)
    if module.bias is None:
        raise LevitError(f"{name}: expected an attention bias, found none in {model.config.name}")
    table = model.ops.to_host(module.bias.table).reshape(module.heads, *module.bias.grid)
    largest = np.abs(table).max()
    title = f"{name}: attention bias by distance, from {table.min():.2f} to {table.max():.2f}"
    if not largest:
        title = f"{name}: untrained, the attention bias starts at 0 everywhere"
    figure, panels = _panels(module.heads, title)
    for h, (panel, plane) in enumerate(zip(panels, table)):
        heat = panel.imshow(plane, cmap=_SIGNED, vmin=-(largest or 1), vmax=largest or 1)
        panel.set_title(f"head {h}", fontsize=9)
        panel.set_xlabel("|Δx|", fontsize=8)
        panel.set_ylabel("|Δy|", fontsize=8)
        panel.set(xticks=_ticks(plane.shape[1]), yticks=_ticks(plane.shape[0]))
        panel.tick_params(labelsize=7)
    figure.colorbar(heat, ax=panels, label="added to the score", shrink=0.8)
    return figure


def filters(model, image=None, layer: int = 0):
    """The filters of a convolution of the stem (default: the first, which reads the pixels), each scaled to its own
    range; for other than 1 or 3 input channels, the mean over them. They do not depend on the image.

    Raises LevitError for a convolution that does not exist."""
    convolutions = [module for _, module in model.walk() if isinstance(module, ConvBN)]
    weight = model.ops.to_host(convolutions[_within("layer", layer, len(convolutions))].weight)  # (O, C, K, K)
    shown = weight if weight.shape[1] in (1, 3) else weight.mean(1, keepdims=True)
    kind = {1: "grey", 3: "colour"}.get(weight.shape[1], f"mean of {weight.shape[1]} channels")
    size = f"{weight.shape[2]}×{weight.shape[3]}"
    title = f"stem.convolutions.{layer}: {len(shown)} filters {size}, {kind}, each in its own range"
    figure, panels = _panels(len(shown), title, columns=_columns(len(shown)), size=0.7, above=0)
    for panel, one in zip(panels, shown):
        low, high = one.min(), one.max()
        panel.imshow(np.broadcast_to(((one - low) / ((high - low) or 1)).transpose(1, 2, 0), (*one.shape[1:], 3)))
    return figure


def features(model, image, channels: int = 8):
    """The feature maps after each stage, one row per stage: the mean absolute value over all channels, then the
    channels that vary most from pixel to pixel. Raises LevitError for fewer than one channel."""
    x, maps = _prepared(model, image), None
    if not isinstance(channels, (int, np.integer)) or channels < 1:
        raise LevitError(f"channels: expected a whole number from 1, found {channels!a:.100}")
    maps = {name: found[0] for name, found in model.features(x[None]).items() if name != "pooled"}
    channels = min(channels, *(len(found) for found in maps.values()))
    title = "feature maps after each stage: the channels that vary most, red above 0, blue below"
    figure, panels = _panels((channels + 2) * len(maps), title, columns=channels + 2, size=1.25)
    pixels = _pixels(model, x)
    for row, (name, found) in zip(np.array(panels).reshape(len(maps), -1), maps.items()):
        _show(row[0], pixels, "the image")
        height, width = found.shape[1:]
        _show(row[1], np.abs(found).mean(0), f"{name}\n{height}×{width}, mean |·|", cmap="viridis")
        chosen = np.argsort(-found.std((1, 2)), kind="stable")[:channels]
        largest = np.abs(found[chosen]).max() or 1
        for panel, channel in zip(row[2:], chosen):
            _show(panel, found[channel], f"channel {channel}", cmap=_SIGNED, vmin=-largest, vmax=largest)
    return figure


def write_all(model, image, folder) -> Iterator[Path]:
    """Writes every picture as a PNG into a folder, which is created if missing, and yields each path when written.

    image: as above, or prepared (C, H, W). For each attention layer: where its middle query looks, what its heads look
    at, its bias."""
    folder, x = Path(folder), _prepared(model, image)
    _figure_class()  # raises without Matplotlib, before the folder is created
    folder.mkdir(parents=True, exist_ok=True)
    for name, (function, options) in pictures(model).items():
        path = folder / f"{name}.png"
        with without_latex():
            figure = function(model, x, **options)
            with replacing(path) as file:
                figure.savefig(file, format="png", dpi=120)
        yield path


def pictures(model) -> dict[str, tuple]:
    """{name: (function, options)} of all pictures that write_all writes."""
    found = {"filters": (filters, {}), "features": (features, {})}
    for name in attention_names(model):
        options = {"layer": name}
        found |= {f"attention.{name}": (attention, options), f"attention_heads.{name}": (attention_heads, options)}
        if _attention_layer(model, name)[1].bias:
            found[f"bias_maps.{name}"] = bias_maps, options
    return found


def attention_names(model) -> list[str]:
    """The names of a model's attention layers, in the order of computation."""
    return [name for name, module in model.walk() if isinstance(module, (Attention, ShrinkingAttention))]


def _prepared(model, image) -> np.ndarray:
    if isinstance(image, np.ndarray) and image.dtype == model.dtype:
        model._check_one(image)
        return image
    return model.prepare(image)


def _attention_layer(model, name: str | None):
    """(name, layer).  Raises LevitError, listing the layers, for an unknown name."""
    there = attention_names(model)
    name = there[0] if name is None else name
    if name not in there:
        raise LevitError(f"layer: expected one of {', '.join(there)}, found {name!a:.100}")
    return name, dict(model.walk())[name]


def _maps(model, x, name: str) -> np.ndarray:
    """The attention of one layer, (heads, Nq, Nk).  Raises LevitError if it is not finite."""
    maps = model.attention_maps(x[None])[name][0]
    if not np.isfinite(maps).all():
        raise LevitError(f"{name}: expected attention in finite numbers, found NaN: the image or the weights have "
                         "some, or numbers that overflow")
    return maps


def _grids(module) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the queries and of the keys."""
    stride = getattr(module, "stride", 1)
    return tuple(-(-n // stride) for n in module.grid), tuple(module.grid)


def _place(query, grid, name) -> tuple[int, int]:
    if query is None:
        return grid[0] // 2, grid[1] // 2
    try:
        row, column = map(operator.index, query)
    except (TypeError, ValueError):  # not two numbers, or not whole
        row, column = -1, -1
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise LevitError(f"query: expected (row, column) below {grid} in {name}, found {query!a:.100}")
    return row, column


def _within(what: str, number: int, count: int) -> int:
    if not isinstance(number, (int, np.integer)) or not 0 <= number < count:
        raise LevitError(f"{what}: expected a number from 0 to {count - 1}, found {number}")
    return number


def _pixels(model, x: np.ndarray) -> np.ndarray:
    """A prepared image (C, H, W) as colours (H, W, 3) from 0 to 1: by undoing the model's normalisation, else by
    stretching its own range."""
    known = model.preprocessing
    if known is not None and len(known.mean) == len(x):
        x = x * np.array(known.std)[:, None, None] + np.array(known.mean)[:, None, None]
    else:
        x = (x - x.min()) / ((x.max() - x.min()) or 1)
    x = x if len(x) == 3 else x.mean(0, keepdims=True)
    return np.broadcast_to(np.clip(x, 0, 1).transpose(1, 2, 0), (*x.shape[1:], 3))


def require_matplotlib(picture: str, extra: str) -> type:
    """Matplotlib's Figure class.  Raises LevitError, naming the picture and the extra to install, without
    Matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise LevitError(f"{picture}: expected matplotlib, found none; pip install 'levit_np[{extra}]'") from None
    except ValueError as error:  # MPLBACKEND or matplotlibrc names an unknown backend
        raise LevitError(f"{picture}: matplotlib does not start: {error}") from None
    return Figure


def without_latex():
    """A context manager around drawing: Matplotlib sets the text itself, whatever the user's matplotlibrc says.  LaTeX
    may not be installed, and _ and % are commands of it."""
    from matplotlib import rc_context

    return rc_context({"text.usetex": False})


@cache
def _figure_class():
    """A Matplotlib figure class that notebooks display without pyplot and its global state."""

    class Picture(require_matplotlib("plot", "plot")):
        def _repr_png_(self):
            buffer = BytesIO()
            self.savefig(buffer, format="png", dpi=100)
            return buffer.getvalue()

    return Picture


def _ticks(size: int) -> list[int]:
    """The first, the middle and the last index."""
    return sorted({0, (size - 1) // 2, size - 1})


def _columns(count: int) -> int:
    """The number of columns for a grid about twice as wide as high."""
    return min(count, max(1, int(np.ceil(np.sqrt(2 * count)))))


def _panels(count: int, title: str, columns: int | None = None, size: float = 2.3,
            above: float = 0.45):
    """(figure, `count` axes without ticks), in rows; each is `size` inches wide, with `above` inches for its title."""
    columns = columns or (count if count <= 5 else -(-count // 2) if count <= 10 else 6)
    rows = -(-count // columns)
    figure = _figure_class()(figsize=(max(5, columns * size + 1), rows * (size + above) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10, wrap=True)  # wrapped, as a figure of one head is narrower than its title
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for panel in panels[count:]:
        panel.set_axis_off()
    for panel in panels[:count]:
        panel.set(xticks=[], yticks=[])
        for side in panel.spines.values():
            side.set(edgecolor="0.7", linewidth=0.5)
    return figure, panels[:count]


def _show(panel, plane, title: str, **options):
    panel.imshow(plane, **options)
    panel.set_title(title, fontsize=8)


def _heat(panel, shares, grey, name: str):
    """Draws a head's attention over the image, from 0 to its largest value; the title gives that value, and 1/N, the
    value of uniform attention."""
    size, largest = grey.shape, shares.max() or 1
    panel.imshow(grey, cmap=_IMAGE, vmin=-0.3, vmax=1.3)
    panel.imshow(shares, cmap=_ATTENTION, vmin=0, vmax=largest, alpha=0.2 + 0.7 * shares / largest,
                 extent=(-0.5, size[1] - 0.5, size[0] - 0.5, -0.5), interpolation="nearest")
    panel.set_title(f"{name}: up to {largest:.1%}\n(even: {1 / shares.size:.1%})", fontsize=8)


def _scale(figure, panels):
    """Adds one colour bar for all heads, each of which has its own range."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(cmap=_ATTENTION), ax=panels[1:], shrink=0.7, aspect=25, ticks=[0, 1])
    bar.ax.set_yticklabels(["0", "the head's\nlargest"], fontsize=8)


def _outline(panel, row: int, column: int, grid, size):
    """Draws a rectangle around one cell of a grid (height, width) over an image."""
    from matplotlib.patches import Rectangle

    height, width = size[0] / grid[0], size[1] / grid[1]
    panel.add_patch(Rectangle((column * width - 0.5, row * height - 0.5), width, height, fill=False, edgecolor="cyan",
                              linewidth=1.5))
