"""Draws the confusion matrix of an evaluation."""

import warnings

from ..errors import LevitError
from ..plot import require_matplotlib, without_latex
from ..storage.atomic import replacing

MOST = 50  # more classes could not be labelled legibly
# Fonts of Linux, macOS and Windows for Chinese, Japanese and Korean letters, which Matplotlib's own font lacks.
EAST_ASIAN = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "PingFang SC", "Hiragino Sans GB",
              "Apple SD Gothic Neo", "Microsoft YaHei", "SimHei", "Yu Gothic", "Malgun Gothic")


def require_drawable(classes: int) -> None:
    """Raises LevitError, before hours of evaluation, if the picture could not be drawn at the end."""
    if classes > MOST:
        raise LevitError(f"confusion picture: expected at most {MOST} classes, found {classes}")
    require_matplotlib("confusion picture", "train")


def draw_confusion(confusion, labels, path) -> None:
    """Writes a PNG of the counts (classes, classes): rows are labels, columns predictions."""
    with without_latex():
        figure = _figure(confusion, labels)
        with replacing(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about letters that the fonts lack, which are drawn as boxes
            figure.savefig(file, format="png", dpi=120)


def _figure(confusion, labels):
    from matplotlib.figure import Figure

    classes = len(labels)
    side = 3.6 + 0.42 * classes  # inches: room for names of 20 wide letters even with two classes
    figure = Figure((side, side), layout="constrained")
    axes = figure.add_subplot()
    # Shaded by the share of the row's images, so that the errors of a rare class show too.
    share = confusion / confusion.sum(1, keepdims=True).clip(1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [name if len(name) <= 20 else name[:19] + "…" for name in labels]
    text = {"parse_math": False, "fontfamily": _families()}
    axes.set_xticks(range(classes), names, rotation=90, **text)
    axes.set_yticks(range(classes), names, **text)
    axes.set(xlabel="answered", ylabel="label")
    for row in range(classes):
        for column in range(classes):
            if count := int(confusion[row, column]):
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=7,
                          color="white" if share[row, column] > 0.5 else "black")
    right = confusion.trace() / max(int(confusion.sum()), 1)
    # A title of the figure, as the axes may be too narrow for it (two classes with long names).
    figure.suptitle(f"{right:.2%} of {int(confusion.sum())} images")
    return figure


def _families() -> list[str]:
    """Matplotlib's font and, for the letters that it lacks, those of EAST_ASIAN that are installed."""
    from matplotlib import font_manager, rcParams

    installed = set(font_manager.get_font_names())
    return [*rcParams["font.family"], *(name for name in EAST_ASIAN if name in installed)]
