"""A run that is interrupted, killed, or finds its files damaged continues as if nothing had happened, or says why it
cannot."""

import json
import os
import random
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import levit_np
from levit_np.errors import CheckpointError, LevitError, TrainingError
from levit_np.storage import hdf5
from levit_np.training.checkpoint import KEPT, Checkpoints
from levit_np.training.curves import draw
from levit_np.training.interrupt import Stopped
from levit_np.training.ranks import SingleRank
from levit_np.training.run import Run

from .small_run import RECIPE, STEPS, Silent, end_of, interrupted_at, run, trainer

pytestmark = pytest.mark.usefixtures("fast_disk")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that is not disturbed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run(path, curves=True, save_seconds=0)
    return path


def test_a_whole_run(whole):
    assert sorted(file.name for file in whole.iterdir()) == [
        "best.h5", "checkpoints", "config.json", "curves.png", "last.h5", "lock", "log.jsonl"]
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3] and lines[-1]["steps"] == STEPS
    assert all({"loss", "top1", "validation"} <= line.keys() for line in lines)
    names = [path.name for path in Checkpoints(whole / "checkpoints").paths()]
    assert names == [f"step-{n:09}.h5" for n in (9, 8, 7)] and len(names) == KEPT
    model = levit_np.load(whole / "best.h5")
    assert model.labels == ["pattern 0", "pattern 1", "pattern 2"]
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_log_has_the_means_over_the_images_of_an_epoch(tmp_path):
    steps = []
    made, screen = run(tmp_path, each=steps.append, recipe=replace(RECIPE, epochs=2))
    assert [step.images for step in steps] == 2 * [12, 12, 6]
    for number, (line, _) in enumerate(screen.lines):
        epoch = steps[3 * number : 3 * number + 3]
        assert line["loss"] == pytest.approx(sum(step.loss * step.images for step in epoch) / 30, rel=1e-6)
        assert line["top1"] == pytest.approx(100 * sum(step.correct for step in epoch) / 30)
        assert (line["epoch"], line["steps"], line["rate"]) == (number + 1, 3 * number + 3, epoch[0].rate)
    assert [line for line, _ in screen.lines] == made.folder.log.lines()


def test_the_best_weights_are_those_of_the_first_epoch_with_the_highest_accuracy(tmp_path, monkeypatch):
    from . import small_run
    figures = iter([50.0, 50.0, 40.0, 60.0])
    monkeypatch.setattr(small_run, "validate", lambda model: {"top1": next(figures), "loss": 1.0})
    path, recipe = tmp_path / "run", replace(RECIPE, epochs=4)
    with pytest.raises(Stopped):
        run(path, each=interrupted_at(4), recipe=recipe)
    first = (path / "last.h5").read_bytes()
    with pytest.raises(Stopped):
        run(path, each=interrupted_at(6), resume=True, recipe=recipe)
    assert (path / "best.h5").read_bytes() == first != (path / "last.h5").read_bytes()
    _, screen = run(path, resume=True, recipe=recipe)
    assert [best for _, best in screen.lines] == [True]
    assert (path / "best.h5").read_bytes() == (path / "last.h5").read_bytes()
    assert screen.notes[-2] == f"weights: {path}/best.h5 (validation top1 60.00), {path}/last.h5"


def test_figures_of_a_validation_may_be_numpys(tmp_path, monkeypatch):
    """A loss of float32 logits is np.float32, which JSON cannot hold."""
    from . import small_run
    figures = {"top1": np.float32(50), "loss": np.float32(0.5), "images": np.int64(3)}
    monkeypatch.setattr(small_run, "validate", lambda model: figures)
    made, _ = run(tmp_path / "run", recipe=replace(RECIPE, epochs=1))
    assert [line["validation"] for line in made.folder.log.lines()] == [{"top1": 50.0, "loss": 0.5, "images": 3}]


@pytest.mark.parametrize("average", [0.9, 0.0])
def test_the_moving_average_is_what_is_validated_and_written(tmp_path, monkeypatch, average):
    from . import small_run
    seen = []
    monkeypatch.setattr(small_run, "validate", lambda model: seen.append(model) or {"top1": 50.0, "loss": 1.0})
    made, _ = run(tmp_path / "run", recipe=replace(RECIPE, epochs=1, average=average))
    expected = made.trainer.average.model if average else made.trainer.model
    assert seen == [expected] and (made.trainer.average is None) == (not average)
    for name in ("best.h5", "last.h5"):
        written = levit_np.load(tmp_path / "run" / name).state()
        assert all(np.array_equal(array, written[name]) for name, array in expected.state().items())


