"""Weights in and out: a file's content becomes a model, fitted to other classes or sizes; a model becomes a file."""

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
    """Replaces `path` by an HDF5 file of the state (float32), the configuration, the labels and the preprocessing.

    Raises CheckpointError for what load would refuse: weights that are not finite or not of this network, labels that
    are not one a class, a preprocessing for other images; a file that is there stays then."""
    documents = _documents(model, os.fspath(path))
    state = _sound(model, path)
    for name, array in state.items():
        with np.errstate(over="ignore"):  # which write finds and names
            state[name] = array.astype(np.float32, copy=False)
    hdf5.write(path, state, documents)


def require_room(model: LeViT, place: str) -> None:
    """Raises CheckpointError, beginning with `place`, for labels of more bytes than a file may have."""
    hdf5.texts(_documents(model, place), place)


def _documents(model, place):
    try:
        preprocessing = preprocessing_of(model)
    except ImageError:  # there is none for other than grey and colour
        preprocessing = None
    require_fitting(place, preprocessing, model.config)
    return {"config": model.config.to_dict(), "labels": list(labels_of(model)),
            "recipe": preprocessing and preprocessing.to_dict()}


def _sound(model, path):
    """The state on the host.  Raises CheckpointError where somebody has put an array there that load would refuse."""
    state = model.numpy_state()
    require(os.fspath(path), state, {name: spec.shape for name, spec in model.specs_by_name().items()})
    return state


def load(path, *, backend="reference", dtype="float32", num_classes=None, image_size=None, distillation=None, seed=0,
         kind=LeViT) -> LeViT:
    """The model in a file: our HDF5, or the authors', timm's or transformers' weights, as .pth or safetensors.

    The authors' fused files (BN folded into the layer before) give the same logits, but they have no BN statistics:
    each BN is the identity, its beta the folded bias, which is good for inference and not for more training.

    num_classes re-initialises heads that do not fit, from `seed` (a warning says so); image_size (a number or (H, W))
    resizes attention biases, position embedding and what images are resized to; distillation, true or false, adds a
    second head or leaves it out; kind is LeViT or what extends it.  Raises CheckpointError for whatever is wrong with
    the file, ConfigError for a size that no network has, BackendError for a backend or dtype that is not there.
    """
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
    # One array at a time: peak memory stays at twice the file.
    model.set_state({name: _cast(state.pop(name), dtype, f"{os.fspath(path)}: {name}") for name in list(state)},
                    copy=False)
    model.labels, model.preprocessing = labels, preprocessing
    return model


def _cast(array, dtype, place):
    """Raises CheckpointError for what is too large for the type."""
    with np.errstate(over="ignore"):
        fitted = array.astype(dtype, copy=False)
    if fitted is not array:
        require_finite(fitted, place)
    return fitted


