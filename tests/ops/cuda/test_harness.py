"""The emulated device detects bugs in kernels: planted into their sources one at a time, each must be seen."""

import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from levit_np.ops import cuda as ops
from levit_np.ops import reference
from levit_np.ops.cuda import device, geometry
from levit_np.ops.cuda.device import launch
from levit_np.ops.cuda.kernel import Kernel, View

from .emulator import Emulator
from .rounded import draw, exact, put


def linear(dtype="float16"):
    x, w = put(draw(70, 200), dtype), put(draw(45, 200), "float32")
    return exact(ops.linear(x, w)), reference.linear(exact(x), exact(w))


def on_hopper():
    return mock.patch.object(device.current(), "capability", device.HOPPER)


def by_warpgroups():
    """Products by warpgroups, of 16-bit numbers on Hopper."""
    with mock.patch.object(geometry, "resident_for", lambda *_: None):
        return resident()


def resident(channels=200):
    """Rows that stay in shared memory, for several tiles of columns and more steps than stages."""
    others = tuple(tile._replace(cost=1e9) for tile in geometry.TILES)
    x, w = put(draw(513, channels), "float16"), put(draw(376, channels), "float32")
    with on_hopper(), mock.patch.multiple(geometry, TILES=others, PROCESSORS=1):
        return exact(ops.linear(x, w)), reference.linear(exact(x), exact(w))


def resident_of_many_terms():
    """So many terms that a tile has more steps than there are stages."""
    return resident(380)


def gradient_by_warpgroups():
    """A gradient for which the terms of both operands are in different rows."""
    dy, x, w = put(draw(300, 72), "float16"), put(draw(300, 136), "float16"), put(draw(72, 136), "float32")
    with on_hopper(), mock.patch.multiple(geometry, SQUARE=geometry.SQUARE._replace(cost=1e9)):
        found = exact(ops.linear_backward(dy, x, w)[1])
    return found, reference.linear_backward(exact(dy), exact(x), exact(w))[1]


def linear_backward():
    dy, x, w = put(draw(1100, 24), "float16"), put(draw(1100, 40), "float16"), put(draw(24, 40), "float32")
    return exact(ops.linear_backward(dy, x, w)[1]), reference.linear_backward(exact(dy), exact(x), exact(w))[1]


def convolution():
    x, w = put(draw(2, 8, 9, 11), "float16"), put(draw(16, 8, 3, 3), "float32")
    return exact(ops.convolution(x, w, 2, 1)), reference.convolution(exact(x), exact(w), 2, 1)


def convolution_backward():
    x, w, dy = put(draw(2, 8, 9, 11), "float16"), put(draw(16, 8, 3, 3), "float32"), put(draw(2, 16, 5, 6), "float16")
    return (exact(ops.convolution_backward(dy, x, w, 2, 1)[0]),
            reference.convolution_backward(exact(dy), exact(x), exact(w), 2, 1)[0])


def attention(keys=131):
    """Later scores are so much larger that the earlier sums are rescaled."""
    q, k, v = (put(draw(2, 2, n, 16), "float16") for n in (37, keys, keys))
    bias = put(draw(2, 37, keys) + 8 * (np.arange(keys) >= 64), "float32")
    y, _ = ops.attention(q, k, v, bias, 0.25)
    return exact(y), reference.attention(exact(q), exact(k), exact(v), exact(bias), 0.25)[0]


def attention_pairs():
    """On Hopper, with more pairs for a block than fit into shared memory."""
    q, k, v = (put(draw(3, 3, n, 16), "float16") for n in (140, 100, 100))
    with on_hopper(), mock.patch.object(geometry, "PROCESSORS", 1):
        y, _ = ops.attention(q, k, v, None, 0.25)
    return exact(y), reference.attention(exact(q), exact(k), exact(v), None, 0.25)[0]


def attention_of_many_keys():
    """More keys than fit into shared memory at once."""
    return attention(330)


