"""levit-np evaluate: the accuracy of a model on a set of images."""

import json
import sys

from ..errors import shown
from .common import require_writable, use_threads
from .images import Images, add_options


def add(verbs):
    evaluate = verbs.add_parser(
        "evaluate", help="top-1, top-5 and loss on a set of images",
        description="Prints top-1, top-5 (percent) and loss (cross-entropy) of a model on images of known classes: for "
        "each head, and last for their average, which is the model's prediction. The data's classes are matched with "
        "the model's by name or, if it knows none of the names, by order. An image that cannot be used is reported and "
        "skipped; the exit status is then 1.",
        epilog="example: levit-np evaluate levit_256.h5 imagenet/val --batch 64 --threads 2")
    evaluate.add_argument("weights", metavar="WEIGHTS", help="a weight file")
    add_options(evaluate)
    evaluate.add_argument("--dtype", default="float32", help="the precision to compute in (default: %(default)s)")
    evaluate.add_argument("--confusion", metavar="PNG", help="draw the confusion matrix, for up to 50 classes")
    evaluate.add_argument("--json", action="store_true", help="print the results as JSON")
    evaluate.set_defaults(run=_run)


def _run(arguments) -> int:
    from ..checkpoints.loading import labels_of
    from ..classifier import load
    from ..training.classes import class_positions
    from ..training.confusion import draw_confusion, require_drawable
    from ..training.evaluation import evaluate

    use_threads(arguments)
    if arguments.confusion:
        require_writable(arguments.confusion)
    model = load(arguments.weights, backend=arguments.backend, dtype=arguments.dtype)
    classes = model.config.num_classes
    if arguments.confusion:
        require_drawable(classes)
    with Images(arguments, model) as images:
        at, note = class_positions(images.classes, model.labels, classes, shown(arguments.weights))
        images.say(note)
        result = evaluate(model.heads, ((x, at[images.targets(indices)]) for x, indices in images), classes)
    if arguments.json:
        print(json.dumps(result.to_dict() | {"skipped": images.skipped}, indent=1))
    else:
        print(result)
        print(f"Accuracy of the network on the {result.average.images} test images: {result.average.top1:.1f}%")
    sys.stdout.flush()
    if arguments.confusion:
        draw_confusion(result.confusion, labels_of(model), arguments.confusion)
    return images.status()
