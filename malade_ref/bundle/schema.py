"""What the fields of a bundle's JSON may be: declared once, checked where a bundle is opened.

A hash says that a file is as somebody left it, not that it makes sense. A kind of value is a function that looks at a
value and complains about it in one line; tables and lists are made of such kinds::

    table(norm=one_of("linf", "l2"), eps=number(minimum=0), note=optional(text))
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError, printable

Kind = Callable[[str, Any], None]

# What is larger belongs to no run, and would take time or memory before anybody noticed.
MAX_NUMBER = 1e15
MAX_TEXT = 10_000

_WORDS: dict[type, str] = {
    type(None): "nothing",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a table",
}
_SLUG = re.compile(r"[A-Za-z0-9_+=,-]{1,100}")


def complain(where: str, expected: str, value: Any) -> InputError:
    """The complaint about a field.

    Parameters
    ----------
    where : str
        File and key.
    expected : str
        What should be there.
    value : object
        What is.

    Returns
    -------
    InputError
        One line.
    """
    name = _WORDS.get(type(value), type(value).__name__)
    shown = f" ({value!r})" if isinstance(value, bool | float) else ""
    if isinstance(value, str) and len(value) < 60:
        shown = f" ('{printable(value)}')"
    if isinstance(value, int) and not shown and abs(value) < 1 << 63:
        shown = f" ({value})"
    return InputError(f"{printable(where)}: expected {expected}, got {name}{shown}; restore the bundle from a copy")


def anything(where: str, value: Any) -> None:
    """Take whatever is there."""


def flag(where: str, value: Any) -> None:
    """Take true or false."""
    if not isinstance(value, bool):
        raise complain(where, "true or false", value)


def text(where: str, value: Any) -> None:
    """Take a string of a sensible length."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise complain(where, f"a string of at most {MAX_TEXT:,} characters", value)


def slug(where: str, value: Any) -> None:
    """Take a name of letters, digits and ``_+=,-``, as experiments give them."""
    if not isinstance(value, str) or not _SLUG.fullmatch(value):
        raise complain(where, "a name of letters, digits and _+=,-", value)


def one_of(*words: str) -> Kind:
    """Take one of some words."""

    def check(where: str, value: Any) -> None:
        if not isinstance(value, str) or value not in words:
            raise complain(where, f"one of {', '.join(map(repr, words))}", value)

    return check


