"""A model on the cpu backend in a forked process, whatever its threads were doing, and in spawned processes; interrupts
and errors while several threads compute."""

import concurrent.futures
import ctypes
import multiprocessing
import os
import threading
import time
import weakref

import numpy as np
import pytest

import levit_np
from levit_np import classifier
from levit_np.ops.cpu import library, threads

from ...can_start import NEEDS_INTERPRETER
from ...forked import forked
from ...random_model import random_images, random_model
from .spawned import logits

PATIENCE = 60  # seconds for a child
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True)
def two_threads():
    levit_np.set_threads(2)
    yield
    levit_np.set_threads(1)


@FORK
def test_a_model_still_works_after_a_fork():
    model = random_model(backend="cpu")
    x = random_images(model, 3)
    expected = model(x)
    assert forked(lambda: np.array_equal(model(x), expected)) == 0
    assert forked(lambda: forked(lambda: np.array_equal(model(x), expected)) == 0) == 0  # a grandchild
    assert np.array_equal(model(x), expected)
    # a model that the child makes itself
    assert forked(lambda: np.array_equal(random_model(backend="cpu")(x), expected)) == 0


@FORK
@pytest.mark.parametrize("module, name", [(threads, "_turn"), (library, "_lock"), (classifier, "_making")])
def test_a_lock_that_another_thread_holds_while_the_process_forks(module, name):
    model = random_model(backend="cpu")
    x = random_images(model, 2)
    expected, held, done = model(x), threading.Event(), threading.Event()

    def hold():
        with getattr(module, name):
            held.set()
            done.wait(PATIENCE)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        assert forked(lambda: np.array_equal(random_model(backend="cpu")(x), expected)) == 0
    finally:
        done.set()
        holder.join()


def test_a_single_thread_is_the_callers():
    calls = []
    threads.run_with_threads(lambda *call: calls.append((threading.current_thread(), *call)), 1)
    assert calls == [(threading.current_thread(), 0, 0)]


def test_after_an_interrupt_no_thread_waits_forever():
    """Like Ctrl-C after the jobs were handed out: the other threads wait for all after their first step, and must not
    wait forever."""
    done, interrupts = threading.Event(), [KeyboardInterrupt, None]

    def part(thread, counter):
        if thread == 0 and (error := interrupts.pop(0)):
            raise error
        came = ctypes.c_int64.from_address(counter)
        with arrival:
            came.value += 1
        while came.value < 2:
            time.sleep(0.001)
        if thread:
            done.set()

    arrival = threading.Lock()
    with pytest.raises(KeyboardInterrupt):
        threads.run_with_threads(part, 2)
    assert done.wait(PATIENCE) and interrupts == []
    interrupts, other = [ValueError], threading.Event()
    with pytest.raises(ValueError):  # before anything is handed out
        threads.run_with_threads(lambda thread, counter: part(0, 0), 1)
    threads.run_with_threads(lambda thread, counter: thread and other.set(), 2)
    assert other.wait(PATIENCE)


def test_idle_threads_keep_nothing_alive():
    """Neither a model that they computed with, nor the process."""
    def part(thread, counter):
        pass

    threads.run_with_threads(part, 3)
    kept = weakref.ref(part)
    del part
    for _ in range(int(PATIENCE * 100)):
        if kept() is None:
            break
        time.sleep(0.01)
    assert kept() is None
    waiting = [thread for thread in threading.enumerate() if thread.name in ("levit_np 1", "levit_np 2")]
    assert len(waiting) == 2 and all(thread.daemon for thread in waiting)


def test_an_error_before_the_jobs_are_handed_out_starts_nothing(monkeypatch):
    """For example when no more threads can be started: a thread that began would wait for the others forever."""
    def none(count):
        raise RuntimeError("can't start new thread")

    calls = []
    with monkeypatch.context() as patched:
        patched.setattr(threads, "_workers", none)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threads.run_with_threads(lambda *call: calls.append(call), 2)
    assert not calls


def test_after_a_late_interrupt_no_part_runs_twice():
    calls, arrival = [], threading.Lock()

    def part(thread, counter):
        calls.append(thread)
        came = ctypes.c_int64.from_address(counter)
        with arrival:
            came.value += 1
        while came.value < 2:
            time.sleep(0.001)
        if thread == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        threads.run_with_threads(part, 2)
    assert sorted(calls) == [0, 1]


def test_calls_of_several_threads_take_turns():
    """A second call would make its workers wait at a barrier, and keep a processor busy meanwhile."""
    begun, go_on, second = threading.Event(), threading.Event(), []

    def first(thread, counter):
        begun.set()
        assert go_on.wait(PATIENCE)

    callers = [threading.Thread(target=threads.run_with_threads, args=(function, 2))
               for function in (first, lambda thread, counter: second.append(thread))]
    callers[0].start()
    assert begun.wait(PATIENCE)
    callers[1].start()
    time.sleep(0.2)
    assert not second
    go_on.set()
    for caller in callers:
        caller.join()
    for _ in range(int(PATIENCE * 100)):
        if sorted(second) == [0, 1]:
            break
        time.sleep(0.01)
    assert sorted(second) == [0, 1]


@FORK
def test_forks_while_others_compute():
    model = random_model(backend="cpu")
    x = random_images(model, 2)
    expected, over = model(x), threading.Event()

    def compute():
        while not over.is_set():
            model(x)

    others = [threading.Thread(target=compute) for _ in range(2)]
    for other in others:
        other.start()
    try:
        assert [forked(lambda: np.array_equal(model(x), expected)) for _ in range(5)] == [0] * 5
    finally:
        over.set()
        for other in others:
            other.join()
    assert np.array_equal(model(x), expected)


@NEEDS_INTERPRETER
def test_spawned_processes_compute_the_same():
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        found = list(pool.map(logits, (1, 2), timeout=PATIENCE))
    expected = logits(2)
    assert all(np.array_equal(there, expected) for there in found)
