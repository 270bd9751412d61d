"""What the tests of every weight-file container share: how a file is refused, what comes back, what is drawn."""

from pathlib import Path

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from levit_np.errors import CheckpointError
from levit_np.storage import confined

from .storage import child_functions


def refusal_of(read, path: Path, *arguments) -> str:
    """The message with which `read` refuses `path`: one line that begins with the path."""
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


def peak_megabytes(reader: str, path: Path) -> float:
    """By how much reading `path` raises the peak memory of a new process, in MiB; reader: hdf5, safetensors or torch."""
    return confined.run(child_functions.peak_megabytes, reader, path, memory=4 << 30)


# Arrays of every stored type and of either byte order; empty, 0-d, transposed, reversed, strided, Fortran.
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
dtypes = st.sampled_from(["<f4", ">f4", "<f8", ">f8", "<i8", ">i8"])
arrays = hnp.arrays(dtypes, shapes).filter(lambda array: np.isfinite(array).all())
views = st.tuples(arrays, st.sampled_from([lambda a: a, lambda a: a.T, lambda a: a[::-1] if a.ndim else a,
                                           lambda a: a[..., ::2] if a.ndim else a, np.asfortranarray]))
values = views.map(lambda pair: pair[1](pair[0]))
