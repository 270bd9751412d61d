"""A trainer's state: nothing is missing from it, a wrong one is refused, and numbers that are not finite stop
training."""

import json
import weakref
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

from levit_np.errors import TrainingError
from levit_np.model import build
from levit_np.training.average import Average
from levit_np.training.checkpoint import Checkpoints
from levit_np.training.ranks import SingleRank
from levit_np.training.scaling import LossScale
from levit_np.training.trainer import Trainer
from levit_np.training.update import Update

from .in_memory import SMALL, MemoryLoader
from .small_run import RECIPE, digest, run, trainer

pytestmark = pytest.mark.usefixtures("fast_disk")


def test_every_part_of_the_state_matters():
    """Changing any array or number of it changes the digest at the end of the training."""
    def rest(change):
        first, second = trainer(), trainer(seed=3)
        for _, _ in zip(first.train_epoch(), range(2)):
            pass
        arrays, document = first.state()
        arrays = {name: array.copy() for name, array in arrays.items()}
        document = json.loads(json.dumps(document))
        change(arrays, document)
        second.set_state(arrays, document)
        second.loader = first.loader
        list(second.train_epoch())
        return digest(*second.state())

    def other_random(arrays, document):
        document["ranks"][0]["random"] = np.random.default_rng(1).bit_generator.state

    def other(name):
        def change(arrays, document):
            arrays[name] = arrays[name] * 1.01 + 0.01
        return change

    def position(arrays, document):
        document["batch"] -= 2

    def count(arrays, document):
        document["steps"] += 1

    def mean_loss(arrays, document):
        document["ranks"][0]["totals"]["loss"] += 1

    expected = rest(lambda arrays, document: None)
    assert rest(lambda arrays, document: None) == expected
    names = ["model.head.weight", "model.stages.0.blocks.0.mlp.up.bn.mean", "first.head.weight", "second.head.weight",
             "average.head.bias", "average.stem.convolutions.0.bn.mean"]
    changes = [*map(other, names), other_random, position, count, mean_loss]
    assert len({rest(change) for change in changes} | {expected}) == 1 + len(changes)


def test_a_state_of_another_training_is_refused_by_name():
    arrays, document = trainer().state()
    wrong = [
        (lambda a, d: a.pop("first.head.weight"), "head.weight: expected float32 .3, 6., found none"),
        (lambda a, d: a.__setitem__("model.head.bias", np.zeros(4, np.float32)),
         r"head.bias: expected .*\(3,\), found .*\(4,\)"),
        (lambda a, d: a.__setitem__("average.more", np.zeros(4)), "more: expected none, found float64"),
        (lambda a, d: a.__setitem__("second.head.bias", np.zeros(3)), "expected float32 .*found float64"),
        (lambda a, d: a.__setitem__("other", np.zeros(4)), "expected the state of a training, found KeyError"),
        (lambda a, d: d.__setitem__("ranks", []), "expected the state of a training, found IndexError"),
        (lambda a, d: d.__setitem__("ranks", 2 * d["ranks"]), "^expected 1 ranks, found 2$"),
        (lambda a, d: d["ranks"][0].__setitem__("random", {"bit_generator": "PCG64"}),
         "expected the state of a training"),
        (lambda a, d: d["ranks"][0].__setitem__("totals", {}), "found KeyError: 'loss'"),
        (lambda a, d: d.__setitem__("batch", 6), "batch: expected 0 to 5, found 6"),  # for example of more data
        (lambda a, d: d.__setitem__("epoch", -1), "epoch: expected 0 to 3, found -1"),
        (lambda a, d: d.pop("epoch"), "found KeyError: 'epoch'")]
    for change, message in wrong:
        copies, own = dict(arrays), json.loads(json.dumps(document))
        change(copies, own)
        with pytest.raises(TrainingError, match=message):
            trainer().set_state(copies, own)


def test_a_trainer_needs_a_batch_and_a_head_for_its_teacher():
    assert trainer(replace(RECIPE, accumulation=1), loader=MemoryLoader(steps=1)).loader.steps == 1
    with pytest.raises(TrainingError, match="expected at least one batch of 6 images an epoch, found none"):
        trainer(loader=MemoryLoader(steps=0))
    made = trainer(config=replace(SMALL, distillation=False))
    with pytest.raises(TrainingError, match="teacher: expected a network with two heads to distil into, found one"):
        Trainer(made.model, made.loader, RECIPE, teacher=lambda batch: batch.targets)


