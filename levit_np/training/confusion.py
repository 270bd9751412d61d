"""A picture of which class was taken for which."""

import warnings

from ..errors import LevitError
from ..plot import require_matplotlib
from ..storage.atomic import replacing

MOST = 50  # classes whose names can still be read


def require_drawable(classes: int) -> None:
    """Raises LevitError, before hours of evaluation, for a picture that could not be drawn after them."""
    if classes > MOST:
        raise LevitError(f"confusion picture: expected at most {MOST} classes, found {classes}")
    require_matplotlib("confusion picture", "train")


def draw_confusion(confusion, labels, path) -> None:
    """Replaces `path` by a PNG of the counts (classes, classes): a row is a label, a column what was answered."""
    from matplotlib.figure import Figure

    classes = len(labels)
    side = 3.6 + 0.42 * classes  # 20 of the widest letters leave room for the cells of two classes
    figure = Figure((side, side), layout="constrained")
    axes = figure.add_subplot()
    # The share of the row's images: a class that is rare shows its errors too.
    share = confusion / confusion.sum(1, keepdims=True).clip(1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [name if len(name) <= 20 else name[:19] + "…" for name in labels]
    axes.set_xticks(range(classes), names, rotation=90, parse_math=False)
    axes.set_yticks(range(classes), names, parse_math=False)
    axes.set(xlabel="answered", ylabel="label")
    for row in range(classes):
        for column in range(classes):
            if count := int(confusion[row, column]):
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=7,
                          color="white" if share[row, column] > 0.5 else "black")
    right = confusion.trace() / max(int(confusion.sum()), 1)
    # Over the figure, not the axes, which of two classes with long names are narrower than it.
    figure.suptitle(f"{right:.2%} of {int(confusion.sum())} images")
    with replacing(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks is drawn as a box
        figure.savefig(file, format="png", dpi=120)
