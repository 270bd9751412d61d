"""Takes the measurements that gpu.py plans. Each row is written as soon as it is measured, as a run may be
interrupted."""

import gc
import sys
import time
from contextlib import contextmanager
from statistics import median
from types import SimpleNamespace

import numpy as np
from gpu import LARGEST, PEERS_OF, V100
from gpu_predictions import work
from report import earlier, result_path, this_machine, write_json
from runners import random_state, reference_logits

from levit_np.benchmark.rounds import ratio
from levit_np.benchmark.short import operations
from levit_np.classifier import Classifier
from levit_np.inference.cuda import CudaExecutor
from levit_np.model import build
from levit_np.ops.cuda import device, operands

PACKAGES = ("numpy", "cupy-cuda13x", "cupy-cuda12x", "torch", "timm", "triton")
CHECKED = 4  # different images, repeated to fill a batch, whose logits are compared with float64
REPEATED = 20  # launches of a kernel in a graph, so that launching does not determine its time


class Measuring:
    """say: a function that prints a line. Raises BackendError if there is no GPU."""

    def __init__(self, chosen, say):
        self.chosen, self.say = chosen, say
        self.end = time.monotonic() + 60 * chosen.minutes if chosen.minutes else None
        self.cupy = device.current().arrays  # a BackendError comes before anything is prepared
        cuda = self.cupy.cuda
        properties = cuda.runtime.getDeviceProperties(cuda.Device().id)
        self.machine = this_machine(PACKAGES) | {
            "device": properties["name"].decode(), "memory": int(properties["totalGlobalMem"]),
            "driver": cuda.runtime.driverGetVersion(), "runtime": cuda.runtime.runtimeGetVersion(),
            "compiler": list(cuda.nvrtc.getVersion())}
        self.path = result_path(chosen.results, "gpu", self.machine)
        self.content = earlier(self.path, {})
        self.limits, self._models = {}, {}
        say(f"{self.machine['device']}, {self.machine['versions']}")

    def over(self) -> bool:
        """Whether the time is over and nothing more may begin."""
        return self.end is not None and time.monotonic() > self.end

    def has(self, part, what) -> bool:
        """Whether the result contains it, from this commit, with all peers, compiled in the same mode."""
        found = self.content.get(_key(part, what))
        if not found or not found["whole"] or _clean(found["machine"]) != _clean(self.machine):
            return False
        return part in ("limits", "kernels") or (
            set(self.chosen.peers) & set(PEERS_OF[part]) <= set(found["peers"]) and self.chosen.mode == found["mode"])

    def take(self, part, what) -> None:
        """Measures, and writes the entry: `rows` were measured; `missing` could not be, and why; `whole`: nothing was
        left out for lack of time."""
        entry = self.content[_key(part, what)] = {
            "machine": self.machine, "rows": [], "missing": [], "peers": self.chosen.peers, "whole": False,
            "mode": self.chosen.mode}
        for row, line in getattr(self, f"_{part}")(*what):
            if row is None:
                entry["missing"].append(line)
                line = f"not measured: {line}"
            else:
                entry["rows"].append(row)
            self._write()
            self.say(f"    {line}")
        entry["whole"] = not self.over()
        self._write()

    def _write(self):
        write_json(self.path, self.content)

    def interleaved(self, calls: dict) -> dict:
        """{name: seconds per call, one number for each round}, by the GPU's events, in turns A B C A B C …."""
        event, times, counts = self.cupy.cuda.Event, {name: [] for name in calls}, {}
        with _beside_others(self.chosen.alone):
            for call in calls.values():
                call(), call()  # the first calls may compile or record
        with _alone(self.chosen.alone):
            for _ in range(self.chosen.rounds):
                for name, call in calls.items():
                    call()
                    if name not in counts:
                        counts[name] = max(1, int(self.chosen.seconds / self._seconds(call, 3, event)))
                    times[name].append(self._seconds(call, counts[name], event))
        return times

    def _seconds(self, call, count, event):
        """Seconds per call, of `count` calls in succession. CuPy and PyTorch both use the default stream."""
        start, end = event(), event()
        self.cupy.cuda.Device().synchronize()
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return self.cupy.cuda.get_elapsed_time(start, end) / 1e3 / count

    def _limits(self, precision):
        self.limits[precision] = None
        try:
            import gpu_peers

            product, count = gpu_peers.matrix_peak(precision)
            copied, size = gpu_peers.copy()
        except Exception as error:  # no PyTorch, or one without CUDA
            yield None, f"the largest product and copy: {_reason(error)}"
            return
        times = self.interleaved({"product": product, "copy": copied})
        self.limits[precision] = found = {"operations": count / median(times["product"]),
                                          "bytes": size / median(times["copy"])}
        yield found, f"{found['operations'] / 1e12:.0f} TFLOP/s, {found['bytes'] / 1e12:.2f} TB/s"

    def _shares(self, precision, seconds, count, size=None) -> dict:
        """Shares of the largest product's operations per second and of the largest copy's bytes per second; None where
        unknown."""
        if precision not in self.limits:
            list(self._limits(precision))
        limit = self.limits[precision]
        return {"share_of_products": count / seconds / limit["operations"] if limit else None,
                "share_of_copy": size / seconds / limit["bytes"] if limit and size is not None else None}

    def _model(self, name):
        """(model on the GPU, its state, images, float64 logits)."""
        if name not in self._models:
            config, state = random_state(name)
            model = build(config, "cuda", Classifier)
            model.set_state(state)
            images = np.random.default_rng(0).standard_normal((CHECKED, 3, *config.image_size)).astype(np.float32)
            self.say(f"    {name}: the reference in float64")
            self._models = {name: (model, state, images, reference_logits(name, state, images))}
        return self._models[name]

    def _inference(self, name, batch, precision):
        model, state, images, truth = self._model(name)
        executor = CudaExecutor(model, precision.replace("tf32", "float32"), tf32=precision == "tf32", most=1 << 20)
        if batch == LARGEST:
            batch = self._largest(executor, images)
        x = _repeated(images, batch)
        count = operations(build(model.config)) * batch
        program = executor._program(batch, False)
        size = sum(work(call)[1] for call in (program.reading(x), *program.calls))

        def row(key, seconds, logits, **more):
            expected = truth[np.arange(len(logits)) % len(truth)]  # for every image: a race may spoil any of them
            found = {"key": key, "batch": batch, "images_per_second": batch / median(seconds),
                     "seconds": sorted(seconds),
                     **self._shares(precision, median(seconds), count, size if key == "ours" else None),
                     "error": float(np.abs(logits - expected).max() / np.abs(truth).max()),
                     "same_top1": _same_top1(logits, expected), **more}
            return found, _line(found)

        def ours():
            return executor(x)

        logits = operands.to_host(ours())
        self.say(f"    the paper's V100, float16: {V100[name]:,} images/s")
        yield row("ours", self.interleaved({"ours": ours})["ours"], logits, memory=executor.memory)
        yield from self._beside(ours, PEERS_OF["inference"],
                                lambda peers, key: peers.evaluation(key, model.config, state, images, batch, precision,
                                                                      self.chosen.mode),
                                lambda key, call, times: row(
                                    key, times[key], call().float().cpu().numpy(), ours=sorted(times["ours"]),
                                    ratio=ratio(times[key], times["ours"])))

    def _beside(self, ours, keys, prepare, row):
        """For each peer, taking turns with ours: its row, or why there is none."""
        for key in (key for key in self.chosen.peers if key in keys):
            if self.over():
                return
            self.say(f"    {key}: preparing")
            try:
                import gpu_peers

                with _beside_others(self.chosen.alone):
                    call = prepare(gpu_peers, key)
                found = row(key, call, self.interleaved({"ours": ours, key: call}))
            except Exception as error:  # a failure must not end an hour's run
                found = None, f"{key}: {_reason(error)}"
            call = None  # the next one may need its memory, if it failed too
            yield found
            gc.collect()
            if "torch" in sys.modules and (cuda := sys.modules["torch"].cuda).is_initialized():
                # A failed capture leaves its own stream as the current one, for whose work our events would not wait.
                cuda.set_stream(cuda.default_stream())
                cuda.empty_cache()

    def _largest(self, executor, images):
        """The largest batch: doubled until the memory does not suffice."""
        batch = 1024
        while batch < 1 << 17:
            try:
                executor(_repeated(images, 2 * batch))
            except device.current().OutOfMemory:  # raised for the images themselves
                break
            if executor.most < 2 * batch:
                break
            batch *= 2
        executor.most = batch
        device.free()  # otherwise CuPy would keep the failed batch's memory from PyTorch
        return batch

    def _kernels(self, name, batch, precision):
        """Each kernel of an evaluation alone, compared with PyTorch's equivalents."""
        model, _, images, _ = self._model(name)
        executor = CudaExecutor(model, precision.replace("tf32", "float32"), tf32=precision == "tf32")
        program, seen = executor._program(batch, False), set()
        for call in (program.reading(_repeated(images, batch)), *program.calls):
            numbers = tuple(int(a) for a in call.arguments if isinstance(a, np.integer))
            if (call.kernel, numbers) in seen:
                continue
            if self.over():
                return
            seen.add((call.kernel, numbers))
            run = device.current().recorded([call] * REPEATED)
            try:
                peers, missing = _peers(call, numbers, precision)
            except Exception as error:
                peers, missing = {}, [f"{call.kernel.name} of PyTorch: {_reason(error)}"]
            for reason in missing:
                yield None, reason
            times = {key: [t / REPEATED for t in found]
                     for key, found in self.interleaved({"ours": run} | peers).items()}
            fastest = min((key for key in times if key != "ours"), key=lambda key: median(times[key]), default=None)
            count, size = work(call)
            found = {
                "kernel": call.kernel.name, "numbers": numbers, "seconds": {key: median(t) for key, t in times.items()},
                **self._shares(precision, median(times["ours"]), count, size), "fastest": fastest,
                "ratio": ratio(times[fastest], times["ours"]) if fastest else None}
            seconds = found["seconds"]["ours"]
            yield found, (f"{call.kernel.name:14}{' '.join(map(str, numbers[:7])):32}{1e6 * seconds:9.1f} µs"
                          f"{_shares_of(found)}" + (f"   {found['ratio']:.2f} × {fastest}" if fastest else ""))

    def _training(self, name, batch, precision):
        model, state, images, _ = self._model(name)
        labels = np.arange(batch) % 1000
        ours = training_step(name, state, _repeated(images, batch), labels, precision)

        def row(key, seconds, **more):
            found = {"key": key, "images_per_second": batch / median(seconds), "seconds": sorted(seconds), **more}
            return found, _line(found)

        yield row("ours", self.interleaved({"ours": ours})["ours"])
        yield from self._beside(ours, PEERS_OF["training"],
                                lambda peers, key: peers.training(key, model.config, state, images, labels, precision,
                                                                    self.chosen.mode),
                                lambda key, call, times: row(key, times[key], ours=sorted(times["ours"]),
                                                             ratio=ratio(times[key], times["ours"])))


