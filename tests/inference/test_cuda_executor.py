"""How the GPU's evaluation is carried out, on the emulated device: a batch in parts, memory that is bounded and freed,
callers that take turns, and several GPUs."""

import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest

import levit_np
from levit_np.inference import cuda
from levit_np.inference.cuda import CudaExecutor
from levit_np.ops.cuda import device, operands

from ..at_once import at_once
from ..ops.cuda.conftest import compiled, emulators, one  # noqa: F401  (fixtures)
from ..random_model import random_images, random_model
from .test_cuda import FEW, model  # noqa: F401  (model is a fixture)

pytestmark = pytest.mark.usefixtures("one")


def test_out_of_memory_halves_the_batch(model, one, monkeypatch):  # noqa: F811
    """The logits are the same, from smaller parts; if one image does not fit either, one line says so."""
    device, x = one.current(), random_images(model, 9)
    expected = CudaExecutor(model, "float16")(x)
    executor, zeros, freed = CudaExecutor(model, "float16"), operands.zeros, []
    executor(x[:1])
    image = max(array.nbytes for array in executor._buffers._arrays.values())

    def limit(most):
        def scarce(shape, dtype):
            if np.prod(shape) * np.dtype(dtype).itemsize > most:
                raise device.OutOfMemory(2, 1)  # CuPy's error contains how much was requested and how much there was
            return zeros(shape, dtype)

        monkeypatch.setattr(operands, "zeros", scarce)

    monkeypatch.setattr(type(device), "free", lambda self: freed.append(1))
    limit(5 * image)
    np.testing.assert_array_equal(executor(x), expected)
    assert (freed == [1] or len(freed) > 1 and hasattr(device.arrays, "cuda")) and executor.most == 4
    executor = CudaExecutor(model, "float16")
    monkeypatch.setattr(operands, "zeros", zeros)
    monkeypatch.setattr(cuda, "MOST_BYTES", 5 * image)  # more than the kernels can count is treated as too much memory
    np.testing.assert_array_equal(executor(x), expected)
    assert executor.most == 4
    limit(100)
    with pytest.raises(levit_np.BackendError, match="expected memory for one image, found"):
        CudaExecutor(model, "float16")(x)


def stand_in(monkeypatch, errors=()):
    """A list of the sizes of the parts that are evaluated from now on, by nothing: errors are raised first."""
    parts, errors = [], list(errors)

    def run(program, images, normalization):
        parts.append(len(images))
        if errors:
            raise errors.pop()
        return program.logits

    monkeypatch.setattr(cuda.Program, "run", run)
    return parts


