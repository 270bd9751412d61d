"""For any sizes and recipes, batches do not depend on ranks, on where training resumes, or on the order in which they
are asked for."""

from dataclasses import replace
from io import BytesIO

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from levit_np.training.data.loader import Loader
from levit_np.training.recipe import RECIPES


def png(number: int) -> bytes:
    file = BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (5 + number % 4, 9 - number % 3, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PICTURES = [png(number) for number in range(50)]


class Pictures:
    """Images in memory, with everything that the loader needs of a source."""

    classes = ["a", "b", "c"]

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def target(self, index):
        return index % 3

    def name(self, index):
        return f"picture {index}"

    def read(self, index):
        return PICTURES[index]


@st.composite
def cases(draw):
    share, ranks = draw(st.sampled_from([2, 4, 6])), draw(st.integers(1, 4))
    count = draw(st.integers(share * ranks, 50))
    recipe = replace(
        RECIPES[draw(st.sampled_from(sorted(RECIPES)))], repeats=draw(st.integers(1, 4)),
        mixup=draw(st.sampled_from([0, 0.8])), cutmix=draw(st.sampled_from([0, 1])),
        mix_probability=draw(st.sampled_from([0, 0.5, 1])), jitter=draw(st.sampled_from([0, 0.4])),
        smoothing=draw(st.sampled_from([0, 0.1])))
    seed, epoch, channels = draw(st.integers(0, 2**40)), draw(st.integers(0, 1500)), draw(st.sampled_from([1, 3]))
    return share, ranks, count, recipe, seed, epoch, channels


@settings(max_examples=60, deadline=None)
@given(cases(), st.data())
def test_ranks_and_cuts_change_nothing(case, data):
    share, ranks, count, recipe, seed, epoch, channels = case

    def loader(batch, rank=0, of=1):
        return Loader(Pictures(count), recipe, image_size=(6, 7), in_channels=channels, batch=batch, seed=seed,
                      rank=rank, ranks=of)

    whole = loader(share * ranks)
    expected = list(whole.epoch(epoch))
    first = data.draw(st.integers(0, whole.steps))
    shares = [list(loader(share, rank, ranks).epoch(epoch, first)) for rank in range(ranks)]
    assert all(len(part) == len(expected) - first for part in shares)
    for batch, *parts in zip(expected[first:], *shares, strict=True):
        for place in range(3):
            assert np.array_equal(batch[place], np.concatenate([part[place] for part in parts]))
        assert np.isfinite(batch.images).all() and (batch.targets >= 0).all()
        np.testing.assert_allclose(batch.targets.sum(axis=1), 1, rtol=1e-5)
        # The mean target counts each image's class equally, however images were mixed within the batch.
        classes = np.bincount([index % 3 for index in batch.indices], minlength=3) / len(batch.indices)
        smoothed = (1 - recipe.smoothing) * classes + recipe.smoothing / 3
        np.testing.assert_allclose(batch.targets.mean(axis=0), smoothed, atol=1e-6)