def attention_backward():
    q, k, v, dy = (put(draw(2, 2, n, 16, seed=n), "float16") for n in (37, 131, 131, 37))
    _, kept = ops.attention(q, k, v, None, 0.25)
    _, p = reference.attention(exact(q), exact(k), exact(v), None, 0.25)
    found = ops.attention_backward(dy, q, k, v, 0.25, kept)
    expected = reference.attention_backward(exact(dy), exact(q), exact(k), exact(v), 0.25, p)
    return np.concatenate([exact(a).ravel() for a in found]), np.concatenate([a.ravel() for a in expected])


def bias_of_many_images():
    q, k, v, dy = (put(draw(100, 3, 20, 16, seed=n), "float16") for n in range(4))
    _, kept = ops.attention(q, k, v, None, 0.25)
    _, p = reference.attention(exact(q), exact(k), exact(v), None, 0.25)
    return (exact(ops.attention_backward(dy, q, k, v, 0.25, kept)[3]),
            reference.attention_backward(exact(dy), exact(q), exact(k), exact(v), 0.25, p)[3])


def batch_norm():
    x = put(3 * draw(100, 24) + 1, "float32")
    return exact(ops.batch_statistics(x).variance), reference.batch_statistics(exact(x)).variance


def bias_gradient():
    dbias, index = put(draw(2, 12, 12), "float32"), ops.bias_index(3, 4)
    return exact(ops.gather_bias_backward(dbias, index, 12)), reference.gather_bias_backward(
        exact(dbias), np.array(ops.to_host(index)), 12)


