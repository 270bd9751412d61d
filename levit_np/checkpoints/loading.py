"""Weights in and out: any format that is known, recognised by content; and the model they belong to."""

import os
import warnings
from dataclasses import replace

import numpy as np

from ..config import LeViTConfig
from ..errors import BackendError, CheckpointError, ConfigError
from ..images.labels import imagenet_labels
from ..images.recipes import Recipe, recipe
from ..layers.attention import AttentionBias
from ..model import LeViT, build, initial_state
from ..storage import hdf5
from . import safetensors_file, torch_file
from .formats import FORMATS, config_from_shapes, name_table, recognize


def save(model: LeViT, path) -> None:
    """Replaces `path` by an HDF5 file of the state (float32), the configuration, the labels and the recipe.

    Raises CheckpointError for weights that are not finite, or labels that are not one a class."""
    labels = list(labels_of(model))
    if len(labels) != model.config.num_classes:
        raise CheckpointError(f"labels: expected {model.config.num_classes}, found {len(labels)}")
    documents = {"config": model.config.to_dict(), "labels": labels, "recipe": recipe_of(model).to_dict()}
    state = {name: np.asarray(array, np.float32) for name, array in model.state().items()}
    hdf5.write(path, state, documents)


def load(path, *, backend="reference", dtype="float32", num_classes=None, image_size=None, kind=LeViT) -> LeViT:
    """The model in a file: our HDF5, the authors' .pth, or timm's or transformers' safetensors.

    num_classes re-initialises heads that do not fit (a warning says so); image_size (a number or (H, W)) resizes
    the attention biases; kind is LeViT or what extends it.  Raises CheckpointError for whatever is wrong with the
    file, BackendError for a backend or dtype that is not there.
    """
    if dtype not in ("float32", "float64"):
        raise BackendError(f"dtype: expected float32 or float64 on the reference backend, found {dtype!r}")
    config, state, labels, preprocessing = _read(path)
    wanted = config
    if image_size is not None:
        size = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
        wanted, preprocessing = replace(wanted, image_size=size), None
    if num_classes is not None and num_classes != config.num_classes:
        wanted, labels = replace(wanted, num_classes=num_classes), None
    model = build(wanted, backend, kind)
    _fit(state, config, model, os.fspath(path))
    model.set_state({name: array.astype(dtype) for name, array in state.items()})
    model.labels, model.recipe = labels, preprocessing
    return model


def export(model: LeViT, path, format: str) -> None:
    """Writes `path` for another project, the inverse of load: "timm" or "transformers" (safetensors), or "facebook",
    the authors' .pth.

    BN's num_batches_tracked is written as 0; it has no influence at a fixed momentum.  Raises CheckpointError where
    the format has no names for this network, or the weights are not finite."""
    if format not in FORMATS:
        raise CheckpointError(f"format: expected one of {', '.join(FORMATS)}, found {format!r}")
    named = rename(model.state(), config=model.config, format=format)
    for name in list(named):
        if name.endswith(".running_mean"):
            named[name.removesuffix("running_mean") + "num_batches_tracked"] = np.zeros((), np.int64)
    if format != "facebook":
        return safetensors_file.write(path, named)
    table = name_table(model.config, format)
    for name, layer in _biases(model).items():  # the authors' files store the index too
        there = table[name].removesuffix("attention_biases")
        named[f"{there}attention_bias_idxs"] = model.ops.bias_index(*layer.grid, layer.stride)
    torch_file.write(path, named)


def rename(named: dict, *, config: LeViTConfig, format: str) -> dict:
    """{own name: anything} -> {name in the format: the same}, for states, gradients or any part of them."""
    table = name_table(config, format)
    return {table[name]: value for name, value in named.items()}


def labels_of(model: LeViT) -> tuple[str, ...]:
    """The model's own class names, ImageNet's for 1000 classes without names, else numbers."""
    if model.labels:
        return tuple(model.labels)
    classes = model.config.num_classes
    return imagenet_labels() if classes == 1000 else tuple(f"class {n}" for n in range(classes))


def recipe_of(model: LeViT) -> Recipe:
    """How images are prepared for the model: its file's recipe, else the authors'."""
    if model.recipe:
        return model.recipe
    name = "digits" if model.config.in_channels == 1 else "authors"
    return recipe(name, model.config.image_size, model.config.in_channels)


