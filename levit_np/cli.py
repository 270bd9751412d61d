"""The command line `levit-np`, with one verb per job.  Exit status: 0 for success, 2 for wrong use, 1 for a failed job.

Parses, calls the package and prints.  The short verbs are here, the longer ones in commands/.
"""

import argparse
import os
import sys
import warnings
from pathlib import Path

from . import __version__
from .commands import bench, evaluate, explain, pack, step, teach, train
from .commands.common import BACKENDS, DIGITS, opened, progress, require_free, require_writable, waiting, whole
from .errors import ImageError, LevitError, say, shown, silence


def _add_classify(verbs):
    classify = verbs.add_parser("classify", help="the likeliest classes of images", description="Prints the likeliest "
                                "classes of each image. An image that cannot be used is reported and skipped.",
                                epilog="example: levit-np classify weights/samples/digit_3.png")
    classify.add_argument("images", nargs="+", metavar="IMAGE", help="a JPEG, PNG or WebP file")
    classify.add_argument("--weights", default=DIGITS, help="a weight file (default: %(default)s)")
    classify.add_argument("--top", type=whole, default=5, help="how many classes to print (default: %(default)s)")
    classify.set_defaults(run=_classify)


def _classify(arguments) -> int:
    import numpy as np

    from .classifier import BATCH, load

    model, failed = load(arguments.weights), False
    with progress(len(arguments.images), "images") as advance:
        for first in range(0, len(arguments.images), BATCH):
            crops = {}
            for place, image in enumerate(arguments.images[first : first + BATCH]):
                try:
                    crops[place] = model.crop(image)
                except (ImageError, MemoryError) as error:
                    reason = str(error) or f"{shown(image)}: too little memory"
                    say(f"levit-np classify: {reason}")
                    failed = True
                advance()
            if crops:
                answers = model.rank(np.stack(list(crops.values())), arguments.top)
                for place, answer in zip(crops, answers):
                    _print_answer(arguments.images[first + place], answer)
    return int(failed)


def _print_answer(image, answer):
    # Output that cannot encode the full block gets "#".
    block = "█" if "utf" in (sys.stdout.encoding or "").lower() else "#"
    print(shown(image))
    for label, probability in answer:
        print(f"  {shown(label):<24.24} {probability:7.2%}  {block * round(30 * probability)}".rstrip())


def _add_summary(verbs):
    summary = verbs.add_parser("summary", help="each layer with its shape, parameters and multiply-adds",
                               description="Prints each layer with its output shape, number of parameters and "
                               "multiply-adds (with BN folded, as the paper counts them), and the totals.",
                               epilog="example: levit-np summary levit_256 --plan")
    summary.add_argument("model", help="a model name, or a weight file")
    summary.add_argument("--plan", action="store_true", help="what evaluation computes instead, step by step: BN "
                         "folded, the two heads merged")
    summary.set_defaults(run=_summary)


def _summary(arguments) -> int:
    from .config import ABLATIONS, FAMILY, config_of
    from .model import build

    if arguments.model in FAMILY | ABLATIONS and not arguments.plan:
        print(build(config_of(arguments.model)).summary())
    else:
        print(opened(arguments.model).summary(arguments.plan))
    return 0


def _add_verify(verbs):
    verify = verbs.add_parser(
        "verify", help="whether two weight files, or a model and a recorded pass, agree",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compares the arrays of two weight files, of any format, layer by layer; or\n"
        "lets a model repeat a recorded pass and compares every activation and\n"
        "gradient. Names the first layer, in the order of computation, that differs.\n"
        "Exit status 0 if all agree, 1 if not.",
        epilog="examples:\n  levit-np verify levit_256.h5 levit_256.pth\n"
        "  levit-np verify levit_digits.h5 --record trace.h5\n  levit-np verify levit_digits.h5 trace.h5")
    verify.add_argument("model", metavar="MODEL", help="a weight file")
    verify.add_argument("other", nargs="?", metavar="OTHER", help="another weight file, or a recorded pass")
    verify.add_argument("--record", metavar="TRACE",
                        help="record a pass to this file: forward, and backward from the least likely class")
    verify.add_argument("--image", help="the image to record a pass of (default: random numbers with a fixed seed)")
    verify.add_argument("--tolerance", type=_tolerance,
                        help="largest difference, relative to an array's largest value (default: 0 for weight files, "
                        "1e-4 for a pass: several times float32's rounding)")
    verify.add_argument("--backend", choices=BACKENDS, default="reference",
                        help="the backend that computes the pass (default: %(default)s); the logits of its fast "
                        "evaluation, if it has one, are compared too")
    verify.set_defaults(run=_verify, wrong_use=verify.error)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0, found {text!r}")
    return value


