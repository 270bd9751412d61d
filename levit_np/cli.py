"""The command `levit-np`: one verb a job.  Exit status 0 for success, 2 for wrong use, 1 for a failed job."""

import argparse
import os
import sys
from contextlib import contextmanager
from pathlib import Path

from .errors import ImageError, LevitError


def _shipped(name: str) -> Path:
    """The file called `name`: as it stands, in ./weights, or the one that came with the package."""
    here = Path(__file__).resolve().parent
    for place in (Path(name), Path("weights") / name, here / "weights" / name, here.parent / "weights" / name):
        if place.is_file():
            return place
    return Path(name)


def _whole(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def _shown(text: str) -> str:
    """A text from a file, which must not be able to command the terminal."""
    return text if text.isprintable() else ascii(text)


def _add_classify(verbs):
    classify = verbs.add_parser("classify", help="what is in an image", description="Prints the likeliest classes of "
                                "each image. An image that cannot be used is named, and the others go on.",
                                epilog="example: levit-np classify weights/samples/digit_3.png")
    classify.add_argument("images", nargs="+", metavar="IMAGE", help="a JPEG, PNG or WebP file")
    classify.add_argument("--weights", default="levit_digits.h5", help="a weight file (default: %(default)s)")
    classify.add_argument("--top", type=_whole, default=5, help="how many classes to print (default: %(default)s)")
    classify.set_defaults(run=_classify)


def _classify(arguments) -> int:
    import numpy as np

    from .classifier import BATCH, load

    model, failed = load(_shipped(arguments.weights)), False
    with _progress(len(arguments.images), "images") as advance:
        for first in range(0, len(arguments.images), BATCH):
            prepared = {}
            for place, image in enumerate(arguments.images[first : first + BATCH]):
                try:
                    prepared[place] = model.prepare(image)
                except ImageError as error:
                    print(f"levit-np classify: {error}", file=sys.stderr)
                    failed = True
                advance()
            if prepared:
                answers = model.rank(np.stack(list(prepared.values())), arguments.top)
                for place, answer in zip(prepared, answers):
                    _print_answer(arguments.images[first + place], answer)
    return int(failed)


def _print_answer(image, answer):
    # A terminal or a file that has no full block gets the next best.
    block = "█" if "utf" in (sys.stdout.encoding or "").lower() else "#"
    print(_shown(image))
    for label, probability in answer:
        print(f"  {_shown(label):<24.24} {probability:7.2%}  {block * round(30 * probability)}".rstrip())


@contextmanager
def _progress(total: int, what: str, silent: bool = False):
    """-> advance(): a bar on stderr for more than a batch of things whose results go into a file or a pipe; on a
    terminal the results themselves show how far it is, unless the work is silent."""
    if not sys.stderr.isatty() or not silent and (total <= 16 or sys.stdout.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _add_summary(verbs):
    summary = verbs.add_parser("summary", help="each layer with its shape, parameters and multiply-adds",
                               epilog="example: levit-np summary levit_256")
    summary.add_argument("model", help="a name of the family, or a weight file")
    summary.set_defaults(run=_summary)


def _summary(arguments) -> int:
    from .config import ABLATIONS, FAMILY, config_of
    from .model import build

    if arguments.model in FAMILY | ABLATIONS:
        model = build(config_of(arguments.model))
    else:
        from .checkpoints.loading import load

        model = load(_shipped(arguments.model))
    print(model.summary())
    return 0


def _add_bench(verbs):
    bench = verbs.add_parser("bench", help="how fast a model is on this machine", description="Images a second on each "
                             "backend that is there, the backends taking turns, and the share of the processor's "
                             "measured multiply-add limit.",
                             epilog="example: levit-np bench levit_256 --batch 1 16 --threads 2")
    bench.add_argument("model", nargs="?", default="levit_256", metavar="WEIGHTS",
                       help="a weight file, or a name of the family for random weights (default: %(default)s)")
    bench.add_argument("--batch", type=_whole, nargs="+", default=[1, 16], metavar="N",
                       help="images at a time (default: 1 16)")
    bench.add_argument("--threads", type=_whole, default=1, metavar="N", help="(default: %(default)s)")
    bench.set_defaults(run=_bench)


def _bench(arguments) -> int:
    # NumPy's BLAS reads these once, when NumPy is first imported.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)
    import levit_np

    from .benchmark.machine import describe
    from .benchmark.short import ROUNDS, open_candidates, speeds
    from .config import ABLATIONS, FAMILY

    fresh = arguments.model in FAMILY | ABLATIONS
    source, opened = (arguments.model, levit_np.create) if fresh else (_shipped(arguments.model), levit_np.load)
    if hasattr(levit_np, "set_threads"):
        levit_np.set_threads(arguments.threads)
    models, missing = open_candidates(lambda backend, dtype: opened(source, backend=backend, dtype=dtype))
    machine = describe()
    print(f"{machine['processor']}, {arguments.threads} of {machine['usable_cores']} cores, load "
          f"{machine['load_average']}; {_shown(str(source))}")
    with _progress(len(models) * len(arguments.batch) * ROUNDS, "rounds", silent=True) as advance:
        rows = speeds(models, arguments.batch, arguments.threads, advance)
    print(f"{'backend':<10} {'precision':<10} {'batch':>5} {'images/s':>10} {'ms/image':>10}  of the limit")
    for row in rows:
        share = "unknown" if row.share is None else f"{row.share:.1%}"
        print(f"{row.backend:<10} {row.precision:<10} {row.batch:>5} {row.images_per_second:>10.1f} "
              f"{1000 / row.images_per_second:>10.2f}  {share:>12}")
    for reason in missing:
        print(f"not measured: {reason}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="levit-np", description="LeViT without a deep-learning framework.",
                                     epilog="levit-np VERB --help shows an example of each.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_classify(verbs)
    _add_summary(verbs)
    _add_bench(verbs)
    return parser


def main(argv=None) -> int:
    arguments = _parser().parse_args(argv)
    sys.stdout.reconfigure(errors="replace")  # a label that the terminal has no letters for is no failure
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except LevitError as error:
        print(f"levit-np {arguments.verb}: {error}", file=sys.stderr)
    except BrokenPipeError:  # the reader, `head` say, has seen enough; what is still to be written goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
