"""What the tests of every weight-file format share: how a file is refused, arrays to write and compare, peak memory."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import h5py
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from levit_np.errors import CheckpointError
from levit_np.storage import confined

from .storage import child_functions

ARRAYS = {
    "stages.0.weight": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "stages.0.bn.num_batches_tracked": np.array(5),
    "stem.weight": np.linspace(0, 1, 5),
    "empty": np.zeros((0, 3), np.float32),
}
# (name, array, words of the error) of what no writer accepts, as it could not be read back.
UNWRITABLE = [
    ("a", np.zeros(2, "f2"), "float16"), ("a", np.zeros(2, bool), "bool"), ("a", np.array(["b"]), "<U1"),
    ("a", np.array([np.nan]), "a: expected finite values, found nan"), ("a", np.ones((1,) * 9), "dimensions"),
    ("a", np.zeros((0, 1 << 50), "f4"), "values"), ("", np.ones(1), "printable name"),
    ("a\n", np.ones(1), "printable name"), ("\ud800", np.ones(1), "printable name"),
    ("a" * 257, np.ones(1), "printable name"),
]
# `make` puts something at a path that is not a file to read; `words`: of the error.
NO_FILE = pytest.mark.parametrize(("make", "words"), [
    (Path.mkdir, "expected a regular file, found a folder"),
    (os.mkfifo, "expected a regular file, found a pipe or device"),
    (lambda path: path.symlink_to(path), os.strerror(errno.ELOOP)), (lambda path: None, os.strerror(errno.ENOENT))],
    ids=["directory", "pipe", "link to itself", "nothing"])


def refusal_of(read, path: Path, *arguments) -> str:
    """The message with which `read` refuses `path`; it must be one line that begins with the path."""
    with pytest.raises(CheckpointError) as caught:
        read(path, *arguments)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 1000
    return message


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == expected[name].dtype.newbyteorder("=") and array.shape == expected[name].shape
        assert array.dtype.isnative and array.flags.c_contiguous and array.flags.writeable
        np.testing.assert_array_equal(array, expected[name])


def write_plain_hdf5(path: Path, arrays: dict[str, np.ndarray], documents: dict[str, Any]) -> None:
    """The content as any HDF5 tool could write it: without levit_np's seal, so the reader takes it for a stranger's."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name.replace(".", "/")] = array
        for name, document in documents.items():
            file[f"documents/{name}"] = np.frombuffer(json.dumps(document).encode(), "u1")


def peak_megabytes(reader: str, path: Path) -> float:
    """By how much reading `path` raises a new process's peak memory, in MiB. reader: hdf5, safetensors or torch."""
    return confined.run(child_functions.peak_megabytes, reader, path, memory=4 << 30)


# Strategies for arrays of every type in either byte order; empty, 0-d, transposed, reversed, strided and in Fortran's
# order.
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
dtypes = st.sampled_from(["<f4", ">f4", "<f8", ">f8", "<i8", ">i8"])
arrays = hnp.arrays(dtypes, shapes).filter(lambda array: np.isfinite(array).all())
views = st.tuples(arrays, st.sampled_from([lambda a: a, lambda a: a.T, lambda a: a[::-1] if a.ndim else a,
                                           lambda a: a[..., ::2] if a.ndim else a, np.asfortranarray]))
values = views.map(lambda pair: pair[1](pair[0]))
names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8) | st.text(max_size=3)
