"""Whose class is which: data, a network and a teacher each have an order of classes of their own."""

from collections import Counter

import numpy as np

from ..errors import LevitError, shown


def class_positions(wanted, labels, count: int, place: str) -> tuple[np.ndarray, bool]:
    """Where each of the `wanted` class names stands among the `count` classes of a network, int (len(wanted),); and
    whether they were found by name.

    By name where one of them is among the labels (None: the network has no names), and then all must be.  Names that
    it does not know at all, such as ImageNet's n01440764, are taken in their own order, if they are as many as its
    classes.  Raises LevitError, beginning with `place`, else, and where two of them have a name that is wanted."""
    at = {label: n for n, label in enumerate(labels or ())}
    if any(name in at for name in wanted):
        if missing := [name for name in wanted if name not in at]:
            raise LevitError(f"{place}: expected each class by its name, found none called {missing[0]!a:.100} among "
                             f"its {count}")
        counts = Counter(labels)
        if twice := [name for name in wanted if counts[name] > 1]:
            raise LevitError(f"{place}: expected each class by a name of its own, found two called "
                             f"{twice[0]!a:.100} among its {count}")
        return np.array([at[name] for name in wanted]), True
    if len(wanted) != count:
        raise LevitError(f"{place}: expected {len(wanted)} classes, or the names of all of them among its own, found "
                         f"{count}: the first, {wanted[0]!a:.100}, is not among them")
    return np.arange(count), False


def order_note(wanted, labels, named: bool) -> str:
    """What a user should know where `class_positions` took names in their order (not named), as that may be another; or ""."""
    return "" if named or not labels else (f"classes are taken in their order: {shown(wanted[0])} as "
                                           f"{shown(labels[0])}, …")
