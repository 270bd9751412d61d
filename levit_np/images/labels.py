"""The names of the 1000 ImageNet-1k classes, in the order that every published LeViT uses (sorted by WordNet id).

Each is the first name in the class's WordNet synset; for the few classes that share one, a word in brackets is added.
"""

from functools import cache
from pathlib import Path


@cache
def imagenet_labels() -> tuple[str, ...]:
    """1000 distinct names: imagenet_labels()[207] == "golden retriever"."""
    return tuple(Path(__file__).with_name("imagenet_labels.txt").read_text(encoding="utf-8").splitlines())
