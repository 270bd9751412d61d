"""Fixtures: walks through random networks; a page of the digits' network, and a browser that shows it."""

import pytest

import levit_np
from levit_np.explain.trace import trace
from levit_np.explain.walk import Walk

from ..random_model import random_images, random_model
from . import DIGIT
from .chromium import Chromium
from .test_trace import NETWORKS


@pytest.fixture(scope="module")
def walk():
    model = random_model(backend="reference")
    return Walk(trace(model, random_images(model, 1), 3, about="random"))


@pytest.fixture(scope="module", params=NETWORKS)
def any_walk(request):
    model = random_model(**NETWORKS[request.param])
    return Walk(trace(model, random_images(model, 2), [2, 0]))


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
