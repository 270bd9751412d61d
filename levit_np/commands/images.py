"""What evaluate and teach share: every image of a set once, prepared for a model; bad ones named and left out."""

import sys

from .common import BACKENDS, from_zero, progress, whole


def add_options(verb):
    """DATA, and how fast."""
    verb.add_argument("data", metavar="DATA", help="a folder with a folder of images for each class, or a file that "
                      "levit-np pack wrote")
    verb.add_argument("--batch", type=whole, default=32, metavar="N", help="images at a time (default: %(default)s)")
    verb.add_argument("--workers", type=from_zero, default=2, metavar="N",
                      help="processes that decode images, 0 for none (default: %(default)s)")
    verb.add_argument("--threads", type=whole, default=1, metavar="N",
                      help="threads that compute (default: %(default)s)")
    verb.add_argument("--backend", choices=BACKENDS, default="cpu", help="(default: %(default)s)")
    verb.set_defaults(wrong_use=verb.error)


class Images:
    """`with Images(arguments, model) as images`: pairs of images (B, C, H, W) and their indices (B,), by iteration,
    with a bar; `source`, its `classes`; and `skipped`, the names of those that cannot be used, each said on stderr."""

    def __init__(self, arguments, model):
        from ..checkpoints.loading import preprocessing_of
        from ..training.data import open_source
        from ..training.data.loader import EvaluationLoader

        self.verb, self.dtype, self.skipped, self.good = arguments.verb, model.dtype, [], 0
        self.source = open_source(arguments.data)
        self.classes = self.source.classes
        # Processes take longer to start than a few batches to prepare.
        workers = arguments.workers if len(self.source) > 4 * arguments.batch else 0
        self.loader = EvaluationLoader(self.source, preprocessing_of(model), batch=arguments.batch, workers=workers,
                                       bad_files="skip")

    def __enter__(self):
        self.loader.__enter__()
        return self

    def __exit__(self, *error):
        self.loader.__exit__(*error)

    def __iter__(self):
        with progress(len(self.source), "images", silent=True) as advance:
            for batch in self.loader:
                for name, reason in batch.skipped:
                    self.say(reason)
                    self.skipped.append(name)
                self.good += len(batch.indices)
                if len(batch.indices):
                    yield batch.images.astype(self.dtype, copy=False), batch.indices
                advance(len(batch.indices) + len(batch.skipped))

    def say(self, text: str) -> None:
        """A line on stderr, if there is anything to say."""
        if text:
            print(f"levit-np {self.verb}: {text}", file=sys.stderr)

    def targets(self, indices) -> list[int]:
        """The place of each image's class in `classes`."""
        return [self.source.target(int(index)) for index in indices]

    def status(self) -> int:
        """The exit status: 1, and a line that says why, where an image did not count."""
        if self.skipped:
            self.say(f"expected {self.good + len(self.skipped)} good images, found {self.good}; the others, named "
                     "above, do not count")
        return int(bool(self.skipped))
