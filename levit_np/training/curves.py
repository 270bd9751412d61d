"""Draws the training curves of a log: losses and accuracies over the epochs."""

from pathlib import Path

from ..errors import LevitError
from ..plot import require_matplotlib, without_latex
from ..storage.atomic import replacing


def draw(lines: list[dict], path: Path) -> str:
    """Writes a PNG of a log's lines; -> a message that says where it is, or why it was not drawn."""
    try:
        figure = require_matplotlib(f"{path}: not drawn", "train")(figsize=(10, 4), layout="constrained")
    except LevitError as error:  # a missing Matplotlib must not fail a finished training run
        return str(error)
    with without_latex():
        _draw(figure, lines)
        with replacing(path) as file:
            figure.savefig(file, format="png", dpi=120)
    return f"curves: {path}"


def _draw(figure, lines: list[dict]) -> None:
    from matplotlib.ticker import MaxNLocator

    for axes, key, label, corner in zip(figure.subplots(1, 2), ("loss", "top1"), ("loss", "top-1 accuracy, %"),
                                        ("upper right", "lower right")):
        epochs = [line["epoch"] for line in lines]
        axes.plot(epochs, [_number(line, key) for line in lines], ".-", label="training (augmented)")
        if all(isinstance(line.get("validation"), dict) for line in lines):
            axes.plot(epochs, [_number(line["validation"], key) for line in lines], ".-", label="validation")
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend(loc=corner)  # "best" is searched for, and Matplotlib warns where that takes more than a second


def _number(figures: dict, key: str) -> float | None:
    """The number, or None, a gap in the curve, if an edited log has something else there."""
    return value if type(value := figures.get(key)) in (int, float) else None
