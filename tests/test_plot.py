"""The pictures show the model's own numbers; what does not exist is refused; all of them can be written as PNG."""

import builtins
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import levit_np
from levit_np import plot
from levit_np.config import Stage

from .ops.cuda.conftest import compiled, emulators, one  # noqa: F401  (fixtures)
from .random_model import random_images, random_model

ROOT = Path(__file__).resolve().parent.parent
IMAGE = str(ROOT / "weights/samples/digit_3.png")


@pytest.fixture(scope="module")
def digits():
    return levit_np.load(ROOT / "weights/levit_digits.h5", backend="reference")


def planes(figure):
    """The last image drawn in each panel."""
    return [np.asarray(axes.images[-1].get_array()) for axes in figure.axes if axes.images]


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


@pytest.mark.parametrize("layer, query, grid", [(None, None, (8, 8)), ("stages.1.downsample.attention", (0, 3), (4, 4)),
                                                ("stages.2.blocks.0.attention", (1, 0), (2, 2))])
def test_attention_shows_the_models_numbers(digits, layer, query, grid):
    figure = plot.attention(digits, IMAGE, layer, query)
    x = digits.prepare(IMAGE)[None]
    name = layer or "stages.0.blocks.0.attention"
    row, column = query or (4, 4)
    shares = digits.attention_maps(x)[name][0][:, row * grid[1] + column]
    assert f"{name}: where query ({row}, {column}) of {grid[0]}×{grid[1]}" in figure.get_suptitle()
    image, *heads = planes(figure)
    assert image.shape == (32, 32, 3) and len(heads) >= len(shares)
    for plane, expected, title in zip(heads, shares, titles(figure)[1:]):
        assert np.array_equal(plane.ravel(), expected)
        assert title.endswith(f"up to {expected.max():.1%}\n(even: {1 / expected.size:.1%})")
    marked = figure.axes[0].patches[0]
    step = 32 / (grid[0] if "downsample" not in name else 8)
    assert (marked.get_x(), marked.get_y()) == ((column * (2 if "downsample" in name else 1)) * step - 0.5,
                                                (row * (2 if "downsample" in name else 1)) * step - 0.5)


def test_the_image_is_as_it_was_before_it_was_normalised(digits):
    grey = np.asarray(Image.open(IMAGE).convert("L")) / 255
    shown = plot.attention(digits, IMAGE).axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, np.repeat(grey[..., None], 3, 2), atol=1e-6)
    # Without a known preprocessing, the smallest number is black and the largest white.
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    expected = (x - x.min()) / (x.max() - x.min())
    unknown = SimpleNamespace(preprocessing=None)
    np.testing.assert_allclose(plot._pixels(unknown, x), expected.transpose(1, 2, 0))
    assert not plot._pixels(unknown, np.ones((1, 4, 5))).any()
    # Other numbers of channels are averaged; values outside of an image's range are clipped.
    x = np.linspace(0, 1, 100).reshape(5, 4, 5)
    np.testing.assert_allclose(plot._pixels(unknown, x), np.repeat(x.mean(0)[..., None], 3, 2))
    assert set(np.unique(plot._pixels(digits, np.array([[[-9.0, 9.0]]])))) == {0, 1}


def test_grids_that_are_not_square():
    """22×40 pixels give 6×10 tokens, then 3×5, which are attended to by 2×3."""
    model = random_model("levit_digits", image_size=(22, 40), backend="reference")
    x, name = random_images(model, 1)[0], "stages.2.downsample.attention"
    maps = model.attention_maps(x[None])[name][0].reshape(-1, 2, 3, 3, 5)
    figure = plot.attention(model, x, name)
    assert f"{name}: where query (1, 1) of 2×3 looks" in figure.get_suptitle()
    for axes, plane in zip(figure.axes[1 : 1 + len(maps)], maps[:, 1, 1], strict=True):
        assert np.array_equal(axes.images[-1].get_array(), plane)
        assert tuple(axes.images[-1].get_extent()) == (-0.5, 39.5, 21.5, -0.5)
    marked = figure.axes[0].patches[0]
    height, width = 22 / 3, 40 / 5
    np.testing.assert_allclose((marked.get_x(), marked.get_y(), marked.get_width(), marked.get_height()),
                               (2 * width - 0.5, 2 * height - 0.5, width, height))
    assert np.array_equal(planes(plot.attention(model, x, name, (1, 2)))[1], maps[0, 1, 2])
    with pytest.raises(levit_np.LevitError, match=r"expected \(row, column\) below \(2, 3\)"):
        plot.attention(model, x, name, (2, 1))
    received = planes(plot.attention_heads(model, x, name))[1:]
    for plane, expected in zip(received, maps.mean((1, 2))):
        np.testing.assert_allclose(plane, expected, rtol=1e-5)


