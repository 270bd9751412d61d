"""Shared by evaluate and teach: every image of a data set once, preprocessed for a model; bad ones are reported and
skipped."""

from ..errors import say
from .common import BACKENDS, from_zero, progress, whole


def add_options(verb):
    """Adds DATA and the options for speed."""
    verb.add_argument("data", metavar="DATA", help="a folder with a folder of images for each class, or a file written "
                      "by levit-np pack")
    verb.add_argument("--batch", type=whole, default=32, metavar="N", help="batch size (default: %(default)s)")
    verb.add_argument("--workers", type=from_zero, default=2, metavar="N",
                      help="processes that decode images, 0 for none (default: %(default)s)")
    verb.add_argument("--threads", type=whole, default=1, metavar="N",
                      help="number of computing threads (default: %(default)s)")
    verb.add_argument("--backend", choices=BACKENDS, default="cpu", help="(default: %(default)s)")
    verb.set_defaults(wrong_use=verb.error)


class Images:
    """`with Images(arguments, model) as images`: iterates, with a bar, over pairs of images (B, C, H, W) and their
    indices (B,).  `source` is the data, with its `classes`; `skipped` are the names of images that cannot be used,
    which are also reported on stderr."""

    def __init__(self, arguments, model):
        from ..checkpoints.loading import preprocessing_of
        from ..training.data import open_source
        from ..training.data.loader import EvaluationLoader

        self.verb, self.dtype, self.skipped, self.good = arguments.verb, model.dtype, [], 0
        self.source = open_source(arguments.data)
        self.classes = self.source.classes
        # Starting processes takes longer than preparing a few batches.
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
        """Prints a line on stderr, unless `text` is empty."""
        if text:
            say(f"levit-np {self.verb}: {text}")

    def targets(self, indices) -> list[int]:
        """The index of each image's class in `classes`."""
        return [self.source.target(int(index)) for index in indices]

    def status(self) -> int:
        """The exit status: 1, with a message, if images were skipped."""
        if self.skipped:
            self.say(f"expected {self.good + len(self.skipped)} good images, found {self.good}; the others, named "
                     "above, do not count")
        return int(bool(self.skipped))
