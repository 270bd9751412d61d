"""Matches the classes of data, network and teacher, each of which has its own order of classes."""

from collections import Counter

import numpy as np

from ..errors import LevitError, shown


def class_positions(wanted, labels, count: int, place: str) -> tuple[np.ndarray, str]:
    """(positions, note): the index of each `wanted` class name among the `count` classes of a network, int
    (len(wanted),); and a note for the user if they were matched by order although there are labels, which may be wrong,
    else "".

    They are matched by name if at least one of them is among the network's labels (None: it has none), and then all
    must be.  Names that it does not know at all, such as ImageNet's n01440764, are taken in their own order, if there
    are as many as its classes.  Raises LevitError, beginning with `place`, otherwise, and if a wanted name occurs
    twice."""
    at = {label: n for n, label in enumerate(labels or ())}
    if any(name in at for name in wanted):
        if missing := [name for name in wanted if name not in at]:
            raise LevitError(f"{place}: expected each class by its name, found none called {missing[0]!a:.100} among "
                             f"its {count}")
        counts = Counter(labels)
        if twice := [name for name in wanted if counts[name] > 1]:
            raise LevitError(f"{place}: expected each class by a name of its own, found two called "
                             f"{twice[0]!a:.100} among its {count}")
        return np.array([at[name] for name in wanted]), ""
    if len(wanted) != count:
        raise LevitError(f"{place}: expected {len(wanted)} classes, or the names of all of them among its own, found "
                         f"{count}: the first, {wanted[0]!a:.100}, is not among them")
    note = f"classes are taken in their order: {shown(wanted[0])} as {shown(labels[0])}, …" if labels else ""
    return np.arange(count), note