def _verify(arguments) -> int:
    if (arguments.other is None) == (arguments.record is None):
        arguments.wrong_use("expected either another file to compare with, or --record TRACE")
    if arguments.image and not arguments.record:
        arguments.wrong_use("--image: expected together with --record TRACE")
    return _record(arguments) if arguments.record else _compare(arguments)


def _record(arguments) -> int:
    import numpy as np

    from .classifier import load
    from .explain.trace import is_trace, trace

    if Path(arguments.record).exists() and not is_trace(arguments.record):
        raise LevitError(f"{arguments.record}: expected a new file or a recorded pass to replace, found another file")
    require_writable(arguments.record)
    with waiting("recording"):
        model = load(arguments.model, backend=arguments.backend)
        if arguments.image:
            x, about = model.prepare(arguments.image)[None], shown(Path(arguments.image).name)
        else:
            shape = 1, model.config.in_channels, *model.config.image_size
            x, about = np.random.default_rng(0).standard_normal(shape, np.float32), "random numbers, seed 0"
        # The loss of a class that the model is sure of has tiny gradients, little more than rounding.
        recorded = trace(model, x, target=int(model(x)[0].argmin()), about=about, backend=arguments.backend)
        recorded.save(arguments.record)
    print(f"{shown(arguments.record)}: {len(recorded.forward)} steps forward and {len(recorded.backward)} back, of "
          f"{about}")
    return 0


def _compare(arguments) -> int:
    from .classifier import load
    from .explain.compare import compare_states, compare_with_trace, first_difference
    from .explain.trace import Trace, is_trace

    model, other = arguments.model, arguments.other
    with waiting("comparing"):
        if is_trace(other):
            recorded = Trace.read(other)
            network = load(model, backend=arguments.backend, dtype=str(recorded.x.dtype))
            rows, tolerance, notes = compare_with_trace(network, recorded), 1e-4, []
        else:
            a, b = load(model), load(other)
            rows, tolerance, notes = compare_states(a, b), 0.0, _surroundings(a, b)
    if arguments.tolerance is not None:
        tolerance = arguments.tolerance
    _print_rows(rows, tolerance)
    for note in notes:
        print(f"note: {note}")
    first = first_difference(rows, tolerance)
    if first is None:
        print(f"all {len(rows)} agree: no relative difference above {tolerance:g}")
        return 0
    print(f"first difference: {first.name or 'the network'}: {first.what}: expected a relative difference of at most "
          f"{tolerance:g}, found {first.relative:.2g}")
    return 1


def _surroundings(a, b) -> list[str]:
    """Notes on what else makes answers differ, even with equal arrays: preprocessing and label names."""
    notes = []
    if a.preprocessing and b.preprocessing and a.preprocessing != b.preprocessing:
        one, two = a.preprocessing.to_dict(), b.preprocessing.to_dict()
        different = [f"{key} {one[key]} against {two[key]}" for key in one if one[key] != two[key]]
        notes.append(f"the preprocessing differs: {shown('; '.join(different))}")
    if a.labels and b.labels and list(a.labels) != list(b.labels):
        place = next(i for i, pair in enumerate(zip(a.labels, b.labels)) if pair[0] != pair[1])
        notes.append(f"the label names differ, first {shown(a.labels[place])} against {shown(b.labels[place])}")
    return notes


def _print_rows(rows, tolerance):
    """Prints columns that fit 80 characters; a row that differs is marked, and red on a terminal."""
    lines = [("! " if row.differs(tolerance) else "  ", shown(row.name) or "the network", row.what,
              f"{row.absolute:.3g}", f"{row.relative:.3g}") for row in rows]
    lines.insert(0, ("  ", "layer", "array", "difference", "relative"))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    write = _red_if_marked() if sys.stdout.isatty() else print
    for mark, name, what, absolute, relative in lines:
        write(f"{mark}{name:<{widths[1]}}  {what:<{widths[2]}}  {absolute:>{widths[3]}}  {relative:>{widths[4]}}")