@pytest.mark.parametrize("what", ["data and settings", "weights to begin with"])
def test_ranks_that_do_not_agree_begin_no_run(tmp_path, what):
    class Ranks(SingleRank):
        def require_equal(self, asked, value):
            if asked == what:
                raise LevitError(f"{asked}: {value}")

    with pytest.raises(LevitError, match=what):
        run(tmp_path / "run", ranks=Ranks())
    assert not list((tmp_path / "run").rglob("*"))


def test_a_run_without_validation_has_no_best_weights(tmp_path, monkeypatch):
    from . import small_run
    monkeypatch.setattr(small_run, "validate", None)
    made, screen = run(tmp_path, recipe=replace(RECIPE, epochs=1))
    assert screen.notes[-2] == f"weights: {tmp_path}/last.h5" and not made.folder.best.exists()
    assert [("validation" in line, best) for line, best in screen.lines] == [(False, False)]


def test_between_the_ends_of_epochs_it_saves_as_often_as_asked(tmp_path, monkeypatch):
    """Steps take five seconds, there are three an epoch, and at most ten seconds may be lost."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("levit_np.training.run.time", SimpleNamespace(monotonic=lambda: clock.now))

    def each(step):
        clock.now += 5

    run(tmp_path / "run", each=each, save_seconds=10, saved=tmp_path / "saved")
    assert list((tmp_path / "saved").read_bytes()) == [2, 3, 5, 6, 8, 9]


def test_without_matplotlib_it_says_why_there_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    _, screen = run(tmp_path / "run", curves=True)
    assert screen.notes[-1] == (f"{tmp_path}/run/curves.png: not drawn: expected matplotlib, found none; pip install "
                                "'levit_np[train]'")


def test_the_curves_show_the_log(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pytest.importorskip("matplotlib.figure").Figure, "savefig",
                        lambda figure, file, **options: drawn.append(figure))
    lines = [{"epoch": n, "loss": 3.0 - n, "top1": 20.0 * n, "validation": {"loss": 4.0 - n, "top1": 10.0 * n}}
             for n in (1, 2)]
    draw(lines, tmp_path / "a.png")
    del lines[0]["validation"]
    draw(lines, tmp_path / "a.png")
    found = [[(axes.get_ylabel(), [(line.get_label(), *map(list, line.get_data())) for line in axes.lines])
              for axes in figure.axes] for figure in drawn]
    training, validation = "training (augmented)", "validation"
    assert found[0] == [
        ("loss", [(training, [1, 2], [2.0, 1.0]), (validation, [1, 2], [3.0, 2.0])]),
        ("top-1 accuracy, %", [(training, [1, 2], [20.0, 40.0]), (validation, [1, 2], [10.0, 20.0])])]
    assert found[1] == [(label, shown[:1]) for label, shown in found[0]]
    draw(lines[:1], tmp_path / "a.png")
    assert all(float(tick).is_integer() for axes in drawn[2].axes for tick in axes.get_xticks())


def test_the_place_of_the_curves_legend_is_not_searched_for(tmp_path, monkeypatch):
    """Where that takes more than a second, on a busy machine or for many epochs, Matplotlib warns."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("matplotlib.legend.time", SimpleNamespace(perf_counter=iter(range(0, 20, 2)).__next__))
    assert draw([{"epoch": 1, "loss": 2.0, "top1": 50.0}], tmp_path / "a.png") == f"curves: {tmp_path}/a.png"


def test_the_curves_need_no_latex(tmp_path, no_latex):
    assert draw([{"epoch": 1, "loss": 2.0, "top1": 50.0}], tmp_path / "a.png") == f"curves: {tmp_path}/a.png"


@pytest.mark.parametrize("other", [
    {"top1": 50.0}, {"loss": {"mean": 1}}, {"loss": [1, 2]}, {"loss": "low", "top1": None},
    {"validation": 5}, {"validation": {}}, {"validation": {"loss": "low", "top1": []}}])
