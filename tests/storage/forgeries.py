"""Forged files by name: sealed with a correct hash, but with a false list of contents."""

import json
from typing import Any

import numpy as np

from levit_np.storage import seal

START = seal.SIZE
VALUES = np.arange(8, dtype="<f4").tobytes()


def forged(listing: Any, values: bytes = VALUES) -> bytes:
    """A correctly sealed file of `values` followed by `listing`, JSON or bytes."""
    text = listing if isinstance(listing, bytes) else json.dumps(listing).encode()
    content = values + text
    return seal.seal(content, START + len(values), len(text)) + content


def _entry(parts: Any = ("a",), dtype: Any = "<f4", shape: Any = (8,), offset: Any = START) -> list[Any]:
    return [parts, dtype, shape, offset]


def _document(text: bytes, **changes: Any) -> bytes:
    entry = {"parts": ("documents", "a"), "dtype": "|u1", "shape": (len(text),), **changes}
    return forged([_entry(**entry)], text)


HONEST = forged([_entry()])
FORGERIES = {
    "list nowhere": seal.seal(VALUES, 0, 0) + VALUES,
    "list behind the end": seal.seal(VALUES, 1 << 62, 100) + VALUES,
    "list of 2 MB": forged(b" " * (2 << 20) + b"[]"),
    "list that is not JSON": forged(b"[["),
    "list 100,000 deep": forged(b"[" * 100_000 + b"]" * 100_000),
    "list that is an object": forged({"a": _entry()}),
    "list that is a number": forged(7),
    "entry of three fields": forged([_entry()[:3]]),
    "entry of five fields": forged([_entry() + [0]]),
    "entry without a name": forged([_entry(parts=())]),
    "name that is a string": forged([_entry(parts="a")]),
    "name of numbers": forged([_entry(parts=("a", 1))]),
    "name of an empty part": forged([_entry(parts=("a", ""))]),
    "name with a dot": forged([_entry(parts=("a.b",))]),
    "name with a slash": forged([_entry(parts=("../a",))]),
    "name that colours the terminal": forged([_entry(parts=("\x1b[31m",))]),
    "name of 4,000 bytes": forged([_entry(parts=("a" * 4000,))]),
    "name of 17 parts": forged([_entry(parts=("a",) * 17)]),
    "name twice": forged([_entry(shape=(4,)), _entry(shape=(4,), offset=START + 16)]),
    "two arrays in the same bytes": forged([_entry(), _entry(parts=("b",), shape=(4,), offset=START + 16)]),
    "two arrays that share a byte": forged([_entry(), _entry(parts=("b",), shape=(1,), offset=START + 31)]),
    "5,000 arrays": forged([_entry(parts=(str(i),), shape=(0,)) for i in range(5000)]),
    "4,000 arrays of all the bytes": forged([_entry(parts=(str(i),)) for i in range(4000)]),
    "big-endian": forged([_entry(dtype=">f4")]),
    "objects": forged([_entry(dtype="|O", shape=(4,))]),
    "type with a field": forged([_entry(dtype="<f4,<f4", shape=(4,))]),
    "type that is a number": forged([_entry(dtype=4)]),
    "array of bytes": forged([_entry(dtype="|u1")]),
    "shape of nine dimensions": forged([_entry(shape=(1,) * 8 + (8,))]),
    "shape larger than the file": forged([_entry(shape=(1 << 40,))]),
    "shape larger than an address": forged([_entry(shape=(1 << 40, 1 << 40))]),
    "shape larger than an address but for a zero": forged([_entry(shape=(0, 1 << 62, 1 << 62))]),
    "shape below zero": forged([_entry(shape=(-1, -8))]),
    "shape of a fraction": forged([_entry(shape=(8.0,))]),
    "shape of a truth": forged([_entry(shape=(True, 8))]),
    "shape that is a number": forged([_entry(shape=8)]),
    "offset below zero": forged([_entry(offset=-32)]),
    "offset behind the end": forged([_entry(offset=1 << 70)]),
    "offset that is a fraction": forged([_entry(offset=512.0)]),
    "offset that is a truth": forged([_entry(shape=(1,), offset=True)]),
    "NaN": forged([_entry()], np.full(8, np.nan, "<f4").tobytes()),
    "infinity": forged([_entry()], np.full(8, -np.inf, "<f4").tobytes()),
    "document with a NaN": _document(b"[NaN]"),
    "document of floats": _document(b"1111", dtype="<f4", shape=(1,)),
    "document in a matrix": _document(b"1111", shape=(2, 2)),
    "document in a group": _document(b"1", parts=("documents", "a", "b")),
    "document without a name": _document(b"1", parts=("documents",)),
    "document of 2 MB": _document(b'"' + b"a" * (2 << 20) + b'"'),
    "document in an array's bytes": forged(
        [_entry(shape=(1,)), _entry(("documents", "a"), "|u1", (4,))], b"1111"
    ),
}