# name: (computation, a part of the source, that part with a bug)
BUGS = {
    "no barrier before a tile is used": (linear, "    __syncthreads();  // every thread's copies have arrived",
                                         "    // "),
    "copies not waited for": (linear, "    wait_for_copies<STAGES - 2>();", "    wait_for_copies<STAGES>();"),
    "the wrong lane's numbers": (linear, "exchange(words[0], words[2], 2)", "exchange(words[0], words[2], 1)"),
    "a row too many is written": (linear, "place = r < rows &&", "place = r <= rows &&"),
    "a row too many is read": (linear, "return n < lines ? n * stride", "return n <= lines ? n * stride"),
    "a chunk too many is read": (linear, "return n < length ? n", "return n <= length ? n"),
    "an operand overwritten while warpgroups multiply": (
        by_warpgroups, "    if constexpr (BY_WARPGROUPS) wait_for_products(sums[0]);\n    __syncthreads();",
        "    __syncthreads();"),
    "the sums read before they are there": (
        by_warpgroups, "  if constexpr (BY_WARPGROUPS) wait_for_products(sums[0]);\n  if", "  if"),
    "a slice overwritten while it is read": (resident, "if (filled) wait_at(read", "if (false) wait_at(read"),
    "a slice read before it has arrived": (resident, "        wait_at(arrived + turn.stage, turn.round);\n", ""),
    "a slice given back while it is read": (resident_of_many_terms, "          wait_for_products<1>(sums[0]);\n", ""),
    "resident sums read before they are there": (resident, "      wait_for_products<0>(sums[0]);\n", ""),
    "the wrong part of what is resident": (resident, "shared + step * A_BYTES, ring", "shared, ring"),
    "resident rows not copied": (resident, "CARRIERS>(shared + step * A_BYTES", "CARRIERS>(shared"),
    "resident rows overwritten while they are read": (resident, "if (row > first) wait_at", "if (false) wait_at"),
    "resident rows given back a tile too soon": (resident, "column + TILE_COLUMNS >= end) arrive(rows_read + step -",
                                                 "column == begin) arrive(rows_read + step -"),
    "a tile of columns left out": (resident, "column < end; column += TILE_COLUMNS)\n        for",
                                   "column + TILE_COLUMNS < end; column += TILE_COLUMNS)\n        for"),
    "a warpgroup's rows are the other's": (by_warpgroups, "a += threadIdx.x / (4 * WARP) * BLOCK_OF_64;", ""),
    "the wrong chunk of a line": (linear, "part * 2 + lane / 16));", "part * 2 + lane / 8 % 2));"),
    "the wrong register": (linear, "right[j / 2] + j % 2 * 2", "right[j / 2] + 2 - j % 2 * 2"),
    "a part reads the next one's terms": (linear_backward, "begin + length < rows ? begin + length : rows",
                                          "begin + length + 1 < rows ? begin + length + 1 : rows"),
    "no transposition": (linear_backward, "load_matrices_transposed(r, lines + offset<CHUNKS>(part * 16 + lane % 16",
                         "load_matrices(r, lines + offset<CHUNKS>(part * 16 + lane % 16"),
    "a border's pixel is read": (convolution, "y < (unsigned)s.height && x", "(int)y < s.height && x"),
    "the lines after the image": (convolution, "y < (unsigned)s.height", "y <= (unsigned)s.height"),
    "the kernel's cells confused": (convolution, "y = quotient(cell, s.kernel), x = cell - y * s.kernel;",
                                    "x = quotient(cell, s.kernel), y = cell - x * s.kernel;"),
    "the wrong class of pixels": (convolution_backward, "base = quotient(first + s.padding - remainder, s.stride);",
                                  "base = quotient(first + s.padding, s.stride) + remainder;"),
    "a cell left out": (convolution_backward, "quotient(s.kernel - remainder + s.stride - 1, s.stride) : 0",
                        "quotient(s.kernel - remainder, s.stride) : 0"),
    "the next 64 rows are these": (gradient_by_warpgroups, "return chunk / 8 * BLOCK_OF_64 + ", "return "),
    "the next terms are these": (gradient_by_warpgroups, "b + part * B_PART", "b"),
    "chunks where they were": (gradient_by_warpgroups, "offset<8>(line, chunk % 8);",
                               "(line * 8 + chunk % 8) * CHUNK_BYTES;"),
    "a mask off by one": (attention, "if (s.column >= columns) x", "if (s.column > columns) x"),
    "a key left out": (attention, "if (s.column >= columns) x", "if (s.column >= columns - 1) x"),
    "a token too many is copied": (attention, "bool there = first + line < end;", "bool there = first + line <= end;"),
    "keys overwritten while they are read": (attention_of_many_keys, "      __syncthreads();  // nobody reads",
                                             "      // "),
    "no barrier before keys are read": (attention, "    wait_for_copies<0>();\n    __syncthreads();\n    return",
                                        "    wait_for_copies<0>();\n    return"),
    "the next pair's tokens overwrite those of one before": (attention_pairs, "if (coming >= SLOTS) wait_at",
                                                             "if (coming >= 2 * SLOTS) wait_at"),
    "a pair's tokens not waited for": (attention_pairs, "    wait_at(arrived + now % SLOTS, now / SLOTS % 2);\n", ""),
    "a pair done with before its tokens are read": (attention_pairs, "init_barrier(done + i, row_tiles)",
                                                    "init_barrier(done + i, row_tiles - 1)"),
    "the last pair left out": (attention_pairs, "items = (pairs + 1) * row_tiles", "items = pairs * row_tiles"),
    "the sums are not scaled down": (attention, "return x * down[half];", "return x;"),
    "the next groups' bias is this one's": (attention, "next.pass(COUNT)", "next.pass(0)"),
    "lanes keep their numbers": (attention, "exchange(words[1], words[3], 2);", ""),
    "the total is not scaled down": (attention, "each(total, [&](float x, int half) { return x * down[half]; });",
                                    ""),
    "a row's largest of two lanes only": (attention, "  return fmaxf(x, __shfl_xor_sync(EVERY_LANE, x, 2));",
                                          "  return x;"),
    "probabilities without their sum": (attention_backward, "[e % 4] = -dot[e / 2 % 2];", "[e % 4] = 0;"),
    "the same where queries are columns": (attention_backward, "ds[tile][e] = -of[tile].row[e % 2].dot;",
                                           "ds[tile][e] = 0;"),
    "the neighbour's logarithm": (attention_backward, "score_scale - of.row[e % 2].logarithm",
                                  "score_scale - of.row[1 - e % 2].logarithm"),
    "a sum of two lanes only": (attention_backward, "  return x + __shfl_xor_sync(EVERY_LANE, x, 2);", "  return x;"),
    "scores of the next tile": (bias_of_many_images, "[(i * 2 + tile) * WARP]", "[(i * 2 + 1 - tile) * WARP]"),
    "an image left out": (bias_of_many_images, "for (int image = blockIdx.y * count; image < end; image++)",
                          "for (int image = blockIdx.y * count + 1; image < end; image++)"),
    "rows added before they are all there": (batch_norm, "  __syncthreads();\n#pragma unroll\n"
                                             "  for (int e = 0; e < VECTOR; e++) {\n    sums[e] = 0;",
                                             "#pragma unroll\n  for (int e = 0; e < VECTOR; e++) {\n    sums[e] = 0;"),
    "warps added before they are all there": (bias_gradient, "  __syncthreads();\n  int own", "  int own"),
}


