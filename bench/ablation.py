"""What each of LeViT's parts contributes on small data, as in the paper's Table 5: python bench/ablation.py

The base and A1 to A7 with the dimensions of levit_digits, three seeds each, on the handwritten digits that come with
scikit-learn: 1,797 scans of 8×8 pixels, enlarged to 32×32. The seed determines the third of the digits to train on, the
initial weights and the order of the images; the other two thirds are used only after training. All trainings use the
same recipe. As in the paper, all but A4 are distilled: their teacher is a wider LeViT trained on the same third. Writes
bench/results/ablation.json after every training, and ablation.md."""

import argparse
import json
import os
import time
from dataclasses import replace
from statistics import mean, stdev
from typing import NamedTuple

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
from report import add_results, earlier, run, this_machine, write_json  # noqa: E402

import levit_np  # noqa: E402
from levit_np.config import Convolution, Stage  # noqa: E402
from levit_np.storage.atomic import replacing  # noqa: E402
from levit_np.training.data.batch import Batch  # noqa: E402
from levit_np.training.evaluation import evaluate  # noqa: E402
from levit_np.training.recipe import Recipe  # noqa: E402
from levit_np.training.teacher import FunctionTeacher  # noqa: E402
from levit_np.training.trainer import Trainer  # noqa: E402

SEEDS, CLASSES = (0, 1, 2), 10
# The paper's optimizer: maximal rate (1e-3), decay, clipping and label smoothing.
RECIPE = Recipe(epochs=30, batch=32, rate=1e-3 * 512 / 32, rate_changes="step", average=0.0, mixup=0.0, cutmix=0.0,
                repeats=1)


class Change(NamedTuple):
    """A row of the table: the changed fields of levit_digits' configuration, and the paper's top-1 on ImageNet."""

    words: str
    fields: dict
    paper: float


