"""What all operations with kernels share: threads, scratch memory, and the memory of results."""

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

import levit_np
from levit_np.ops import cpu

from ...at_once import at_once
from .operation_calls import FAST, LARGE, SMALL, perform

# In the package's namespace these names are functions.
attention, convolution, filtering, linear, running = (
    import_module(f"levit_np.ops.cpu.{name}") for name in ("attention", "convolution", "filtering", "linear",
                                                           "running"))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", FAST)
def test_the_number_of_threads_changes_nothing(name, count):
    expected = perform(cpu, name, LARGE[name])
    levit_np.set_threads(count)
    for ours, same in zip(perform(cpu, name, LARGE[name]), expected, strict=True):
        assert np.array_equal(ours, same)


@pytest.mark.parametrize("count", [1, 2])
def test_eight_callers_at_once(count):
    """Each caller has its own scratch memory, and calls that use several threads each do not deadlock."""
    expected, wrong = {name: perform(cpu, name, SMALL[name]) for name in FAST}, []
    levit_np.set_threads(count)

    def call(_):
        for name in FAST * 20:
            if not all(map(np.array_equal, perform(cpu, name, SMALL[name]), expected[name])):
                wrong.append(name)

    at_once(call, 8)
    assert not wrong


@pytest.mark.parametrize("name", ["linear", "attention_backward"])
def test_threads_set_while_an_operation_is_prepared_count_from_the_next(name, monkeypatch):
    """set_threads, called by another thread, takes effect with the next operation: there is scratch memory only for the
    old number."""
    expected, counts, made = perform(cpu, name, SMALL[name]), [], running.run_with_threads

    def run(function, count):
        counts.append(count)
        levit_np.set_threads(1)
        made(function, count)

    def scratch(size, real=running.scratch):
        found = real(size)
        levit_np.set_threads(4)
        return found

    monkeypatch.setattr(running, "run_with_threads", run)
    for module in (attention, linear):
        monkeypatch.setattr(module, "scratch", scratch)
    levit_np.set_threads(1)
    assert all(map(np.array_equal, perform(cpu, name, SMALL[name]), expected))
    assert counts and set(counts) == {1}


@pytest.mark.parametrize("sizes", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("count", [1, 3])
def test_operations_use_only_the_scratch_memory_that_they_request(sizes, count, monkeypatch):
    """The bytes before and after it are not changed."""
    memory, asked = np.empty(1 << 24, np.uint8), []

    def scratch(size):
        size = -(-size // 64) * 64
        memory[...] = 171
        asked.append(size * count)
        return memory.ctypes.data + 4096 - memory.ctypes.data % 64, size

    for module in (attention, convolution, filtering, linear):
        monkeypatch.setattr(module, "scratch", scratch)
    levit_np.set_threads(count)
    monkeypatch.setattr(running._kept, "threads", count, raising=False)
    for name in ("linear", "linear_backward", "convolution", "convolution_backward", "convolution in squares",
                 "convolution_backward in squares", "attention", "attention_backward"):
        perform(cpu, name, sizes[name])
        first = 4096 - memory.ctypes.data % 64
        assert (memory[:first] == 171).all() and (memory[first + asked[-1] :] == 171).all(), name
        assert (memory[first : first + asked[-1]] != 171).any()
    assert len(asked) == 11  # linear_backward and convolution_backward compute two products each


def test_scratch_memory_has_a_part_for_each_thread(monkeypatch):
    """And is kept as long as it is large enough."""
    kept = SimpleNamespace()
    monkeypatch.setattr(running, "_kept", kept)
    for count, size in ((1, 100), (3, 100), (3, 1000), (2, 65), (3, 1024)):
        levit_np.set_threads(count)
        address, part = running.scratch(size)
        first = kept.memory.ctypes.data
        assert address % 64 == part % 64 == 0 and size <= part < size + 64 and kept.threads == count
        assert first <= address and address + count * part <= first + kept.memory.nbytes
        memory = kept.memory
        assert running.scratch(size // 2)[0] == address and kept.memory is memory


def test_results_begin_at_a_cache_line(monkeypatch):
    memory = np.zeros(100, np.float32)
    for first in range(16):
        monkeypatch.setattr(running.blocks, "block", lambda count: memory[first : first + count])
        y = running.empty(5, 7)
        assert y.ctypes.data % 64 == 0 and y.shape == (5, 7) and np.shares_memory(y, memory)
