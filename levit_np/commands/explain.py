"""levit-np explain: the page on which one walks through the network, number by number, and pictures of it."""

import argparse
import os
from pathlib import Path

from ..errors import LevitError
from .common import opened, progress, shown, waiting


def add(verbs):
    explain = verbs.add_parser(
        "explain", help="a page that shows the whole computation, number by number; pictures of it",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Writes one self-contained HTML file, which opens from disk without a network: the image on its way\n"
        "through the network, every operation with its formula, code and numbers, forward and backward, and why\n"
        "the answer is what it is. Or pictures: what each head of each attention looks at, the attention biases,\n"
        "the filters, the feature maps of each stage.",
        epilog="examples:\n  levit-np explain weights/samples/digit_3.png -o page.html\n"
        "  levit-np explain weights/samples/digit_3.png --png pictures")
    explain.add_argument("image", metavar="IMAGE", help="a JPEG, PNG or WebP file")
    explain.add_argument("-o", "--output", metavar="PAGE", help="the HTML file to write")
    explain.add_argument("--png", metavar="DIR", help="the folder to write pictures into (needs matplotlib)")
    explain.add_argument("--weights", default="levit_digits.h5", metavar="WEIGHTS",
                         help="a weight file, or a name of the family for random weights (default: %(default)s)")
    explain.add_argument("--target", metavar="CLASS", help="the loss's class, by name or number (default: the answer)")
    explain.add_argument("--teacher", metavar="CLASS", help="what a teacher says, for distillation (default: the same)")
    explain.add_argument("--force", action="store_true", help="replace PAGE, or pictures in DIR, where they exist")
    explain.set_defaults(run=_explain, wrong_use=explain.error)


def _explain(arguments) -> int:
    if not (arguments.output or arguments.png):
        arguments.wrong_use("expected -o PAGE, --png DIR, or both")
    if arguments.output and os.path.lexists(arguments.output) and not arguments.force:
        raise LevitError(f"{shown(arguments.output)}: expected no such file yet, found one; --force replaces it")
    if arguments.png and os.path.isdir(arguments.png) and os.listdir(arguments.png) and not arguments.force:
        raise LevitError(f"{shown(arguments.png)}: expected a new or an empty folder, found files in it; --force replaces")
    model = opened(arguments.weights)
    if arguments.output:
        _write_page(model, arguments)
    if arguments.png:
        _write_pictures(model, arguments)
    return 0


def _write_page(model, arguments):
    with waiting("computing the page"):
        page = model.explain(arguments.image, arguments.target, arguments.teacher)
        page.save(arguments.output)
    size = Path(arguments.output).stat().st_size / 1e6
    print(f"{shown(arguments.output)}: {size:.1f} MB, {shown(Path(arguments.image).name)} through {shown(model.config.name)}")


def _write_pictures(model, arguments):
    from ..plot import pictures, write_all

    model = model.to("reference")
    x = model.prepare(arguments.image)
    with progress(len(pictures(model)), "pictures", silent=True) as advance:
        for count, _ in enumerate(write_all(model, x, arguments.png), 1):
            advance()
    print(f"{shown(arguments.png)}: {count} pictures of {shown(Path(arguments.image).name)} in "
          f"{shown(model.config.name)}")
