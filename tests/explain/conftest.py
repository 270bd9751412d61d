"""Fixtures: a page of the digits' network, and a browser that shows it."""

import pytest

import levit_np

from . import DIGIT
from .chromium import Chromium


@pytest.fixture(scope="module")
def digits():
    return levit_np.load("levit_digits.h5", backend="reference")


@pytest.fixture(scope="module")
def page(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "digits.html"
    digits.explain(DIGIT, target=3, teacher=5).save(path)
    return path


@pytest.fixture(scope="module")
def chromium():
    with Chromium() as found:
        yield found


@pytest.fixture
def opened(chromium, page):
    chromium.errors.clear(), chromium.requests.clear()
    chromium.open(page.as_uri())
    yield chromium
    assert chromium.errors == []