def test_one_head(digits):
    shares = digits.attention_maps(digits.prepare(IMAGE)[None])["stages.0.blocks.0.attention"][0][2, 8 * 1 + 5]
    found = planes(plot.attention(digits, IMAGE, query=(1, 5), head=2))
    assert np.array_equal(found[1].ravel(), shares)
    assert [title[:6] for title in titles(plot.attention(digits, IMAGE, head=0))[1:]] == ["head 0", ""]


def test_a_class_token_is_not_shown_as_a_pixel():
    model = random_model("deit_tiny", image_size=(32, 48), num_classes=4, backend="reference")
    x = random_images(model, 1)[0]
    maps = model.attention_maps(x[None])["stages.0.blocks.3.attention"][0]
    assert maps.shape == (3, 7, 7)
    shares = planes(plot.attention(model, x, "stages.0.blocks.3.attention", (1, 2)))[1:]
    assert all(np.array_equal(plane.ravel(), maps[h, 1 + 5, 1:]) for h, plane in enumerate(shares[:3]))
    received = planes(plot.attention_heads(model, x, "stages.0.blocks.3.attention"))[1:]
    assert np.allclose(received[1].ravel(), maps[1].mean(0)[1:])
    with pytest.raises(levit_np.LevitError, match="expected an attention bias, found none in deit_tiny"):
        plot.bias_maps(model)
    assert not any(name.startswith("bias_maps") for name in plot.pictures(model))


def test_bias_maps_show_the_tables(digits):
    figure = plot.bias_maps(digits, layer="stages.1.downsample.attention")
    table = digits.state()["stages.1.downsample.attention.bias.table"]
    assert [np.array_equal(plane.ravel(), row) for plane, row in zip(planes(figure), table)] == [True] * 4
    assert f"from {table.min():.2f} to {table.max():.2f}" in figure.get_suptitle()
    fresh = levit_np.create("levit_256", backend="reference")
    figure = plot.bias_maps(fresh)
    assert "untrained, the attention bias starts at 0 everywhere" in figure.get_suptitle()
    assert planes(figure)[0].shape == (14, 14) and titles(figure)[:4] == [f"head {h}" for h in range(4)]


def test_filters(digits):
    weight = digits.state()["stem.convolutions.0.weight"]
    found = planes(plot.filters(digits))
    one = (weight[7, 0] - weight[7].min()) / (weight[7].max() - weight[7].min())
    assert len(found) == 32 and np.allclose(found[7][..., 0], one) and found[7].shape == (3, 3, 3)
    second = plot.filters(digits, layer=1)
    one = digits.state()["stem.convolutions.1.weight"][5].mean(0)
    assert "mean of 32 channels" in second.get_suptitle()
    np.testing.assert_allclose(planes(second)[5][..., 0], (one - one.min()) / (one.max() - one.min()), atol=1e-6)
    colour = levit_np.create("levit_128s", backend="reference")
    assert "16 filters 3×3, colour" in plot.filters(colour).get_suptitle()


def test_the_weights_may_be_on_the_gpu(digits, one, monkeypatch):  # noqa: F811
    """They are copied to the host, as Matplotlib cannot read them on the GPU."""
    model, brought = digits.to("cuda"), []
    to_host = model.ops.to_host
    monkeypatch.setattr(model.ops, "to_host", lambda array: brought.append(array.shape) or to_host(array))
    for function, shape in ((plot.bias_maps, (3, 64)), (plot.filters, (32, 1, 3, 3))):
        for ours, theirs in zip(planes(function(model)), planes(function(digits)), strict=True):
            assert np.array_equal(ours, theirs)
        assert brought.pop() == shape and not brought


def test_features(digits):
    figure = plot.features(digits, IMAGE, channels=3)
    found, maps = planes(figure), digits.features(digits.prepare(IMAGE)[None])
    assert len(found) == 3 * 5 and np.allclose(found[6], np.abs(maps["stage2"][0]).mean(0))
    channel = int(titles(figure)[2].removeprefix("channel "))
    assert channel == maps["stage1"][0].std((1, 2)).argmax() and np.array_equal(found[2], maps["stage1"][0, channel])
    model = random_model("levit_digits", stages=(Stage(3, 1, 1),), stem=[[3, 3, 4]], backend="reference")
    assert len(plot.features(model, random_images(model, 1)[0]).axes) == 2 + 3  # there are only three channels


def test_a_title_fits_a_narrow_figure():
    """Figures of one head and of one channel."""
    model = random_model("levit_digits", stages=(Stage(64, 1, 1), Stage(80, 1, 1, 1)), backend="reference")
    layer = {"layer": "stages.1.downsample.attention"}
    for function, options in ((plot.attention, layer), (plot.attention_heads, layer), (plot.bias_maps, layer),
                              (plot.features, {"channels": 1})):
        figure = function(model, random_images(model, 1)[0], **options)
        figure.draw_without_rendering()
        title = figure.texts[0].get_window_extent()
        assert 0 <= title.x0 and title.x1 <= figure.bbox.width and title.y1 <= figure.bbox.height, function


