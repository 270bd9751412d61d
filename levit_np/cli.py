"""The command `levit-np`: one verb a job.  Exit status 0 for success, 2 for wrong use, 1 for a failed job."""

import argparse
import sys
from pathlib import Path

from .errors import ImageError, LevitError


def _shipped(name: str) -> Path:
    """The file called `name`: as it stands, in ./weights, or the one that came with the package."""
    here = Path(__file__).resolve().parent
    for place in (Path(name), Path("weights") / name, here / "weights" / name, here.parent / "weights" / name):
        if place.is_file():
            return place
    return Path(name)


def _classify(arguments) -> int:
    from .checkpoints.loading import labels_of, load, recipe_of
    from .images.recipes import preprocess
    from .ops.reference import softmax

    model, failed = load(_shipped(arguments.weights)), False
    labels = labels_of(model)
    for image in arguments.images:
        try:
            probabilities = softmax(model(preprocess(image, recipe_of(model))[None]))[0]
        except ImageError as error:
            print(f"levit-np classify: {error}", file=sys.stderr)
            failed = True
            continue
        print(image)
        for i in probabilities.argsort()[::-1][: arguments.top]:
            bar = "█" * round(30 * float(probabilities[i]))
            print(f"  {labels[i]:<24.24} {probabilities[i]:7.2%}  {bar}")
    return int(failed)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="levit-np", description="LeViT without a deep-learning framework.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    classify = verbs.add_parser("classify", help="what is in an image",
                                epilog="example: levit-np classify weights/samples/digit_3.png")
    classify.add_argument("images", nargs="+", metavar="IMAGE")
    classify.add_argument("--weights", default="levit_digits.h5", help="a weight file (default: %(default)s)")
    classify.add_argument("--top", type=int, default=5, help="how many classes to print (default: %(default)s)")
    classify.set_defaults(run=_classify)
    summary = verbs.add_parser("summary", help="each layer with its shape, parameters and multiply-adds",
                               epilog="example: levit-np summary levit_256")
    summary.add_argument("model", help="a name of the family, or a weight file")
    summary.set_defaults(run=_summary)
    return parser


def main(argv=None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except LevitError as error:
        print(f"levit-np {arguments.verb}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
