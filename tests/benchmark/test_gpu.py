"""bench/gpu.py without a GPU: what it plans to measure, and a complete measurement on the emulated device."""

import json
import sys
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from levit_np.config import Stage
from levit_np.ops.cuda.kernel import Kernel
from tests.ops.cuda.conftest import compiled, emulators  # noqa: F401  (fixtures)
from tests.random_model import random_model


def test_a_dry_run_lists_everything(bench, capsys):
    bench("gpu").main(["--dry-run", "--models", "levit_128s", "levit_256"])
    printed = capsys.readouterr().out
    for line in ("limits: bfloat16",
                 "inference: levit_128s, largest, float16; beside eager, compile, folded, folded-sdpa\n",
                 "kernels: levit_256, 256, float32; beside PyTorch's operations\n",
                 "training: levit_256, 256, float16; beside eager, compile, graphs\n", "predicted, not measured"):
        assert line in printed
    assert "levit_128s, 256, float16: kernels" not in printed


def test_wrong_use_is_refused(bench, capsys):
    for wrong in (["--batches", "0"], ["--batches", "many"], ["--models", "resnet"], ["--rounds", "0"],
                  ["--parts", "all"]):
        with pytest.raises(SystemExit) as stopped:
            bench("gpu").main(wrong)
        assert stopped.value.code == 2
    assert "expected a whole number from 1, or 'largest', found 'many'" in capsys.readouterr().err


def test_without_a_gpu_one_line_says_so(bench, monkeypatch):
    from levit_np.errors import BackendError
    from levit_np.ops.cuda import device

    def none(number):
        raise BackendError("backend cuda: expected the package cupy (pip install 'levit_np[cuda]'), found none")

    monkeypatch.setattr(device, "CupyDevice", none)
    device.use(None)
    with pytest.raises(SystemExit, match=r"'levit_np\[cuda\]'"):
        bench("report").run(lambda: bench("gpu").main(["--models", "levit_128s"]))


def test_pytorch_has_its_fastest_settings(bench):
    backends = pytest.importorskip("torch").backends
    with backends.cudnn.flags(benchmark=False):
        for precision, tf32 in ("tf32", True), ("float32", False):
            bench("gpu_peers").configure(precision)
            found = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark
            assert found == (tf32, tf32, True)


def test_every_operation_is_counted(bench):
    """The multiply-adds of all launches add up to the model's."""
    predictions = bench("gpu_predictions")
    from levit_np.benchmark.short import operations
    from levit_np.model import create

    calls = predictions.launches("levit_256", 4, "float16")
    found = sum(predictions.work(call)[0] for call in calls) / 4
    assert 0.99 < found / operations(create("levit_256")) < 1.01
    sizes = [predictions.work(call)[1] for call in calls]
    assert min(sizes) > 0 and all(call.shared <= 227 << 10 for call in calls) and len(calls) == 79
    # The queries of the two shrinking attentions read every second pixel of 14 × 14 and of 7 × 7, and write as many.
    found = [size for call, size in zip(calls, sizes) if call.kernel.name == "convolution"][-2:]
    assert found == [2 * (2 * 4 * pixels * n + n * n) + 4 * n for pixels, n in ((49, 256), (16, 384))]


class Runtime:
    """The parts of CUDA's runtime that the script asks for. The emulated device has no clock: every call takes 1 ms."""

    def getDeviceProperties(self, number):  # noqa: N802
        return {"name": b"Emulated", "totalGlobalMem": 1 << 30}

    def driverGetVersion(self):  # noqa: N802
        return 13000

    runtimeGetVersion = driverGetVersion


class Event:
    def record(self):
        pass

    synchronize = record


