"""Looks up values of a trace by name and index, as in `probabilities[0, 3, :5]`.  The text is parsed, never
evaluated."""

import re

import numpy as np

from ..errors import LevitError
from .records import arrays_of
from .walk import Stop, Walk

_NUMBER = r"\s*(-?\d{1,9})\s*"
_SLICE = re.compile(r"\s*(-?\d{1,9})?\s*:\s*(-?\d{1,9})?\s*(?::\s*(-?\d{1,9})?\s*)?")


def parse(text: str) -> tuple[str, tuple]:
    """`name[0, -1, 2:8:2, :, ...]` -> (name, index).  Raises LevitError for anything else."""
    name, bracket, rest = text.strip().partition("[")
    name = name.strip()
    if not re.fullmatch(r"\w+(\.\w+)*", name) or bracket and not rest.endswith("]"):
        raise LevitError(f"expected a name, then perhaps [0, 3, :5], found {text!a:.100}")
    parts = rest.removesuffix("]").split(",") if bracket else []
    return name, tuple(_part(part) for part in parts)


def _part(text: str):
    if match := re.fullmatch(_NUMBER, text):
        return int(match[1])
    if match := _SLICE.fullmatch(text):
        return slice(*(None if part is None else int(part) for part in match.groups()))
    if text.strip() == "...":
        return Ellipsis
    raise LevitError(f"expected indices like 0, -1, 2:8 or ..., found {text.strip()!a:.100}")


def arrays_at(stop: Stop, walk: Walk) -> dict[str, np.ndarray]:
    """{short name: array} of a stop: an operation's arguments and results; a layer's input, parameters and output."""
    record = stop.record
    if record is None:
        return {key: array for part in stop.parts for key, array in part.record.arrays().items()}
    if stop.is_line:
        written = arrays_of(record.values)
        return written | {key: array for key, array in arrays_of(stop.inputs).items() if key not in written}
    if stop.is_operation:
        return record.arrays()
    prefix = f"{stop.name}."
    own = {key.removeprefix(prefix): array for key, array in walk.trace.parameters.items()
           if key.startswith(prefix) and "." not in key.removeprefix(prefix)}
    if stop.direction == "forward":
        found = {"input": record.input, **own, "output": record.output}
    else:
        gradients = {f"d{key}": array for key, array in record.gradients.items()}
        found = {"doutput": record.doutput, **own, **gradients, "dinput": record.dinput}
    return {key: array for key, array in found.items() if array is not None}


def look_up(text: str, stop: Stop, walk: Walk) -> tuple[str, np.ndarray]:
    """(`text`, the value that it names).  A short name is looked up among the stop's arrays, then any name among the
    trace's.  Raises LevitError, listing names that exist."""
    name, index = parse(text)
    here, everywhere = arrays_at(stop, walk), walk.trace.arrays
    if stop.is_line:
        here = arrays_at(stop.operation, walk) | here
    array = here.get(name, everywhere.get(name))
    if array is None:
        near = [key for key in everywhere if key.endswith(f".{name}")][:3]
        raise LevitError(f"expected one of {', '.join(here)}, or a long name"
                         f"{' like ' + ', '.join(near) if near else ''}; found {name!a:.100}")
    try:
        return text.strip(), array[index]
    except (IndexError, ValueError) as error:
        raise LevitError(f"{name} has the shape {array.shape}: {error}") from None
