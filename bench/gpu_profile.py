"""Where a GPU's time goes, kernel by kernel: python bench/gpu_profile.py --help

Profiles a training step as gpu.py measures it, or an evaluation, with PyTorch's profiler, which sees every kernel of
the process, including those of CuPy's CUDA graphs."""

import argparse
import time

import numpy as np
from gpu import V100, batch
from report import run

EXAMPLE = """examples:
  python bench/gpu_profile.py                                  a step of LeViT-256, 256 images, float16
  python bench/gpu_profile.py evaluation --batch 1024          the same network's logits
"""
WARM = 4  # calls before counting: kernels are compiled, a step is recorded


def arguments(given=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=EXAMPLE,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="training", choices=("training", "evaluation"), metavar="WHAT",
                        help="training or evaluation (default: %(default)s)")
    parser.add_argument("--model", default="levit_256", choices=list(V100), metavar="NAME",
                        help=f"of {', '.join(V100)} (default: %(default)s)")
    parser.add_argument("--batch", type=batch, default=256, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--precision", default="float16", choices=("float16", "bfloat16", "float32"), metavar="NAME",
                        help="of float16, bfloat16, float32 (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=10, metavar="N", help="calls to profile (default: %(default)s)")
    chosen = parser.parse_args(given)
    if chosen.calls < 1 or not isinstance(chosen.batch, int):
        parser.error("--calls, --batch: expected a whole number from 1")
    return chosen


def table(events, calls: int) -> list[str]:
    """Lines, longest first, for the events (kernel, microseconds) of `calls` calls: launches and milliseconds per
    call."""
    kernels = {}
    for name, duration in events:
        kernels.setdefault(name, []).append(duration)
    lines = [f"{'kernel':60}{'launches':>10}{'ms':>10}"]
    for name, durations in sorted(kernels.items(), key=lambda kernel: -sum(kernel[1])):
        lines.append(f"{name[:58]:60}{len(durations) / calls:10.1f}{sum(durations) / 1e3 / calls:10.3f}")
    lines.append(f"{'together':60}{len(events) / calls:10.1f}{sum(time for _, time in events) / 1e3 / calls:10.3f}")
    return lines


def subject(chosen):
    """The function to profile: on the GPU, with random weights and images."""
    from gpu_measuring import CHECKED, training_step
    from runners import random_state

    from levit_np.classifier import Classifier
    from levit_np.inference.cuda import CudaExecutor
    from levit_np.model import build
    from levit_np.ops.cuda import operands

    config, state = random_state(chosen.model)
    images = np.random.default_rng(0).standard_normal((CHECKED, 3, *config.image_size)).astype(np.float32)
    x = operands.asarray(images)[operands.asarray(np.arange(chosen.batch) % CHECKED)]
    if chosen.what == "training":
        return training_step(chosen.model, state, x, np.arange(chosen.batch) % config.num_classes, chosen.precision)
    model = build(config, "cuda", Classifier)
    model.set_state(state)
    executor = CudaExecutor(model, chosen.precision, most=chosen.batch)
    return lambda: executor(x)


def main(given=None) -> None:
    chosen = arguments(given)
    from levit_np.ops.cuda import device

    gpu = device.current()
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    call = subject(chosen)
    for _ in range(WARM):
        call()
    gpu.finish()
    begun = time.perf_counter()
    for _ in range(chosen.calls):
        call()
    gpu.finish()
    milliseconds = (time.perf_counter() - begun) * 1e3 / chosen.calls
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for _ in range(chosen.calls):
            call()
        gpu.finish()
    events = [(event.name, event.device_time_total) for event in profiled.events()
              if event.device_type == DeviceType.CUDA]
    print("\n".join(table(events, chosen.calls)))
    print(f"{chosen.what} of {chosen.model}, {chosen.batch} images, {chosen.precision}: {milliseconds:.2f} ms a call, "
          "without the profiler")


if __name__ == "__main__":
    run(main)
