"""Classifier, the class of the models that `levit_np.load` and `levit_np.create` return: LeViT plus images as input,
label names as output, weight files, and evaluation by the backend's fastest path.

model.py, below it, computes on arrays alone.
"""

import os
from numbers import Integral

import numpy as np

from . import ops
from .checkpoints import hub, loading
from .errors import ImageError, LevitError, shown
from .images.preprocessing import cropped, normalise, preprocess
from .inference import executor
from .layers.layer import Layer
from .lock import Lock
from .model import LeViT, state_type
from .model import create as create_network
from .ops.kinds import as_given, as_numpy
from .ops.reference import softmax

BACKEND = "cpu"  # the default of load and create
BATCH = 16  # images per batch in predict
_making = Lock()


class Classifier(LeViT):
    """LeViT with predict, save and explain, and with evaluation by the backend's fastest path."""

    BESIDES = *LeViT.BESIDES, "precision"
    _precision = "float32"
    _executors, _version, _changes = None, None, -1  # {heads apart: executor}, and of which weights

    def __repr__(self):
        config = self.config
        shape = ", ".join(map(str, (config.in_channels, *config.image_size)))
        return (f"<Classifier {config.name}: images (B, {shape}), {config.num_classes} classes, {self.precision} on "
                f"the backend {self.ops.NAME}>")

    @property
    def precision(self) -> str:
        """In which type evaluation computes: "float32", or another that the backend has (else BackendError)."""
        return self._precision

    @precision.setter
    def precision(self, precision):
        ops.stored_type(self.ops.NAME, str(precision))
        with _making:
            self._precision, self._executors, self._changes = str(precision), {}, -1

    def __call__(self, x):
        """Evaluation: images (B, C, H, W) -> logits (B, classes), the heads averaged.  Images are normalised and of the
        model's dtype, or uint8 (B, H, W, C), which the model's own preprocessing normalises (on the GPU with cuda).

        The cpu and cuda backends run a plan with every BN folded and the weights packed. It is made at the first call,
        and again after a parameter was replaced or `state` or `trained` was called, which give the arrays out for
        writing; after writing into them later, call `written`.  Raises LevitError if x, or an array that replaced a
        parameter, does not fit the configuration."""
        if getattr(x, "dtype", None) == np.uint8:
            return self._of_bytes(x)
        self._check(x)
        run = self._executor(apart=False)
        return self._run(run, x) if run else super().__call__(x)

    def _of_bytes(self, pixels):
        expected = (*self.config.image_size, self.config.in_channels)
        if pixels.shape[1:] != expected:
            raise LevitError(f"{self.config.name}: expected bytes (B, {', '.join(map(str, expected))}), found "
                             f"{pixels.shape}")
        preprocessing = loading.preprocessing_of(self)
        if self.ops.NAME == "cuda":
            return self._executor(apart=False)(pixels, preprocessing.mean, preprocessing.std)
        x = np.empty((len(pixels), self.config.in_channels, *self.config.image_size), self.dtype)
        for image, values in zip(x, as_numpy(pixels)):
            image[...] = normalise(values, preprocessing)
        return as_given(self.ops, self(x), pixels)

    def heads(self, x) -> tuple:
        """Evaluation: images (B, C, H, W) -> the logits (B, classes) of each head, by the backend's fastest path.
        Raises LevitError as __call__ does."""
        self._check(x)
        run = self._executor(apart=True)
        return tuple(np.split(self._run(run, x), 1 + self.config.distillation, axis=1)) if run else super().heads(x)

    def _run(self, run, x):
        """The logits of executor `run`, as the kind of array that x is."""
        return run(x) if self.ops.NAME == "cuda" else as_given(self.ops, run(as_numpy(x)), x)

    def _executor(self, apart):
        """The executor for the current weights, averaging the heads or keeping them apart; None on a backend without
        executors."""
        # Compare first, then look up: the other way round, another thread could replace the executors in between.
        if self._changes == Layer.changes and apart in (executors := self._executors):
            return executors[apart]
        with _making:  # of several threads, the first makes the executor and the others use it
            changes = Layer.changes  # read before the versions: more changes may come while those are read
            if self._changes != changes:  # the weights of this network changed, or those of another
                version = [(id(layer), layer.version) for _, layer in self.walk()]
                if version != self._version:
                    self._executors, self._version = {}, version
                self._changes = changes
            if apart not in self._executors:
                self._require(self._arrays())  # the kernels trust the shapes, so a wrong one would corrupt memory
                if (self.dtype == np.float64) != (self.precision == "float64"):
                    stored = ops.stored_type(self.ops.NAME, self.precision)
                    raise LevitError(f"head.weight: expected an array of {stored} for evaluation in "
                                     f"{self.precision}, found one of {self.dtype}")
                self._executors[apart] = executor(self, self.precision, apart)
            return self._executors[apart]

    def to(self, backend: str) -> "Classifier":
        """A copy on another backend: weights, labels, preprocessing, random state, frozen parts and precision, which
        that backend must have (else BackendError)."""
        ops.stored_type(backend, self.precision)
        return super().to(backend)

    def set_state(self, state: dict, copy: bool = True) -> None:
        """As LeViT.set_state; the precision of evaluation changes with the arrays' type, which the backend must have
        (else BackendError)."""
        self._require(state)
        double = state_type(state) is np.float64
        precision = self.precision if double == (self.precision == "float64") else "float64" if double else "float32"
        ops.stored_type(self.ops.NAME, precision)
        self.precision = precision  # before set_state counts a change, on which another thread makes an executor
        super().set_state(state, copy)

    def summary(self, plan: bool = False) -> str:
        """A table as text: each layer with its output shape, number of parameters and multiply-adds, and the totals.

        With plan, what evaluation on the cpu backend computes instead, step by step: every BN folded, the heads merged,
        the scale in the queries' weights, and the last linear map after the pool; each step with its output shape, how
        many numbers it keeps, its multiply-adds and its formula."""
        if not plan:
            return super().summary()
        from .inference import listing

        return listing.summary(super().to("reference"))

    def predict(self, images, top: int = 5) -> list:
        """The `top` likeliest classes of an image as [(label, probability), ...], the likeliest first; for a list or
        tuple of images, a list of such lists, evaluated 16 at a time.

        An image is a path (JPEG, PNG or WebP), bytes, a binary file, a PIL image, or a uint8 array (H, W, 3) or
        (H, W). The probabilities are the softmax of the averaged logits. Raises ImageError for what cannot be used as
        an image, naming it and its index in the list; LevitError for a top below 1."""
        if not isinstance(images, (list, tuple)):
            return self.rank(self.crop(images)[None], top)[0]
        answers = []
        for first in range(0, len(images), BATCH):
            batch = []
            for place, image in enumerate(images[first : first + BATCH], first):
                try:
                    batch.append(self.crop(image))
                except ImageError as error:
                    raise ImageError(f"image {place} of the list: {error}") from None
            answers += self.rank(np.stack(batch), top)
        return answers

    def prepare(self, image) -> np.ndarray:
        """One image, anything predict accepts, decoded, resized, cropped and normalised: (C, H, W) of the model's
        dtype. Raises ImageError."""
        return preprocess(image, loading.preprocessing_of(self)).astype(self.dtype, copy=False)

    def crop(self, image) -> np.ndarray:
        """One image, anything predict accepts, preprocessed except for the normalisation: uint8 (H, W, C), which
        __call__ accepts too. Raises ImageError."""
        return cropped(image, loading.preprocessing_of(self))

    def rank(self, x, top: int = 5) -> list[list[tuple[str, float]]]:
        """predict without the preprocessing: prepared images (B, C, H, W), or uint8 (B, H, W, C) -> B lists of (label,
        probability).

        Raises LevitError for a top below 1, and for logits that are not finite."""
        if not isinstance(top, Integral) or top < 1:
            raise LevitError(f"top: expected a whole number from 1, found {top!a:.100}")
        labels, logits = loading.labels_of(self), as_numpy(self(x))  # (B, classes)
        if not np.isfinite(logits).all():
            raise LevitError(f"{self.config.name}: expected finite logits, found infinite or NaN: the weights or the "
                             "images are too large")
        probabilities = softmax(logits)
        return [[(labels[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]] for row in probabilities]

    def explain(self, image, target=None, teacher=None, rival=None, about: str | None = None, whole: bool = False):
        """An HTML page that shows the whole computation for one image: a notebook displays it, save(path) writes it.

        image: anything predict accepts, or one prepared image (C, H, W) of the model's dtype; about: its title on the
        page (default: the file's name). target: the class, by name or number, whose loss is followed backward (default:
        the predicted class); teacher: the class that a teacher predicts, for distillation (default: target); rival: the
        class to compare with (default: the likeliest other). To stay under 10 MB the page leaves out channels of wide
        layers; whole=True keeps every number (LeViT-256: 160 MB). Computed on the reference backend. Raises ImageError
        for what cannot be used as an image, LevitError for a class or an array that does not fit."""
        from .explain.page.explanation import Explanation
        from .explain.page.writer import write

        labels, preprocessing = loading.labels_of(self), None
        if isinstance(image, np.ndarray) and image.dtype == self.dtype:
            x = image
            self._check_one(x)
        else:
            x, preprocessing = self.prepare(image), loading.preprocessing_of(self).to_dict()
        if about is None:
            about = shown(os.path.basename(os.fspath(image))) if isinstance(image, (str, os.PathLike)) else "image"
        classes = {"target": target, "teacher": teacher, "rival": rival}
        classes = {key: None if which is None else class_number(which, labels) for key, which in classes.items()}
        return Explanation(*write(super().to("reference"), x[None], labels, preprocessing, about, whole,
                                  **classes))

    def _check_one(self, x: np.ndarray) -> None:
        """Raises LevitError unless x is one prepared image (in_channels, *image_size)."""
        if x.ndim != 3:
            expected = ", ".join(map(str, (self.config.in_channels, *self.config.image_size)))
            raise LevitError(f"{self.config.name}: expected one image ({expected}), found {x.shape}")
        self._check(x[None])

    def save(self, path) -> None:
        """Writes an HDF5 file with the weights (float32), the configuration, the label names and the preprocessing.

        An existing `path` is replaced atomically: even after a crash it is the old file or the new one, complete.
        Raises CheckpointError for what load would refuse: weights that are not finite or not of this network, not one
        label per class, preprocessing for other images; OSError if the file cannot be written."""
        loading.save(self, path)


def class_number(which, labels) -> int:
    """The number of a class given by name or by number, which may be a text too.  A text is first looked for among the
    names: with the digits' labels "7" is one.  Raises LevitError."""
    if isinstance(which, str) and which in labels:
        return list(labels).index(which)
    if str(which).isdecimal() and len(str(which)) < 10 and int(which) < len(labels):
        return int(which)
    raise LevitError(f"class: expected a name, or a number from 0 to {len(labels) - 1}, found {str(which)!a:.100}")


def load(path, *, backend: str = BACKEND, dtype: str = "float32", num_classes: int | None = None,
         image_size=None, distillation: bool | None = None, seed: int = 0) -> Classifier:
    """The model in a weight file: our HDF5, or the authors', timm's or transformers' weights, as .pth or safetensors.

    A bare name that is no file in the current folder is looked for in weights/, among the weights that ship with the
    package, and in the user's cache ($LEVIT_NP_CACHE, else the platform's cache folder); the authors' five
    (levit_128s.h5, levit_128.h5, levit_192.h5, levit_256.h5, levit_384.h5) are downloaded to it once, checked and
    converted.

    The authors' fused files (BN folded into the layer before) give the same logits, but have no BN statistics: each BN
    is the identity with the folded bias as its beta, which is good for inference but not for further training.

    num_classes re-initialises heads that do not fit, from `seed`, with a warning; image_size (a number or (H, W))
    resizes attention biases and position embedding and adapts the preprocessing (another project's file tells the
    number of tokens alone, so without image_size images are taken to be square); distillation, true or false, adds or
    drops the second head. Raises CheckpointError for anything wrong with the file, ConfigError for a size or a number
    of classes that no network has, BackendError for a backend or dtype that is not there."""
    stored = ops.stored_type(backend, dtype)  # before anything is fetched
    with hub.located(path) as file:
        model = loading.load(file, backend=backend, dtype=stored, num_classes=num_classes, image_size=image_size,
                             distillation=distillation, seed=seed, kind=Classifier)
    model.precision = dtype
    return model


def create(name: str, *, seed: int = 0, backend: str = BACKEND, dtype: str = "float32", **changes) -> Classifier:
    """A fresh, untrained model by name (see list_models); `changes` replace fields of its configuration: num_classes,
    distillation, image_size, in_channels, …  Raises ConfigError for an unknown name or an impossible field,
    BackendError for a backend or dtype that is not there."""
    model = create_network(name, seed=seed, backend=backend, dtype=ops.stored_type(backend, dtype), kind=Classifier,
                           **changes)
    model.precision = dtype
    return model
