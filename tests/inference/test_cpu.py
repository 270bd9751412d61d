"""The cpu backend's evaluation: its error against the float64 network, and that an answer depends on nothing but the
image."""

import gc
import tracemalloc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

import levit_np
from levit_np.config import Convolution, Stage
from levit_np.inference import cpu, plan
from levit_np.inference.cpu import CpuExecutor
from levit_np.inference.reference import ReferenceExecutor
from levit_np.model import build
from levit_np.ops.cpu import instruction_set, threads

from ..any_network import any_config
from ..distance import worst
from ..ops.cpu.conftest import one_thread_again  # noqa: F401  (a fixture)
from ..random_model import FIVE, random_images, random_model, random_state
from .test_plan import NETWORKS


@pytest.fixture(scope="module")
def model():
    return random_model("levit_128s", image_size=64, num_classes=10, backend="cpu")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network(name):
    """3e-6 of the largest logit: float32 sums of up to 144 terms, about forty layers deep."""
    model = random_model(name, backend="cpu", **NETWORKS[name])
    x = random_images(model, 3)
    exact = ReferenceExecutor(model)(x.astype(np.float64))
    assert worst(model(x), exact) < 3e-6 and model(x).dtype == np.float32


@pytest.mark.parametrize("seed", [*range(20), *(pytest.param(n, marks=pytest.mark.slow) for n in range(20, 1000))])
def test_any_network(seed):
    """Alone and in a batch, where several images may be processed together."""
    config = any_config(seed)
    state = random_state(build(config).specs_by_name(), seed)
    exact, ours = (build(config, backend) for backend in ("reference", "cpu"))
    exact.set_state(state)
    ours.set_state({name: array.astype(np.float32) for name, array in state.items()})
    for batch in (1, 3, 17):
        x = random_images(exact, batch, seed)
        assert worst(CpuExecutor(ours)(x.astype(np.float32)), exact(x)) < 3e-5, config


@pytest.mark.parametrize("count", [1, 2])
def test_step_by_step_as_in_one_call(model, count):
    x, executor = random_images(model, 3), CpuExecutor(model)
    expected = executor(x)
    levit_np.set_threads(count)
    (program,) = executor._idle[3]
    program.logits(10)[...] = 0
    names = list(executor.stepwise(x))
    assert np.array_equal(program.logits(10), expected) and executor._idle[3] == [program]
    planned = [step.name for step in plan.steps_of(model, pooled_early=True)]
    assert list(dict.fromkeys(names)) == ["image", *dict.fromkeys(planned)]


def test_a_stage_as_wide_as_the_shrinking_attention_before_it():
    """The result of the shrinking attention and that of the stage have the same name and shape, but differ in how many
    images are processed at a time."""
    model = random_model("levit_128s", image_size=128, num_classes=5, stages=(Stage(128, 1, 4), Stage(64, 1, 4, 2)),
                         backend="cpu")
    x = random_images(model, 16)
    assert worst(model(x), ReferenceExecutor(model)(x.astype(np.float64))) < 3e-6


def test_layer_norm_of_nearly_equal_numbers():
    """A row of five numbers is padded with zeros to sixteen, which must not count in its variance."""
    model = random_model("levit_digits", normalization="layer", position="embedding", stem=(Convolution(5, 3, 4),),
                         stages=(Stage(5, 1, 2),), backend="cpu")
    model.position.embedding += 300
    x = random_images(model, 3)
    assert worst(model(x), ReferenceExecutor(model)(x.astype(np.float64))) < 1e-3


def test_layer_norm_of_tiny_numbers():
    """The variance is as small as eps, before a branch and after pooling, where tokens are summed and not averaged."""
    model = random_model("levit_digits", normalization="layer", position="embedding", image_size=16,
                         stages=(Stage(64, 1, 2),), backend="cpu")
    small = "stem.convolutions.1.", "position.", *(f"stages.0.blocks.0.{name}." for name in ("attention.projection",
                                                                                            "mlp.down"))
    model.set_state({name: array * np.float32(1e-3 if name.startswith(small) else 1)
                     for name, array in model.state().items()})
    x = random_images(model, 3)
    assert worst(model(x), ReferenceExecutor(model)(x.astype(np.float64))) < 1e-5


@pytest.mark.parametrize("shift", [300, -300])
def test_attention_of_scores_far_from_zero(shift):
    """Softmax ignores a constant added to all scores: the largest is subtracted, so that no exponential overflows and
    not all underflow. The scores lose up to 3e-5, the last bit of 300."""
    model = random_model("levit_128s", image_size=64, num_classes=10, backend="cpu")
    model.set_state({name: array + np.float32(shift if name.endswith("bias.table") else 0)
                     for name, array in model.state().items()})
    x = random_images(model, 2)
    assert worst(model(x), ReferenceExecutor(model)(x.astype(np.float64))) < 3e-5


