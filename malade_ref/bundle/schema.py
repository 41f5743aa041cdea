"""What the fields of a bundle's JSON may be: declared once, checked where a bundle is opened.

A hash says that a file is as somebody left it, not that it makes sense. A kind of value is a function that looks at a
value and complains about it in one line; tables and lists are made of such kinds::

    _table(norm=_one_of("linf", "l2"), eps=_number(minimum=0), note=_optional(_text))
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


def _complain(where: str, expected: str, value: Any) -> InputError:
    """The complaint about a field: file and key, what should be there, what is."""
    name = _WORDS.get(type(value), type(value).__name__)
    shown = f" ({value!r})" if isinstance(value, bool | float) else ""
    if isinstance(value, str) and len(value) < 60:
        shown = f" ('{printable(value)}')"
    if isinstance(value, int) and not shown and abs(value) < 1 << 63:
        shown = f" ({value})"
    return InputError(f"{printable(where)}: expected {expected}, got {name}{shown}; restore the bundle from a copy")


def _anything(where: str, value: Any) -> None:
    """Take whatever is there."""


def _flag(where: str, value: Any) -> None:
    """Take true or false."""
    if not isinstance(value, bool):
        raise _complain(where, "true or false", value)


def _text(where: str, value: Any) -> None:
    """Take a string of a sensible length."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise _complain(where, f"a string of at most {MAX_TEXT:,} characters", value)


def _slug(where: str, value: Any) -> None:
    """Take a name of letters, digits and ``_+=,-``, as experiments give them."""
    if not isinstance(value, str) or not _SLUG.fullmatch(value):
        raise _complain(where, "a name of letters, digits and _+=,-", value)


def _one_of(*words: str) -> Kind:
    """Take one of some words."""

    def check(where: str, value: Any) -> None:
        if not isinstance(value, str) or value not in words:
            raise _complain(where, f"one of {', '.join(map(repr, words))}", value)

    return check


