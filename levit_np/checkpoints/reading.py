"""Reads a weight file of any known format: recognises the format by its content and checks every array's name and
shape."""

import os
from typing import NamedTuple

import numpy as np

from ..config import LeViTConfig
from ..errors import CheckpointError, ImageError, checkpoint_errors_alone
from ..images.preprocessing import Preprocessing, preprocessing_named
from ..layers.attention import AttentionBias
from ..layers.normalization import BatchNorm
from ..model import build
from ..ops.reference import bias_index
from ..storage import hdf5
from ..storage.regular import open_regular
from . import safetensors_file, torch_file
from .formats import config_from_shapes, name_table, recognize

_DOCUMENTS = "config", "labels", "recipe"  # JSON texts beside the arrays of our HDF5; recipe: the preprocessing
_TABLE, _INDEX = "attention_biases", "attention_bias_idxs"  # layers.attention.AttentionBias's table and index
_COUNT = "num_batches_tracked"  # of BN; without effect, as its momentum is fixed
# The BN that is the identity: gamma (x - mean) / √(variance + eps) + beta = x.
_IDENTITY = {"gamma": 1.0, "beta": 0.0, "mean": 0.0, "variance": 1 - BatchNorm.eps}


def is_fused(state) -> bool:
    """Whether every BN in a state {name: array} is the identity, as in a fused file, which has no BN statistics."""
    found = [(array, _IDENTITY[key]) for name, array in state.items()
             if (key := name.rpartition(".")[2]) in ("mean", "variance")]
    return bool(found) and all(np.abs(array - value).max() < BatchNorm.eps / 10 for array, value in found)


class Content(NamedTuple):
    """The content of a weight file: configuration, arrays by our names, class names if the file has them, preprocessing
    if there is one (images that are neither grey nor colour have none)."""

    config: LeViTConfig
    state: dict[str, np.ndarray]
    labels: list[str] | None
    preprocessing: Preprocessing | None


def read(path, image_size=None) -> Content:
    """Reads our HDF5, or a .pth or safetensors file with the authors', timm's or transformers' names.

    image_size (H, W): a foreign file tells the number of tokens alone; its images are taken to be of this size if that
    fits, else square.  The arrays are exactly those of the configuration.  Raises CheckpointError for anything wrong
    with the file."""
    place = os.fspath(path)
    with checkpoint_errors_alone(place, "a weight file"), open_regular(path) as file:
        start = file.read(9)
    if start[8:9] == b"{":
        return _foreign(place, safetensors_file.read(path), image_size)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":  # zip, or an old pickle, for which torch_file has a message
        return _foreign(place, torch_file.read(path), image_size)
    if start[:8] in hdf5.MAGICS:
        return _own(place, *hdf5.read(path))
    found = f"a file that begins with {start[:8]!r}" if start else "an empty file"
    raise CheckpointError(f"{place}: expected HDF5, safetensors or a .pth, found {found}")


def _own(place, arrays, documents):
    missing = [name for name in _DOCUMENTS if name not in documents]
    if missing:
        # Such as a training checkpoint or a recorded pass, other HDF5 files of ours.
        raise CheckpointError(f"{place}: expected weights that levit_np wrote, found HDF5 without their documents "
                              f"{', '.join(missing)}")
    try:
        config, preprocessing = LeViTConfig.from_dict(documents["config"]), documents["recipe"]
        if preprocessing is not None:
            preprocessing = Preprocessing.from_dict(preprocessing)
        specs = build(config).specs_by_name()
    except ValueError as error:
        raise CheckpointError(f"{place}: {error}") from None
    labels = documents["labels"]
    if not isinstance(labels, list) or len(labels) != config.num_classes or not all(
            isinstance(label, str) for label in labels):
        raise CheckpointError(f"{place}: labels: expected {config.num_classes} texts, found {labels!a:.100}")
    require(place, arrays, {name: spec.shape for name, spec in specs.items()})
    require_fitting(place, preprocessing, config)
    return Content(config, arrays, labels, preprocessing)


def _foreign(place, tensors, image_size):
    # timm's convolutional variants and the authors' levit_c store a linear weight as a 1×1 convolution.
    stem = "patch_embed", "stem.", "levit.patch_embeddings"
    tensors = {name: t[:, :, 0, 0] if t.shape[2:] == (1, 1) and not name.startswith(stem) else t
               for name, t in tensors.items() if not name.endswith(_COUNT)}
    indices = {name: tensors.pop(name) for name in list(tensors) if name.endswith(_INDEX)}
    try:
        form = recognize(tensors)
        config = config_from_shapes({name: t.shape for name, t in tensors.items()}, form, image_size)
        table, network = name_table(config, form), build(config)
    except CheckpointError as error:
        raise CheckpointError(f"{place}: {error}") from None
    specs = network.specs_by_name()
    require(place, tensors, {there: specs[own].shape for own, there in table.items()})
    for own, layer in biases_of(network).items():
        found = indices.get(name := table[own].removesuffix(_TABLE) + _INDEX)
        height, width = layer.grid
        keys, queries = height * width, -(-height // layer.stride) * -(-width // layer.stride)
        # Compare shapes first: the index has (queries · keys) entries, which an untrusted grid could make huge.
        if found is not None and not (found.shape == (queries, keys) and np.array_equal(
                found, bias_index(height, width, layer.stride))):
            raise CheckpointError(f"{place}: {name}: expected |Δy| · {width} + |Δx| for pixels {height}×{width} at a "
                                  f"stride of {layer.stride}, found another index {found.shape}")
    state = {own: tensors[there] for own, there in table.items()}
    if form == "fused":
        state |= {name: np.full(spec.shape, _IDENTITY[name.rpartition(".")[2]]) for name, spec in specs.items()
                  if name not in state}
    try:
        name = "digits" if config.name == "levit_digits" else "timm" if form == "timm" else "authors"
        preprocessing = preprocessing_named(name, config.image_size, config.in_channels)
    except ImageError:
        preprocessing = None
    return Content(config, state, None, preprocessing)


def biases_of(network) -> dict:
    """{name of its table: layer} of every attention bias."""
    return {f"{name}.table": layer for name, layer in network.walk() if isinstance(layer, AttentionBias)}


def require_fitting(place, preprocessing, config):
    """Raises CheckpointError if the preprocessing's images do not have the shape that the network takes."""
    expected = config.in_channels, *config.image_size
    if preprocessing is not None and (found := (len(preprocessing.mean), *preprocessing.crop)) != expected:
        raise CheckpointError(f"{place}: preprocessing: expected images {expected}, found {found}")


def require(place, arrays, shapes):
    """Raises CheckpointError, naming all arrays (as the file does) that are missing, unexpected or of a wrong shape or
    type; or for a variance below 0."""
    missing = [name for name in shapes if name not in arrays]
    unexpected = [name for name in arrays if name not in shapes]
    wrong = [f"{name} {array.dtype} {array.shape} for floating {shapes[name]}" for name, array in arrays.items()
             if name in shapes and (array.shape != shapes[name] or array.dtype.kind != "f")]
    if missing or unexpected or wrong:
        parts = ("missing", missing), ("unexpected", unexpected), ("wrong shape or type", wrong)
        raise CheckpointError(f"{place}: {'; '.join(f'{kind}: {_listed(some)}' for kind, some in parts if some)}")
    for name, array in arrays.items():
        with np.errstate(invalid="ignore"):  # NaN has its own check, of all arrays
            negative = name.endswith(("variance", "running_var")) and array.min() < 0
        if negative:
            raise CheckpointError(f"{place}: {name}: expected variances from 0, found {array.min():g}")


def _listed(names):
    return ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
