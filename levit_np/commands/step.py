"""levit-np step: walks through one pass, forward and backward."""

import argparse
from pathlib import Path

from ..errors import LevitError, shown
from .common import DIGITS, opened, progress, waiting


def add(verbs):
    step = verbs.add_parser(
        "step", help="walk through the network like a debugger: formula, numbers, source, forward and backward",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Evaluates an image with the reference operations, then walks through the\n"
        "computation layer by layer, operation by operation, line by line: forward to the\n"
        "prediction, the loss, and backward to every gradient.\n"
        "On a terminal, keys move through it (? lists them); in a pipe or a file\n"
        "everything is printed.",
        epilog="examples:\n  levit-np step weights/samples/digit_3.png\n"
        "  levit-np step cat.jpg --weights levit_256.h5 --target 'tiger cat'\n"
        "  levit-np step weights/samples/digit_3.png --only stages.0.blocks.0.attention | less")
    step.add_argument("image", metavar="IMAGE", help="a JPEG, PNG or WebP file")
    step.add_argument("--weights", default=DIGITS, metavar="WEIGHTS",
                      help="a weight file, or a model name for random weights (default: %(default)s)")
    step.add_argument("--target", metavar="CLASS", help="the class of the loss from which the backward starts, by "
                      "number or label (default: the predicted class)")
    step.add_argument("--teacher", metavar="CLASS", help="the class that a teacher predicts: the loss is then the one "
                      "LeViT is trained with, half from each head")
    step.add_argument("--only", metavar="NAME",
                      help="print only these steps and their parts; on a terminal, begin there")
    step.set_defaults(run=_run)


def _run(arguments) -> int:
    from ..checkpoints.loading import labels_of
    from ..classifier import class_number
    from ..explain.terminal import walk_through
    from ..explain.trace import trace
    from ..explain.walk import Walk
    from ..inference.listing import formulas

    with waiting("computing"):
        model = opened(arguments.weights, backend="reference")
        labels = labels_of(model)
        x = model.prepare(arguments.image)[None]
        answer = int(model(x)[0].argmax())
        target = answer if arguments.target is None else class_number(arguments.target, labels)
        teacher = None if arguments.teacher is None else class_number(arguments.teacher, labels)
        about = shown(Path(arguments.image).name)
        walk = Walk(trace(model, x, target, about, teacher=teacher), formulas(model))
    if arguments.only and not walk.find(arguments.only):
        raise LevitError(f"--only: expected the name of a step, like stages.0.blocks.0.mlp, found {arguments.only!a}")
    walk_through(walk, labels, arguments.only, progress)
    return 0
