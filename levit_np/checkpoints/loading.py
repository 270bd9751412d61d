"""Loading and saving models: load fits a file's weights to other classes or image sizes, save writes our HDF5, export
the formats of other projects."""

import os
import shutil
import tempfile
import warnings
from dataclasses import fields, replace

import numpy as np

from ..config import LeViTConfig, plain, size_of
from ..errors import CheckpointError, ImageError
from ..images.labels import imagenet_labels
from ..images.preprocessing import NAMES, Preprocessing, preprocessing_named
from ..model import LeViT, build, initial_state
from ..ops import reference
from ..storage import confined, hdf5
from ..storage.atomic import replacing
from ..storage.finite import require_finite
from ..storage.regular import open_regular
from . import safetensors_file, torch_file
from .formats import FORMATS, config_from_shapes, name_table
from .reading import biases_of, read, require, require_fitting

EXPORTS = (*FORMATS, "timm_conv")


def save(model: LeViT, path) -> None:
    """Writes `path`, an HDF5 file with the state (float32), the configuration, the labels and the preprocessing.

    Raises CheckpointError, and leaves an existing file alone, for what load would refuse: weights that are not finite
    or not of this network, not one label per class, preprocessing for other images."""
    documents = _documents(model, os.fspath(path))
    state = _sound(model, path)
    for name, array in state.items():
        with np.errstate(over="ignore"):  # hdf5.write refuses infinities, naming the array
            state[name] = array.astype(np.float32, copy=False)
    hdf5.write(path, state, documents)


def require_room(model: LeViT, place: str) -> None:
    """Raises CheckpointError, beginning with `place`, if the labels take more bytes than a weight file may hold."""
    hdf5.texts(_documents(model, place), place)


def _documents(model, place):
    try:
        preprocessing = preprocessing_of(model)
    except ImageError:  # there is none for images that are neither grey nor colour
        preprocessing = None
    require_fitting(place, preprocessing, model.config)
    return {"config": model.config.to_dict(), "labels": list(labels_of(model)),
            "recipe": preprocessing and preprocessing.to_dict()}


def _sound(model, path):
    """The state as NumPy arrays.  Raises CheckpointError if a parameter was replaced by one that load would refuse."""
    state = model.numpy_state()
    require(os.fspath(path), state, {name: spec.shape for name, spec in model.specs_by_name().items()})
    return state


def load(path, *, backend="reference", dtype="float32", num_classes=None, image_size=None, distillation=None, seed=0,
         kind=LeViT) -> LeViT:
    """The model in a file, as levit_np.load (classifier.py) says, which also finds files by name; dtype: of the
    parameters; kind: LeViT or a subclass.  Raises CheckpointError for anything wrong with the file, ConfigError for a
    size or a number of classes that no network has, BackendError for a backend or dtype that is not there."""
    size = image_size if image_size is None else size_of(image_size)
    config, state, labels, preprocessing = read(path, size)
    wanted = config
    if size is not None:
        wanted, preprocessing = replace(wanted, image_size=size), _resized(preprocessing, size)
    if num_classes is not None and num_classes != config.num_classes:
        wanted, labels = replace(wanted, num_classes=plain(num_classes)), None
    if distillation is not None:
        wanted = replace(wanted, distillation=distillation)
    model = build(wanted, backend, kind)
    _fit(state, config, model, seed, os.fspath(path))
    # One array at a time, each in memory of its own, so that peak memory stays at twice the file's size.
    if dtype != "float32":
        state = {name: array.copy() for name, array in state.items()}
    model.set_state({name: _cast(state.pop(name), dtype, f"{os.fspath(path)}: {name}") for name in list(state)},
                    copy=False)
    model.labels, model.preprocessing = labels, preprocessing
    return model


def _cast(array, dtype, place):
    """The array as dtype.  Raises CheckpointError for values too large for it."""
    with np.errstate(over="ignore"):
        fitted = array.astype(dtype, copy=False)
    if fitted is not array:
        require_finite(fitted, place)
    return fitted


