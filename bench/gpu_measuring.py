"""Takes the measurements that gpu.py plans, and writes each down as soon as it is complete."""

import json
from pathlib import Path
from statistics import median

import numpy as np
from gpu import LARGEST, V100
from gpu_predictions import work
from report import result_path
from rich.box import SIMPLE
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table
from runners import random_state, reference_logits

from levit_np.benchmark.machine import describe
from levit_np.benchmark.rounds import ratio
from levit_np.benchmark.short import operations
from levit_np.classifier import Classifier
from levit_np.inference.cuda import CudaExecutor
from levit_np.model import build
from levit_np.ops.cuda import device
from levit_np.storage.atomic import replacing

PACKAGES = ("numpy", "cupy-cuda13x", "cupy-cuda12x", "torch", "timm", "triton")
CHECKED = 4  # images whose logits are held against float64
REPEATED = 20  # launches of one kernel in a graph, so that none is measured by its launch


class Measuring:
    """Raises BackendError where there is no GPU."""

    def __init__(self, chosen, console):
        self.chosen, self.console = chosen, console
        self.cupy = device.current().arrays  # a BackendError comes before anything is prepared
        properties = self.cupy.cuda.runtime.getDeviceProperties(self.cupy.cuda.Device().id)
        self.machine = describe(PACKAGES) | {
            "device": properties["name"].decode(), "memory": int(properties["totalGlobalMem"]),
            "driver": self.cupy.cuda.runtime.driverGetVersion(), "runtime": self.cupy.cuda.runtime.runtimeGetVersion()}
        chosen.results.mkdir(parents=True, exist_ok=True)
        self.path = result_path(Path(chosen.results), "gpu", self.machine["device"])
        self.content = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.limits, self._models = {}, {}
        console.print(f"{self.machine['device']}, {self.machine['versions']}", soft_wrap=True)

    def take(self, part, what):
        table, rows = getattr(self, f"_{part}")(*what)
        self.content[f"{part} {' '.join(map(str, what))}"] = {"machine": self.machine, "rows": rows}
        with replacing(self.path) as file:
            file.write((json.dumps(self.content, indent=1) + "\n").encode())
        self.console.print(table)

    def interleaved(self, calls: dict) -> dict:
        """{name: seconds a call, one number a round}, by the GPU's events; A B C A B C …"""
        event, times, counts = self.cupy.cuda.Event, {name: [] for name in calls}, {}
        with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=self.console, transient=True) as progress:
            task = progress.add_task("taking turns", total=len(calls) * self.chosen.rounds)
            for _ in range(self.chosen.rounds):
                for name, call in calls.items():
                    call()
                    if name not in counts:
                        counts[name] = max(1, int(self.chosen.seconds / self._seconds(call, 3, event)))
                    times[name].append(self._seconds(call, counts[name], event))
                    progress.advance(task)
        return times

    def _seconds(self, call, count, event):
        """A call's, of `count` in a row.  CuPy and PyTorch both work on the default stream."""
        start, end = event(), event()
        self.cupy.cuda.Device().synchronize()
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return self.cupy.cuda.get_elapsed_time(start, end) / 1e3 / count

    def _limits(self, precision):
        import gpu_peers

        product, count = gpu_peers.matrix_peak(precision)
        copied, size = gpu_peers.copy()
        times = self.interleaved({"product": product, "copy": copied})
        self.limits[precision] = found = {"operations": count / median(times["product"]), "bytes": size / median(times["copy"])}
        return _table(f"limits, {precision}", ("TFLOP/s", "TB/s"),
                      [("", f"{found['operations'] / 1e12:.0f}", f"{found['bytes'] / 1e12:.2f}")]), [found]

    def _limit(self, precision):
        if precision not in self.limits:
            self._limits(precision)
        return self.limits[precision]

    def _model(self, name):
        """(model on the GPU, its state, images, true logits of the first)."""
        if name not in self._models:
            config, state = random_state(name)
            model = build(config, "cuda", Classifier)
            model.set_state(state)
            images = np.random.default_rng(0).standard_normal((CHECKED, 3, *config.image_size)).astype(np.float32)
            with self.console.status(f"{name}: the reference in float64"):
                truth = reference_logits(name, state, images)
            self._models = {name: (model, state, images, truth)}
        return self._models[name]

    def _inference(self, name, batch, precision):
        model, state, images, truth = self._model(name)
        executor = CudaExecutor(model, precision.replace("tf32", "float32"), tf32=precision == "tf32", most=1 << 20)
        if batch == LARGEST:
            batch = self._largest(executor, images)
        x = np.resize(images, (batch, *images.shape[1:]))
        on_gpu = device.asarray(x)
        calls, logits, missing = {"ours": lambda: executor(on_gpu)}, {}, []
        for key in self.chosen.peers:
            try:
                import gpu_peers

                calls[key] = gpu_peers.evaluation(key, model.config, state, x, precision)
            except Exception as error:  # a peer that fails must not end an hour's measuring
                missing.append(f"{key}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        for key, call in calls.items():
            found = call()
            logits[key] = (device.to_host(found) if key == "ours" else found.float().cpu().numpy())[:CHECKED]
        times, limit = self.interleaved(calls), self._limit(precision)
        launches = executor._programs[batch, False].calls
        size, fastest = sum(work(call)[1] for call in launches), min(
            (key for key in times if key != "ours"), key=lambda key: median(times[key]), default=None)
        count, rows = operations(build(model.config)) * batch, []
        for key, seconds in times.items():
            rows.append({
                "key": key, "batch": batch, "images_per_second": batch / median(seconds), "seconds": sorted(seconds),
                "share_of_products": count / median(seconds) / limit["operations"],
                "share_of_copy": size / median(seconds) / limit["bytes"] if key == "ours" else None,
                "error": float(np.abs(logits[key] - truth[: len(logits[key])]).max() / np.abs(truth).max()),
                "same_top1": _same_top1(logits[key], truth[: len(logits[key])]),
                "ratio": ratio(times[fastest], seconds) if fastest and key == "ours" else None,
                "memory": executor.memory if key == "ours" else None})
        title = f"{name}, batch {batch}, {precision} (the paper's V100, float16: {V100[name]:,} images/s)"
        table = _table(title, ("images/s", "ms", "of the products' peak", "of the copy", "× the fastest", "error"), [
            (r["key"], f"{r['images_per_second']:,.0f}", f"{1e3 * median(r['seconds']):.3f}", f"{r['share_of_products']:.0%}",
             f"{r['share_of_copy']:.0%}" if r["share_of_copy"] else "", f"{r['ratio']:.2f}" if r["ratio"] else "",
             f"{r['error']:.1e}") for r in rows])
        table.caption = "\n".join(f"not measured: {reason}" for reason in missing) or None
        return table, [*rows, {"missing": missing}]

    def _largest(self, executor, images):
        """Twice as many images until the memory no longer suffices."""
        batch = 2048
        while batch < 1 << 17:
            executor(device.asarray(np.resize(images, (2 * batch, *images.shape[1:]))))
            if executor.most < 2 * batch:
                return executor.most
            batch *= 2
        return batch

    def _kernels(self, name, batch, precision):
        """Each kernel of an evaluation by itself, beside what PyTorch has for it."""
        model, *_ = self._model(name)
        executor = CudaExecutor(model, precision.replace("tf32", "float32"), tf32=precision == "tf32")
        launches, rows, seen = executor._program(batch, False).calls, [], set()
        limit = self._limit(precision)
        for call in launches:
            numbers = tuple(int(a) for a in call.arguments if isinstance(a, np.integer))
            if (call.kernel, numbers) in seen:
                continue
            seen.add((call.kernel, numbers))
            run = device.current().recorded([call] * REPEATED)
            times = self.interleaved({"ours": run} | _peers(call, numbers, precision))
            times["ours"] = [t / REPEATED for t in times["ours"]]
            fastest = min((key for key in times if key != "ours"), key=lambda key: median(times[key]), default=None)
            count, size = work(call)
            rows.append({
                "kernel": call.kernel.name, "numbers": numbers, "seconds": {key: median(t) for key, t in times.items()},
                "share_of_products": count / median(times["ours"]) / limit["operations"],
                "share_of_copy": size / median(times["ours"]) / limit["bytes"], "fastest": fastest,
                "ratio": ratio(times[fastest], times["ours"]) if fastest else None})
        return _table(f"{name}, batch {batch}, {precision}: kernels", (
            "its first numbers", "µs", "of the products' peak", "of the copy", "beside", "× the fastest"), [
                (r["kernel"], " ".join(map(str, r["numbers"][:7])), f"{1e6 * r['seconds']['ours']:.1f}",
                 f"{r['share_of_products']:.0%}", f"{r['share_of_copy']:.0%}", r["fastest"] or "",
                 f"{r['ratio']:.2f}" if r["ratio"] else "") for r in rows]), rows

    def _training(self, name, batch, precision):
        model, state, images, _ = self._model(name)
        x = np.resize(images, (batch, *images.shape[1:]))
        labels, missing = np.arange(batch) % 1000, []
        calls = {"ours": training_step(name, state, x, labels, precision)}
        for key in [key for key in self.chosen.peers if key in ("eager", "compile")]:
            try:
                import gpu_peers

                calls[key] = gpu_peers.training(key, model.config, state, x, labels, precision)
            except Exception as error:
                missing.append(f"{key}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        times = self.interleaved(calls)
        rows = [{"key": key, "images_per_second": batch / median(seconds), "seconds": sorted(seconds),
                 "ratio": ratio(times["compile"], seconds) if key == "ours" and "compile" in times else None}
                for key, seconds in times.items()]
        return _table(f"{name}, batch {batch}, {precision}: a training step", ("images/s", "ms", "× torch.compile"), [
            (r["key"], f"{r['images_per_second']:,.0f}", f"{1e3 * median(r['seconds']):.1f}",
             f"{r['ratio']:.2f}" if r["ratio"] else "") for r in rows]), [*rows, {"missing": missing}]


def training_step(name, state, images, labels, precision):
    """Ours: forward, label-smoothed cross-entropy on both heads, backward, AdamW of all parameters."""
    from levit_np.training.recipe import Recipe
    from levit_np.training.scaling import LossScale
    from levit_np.training.update import Update

    config, _ = random_state(name)
    model = build(config, "cuda", Classifier)
    model.set_state(state)
    ops = model.ops
    update, scale = Update(model, Recipe(clip=0.0)), LossScale(precision)
    kind = ops.type_of(precision)
    x, targets = ops.asarray(images).astype(kind), ops.targets_of(labels, config.num_classes, 0.1, np.float32)

    def call():
        model.zero_gradients()
        outputs, saved = model.forward(x, training=True)
        loss = sum(ops.cross_entropy(out, targets) for out in outputs)
        model.backward([ops.cross_entropy_backward(out, targets) * np.float32(scale.value) for out in outputs], saved)
        update(model.gradients(), 1e-4, 1 / scale.value)
        return loss

    return call


def _peers(call, numbers, precision):
    """PyTorch's operations for a launch, {} where there is none."""
    import gpu_peers

    if call.kernel.name in ("linear", "linear_floats"):
        return gpu_peers.linear(*numbers[:3], precision)
    if call.kernel.name == "convolution":
        images, height, width, channels, _, _, outputs, kernel, stride, padding = numbers[:10]
        return gpu_peers.convolution(images, height, width, channels, outputs, kernel, stride, padding, precision)
    if call.kernel.name == "attention":
        sizes = dict(call.kernel.defines)
        return gpu_peers.attention(*numbers[:4], sizes["KEY_SIZE"], sizes["VALUE_SIZE"], precision)
    return {}


def _same_top1(found, truth) -> bool:
    """Wherever the reference's margin is over a hundredth of its largest logit."""
    ordered = np.sort(truth, 1)
    clear = ordered[:, -1] - ordered[:, -2] > 0.01 * np.abs(truth).max()
    return bool((found.argmax(1) == truth.argmax(1))[clear].all())


def _table(title, columns, rows):
    table = Table(title=title, box=SIMPLE)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    return table