def _resized(preprocessing, size):
    """The preprocessing for images of another size: the known one of that name, else what surrounds the crop grows with
    it; mean and deviation stay."""
    if preprocessing is None or preprocessing.crop == size:
        return preprocessing
    name, channels = preprocessing.name, len(preprocessing.mean)
    try:
        if name in NAMES and preprocessing == preprocessing_named(name, preprocessing.crop, channels):
            return preprocessing_named(name, size, channels)
        return replace(preprocessing, crop=size, resize=preprocessing.resize * max(size) // max(preprocessing.crop))
    except ImageError:  # there is none for images so large
        return None


def convert(source, target) -> LeViTConfig:
    """Replaces `target` by our HDF5 of the weights in `source`, whatever format they are in; -> their configuration.

    A stranger's file is read in a child process bounded in time and memory. Raises CheckpointError for whatever is
    wrong with `source`; OSError where `target` cannot be written."""
    target = os.path.realpath(target)
    with open_regular(source) as file:
        size = os.fstat(file.fileno()).st_size
    try:
        # A child that is stopped while it writes must leave nothing beside the target.
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
    """The child's part of convert: the configuration, or the number of the error that the disk has answered with."""
    model = load(source)
    try:
        save(model, copy)
    except OSError as error:
        return error.errno
    return model.config.to_dict()


def export(model: LeViT, path, format: str) -> None:
    """Writes `path` for another project, the inverse of load: "timm" or "transformers" (safetensors), or "facebook",
    the authors' .pth; "timm_conv" is for timm's levit_conv_* models, whose linear maps are 1×1 convolutions.

    BN's num_batches_tracked is written as 0; it has no influence at a fixed momentum.  Raises CheckpointError where
    the format has no names for this network, or cannot say what it computes, or the weights are not finite or not of
    this network."""
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
    """Raises CheckpointError where a file's names and shapes tell of another network than theirs; what decides nothing
    in evaluation, they need not tell."""
    try:
        told = config_from_shapes(shapes, format, config.image_size)
    except CheckpointError:  # other strides than those that are assumed do not lead to its tokens
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
    """{own name: anything} -> {name in the format: the same}, for states, gradients or any part of them.

    format: "timm", "transformers" or "facebook".  Raises CheckpointError for another, for a network that the format
    has no names for, and for a name that no array of this network has."""
    table = name_table(config, format)
    if unknown := [name for name in named if name not in table]:
        raise CheckpointError(f"{config.name}: expected names of its arrays, found {unknown[0]!a:.100}")
    return {table[name]: value for name, value in named.items()}


def labels_of(model: LeViT) -> tuple[str, ...]:
    """The model's own class names, ImageNet's for 1000 classes without names, else numbers.  Raises CheckpointError for
    names that are not one a class."""
    classes = model.config.num_classes
    if model.labels is not None and len(model.labels):
        labels = tuple(model.labels)
        if len(labels) != classes or not all(isinstance(label, str) for label in labels):
            raise CheckpointError(f"labels: expected {classes} texts, found {list(labels)!a:.100}")
        return labels
    return imagenet_labels() if classes == 1000 else tuple(f"class {n}" for n in range(classes))


def preprocessing_of(model: LeViT) -> Preprocessing:
    """How images are prepared for the model: as its file says, else as the authors do."""
    if model.preprocessing:
        return model.preprocessing
    name = "digits" if model.config.in_channels == 1 else "authors"
    return preprocessing_named(name, model.config.image_size, model.config.in_channels)


def _fit(state, config, model, seed, place):
    """Makes a file's arrays fit a model of other classes, heads or image size: heads anew, biases and embedding
    resized."""
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
    for name in state.keys() - specs.keys():  # of the head that is not wanted
        del state[name]
    for name, layer in biases_of(model).items():
        if layer.grid != old[name].grid:
            state[name] = resize_bias(state[name], old[name].grid, layer.grid)
    grid, wanted = config.resolutions[0], model.config.resolutions[0]
    if model.position and grid != wanted:
        embedding, token = state["position.embedding"], config.pooling == "token"  # whose own stays as it is
        pixels = resize_bias(embedding[token:].T, grid, wanted).T
        state["position.embedding"] = np.concatenate([embedding[:token], pixels])


def resize_bias(table, old, new):
    """Attention biases (heads, H·W) of one grid for another: bilinear on the grid of offsets, offset 0 staying 0
    and the largest staying the largest.  An embedding (C, H·W) alike, corners staying corners."""
    values = table.reshape(len(table), *old)
    for axis, (have, want) in enumerate(zip(old, new), 1):
        at = np.linspace(0, have - 1, want) if want > 1 else np.zeros(1)
        low = np.minimum(at.astype(int), max(have - 2, 0))
        high, shape = np.minimum(low + 1, have - 1), [1, 1, 1]
        shape[axis] = -1
        part = (at - low).reshape(shape).astype(table.dtype)
        values = values.take(low, axis) * (1 - part) + values.take(high, axis) * part
    return values.reshape(len(table), -1)