def training_step(name, state, images, labels, precision):
    """Our training step: forward, label-smoothed cross-entropy on both heads, backward, AdamW for all parameters.
    images: on the GPU."""
    from levit_np.training.recipe import Recipe
    from levit_np.training.trainer import Trainer

    config, _ = random_state(name)
    model = build(config, "cuda", Classifier)
    model.set_state(state)
    model.precision = precision
    trainer = Trainer(model, SimpleNamespace(steps=1), Recipe(clip=0.0, average=0.0, drop_path=0.0))
    x, targets = images.astype(trainer.type), model.ops.targets_of(labels, config.num_classes, 0.1, np.float32)

    def call():
        model.zero_gradients()
        loss, _ = trainer.one_pass(x, targets, share=trainer.scale.value)
        gradients = model.gradients()
        float(model.ops.squared_norm(*gradients.values()))  # as the trainer does to decide whether to take the step
        trainer.update(gradients, 1e-4, 1 / trainer.scale.value)
        return loss

    return call


def _alone(path):
    """Holds the lock of this file, if given, exclusively: no other run uses the GPU."""
    return _locked(path, "LOCK_EX")


def _beside_others(path):
    """Shares the lock: waits only while another run holds it exclusively."""
    return _locked(path, "LOCK_SH")


@contextmanager
def _locked(path, kind):
    if path is None:
        yield
        return
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, getattr(fcntl, kind))  # until the file is closed
        yield


