"""All hostile .pth files by name, each with its bytes and the words with which it must be refused."""

from collections.abc import Iterator

from tests.checkpoints.attacks_pickle import PICKLE_ATTACKS
from tests.checkpoints.attacks_zip import ZIP_ATTACKS
from tests.checkpoints.torch_forge import Attack

ATTACKS: dict[str, Attack] = PICKLE_ATTACKS | ZIP_ATTACKS
assert len(ATTACKS) == len(PICKLE_ATTACKS) + len(ZIP_ATTACKS)


def attacks() -> Iterator[tuple[str, bytes]]:
    """The name and the bytes of each hostile file."""
    for name, attack in ATTACKS.items():
        yield name, attack.data
