"""The order of images in an epoch, against the definition of repeated augmentation, for any sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_np.training.data.order import epoch_order
from levit_np.training.data.streams import AUGMENTATION, MIXING, ORDER, stream

SIZES = {"count": st.integers(1, 300), "repeats": st.integers(1, 5), "global_batch": st.integers(1, 40),
         "seed": st.integers(0, 2**64), "epoch": st.integers(0, 2000)}


def sequence_of(order):
    """The sampler's sequence, with the interleaving of each batch's halves undone."""
    return np.concatenate([order[:, 0::2], order[:, 1::2]], axis=1).ravel()


@settings(deadline=None)
@given(**SIZES)
def test_an_epoch_is_a_sequence_of_repeated_shuffled_images(count, repeats, global_batch, seed, epoch):
    """Like the authors' sampler: no more positions than images, and each image `repeats` times in succession."""
    order = epoch_order(count, seed=seed, epoch=epoch, repeats=repeats, global_batch=global_batch)
    assert order.shape == (count // global_batch, global_batch)
    row = sequence_of(order)
    chosen = row[::repeats]
    assert np.array_equal(row, [image for image in chosen for _ in range(repeats)][: len(row)])
    assert len(set(chosen.tolist())) == len(chosen) == -(-len(row) // repeats)
    assert all(0 <= image < count for image in chosen)


@settings(deadline=None)
@given(**SIZES)
def test_copies_are_not_neighbours(count, repeats, global_batch, seed, epoch):
    """Neither is an image mixed with its copy, nor do copies follow each other."""
    order = epoch_order(count, seed=seed, epoch=epoch, repeats=repeats, global_batch=global_batch)
    if global_batch >= 2 * (repeats + 1):
        assert (order[:, 1:] != order[:, :-1]).all()


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return epoch_order(60, seed=seed, epoch=epoch, repeats=1, global_batch=6).ravel().tolist()

    first = order(1, 0)
    assert sorted(first) == list(range(60))   # without repeats, every image once
    epoch_order.cache_clear()
    assert order(1, 0) == first
    assert len({tuple(order(seed, epoch)) for seed in range(5) for epoch in range(5)}) == 25


def test_a_cached_order_cannot_be_modified():
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(60, seed=1, epoch=0, repeats=1, global_batch=6)[0, 0] = 1


def test_each_image_is_equally_likely_at_each_position():
    """Chi-square of 2,000 epochs' first positions, 9 degrees of freedom: 27.9 is exceeded with probability 0.001."""
    firsts = [epoch_order(10, seed=3, epoch=epoch, repeats=3, global_batch=10)[0, 0] for epoch in range(2000)]
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9


def test_different_positions_have_different_random_streams():
    places = [(0, purpose, *place) for purpose in (ORDER, AUGMENTATION, MIXING)
              for place in ((), (0,), (1,), (0, 0), (0, 1), (1, 0))]
    places += [(1, 0, 0), (2**32, 0, 0), (2**32 + 1, 0, 0)]
    drawn = {stream(*place).integers(2**63) for place in places}
    assert len(drawn) == len(places)