def test_what_is_not_there_is_refused(digits):
    for wrong, message in ((dict(layer="stages.9"), "layer: expected one of stages.0.blocks.0.attention, "),
                           (dict(query=(8, 0)), r"query: expected \(row, column\) below \(8, 8\)"),
                           (dict(query=(0, -1)), "query: expected"), (dict(query=5), "query: expected"),
                           (dict(query=(0.5, 1)), "query: expected"), (dict(head=1.5), "head: expected a number"),
                           (dict(head=3), "head: expected a number from 0 to 2")):
        with pytest.raises(levit_np.LevitError, match=message):
            plot.attention(digits, IMAGE, **wrong)
    with pytest.raises(levit_np.LevitError, match="layer: expected a number from 0 to 1, found 2"):
        plot.filters(digits, layer=2)
    for channels in (0, 1.5, "3"):
        with pytest.raises(levit_np.LevitError, match="channels: expected a whole number from 1, found "):
            plot.features(digits, IMAGE, channels=channels)
    with pytest.raises(levit_np.LevitError, match="expected images"):
        plot.attention(digits, np.zeros((1, 3, 3), np.float32))
    with pytest.raises(levit_np.LevitError, match=r"expected one image \(1, 32, 32\), found \(2, 1, 32, 32\)"):
        plot.attention(digits, np.zeros((2, 1, 32, 32), np.float32))


def test_attention_that_is_not_finite_is_an_error(digits):
    x = digits.prepare(IMAGE)
    x[0, 3, 4] = np.nan
    for picture in (plot.attention, plot.attention_heads):
        with pytest.raises(levit_np.LevitError, match="stages.0.blocks.0.attention: expected attention in finite"):
            picture(digits, x)


def test_a_notebook_gets_a_png_and_pyplot_is_left_alone(digits):
    code = ("import sys, levit_np; m = levit_np.create('levit_digits', backend='reference');"
            "png = levit_np.plot.bias_maps(m)._repr_png_(); assert png[:4] == b'\\x89PNG';"
            "assert 'matplotlib.pyplot' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_without_matplotlib_it_says_what_to_install():
    code = ("import sys; sys.modules['matplotlib.figure'] = None; import levit_np\n"
            "try: levit_np.plot.bias_maps(levit_np.create('levit_digits', backend='reference'))\n"
            "except levit_np.LevitError as error: print(error)")
    out = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert out == "plot: expected matplotlib, found none; pip install 'levit_np[plot]'\n"


def test_without_matplotlib_no_folder_is_made(tmp_path, digits, monkeypatch):
    plot._figure_class.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(levit_np.LevitError, match="plot: expected matplotlib, found none"):
        next(plot.write_all(digits, IMAGE, tmp_path / "pictures"))
    assert not list(tmp_path.iterdir())


def test_a_matplotlib_that_cannot_be_imported_is_one_line(monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(levit_np.LevitError, match="^curves: .* Key backend: 'x' is"):
        def refuse(name, *arguments, importing=builtins.__import__):
            if name == "matplotlib.figure":  # what it says of MPLBACKEND=x
                raise ValueError("Key backend: 'x' is not a valid value")
            return importing(name, *arguments)

        patched.setattr(builtins, "__import__", refuse)
        plot.require_matplotlib("curves", "train")


def command(*arguments):
    done = subprocess.run([sys.executable, "-m", "levit_np.cli", "explain", *map(str, arguments)], cwd=ROOT, text=True,
                          capture_output=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_a_picture_appears_whole_or_not_at_all(tmp_path, digits, monkeypatch):
    """For example on a full disk; the error names the picture's file."""
    (tmp_path / "filters.png").write_bytes(b"before")

    def full(figure, file, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError) as raised:
        next(plot.write_all(digits, IMAGE, tmp_path))
    assert raised.value.filename == str(tmp_path / "filters.png")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_files_need_no_latex(tmp_path, digits, no_latex):
    assert next(plot.write_all(digits, IMAGE, tmp_path)).read_bytes().startswith(b"\x89PNG")


def test_explain_writes_them_all(tmp_path):
    model = random_model("levit_digits", stages=(Stage(64, 1, 3), Stage(80, 1, 4, 4)))
    model.save(tmp_path / "small.h5")
    status, out, err = command(IMAGE, "--png", tmp_path / "pictures", "--weights", tmp_path / "small.h5")
    files = sorted(path.stem for path in (tmp_path / "pictures").iterdir())
    assert (status, err) == (0, "") and files == sorted(plot.pictures(model)) and f": {len(files)} pictures of" in out
    assert len(files) == 2 + 3 * 3
    for path in (tmp_path / "pictures").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 100 and np.asarray(picture.convert("L")).std() > 10, path
    status, out, err = command(IMAGE, "--png", tmp_path / "pictures")
    assert (status, out) == (1, "") and "expected a new or an empty folder" in err
    assert command(IMAGE)[0] == 2
