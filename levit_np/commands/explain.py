"""levit-np explain: the page on which one walks through the network, number by number."""

import os
from pathlib import Path

from ..errors import LevitError
from .common import shown, waiting


def add(verbs):
    explain = verbs.add_parser(
        "explain", help="a page that shows the whole computation, number by number",
        description="Writes one self-contained HTML file, which opens from disk without a network: the image on its way "
        "through the network, every operation with its formula, code and numbers, forward and backward, and why the "
        "answer is what it is.",
        epilog="example: levit-np explain weights/samples/digit_3.png -o page.html")
    explain.add_argument("image", metavar="IMAGE", help="a JPEG, PNG or WebP file")
    explain.add_argument("-o", "--output", metavar="PAGE", required=True, help="the HTML file to write")
    explain.add_argument("--weights", default="levit_digits.h5", help="a weight file (default: %(default)s)")
    explain.add_argument("--target", metavar="CLASS", help="the loss's class, by name or number (default: the answer)")
    explain.add_argument("--teacher", metavar="CLASS", help="what a teacher says, for distillation (default: the same)")
    explain.add_argument("--force", action="store_true", help="replace PAGE where it exists")
    explain.set_defaults(run=_explain)


def _explain(arguments) -> int:
    from ..classifier import load

    if os.path.lexists(arguments.output) and not arguments.force:
        raise LevitError(f"{shown(arguments.output)}: expected no such file yet, found one; --force replaces it")
    with waiting("computing the page"):
        model = load(arguments.weights)
        page = model.explain(arguments.image, arguments.target, arguments.teacher)
        page.save(arguments.output)
    size = Path(arguments.output).stat().st_size / 1e6
    print(f"{shown(arguments.output)}: {size:.1f} MB, {shown(Path(arguments.image).name)} through {shown(model.config.name)}")
    return 0