@pytest.fixture(scope="module", params=FIVE)
def whole(request):
    """(model, four images, logits in float64) of each of the paper's models at its own image size."""
    model = random_model(request.param, backend="cpu")
    x = random_images(model, 4)
    return model, x, ReferenceExecutor(model)(x.astype(np.float64))


def test_the_five_models(whole):
    model, x, exact = whole
    logits = model(x)
    assert (np.abs(logits - exact) <= 1e-4 + 1e-4 * np.abs(exact)).all() and worst(logits, exact) < 3e-6


def test_rounding_is_at_most_twice_pytorchs(whole):
    """The mean and the largest error of four thousand logits, so that no single logit decides."""
    torch = pytest.importorskip("torch")
    from .. import torch_levit

    model, x, exact = whole
    with torch.no_grad():
        theirs = torch_levit.levit(torch.from_numpy(x), torch_levit.tensors(model.state()), model.config).numpy()
    ours, theirs = (np.abs(logits - exact) for logits in (model(x), theirs))
    assert ours.mean() <= 2 * theirs.mean() < 1e-5 and ours.max() <= 2 * theirs.max()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (16, 16), (224, 40), (97, 113)])
@pytest.mark.parametrize("channels, classes", [(3, 10), (1, 1), (5, 37)])
def test_any_size(size, channels, classes):
    model = random_model("levit_128s", image_size=size, in_channels=channels, num_classes=classes, backend="cpu")
    x = random_images(model, 2)
    exact = ReferenceExecutor(model)(x.astype(np.float64))
    assert model(x).shape == (2, classes) and np.abs(model(x) - exact).max() < 2e-6 * max(1, np.abs(exact).max())


def test_an_image_of_more_tokens_than_are_processed_together(monkeypatch):
    """As an image of 336 pixels has; here 64, 16 and 4 tokens, with a lower limit."""
    monkeypatch.setattr(cpu, "GROUP_ROWS", 10)
    model = random_model("levit_digits", backend="cpu")
    x = random_images(model, 3)
    assert worst(model(x), ReferenceExecutor(model)(x.astype(np.float64))) < 3e-6


def test_rows_that_are_too_long_for_the_cache():
    """Then the weights are applied to one tile of rows at a time."""
    model = random_model("levit_digits", image_size=16, mlp_ratio=160, stages=(Stage(64, 1, 2),), backend="cpu")
    x = random_images(model, 3)
    assert worst(model(x), ReferenceExecutor(model)(x.astype(np.float64))) < 3e-6


@pytest.mark.parametrize("size", [16, (16, 56), (24, 32), (24, 40)])
def test_an_image_of_many_channels(size):
    """The first convolution is computed by minimal filtering too, from channels stored one after the other. It makes
    squares of four outputs: few, or as many as fill tiles of AVX-512, AVX2 and NEON."""
    model = random_model(image_size=size, in_channels=20, stem=(Convolution(24, 3, 2), Convolution(64, 3, 2)),
                         stages=(Stage(64, 1, 2),), backend="cpu")
    x = random_images(model, 2)
    assert worst(model(x), ReferenceExecutor(model)(x.astype(np.float64))) < 3e-6


@pytest.mark.parametrize("batch", [1, 2, 3, 16, 17, 35])
def test_images_of_a_batch_do_not_affect_each_other(model, batch):
    """To the last bit: how many images are processed together does not change the order of any sum."""
    x = random_images(model, batch)
    assert np.array_equal(model(x), np.concatenate([model(image[None]) for image in x]))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("batch", [1, 5])
def test_the_number_of_threads_changes_nothing(model, count, batch):
    x = random_images(model, batch)
    expected = model(x)
    levit_np.set_threads(count)
    for _ in range(5):
        assert np.array_equal(model(x), expected)


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_threads_compute_as_were_set(model, count):
    executor, seen = CpuExecutor(model), []
    run = executor.kernels.run

    def recorded(program, first, last, thread, together, counter):
        seen.append((thread, together))
        run(program, first, last, thread, together, counter)

    executor.kernels = SimpleNamespace(instructions=executor.kernels.instructions, run=recorded)
    levit_np.set_threads(count)
    executor(random_images(model, 2))
    assert sorted(seen) == [(thread, count) for thread in range(count)]


def test_the_last_linear_map_sees_one_token_an_image(model):
    """Because the pool comes before it; see plan.steps_of."""
    executor = CpuExecutor(model)
    executor(random_images(model, 1))
    (program,), last = executor._idle[1], f"stages.2.blocks.{model.config.stages[2].depth - 1}.mlp"
    assert program.names[-5:] == [f"{last}.up", "pool", "pool", f"{last}.down", "head"]


