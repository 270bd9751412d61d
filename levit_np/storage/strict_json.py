"""Strict JSON: `loads` reads back exactly what `dumps` wrote, and refuses anything ambiguous."""

import json
import math
from typing import Any, NoReturn

from ..errors import CheckpointError

DEEPEST = 64


def dumps(document: Any, place: str) -> bytes:
    """UTF-8 JSON without spaces, keys in the given order. Raises CheckpointError for what `loads` would refuse."""
    try:
        data = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{place}: expected a JSON document, found {error}") from error
    loads(data, place)
    return data


def loads(data: bytes, place: str) -> Any:
    """The document in UTF-8 JSON. Raises CheckpointError, beginning with `place`, for anything but strict JSON.

    Also refuses, though the standard library or the standard allows it: NaN and infinities (also 1e999), a repeated key
    in one object, a lone surrogate, more than 64 levels.
    """
    try:
        document = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_not_a_number, parse_float=_finite
        )
        _check(document)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{place}: expected strict JSON, found {error}") from error
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"the key {key!r:.100} twice")
        document[key] = value
    return document


def _not_a_number(constant: str) -> NoReturn:
    raise ValueError(f"the constant {constant}")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"a number too large, {digits[:20]}")
    return value


def _check(document: Any) -> None:
    # The parser's own limit on depth differs between Python versions; callers that recurse need a fixed one.
    level = [document]
    for _ in range(DEEPEST):
        children: list[Any] = []
        for item in level:
            if isinstance(item, str):
                item.encode()
            elif isinstance(item, dict):
                children.extend(item.keys())
                children.extend(item.values())
            elif isinstance(item, list):
                children.extend(item)
        if not children:
            return
        level = children
    raise ValueError(f"more than {DEEPEST} levels")