# One of each kind is in the fast suite; compiling the others takes long.
EACH_TIME = ("no barrier before a tile is used", "copies not waited for", "the wrong lane's numbers",
             "a row too many is written", "a row too many is read", "the wrong register", "a border's pixel is read",
             "an operand overwritten while warpgroups multiply", "a slice overwritten while it is read",
             "the next 64 rows are these", "a mask off by one", "a pair's tokens not waited for",
             "keys overwritten while they are read", "the sums are not scaled down",
             "warps added before they are all there")


@pytest.mark.parametrize("name",
                         [name if name in EACH_TIME else pytest.param(name, marks=pytest.mark.slow) for name in BUGS])
def test_a_planted_bug_is_seen(name, compiled):
    """By a wrong or NaN result in at least one order of the threads, or by the guard bytes."""
    compute, right, wrong = BUGS[name]
    edited = []

    def edit(text):
        edited.append(right in text)
        return text.replace(right, wrong, 1)

    seen = []
    for order in (0, 1):
        device.use(Emulator(compiled, order, edit))
        try:
            found, expected = compute()
            seen.append(not np.abs(found - expected).max() < 1e-2 * np.abs(expected).max())
        except RuntimeError:
            seen.append(True)
        finally:
            device.use(None)
    assert any(edited), "the source has changed: plant the bug anew"
    assert any(seen)


@pytest.mark.parametrize("compute", [linear, by_warpgroups, resident, resident_of_many_terms, gradient_by_warpgroups,
                                     linear_backward, convolution, convolution_backward, attention,
                                     attention_pairs, attention_of_many_keys, attention_backward, bias_of_many_images,
                                     batch_norm, bias_gradient])
def test_without_a_bug_all_is_right(compute, emulators):
    for emulator in emulators:
        device.use(emulator)
        found, expected = compute()
        device.use(None)
        assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()


@pytest.fixture
def emulated(emulators):
    device.use(emulators[0])
    yield emulators[0]
    device.use(None)


def test_floats_are_summed_where_sums_are_rounded(emulated):
    """The emulated tensor cores truncate sums as a GPU's do, which would give an error of 2e-6 for 768 terms."""
    x, w = put(draw(64, 768), "float32"), put(draw(64, 768, seed=1), "float32")
    expected = reference.linear(exact(x), exact(w))
    assert np.abs(exact(ops.linear(x, w)) - expected).max() < 1e-6 * np.abs(expected).max()