def test_a_nan_stays_in_its_image(model):
    x = random_images(model, 5)
    expected = model(x)
    for value in (np.nan, np.inf, np.float32(3e38)):
        spoilt = x.copy()
        spoilt[2, 0, 7, 7] = value
        logits = model(spoilt)
        assert value == np.float32(3e38) or np.isnan(logits[2]).all()
        assert np.array_equal(np.delete(logits, 2, 0), np.delete(expected, 2, 0))


def test_any_layout_of_the_input_and_no_other_type(model):
    x = random_images(model, 4)
    expected, kept = model(x), x.copy()
    read_only = x.copy()
    read_only.flags.writeable = False
    wide = np.repeat(x, 2, 3)[..., ::2]
    for same in (np.asfortranarray(x), wide, x[::-1][::-1], read_only, np.ascontiguousarray(x.transpose(0, 2, 3, 1)
                                                                                            ).transpose(0, 3, 1, 2)):
        assert np.array_equal(model(same), expected)
    assert np.array_equal(x, kept)
    assert model(x[:0]).shape == (0, 10)
    for wrong in (x.astype(">f4"), x.astype(np.float64), x.astype(np.float16), x[:, :2], x[:, :, 1:], x[0]):
        with pytest.raises(levit_np.LevitError, match="expected images"):
            model(wrong)


def test_images_of_another_layout_are_copied_a_part_at_a_time(model):
    image = random_images(model, 1)
    x = np.broadcast_to(image, (160, *image.shape[1:]))
    expected = model(x)
    tracemalloc.start()
    try:
        assert np.array_equal(model(x), expected)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes / 4
    finally:
        tracemalloc.stop()


def test_a_plan_is_made_a_layer_at_a_time():
    """The weights are converted to float64 for folding: if all were converted at once, they would be the largest arrays
    during start-up."""
    model = random_model("levit_128s", image_size=64, num_classes=10)
    one = max(array.size for array in model.state().values()) * 8  # bytes of the largest parameter in float64
    CpuExecutor(model)  # imports and compilation are not counted
    tracemalloc.start()
    try:
        kept = CpuExecutor(model)
        assert tracemalloc.get_traced_memory()[1] < 2.7 * one
        assert kept(random_images(model, 1)).shape == (1, 10)
    finally:
        tracemalloc.stop()


def test_the_result_belongs_to_the_caller(model):
    """The result of a call is not overwritten by the next call."""
    x = random_images(model, 2)
    first = model(x)
    kept = first.copy()
    model(2 * x)
    assert np.array_equal(first, kept)


def test_the_result_is_copied_before_its_buffers_are_returned(model):
    """Another thread may compute with the buffers as soon as they are returned."""
    executor, x = CpuExecutor(model), random_images(model, 2)
    expected, give, others = executor(x), executor._give, [2 * x]

    def slow_give(program):
        give(program)
        if others:
            executor(others.pop())

    executor._give = slow_give
    assert np.array_equal(executor(x), expected) and not others


def test_float64():
    model = random_model(dtype="float64", backend="cpu")
    x = random_images(model)
    assert worst(model(x), model.forward(x)[0]) < 1e-13 and model(x).dtype == np.float64


HALVES = bool(instruction_set.chosen().bfloat16)


@pytest.mark.skipif(not HALVES, reason="a processor without bfloat16 products")
@pytest.mark.parametrize("seed", [*range(20), *(pytest.param(n, marks=pytest.mark.slow) for n in range(20, 400))])
def test_any_network_in_bfloat16(seed):
    """The same alone and in a batch. Layer norm of nearly equal numbers enlarges what rounding took: 0.12 in one draw,
    0.04 or less in nearly all others."""
    config = any_config(seed)
    state = random_state(build(config).specs_by_name(), seed)
    exact, ours = (build(config, backend) for backend in ("reference", "cpu"))
    exact.set_state(state)
    ours.set_state({name: array.astype(np.float32) for name, array in state.items()})
    x, executor = random_images(exact, 17, seed), CpuExecutor(ours, half=True)
    logits = executor(x.astype(np.float32))
    assert worst(logits, exact(x)) < 0.2, config
    for first, count in (0, 1), (2, 3), (16, 1):
        some = slice(first, first + count)
        assert np.array_equal(executor(x[some].astype(np.float32)), logits[some]), config


@pytest.mark.skipif(not HALVES, reason="a processor without bfloat16 products")
@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16(name):
    """2 % of the largest logit: bfloat16 has 8 bits of precision, and about forty layers round to it."""
    model = random_model(name, backend="cpu", **NETWORKS[name])
    model.precision = "bfloat16"
    x = random_images(model, 3)
    logits = model(x)
    exact = ReferenceExecutor(model)(x.astype(np.float64))
    assert 1e-6 < worst(logits, exact) < 2e-2 and logits.dtype == np.float32
    assert np.array_equal(logits, np.concatenate([model(image[None]) for image in x]))