def test_measuring_leaves_a_whole_result(bench, tmp_path, emulators, monkeypatch, request, capsys):  # noqa: F811
    """Inference, kernels and training are measured without PyTorch; the clock is replaced."""
    from levit_np.ops.cuda import device

    device.use(emulators[0])
    request.addfinalizer(lambda: device.use(None))
    arrays = emulators[0].arrays
    cuda = type("cuda", (), {
        "runtime": Runtime(), "Event": Event, "get_elapsed_time": staticmethod(lambda a, b: 1.0),
        "Device": type("Device", (), {"id": 0, "synchronize": lambda self: None}),
        "nvrtc": type("nvrtc", (), {"getVersion": lambda: (13, 0)})})
    monkeypatch.setattr(arrays, "cuda", cuda, raising=False)
    measuring, gpu = bench("gpu_measuring"), bench("gpu")
    chosen = gpu.arguments(["--results", str(tmp_path), "--rounds", "1", "--seconds", "1e-4", "--peers"])
    small = random_model("levit_digits", backend="reference", image_size=16,
                         stages=(Stage(64, 1, 2), Stage(80, 1, 2, 3)))
    state, config = small.state(), small.config
    monkeypatch.setattr(measuring, "random_state", lambda name: (config, state))
    monkeypatch.setattr(measuring, "reference_logits", lambda name, state, images, progress=None: np.asarray(
        small.forward(images)[0], np.float64))
    monkeypatch.setattr(measuring, "_peers", lambda *call: ({}, []))
    monkeypatch.setattr(measuring, "REPEATED", 2)
    monkeypatch.setattr(bench("report"), "commit", lambda: "89abcde")
    standard_normal = np.random.default_rng(0).standard_normal
    monkeypatch.setattr(measuring.Measuring, "_model", lambda self, name: (
        small.to("cuda"), state, (x := standard_normal((2, 1, 16, 16)).astype(np.float32)), small.forward(x)[0]))
    limits = {"float16": {"operations": 1e12, "bytes": 1e12}}
    monkeypatch.setattr(measuring.Measuring, "_limits", lambda self, precision: [self.limits.update(limits)])
    taken, wanted = measuring.Measuring(chosen, print), [
        ("inference", ("levit_128s", 2, "float16")), ("kernels", ("levit_128s", 1, "float16")),
        ("training", ("levit_256", 2, "float16"))]
    gpu.take(taken, wanted, chosen)
    content = json.loads(taken.path.read_text())
    assert taken.path.name == "gpu-emulated.json" and len(content) == 3
    row = content["inference levit_128s 2 float16"]["rows"][0]
    assert row["images_per_second"] == 2000 and row["error"] < 5e-3 and row["same_top1"]
    assert row["memory"]["weights"] > 0
    kernels = {r["kernel"] for r in content["kernels levit_128s 1 float16"]["rows"]}
    assert kernels >= {"linear", "convolution", "attention"}
    assert content["training levit_256 2 float16"]["machine"]["device"] == "Emulated"

    # Measuring again: nothing is left to do; with no time left, nothing is measured; an interrupted row is not kept as
    # whole.
    again = measuring.Measuring(gpu.arguments(["--results", str(tmp_path), "--missing", "--peers"]), print)
    capsys.readouterr()
    gpu.take(again, wanted, again.chosen)
    assert "1 of 3" not in capsys.readouterr().out
    hurried = measuring.Measuring(gpu.arguments(["--results", str(tmp_path), "--minutes", "1e-9", "--peers"]), print)
    gpu.take(hurried, wanted, hurried.chosen)
    assert "minutes are over before 1 of 3; --missing goes on from there" in capsys.readouterr().out

    def cut_off(self, name, batch, precision):
        yield {"kernel": "one"}, "one"
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring.Measuring, "_kernels", cut_off)
    with pytest.raises(KeyboardInterrupt):
        gpu.take(taken, wanted[1:2], chosen)
    found = json.loads(taken.path.read_text())["kernels levit_128s 1 float16"]
    assert found["rows"] == [{"kernel": "one"}] and not found["whole"]
    assert not measuring.Measuring(chosen, print).has(*wanted[1])
    assert measuring.Measuring(chosen, print).has(*wanted[0])
    for commit, same in ("0123456", False), ("89abcde-dirty", True):  # another commit; the same one
        monkeypatch.setattr(bench("report"), "commit", lambda: commit)
        assert measuring.Measuring(chosen, print).has(*wanted[0]) == same
    chosen.mode = "reduce-overhead"
    assert not measuring.Measuring(chosen, print).has(*wanted[0])  # its peers were compiled in another mode


def test_the_search_for_the_largest_batch_returns_its_memory(bench, monkeypatch):
    """CuPy keeps memory that it has freed, and PyTorch cannot use it: after the search for the largest batch it must be
    returned."""
    measuring, done = bench("gpu_measuring"), []

    class Executor:
        most = 1 << 20

        def __call__(self, images):
            done.append(images)
            if images > 4096:
                self.most = images // 2

    monkeypatch.setattr(measuring, "_repeated", lambda images, batch: batch)
    monkeypatch.setattr(measuring.device, "current", lambda: type("GPU", (), {"OutOfMemory": MemoryError}))
    monkeypatch.setattr(measuring.device, "free", lambda: done.append("freed"))
    executor = Executor()
    assert measuring.Measuring._largest(None, executor, None) == executor.most == 4096
    assert done == [2048, 4096, 8192, "freed"]