def _resized(preprocessing, size):
    """The preprocessing for another image size: for a known one (authors, timm, digits) its definition at that size,
    otherwise `resize` scaled in proportion to the crop; mean and deviation stay."""
    if preprocessing is None:
        return None
    name, channels = preprocessing.name, len(preprocessing.mean)
    try:
        if name in NAMES and preprocessing == preprocessing_named(name, preprocessing.crop, channels):
            return preprocessing_named(name, size, channels)
        return replace(preprocessing, crop=size, resize=preprocessing.resize * max(size) // max(preprocessing.crop))
    except ImageError:  # no preprocessing allows images this large
        return None


def convert(source, target) -> LeViTConfig:
    """Writes `target`, our HDF5 with the weights of `source`, a file of any known format; returns their configuration.

    The untrusted source is read in a child process with limited time and memory. Raises CheckpointError for anything
    wrong with `source`; OSError if `target` cannot be written."""
    target = os.path.realpath(target)
    with open_regular(source) as file:
        size = os.fstat(file.fileno()).st_size
    try:
        # The child writes inside a temporary folder: if it is killed while writing, nothing is left beside the target.
        with replacing(target) as file, tempfile.TemporaryDirectory(
                prefix=".levit_np-", dir=os.path.dirname(target)) as directory:
            copy = os.path.join(directory, "converted.h5")
            # Half-precision weights double when read, and are held twice when written.
            config = confined.run(_converted, source, copy, seconds=60 + size / 5e6, memory=5 * size + (512 << 20))
            if isinstance(config, int):
                raise OSError(config, os.strerror(config))
            with open(copy, "rb") as converted:
                shutil.copyfileobj(converted, file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, target) from None
    return LeViTConfig.from_dict(config)


def _converted(source: str, copy: str) -> dict | int:
    """The child process of convert: returns the configuration, or the errno of a failed write."""
    model = load(source)
    try:
        save(model, copy)
    except OSError as error:
        return error.errno
    return model.config.to_dict()


def export(model: LeViT, path, format: str) -> None:
    """Writes `path` in another project's format, the inverse of load: "timm" or "transformers" (safetensors), or
    "facebook", the authors' .pth; "timm_conv" is for timm's levit_conv_* models, whose linear maps are 1×1
    convolutions. These files hold weights alone: neither class names nor preprocessing.

    BN's num_batches_tracked is written as 0; it has no effect with a fixed momentum.  Raises CheckpointError if the
    format has no names for this network or would be read as another one, or if weights are not finite or not of this
    network."""
    if format not in EXPORTS:
        raise CheckpointError(f"format: expected one of {', '.join(EXPORTS)}, found {format!r}")
    state = _sound(model, path)
    if format == "timm_conv":
        format = "timm"
        state = {name: array[:, :, None, None] if name.endswith(".weight") and array.ndim == 2
                 and not name.startswith("head") else array for name, array in state.items()}
    named = rename(state, config=model.config, format=format)
    _require_told(model.config, {name: array.shape for name, array in named.items()}, format)
    for name in list(named):
        if name.endswith(".running_mean"):
            named[name.removesuffix("running_mean") + "num_batches_tracked"] = np.zeros((), np.int64)
    if format != "facebook":
        return safetensors_file.write(path, named)
    table = name_table(model.config, format)
    for name, layer in biases_of(model).items():  # the authors' files store the index too
        there = table[name].removesuffix("attention_biases")
        named[f"{there}attention_bias_idxs"] = reference.bias_index(*layer.grid, layer.stride)
    torch_file.write(path, named)


def _require_told(config, shapes, format):
    """Raises CheckpointError if the exported names and shapes would be read back as a different configuration, except
    in fields that do not affect evaluation."""
    try:
        told = config_from_shapes(shapes, format, config.image_size)
    except CheckpointError:  # with the strides that are assumed, the stem does not give the right number of tokens
        raise CheckpointError(f"{config.name}: {format} files do not say stem {config.stem!a:.100}, and could not be "
                              "read") from None
    told = replace(told, name=config.name, drop_path=config.drop_path)
    if len(config.stages) == 1:
        told = replace(told, shrink_value_ratio=config.shrink_value_ratio)
    for field in fields(config):
        ours, theirs = getattr(config, field.name), getattr(told, field.name)
        if ours != theirs:
            raise CheckpointError(f"{config.name}: {format} files do not say {field.name} {ours!a:.100}, and would be "
                                  f"read as {theirs!a:.100}")


def rename(named: dict, *, config: LeViTConfig, format: str) -> dict:
    """{own name: value} -> {name in the format: the same value}, for a state, gradients or any subset of them.

    format: "timm", "transformers" or "facebook".  Raises CheckpointError for another format, for a network that the
    format cannot name, and for a name that no array of this network has."""
    if format not in FORMATS:
        raise CheckpointError(f"format: expected one of {', '.join(FORMATS)}, found {format!r}")
    table = name_table(config, format)
    if unknown := [name for name in named if name not in table]:
        raise CheckpointError(f"{config.name}: expected names of its arrays, found {unknown[0]!a:.100}")
    return {table[name]: value for name, value in named.items()}


def labels_of(model: LeViT) -> tuple[str, ...]:
    """The model's class names; if it has none, ImageNet's for 1000 classes, else "class 0", "class 1", ….  Raises
    CheckpointError unless there is one name per class."""
    classes = model.config.num_classes
    if model.labels is not None and len(model.labels):
        labels = tuple(model.labels)
        if len(labels) != classes or not all(isinstance(label, str) for label in labels):
            raise CheckpointError(f"labels: expected {classes} texts, found {list(labels)!a:.100}")
        return labels
    return imagenet_labels() if classes == 1000 else tuple(f"class {n}" for n in range(classes))


def preprocessing_of(model: LeViT) -> Preprocessing:
    """The model's preprocessing of images: its file's, else the authors' (that of the digits for grey images)."""
    if model.preprocessing:
        return model.preprocessing
    name = "digits" if model.config.in_channels == 1 else "authors"
    return preprocessing_named(name, model.config.image_size, model.config.in_channels)


def _fit(state, config, model, seed, place):
    """Changes a file's state in place to fit a model with other classes, heads or image size: re-initialises heads,
    resizes attention biases and position embedding."""
    specs = model.specs_by_name()
    old = biases_of(build(config))
    other_classes = model.config.num_classes != config.num_classes
    fresh = [name for name in specs if name not in state
             or other_classes and name in ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")]
    if fresh:
        why = (f"expected {model.config.num_classes} classes, found {config.num_classes}" if other_classes else
               "expected two heads, found one")
        warnings.warn(f"{place}: {why}: {', '.join(fresh)} start anew", stacklevel=4)  # 4: the caller of levit_np.load
        initial = initial_state(model, seed, np.float32)
        state |= {name: initial[name] for name in fresh}
    for name in state.keys() - specs.keys():  # the second head, if it is dropped
        del state[name]
    for name, layer in biases_of(model).items():
        if layer.grid != old[name].grid:
            state[name] = resize_bias(state[name], old[name].grid, layer.grid)
    grid, wanted = config.resolutions[0], model.config.resolutions[0]
    if model.position and grid != wanted:
        embedding, token = state["position.embedding"], config.pooling == "token"  # the class token's vector stays
        pixels = resize_bias(embedding[token:].T, grid, wanted).T
        state["position.embedding"] = np.concatenate([embedding[:token], pixels])


def resize_bias(table, old, new):
    """Attention biases (heads, H·W) resized from grid `old` to grid `new`: bilinear interpolation on the grid of
    offsets that maps offset 0 to 0 and the largest to the largest.  Also for an embedding (C, H·W): corners map to
    corners."""
    values = table.reshape(len(table), *old)
    for axis, (have, want) in enumerate(zip(old, new), 1):
        at = np.linspace(0, have - 1, want)
        low = at.astype(int)
        high, shape = np.minimum(low + 1, have - 1), [1, 1, 1]
        shape[axis] = -1
        part = (at - low).reshape(shape).astype(table.dtype)
        values = values.take(low, axis) * (1 - part) + values.take(high, axis) * part
    return values.reshape(len(table), -1)
