"""levit-np teach: writes a teacher's logits for every image of a data set to a file, for use in training."""

from ..errors import LevitError, shown
from .common import require_free, use_threads
from .images import Images, add_options


def add(verbs):
    teach = verbs.add_parser(
        "teach", help="write a model's logits for each image to a file, for distillation",
        description="Writes the logits (the heads averaged) of a model for each image of a data set, without "
        "augmentation, into an HDF5 file that levit-np train accepts as --teacher. The teacher then costs nothing in "
        "training, which must not mix images (--mixup 0 --cutmix 0), as there are no logits for mixtures. The file "
        "records which images and classes it is for. An image that cannot be used is reported and skipped; the exit "
        "status is then 1.",
        epilog="example: levit-np teach levit_384.h5 imagenet/train teacher.h5")
    teach.add_argument("weights", metavar="WEIGHTS", help="the teacher's weight file")
    add_options(teach)
    teach.add_argument("target", metavar="OUT", help="the HDF5 file to write")
    teach.add_argument("--force", action="store_true", help="replace OUT if it exists")
    teach.set_defaults(run=_run)


def _run(arguments) -> int:
    import numpy as np

    from ..classifier import load
    from ..training.classes import class_positions
    from ..training.teacher import require_room, write_logits

    require_free(arguments.target, arguments.force)
    use_threads(arguments)
    about = shown(arguments.weights)
    model, logits, kept = load(arguments.weights, backend=arguments.backend), [], []
    with Images(arguments, model) as images:
        at, note = class_positions(images.classes, model.labels, model.config.num_classes, about)
        require_room(arguments.target, images.classes, about)
        images.say(note)
        for x, indices in images:
            logits.append(model(x)[:, at])
            kept.append(indices)
        if not kept:
            raise LevitError(f"{shown(arguments.data)}: expected at least one good image, found none")
        write_logits(arguments.target, np.concatenate(logits), np.concatenate(kept), images.source, images.classes,
                     about)
    print(f"{shown(arguments.target)}: {len(at)} logits of each of {sum(map(len, kept))} images")
    return images.status()