def test_a_peer_that_fails_is_reported_and_the_others_go_on(bench):
    measuring = object.__new__(bench("gpu_measuring").Measuring)
    measuring.chosen = bench("gpu").arguments(["--peers", "eager", "compile"])
    measuring.end, measuring.say = None, print
    measuring.interleaved = lambda calls: dict.fromkeys(calls, [1.0])

    def prepare(peers, key):
        if key == "eager":
            raise RuntimeError("no memory\nand a page of advice")
        return len

    pytest.importorskip("torch")
    found = list(measuring._beside(len, ("eager", "compile", "folded"), prepare,
                                   lambda key, call, times: ({"key": key}, key)))
    assert found == [(None, "eager: RuntimeError: no memory"), ({"key": "compile"}, "compile")]


def test_a_peer_that_fails_while_it_is_measured_is_gone_before_the_next(bench, monkeypatch):
    """What has no memory at the largest batch would leave the next one none."""
    def prepare(peers, key):
        assert not (kept and kept[-1]())
        kept.append(weakref.ref(call := lambda: None))
        return call

    def row(key, call, times):
        raise RuntimeError("no memory")

    kept, measuring = [], object.__new__(bench("gpu_measuring").Measuring)
    monkeypatch.setitem(sys.modules, "gpu_peers", SimpleNamespace())
    measuring.chosen = bench("gpu").arguments(["--peers", "eager", "compile"])
    measuring.end, measuring.say, measuring.interleaved = None, print, lambda calls: None
    found = list(measuring._beside(len, ("eager", "compile"), prepare, row))
    assert found == [(None, "eager: RuntimeError: no memory"), (None, "compile: RuntimeError: no memory")]


def test_after_each_peer_pytorch_is_on_the_default_stream_again(bench, monkeypatch):
    """torch.cuda.graph does not restore it if a capture fails; the next peer's work would run beside our events."""
    def prepare(peers, key):
        log.append(key)
        raise RuntimeError("capture invalidated")

    log, measuring = [], object.__new__(bench("gpu_measuring").Measuring)
    cuda = SimpleNamespace(is_initialized=lambda: True, default_stream=lambda: "default stream", set_stream=log.append,
                           empty_cache=lambda: log.append("freed"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "gpu_peers", SimpleNamespace())
    measuring.chosen = bench("gpu").arguments(["--peers", "eager", "compile"])
    measuring.end, measuring.say = None, print
    list(measuring._beside(len, ("eager", "compile"), prepare, None))
    assert log == ["eager", "default stream", "freed", "compile", "default stream", "freed"]


def test_an_operation_that_cannot_be_captured_is_reported_and_the_others_go_on(bench, monkeypatch):
    def repeated(operation, times):
        if operation == "cuDNN's":
            raise RuntimeError("capture invalidated\nand a page of advice")
        return f"{times} times {operation}"

    peers = {"SDPA math": "PyTorch's", "SDPA cudnn_attention": "cuDNN's"}
    monkeypatch.setitem(sys.modules, "gpu_peers", SimpleNamespace(attention=lambda *numbers: peers, repeated=repeated))
    kernel = Kernel("attention", "attention", "float16", (("KEY_SIZE", 32), ("VALUE_SIZE", 64)))
    assert bench("gpu_measuring")._peers(SimpleNamespace(kernel=kernel), (256, 4, 196, 196), "float16") == (
        {"SDPA math": "20 times PyTorch's"},
        ["attention beside SDPA cudnn_attention: RuntimeError: capture invalidated"])


def test_a_graph_keeps_the_arrays_that_it_reads(bench, monkeypatch):
    """A CUDA graph stores only their addresses; if they were freed, it would read memory with other contents."""
    pytest.importorskip("torch")
    peers = bench("gpu_peers")
    graph = SimpleNamespace(replay=lambda: "replayed")
    cuda = SimpleNamespace(**dict.fromkeys(("stream", "graph"), nullcontext), Stream=int, current_stream=int,
                           synchronize=int, CUDAGraph=lambda: graph)
    monkeypatch.setattr(peers, "torch", SimpleNamespace(cuda=cuda))

    def operation(operand=np.ones(3)):
        called.append(operand.sum())

    called, kept = [], weakref.ref(operation)
    replay = peers.repeated(operation, 5)
    del operation
    assert replay() == "replayed" and len(called) == 3 + 5 and kept()
    del replay
    assert not kept()


def test_a_profile_adds_up(bench):
    """Launches of the same kernel are added up, the longest comes first, and each row is per call."""
    lines = bench("gpu_profile").table([("short", 100.0), ("long", 3000.0), ("short", 300.0), ("long", 5000.0)], 2)
    assert [line.split() for line in lines[1:]] == [["long", "1.0", "4.000"], ["short", "1.0", "0.200"],
                                                    ["together", "2.0", "4.200"]]