def _number(*, minimum: float = -MAX_NUMBER, maximum: float = MAX_NUMBER) -> Kind:
    """Take a finite number within limits."""

    def check(where: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
            raise _complain(where, f"a number from {minimum:g} to {maximum:g}", value)

    return check


def _count(*, minimum: int = 0, maximum: float = MAX_NUMBER) -> Kind:
    """Take an integer from ``minimum`` on."""

    def check(where: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            limit = "on" if maximum == MAX_NUMBER else f"to {maximum:g}"
            raise _complain(where, f"an integer from {minimum} {limit}", value)

    return check


def _scalar(where: str, value: Any) -> None:
    """Take a setting: a word, a number, true or false, or nothing."""
    if value is None or isinstance(value, bool):
        return
    (_text if isinstance(value, str) else _number())(where, value)


def _setting(where: str, value: Any) -> None:
    """Take a `scalar` or a list of them."""
    for item in value if isinstance(value, list) else [value]:
        _scalar(where, item)


def _optional(kind: Kind) -> Kind:
    """Take a kind of value, or nothing."""

    def check(where: str, value: Any) -> None:
        if value is not None:
            kind(where, value)

    return check


def _list_of(kind: Kind) -> Kind:
    """Take a list of a kind of value."""

    def check(where: str, value: Any) -> None:
        if not isinstance(value, list):
            raise _complain(where, "a list", value)
        for i, item in enumerate(value):
            kind(f"{where}[{i}]", item)

    return check


def _table_of(kind: Kind, *, keys: Kind = _text) -> Kind:
    """Take a table whose values are of one kind, under names of their own."""

    def check(where: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise _complain(where, "a table", value)
        for key, item in value.items():
            keys(f"{where}: a key", key)
            kind(f"{where}.{key}", item)

    return check


def _table(_rest: Kind = _anything, /, **kinds: Kind) -> Kind:
    """Take a table with these keys, of which those that are optional may be missing; others are of kind ``_rest``."""

    def check(where: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise _complain(where, "a table", value)
        for key, kind in kinds.items():
            kind(_join(where, key), value.get(key))
        for key, item in value.items():
            if key not in kinds:
                _rest(_join(where, key), item)

    return check


def _join(where: str, key: str) -> str:
    return f"{where}{key}" if where.endswith(" ") else f"{where}.{key}"


def _positive() -> Kind:
    """Take a number above zero."""
    return _number(minimum=math.ulp(0.0))


# environment.json -----------------------------------------------------------------------------------------------------

_ENVIRONMENT_SCHEMA = _table(
    sessions=_list_of(
        _table(
            began=_text,
            ended=_optional(_text),
            environment=_table(
                malade=_optional(_text),
                source_sha256=_optional(_text),
                python=_optional(_text),
                packages=_optional(_table_of(_text)),
                device=_optional(_table(_scalar)),
                blas=_optional(_list_of(_table(architecture=_optional(_text), num_threads=_optional(_count())))),
                simd=_optional(_list_of(_text)),
            ),
        )
    ),
    timings=_table_of(_number(minimum=0)),
    warnings=_list_of(_text),
    networks=_optional(_table_of(_table(fingerprint=_text))),
    command=_optional(_text),
)

# config.json of an experiment -----------------------------------------------------------------------------------------

_METHOD = _table(method=_text, settings=_table_of(_setting))
_SEARCH = _table(attack=_METHOD, against=_optional(_one_of("classifier", "defence")), num_rounds=_optional(_count()))
_MODEL = _table(
    kind=_one_of("classifier", "denoiser"),
    name=_optional(_text),
    note=_optional(_text),
    epochs=_count(),
    batch_size=_count(),
    learning_rate=_number(minimum=0),
    schedule=_text,
    optimizer=_text,
    subset=_optional(_count()),
    init=_optional(_slug),
    teacher=_optional(_slug),
    classifier=_optional(_slug),
    sigma2=_optional(_number(minimum=0)),
    ce_weight=_optional(_number(minimum=0)),
    adversarial=_optional(_METHOD),
    objective=_optional(_text),
    beta=_optional(_number(minimum=0)),
    pairing_weight=_optional(_number(minimum=0)),
    noise=_optional(_number(minimum=0)),
    robust_check=_optional(_METHOD),
    label_smoothing=_optional(_number(minimum=0)),
    augment=_optional(_table()),
    momentum=_optional(_number(minimum=0)),
    weight_decay=_optional(_number(minimum=0)),
    clip_norm=_optional(_number(minimum=0)),
    averaging=_optional(_number(minimum=0)),
    milestones=_optional(_list_of(_number(minimum=0))),
    factor=_optional(_number(minimum=0)),
)
_FILED_MODEL = _table(
    kind=_one_of("classifier", "denoiser"),
    name=_optional(_text),
    note=_optional(_text),
    classifier=_optional(_slug),
    sigma2=_optional(_number(minimum=0)),
    file=_table(name=_text, params=_text, architecture=_text),
)
_DEFENCE = _table(
    name=_optional(_text),
    classifier=_optional(_slug),
    denoiser=_optional(_slug),
    replica_of=_optional(_slug),
    search=_optional(_SEARCH),
)
_ATTACK = _table(name=_slug, title=_optional(_text), method=_optional(_text), settings=_optional(_table_of(_setting)))
_DATA = _table(
    name=_text,
    seed=_optional(_count()),
    note=_optional(_text),
    class_names=_optional(_list_of(_text)),
    train=_optional(_count()),
    validation=_optional(_count()),
    test=_optional(_count()),
    sha256=_optional(_table_of(_text)),
)
_PUBLISHED = _table(
    table=_text,
    defence=_slug,
    attack=_text,
    norm=_optional(_text),
    eps=_optional(_number(minimum=0)),
    accuracy=_number(minimum=0, maximum=100),
)
_CERTIFY = _table(
    smoothed=_table_of(_table(name=_text), keys=_slug),
    sigma2=_positive(),
    num_estimation=_count(minimum=1),
    alpha=_number(minimum=1e-300, maximum=0.5),
    bound=_optional(_one_of("rest", "runner-up")),
    radii=_list_of(_number(minimum=0)),
)
_ROW = _table(attack=_slug, title=_text, paper=_text, scenario=_text, condition=_text)
_BLOCK = _table(
    title=_text,
    scenario=_text,
    condition=_text,
    eps=_optional(_number(minimum=0)),
    rows=_list_of(_ROW),
    own=_list_of(_slug),
    worst=_one_of("all", "transferred", "none"),
)
_EXHIBIT_TABLE = _table(
    name=_slug,
    title=_text,
    paper=_optional(_count(minimum=1)),
    columns=_list_of(_slug),
    blocks=_list_of(_BLOCK),
    note=_text,
)
_LINE = _table(defence=_slug, attack=_slug, title=_text)
_EXHIBIT_FIGURE = _table(
    name=_slug, title=_text, x=_slug, log=_flag, xlabel=_text, norm=_text, lines=_list_of(_LINE), note=_text
)
_PATHS = _table(defence=_slug, marginal=_slug, attack=_slug, eps=_number(minimum=0))
_PLATE = _table(name=_slug, title=_optional(_text))


def _any_model(where: str, value: Any) -> None:
    """A model that was trained, or taken from a file."""
    (_FILED_MODEL if isinstance(value, dict) and value.get("file") is not None else _MODEL)(where, value)


_CONFIG_SCHEMA = _table(
    name=_optional(_text),
    title=_optional(_text),
    note=_optional(_text),
    seed=_optional(_count()),
    scale=_optional(_text),
    backend=_optional(_text),
    data=_optional(_DATA),
    models=_optional(_table_of(_any_model, keys=_slug)),
    defences=_optional(_table_of(_DEFENCE, keys=_slug)),
    attacks=_optional(_list_of(_ATTACK)),
    report=_optional(_table(norm=_text, eps=_number(minimum=0))),
    paper=_optional(_list_of(_PUBLISHED)),
    certify=_optional(_CERTIFY),
    paths=_optional(_PATHS),
    sheets=_optional(_list_of(_PLATE)),
    perturbations=_optional(_list_of(_PLATE)),
    walks=_optional(_list_of(_PLATE)),
    tables=_optional(_list_of(_EXHIBIT_TABLE)),
    figures=_optional(_list_of(_EXHIBIT_FIGURE)),
)

# config.json of the laboratory on the theorem
_THEOREM_SCHEMA = _table(
    kind=_one_of("theorem"), scale=_text, seed=_count(), backend=_optional(_text), parts=_list_of(_slug)
)

# Records --------------------------------------------------------------------------------------------------------------

_CELL_SCHEMA = _table(
    defence=_slug,
    attack=_slug,
    eps=_number(minimum=0),
    norm=_optional(_text),
    method=_optional(_text),
    title=_optional(_text),
    source=_optional(_one_of("defence", "classifier", "another")),
    crafted_on=_optional(_slug),
    family=_optional(_slug),
    settings=_optional(
        _table(
            _setting,
            num_steps=_optional(_count()),
            num_draws=_optional(_count()),
            num_restarts=_optional(_count()),
            mode=_optional(_text),
        )
    ),
    cuts=_optional(_list_of(_positive())),
    cut_norm=_optional(_one_of("l2", "l1")),
)

_SHARE = _number(minimum=0, maximum=1)
_SETTINGS = _table(num_steps=_count(), a=_positive(), delta=_number(minimum=0), clip=_flag, sigma2=_positive())
_QUALITY = _table(
    kind=_one_of("classifier", "denoiser"),
    num_images=_count(minimum=1),
    accuracy=_optional(_SHARE),
    error=_optional(_number(minimum=0)),
    cross_entropy=_optional(_table_of(_number())),
)
_CHOSEN = _table(num_steps=_count(), a=_number(), delta=_number(), clip=_optional(_flag))
_FOUND = _table(
    chosen=_CHOSEN,
    criterion=_text,
    criterion_met=_optional(_flag),
    at_edge_of_grid=_list_of(_text),
    num_images=_count(),
    undefended=_table(clean=_SHARE, attacked=_SHARE),
    against=_optional(_one_of("classifier", "defence")),
    rounds=_optional(_list_of(_count(minimum=1))),
)

_NOISE = _table(
    num_samples=_optional(_count()),
    num_draws=_list_of(_count(minimum=1)),
    cosine=_list_of(_number(minimum=-1.01, maximum=1.01)),
)

_SHOWN = {"defence": _slug, "attack": _slug, "eps": _number(minimum=0)}
_SHEET = _table(
    **_SHOWN,
    rows=_count(minimum=1, maximum=400),
    columns=_count(minimum=1, maximum=400),
    num_images=_count(minimum=1),
    num_fallen=_count(),
    right=_SHARE,
    **dict.fromkeys(("linf", "l1", "l2"), _number(minimum=0)),
)
_CHAIN = _table(num_steps=_count(), a=_positive(), delta=_number(minimum=0))

# Of records that stages keep: kind of the JSON by name, of those in folders by folder.
_KNOWN = _table(
    found=_SHARE,
    found_by_search=_SHARE,
    num_problems=_count(),
    num_images=_count(),
    eps=_positive(),
    norm=_text,
)
_LADDER = _table(num_steps=_list_of(_count(minimum=1)), accuracy=_list_of(_SHARE), slope=_number(), converged=_flag)

_RECORD_SCHEMAS = {
    "quality": _table_of(_QUALITY, keys=_slug),
    "settings": _table_of(_SETTINGS, keys=_slug),
    "search": _FOUND,
    "paths": _table(chains=_table_of(_text)),
    "pictures": _anything,
    "certify": _anything,
    "sheets": _SHEET,
    "perturbations": _table(eps=_positive(), columns=_list_of(_table(**_SHOWN))),
    "walks": _table(defence=_slug, attack=_slug, chain=_CHAIN, marginal=_optional(_slug)),
    "audit": _table(
        gradient=_optional(
            _table_of(_table(relative_error=_number(), zero_share=_SHARE, num_samples=_count()), keys=_slug)
        ),
        eot=_optional(_table_of(_table_of(_NOISE), keys=_slug)),
        binarisation=_optional(_table_of(_KNOWN, keys=_slug)),
        convergence=_optional(_table_of(_LADDER)),
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
        "images": ("iu", "g"),
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
    "sheets": {"label": ("iu", "k"), "success": ("b", "k"), "x_adv": ("u", "kdhw")},
    "perturbations": {"label": ("iu", "k"), "change": ("f", "akdhw"), "success": ("b", "ak")},
    "walks": {
        "label": ("iu", "k"),
        "steps": ("iu", "t"),
        "eps": ("f", "e"),
        "success": ("b", "ek"),
        "clean": ("u", "kdhw"),
        "clean_probability": ("f", "kc"),
        "adversarial": ("u", "kdhw"),
        "adversarial_probability": ("f", "kc"),
        "malade/position": ("u", "etkdhw"),
        "malade/probability": ("f", "etkc"),
        "marginal/position": ("u", "etkdhw"),
        "marginal/probability": ("f", "etkc"),
    },
    "pictures": {
        "label": ("iu", "k"),
        "*/x_adv": ("f", "kdhw"),
        "*/probability": ("f", "kc"),
        "*/steps": ("iu", "t"),
        "*/position": ("u", "tkdhw"),
        "*/position_probability": ("f", "tkc"),
    },
}
# Of a walk that has no second chain.
OPTIONAL_ARRAYS = tuple(
    name for name in RECORD_ARRAYS["walks"] if name.startswith(("clean", "adversarial", "marginal/"))
)
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


_KINDS = {"iu": "integers", "u": "bytes", "b": "booleans", "f": "floats"}


def check_log(where: str, log: Mapping[str, Any]) -> None:
    """Look at environment.json.

    Parameters
    ----------
    where : str
        The file, for the complaint.
    log : mapping
        Its content.
    """
    _ENVIRONMENT_SCHEMA(f"{where}: ", log)


def check_config(where: str, config: Mapping[str, Any]) -> None:
    """Look at config.json, of an experiment or of the laboratory on the theorem.

    Parameters
    ----------
    where : str
        The file, for the complaint.
    config : mapping
        Its content.
    """
    (_THEOREM_SCHEMA if config.get("kind") == "theorem" else _CONFIG_SCHEMA)(f"{where}: ", config)


def check_cell(where: str, meta: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Look at the outcomes of one attack on one defence.

    Parameters
    ----------
    where : str
        The outcomes, for the complaint.
    meta : object
        What they are of.
    arrays : mapping of str to ndarray
        The outcomes.
    """
    _CELL_SCHEMA(f"{where}: ", meta)
    check_arrays(where, arrays, CELL_ARRAYS)


def check_record(where: str, stage: str, meta: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Look at what a stage kept.

    Parameters
    ----------
    where : str
        The file, for the complaint.
    stage : str
        The stage, such as ``"search/cnn+malade"``.
    meta : object
        The record's JSON.
    arrays : mapping of str to ndarray
        Its arrays.
    """
    of = stage.partition("/")[0]
    _RECORD_SCHEMAS[of](f"{where}: ", meta)
    declared = RECORD_ARRAYS.get(of, {})
    optional = [*([] if meta.get("rounds") else ["images"]), *(OPTIONAL_ARRAYS if meta.get("marginal") is None else [])]
    missing = [name for name in declared if not name.startswith("*") and name not in (*arrays, *optional)]
    if missing:
        raise InputError(f"{printable(where)}: has no array {missing[0]!r}; restore the bundle from a copy")
    check_arrays(where, arrays, declared)