def test_a_log_that_somebody_has_edited_is_drawn_as_far_as_it_goes(tmp_path, monkeypatch, other):
    drawn, figures = [], {"loss": 3.0, "top1": 40.0}
    save = pytest.importorskip("matplotlib.figure").Figure.savefig
    monkeypatch.setattr("matplotlib.figure.Figure.savefig",
                        lambda figure, *file, **options: drawn.append(figure) or save(figure, *file, **options))
    lines = [{"epoch": 1, "loss": 2.0, "validation": figures}, {"epoch": 2, "validation": figures} | other]
    assert draw(lines, tmp_path / "a.png") == f"curves: {tmp_path}/a.png"
    loss, top1 = (axes.lines[0].get_ydata() for axes in drawn[0].axes)
    assert (*loss, top1[0]) == (2.0, None, None)
    assert drawn[0].axes[0].lines[-1].get_ydata()[0] == (3.0 if other.get("validation") != 5 else 2.0)


@pytest.mark.parametrize("seed", range(4))
def test_cut_at_random_steps_it_ends_with_the_same_bytes(whole, tmp_path, seed):
    """Five interruptions each, in the middle of epochs and at their ends: weights, statistics, moments, average, random
    state and position, the weight files and the log are the same."""
    chance, path, done = random.Random(seed), tmp_path / "run", 0
    cuts = sorted(chance.sample(range(1, STEPS), 5))
    for number, cut in enumerate(cuts):
        with pytest.raises(Stopped) as stopped:
            run(path, resume=number > 0, each=interrupted_at(cut - done))
        assert stopped.value.status == 130
        done = cut
        arrays, document, skipped = Checkpoints(path / "checkpoints").newest()
        assert document["steps"] == cut and not skipped
    run(path, resume=True)
    assert end_of(path) == end_of(whole)


@pytest.mark.usefixtures("not_under_nohup")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_while_it_validates_ends_it_at_once_and_loses_nothing(whole, tmp_path, monkeypatch, number, status):
    from . import small_run
    validate = small_run.validate

    def disturbed(model):
        os.kill(os.getpid(), number)
        raise AssertionError("validation went on")

    monkeypatch.setattr(small_run, "validate", disturbed)
    with pytest.raises(Stopped) as stopped:
        run(tmp_path / "run")
    assert stopped.value.status == status
    monkeypatch.setattr(small_run, "validate", validate)
    run(tmp_path / "run", resume=True)
    assert end_of(tmp_path / "run") == end_of(whole)


