"""Batches are the same for any number of workers, kind of source, place of resumption and number of ranks; and what
they contain."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from levit_np.errors import ConfigError, DataError, ImageError
from levit_np.images.preprocessing import preprocess, preprocessing_named
from levit_np.training.augmentation.mixing import draw_mixture
from levit_np.training.data.folder import Folder
from levit_np.training.data.loader import EvaluationLoader, Loader
from levit_np.training.data.pack import pack
from levit_np.training.data.packed import Packed
from levit_np.training.data.steps import EvaluationSteps, TrainingSteps
from levit_np.training.data.streams import MIXING, stream
from levit_np.training.recipe import RECIPES, Recipe

from ..image_folders import digits_folder, make_folder

SIZE = 24, 28
PLAIN = Recipe(mixup=0, cutmix=0, crop_scale=(1, 1), crop_ratio=(1, 1), flip=0, augment_layers=0, erase=0, repeats=1)
EPOCHS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Folder(make_folder(tmp_path_factory.mktemp("images") / "train", classes=3, images=9))


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "train.h5"
    pack(folder, path)
    return Packed(path)


def loader(source, chosen=Recipe(), **options):
    return Loader(source, chosen, **{"image_size": SIZE, "in_channels": 3, "batch": 8, "seed": 11, **options})


def batches(loader, epochs=range(EPOCHS)):
    with loader:
        return [batch for epoch in epochs for batch in loader.epoch(epoch)]


def assert_same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.names == b.names and a.skipped == b.skipped
        assert all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a[:3], b[:3], strict=True))


@pytest.fixture(scope="module")
def expected(folder):
    """The batches of a single process, with which the others are compared."""
    return batches(loader(folder))


def test_a_batch(folder, expected):
    assert len(expected) == EPOCHS * (27 // 8)
    for batch in expected:
        assert batch.images.shape == (8, 3, *SIZE) and batch.images.dtype == np.float32
        assert batch.targets.shape == (8, 3) and batch.targets.dtype == np.float32
        np.testing.assert_allclose(batch.targets.sum(axis=1), 1, rtol=1e-6)
        assert batch.names == tuple(folder.name(index) for index in batch.indices) and batch.skipped == ()
    assert not np.array_equal(expected[0].images, expected[3].images)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_nothing(folder, packed, expected, workers):
    assert_same(batches(loader(packed if workers == 2 else folder, workers=workers)), expected)


def test_a_packed_file_changes_nothing(packed, expected):
    assert_same(batches(loader(packed)), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_at_any_step(folder, expected, workers):
    """A loader is asked for every step, from the last to the first, and each time continues to the end of the epoch."""
    with loader(folder, workers=workers) as resumed:
        for place in reversed(range(len(expected))):
            epoch, step = divmod(place, resumed.steps)
            assert_same(list(resumed.epoch(epoch, step)), expected[place : (epoch + 1) * resumed.steps])


@pytest.mark.parametrize("workers", [0, 1])
def test_ranks_share_a_global_batch(folder, expected, workers):
    shares = [batches(loader(folder, batch=4, rank=rank, ranks=2, workers=workers)) for rank in range(2)]
    for place, whole in enumerate(expected):
        for part, name in enumerate(("images", "targets", "indices")):
            joined = np.concatenate([shares[rank][place][part] for rank in range(2)])
            assert np.array_equal(joined, getattr(whole, name))


def test_steps_that_are_prepared_ahead_are_the_next_ones(folder):
    """Otherwise workers would prepare a step that nobody asks for, and the next one too late."""
    authors = preprocessing_named("authors", SIZE, 3)
    training = TrainingSteps(folder, Recipe(), authors, 11, 8, 0, 1, False)
    assert [training.after(4, step) for step in range(3)] == [(4, 1), (4, 2), (5, 0)]
    evaluation = EvaluationSteps(folder, authors, 8, 0, 1, False)
    assert [evaluation.after(0, step) for step in range(4)] == [(0, 1), (0, 2), (0, 3), None]


def test_another_seed_another_epoch(folder, expected):
    assert not np.array_equal(next(loader(folder, seed=12).epoch(0)).indices, expected[0].indices)
    assert not np.array_equal(expected[len(expected) // EPOCHS].indices, expected[0].indices)


def test_without_augmentation_a_batch_is_the_images(tmp_path):
    """Square pictures, cropped completely: Pillow's own resize, then normalised; targets follow the formula."""
    folder = Folder(make_folder(tmp_path / "d", classes=2, images=4))
    for index in range(len(folder)):
        Image.open(folder.path(index)).resize((33, 33)).save(folder.path(index))
    (batch,) = loader(folder, replace(PLAIN, smoothing=0.3), image_size=(24, 24)).epoch(0)
    assert sorted(batch.indices) == list(range(8))
    for x, target, index in zip(*batch[:3]):
        picture = Image.open(folder.path(index)).convert("RGB").resize((24, 24), Image.Resampling.BICUBIC)
        expected = (np.asarray(picture) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(x, expected.transpose(2, 0, 1), atol=2e-6)
        smoothed = np.full(2, 0.15)
        smoothed[index // 4] = 0.85
        np.testing.assert_allclose(target, smoothed, rtol=1e-6)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_neighbours_are_mixed_with_the_same_share(folder, kind):
    on = replace(Recipe(), **{"mixup": 0.0, "cutmix": 0.0, kind: 1.0})
    apart = batches(loader(folder, replace(on, **{kind: 0.0})))
    shares = set()
    for place, (mixed, single) in enumerate(zip(batches(loader(folder, on)), apart, strict=True)):
        partner = np.arange(8) ^ 1
        assert np.array_equal(mixed.indices, single.indices) and (mixed.indices != mixed.indices[partner]).all()
        plan = TrainingSteps(folder, on, preprocessing_named("authors", SIZE, 3), 11, 8, 0, 1, False)
        share, box = plan.mixture(*divmod(place, 3))
        shares.add(share)
        if kind == "mixup":
            assert box is None
            images = share * single.images.astype(np.float64) + (1 - share) * single.images[partner]
        else:
            inside = np.zeros(SIZE, bool)
            inside[box] = True
            assert share == pytest.approx(1 - inside.mean())
            images = np.where(inside, single.images[partner], single.images)
        np.testing.assert_allclose(mixed.images, images, atol=1e-5)
        targets = share * single.targets + (1 - share) * single.targets[partner]
        np.testing.assert_allclose(mixed.targets, targets, rtol=1e-5)
    assert len(shares) > 3   # not the same for all steps


def test_no_two_images_are_augmented_alike(tmp_path):
    """Not even copies of one image in one batch: each position of each epoch has its own random numbers."""
    folder = Folder(make_folder(tmp_path / "d", classes=2, images=6))
    for index in range(len(folder)):
        folder.path(index).write_bytes(folder.read(0))
    made = [image.tobytes() for seed in (0, 1) for batch in
            batches(loader(folder, Recipe(mixup=0, cutmix=0, repeats=3), batch=4, seed=seed)) for image in batch.images]
    assert len(made) == len(set(made)) == 2 * EPOCHS * 12


def test_each_step_draws_its_mixture_as_the_recipe_says(folder):
    on = Recipe(mixup=0.3, cutmix=0.7, mix_probability=0.6, mix_switch=0.8)
    plan = TrainingSteps(folder, on, preprocessing_named("authors", SIZE, 3), 11, 8, 0, 1, False)
    for epoch, step in np.ndindex(3, 3):
        assert plan.mixture(epoch, step) == draw_mixture(0.3, 0.7, 0.6, 0.8, SIZE, stream(11, MIXING, epoch, step))


def test_grey_preprocessing_gives_one_channel(tmp_path):
    folder = Folder(digits_folder(tmp_path / "digits", images=4))
    chosen = replace(RECIPES["small"], jitter=0.4)
    digits = loader(folder, chosen, image_size=(32, 32), in_channels=1, preprocessing=preprocessing_named("digits"))
    for batch in batches(digits):
        assert batch.images.shape == (8, 1, 32, 32) and np.isfinite(batch.images).all()
    assert folder.classes == list("0123456789")


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_has_every_image_once(folder, packed, workers):
    authors = preprocessing_named("authors", SIZE, 3)
    with EvaluationLoader(packed, authors, batch=8, workers=workers) as evaluation:
        for _ in range(2):   # the loader can be used again
            found = list(evaluation)
            assert evaluation.steps == 4 and [len(batch.images) for batch in found] == [8, 8, 8, 3]
            assert np.concatenate([batch.indices for batch in found]).tolist() == list(range(27))
            for batch in found:
                for x, target, index in zip(*batch[:3]):
                    assert np.array_equal(x, preprocess(folder.path(index), authors))
                    assert target.tolist() == np.eye(3)[index // 9].tolist()


def test_a_batch_of_more_images_than_there_are_takes_no_room_for_them(folder):
    (batch,) = EvaluationLoader(folder, preprocessing_named("authors", SIZE, 3), batch=10**30)
    assert batch.images.shape == (27, 3, *SIZE) and batch.indices.tolist() == list(range(27))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 30])
def test_ranks_share_an_evaluation(folder, ranks):
    authors = preprocessing_named("authors", SIZE, 3)
    parts = [[batch.indices.tolist() for batch in EvaluationLoader(folder, authors, batch=5, rank=rank, ranks=ranks)]
             for rank in range(ranks)]
    assert sum((indices for part in parts for indices in part), []) == list(range(27))
    sizes = [sum(map(len, part)) for part in parts]
    assert [len(part) for part in parts] == [-(-size // 5) for size in sizes]   # no batch is empty
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("options, error, words", [
    ({"batch": 7}, ConfigError, "expected an even number"),
    ({"batch": 0}, ConfigError, "expected 1 or more"),
    ({"seed": None}, ConfigError, "seed: expected a whole number from 0, found None"),
    ({"seed": -1}, ConfigError, "seed: expected a whole number from 0, found -1"),
    ({"batch": 28}, DataError, "expected at least the 28 images of one step, found 27"),
    ({"batch": 14, "ranks": 2}, DataError, "expected at least the 28 images"),
    ({"rank": 2, "ranks": 2}, ConfigError, "expected 0 to 1, found 2"),
    ({"workers": -1}, ConfigError, "expected 0 or more"),
    ({"bad_files": "replace"}, ConfigError, "expected 'stop' or 'skip'"),
    ({"preprocessing": preprocessing_named("digits")}, ConfigError, "expected 3 channels"),
    ({"preprocessing": preprocessing_named("authors", (24, 24), 3)}, ConfigError,
     r"expected 3 channels of \(24, 28\), found RGB of \(24, 24\)"),
])
def test_wrong_use(folder, options, error, words):
    with pytest.raises(error, match=words):
        loader(folder, **options)


@pytest.mark.parametrize("options, words", [
    ({"batch": 0}, "batch: expected 1 or more, found 0"), ({"rank": -1}, "rank: expected 0 to 0, found -1"),
    ({"bad_files": "replace"}, "bad_files: expected 'stop' or 'skip', found 'replace'"),
    ({"workers": -1}, "workers: expected 0 or more, found -1")])
def test_wrong_use_in_an_evaluation(folder, options, words):
    with pytest.raises(ConfigError, match=words):
        EvaluationLoader(folder, preprocessing_named("authors", SIZE, 3), **{"batch": 8} | options)


@pytest.mark.parametrize("unmixed", [{"mixup": 0, "cutmix": 0}, {"mix_probability": 0}], ids=str)
def test_an_odd_batch_without_mixing(folder, unmixed):
    assert [len(batch.images) for batch in batches(loader(folder, Recipe(**unmixed), batch=7))] == [7] * 6


@pytest.fixture
def damaged(tmp_path):
    folder = Folder(make_folder(tmp_path / "d", classes=2, images=8))
    for index, data in ((3, b"no image"), (9, folder.read(9)[:200]), (12, b"")):
        folder.path(index).write_bytes(data)
    return folder


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_bad_file_stops_the_run_and_is_named(damaged, workers):
    """The first of the batch, whichever worker found one first."""
    order = next(iter(loader(damaged, bad_files="skip", batch=16).epoch(0)))
    first = order.skipped[0][0]
    with loader(damaged, batch=16, workers=workers) as stopped, pytest.raises(ImageError, match=first):
        list(stopped.epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_files_are_recorded_and_replaced_by_nothing(damaged, workers):
    on = Recipe(repeats=1, cutmix=0, mixup=1)
    (whole,) = loader(damaged, on, batch=16, bad_files="skip", workers=workers).epoch(0)
    (single,) = loader(damaged, replace(on, mixup=0.0), batch=16, bad_files="skip").epoch(0)
    bad = {3, 9, 12}
    assert {name for name, _ in whole.skipped} == {damaged.name(index) for index in bad}
    assert all(reason.startswith(name) for name, reason in whole.skipped)
    assert sorted(whole.indices) == sorted(set(range(16)) - bad) and len(whole.images) == len(whole.targets) == 13
    # An image whose partner for mixing is bad is left as it is.
    order = TrainingSteps(damaged, on, preprocessing_named("authors", SIZE, 3), 11, 16, 0, 1, True).indices(0, 0)
    kept = [place for place in range(16) if order[place] not in bad]
    for row, place in enumerate(kept):
        alone = order[place ^ 1] in bad
        assert np.array_equal(whole.images[row], single.images[row]) == alone
        same_class = order[place] // 8 == order[place ^ 1] // 8
        assert np.array_equal(whole.targets[row], single.targets[row]) == (alone or same_class)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_files_are_named_in_the_order_of_their_rows(tmp_path, workers):
    """The first of two workers has the first and the last of them, the second the other."""
    folder, on = Folder(make_folder(tmp_path / "d", classes=2, images=8)), Recipe(repeats=1)
    bad = next(loader(folder, on, batch=16).epoch(0)).indices[[1, 3, 5]]
    for index in bad:
        folder.path(index).write_bytes(b"no image")
    (batch,) = batches(loader(folder, on, batch=16, bad_files="skip", workers=workers), epochs=[0])
    assert [name for name, _ in batch.skipped] == [folder.name(index) for index in bad]


def test_an_evaluation_stops_at_a_bad_file_or_goes_on_without_it(damaged):
    authors, bad = preprocessing_named("authors", SIZE, 3), {3, 9, 12}
    damaged.path(12).unlink()
    with pytest.raises(ImageError, match=f"^{damaged.name(3)}: "):
        list(EvaluationLoader(damaged, authors, batch=5))
    for batch in (5, 1):  # in batches of one, the bad image's batch is empty
        loader = EvaluationLoader(damaged, authors, batch=batch, bad_files="skip")
        found = list(loader)
        assert loader.skips and len(found) == loader.steps == -(-16 // batch)
        kept = np.concatenate([part.indices for part in found])
        assert kept.tolist() == sorted(set(range(16)) - bad)
        assert np.array_equal(np.concatenate([part.targets for part in found]), np.eye(2)[kept // 8])
        images = np.concatenate([part.images for part in found])
        for image, index in zip(images, kept, strict=True):
            assert np.array_equal(image, preprocess(damaged.path(index), authors))
        assert [name for part in found for name, _ in part.skipped] == [damaged.name(index) for index in sorted(bad)]
        assert all(reason.startswith(f"{name}: ") and reason.count(name) == 1 and "bytes: " not in reason
                   for part in found for name, reason in part.skipped)


def test_nothing_usable(tmp_path):
    folder = Folder(make_folder(tmp_path / "d", classes=2, images=2))
    for index in range(4):
        folder.path(index).write_bytes(b"no image")
    with pytest.raises(DataError, match="epoch 1, batch 1 of 1: expected an image that can be used, found "
                                        r"none; skipped: class./00..\w+, class./00..\w+, the first for: class./00"):
        list(loader(folder, batch=4, bad_files="skip").epoch(0))
