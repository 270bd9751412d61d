"""The training step: forward, loss, backward, update.  Files and display are handled in run.py."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from typing import NamedTuple

import numpy as np

from ..errors import LevitError, TrainingError
from .average import Average
from .objective import objective
from .ranks import SingleRank
from .recipe import Recipe
from .recorded import RecordedPass
from .scaling import LossScale
from .schedule import learning_rate
from .update import Update


class Step(NamedTuple):
    """The result of one step, on this rank."""

    loss: float  # mean over its images
    correct: int  # images whose likeliest class is that of their largest target
    images: int
    rate: float
    skipped: tuple  # (name, reason) of each image that could not be used


class Trainer:
    """A network, its batches and its recipe: a whole training run, except for its files.

    loader: has `steps`, the batches per epoch, and `epoch(epoch, first_step)`, which iterates over the batches of an
    epoch from first_step on; a batch has images (B, C, H, W), targets (B, classes), names, and skipped, the images left
    out (only if the loader `skips`).  Batches depend on the epoch and their number in it alone, so that (epoch, batch)
    and `model.random`, from which drop path draws, are the whole random state.  teacher: a batch -> its logits
    (B, classes).  ranks: see SingleRank.
    """

    def __init__(self, model, loader, recipe: Recipe, *, seed: int = 0, teacher: Callable | None = None, ranks=None):
        self.model, self.loader, self.recipe, self.teacher = model, loader, recipe, teacher
        self.ranks = ranks or SingleRank()
        if loader.steps < 1:
            raise TrainingError(f"data: expected at least one batch of {recipe.batch} images an epoch, found none; "
                                "choose a smaller batch")
        if recipe.accumulation > loader.steps:  # `rate` is scaled for that many batches per step
            raise TrainingError(f"accumulation: expected at most the {loader.steps} batches of {recipe.batch} images "
                                f"an epoch, found {recipe.accumulation}")
        if teacher and not model.config.distillation:
            raise TrainingError("teacher: expected a network with two heads to distil into, found one head")
        precision = getattr(model, "precision", "float32")
        require_precision(model.ops, precision)
        # The type of the activations; parameters and their gradients have model.dtype.
        self.type = model.ops.type_of(precision) if precision in model.ops.SIXTEEN_BIT else model.dtype
        self.scale = LossScale(precision if precision in model.ops.SIXTEEN_BIT else "float32")
        model.freeze(recipe.freeze)
        if recipe.drop_path is not None:
            model.set_drop_path(recipe.drop_path)
        if recipe.synchronize_norms:
            self.ranks.synchronize_norms(model)
        model.random = np.random.default_rng([seed, self.ranks.rank])
        self.update = Update(model, recipe)
        self.average = Average(model, recipe.average) if recipe.average else None
        self.reduction = self.ranks.reduction(model)
        own = weakref.ref(self)  # a strong reference would be a cycle, and delay freeing the training's memory
        one_pass = lambda *arrays, share: own().passed(*arrays, share=share)
        self.one_pass = RecordedPass(model, one_pass) if self._repeats() else one_pass
        self.epoch, self.batch = 0, 0  # of the next step
        self.totals = {"loss": 0.0, "correct": 0, "images": 0}  # of this epoch, on this rank

    def _repeats(self) -> bool:
        """Whether every pass does the same in the same memory, so that it can be recorded: gradients are not
        accumulated over passes, and other ranks take part only through sums that a recording can contain."""
        ops, recipe = self.model.ops, self.recipe
        alone = self.ranks.size == 1 or hasattr(ops, "repeated") and not recipe.synchronize_norms
        return hasattr(ops, "captured") and self.model.dtype == np.float32 and recipe.accumulation == 1 and alone

    @property
    def evaluated(self):
        """The network to validate: the average, if there is one."""
        return self.average.model if self.average else self.model

    def train_epoch(self) -> Iterator[Step]:
        """Trains the rest of this epoch step by step; between two steps the state can be saved.  Raises
        TrainingError."""
        batches = iter(self.loader.epoch(self.epoch, self.batch))
        with closing(batches) if hasattr(batches, "close") else nullcontext():
            while self.batch < self.loader.steps:
                count = min(self.recipe.accumulation, self.loader.steps - self.batch)
                step = self.step(batches, count)
                self.batch += count
                for key in self.totals:
                    self.totals[key] += getattr(step, key) * (step.images if key == "loss" else 1)
                yield step

    def next_epoch(self) -> None:
        """Call this when an epoch has ended and been recorded."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.totals = dict.fromkeys(self.totals, 0)

    def step(self, batches, count: int = 1) -> Step:
        """One update with the gradient of the mean loss over all images of the next `count` of `batches`, which are
        taken and go through the network one after another (gradient accumulation), and of all ranks."""
        model, full = self.model, count * self.recipe.batch  # full: this rank's images if none is skipped
        batches = iter(batches)
        rate = learning_rate(self.recipe, self.epoch, self.batch / self.loader.steps, self.ranks.size)
        loss, correct, images, names, skipped = 0.0, 0, 0, [], []
        model.zero_gradients()
        with np.errstate(all="ignore"):  # `finite` below checks the results
            for number in range(1, count + 1):
                if (batch := next(batches, None)) is None:
                    raise TrainingError(f"{self._place(number)}: expected a batch, found the end of the loader's epoch")
                share = len(batch.images) / full
                with self.reduction if number == count else nullcontext():
                    value, right = self._pass(batch, share, number)
                loss += share * float(value)
                correct += int(right)
                images += len(batch.images)
                names += map(str, batch.names)
                skipped += batch.skipped
            # Until here both are sums over all images, divided by how many there were to be.
            loss, factor = loss * (full / images), 1 / self._used(images / full)
            gradients = model.gradients()
            if self.finite(loss, gradients, names):                          # check
                self.update(gradients, rate, factor / self.scale.value)      # clip, update
                self.scale.fitted()
                if self.average:
                    self.average.update(model)                               # average
        return Step(loss, correct, images, rate, tuple(skipped))

    def _used(self, share: float) -> float:
        """The share of all ranks' images in a step that were not skipped; share: that of this rank's."""
        return self.ranks.mean([share])[0] if getattr(self.loader, "skips", False) else share

    def _pass(self, batch, share: float, number: int):
        """`passed` for one batch of a step: its `number`-th, with `share` of this rank's images."""
        ops, dtype = self.model.ops, self.model.dtype
        try:
            self._require_rows("targets", batch.targets, batch, number)
            x, targets = (ops.asarray(array.astype(dtype, copy=False)) for array in (batch.images, batch.targets))
            logits = (self.logits(batch, number),) if self.teacher else ()
            # The ranks' gradients are summed, so each is scaled to its share of the mean loss.
            return self.one_pass(x.astype(self.type, copy=False), targets, *logits,
                                 share=share * self.scale.value / self.ranks.size)
        except LevitError as error:  # too few usable images, say
            if isinstance(error, TrainingError) or not batch.skipped:
                raise
            raise TrainingError(f"{self._place(number)}: {error}; skipped: {', '.join(dict(batch.skipped))}") from None

    def passed(self, x, targets, logits=None, *, share):
        """One forward and backward -> the loss, and how many images are correct; accumulates `share` times the loss's
        gradient."""
        outputs, saved = self.model.forward(x, training=True)                                   # forward
        loss, doutputs = self.loss(outputs, targets, logits)                                    # loss
        self.model.backward(self.scaled(doutputs, share), saved, image_gradient=False)          # backward
        return loss, self.correct(outputs, targets)

    def loss(self, outputs, targets, logits):
        """-> the loss, and its gradient with respect to each head's logits; logits: the teacher's, or None.  A
        subclass's own loss computes with the arrays and constants alone: a number that changes from step to step, such
        as a weight that rises with `epoch`, would stay as it was when the pass was recorded (RecordedPass)."""
        return objective(self.model.ops, self.recipe, outputs, targets, logits)

    def scaled(self, doutputs, share):
        """share times the gradient with respect to each head's logits."""
        if share == 1:
            return doutputs
        multiply = self.model.ops.multiply
        return tuple(multiply(share, d) for d in doutputs) if isinstance(doutputs, tuple) else multiply(share, doutputs)

    def correct(self, outputs, targets):
        """How many images the heads together (or the only head) classify as their largest target."""
        ops = self.model.ops
        return ops.correct(ops.add(*outputs) if isinstance(outputs, tuple) else outputs, targets)

    def logits(self, batch, number: int = 1):
        """The teacher's logits (B, classes).  Raises TrainingError if they have another shape or, naming the first
        image, are not finite: hard distillation would take the index of a NaN as the label, with a finite loss."""
        logits = np.asarray(self.teacher(batch), self.model.dtype)
        self._require_rows("teacher: logits", logits, batch, number)
        if not (finite := np.isfinite(logits)).all():
            row = int(finite.all(1).argmin())
            found = logits[row][~finite[row]][0]
            raise TrainingError(f"{self._place(number)}: teacher: expected finite logits, found {found} of "
                                f"{batch.names[row]}")
        return self.model.ops.asarray(logits)

    def _require_rows(self, what: str, array, batch, number: int) -> None:
        """Raises TrainingError unless it is (B, classes): NumPy would broadcast one row, or one column, to all."""
        if array.shape != (expected := (len(batch.images), self.model.config.num_classes)):
            raise TrainingError(f"{self._place(number)}: {what}: expected an array {expected}, found {array.shape}")

    def finite(self, loss, gradients, names) -> bool:
        """Whether to take the step: no if only the gradients' norm is not finite and a smaller loss scale may help.
        Raises TrainingError, on every rank, if a loss is not finite, or if the norm is not and no scale is left to
        try."""
        norm = float(self.model.ops.squared_norm(*gradients.values())) ** 0.5
        finite = bool(np.isfinite(loss))
        if not self.ranks.any(not (finite and np.isfinite(norm))):
            return True
        if not self.ranks.any(not finite) and self.scale.overflowed():
            return False
        own = finite, f"loss {loss}, gradient norm {norm}", names
        everyone = self.ranks.broadcast(self.ranks.gather(own))
        # The gradients are sums over the ranks, so one bad batch affects all of them; the losses tell whose it is.
        found = [rank for rank in everyone if not rank[0]] or everyone
        theirs = [name for _, _, some in found for name in some]
        raise TrainingError(f"{self._place()}: expected a finite loss and gradient, found {found[0][1]}, before the "
                            f"update; its images: {', '.join(theirs)}")

    def _place(self, number: int = 1) -> str:
        """The position of the next step, or of one of its batches, for messages, counted from 1."""
        return f"epoch {self.epoch + 1}, batch {self.batch + number} of {self.loader.steps}"

    def state(self) -> tuple[dict, dict] | None:
        """({name: array}, JSON document): everything that the rest of the run depends on.  On rank 0, whose BN
        statistics are the ones kept; None on the others.  The arrays are not copied."""
        own = {"random": self.model.random.bit_generator.state, "totals": dict(self.totals)}
        ranks = self.ranks.gather(own)
        if ranks is None:
            return None
        parts = {"model": self.model.state(), "first": self.update.first, "second": self.update.second}
        if self.average:
            parts["average"] = self.average.model.state()
        arrays = {f"{part}.{name}": self.model.ops.to_host(array) for part, named in parts.items()
                  for name, array in named.items()}
        document = {"epoch": self.epoch, "batch": self.batch, "steps": self.update.steps, "ranks": ranks}
        return arrays, document | ({"scale": [self.scale.value, self.scale.quiet]} if self.scale.used else {})

    def set_state(self, arrays: dict, document: dict) -> None:
        """Continues from a `state`.  Raises TrainingError if it belongs to another training run."""
        parts: dict[str, dict] = {"model": {}, "first": {}, "second": {}, "average": {}}
        try:
            for name, array in arrays.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = array
            _require_same(self.update.first, parts["first"])
            _require_same(self.update.second, parts["second"])
            _require_same(self.average.model.state() if self.average else {}, parts["average"])
            _require_same(self.model.state(), parts["model"])
            own = document["ranks"][self.ranks.rank]
            if len(document["ranks"]) != self.ranks.size:
                raise TrainingError(f"expected {self.ranks.size} ranks, found {len(document['ranks'])}")
            for key, most in (("epoch", self.recipe.epochs), ("batch", self.loader.steps)):
                if not 0 <= document[key] <= most:
                    raise TrainingError(f"{key}: expected 0 to {most}, found {document[key]}")
            self.model.random.bit_generator.state = own["random"]
            self.epoch, self.batch, self.update.steps = (int(document[key]) for key in ("epoch", "batch", "steps"))
            self.totals = {key: own["totals"][key] for key in self.totals}
            if self.scale.used:
                self.scale.value, self.scale.quiet = float(document["scale"][0]), int(document["scale"][1])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            if isinstance(error, LevitError):
                raise
            raise TrainingError(f"expected the state of a training, found {type(error).__name__}: {error}") from None
        self.model.set_state(parts["model"])
        self.update.first, self.update.second = (
            {name: self.model.ops.asarray(array) for name, array in parts[part].items()}
            for part in ("first", "second"))
        if self.average:
            self.average.model.set_state(parts["average"])


def require_precision(ops, precision: str) -> None:
    """Raises TrainingError for a precision in which the backend cannot train, though it may evaluate in it."""
    if precision.endswith("16") and precision not in ops.SIXTEEN_BIT:
        raise TrainingError(f"dtype {precision}: expected float32 or float64 to train in on the backend {ops.NAME}")


def _require_same(expected: dict, found: dict) -> None:
    """Raises TrainingError unless both have the same names, with arrays of the same shapes and types."""
    for name in expected.keys() | found.keys():
        there = [f"{part[name].dtype} {part[name].shape}" if name in part else "none" for part in (expected, found)]
        if there[0] != there[1]:
            raise TrainingError(f"{name}: expected {there[0]}, found {there[1]}")
