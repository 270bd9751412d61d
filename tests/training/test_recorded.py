"""Recorded training steps on the cpu backend equal ordinary ones, to the last bit; steps that cannot be recorded are
not."""

import gc
import threading
import weakref
from copy import deepcopy
from dataclasses import fields, replace

import numpy as np
import pytest

import levit_np
from levit_np.errors import LevitError
from levit_np.ops import cpu
from levit_np.ops.cpu import recording, running
from levit_np.training.recipe import Recipe
from levit_np.training.recorded import RecordedPass
from levit_np.training.trainer import Trainer

from ..any_network import any_config
from ..ops.cpu.conftest import one_thread_again  # noqa: F401  (a fixture)
from ..random_model import random_model
from .in_memory import MemoryLoader

RECIPE = Recipe(batch=4, epochs=2, warmup_epochs=1, drop_path=0.0)


@pytest.fixture
def recordings(monkeypatch):
    """All recordings that are begun."""
    found = []

    class Recording(recording._Recording):
        def __init__(self):
            super().__init__()
            found.append(self)

    monkeypatch.setattr(recording, "_Recording", Recording)
    return found


def pair(name, recipe, **changes):
    """(a trainer that does not record, one that does)."""
    found = []
    for _ in "12":
        model = random_model(name, backend="cpu", **changes)
        teacher = (lambda batch: 3 * batch.targets) if model.config.distillation else None
        found.append(Trainer(model, MemoryLoader(model.config, steps=8, batch=4), recipe, teacher=teacher))
    found[0].one_pass = found[0].passed
    return found


def step(trainer, number, images=4):
    batch = trainer.loader.batch_at(0, number)
    return trainer.step([batch._replace(images=batch.images[:images], targets=batch.targets[:images])])


def require_equal(plain, recorded):
    np.testing.assert_equal(recorded.state(), plain.state())


@pytest.mark.parametrize("name, recipe, changes", [
    ("levit_128s", {}, {}), ("levit_128s", {"drop_path": 0.3, "distillation": "soft"}, {}),
    ("levit_192", {"clip": 0.0}, {"distillation": False}), ("levit_256", {"freeze": ("stem", "stage1")}, {}),
    ("levit_digits", {"drop_path": 0.2}, {"image_size": 28}), ("levit_128s_a3", {}, {}), ("levit_128s_a5", {}, {}),
    ("levit_128s_a4", {}, {"activation": "silu"})])
def test_a_recorded_step_is_the_same(name, recipe, changes, recordings, capsys):
    """Whatever its reused memory contains, and with other numbers of threads."""
    changes = {"image_size": 64, "num_classes": 5} | changes
    plain, recorded = pair(name, replace(RECIPE, **recipe), **changes)
    for number in range(5):
        levit_np.set_threads(1 + number % 3)
        assert step(recorded, number) == step(plain, number)
        if number > 1:
            spoil(recorded, *recordings)
    require_equal(plain, recorded)
    assert len(recordings) == 1 and "not recorded" not in capsys.readouterr().err


def test_arrays_shared_with_another_network_are_not_changed():
    trainer = pair("levit_digits", RECIPE)[1]
    other = random_model("levit_digits", backend="cpu", seed=1)
    other.set_state(trainer.model.state())
    before = deepcopy(other.state())
    for number in range(4):
        step(trainer, number)
        if number == 1:  # now it is recorded, so the current arrays keep their place
            np.testing.assert_equal(other.state(), before)
            other.set_state(trainer.model.state())
            before = deepcopy(other.state())
    np.testing.assert_equal(other.state(), before)


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 300))])
def test_any_network(seed, recordings):
    config = any_config(seed)
    changes = {field.name: getattr(config, field.name) for field in fields(config) if field.name != "name"}
    plain, recorded = pair("levit_digits", RECIPE, **changes)
    for number in range(4):
        assert step(recorded, number) == step(plain, number)
        if number > 1:
            spoil(recorded, *recordings)
    require_equal(plain, recorded)


def spoil(trainer, written):
    """Fills the recording's memory, except its inputs, with NaN."""
    given = [recording._owner(array) for array in trainer.one_pass._held]
    given += trainer.one_pass._inputs + [mask for _, mask in trainer.one_pass._masks]
    blocks = [block for same in written._blocks._kept.values() for block, _ in same]
    assert blocks
    for kept in written._kept + blocks:
        if kept.dtype.kind == "f" and not any(kept is array for array in given):
            kept[...] = np.nan


def test_a_changed_step_is_recorded_again(recordings):
    """When the batch, the weights or the statistics are other arrays."""
    plain, recorded = pair("levit_digits", RECIPE)
    for number, images in enumerate([4, 4, 4, 3, 3, 3, 3, 3]):
        for trainer in (plain, recorded):
            if number == 5:
                trainer.model.set_state({name: array.copy() for name, array in trainer.model.state().items()})
            if number == 7:
                bn = trainer.model.stem.convolutions[0].bn
                bn.variance = 2 * bn.variance
        assert step(recorded, number, images) == step(plain, number, images)
        assert len(recordings) == [0, 1, 1, 1, 2, 3, 3, 4][number]
    require_equal(plain, recorded)