def test_arguments_are_checked(emulated):
    """Types, memory and number of arguments are checked against the kernel's own parameters."""
    x, y = emulated.arrays.zeros((4, 8), np.float32), emulated.arrays.zeros((4, 8), np.float32)
    kernel, size = Kernel("pointwise", "activate"), np.int64(32)
    launch(kernel, (1,), (32,), (x, y, size, 1))
    for wrong in ((x, y, 32, 1), (x, y, size), (np.zeros((4, 8), np.float32), y, size, 1),
                  (x.astype(np.float16), y, size, 1),
                  (x[:, ::2], y, size, 1), (x.reshape(-1)[1:], y, size, 1), (x, y, size, 1.0)):
        with pytest.raises(AssertionError):
            launch(kernel, (1,), (32,), wrong)


def test_writing_beyond_an_array_is_seen(emulated):
    x, y = emulated.arrays.zeros((40,), np.float32), emulated.arrays.zeros((32,), np.float32)
    with pytest.raises(RuntimeError, match="activate, argument 1: written outside the array"):
        launch(Kernel("pointwise", "activate"), (1,), (32,), (x, y, np.int64(40), 1))


def test_a_barrier_that_some_threads_miss_is_seen(compiled):
    device.use(Emulator(compiled, 0, lambda text: text.replace(
        "  add_over_rows(mean, (float*)shared_memory);",
        "  if (threadIdx.x == 3) for (;;) __syncwarp();\n  add_over_rows(mean, (float*)shared_memory);")))
    try:
        with pytest.raises(RuntimeError, match="waits for (lanes|a barrier) that others never reach"):
            batch_norm()
    finally:
        device.use(None)


def test_writing_beyond_the_shared_memory_is_seen(emulated, monkeypatch):
    def too_little(*sizes):
        name, shape = geometry.attention_for(*sizes)
        return name, shape._replace(shared=shape.shared - 16)

    monkeypatch.setattr(sys.modules["levit_np.ops.cuda.attention"], "attention_for", too_little)
    with pytest.raises(RuntimeError, match="attention: written [0-9]+ bytes behind the shared memory"):
        attention()


def test_views_of_one_array_may_be_several_arguments(emulated):
    """Heads are side by side in memory: each argument writes back what it wrote, and nothing else."""
    together = emulated.arrays.zeros((2, 16), np.float32)
    left, right = together[:, :8], together[:, 8:]
    x = emulated.arrays.asarray(np.ones((8,), np.float32))
    launch(Kernel("pointwise", "activate"), (1,), (32,), (x, View(left), np.int64(8), 0))
    launch(Kernel("pointwise", "activate"), (1,), (32,), (x, View(right), np.int64(8), 0))
    np.testing.assert_array_equal(np.array(together), [[1] * 16, [0] * 16])


def test_arrays_of_host_and_device_cannot_be_mixed(emulated):
    x, host = emulated.arrays.zeros((3,), np.float32), np.zeros(3, np.float32)
    for mixed in (lambda: x + host, lambda: host * x, lambda: np.concatenate([x, host]),
                  lambda: x.__setitem__(0, host[:1]), lambda: np.add(x, 1, out=host)):
        with pytest.raises(TypeError, match="an array of the host among those of the device"):
            mixed()
    assert isinstance(np.exp(x + 1)[1:].sum(), type(x))


def test_a_gpu_needs_few_packages_for_its_tests():
    """CuPy, NumPy, h5py, pytest and hypothesis, as bench/README.md says: with another import none of them would run."""
    code = """if True:
        import sys, pytest

        class Refused:
            def find_spec(self, name, path=None, target=None):
                if name in ("PIL", "numba", "rich", "safetensors", "torch", "transformers", "mpi4py", "matplotlib"):
                    raise ModuleNotFoundError(name, name=name)

        sys.meta_path.insert(0, Refused())
        sys.exit(pytest.main(["--collect-only", "-q", "-m", "gpu", "-p", "no:cacheprovider"]))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