def test_a_step_has_no_more_batches_than_an_epoch():
    """The learning rate would count batches that never come."""
    assert trainer(loader=MemoryLoader(steps=2)).recipe.accumulation == 2
    with pytest.raises(TrainingError, match="expected at most the 2 batches of 6 images an epoch, found 3"):
        trainer(replace(RECIPE, accumulation=3), loader=MemoryLoader(steps=2))


def test_the_batches_of_a_step_are_in_memory_one_after_another():
    class Watched(MemoryLoader):
        given, alive = [], []

        def epoch(self, epoch, first_step=0):
            for step in range(first_step, self.steps):
                self.alive.append(sum(images() is not None for images in self.given))
                batch = self.batch_at(epoch, step)
                self.given.append(weakref.ref(batch.images))
                yield batch
                del batch

    list(trainer(replace(RECIPE, accumulation=6), loader=Watched(steps=12)).train_epoch())
    assert len(Watched.alive) == 12 and max(Watched.alive) <= 1  # the last one, which the next replaces


@pytest.mark.parametrize("kind", [list, iter, lambda batches: map(lambda batch: batch, batches)])
def test_a_loader_may_return_any_iterable(kind):
    class Any(MemoryLoader):
        def epoch(self, epoch, first_step=0):
            return kind(list(super().epoch(epoch, first_step)))

    first, second = trainer(loader=Any()), trainer()
    assert list(first.train_epoch()) == list(second.train_epoch())


def test_an_epoch_of_too_few_batches_is_refused():
    class Short(MemoryLoader):
        def epoch(self, epoch, first_step=0):
            return list(super().epoch(epoch, first_step))[:3]

    steps = trainer(loader=Short()).train_epoch()
    next(steps)
    with pytest.raises(TrainingError, match="^epoch 1, batch 4 of 5: expected a batch, found the end of the loader's"):
        next(steps)


@pytest.mark.parametrize("wrong", [lambda array: array[:1], lambda array: array[:, :1], lambda array: array.argmax(1)])
def test_targets_and_logits_of_another_shape_are_refused(wrong):
    """A single row, or column, would be broadcast, and fewer classes of a teacher taken for the first ones."""
    class Wrong(MemoryLoader):
        def batch_at(self, epoch, step):
            batch = super().batch_at(epoch, step)
            return batch._replace(targets=wrong(batch.targets))

    with pytest.raises(TrainingError, match=r"^epoch 1, batch 1 of 5: targets: expected an array \(6, 3\), found \("):
        next(trainer(loader=Wrong()).train_epoch())
    made = trainer()
    made.teacher = lambda batch: wrong(batch.targets)
    with pytest.raises(TrainingError, match=r"batch 1 of 5: teacher: logits: expected an array \(6, 3\), found \("):
        next(made.train_epoch())


def test_a_network_that_has_the_same_arrays_stays_as_it_is():
    other, model = trainer().model, build(SMALL, "reference")
    model.set_state(other.state(), copy=False)
    assert model.head.weight is other.head.weight
    before = deepcopy(other.state())
    list(Trainer(model, MemoryLoader(), RECIPE).train_epoch())
    np.testing.assert_equal(other.state(), before)


def test_an_evaluation_after_an_update_is_of_the_new_weights():
    """On the backend that folds and packs weights, even before BN's statistics change."""
    model, x = trainer().model.to("cpu"), MemoryLoader().batch_at(0, 0).images
    update, average = Update(model, RECIPE), Average(model, 0.5)
    before = model(x), average.model(x)
    update({name: np.ones_like(array) for name, array in model.trained().items()}, 0.1)
    average.update(model)
    for network, logits in zip((model, average.model), before, strict=True):
        after = network(x)
        assert not np.array_equal(after, logits) and np.array_equal(after, deepcopy(network)(x))


def test_drop_path_depends_on_seed_and_rank():
    class Second(SingleRank):
        rank = 1

    drawn = [trainer(seed=seed, ranks=ranks).model.random.integers(1 << 62)
             for seed, ranks in ((1, None), (1, None), (2, None), (1, Second()))]
    assert drawn[0] == drawn[1] and len(set(drawn)) == 3


@pytest.mark.parametrize("chosen, rates", [(None, [0.2]), (0.0, []), (0.5, [0.5])])
def test_a_recipe_may_say_how_many_branches_drop_and_what_is_frozen(chosen, rates):
    made = trainer(replace(RECIPE, drop_path=chosen, freeze=("stem",)))
    assert sorted({residual.rate for residual in made.model.dropping()})[-1:] == rates
    before = made.model.numpy_state()
    list(made.train_epoch())
    same = {name.startswith("stem"): True for name in before}
    for name, array in made.model.state().items():
        same[name.startswith("stem")] &= np.array_equal(array, before[name])
    assert same == {True: True, False: False}


