"""What a weight file holds: any known format, recognised by content, each array checked by name and shape."""

import os
from typing import NamedTuple

import numpy as np

from ..config import LeViTConfig
from ..errors import CheckpointError, ConfigError, ImageError
from ..images.preprocessing import Preprocessing, preprocessing_named
from ..layers.attention import AttentionBias
from ..layers.normalization import BatchNorm
from ..model import build
from ..ops.reference import bias_index
from ..storage import hdf5
from ..storage.regular import open_regular
from . import safetensors_file, torch_file
from .formats import config_from_shapes, name_table, recognize

_DOCUMENTS = "config", "labels", "recipe"
_TABLE, _INDEX = "attention_biases", "attention_bias_idxs"  # the second says which entry of the first a pair uses
_COUNT = "num_batches_tracked"  # of a BN, whose momentum is fixed
# gamma (x - mean) / √(variance + eps) + beta = x
_IDENTITY = {"gamma": 1.0, "beta": 0.0, "mean": 0.0, "variance": 1 - BatchNorm.eps}


def is_fused(state) -> bool:
    """Whether every BN of a network, {name: array}, is the identity, as a fused file's are: it has no statistics."""
    found = [(array, _IDENTITY[key]) for name, array in state.items()
             if (key := name.rpartition(".")[2]) in ("mean", "variance")]
    return bool(found) and all(np.abs(array - value).max() < BatchNorm.eps / 10 for array, value in found)


class Content(NamedTuple):
    """A network, its arrays by own names, its class names where the file has them, and its preprocessing where there is
    one (there is none for other than grey and colour)."""

    config: LeViTConfig
    state: dict[str, np.ndarray]
    labels: list[str] | None
    preprocessing: Preprocessing | None


def read(path, image_size=None) -> Content:
    """What is in our HDF5, in a .pth or in safetensors of the authors', timm's or transformers' names.

    image_size: (H, W) of which a foreign file, which says the number of its tokens alone, is taken to be if that fits;
    else its images are square.  The arrays are those of the configuration exactly.  Raises CheckpointError for
    whatever is wrong with the file."""
    place = os.fspath(path)
    with open_regular(path) as file:
        start = file.read(9)
    if start[8:9] == b"{":
        return _foreign(place, safetensors_file.read(path), image_size)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":  # the latter an old pickle, which torch_file refuses by name
        return _foreign(place, torch_file.read(path), image_size)
    if start[:8] in hdf5.MAGICS:
        return _own(place, *hdf5.read(path))
    raise CheckpointError(f"{place}: expected HDF5, safetensors or a .pth, found a file that begins with {start[:8]!r}")


def _own(place, arrays, documents):
    missing = [name for name in _DOCUMENTS if name not in documents]
    if missing:
        # A training's checkpoint or a recorded pass, say, which levit_np wrote as well.
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
    tensors = {name: t[:, :, 0, 0] if t.ndim == 4 and t.shape[2:] == (1, 1) and not name.startswith(stem) else t
               for name, t in tensors.items() if not name.endswith(_COUNT)}
    indices = {name: tensors.pop(name) for name in list(tensors) if name.endswith(_INDEX)}
    try:
        form = recognize(tensors)
        config = config_from_shapes({name: t.shape for name, t in tensors.items()}, form, image_size)
        table, network = name_table(config, form), build(config)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{place}: {error}") from None
    specs = network.specs_by_name()
    require(place, tensors, {there: specs[own].shape for own, there in table.items()})
    for own, layer in biases_of(network).items():
        found = indices.get(name := table[own].removesuffix(_TABLE) + _INDEX)
        height, width = layer.grid
        keys, queries = height * width, -(-height // layer.stride) * -(-width // layer.stride)
        # The right one has the square of the keys: it is made only where the file has as many numbers.
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
    """Raises CheckpointError for a preprocessing that makes other images than the network takes."""
    expected = config.in_channels, *config.image_size
    if preprocessing is not None and (found := (len(preprocessing.mean), *preprocessing.crop)) != expected:
        raise CheckpointError(f"{place}: recipe: expected images {expected}, found {found}")


def require(place, arrays, shapes):
    """Raises CheckpointError: one report of all that is missing, unexpected or of the wrong shape or type, in the
    file's own names; or a variance below 0."""
    missing = [name for name in shapes if name not in arrays]
    unexpected = [name for name in arrays if name not in shapes]
    wrong = [f"{name} {array.dtype} {array.shape} for floating {shapes[name]}" for name, array in arrays.items()
             if name in shapes and (array.shape != shapes[name] or array.dtype.kind != "f")]
    if missing or unexpected or wrong:
        parts = ("missing", missing), ("unexpected", unexpected), ("wrong shape or type", wrong)
        raise CheckpointError(f"{place}: {'; '.join(f'{kind}: {_listed(some)}' for kind, some in parts if some)}")
    for name, array in arrays.items():
        with np.errstate(invalid="ignore"):  # a NaN, which is found where all arrays are looked at
            negative = name.endswith(("variance", "running_var")) and array.min() < 0
        if negative:
            raise CheckpointError(f"{place}: {name}: expected variances from 0, found {array.min():g}")


def _listed(names):
    return ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