def test_a_signal_while_the_first_checkpoint_is_written_ends_it_when_it_is_a_run(whole, tmp_path, monkeypatch):
    """Raised within h5py's work, a Ctrl-C could be dropped, and the training would continue."""
    save = Checkpoints.save

    def disturbed(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        save(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Checkpoints, "save", disturbed)
        run(tmp_path / "run")
    run(tmp_path / "run", resume=True)
    assert end_of(tmp_path / "run") == end_of(whole)


def test_a_signal_while_the_curves_are_drawn_comes_too_late(tmp_path, monkeypatch):
    """Everything is done by then. (Matplotlib too has weak references whose callbacks drop exceptions.)"""
    def disturbed(lines, path):
        os.kill(os.getpid(), signal.SIGINT)
        return "drawn"

    monkeypatch.setattr("levit_np.training.run.draw", disturbed)
    _, screen = run(tmp_path / "run", curves=True)
    assert screen.notes[-1] == "drawn"


def test_an_old_log_is_not_part_of_a_new_run(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    made, _ = run(tmp_path, recipe=replace(RECIPE, epochs=2))
    assert [(line["epoch"], "loss" in line) for line in made.folder.log.lines()] == [(1, True), (2, True)]


def damaged(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


DAMAGES = {"a bit": lambda data: data.__setitem__(len(data) // 2, data[len(data) // 2] ^ 1),
           "cut": lambda data: data.__delitem__(slice(len(data) // 2, None)),
           "empty": lambda data: data.clear(), "zeros": lambda data: data.__setitem__(slice(None), bytes(len(data)))}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(whole, tmp_path, damage):
    path = tmp_path / "run"
    with pytest.raises(Stopped):
        run(path, each=interrupted_at(7), save_seconds=0)
    newest = Checkpoints(path / "checkpoints").paths()[0]
    damaged(newest, DAMAGES[damage])
    _, screen = run(path, resume=True)
    assert f"left out: {newest}" in screen.notes[0]
    assert screen.notes[1] == "goes on after the last batch of epoch 2 of 3"
    assert end_of(path) == end_of(whole)


def test_newer_damaged_checkpoints_do_not_displace_valid_ones(tmp_path):
    """It continues from step 4, beside three damaged checkpoints with more steps; new checkpoints must be kept."""
    path = tmp_path / "run"
    with pytest.raises(Stopped):
        run(path, each=interrupted_at(4))
    folder = path / "checkpoints"
    for steps in (7, 8, 9):
        (folder / f"step-{steps:09}.h5").write_bytes(b"damaged")
    with pytest.raises(Stopped):
        run(path, resume=True, each=interrupted_at(1))
    _, document, skipped = Checkpoints(folder).newest()
    assert document["steps"] == 5 and len(skipped) == 3
    _, screen = run(path, resume=True)
    assert screen.notes[3] == "goes on in epoch 2, after batch 4 of 5"


def test_without_a_whole_checkpoint_it_does_not_begin_again(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(Stopped):
        run(path, each=interrupted_at(5), save_seconds=0)
    before = (path / "log.jsonl").read_bytes()
    for checkpoint in Checkpoints(path / "checkpoints").paths():
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(TrainingError, match="expected a whole checkpoint to go on from, found none; .*step-000000005.*"
                                            "step-000000004.*step-000000003"):
        run(path, resume=True)
    with pytest.raises(TrainingError, match="expected no run yet, found one; --resume goes on with it"):
        run(path)
    assert (path / "log.jsonl").read_bytes() == before
    for checkpoint in Checkpoints(path / "checkpoints").paths():
        checkpoint.unlink()
    with pytest.raises(TrainingError, match="found none$"):
        run(path, resume=True)


def test_a_weight_file_in_the_place_of_a_checkpoint(whole, tmp_path):
    (tmp_path / "step-000000012.h5").write_bytes((whole / "last.h5").read_bytes())
    with pytest.raises(TrainingError, match="expected the state of a training, found another file"):
        Checkpoints(tmp_path).newest()


def test_a_checkpoint_of_another_recipe_is_refused_with_its_place(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path / "run", each=interrupted_at(1))
    with pytest.raises(TrainingError, match="^.*run.checkpoints: .*: expected none, found float32"):
        run(tmp_path / "run", resume=True, recipe=replace(RECIPE, average=0.0))


def test_no_run_to_go_on_with(tmp_path):
    with pytest.raises(TrainingError, match="expected a run to go on with, found no config.json"):
        run(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_an_old_one_is_removed_only_when_the_new_one_reads_back(tmp_path, monkeypatch):
    checkpoints, document = Checkpoints(tmp_path), {"epoch": 0}
    for steps in range(5):
        checkpoints.save({"model.a": np.arange(3.0)}, document | {"steps": steps})
    assert [path.name[-4] for path in checkpoints.paths()] == ["4", "3", "2"]
    replace = os.replace

    def damaging(source, target):
        replace(source, target)
        damaged(tmp_path / os.path.basename(target), DAMAGES["a bit"])

    monkeypatch.setattr(os, "replace", damaging)
    with pytest.raises(CheckpointError, match="step-000000005.h5: damaged"):
        checkpoints.save({"model.a": np.arange(3.0)}, document | {"steps": 5})
    assert [path.name[-4] for path in checkpoints.paths()] == ["5", "4", "3", "2"]
    assert checkpoints.newest()[1]["steps"] == 4


def test_which_files_are_checkpoints(tmp_path):
    """Ten digits sort after nine; a copy made by somebody is not a checkpoint, and is never removed as an old one."""
    names = ["step-1000000000.h5", "step-999999999.h5", "step-000000001.h5"]
    for name in (*names, "step-000000002.h5.bak", "my step-000000002.h5", "step-2.h5"):
        hdf5.write(tmp_path / name, {}, {"training": "no state"})
    assert [path.name for path in Checkpoints(tmp_path).paths()] == names
    for folder, reasons in ((tmp_path, 3), (tmp_path / "no folder", 0)):
        with pytest.raises(TrainingError) as caught:
            Checkpoints(folder).newest()
        assert str(caught.value).count("expected the state of a training, found another file") == reasons


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    """Statistics may overflow although the loss does not."""
    made = trainer()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(*made.state())
    next(made.train_epoch())
    made.average.model.stem.convolutions[0].bn.variance[2] = np.inf
    with pytest.raises(CheckpointError,
                       match="average.stem.convolutions.0.bn.variance: expected finite values, found inf"):
        checkpoints.save(*made.state())
    assert checkpoints.newest()[1]["steps"] == 0


@pytest.mark.parametrize("average, said", [
    (0.9, "after all 9 steps it still holds 39 %"), (0.7, "holds 4 %"), (0.5, None), (0.0, None)])
def test_a_warning_for_an_average_close_to_the_first_weights(tmp_path, average, said):
    _, screen = run(tmp_path / "run", recipe=replace(RECIPE, average=average))
    assert [said in note for note in screen.notes if note.startswith("average: ")] == ([True] if said else [])


@pytest.mark.parametrize("changes, said", [
    ({"warmup_epochs": 4}, "whose last epoch begins at 0.0035 of 0.007;"), ({"warmup_epochs": 3}, None),
    ({"rate_changes": "epoch", "warmup_epochs": 2}, "begins at 0.0035 of 0.007;"), ({"rate_changes": "epoch"}, None),
    ({"epochs": 1, "rate_changes": "epoch"}, "begins at 1e-06 of 0.007;"),
    ({"epochs": 1, "rate_changes": "epoch", "warmup_epochs": 0}, None)])
def test_a_warning_for_a_warm_up_longer_than_the_training(tmp_path, changes, said):
    """As the paper's five epochs do in a training of three."""
    _, screen = run(tmp_path / "run", recipe=replace(RECIPE, **changes))
    assert [said in note for note in screen.notes if note.startswith("rate: ")] == ([True] if said else [])


@pytest.mark.parametrize("rate, said", [(4e-4, ["rate: its peak for so few images per step, 9.4e-06, is below"]),
                                        (5e-4, [])])
def test_a_peak_below_the_final_rate_says_so(tmp_path, rate, said):
    """As the paper's is for ten images a step."""
    _, screen = run(tmp_path / "run", recipe=replace(RECIPE, rate=rate))
    assert [note.partition(" the final")[0] for note in screen.notes if note.startswith("rate: ")] == said


def test_skipped_images_are_written_down(tmp_path):
    from .in_memory import MemoryLoader

    class Holes(MemoryLoader):
        def batch_at(self, epoch, step):
            return super().batch_at(epoch, step)._replace(skipped=(("a.png", "a.png: truncated"),) if step == 1 else ())

    _, screen = run(tmp_path / "run", loader=Holes())
    assert (tmp_path / "run/skipped.txt").read_text() == "a.png: truncated\n"
    assert screen.notes.count("skipped: a.png: truncated") == 1


def test_an_image_that_is_skipped_again_once_a_run_goes_on_is_not_written_down_again(tmp_path):
    made, _ = run(tmp_path / "run")
    for again in (made, Run(made.trainer, made.folder, screen=Silent())):
        again.record_skipped([("a.png", "a.png: truncated"), ("\udcff.png", r"'\udcff.png': truncated")])
    assert (tmp_path / "run/skipped.txt").read_text() == "a.png: truncated\n'\\udcff.png': truncated\n"
    assert again.screen.notes == ["skipped: a.png: truncated", r"skipped: '\udcff.png': truncated"]


def test_a_batch_of_which_one_image_is_left_names_those_skipped(tmp_path):
    from .in_memory import MemoryLoader

    class Holes(MemoryLoader):
        def batch_at(self, epoch, step):
            batch = super().batch_at(epoch, step)
            if (epoch, step) != (1, 3):  # the second of its step
                return batch
            bad = tuple((f"{n}.png", f"{n}.png: truncated") for n in range(5))
            return type(batch)(*(values[5:] for values in batch[:4]), bad)

    with pytest.raises(TrainingError, match=r"epoch 2, batch 4 of 5: small: expected at least two images .*larger batch"
                                            "; skipped: 0.png, 1.png, 2.png, 3.png, 4.png"):
        run(tmp_path / "run", loader=Holes())


def test_a_half_line_of_the_log_is_cut_and_no_epoch_stands_twice(whole, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(Stopped):
        run(path, each=interrupted_at(5))
    with open(path / "log.jsonl", "ab") as file:
        file.write(b'{"epoch": 2, "loss": 0.1}\n{"epoch": 3, "lo')
    run(path, resume=True)
    assert end_of(path) == end_of(whole)