def test_a_state_of_one_head_without_an_average_comes_back():
    recipe, config = replace(RECIPE, average=0.0), replace(SMALL, distillation=False)
    made, again = (trainer(recipe, seed, config=config) for seed in (0, 3))
    step = next(made.train_epoch())
    assert 0 <= step.correct <= step.images
    arrays, document = made.state()
    assert not any(name.startswith("average") for name in arrays) and "scale" not in document
    again.set_state({name: array.copy() for name, array in arrays.items()}, json.loads(json.dumps(document)))
    assert digest(*again.state()) == digest(arrays, document)


def test_a_loss_scale_is_a_part_of_the_state():
    made, again = trainer(), trainer()
    for one in (made, again):
        one.scale = LossScale("float16")
    made.scale.overflowed()
    made.scale.fitted()
    arrays, document = made.state()
    again.set_state(arrays, json.loads(json.dumps(document)))
    assert (again.scale.value, again.scale.quiet) == (made.scale.value, 1) == (2.0**14, 1)
    del document["scale"]
    with pytest.raises(TrainingError, match="expected the state of a training, found KeyError: 'scale'"):
        again.set_state(arrays, document)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path, bad):
    from .in_memory import MemoryLoader

    class Spoiled(MemoryLoader):
        def batch_at(self, epoch, step):
            batch = super().batch_at(epoch, step)
            if (epoch, step) == (1, 3):
                batch.images[2, 0, 5, 5] = bad
            return batch

    path = tmp_path / "run"
    with pytest.raises(TrainingError, match="epoch 2, batch 3 of 5: expected a finite loss and gradient, found loss .*"
                                            "its images: image 12 of epoch 1, .*image 20 of epoch 1.*, image 23 of "
                                            "epoch 1"):
        run(path, loader=Spoiled(), save_seconds=0)
    arrays, document, skipped = Checkpoints(path / "checkpoints").newest()
    assert (document["epoch"], document["batch"], document["steps"], skipped) == (1, 2, 4, [])
    _, screen = run(path, resume=True)  # with the image repaired
    assert len(screen.lines) == 2


def test_a_gradient_that_overflows_beside_a_finite_loss_stops_it():
    made = trainer()
    before = made.model.head.weight.copy()
    made.model.ops.squared_norm, kept = lambda *arrays: float("inf"), made.model.ops.squared_norm
    try:
        with pytest.raises(TrainingError, match="gradient norm inf"):
            next(made.train_epoch())
    finally:
        made.model.ops.squared_norm = kept
    assert np.array_equal(made.model.head.weight, before) and made.update.steps == 0


def test_a_loss_that_overflows_beside_finite_gradients_stops_it():
    made = trainer()
    before, one_pass = made.model.numpy_state(), made.one_pass
    made.one_pass = lambda *arrays, share: (np.inf, one_pass(*arrays, share=share)[1])
    with pytest.raises(TrainingError, match=r"epoch 1, batch 1 of 5: .*found loss inf, gradient norm \d"):
        next(made.train_epoch())
    weights = [name for name in before if name.endswith(("weight", "gamma", "beta", "bias"))]
    assert weights and all(np.array_equal(made.model.state()[name], before[name]) for name in weights)


def test_a_teacher_that_is_not_finite_stops_it():
    """The teacher's choice would be the NaN's class, and the loss finite."""
    made, asked = trainer(), trainer().teacher
    made.teacher = lambda batch: np.where((batch.indices[:, None] == 2) & [False, True, False], np.nan, asked(batch))
    before = made.model.numpy_state()
    with pytest.raises(TrainingError, match="^epoch 1, batch 1 of 5: teacher: expected finite logits, found nan of "
                                            "image 2 of epoch 0$"):
        next(made.train_epoch())
    np.testing.assert_equal(made.model.numpy_state(), before)


def test_a_teacher_that_is_not_finite_in_a_later_batch_of_a_step_is_placed_there():
    made, asked = trainer(), trainer().teacher
    made.teacher = lambda batch: np.where(batch.indices[:, None] == 8, np.nan, asked(batch))
    with pytest.raises(TrainingError, match="^epoch 1, batch 2 of 5: teacher: .* found nan of image 8 of epoch 0$"):
        next(made.train_epoch())