def _peers(call, numbers, precision):
    """PyTorch's equivalents of a launch ({} if there are none), repeated in a graph like ours; and why others are
    missing."""
    import gpu_peers

    found = {}
    if call.kernel.name.startswith("linear"):
        found = gpu_peers.linear(*numbers[:3], precision)
    if call.kernel.name == "convolution":
        images, height, width, channels, _, _, outputs, kernel, stride, padding = numbers[:10]
        if kernel == 2:  # the first one, which reads blocks of 2×2 pixels; PyTorch reads pixels
            height, width, channels, kernel, stride = 2 * height, 2 * width, 3, 3, 2
        found = gpu_peers.convolution(images, height, width, channels, outputs, kernel, stride, padding, precision)
    if call.kernel.name in ("attention", "attention_pairs"):
        sizes = dict(call.kernel.defines)
        found = gpu_peers.attention(*numbers[:4], sizes["KEY_SIZE"], sizes["VALUE_SIZE"], precision)
    peers, missing = {}, []
    for key, operation in found.items():
        try:
            peers[key] = gpu_peers.repeated(operation, REPEATED)
        except Exception as error:
            missing.append(f"{call.kernel.name} beside {key}: {_reason(error)}")
    return peers, missing


def _same_top1(found, truth) -> bool:
    """Wherever the reference's margin is more than a hundredth of its largest logit."""
    ordered = np.sort(truth, 1)
    clear = ordered[:, -1] - ordered[:, -2] > 0.01 * np.abs(truth).max()
    return bool((found.argmax(1) == truth.argmax(1))[clear].all())


def _key(part, what):
    return f"{part} {' '.join(map(str, what))}"


def _clean(machine):
    """The commit of a machine's checkout, without the mark that its own result makes it dirty."""
    return machine["commit"] and machine["commit"].removesuffix("-dirty")


def _reason(error) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _repeated(images, batch):
    """The images repeated to a batch, on the GPU."""
    return operands.asarray(images)[operands.asarray(np.arange(batch) % len(images))]


def _line(row):
    """A row as text."""
    return (f"{row['key']:14}{row['images_per_second']:12,.0f} images/s{1e3 * median(row['seconds']):11.3f} ms"
            + _shares_of(row) + (f"   error {row['error']:.1e}" if "error" in row else "")
            + (f"   ours {row['ratio']:.2f} × as fast" if "ratio" in row else ""))


def _shares_of(row):
    shares = ((row.get("share_of_products"), "of the products' peak"), (row.get("share_of_copy"), "of the copy"))
    return "".join(f"  {share:4.0%} {name}" for share, name in shares if share is not None)
