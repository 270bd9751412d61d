"""levit-np explain: writes or serves the page that walks through the network, and draws pictures of it."""

import argparse
import os
from functools import cache
from pathlib import Path

from ..errors import LevitError, shown
from .common import DIGITS, opened, progress, require_free, waiting


def add(verbs):
    explain = verbs.add_parser(
        "explain", help="a page that shows the whole computation, number by number; pictures of it",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Writes one self-contained HTML file, which opens from disk without a network\n"
        "connection: the path of an image through LeViT, every operation with its\n"
        "formula, code and numbers, forward and backward, and what the prediction is\n"
        "based on. Or draws pictures: what each attention head looks at, the attention\n"
        "biases, the filters, the feature maps of each stage. Or serves the page, which\n"
        "then takes any image, or a digit drawn by hand: on 127.0.0.1, for this machine\n"
        "alone.",
        epilog="examples:\n  levit-np explain weights/samples/digit_3.png -o page.html\n"
        "  levit-np explain weights/samples/digit_3.png --png pictures\n"
        "  levit-np explain --serve --weights levit_256.h5 --weights levit_digits.h5")
    explain.add_argument("image", metavar="IMAGE", nargs="?", help="a JPEG, PNG or WebP file")
    explain.add_argument("-o", "--output", metavar="PAGE", help="the HTML file to write")
    explain.add_argument("--png", metavar="DIR", help="the folder to write pictures into (needs matplotlib)")
    explain.add_argument("--weights", action="append", metavar="WEIGHTS",
                         help="a weight file, or a model name for random weights (default: levit_digits.h5); can be "
                         "repeated with --serve, to offer several models")
    explain.add_argument("--target", metavar="CLASS",
                         help="the class of the loss, by name or number (default: the predicted class)")
    explain.add_argument("--teacher", metavar="CLASS",
                         help="the class that a teacher predicts, for distillation (default: the target)")
    explain.add_argument("--rival", metavar="CLASS", help="the class to compare with (default: the likeliest other)")
    explain.add_argument("--whole", action="store_true",
                         help="keep every number; by default the page leaves out channels of wide layers to stay under "
                         "10 MB (levit_256: 160 MB)")
    explain.add_argument("--force", action="store_true", help="replace PAGE, or pictures in DIR, if they exist")
    explain.add_argument("--serve", action="store_true", help="serve the page until Ctrl-C (needs waitress)")
    explain.add_argument("--port", type=_port, default=0, metavar="N", help="where to serve it (default: a free port)")
    explain.set_defaults(run=_explain, wrong_use=explain.error)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, found {text!r}")
    return int(text)


def _explain(arguments) -> int:
    written = arguments.output or arguments.png
    if arguments.serve and written:
        arguments.wrong_use("expected either --serve, or -o PAGE and --png DIR")
    if arguments.whole and not arguments.output:
        arguments.wrong_use("expected --whole with -o PAGE")
    if arguments.serve:
        return _serve(arguments)
    if not (arguments.image and written) or len(arguments.weights or ()) > 1:
        arguments.wrong_use("expected an image and -o PAGE, --png DIR, or both, with one --weights; or --serve")
    if arguments.output:
        require_free(arguments.output, arguments.force)
    if arguments.png and os.path.isdir(arguments.png) and os.listdir(arguments.png) and not arguments.force:
        raise LevitError(f"{shown(arguments.png)}: expected a new or an empty folder, found files in it; "
                         "--force replaces")
    model = opened((arguments.weights or [DIGITS])[0])
    if arguments.output:
        _write_page(model, arguments)
    if arguments.png:
        _write_pictures(model, arguments)
    return 0


def _write_page(model, arguments):
    with waiting("computing the page"):
        page = model.explain(arguments.image, arguments.target, arguments.teacher, arguments.rival,
                             whole=arguments.whole)
        page.save(arguments.output)
    size = Path(arguments.output).stat().st_size / 1e6
    print(f"{shown(arguments.output)}: {size:.1f} MB, {shown(Path(arguments.image).name)} through "
          f"{shown(model.config.name)}")


def _write_pictures(model, arguments):
    from ..plot import pictures, write_all

    model = model.to("reference")
    x = model.prepare(arguments.image)
    with progress(len(pictures(model)), "pictures", silent=True) as advance:
        for count, _ in enumerate(write_all(model, x, arguments.png), 1):
            advance()
    print(f"{shown(arguments.png)}: {count} pictures of {shown(Path(arguments.image).name)} in "
          f"{shown(model.config.name)}")


def _serve(arguments) -> int:
    import numpy as np

    from ..explain.page.server import Server, listen

    files = arguments.weights or [DIGITS]
    models = cache(lambda which: opened(files[which]))

    def compute(data, name: str, which: int, target: str | None, *others) -> str:
        page = models(which).explain(data, target, *others, about=name)
        return page.served({"weights": [shown(Path(file).name) for file in files], "chosen": which})

    with waiting("computing the first page"):
        image, name = arguments.image, arguments.image and shown(Path(arguments.image).name)
        if image is None:  # start with a black image
            image, name = np.zeros((*models(0).config.image_size, 3), np.uint8), "black"
        first = compute(image, name, 0, arguments.target, arguments.teacher, arguments.rival)
        running = listen(server := Server(first, compute, len(files)), arguments.port)
    print(f"http://127.0.0.1:{server.port}/{'' if arguments.image else '#/live'}   (Ctrl-C ends it)", flush=True)
    running.run()
    return 0