def test_more_rows_than_kernels_count_are_divided(model, one, monkeypatch):  # noqa: F811
    """They count rows in 31 bits."""
    (height, width), parts = model.config.image_size, stand_in(monkeypatch)
    monkeypatch.setattr(cuda, "MOST_ROWS", 4 * height * width // 4)  # the first tensor has a row for 2×2 pixels
    executor = CudaExecutor(model, "float16")
    executor(random_images(model, 9))
    executor(random_images(model, 4))
    assert executor.most == 4 and parts == [3, 3, 3, 4]


def test_a_batch_is_divided_into_equal_parts(model, one, monkeypatch):  # noqa: F811
    """A small rest would take as long as a whole part, and need a graph of its own."""
    executor, parts = CudaExecutor(model, "float16", most=4), stand_in(monkeypatch)
    for count, expected in ((10, [4, 3, 3]), (9, [3, 3, 3]), (4, [4])):
        parts.clear()
        executor(random_images(model, count))
        assert parts == expected


def test_graphs_are_dropped_when_the_gpu_has_finished(model, one, monkeypatch):  # noqa: F811
    """One of them may still be running: when buffers grow, when there are too many, and when memory runs out."""
    finish, held = type(one.current()).finish, []
    monkeypatch.setattr(type(one.current()), "finish", lambda gpu: held.append([*executor._programs]) or finish(gpu))
    monkeypatch.setattr(cuda, "KEPT", 1)
    executor, x = CudaExecutor(model, "float16"), random_images(model, 2)
    for count, errors, dropped in ((1, (), []), (2, (), [1]), (1, (), [2]), (1, (), None),
                                   (2, (), [1]), (2, [MemoryError("no room")], [2])):
        held.clear()
        stand_in(monkeypatch, errors)
        executor(x[:count])
        assert held[:1] == ([] if dropped is None else [[(size, False) for size in dropped]])
    assert executor.most == 1


def test_an_error_that_is_not_of_memory_is_raised(model, one, monkeypatch):  # noqa: F811
    """Smaller batches would hide it, and end in a message that memory is missing."""
    def broken(*_):
        raise RuntimeError("a bug")

    executor, x = CudaExecutor(model, "float16"), random_images(model, 2)
    monkeypatch.setattr(cuda.Program, "run", broken)
    with pytest.raises(RuntimeError, match="^a bug$"):
        executor(x)
    assert executor.most == cuda.MAX_BATCH
    monkeypatch.setattr(cuda, "Lowering", broken)
    with pytest.raises(RuntimeError, match="^a bug$"):
        CudaExecutor(model, "float16")


def test_nothing_else_is_evaluated_or_recorded_meanwhile(model, one, monkeypatch):  # noqa: F811
    """What another thread launches would become part of a recording, and its waiting would break it."""
    alone = []

    def watched(function):
        def call(*arguments):
            with ThreadPoolExecutor(1) as pool:
                alone.append(not pool.submit(device.alone.acquire, blocking=False).result())
            return function(*arguments)
        return call

    monkeypatch.setattr(cuda, "Lowering", watched(cuda.Lowering))
    monkeypatch.setattr(cuda.Program, "run", watched(lambda program, *images: program.logits))
    CudaExecutor(model, "float16")(random_images(model, 2))
    assert alone == [True, True]


def test_buffers_of_a_failed_batch_are_freed_before_a_smaller_one(model, one, monkeypatch):  # noqa: F811
    """The failed batch must release its buffers first: CuPy returns only memory that is free."""
    zeros, made, alive, free = operands.zeros, [], [], type(one.current()).free

    def scarce(shape, dtype):
        if len(made) == 3:
            raise one.current().OutOfMemory(2, 1)
        made.append(weakref.ref(array := zeros(shape, dtype)))
        return array

    def counted(self):
        alive.append(sum(buffer() is not None for buffer in made))
        monkeypatch.setattr(operands, "zeros", zeros)
        free(self)

    executor, x = CudaExecutor(model, "float16"), random_images(model, 4)
    monkeypatch.setattr(operands, "zeros", scarce)
    monkeypatch.setattr(type(one.current()), "free", counted)
    executor(x)
    assert len(made) == 3 and alive[0] == 0 and executor.most == 2


def test_weights_that_do_not_fit_are_an_error_in_one_line(model, one, monkeypatch):  # noqa: F811
    def scarce(x):
        raise one.current().OutOfMemory(2, 1)

    monkeypatch.setattr(operands, "asarray", scarce)
    with pytest.raises(levit_np.BackendError, match="expected memory for the weights, found"):
        CudaExecutor(model, "float16")


def test_eight_threads_share_one_snapshot():
    model = random_model(backend="cuda", dtype="float32", image_size=16, **FEW)
    x = random_images(model.to("reference"), 2)
    found, executors = [], []

    def call(_):
        found.append(model(x))
        executors.append(model._executor(False))

    at_once(call, 8)
    assert len(found) == 8 and all(np.array_equal(y, found[0]) for y in found) and len(set(map(id, executors))) == 1


def test_a_snapshot_is_renewed_while_others_are_evaluated():
    model = random_model(backend="cuda", dtype="float32", image_size=16, **FEW)
    x = random_images(model.to("reference"), 2)
    expected, wrong = model(x), []

    def call(turn):
        for _ in "12":
            if turn % 2:
                model.written()
            if not np.array_equal(model(x), expected):
                wrong.append(turn)

    at_once(call, 4)
    assert not wrong


def test_calls_take_turns(model, one, monkeypatch):  # noqa: F811
    """Each call is told where the last one ran: on another stream it must not write into buffers that are still
    read."""
    executor, x, asked = CudaExecutor(model, "float16"), random_images(model, 2), []
    monkeypatch.setattr(one.current(), "in_turn", lambda last: asked.append(last) or len(asked))
    for _ in "123":
        executor(x)
    assert asked == [None, 1, 2]


def test_every_thread_evaluates_on_the_gpu_of_the_weights(model, one, monkeypatch):  # noqa: F811
    """A thread's default is the first GPU, whose kernels would get addresses of another."""
    chosen = []

    class GPU:
        def __enter__(self):
            chosen.append(self)

        def __exit__(self, *_):
            chosen.pop()

    gpu, run, where, x = GPU(), cuda.Program.run, [], random_images(model, 2)
    monkeypatch.setattr(one.current(), "here", lambda: gpu)
    executor = CudaExecutor(model, "float16")
    monkeypatch.setattr(cuda.Program, "run",
                        lambda program, *images: where.append(list(chosen)) or run(program, *images))
    at_once(lambda _: executor(x), 2)
    assert where == [[gpu], [gpu]] and not chosen


def test_images_may_be_on_another_gpu(model, one, monkeypatch):  # noqa: F811
    """Kernels get what `asarray` returns, which is a copy in that case."""
    gpu, x, asked = one.current(), operands.asarray(random_images(model, 2)), []
    monkeypatch.setattr(gpu, "asarray", lambda array, asarray=gpu.asarray: asked.append(array) or asarray(array))
    executor = CudaExecutor(model)
    asked.clear()
    executor(x)
    assert [array.shape for array in asked] == [x.shape]


def test_mean_and_deviation_are_copied_to_the_gpu_once(model, one, monkeypatch):  # noqa: F811
    gpu, sent = one.current(), []
    executor = CudaExecutor(model)
    values = np.zeros((1, *model.config.image_size, model.config.in_channels), np.uint8)
    monkeypatch.setattr(gpu, "asarray", lambda array, asarray=gpu.asarray: sent.append(array) or asarray(array))
    for deviation, arrays in ((0.5, 2), (0.5, 2), (0.25, 4)):
        executor(values, [0.5] * values.shape[-1], [deviation] * values.shape[-1])
        assert len(sent) == arrays


def test_streams_may_alternate(model, one):  # noqa: F811
    """With images on the GPU, and without waiting for the logits in between."""
    arrays, executor = one.current().arrays, CudaExecutor(model, "float16")
    on_gpu = hasattr(arrays, "cuda")
    x = [operands.asarray(random_images(model, 256 if on_gpu else 2, seed)) for seed in (0, 1)]
    expected = [operands.to_host(executor(images)) for images in x]
    streams = [arrays.cuda.Stream(non_blocking=True) if on_gpu else nullcontext() for _ in x]
    one.current().finish()
    found = []
    for _ in range(20 if on_gpu else 1):
        for stream, images in zip(streams, x):
            with stream:
                found.append(executor(images))
    one.current().finish()
    for number, logits in enumerate(found):
        np.testing.assert_array_equal(operands.to_host(logits), expected[number % 2])


def test_memory_is_bounded_and_reported(model, monkeypatch):  # noqa: F811
    monkeypatch.setattr(cuda, "KEPT", 2)
    executor, x = CudaExecutor(model, "float16", most=4), random_images(model, 9)
    executor(x[:1])
    first = executor(x[:4])
    assert [*executor._programs] == [(4, False)]  # that for one image held its smaller buffers
    expected = np.concatenate([first, executor(x[4:])])
    most = executor.memory
    for batch in (1, 2, 3, 4, 9):
        np.testing.assert_array_equal(executor(x[:batch]), expected[:batch])
        assert len(executor._programs) <= 2
    assert executor.memory == most and most["buffers"] > most["weights"] / 100
    parts = [part for step in executor._lowering.steps for held in vars(step).values()
             for part in (held if isinstance(held, tuple) else (held,))]
    assert most["weights"] == sum(part.nbytes for part in parts if isinstance(part, device.arrays().ndarray))
