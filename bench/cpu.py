"""The speed of LeViT on this processor, compared with other libraries: python bench/cpu.py --help

The same weights (random, as a fresh network is nearly the identity) and images, in one process, taking turns. Each
logit is compared with NumPy's in float64. README.md explains the result."""

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path
from statistics import median

EXAMPLE = """examples:
  taskset -c 0 python bench/cpu.py                               everything, one thread
  python bench/cpu.py --threads 1 2 --models levit_256           one model, one thread and two
  python bench/cpu.py --models levit_256 --batches 1 --rounds 5 --peers onnxruntime openvino
  python bench/cpu.py --startup                                  only whole processes: time and memory
"""
PACKAGES = ("numpy", "numba", "llvmlite", "torch", "onnx", "onnxruntime", "openvino")
NEEDS = {"eager": ("torch",), "compile": ("torch",), "onnxruntime": ("torch", "onnx", "onnxruntime"),
         "openvino": ("torch", "onnx", "openvino"), "openvino-bf16": ("torch", "onnx", "openvino")}
PAUSE = 0.02  # seconds before a turn: some libraries' threads keep spinning for a while after their last call


def arguments():
    from report import TOP1, add_results

    from levit_np.commands.common import whole

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=EXAMPLE,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(TOP1), choices=list(TOP1), metavar="NAME",
                        help=f"of {', '.join(TOP1)} (default: all)")
    parser.add_argument("--batches", nargs="+", type=whole, default=[1, 16], metavar="N", help="(default: 1 16)")
    parser.add_argument("--threads", nargs="+", type=whole, default=[1], metavar="N", help="(default: 1)")
    parser.add_argument("--rounds", type=whole, default=15, metavar="N", help="turns of each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a turn (default: %(default)s)")
    parser.add_argument("--peers", nargs="*", default=list(NEEDS), choices=list(NEEDS), metavar="NAME",
                        help=f"of {', '.join(NEEDS)} (default: all)")
    parser.add_argument("--backend", default="cpu", choices=("cpu", "reference"),
                        help="levit_np's backend (default: %(default)s)")
    parser.add_argument("--startup", action="store_true",
                        help="measure whole processes instead: from their start to the first logits of LeViT-256")
    add_results(parser)
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(max(chosen.threads))  # read once, by the libraries that are imported below
    from report import Results, result_path, this_machine
    from rich.console import Console
    from runners import IMPLEMENTATIONS

    import levit_np

    levit_np.set_threads(max(chosen.threads))  # too many are refused before anything is measured
    console = Console(width=None if sys.stdout.isatty() else 110)
    machine = this_machine(PACKAGES)
    peers = [key for key in chosen.peers if _there(key, chosen.backend, console)]
    console.print(f"{machine['processor']}, {machine['usable_cores']} of {machine['cores']} cores usable, load "
                  f"{machine['load_average']}, BLAS: {machine['blas']}", soft_wrap=True)
    if max(chosen.threads) > machine["usable_cores"]:
        console.print(f"[yellow]{max(chosen.threads)} threads on {machine['usable_cores']} usable cores: no figure of "
                      "these will mean anything")
    results = Results(result_path(chosen.results, "cpu", machine), IMPLEMENTATIONS)
    with tempfile.TemporaryDirectory() as folder:
        if chosen.startup:
            from startup import measure

            results.content["startup"] = measure(Path(folder), chosen, machine, peers, console)
            results.write()
        else:
            measure_models(chosen, machine, peers, results, Path(folder), console)
    console.print(f"written: {results.path}")


def measure_models(chosen, machine, peers, results, folder, console):
    from report import group_table, summary_table
    from runners import IMPLEMENTATIONS

    groups, keys = [], ["ours", "ours-bf16", *peers]
    for model in chosen.models:
        for job, truth in jobs(model, chosen, folder, console):
            group = measure_group(job, truth, keys, chosen, console) | {"machine": machine}
            groups.append(group)
            console.print(group_table(group, IMPLEMENTATIONS))
            for reason in group["missing"]:
                console.print(f"[yellow]not measured: {reason}")
            results.add(group)
        if not results.plot():
            console.print("[yellow]no plot: matplotlib is not installed")
    for threads in chosen.threads:
        console.print(summary_table([group for group in groups if group["threads"] == threads], IMPLEMENTATIONS))