def _stem(channels):
    return Convolution(channels // 2), Convolution(channels)


# Where widths change, they are those whose multiply-adds are closest to the base's, as in the paper.
CHANGES = {
    "base": Change("", {}, 71.9),
    "A1": Change("no pyramid", {"stem": _stem(48), "stages": (Stage(48, 8, 3),), "key_size": 8}, 56.5),
    "A2": Change("no convolutions but one of patches", {"stem": (Convolution(64, kernel=4, stride=4),)}, 65.3),
    "A3": Change("LayerNorm before the branch", {"normalization": "layer"}, 66.6),
    "A4": Change("no distillation", {"distillation": False}, 69.7),
    "A5": Change("position embedding, no attention bias", {"position": "embedding"}, 70.4),
    "A6": Change("narrow values, wide MLP", {
        "stem": _stem(54), "stages": (Stage(54, 2, 3), Stage(72, 2, 4, 12), Stage(54, 2, 3, 16)), "key_size": 18,
        "value_ratio": 1, "shrink_value_ratio": 1, "mlp_ratio": 4}, 70.9),
    "A7": Change("no Hardswish in attention", {"attention_activation": "identity"}, 71.1),
}
TEACHER = {"stem": _stem(96), "stages": (Stage(96, 2, 4), Stage(120, 2, 5, 6), Stage(120, 2, 5, 7))}


class Digits:
    """A loader of a seed's third of the digits; each image is rotated, scaled and moved differently in every epoch."""

    def __init__(self, seed, count=None):
        from PIL import Image
        from sklearn.datasets import load_digits

        data, order = load_digits(), np.random.default_rng([seed, 0]).permutation(1797)
        self._images = [Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).resize(
            (32, 32), Image.Resampling.BICUBIC) for image in data.images]
        self._labels, self._seed = data.target, seed
        self._own, self._others = order[:599][:count], order[599:]
        self.steps = len(self._own) // RECIPE.batch

    def epoch(self, epoch, first_step=0):
        random = np.random.default_rng([self._seed, 1, epoch])
        order = random.permutation(self._own)
        for step in range(first_step, self.steps):
            indices = order[step * RECIPE.batch : (step + 1) * RECIPE.batch]
            targets = np.full((len(indices), CLASSES), RECIPE.smoothing / CLASSES, np.float32)
            targets[np.arange(len(indices)), self._labels[indices]] += 1 - RECIPE.smoothing
            images = _normalized([_moved(self._images[i], random) for i in indices])
            yield Batch(images, targets, indices, tuple(map(str, indices)), ())

    def held_out(self):
        """Batches of the other two thirds, unchanged."""
        for indices in np.array_split(self._others, -(-len(self._others) // RECIPE.batch)):
            yield _normalized([self._images[i] for i in indices]), self._labels[indices]


def _normalized(images):
    return ((np.stack([np.asarray(image) for image in images]) / np.float32(255) - 0.5) / 0.5)[:, None]


def _moved(image, random):
    """The image rotated by up to 12°, scaled by up to 12 % and moved by up to 3 pixels."""
    from PIL import Image

    angle, scale, (dx, dy) = random.uniform(-0.21, 0.21), random.uniform(0.88, 1.12), random.uniform(-3, 3, 2)
    c, s = np.cos(angle) / scale, np.sin(angle) / scale
    affine = (c, -s, 16 - 16 * c + 16 * s + dx, s, c, 16 - 16 * s - 16 * c + dy)  # output pixel -> input pixel
    return image.transform((32, 32), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)


def train(fields, digits, seed, recipe, teacher=None):
    """Trains a network; returns it, and its top-1 on the other two thirds."""
    model = levit_np.create("levit_digits", seed=seed, **fields)
    trainer = Trainer(model, digits, recipe, seed=seed, teacher=teacher and FunctionTeacher(teacher, CLASSES))
    for _ in range(recipe.epochs):
        for _ in trainer.train_epoch():
            pass
        trainer.next_epoch()
    return model, evaluate(model.heads, digits.held_out(), CLASSES).average.top1


def sizes(fields):
    """(parameters, multiply-adds) with one head, as the paper counts them."""
    rows = levit_np.create("levit_digits", **fields | {"distillation": False}).rows()
    return sum(row[2] for row in rows), sum(row[3] for row in rows)


class Results:
    """The results so far; a training whose result exists is not repeated."""

    def __init__(self, folder, recipe, seeds, count):
        self.path, self.table = folder / "ablation.json", folder / "ablation.md"
        self.seeds = seeds
        settings = {"recipe": recipe.to_dict(), "trained on": count or 599, "teacher": json.loads(json.dumps(TEACHER))}
        empty = {"settings": settings, "top1": {}}
        before = earlier(self.path, empty)
        self.content = before if before["settings"] == settings else empty
        self.content["machine"] = this_machine(("numpy", "numba", "scikit-learn"))

    def missing(self, name, seed):
        return str(seed) not in self.content["top1"].get(name, {})

    def add(self, name, seed, top1):
        self.content["top1"].setdefault(name, {})[str(seed)] = top1
        write_json(self.path, self.content)

    def of(self, name):
        """{seed: top-1} of the results that exist."""
        found = self.content["top1"].get(name, {})
        return {seed: found[str(seed)] for seed in self.seeds if str(seed) in found}

    def write_table(self, names):
        base, lines = self.of("base"), []
        for name in names:
            if not (found := self.of(name)):
                continue
            change = CHANGES[name]
            parameters, products = sizes(change.fields)
            away = [top1 - base[seed] for seed, top1 in found.items()]
            lines.append((name, change.words, f"{parameters / 1e3:.0f}k", f"{products / 1e6:.1f}M", str(len(found)),
                          _spread(found.values()), "" if name == "base" else _spread(away, "+"), f"{change.paper:.1f}",
                          "" if name == "base" else f"{change.paper - CHANGES['base'].paper:+.1f}"))
        head = ("", "change", "parameters", "multiply-adds", "seeds", "digits, top-1", "against the base",
                "paper, top-1", "against the base")
        rows = [head, ("---",) * len(head), *lines]
        recipe = self.content["settings"]["recipe"]
        text = (f"# Table 5 on digits\n\nWritten by `python bench/ablation.py`: {len(self.seeds)} seeds, "
                f"{recipe['epochs']} epochs of {self.content['settings']['trained on']} digits, looked at on the other "
                f"1,198; mean ± standard deviation over the seeds, of the top-1 and of its difference to the base of "
                f"the same seed, in percent (points). All but A4 are distilled; their teachers, a wider LeViT a seed: "
                f"{_spread(self.of('teacher').values())}. The paper's column is ImageNet after 100 epochs.\n\n"
                + "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n")
        with replacing(self.table) as file:
            file.write(text.encode())
        return text


def _spread(values, sign=""):
    values = list(values)
    return f"{mean(values):{sign}.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="example: python bench/ablation.py")
    add_results(parser)
    parser.add_argument("--only", nargs="+", choices=tuple(CHANGES)[1:], default=tuple(CHANGES)[1:], metavar="ROW",
                        help="rows to train besides the base (default: all)")
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch of two batches: to see that it runs")
    arguments = parser.parse_args()
    seeds, recipe, count, names = SEEDS, RECIPE, None, ["base", *arguments.only]
    if arguments.quick:
        seeds, recipe, count = (0,), replace(RECIPE, epochs=1, warmup_epochs=0), 128
    results = Results(arguments.results, recipe, seeds, count)
    trained = {"teacher": TEACHER, **{name: CHANGES[name].fields for name in names}}
    for seed in seeds:
        digits, teacher = Digits(seed, count), None
        for name, fields in trained.items():
            todo = any(results.missing(other, seed) for other in names)
            if not (todo if name == "teacher" else results.missing(name, seed)):
                continue
            begin = time.process_time()
            model, top1 = train(fields, digits, seed, recipe, None if name in ("teacher", "A4") else teacher)
            if name == "teacher":
                teacher = model
            results.add(name, seed, top1)
            results.write_table(names)
            print(f"seed {seed}  {name:<8} {top1:6.2f} %  {time.process_time() - begin:4.0f} s of a core", flush=True)
    print(results.write_table(names))


if __name__ == "__main__":
    run(main)