def _read(path):
    """(config, state by own names, labels or None, recipe or None)."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)}: expected a weight file: {error.strerror}") from None
    if start[8:9] == b"{":
        return _foreign(path, safetensors_file.read(path)[0])
    if start[:4] == b"PK\x03\x04":
        return _foreign(path, torch_file.read(path))
    arrays, documents = hdf5.read(path)
    try:
        config = LeViTConfig.from_dict(documents["config"])
        preprocessing = Recipe.from_dict(documents["recipe"])
        labels = documents["labels"]
        if not isinstance(labels, list) or len(labels) != config.num_classes or not all(
                isinstance(label, str) for label in labels):
            raise CheckpointError(f"labels: expected {config.num_classes} texts")
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from None
    return config, arrays, labels, preprocessing


def _foreign(path, tensors):
    try:
        form = recognize(tensors)
        # timm's convolutional variants and the authors' levit_c store a linear weight as a 1×1 convolution.
        stem = "patch_embed", "stem.", "levit.patch_embeddings"
        tensors = {name: t[:, :, 0, 0] if t.ndim == 4 and t.shape[2:] == (1, 1) and not name.startswith(stem) else t
                   for name, t in tensors.items()}
        config = config_from_shapes({name: t.shape for name, t in tensors.items()}, form)
        table = name_table(config, form)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from None
    known = set(table.values())
    ignored = "num_batches_tracked", "attention_bias_idxs"
    unexpected = [name for name in tensors if name not in known and not name.endswith(ignored)]
    missing = [name for name in known if name not in tensors]
    if missing or unexpected:
        raise CheckpointError(f"{os.fspath(path)}: missing: {_listed(missing)}; unexpected: {_listed(unexpected)}")
    preprocessing = recipe("timm" if form == "timm" else "authors", config.image_size, config.in_channels)
    return config, {own: tensors[there] for own, there in table.items()}, None, preprocessing


def _fit(state, config, model, place):
    """Makes a file's arrays fit the model: heads anew, biases resized.  Raises CheckpointError for all else."""
    specs = model.specs_by_name()
    old = _biases(build(config))
    fresh = [n for n in ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")
             if n in specs and model.config.num_classes != config.num_classes]
    if fresh:
        warnings.warn(f"{place}: expected {model.config.num_classes} classes, found {config.num_classes}: "
                      f"{', '.join(fresh)} start anew", stacklevel=4)  # 4: the caller of levit_np.load
        initial = initial_state(model, 0, np.float32)
        state |= {name: initial[name] for name in fresh}
    for name, layer in _biases(model).items():
        # A table that does not even fit its own file's grid stays, and is named below.
        if layer.grid != old[name].grid and name in state and state[name].shape == old[name].specs["table"].shape:
            state[name] = resize_bias(state[name], old[name].grid, layer.grid)
    wrong = [f"{n} {s.shape} found {state[n].shape}" for n, s in specs.items() if n in state and
             (state[n].shape != s.shape or state[n].dtype.kind != "f")]
    missing, unexpected = [n for n in specs if n not in state], [n for n in state if n not in specs]
    if wrong or missing or unexpected:
        raise CheckpointError(f"{place}: missing: {_listed(missing)}; unexpected: {_listed(unexpected)}; "
                              f"wrong shape or type: {_listed(wrong)}")


def _biases(model):
    """{name of its table: layer} of every attention bias."""
    return {f"{name}.table": layer for name, layer in model.walk() if isinstance(layer, AttentionBias)}


def resize_bias(table, old, new):
    """Attention biases (heads, H·W) of one grid for another: bilinear on the grid of offsets, offset 0 staying 0
    and the largest staying the largest."""
    values = table.reshape(len(table), *old)
    for axis, (have, want) in enumerate(zip(old, new), 1):
        at = np.linspace(0, have - 1, want) if want > 1 else np.zeros(1)
        low = np.minimum(at.astype(int), max(have - 2, 0))
        high, shape = np.minimum(low + 1, have - 1), [1, 1, 1]
        shape[axis] = -1
        part = (at - low).reshape(shape).astype(table.dtype)
        values = values.take(low, axis) * (1 - part) + values.take(high, axis) * part
    return values.reshape(len(table), -1)


def _listed(names):
    return ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "none"