def number(*, minimum: float = -MAX_NUMBER, maximum: float = MAX_NUMBER) -> Kind:
    """Take a finite number within limits."""

    def check(where: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
            raise complain(where, f"a number from {minimum:g} to {maximum:g}", value)

    return check


def count(*, minimum: int = 0) -> Kind:
    """Take an integer from ``minimum`` on."""

    def check(where: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= MAX_NUMBER:
            raise complain(where, f"an integer from {minimum} on", value)

    return check


def scalar(where: str, value: Any) -> None:
    """Take a setting: a word, a number, true or false, or nothing."""
    if value is None or isinstance(value, bool):
        return
    (text if isinstance(value, str) else number())(where, value)


def setting(where: str, value: Any) -> None:
    """Take a `scalar` or a list of them."""
    for item in value if isinstance(value, list) else [value]:
        scalar(where, item)


def optional(kind: Kind) -> Kind:
    """Take a kind of value, or nothing."""

    def check(where: str, value: Any) -> None:
        if value is not None:
            kind(where, value)

    return check


def list_of(kind: Kind) -> Kind:
    """Take a list of a kind of value."""

    def check(where: str, value: Any) -> None:
        if not isinstance(value, list):
            raise complain(where, "a list", value)
        for i, item in enumerate(value):
            kind(f"{where}[{i}]", item)

    return check


def table_of(kind: Kind, *, keys: Kind = text) -> Kind:
    """Take a table whose values are of one kind, under names of their own."""

    def check(where: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise complain(where, "a table", value)
        for key, item in value.items():
            keys(f"{where}: a key", key)
            kind(f"{where}.{key}", item)

    return check


def table(_rest: Kind = anything, /, **kinds: Kind) -> Kind:
    """Take a table with these keys; those that are optional may be missing, others may be there too.

    Parameters
    ----------
    _rest : callable
        Kind of the values under other keys.
    **kinds : callable
        Kind of value by key.

    Returns
    -------
    callable
        The kind of the table.
    """

    def check(where: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise complain(where, "a table", value)
        for key, kind in kinds.items():
            kind(_join(where, key), value.get(key))
        for key, item in value.items():
            if key not in kinds:
                _rest(_join(where, key), item)

    return check


def _join(where: str, key: str) -> str:
    return f"{where}{key}" if where.endswith(" ") else f"{where}.{key}"


def positive() -> Kind:
    """Take a number above zero."""
    return number(minimum=math.ulp(0.0))


# environment.json -----------------------------------------------------------------------------------------------------

ENVIRONMENT_SCHEMA = table(
    sessions=list_of(
        table(
            began=text,
            ended=optional(text),
            environment=table(
                malade=optional(text),
                source_sha256=optional(text),
                python=optional(text),
                packages=optional(table_of(text)),
                device=optional(table(scalar)),
            ),
        )
    ),
    timings=table_of(number(minimum=0)),
    warnings=list_of(text),
)

# config.json of an experiment -----------------------------------------------------------------------------------------

_METHOD = table(method=text, settings=table_of(setting))
_SEARCH = table(attack=_METHOD)
_MODEL = table(
    kind=one_of("classifier", "denoiser"),
    name=optional(text),
    note=optional(text),
    epochs=count(),
    batch_size=count(),
    learning_rate=number(minimum=0),
    schedule=text,
    optimizer=text,
    subset=optional(count()),
    init=optional(slug),
    teacher=optional(slug),
    classifier=optional(slug),
    sigma2=optional(number(minimum=0)),
    ce_weight=optional(number(minimum=0)),
    adversarial=optional(_METHOD),
)
_DEFENCE = table(
    name=optional(text),
    classifier=optional(slug),
    denoiser=optional(slug),
    replica_of=optional(slug),
    search=optional(_SEARCH),
)
_ATTACK = table(name=slug, title=optional(text), method=optional(text), settings=optional(table_of(setting)))
_DATA = table(
    name=text,
    seed=optional(count()),
    note=optional(text),
    class_names=optional(list_of(text)),
    train=optional(count()),
    validation=optional(count()),
    test=optional(count()),
    sha256=optional(table_of(text)),
)
_PUBLISHED = table(
    table=text,
    defence=slug,
    attack=text,
    norm=optional(text),
    eps=optional(number(minimum=0)),
    accuracy=number(minimum=0, maximum=100),
)
_CERTIFY = table(
    smoothed=table_of(table(name=text), keys=slug),
    sigma2=positive(),
    num_estimation=count(minimum=1),
    alpha=number(minimum=1e-300, maximum=0.5),
    bound=optional(one_of("rest", "runner-up")),
    radii=list_of(number(minimum=0)),
)
_PATHS = table(defence=slug, marginal=slug, attack=slug, eps=number(minimum=0))

CONFIG_SCHEMA = table(
    name=optional(text),
    title=optional(text),
    note=optional(text),
    seed=optional(count()),
    scale=optional(text),
    backend=optional(text),
    data=optional(_DATA),
    models=optional(table_of(_MODEL, keys=slug)),
    defences=optional(table_of(_DEFENCE, keys=slug)),
    attacks=optional(list_of(_ATTACK)),
    report=optional(table(norm=text, eps=number(minimum=0))),
    paper=optional(list_of(_PUBLISHED)),
    certify=optional(_CERTIFY),
    paths=optional(_PATHS),
)

# config.json of the laboratory on the theorem
THEOREM_SCHEMA = table(kind=one_of("theorem"), scale=text, seed=count(), backend=optional(text), parts=list_of(slug))

# Records --------------------------------------------------------------------------------------------------------------

CELL_SCHEMA = table(
    defence=slug,
    attack=slug,
    eps=number(minimum=0),
    norm=optional(text),
    method=optional(text),
    title=optional(text),
    source=optional(one_of("defence", "classifier")),
    settings=optional(
        table(
            setting,
            num_steps=optional(count()),
            num_draws=optional(count()),
            num_restarts=optional(count()),
            mode=optional(text),
        )
    ),
    cuts=optional(list_of(positive())),
    cut_norm=optional(one_of("l2", "l1")),
)

_SHARE = number(minimum=0, maximum=1)
_SETTINGS = table(num_steps=count(), a=positive(), delta=number(minimum=0), clip=flag, sigma2=positive())
_QUALITY = table(
    kind=one_of("classifier", "denoiser"),
    num_images=count(minimum=1),
    accuracy=optional(_SHARE),
    error=optional(number(minimum=0)),
    cross_entropy=optional(table_of(number())),
)
_CHOSEN = table(num_steps=count(), a=number(), delta=number(), clip=optional(flag))
_FOUND = table(
    chosen=_CHOSEN,
    criterion=text,
    criterion_met=optional(flag),
    at_edge_of_grid=list_of(text),
    num_images=count(),
    undefended=table(clean=_SHARE, attacked=_SHARE),
)

_NOISE = table(
    num_samples=optional(count()),
    num_draws=list_of(count(minimum=1)),
    cosine=list_of(number(minimum=-1.01, maximum=1.01)),
)

# Of records that stages keep: kind of the JSON by name, of those in folders by folder.
RECORD_SCHEMAS = {
    "quality": table_of(_QUALITY, keys=slug),
    "settings": table_of(_SETTINGS, keys=slug),
    "search": _FOUND,
    "paths": table(chains=table_of(text)),
    "pictures": anything,
    "certify": anything,
    "audit": table(
        gradient=optional(table_of(table(relative_error=number(), zero_share=_SHARE, num_samples=count()), keys=slug)),
        eot=optional(table_of(table_of(_NOISE), keys=slug)),
    ),
}

# Arrays ---------------------------------------------------------------------------------------------------------------

# By name: kinds of NumPy's dtypes, and the axes. The same letter is the same length in all arrays of a record.
CELL_ARRAYS = {
    "sample_index": ("iu", "n"),
    "correct": ("b", "nm"),
    "success": ("b", "n"),
    "distance": ("f", "n"),
    "distance_l2": ("f", "n"),
    "num_queries": ("iu", "n"),
    "num_gradients": ("iu", "n"),
}
RECORD_ARRAYS = {
    "search": {
        "num_steps": ("iu", "g"),
        **{name: ("f", "g") for name in ("a", "delta", "clean", "attacked")},
    },
    "certify": {"label": ("iu", "n"), "selection": ("iu", "nc"), "counts": ("iu", "nc")},
    "paths": {
        "label": ("iu", "k"),
        "steps": ("iu", "t"),
        "clean": ("f", "kdhw"),
        "clean_probability": ("f", "kc"),
        "*/position": ("f", "tkdhw"),
        "*/probability": ("f", "tkc"),
    },
    "pictures": {"label": ("iu", "k"), "*/x_adv": ("f", "kdhw"), "*/probability": ("f", "kc")},
}
# Distances of what was not found are infinite.
_INFINITE = ("distance", "distance_l2")


def check_arrays(where: str, arrays: Mapping[str, NDArray[Any]], declared: Mapping[str, tuple[str, str]]) -> None:
    """Raise unless arrays are as declared, as far as they are there.

    Parameters
    ----------
    where : str
        The record, for the complaint.
    arrays : mapping of str to ndarray
        The arrays; what is not declared may be anything.
    declared : mapping
        `CELL_ARRAYS`, or one of `RECORD_ARRAYS`; ``*/`` stands for any name before the last.

    Raises
    ------
    InputError
        Naming the array, what was expected and what it is.
    """
    lengths: dict[str, int] = {}
    for name, array in arrays.items():
        found = declared.get(name) or declared.get(f"*/{name.rpartition('/')[2]}")
        if found is None:
            continue
        kinds, axes = found
        expected = f"axes {tuple(lengths.get(axis, axis) for axis in axes)} of {_KINDS[kinds]}"
        fits = array.dtype.kind in kinds and array.ndim == len(axes) and 0 not in array.shape
        if not fits or any(lengths.setdefault(*pair) != pair[1] for pair in zip(axes, array.shape, strict=True)):
            got = f"{array.dtype} {array.shape}"
            raise InputError(
                f"{printable(where)}: {name}: expected {expected}, got {got}; restore the bundle from a copy"
            )
        if kinds == "f" and not (np.isfinite(array) | (np.isinf(array) & (name in _INFINITE))).all():
            raise InputError(f"{printable(where)}: {name}: holds what is not a finite number; restore it from a copy")


_KINDS = {"iu": "integers", "b": "booleans", "f": "floats"}