def test_a_step_is_recorded_again_after_freezing_or_drop_path(recordings):
    plain, recorded = pair("levit_digits", RECIPE)
    for number in range(8):
        for trainer in (plain, recorded):
            if number == 3:
                trainer.model.set_drop_path(0.5)
            if number == 6:
                trainer.model.freeze(["stem"])
        assert step(recorded, number) == step(plain, number)
    require_equal(plain, recorded)
    assert len(recordings) == 3


def test_a_batch_that_is_refused_twice_draws_no_mask(recordings):
    """A pass is recorded at the second time, and its masks are drawn before it."""
    plain, recorded = pair("levit_digits", replace(RECIPE, drop_path=0.5))
    for number in range(2):
        for trainer in (plain, recorded):
            with pytest.raises(LevitError, match="at least two images"):
                step(trainer, number, images=1)
    assert step(recorded, 2) == step(plain, 2) and not recordings


def test_a_recording_that_is_interrupted_before_its_first_replay_is_not_replayed(recordings, monkeypatch):
    """Its first results would be the gradients of the batch with which it was made."""
    plain, recorded = pair("levit_digits", RECIPE)
    record = RecordedPass._record

    def interrupted(*arguments):
        record(*arguments)
        raise KeyboardInterrupt

    for trainer in (plain, recorded):
        step(trainer, 0)
    monkeypatch.setattr(RecordedPass, "_record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        step(recorded, 1)
    monkeypatch.setattr(RecordedPass, "_record", record)
    recorded.model.zero_gradients()
    for number in (2, 3, 4):
        assert step(recorded, number) == step(plain, number)  # losses do not depend on BN's running statistics
    assert len(recordings) == 2


def test_an_evaluation_sees_what_an_interrupted_replay_has_written():
    """It wrote BN's running statistics; a copy of the network gives the same bits."""
    _, trainer = pair("levit_digits", RECIPE)
    for number in range(3):
        step(trainer, number)
    model, replay, x = trainer.model, trainer.one_pass._replay, trainer.loader.batch_at(0, 0).images
    before = model(x)

    def interrupted():
        replay()
        raise KeyboardInterrupt

    trainer.one_pass._replay = interrupted
    with pytest.raises(KeyboardInterrupt):
        step(trainer, 3)
    assert np.array_equal(model(x), deepcopy(model)(x)) and not np.array_equal(model(x), before)


def test_each_recording_has_scratch_memory_of_its_own(recordings):
    """One thread may replay a recording while another computes."""
    trainers = [pair("levit_digits", RECIPE) for _ in "12"]
    for number in range(3):
        for plain, recorded in trainers:
            assert step(recorded, number) == step(plain, number)
    own = [id(written.scratch.memory) for written in recordings] + [id(running._kept.memory)]
    assert len(set(own)) == 3
    found = []
    for plain, recorded in trainers:
        replaying = threading.Thread(target=lambda recorded=recorded: found.append(step(recorded, 3)))
        replaying.start()
        expected = step(plain, 3)
        replaying.join()
        assert found.pop() == expected


def test_results_of_a_pass_are_not_changed_between_passes():
    """An evaluation, or the training of another model, between two steps does not use the recording's memory."""
    plain, recorded = pair("levit_digits", RECIPE)
    others = pair("levit_digits", RECIPE)
    for number in range(5):
        assert step(recorded, number) == step(plain, number)
        for other in others:
            step(other, number)
            other.model(other.loader.batch_at(0, number).images)
    require_equal(plain, recorded)


@pytest.mark.parametrize("what", ["sum", "number"])
def test_a_step_with_a_value_that_no_operation_computes_is_not_recorded(what, recordings, capsys, monkeypatch):
    """Its first result would be used forever. The step is computed as usual, and a line says so."""
    plain, refused = pair("levit_digits", replace(RECIPE, drop_path=0.2))
    stage = refused.model.stages[0]
    forward = stage.forward

    def outside(x, training=False):
        x = x + 0 if what == "sum" else cpu.multiply(x, np.float32(1) * x.dtype.type(1))
        return forward(x, training)

    stage.forward = outside
    for number in range(4):
        assert step(refused, number) == step(plain, number)
    require_equal(plain, refused)
    assert len(recordings) == 1
    assert capsys.readouterr().err == (
        "levit_np: training steps are not recorded, and so slower (RuntimeError: expected arrays of the backend's "
        f"operations, found one of shape {'(4, 64, 64)' if what == 'sum' else '()'} that something else made)\n")


def test_a_loss_that_no_operation_computes_is_noticed_in_time(recordings, capsys):
    """Everything else is recorded by then, and BN's running statistics are written; they are restored."""
    plain, refused = pair("levit_digits", RECIPE)
    loss = refused.loss
    refused.loss = lambda *arguments: (np.float32(float(loss(*arguments)[0])), loss(*arguments)[1])
    for number in range(4):
        assert step(refused, number) == step(plain, number)
    require_equal(plain, refused)
    assert len(recordings) == 1 and "found one of shape ()" in capsys.readouterr().err


def test_a_recording_that_fails_when_other_ranks_were_told_of_gradients_is_an_error(capsys):
    """They wait for the remaining gradients, and would take those of a second pass for them."""
    _, refused = pair("levit_digits", RECIPE)
    told, loss = [], refused.loss
    refused.loss = lambda *arguments: (np.float32(float(loss(*arguments)[0])), loss(*arguments)[1])
    refused.model.head.completed = told.append
    step(refused, 0)
    with pytest.raises(RuntimeError, match=r"found one of shape \(\)"):
        step(refused, 1)
    assert told == 2 * [refused.model.head] and "not recorded" not in capsys.readouterr().err


def test_nested_operations_are_replayed_by_the_outer_one():
    """It is not replayed on its own: otherwise, for example, another rank would wait for a gradient."""
    x, told = np.ones(3, np.float32), []
    tell = cpu.repeated(lambda x: told.append(float(cpu.sum(x, 0))))
    replay = cpu.captured(lambda: tell(x), [x])
    replay()
    for number in (2, 3):
        x[...] = number
        replay()
    assert told == [3, 6, 9]


def test_which_arguments_can_be_recorded():
    x, fixed = np.ones(3, np.float32), np.ones(3, np.float32)
    fixed.flags.writeable = False
    product, within = cpu.repeated(lambda x, y: x * y), cpu.repeated(lambda x: cpu.add(x, np.ones(3, np.float32)))
    for y in (x, x[::-1], fixed, np.arange(3), np.int64(2), 2.0, None):
        cpu.captured(lambda: None if y is None else product(x, y), [x])
    for other in (lambda: product(x, np.ones(3)), lambda: product(x, y=np.ones(3)), lambda: product(x, np.float32(2)),
                  lambda: cpu.add(x, np.ones(3, np.float32)), lambda: within(x), lambda: x + 1,
                  lambda: (x, [np.float64(1)])):
        with pytest.raises(RuntimeError, match="expected arrays of the backend's operations"):
            cpu.captured(other, [x])
    assert recording.recording() is None


def test_a_recording_that_is_refused_gives_back_the_memory_that_it_took_over():
    x, blocks = np.ones(3, np.float32), recording.blocks
    mine, there = blocks._blocks(), blocks.block(blocks.LARGE).ctypes.data

    def refused():
        assert blocks._blocks() is not mine and blocks.block(blocks.LARGE).ctypes.data == there
        return x + 1

    with pytest.raises(RuntimeError):
        cpu.captured(refused, [x])
    assert blocks._blocks() is mine and blocks.block(blocks.LARGE).ctypes.data == there


def test_views_and_kernel_operations_are_not_called_again():
    called, x = [], np.ones((3, 4), np.float32)

    def operation(name, function):
        return cpu.repeated(lambda x: called.append(name) or function(x))

    view, kernels, other = (operation("view", lambda x: x[1:]), operation("kernels", lambda x: cpu.add(x, x)),
                            operation("other", lambda x: x.sum(0)))
    replay = cpu.captured(lambda: other(kernels(view(x))), [x])
    assert (replay() == 4).all() and called == ["view", "kernels", "other"]
    x[...] = 3
    assert (replay() == 12).all() and called[3:] == ["other"]


@pytest.mark.parametrize("dtype, recipe", [("float64", {}), ("float32", {"accumulation": 2})])
def test_when_steps_are_not_recorded(dtype, recipe):
    """float64 has no kernels and would keep all its arrays; and gradients of several batches are added."""
    model = levit_np.create("levit_digits", backend="cpu", dtype=dtype)
    trainer = Trainer(model, MemoryLoader(model.config, batch=4), replace(RECIPE, **recipe))
    assert not isinstance(trainer.one_pass, RecordedPass)


def test_a_recording_keeps_the_memory_of_a_step_and_no_more(recordings):
    """Memory that becomes free during a pass is reused in it, and memory of earlier steps is taken over."""
    plain, recorded = pair("levit_128s", RECIPE, image_size=224, num_classes=10)
    step(plain, 0), step(recorded, 0)
    blocks = cpu.recording.blocks._blocks()
    before = large(blocks)
    step(recorded, 1)
    assert not any(blocks._kept.values())
    assert 0 < before <= large(recordings[0]._blocks) < 1.2 * before


def large(blocks):
    """The bytes of all large blocks."""
    sizes = [block.nbytes for same in blocks._kept.values() for block, _ in same]
    return sum(size for size in sizes if size >= 4 * cpu.recording.blocks.LARGE)


@pytest.mark.parametrize("accumulation", [1, 2], ids=["recorded", "not recorded"])
def test_a_training_is_freed_with_its_last_reference(accumulation):
    """One training after another: cycles of references would keep the memory of several at a time."""
    _, trainer = pair("levit_digits", replace(RECIPE, accumulation=accumulation), image_size=16, num_classes=3)
    gc.disable()
    try:
        assert list(trainer.train_epoch())
        freed = weakref.ref(trainer), weakref.ref(trainer.model)
        del trainer
        assert [part() for part in freed] == [None, None]
    finally:
        gc.enable()
