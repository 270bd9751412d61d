"""The names of ImageNet's classes: a thousand distinct ones, in the standard order."""

import pytest

from levit_np.images.labels import imagenet_labels


def test_a_thousand_distinct_readable_names():
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert len({label.lower() for label in labels}) == 1000
    assert all(label == label.strip() and label.isprintable() for label in labels)
    assert all(2 <= len(label) <= 40 for label in labels)


@pytest.mark.parametrize(("index", "label"), [   # spread over the whole range, to see a shift anywhere
    (0, "tench"), (1, "goldfish"), (134, "crane (bird)"), (207, "golden retriever"), (264, "Cardigan (dog)"),
    (281, "tabby"), (285, "Egyptian cat"), (388, "giant panda"), (409, "analog clock"),
    (474, "cardigan (garment)"), (517, "crane (machine)"), (638, "maillot (tights)"),
    (639, "maillot (swimsuit)"), (657, "missile"), (744, "projectile"), (836, "sunglass"),
    (837, "sunglasses"), (954, "banana"), (999, "toilet tissue"),
])
def test_the_standard_order(index, label):
    assert imagenet_labels()[index] == label
