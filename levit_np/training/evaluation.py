"""Evaluation: top-1, top-5 and loss of each head and of their average, printed in the format of the authors' script."""

from collections.abc import Callable, Iterable

import numpy as np

from ..errors import LevitError
from ..ops.reference import log_softmax
from .ranks import SingleRank

TOP = 5


class Score:
    """The results of one classifier so far, as sums, so that they do not depend on how images are batched."""

    def __init__(self):
        self.images, self.first, self.top, self.total_loss = 0, 0, 0, 0.0

    def add(self, logits, labels) -> None:
        """Adds a batch: logits (B, classes), labels (B,) as integers."""
        logits = logits.astype(np.float64)
        rows, classes = np.arange(len(labels)), np.arange(logits.shape[1])
        own = logits[rows, labels][:, None]
        # How many classes rank before the label: a higher logit, or an equal one and a lower number, so that a tie has
        # one winner.
        before = ((logits > own) | (logits == own) & (classes < labels[:, None])).sum(1)
        self.images += len(labels)
        self.first += int((before == 0).sum())
        self.top += int((before < TOP).sum())
        self.total_loss -= float(log_softmax(logits)[rows, labels].sum())

    def join(self, other: "Score") -> None:
        """Adds the same classifier's results on other images."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def top1(self) -> float:
        """The percentage of images whose label is the likeliest class."""
        return 100 * self.first / self.images

    @property
    def top5(self) -> float:
        """The percentage of images whose label is among the five likeliest classes."""
        return 100 * self.top / self.images

    @property
    def loss(self) -> float:
        """Mean cross-entropy, without smoothing."""
        return self.total_loss / self.images

    def __str__(self):
        return f"* Acc@1 {self.top1:.3f} Acc@5 {self.top5:.3f} loss {self.loss:.3f}"

    def to_dict(self) -> dict:
        """The figures as plain data, which JSON can hold."""
        return {"images": self.images, "top1": self.top1, "top5": self.top5, "loss": self.loss}


class Evaluation:
    """The Score of each head, by name, and of their average, which is the network's prediction; `confusion` (classes,
    classes) counts the average's predictions: rows are labels, columns predictions."""

    def __init__(self, classes: int):
        self.heads: dict[str, Score] = {}
        self.average = Score()
        self.confusion = np.zeros((classes, classes), np.int64)

    def add(self, outputs, labels) -> None:
        """Adds a batch; outputs: the logits (B, classes) of each head; labels (B,) as integers.  Raises LevitError for
        other shapes, for a label that is no class's number and for logits that are not finite."""
        labels = np.asarray(labels)
        self._check(outputs, labels)
        names = ("head", "head_dist") if len(outputs) > 1 else ()
        average = sum(outputs) / len(outputs)
        if not np.isfinite(average).all():
            bad = int(np.argmin(np.isfinite(average).all(1)))
            raise LevitError(f"evaluation: expected finite logits, found {average[bad][~np.isfinite(average[bad])][0]}")
        for name, logits in zip(names, outputs):
            self.heads.setdefault(name, Score()).add(logits, labels)
        self.average.add(average, labels)
        np.add.at(self.confusion, (labels, average.argmax(-1)), 1)

    def _check(self, outputs, labels):
        expected = labels.size, len(self.confusion)
        if labels.shape != expected[:1] or labels.dtype.kind not in "iu" or not (
                (0 <= labels) & (labels < expected[1])).all():  # NumPy would count -1 as the last class
            raise LevitError(f"evaluation: expected labels (B,), whole numbers from 0 to {expected[1] - 1}, found "
                             f"{labels!a:.100}")
        if (found := [logits.shape for logits in outputs]) != [expected] * len(outputs):
            raise LevitError(f"evaluation: expected logits {expected} of each head, found {found!a:.100}")

    def join(self, other: "Evaluation") -> None:
        """Adds the same network's evaluation of other images."""
        for name, score in other.heads.items():
            self.heads.setdefault(name, Score()).join(score)
        self.average.join(other.average)
        self.confusion += other.confusion

    def to_dict(self) -> dict:
        """The figures as plain data, which JSON can hold."""
        return {"average": self.average.to_dict()} | {name: score.to_dict() for name, score in self.heads.items()}

    def __str__(self):
        """One line per head, and last that of the average, which is the one that the authors print."""
        width = max(map(len, self.heads), default=0)
        lines = [f"{name:<{width}} {score}" for name, score in self.heads.items()]
        return "\n".join([*lines, str(self.average)])


def evaluate(heads: Callable, batches: Iterable, classes: int, ranks=None) -> Evaluation:
    """Evaluates a network given by `heads`: images (B, C, H, W) -> the logits (B, classes) of each head (model.heads).

    batches: pairs of images and labels, which number the network's classes. Of several ranks (see SingleRank) each has
    a part of the batches, and all get the evaluation of the whole.  Raises LevitError if there is no image, and as
    Evaluation.add does."""
    own, result, ranks = Evaluation(classes), Evaluation(classes), ranks or SingleRank()
    for images, labels in batches:
        own.add(heads(images), labels)
    for part in ranks.broadcast(ranks.gather(own)):
        result.join(part)
    if not result.average.images:
        raise LevitError("evaluation: expected at least one image, found none")
    return result
