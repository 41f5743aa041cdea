"""Names of classes: what the labels 0..k-1 of a network or of data stand for.

A label is a number, and means something only together with a list of names. A network keeps its own in its metadata,
under ``class_names``; data brings its own along. Where the two meet, labels are translated by name.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from .checks import InputError

KEY = "class_names"

# Names that a message lists before it only counts them.
MAX_LISTED = 12


def check_class_names(what: str, names: Any, num_classes: int) -> tuple[str, ...]:
    """Let only names of classes pass.

    Parameters
    ----------
    what : str
        Whose they are, for the complaint.
    names : sequence of str
        The names, that of class 0 first; they may come from anybody's file.
    num_classes : int
        How many outputs there are; the last ones may have no name.

    Returns
    -------
    tuple of str
        The names, in Unicode's composed form, so that a name from any file system is the same name.

    Raises
    ------
    InputError
        If they are not distinct printable names of at most 100 characters, or too many.
    """
    good = isinstance(names, list | tuple) and all(
        isinstance(name, str) and name.isprintable() and 0 < len(name) <= 100 for name in names
    )
    if not good or not names:
        raise InputError(f"{what}: class_names: expected printable names of at most 100 characters; give such names")
    composed = tuple(unicodedata.normalize("NFC", name) for name in names)
    if len(set(composed)) < len(composed):
        raise InputError(
            f"{what}: class_names: the same name stands twice in {listed(composed)}; give each class its own"
        )
    if len(composed) > num_classes:
        raise InputError(f"{what}: class_names: {len(composed)} names for {num_classes} classes; give one for each")
    return composed


def class_names_of(network: Any, what: str = "network") -> tuple[str, ...] | None:
    """Names of a classifier's classes.

    Parameters
    ----------
    network : Network
        The classifier.
    what : str
        Its name, for the complaint.

    Returns
    -------
    tuple of str, or None
        From class 0 on; None if it keeps none.
    """
    names = network.metadata.get(KEY)
    return None if names is None else check_class_names(what, names, network.num_classes)


def with_class_names(network: Any, names: Sequence[str]) -> Any:
    """The same classifier, which keeps the names of its classes.

    Parameters
    ----------
    network : Network
        The classifier.
    names : sequence of str
        As in `check_class_names`.

    Returns
    -------
    Network
        With ``class_names`` in its metadata.
    """
    checked = check_class_names("network", list(names), network.num_classes)
    return network.replace_params(network.params, {**network.metadata, KEY: list(checked)})


def numbers_by_name(names: Sequence[str], known: Sequence[str], *, data: str, model: str) -> list[int]:
    """Numbers that a model has for the classes of data.

    Parameters
    ----------
    names : sequence of str
        Classes of the data.
    known : sequence of str
        Classes of the model, in its order.
    data, model : str
        What they are, for the complaint.

    Returns
    -------
    list of int
        For each name its place among the model's.
    """
    place = {name: number for number, name in enumerate(known)}
    composed = [unicodedata.normalize("NFC", name) for name in names]
    if any(name not in place for name in composed):
        folded = {name.casefold() for name in known}
        only_case = all(name.casefold() in folded for name in composed)
        hint = "they differ in upper and lower case: rename one side" if only_case else "rename or leave out the others"
        raise InputError(f"{data}: has the classes {listed(composed)}, but {model} knows {listed(known)}; {hint}")
    return [place[name] for name in composed]


def listed(names: Sequence[str]) -> str:
    """Some names on one line.

    Parameters
    ----------
    names : sequence of str
        The names.

    Returns
    -------
    str
        The first ones, and how many there are if that is not all.

    Examples
    --------
    >>> listed(["cat", "dog"])
    'cat, dog'
    """
    shown = ", ".join(
        name.encode("unicode_escape").decode() if not name.isprintable() else name for name in names[:MAX_LISTED]
    )
    return shown if len(names) <= MAX_LISTED else f"{shown}, ... ({len(names)} in all)"
