"""Lower bounds for the time of each kernel of an evaluation on an H200: predictions, not measurements.

A kernel takes at least as long as its multiply-adds at the rate of the tensor cores, and as its arrays, each read or
written once, at the rate of the memory. The rates are those that PyTorch reached on an H200 in the largest dense 16-bit
product and the largest copy."""

import numpy as np

from levit_np.inference import plan
from levit_np.inference.cuda import Buffers, Program
from levit_np.inference.cuda_lowering import Lowering
from levit_np.model import create
from levit_np.ops.cuda import device
from levit_np.ops.cuda.kernel import View

OPERATIONS, BYTES, LAUNCH = 692e12, 4.24e12, 2e-6  # per second; seconds per kernel in a graph


class Paper:
    """A device that computes nothing and only records launches."""

    OutOfMemory, arrays, capability = MemoryError, np, 90

    def launch(self, call):
        pass

    def recorded(self, calls):
        return lambda: None

    def asarray(self, x):
        return x

    def address(self, x):
        return 0

    def finish(self):
        pass


def launches(name: str, batch: int, element: str) -> list:
    """Every launch of an evaluation, in order."""
    model = create(name)
    device.use(Paper())
    try:
        lowering = Lowering(plan.steps_of(model), model.config, element)
        program = Program(lowering, Buffers(batch), batch, model.config.num_classes, False)
        images = np.empty((batch, model.config.in_channels, *model.config.image_size), np.float32)
        return [program.reading(images), *program.calls]
    finally:
        device.use(None)


def work(call) -> tuple[float, float]:
    """(operations, bytes) of a launch: two operations for each multiply-add, and every array once, except pixels that
    no window reads."""
    arrays = [a.array if isinstance(a, View) else a for a in call.arguments]
    size = float(sum(a.nbytes for a in arrays if hasattr(a, "nbytes") and getattr(a, "ndim", 0)))
    numbers = [int(a) for a in call.arguments if isinstance(a, np.integer)]
    if call.kernel.name.startswith("linear"):
        rows, outputs, channels = numbers[:3]
        return 2.0 * rows * outputs * channels, size
    if call.kernel.name == "convolution":
        images, height, width, channels, out_height, out_width, outputs, kernel = numbers[:8]
        terms = 27 if kernel == 2 else kernel**2 * channels  # blocks of 2×2 pixels: 3×3 of three channels, and padding
        seen = min(1, kernel * out_height / height) * min(1, kernel * out_width / width)
        return 2.0 * images * out_height * out_width * outputs * terms, size - (1 - seen) * arrays[0].nbytes
    if call.kernel.name in ("attention", "attention_pairs"):
        images, heads, queries, keys = numbers[:4]
        sizes = dict(call.kernel.defines)
        # q, k and v are views of one array, which is read once
        size -= sum(a.nbytes for a in arrays[:3] if a is not None)
        tokens = images * heads * (queries * sizes["KEY_SIZE"] + keys * (sizes["KEY_SIZE"] + sizes["VALUE_SIZE"]))
        return (2.0 * images * heads * queries * keys * (sizes["KEY_SIZE"] + sizes["VALUE_SIZE"]),
                size + tokens * (4 if call.kernel.element == "float" else 2))
    return 0.0, size


def prediction_table(name: str, batch: int, element: str) -> str:
    """The kernels of an evaluation, with equal ones added up."""
    groups = {}
    for call in launches(name, batch, element):
        numbers = [int(a) for a in call.arguments if isinstance(a, np.int32)]
        short = call.kernel.name in ("attention", "attention_pairs", "linear", "linear_resident")
        key = call.kernel.name, tuple(numbers[: 4 if short else 7])
        groups.setdefault(key, []).append(call)
    rows, total = [("kernel", "its first numbers", "launches", "GFLOP", "MB", "bound by", "µs each at best")], 0.0
    for (kernel, numbers), calls in groups.items():
        operations, size = work(calls[0])
        times = {"tensor cores": operations / OPERATIONS, "memory": size / BYTES, "launch": LAUNCH}
        bound = max(times, key=times.get)
        total += times[bound] * len(calls)
        rows.append((kernel, " ".join(map(str, numbers)), str(len(calls)), f"{operations / 1e9:.1f}",
                     f"{size / 1e6:.1f}", bound, f"{times[bound] * 1e6:.1f}"))
    rows.append(("together", "", str(sum(map(len, groups.values()))), "", "", "", f"{total * 1e6:.0f}"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) if column in (0, 5) else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths))) for row in rows]
    return "\n".join([f"\n{name}, batch {batch}, {element}: predicted, not measured", *lines,
                      f"at best {batch / total:,.0f} images/s, were every kernel at its bound"])