def jobs(model, chosen, folder, console):
    """(Job, float64 logits) of one model for each batch size and number of threads."""
    import numpy as np
    from runners import Job, random_state, reference_logits

    config, state = random_state(model)
    shape = max(chosen.batches), config.in_channels, *config.image_size
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with console.status("") as status:
        done = iter(range(1, len(images) + 1))
        truth = reference_logits(model, state, images, lambda: status.update(
            f"{model}: the reference in float64, {next(done)} of {len(images)} images"))
    for threads in chosen.threads:
        for batch in chosen.batches:
            yield Job(config, state, images[:batch].copy(), threads, chosen.backend, folder), truth[:batch]


def measure_group(job, truth, keys, chosen, console) -> dict:
    from rich.progress import Progress, TimeElapsedColumn
    from runners import IMPLEMENTATIONS

    from levit_np.benchmark.machine import load_average
    from levit_np.benchmark.peak import peaks
    from levit_np.benchmark.rounds import interleaved
    from levit_np.errors import BackendError

    place = f"{job.config.name}, batch {len(job.images)}, {job.threads} threads"
    calls, errors, missing = {}, {}, []
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=len(keys) + len(keys) * chosen.rounds)
        for key in keys:
            progress.update(task, description=f"{place}: preparing {key}")
            try:
                call = IMPLEMENTATIONS[key].make(job)
                errors[key] = float(abs(call() - truth).max() / abs(truth).max())
                calls[key] = call
            except Exception as error:  # one failure must not end an hour's run; ours may lack a precision
                if key.startswith("ours") and not isinstance(error, BackendError):
                    raise
                missing.append(f"{key}: {type(error).__name__}: " + str(error).strip().partition("\n")[0])
            progress.advance(task)
        progress.update(task, description=place, total=len(keys) + len(calls) * chosen.rounds)
        before, first = load_average(), peaks(job.threads)
        times = interleaved(calls, chosen.rounds, chosen.seconds, PAUSE, lambda: progress.advance(task))
        limits = {unit: max(rate, first[unit]) for unit, rate in peaks(job.threads).items()}
    return {"model": job.config.name, "batch": len(job.images), "threads": job.threads, "rounds": chosen.rounds,
            "load_average": {"before": before, "after": load_average()}, "limits_gflops": limits, "missing": missing,
            "rows": rows(job, times, errors, limits)}


def rows(job, times, errors, limits) -> list[dict]:
    """A row for each measured implementation; ours with its ratio to the fastest other one at the same precision."""
    from runners import IMPLEMENTATIONS

    from levit_np.benchmark.peak import peak_of
    from levit_np.benchmark.rounds import ratio
    from levit_np.benchmark.short import operations
    from levit_np.model import build

    work, batch, found = operations(build(job.config)), len(job.images), []
    for key, seconds in times.items():
        precision = IMPLEMENTATIONS[key].precision
        rivals = {k: median(t) for k, t in times.items()
                  if not k.startswith("ours") and IMPLEMENTATIONS[k].precision == precision}
        fastest = min(rivals, key=rivals.get) if rivals and key.startswith("ours") else None
        limit = peak_of(precision, limits)
        found.append({
            "key": key, "precision": precision, "images_per_second": batch / median(seconds),
            "seconds_per_image": {"median": median(seconds) / batch, "fastest": min(seconds) / batch,
                                  "slowest": max(seconds) / batch},
            "share_of_limit": work * batch / median(seconds) / 1e9 / limit if limit else None, "error": errors[key],
            "fastest_peer": fastest, "ratio": ratio(times[fastest], seconds) if fastest else None})
    return found


def _there(peer, backend, console) -> bool:
    """Whether it can be compared with ours. For bfloat16 on a processor without it, OpenVINO emulates it, which takes
    half a second an image, or computes in float32."""
    from report import lacking
    from rich.markup import escape
    from runners import IMPLEMENTATIONS

    from levit_np.errors import BackendError
    from levit_np.ops import stored_type

    reason = lacking(NEEDS[peer])
    try:
        stored_type(backend, IMPLEMENTATIONS[peer].precision)
    except BackendError as error:
        reason = f"levit_np has no such precision here ({error})"
    if reason:
        console.print(f"[yellow]{peer} is left out: {escape(reason)}", soft_wrap=True)
    return not reason


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # from other libraries
    from report import run

    run(main)
