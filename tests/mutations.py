"""Random damage to files, for the fuzz tests of file readers: bit flips, changed numbers, truncation, moved pieces."""

import random

_INTERESTING = (0, 1, 7, 8, 16, 64, 127, 128, 255, 256, 512, 1023, 4096, 65535, 1 << 20, (1 << 31) - 1,
                1 << 31, (1 << 32) - 1, 1 << 32, (1 << 40) + 3, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A copy of `data`, never equal to it, after one to four small changes."""
    changed = bytearray(data)
    while changed == data:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            rng.choice(_CHANGES)(changed, rng)
    return bytes(changed)


def _flip_a_bit(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_a_byte(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _set_a_number(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((1, 2, 4, 8))
    if len(data) >= size:
        i = rng.randrange(len(data) - size + 1)
        neighbour = int.from_bytes(data[i : i + size], "little") + rng.choice((-1, 1))
        number = rng.choice((*_INTERESTING, len(data), neighbour)) % (1 << 8 * size)
        data[i : i + size] = number.to_bytes(size, rng.choice(("little", "little", "big")))


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _clear(data: bytearray, rng: random.Random) -> None:
    i, count = rng.randrange(len(data) + 1), rng.choice((4, 16, 512))
    count = min(count, len(data) - i)
    data[i : i + count] = rng.choice((b"\0", b"\xff")) * count


def _copy_a_piece(data: bytearray, rng: random.Random) -> None:
    i, j, count = (rng.randrange(len(data) + 1) for _ in range(3))
    piece = data[i : i + count % 64]
    data[j : j + len(piece)] = piece


def _insert(data: bytearray, rng: random.Random) -> None:
    i = rng.randrange(len(data) + 1)
    data[i:i] = rng.randbytes(rng.choice((1, 8, 100)))


def _delete(data: bytearray, rng: random.Random) -> None:
    i = rng.randrange(len(data) + 1)
    del data[i : i + rng.choice((1, 8, 100))]


_CHANGES = (_flip_a_bit, _flip_a_bit, _set_a_byte, _set_a_byte, _set_a_number, _set_a_number, _set_a_number,
            _truncate, _clear, _copy_a_piece, _insert, _delete)