def _red_if_marked():
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    return lambda text: console.print(text, style="red" if text.startswith("!") else None)


def _add_convert(verbs):
    convert = verbs.add_parser("convert", help="another project's LeViT weights -> HDF5 of this package",
                               description="Reads the authors', timm's or transformers' weights (.pth or safetensors, "
                               "recognised by content) and writes HDF5 that also holds the configuration, the class "
                               "names and the preprocessing.",
                               epilog="example: levit-np convert LeViT-256-13b5763e.pth levit_256.h5")
    convert.add_argument("source", metavar="SOURCE", help="the weight file to read")
    convert.add_argument("target", metavar="TARGET", help="the HDF5 file to write")
    convert.add_argument("--force", action="store_true", help="replace TARGET if it exists")
    convert.set_defaults(run=_convert)


def _convert(arguments) -> int:
    from .checkpoints.loading import convert

    require_free(arguments.target, arguments.force)
    with waiting(f"converting {arguments.source}"):
        config = convert(arguments.source, arguments.target)
    size = " × ".join(map(str, config.image_size))
    print(f"{shown(arguments.target)}: {shown(config.name)}, {config.num_classes} classes, images {size}")
    return 0


def _add_export(verbs):
    export = verbs.add_parser("export", help="weights of this package -> another project's file", description="Writes "
                              "weights for timm or transformers (safetensors) or for the authors' code (.pth). These "
                              "files hold weights alone: neither class names nor preprocessing.",
                              epilog="example: levit-np export mine.h5 mine.safetensors --format timm")
    export.add_argument("source", metavar="SOURCE", help="the weight file to read: a path, or a name such as "
                        "levit_256.h5")
    export.add_argument("target", metavar="TARGET", help="the file to write")
    export.add_argument("--format", required=True, choices=("timm", "timm_conv", "transformers", "facebook"),
                        help="the project to write for; timm_conv: timm's levit_conv_* models, facebook: the authors")
    export.add_argument("--force", action="store_true", help="replace TARGET if it exists")
    export.set_defaults(run=_export)


def _export(arguments) -> int:
    from .checkpoints.loading import export
    from .classifier import load

    require_free(arguments.target, arguments.force)
    model = load(arguments.source)
    with waiting(f"writing {arguments.target}"):
        export(model, arguments.target, arguments.format)
    print(f"{shown(arguments.target)}: {shown(model.config.name)} for {arguments.format}, without class names and "
          "preprocessing, which such files do not hold")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="levit-np", description="LeViT without a deep-learning framework.",
                                     epilog="levit-np VERB --help shows an example of each.")
    parser.add_argument("--version", action="version", version=f"levit-np {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_classify(verbs)
    _add_summary(verbs)
    bench.add(verbs)
    _add_verify(verbs)
    _add_convert(verbs)
    _add_export(verbs)
    for verb in (explain, step, pack, train, evaluate, teach):
        verb.add(verbs)
    return parser


def main(argv=None) -> int:
    """Runs the command line, argv or by default sys.argv; -> the exit status."""
    for name, mode in ("stdin", "r"), ("stdout", "w"), ("stderr", "w"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, mode))
    if hasattr(sys.stdout, "reconfigure"):  # not if a caller replaced it by a buffer
        sys.stdout.reconfigure(errors="replace")  # a character that the terminal cannot show is no error
    parser = _parser()
    arguments = parser.parse_args(argv)
    if any(value == "" or isinstance(value, list) and "" in value for value in vars(arguments).values()):
        parser.error("expected no empty argument, found one")  # such as an unset shell variable

    def tell(text):  # in one line, even if names of files contain control characters
        say(f"levit-np {arguments.verb}: {shown(str(text))}")

    warnings.showwarning = lambda message, *place: tell(message)
    warnings.simplefilter("default", UserWarning)  # whatever PYTHONWARNINGS says of what developers are warned of
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except LevitError as error:
        tell(error)
    except MemoryError as error:
        tell(f"expected more memory (a smaller batch needs less), found {str(error) or 'too little'}")
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # a reader such as `head` has stopped reading
            tell(f"{error.filename or 'output'}: {error.strerror or error}")
        try:
            sys.stdout.flush()
        except OSError:
            silence(sys.stdout)
    except KeyboardInterrupt:
        return 130
    finally:
        try:
            sys.stderr.flush()  # what `say` could not write
        except OSError:
            silence(sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
