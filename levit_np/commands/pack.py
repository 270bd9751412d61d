"""levit-np pack: packs a folder of images into one file."""

import os

from ..errors import ImageError, say, shown
from .common import progress, require_free, waiting


def add(verbs):
    pack = verbs.add_parser(
        "pack", help="a folder of images -> one HDF5 file to train from",
        description="Writes the image files of a folder that has a folder for each class, unchanged, into one HDF5 "
        "file that train and evaluate accept instead of the folder: it is easy to move, and reading it does not open a "
        "small file for each image. It is written atomically.",
        epilog="example: levit-np pack photos/train train.h5")
    pack.add_argument("source", metavar="DIR", help="DIR/CLASS/… .jpg, .jpeg, .png or .webp")
    pack.add_argument("target", metavar="OUT.h5", help="the file to write")
    pack.add_argument("--skip", action="store_true", help="skip and report files that are not complete images, instead "
                      "of stopping at the first")
    pack.add_argument("--force", action="store_true", help="replace OUT.h5 if it exists")
    pack.set_defaults(run=_run)


def _run(arguments) -> int:
    from ..training.data.folder import Folder
    from ..training.data.pack import pack
    from ..training.interrupt import Interrupt, Stopped

    require_free(arguments.target, arguments.force)
    with waiting(f"looking through {arguments.source}"):
        folder = Folder(arguments.source)
    try:
        # SIGTERM by itself would leave the temporary file, which may be as large as the data set.
        with Interrupt() as interrupt, interrupt.at_once(), progress(len(folder), "images", silent=True) as advance:
            skipped = pack(folder, arguments.target, skip=arguments.skip, advance=advance)
    except ImageError as error:
        raise ImageError(f"{error}; --skip would skip it") from None
    except Stopped as stopped:
        return stopped.status
    for _, reason in skipped:
        say(f"levit-np pack: left out: {reason}")
    print(f"{shown(arguments.target)}: {len(folder) - len(skipped)} images of {len(folder.classes)} classes, "
          f"{os.path.getsize(arguments.target) / 1e6:.1f} MB")
    return 0