@pytest.mark.skipif(not HALVES, reason="a processor without bfloat16 products")
@pytest.mark.parametrize("size, channels", [((33, 47), 3), ((16, 16), 1), ((224, 40), 5)])
def test_bfloat16_of_any_size_and_any_number_of_threads(size, channels):
    model = random_model("levit_192", image_size=size, in_channels=channels, num_classes=5, backend="cpu")
    model.precision = "bfloat16"
    x = random_images(model, 5)
    logits = model(x)
    assert worst(logits, ReferenceExecutor(model)(x.astype(np.float64))) < 1e-2
    for count in (2, 3):
        levit_np.set_threads(count)
        assert np.array_equal(model(x), logits)
    spoilt = x.copy()
    spoilt[2, 0, 7, 7] = np.nan
    assert np.isnan(model(spoilt)[2]).all() and np.array_equal(np.delete(model(spoilt), 2, 0), np.delete(logits, 2, 0))


def test_bfloat16_is_refused_where_the_processor_lacks_it(monkeypatch):
    monkeypatch.setenv("LEVIT_NP_INSTRUCTIONS", next(name for name in instruction_set.available()
                                                     if not instruction_set.SETS[name].bfloat16))
    with pytest.raises(levit_np.BackendError, match="expected a processor with AVX512-BF16 or AMX"):
        levit_np.create("levit_digits", backend="cpu", dtype="bfloat16")
    with pytest.raises(levit_np.BackendError, match="float32, float64 on the reference backend"):
        levit_np.create("levit_digits", backend="reference", dtype="bfloat16")


@pytest.mark.skipif(not HALVES, reason="a processor without bfloat16 products")
def test_bfloat16_is_refused_where_the_loaded_kernels_have_none(monkeypatch):
    """LEVIT_NP_INSTRUCTIONS may have changed since the kernels were loaded."""
    model = random_model(backend="cpu")
    monkeypatch.setattr(cpu, "library", lambda: SimpleNamespace(instructions=instruction_set.SETS["avx2"]))
    model.precision = "bfloat16"
    with pytest.raises(levit_np.BackendError, match="expected kernels with products of bfloat16, found those for avx2"):
        model(random_images(model, 1))


@pytest.mark.parametrize("batch, sizes", [(0, []), (1, [1]), (16, [16]), (17, [8, 9]), (32, [16, 16]),
                                          (35, [11, 12, 12])])
def test_a_batch_is_split_into_few_parts_of_similar_size(model, batch, sizes):
    executor, made = CpuExecutor(model), []
    take = executor._take
    executor._take = lambda size: made.append(size) or take(size)
    assert executor(random_images(model, batch)).shape == (batch, 10) and made == sizes


def test_few_programs_are_kept():
    model, made = random_model(backend="cpu"), []
    executor = CpuExecutor(model)
    take = executor._take
    executor._take = lambda batch: made.append(weakref.ref(program := take(batch))) or program
    for batch in (1, 2, 3, 4, 5, 6) * 2:
        executor(random_images(model, batch))
    assert len(executor._idle) == cpu.KEPT
    last = made[-1]()
    executor(random_images(model, 6))
    assert made[-1]() is last is not None  # and is used again
    del last
    gc.collect()
    assert len({id(p) for program in made if (p := program())}) <= cpu.KEPT  # nothing else keeps the others alive


def test_threads_are_checked(monkeypatch):
    for wrong in (0, -1, 65, 1.0, "2", True, None):
        with pytest.raises(levit_np.BackendError, match="whole number from 1 to 64"):
            levit_np.set_threads(wrong)
    levit_np.set_threads(np.int64(2))
    assert threads.threads() == 2 and type(threads.threads()) is int
    monkeypatch.setattr(threads, "_count", None)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    assert threads.threads() == 3
    for many in ("128", "9" * 9):
        threads._count = None
        monkeypatch.setenv("NUMBA_NUM_THREADS", many)
        assert threads.threads() == threads.MAX_THREADS
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    assert threads.threads() == threads.MAX_THREADS  # the value is read once
    levit_np.set_threads(64)
    assert threads.threads() == 64
    for wrong in ("0", "many", "-1", "²", "1" * 10, "1" * 5000):
        threads._count = None
        monkeypatch.setenv("NUMBA_NUM_THREADS", wrong)
        with pytest.raises(levit_np.BackendError, match="NUMBA_NUM_THREADS"):
            threads.threads()
    monkeypatch.delenv("NUMBA_NUM_THREADS")
    assert threads.threads() == 1
