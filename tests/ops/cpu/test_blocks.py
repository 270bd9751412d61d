"""The memory that steps of training share: nobody's while somebody's, somebody's again when nobody's."""

import threading

import numpy as np
import pytest

from levit_np.ops.cpu import blocks
from levit_np.ops.cpu.blocks import LARGE, Blocks, block


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


def test_what_is_recorded_stays_where_it_is_however_little():
    """It begins with the memory that was there, and in the end has no more than was asked for meanwhile."""
    others, recorded = Blocks(), Blocks()
    where = [place(others.block(size)) for size in (LARGE, 2 * LARGE)]
    recorded.take_over(others)
    there = others.block(LARGE)
    assert place(there) not in where  # what was given away is not given again
    recorded.begin()
    large, little = recorded.block(LARGE), recorded.block(3)
    assert place(large) == where[0] and recorded.holds(large) and recorded.holds(little)
    assert not recorded.holds(there) and not recorded.holds(np.empty(3, np.float32))
    where[1] = place(little)
    del little
    assert place(recorded.block(3)) == where[1]
    recorded.end()
    assert {size: len(some) for size, some in recorded._kept.items() if some} == {LARGE: 1, 3: 1}


def test_what_is_in_use_is_not_given_up():
    recorded = Blocks()
    held = recorded.block(LARGE)
    recorded.begin()
    recorded.end()
    assert recorded.holds(held)


def test_the_memory_of_a_recording_does_not_go_back_meanwhile(monkeypatch):
    monkeypatch.setattr(blocks, "LONG", 2)
    recorded = Blocks()
    recorded.begin()
    recorded.block(5)
    for _ in range(6):
        recorded.block(7)
    assert recorded._kept[5]


def test_unshared_memory_is_given_once():
    given = {place(blocks.unshared(LARGE)) for _ in range(3)}
    assert len(given) == 3 and not sizes()


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
