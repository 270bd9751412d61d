"""The memory that steps of training share: nobody's while somebody's, somebody's again when nobody's."""

import threading

import numpy as np
import pytest

from levit_np.ops.cpu import blocks
from levit_np.ops.cpu.blocks import LARGE, block


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(blocks, "_here", threading.local())


def place(array):
    return array.ctypes.data


def sizes():
    return {size: len(some) for size, some in blocks._blocks()._kept.items() if some}


def test_memory_is_used_again_once_no_array_lies_in_it():
    first, second = block(LARGE), block(LARGE)
    where, view = place(first), memoryview(first[5:9].reshape(2, 2).T)
    assert place(second) != where
    del first
    third = block(LARGE)
    assert place(third) not in (where, place(second)) and place(np.asarray(view)) == where + 20
    del view
    again = [place(block(LARGE)) for _ in "12"]
    assert again == [where, where]


def test_what_lies_idle_for_long_goes_back(monkeypatch):
    monkeypatch.setattr(blocks, "LONG", 5)
    held = [block(LARGE) for _ in range(3)]
    block(2 * LARGE)
    del held[1:]
    assert sizes() == {LARGE: 3, 2 * LARGE: 1}
    for _ in range(5):
        block(3 * LARGE)
    assert sizes() == {LARGE: 3, 2 * LARGE: 1, 3 * LARGE: 1}  # all asked for within the last five, or nearly
    block(3 * LARGE)
    assert sizes() == {LARGE: 1, 3 * LARGE: 1}


def test_small_blocks_and_those_of_other_threads_are_not_kept():
    block(LARGE - 1)
    thread = threading.Thread(target=block, args=(LARGE,))
    thread.start()
    thread.join()
    assert not sizes()


def test_a_step_finds_the_memory_of_the_one_before():
    """And gives the same, whatever stands in it."""
    from levit_np.ops import cpu

    x = np.random.default_rng(0).standard_normal((1100, 500), np.float32)
    gamma, beta = np.ones((2, 500), np.float32)

    def step():
        y, statistics = cpu.batch_norm_hardswish(x, gamma, beta, 1e-5)
        return cpu.batch_norm_hardswish_backward(y, x, gamma, beta, statistics, 1e-5)

    expected = [np.copy(a) for a in step()]
    before = sizes()
    assert before
    for kept in (kept for some in blocks._blocks()._kept.values() for kept in some):
        kept[0][...] = np.nan
    assert all(np.array_equal(a, b) for a, b in zip(step(), expected)) and sizes() == before
