"""levit-np bench: how fast a model is on this machine, and where the time goes."""

import os

from ..errors import say, shown
from .common import opened, progress, use_threads, whole


def add(verbs):
    bench = verbs.add_parser("bench", help="how fast a model is on this machine", description="Measures images per "
                             "second on each available backend, the backends taking turns, and the share of the "
                             "processor's measured multiply-add limit.",
                             epilog="example: levit-np bench levit_256 --batch 1 16 --threads 2")
    bench.add_argument("model", nargs="?", default="levit_256", metavar="WEIGHTS",
                       help="a weight file, or a model name for random weights (default: %(default)s)")
    bench.add_argument("--batch", type=whole, nargs="+", default=[1, 16], metavar="N",
                       help="batch sizes (default: 1 16)")
    bench.add_argument("--threads", type=whole, default=1, metavar="N",
                       help="number of computing threads (default: %(default)s)")
    bench.add_argument("--steps", action="store_true", help="instead, the time of each step of the cpu backend's plan "
                       "(which `levit-np summary --plan` describes), then the sums by kind of step")
    bench.set_defaults(run=_run, wrong_use=bench.error)


def _run(arguments) -> int:
    # NumPy's BLAS reads these variables once, when NumPy is first imported.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)
    from ..benchmark.machine import describe
    from ..benchmark.short import CANDIDATES, open_candidates
    from ..inference.cpu import MAX_BATCH

    if arguments.steps and max(arguments.batch) > MAX_BATCH:
        arguments.wrong_use(f"argument --batch: expected up to {MAX_BATCH} with --steps, found {max(arguments.batch)}")
    use_threads(arguments)
    models, missing = open_candidates(lambda backend, dtype: opened(arguments.model, backend=backend, dtype=dtype),
                                      [pair for pair in CANDIDATES if pair[0] == "cpu" or not arguments.steps])
    machine = describe()
    print(f"{machine['processor']}, {arguments.threads} of {machine['usable_cores']} cores, load "
          f"{machine['load_average']}; {shown(arguments.model)}")
    (_steps if arguments.steps else _speeds)(models, arguments.batch, arguments.threads)
    for reason in missing:
        say(f"not measured: {reason}")
    return 0


def _speeds(models, batches, threads):
    from ..benchmark.short import ROUNDS, speeds

    with progress(len(models) * len(batches) * ROUNDS, "rounds", silent=True) as advance:
        rows = speeds(models, batches, threads, advance)
    print(f"{'backend':<10} {'precision':<10} {'batch':>5} {'images/s':>10} {'ms/image':>10}  of the limit")
    for row in rows:
        print(f"{row.backend:<10} {row.precision:<10} {row.batch:>5} {row.images_per_second:>10.1f} "
              f"{1000 / row.images_per_second:>10.3f}  {_share(row.share):>12}")


def _steps(models, batches, threads):
    from ..benchmark.steps import ROUNDS, by_kind, step_times

    for (_, precision), model in models.items():
        for batch in batches:
            with progress(1 + ROUNDS, "rounds", silent=True) as advance:  # the first is not counted
                *steps, whole = step_times(model, batch, threads, advance)
            _table(f"{precision}, batch {batch}", [*steps, whole])
            _table(f"{precision}, batch {batch}, by kind of step", by_kind(steps))


def _table(title, rows):
    widest = max(len(title), *(len(row.name) for row in rows))
    print(f"\n{title:<{widest}} {'multiply-adds':>14} {'ms/image':>9}  of the limit")
    for row in rows:
        print(f"{row.name:<{widest}} {row.multiply_adds:>14,} {1000 * row.seconds:>9.3f}  "
              f"{_share(row.share) if row.multiply_adds else '':>12}".rstrip())


def _share(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"
