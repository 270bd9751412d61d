"""Each test of this folder leaves one thread behind."""

import pytest

import levit_np


@pytest.fixture(autouse=True)
def one_thread_again():
    yield
    levit_np.set_threads(1)
