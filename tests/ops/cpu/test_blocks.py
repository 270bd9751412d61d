"""Blocks of memory that training steps reuse: a block is free again once no array uses it."""

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


def test_memory_is_reused_once_no_array_uses_it():
    first, second = block(LARGE), block(LARGE)
    where, view = place(first), memoryview(first[5:9].reshape(2, 2).T)
    assert place(second) != where
    del first
    third = block(LARGE)
    assert place(third) not in (where, place(second)) and place(np.asarray(view)) == where + 20
    del view
    again = [place(block(LARGE)) for _ in "12"]
    assert again == [where, where]


def test_memory_that_is_idle_for_long_is_freed(monkeypatch):
    monkeypatch.setattr(blocks, "LONG", 5)
    held = [block(LARGE) for _ in range(3)]
    block(2 * LARGE)
    del held[1:]
    assert sizes() == {LARGE: 3, 2 * LARGE: 1}
    for _ in range(5):
        block(3 * LARGE)
    assert sizes() == {LARGE: 3, 2 * LARGE: 1, 3 * LARGE: 1}  # all were requested within the last five, or nearly
    block(3 * LARGE)
    assert sizes() == {LARGE: 1, 3 * LARGE: 1}


def test_small_blocks_and_those_of_other_threads_are_not_kept():
    block(LARGE - 1)
    thread = threading.Thread(target=block, args=(LARGE,))
    thread.start()
    thread.join()
    assert not sizes()


def test_a_recordings_memory_keeps_its_place_even_small_blocks():
    """A recording takes over existing memory, and in the end keeps no more than was requested during it."""
    others, recorded = Blocks(), Blocks()
    where = [place(others.block(size)) for size in (LARGE, 2 * LARGE)]
    recorded.take_over(others)
    there = others.block(LARGE)
    assert place(there) not in where  # memory that was taken over is not given out again
    recorded.begin()
    large, little = recorded.block(LARGE), recorded.block(3)
    assert place(large) == where[0] and recorded.holds(large) and recorded.holds(little)
    assert not recorded.holds(there) and not recorded.holds(np.empty(3, np.float32))
    where[1] = place(little)
    del little
    assert place(recorded.block(3)) == where[1]
    recorded.end()
    assert {size: len(some) for size, some in recorded._kept.items() if some} == {LARGE: 1, 3: 1}


def test_memory_in_use_is_not_freed():
    recorded = Blocks()
    held = recorded.block(LARGE)
    recorded.begin()
    recorded.end()
    assert recorded.holds(held)


def test_memory_is_not_freed_during_a_recording(monkeypatch):
    monkeypatch.setattr(blocks, "LONG", 2)
    recorded = Blocks()
    recorded.begin()
    recorded.block(5)
    for _ in range(6):
        recorded.block(7)
    assert recorded._kept[5]


def test_unshared_memory_is_never_reused():
    given = {place(blocks.unshared(LARGE)) for _ in range(3)}
    assert len(given) == 3 and not sizes()


def test_a_step_reuses_the_memory_of_the_previous_one():
    """The second step gives the same result, whatever the reused memory contains."""
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
