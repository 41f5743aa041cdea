"""Tables of TOML into dataclasses, strictly: an unknown key, a wrong type or a value out of range is an error.

The dataclass is the schema: its fields are the keys, their annotations the types (bool, int, float, str, a nested
dataclass, ``tuple[X, ...]`` for an array, ``dict[str, X]`` for tables by name, ``X | None`` for what may be left out),
and `setting` adds limits. A number may be a fraction in quotes: ``"8/255"``. Every complaint is one line: file, key,
what was expected.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from malade_ref.checks import InputError, check_choice, check_count, check_number, fraction
from malade_ref.storage import check_name

T = TypeVar("T")

# Metadata of a field that takes all keys that no other field takes.
REST = {"rest": True}

_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def setting(
    default: Any = dataclasses.MISSING,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    above: float = -math.inf,
    choices: Sequence[str] = (),
) -> Any:
    """Describe a key of a table: a dataclass field with limits.

    Parameters
    ----------
    default : object, optional
        Its value if left out; without one the key must be there.
    minimum, maximum, above : float
        Limits of a number, or of each number of an array.
    choices : sequence of str
        The words that are allowed, if not all.

    Returns
    -------
    dataclasses.Field
        For the body of a dataclass.
    """
    limits = {"minimum": minimum, "maximum": maximum, "above": above, "choices": choices}
    return dataclasses.field(default=default, metadata=limits)


def read_table(kind: type[T], table: Mapping[str, Any], *, file: str, where: str = "") -> T:
    """Make a dataclass of a table.

    Parameters
    ----------
    kind : type
        The dataclass.
    table : mapping
        As TOML gives it.
    file : str
        For complaints.
    where : str
        Key of the table, for complaints; the file's top by default.
    """
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(cast(Any, kind))}
    rest = next((name for name, field in fields.items() if field.metadata.get("rest")), None)
    known = [name for name in fields if name != rest]
    values: dict[str, Any] = {name: table[name] for name in known if name in table}
    unknown = {name: value for name, value in table.items() if name not in known}
    if unknown and rest is None:
        key = next(iter(unknown))
        raise InputError(f"{file}: {_join(where, key)}: unknown key; {nearest(key, known)}")
    for name in known:
        key = _join(where, name)
        if name in values:
            values[name] = _value(hints[name], values[name], fields[name].metadata, file, key)
        elif fields[name].default is dataclasses.MISSING and fields[name].default_factory is dataclasses.MISSING:
            raise InputError(f"{file}: {key}: missing; expected {_expected(hints[name])}")
    if rest is not None:
        values[rest] = {name: _with_fractions(value) for name, value in unknown.items()}
    return kind(**values)


def nearest(word: str, words: Sequence[str]) -> str:
    """Say what may have been meant.

    Parameters
    ----------
    word : str
        What was given.
    words : sequence of str
        What is known.

    Returns
    -------
    str
        ``did you mean 'x'? expected one of ...``.
    """
    close = difflib.get_close_matches(word, words, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}expected one of {', '.join(words)}" if words else "expected no key here"


def _value(kind: Any, value: Any, limits: Mapping[str, Any], file: str, key: str) -> Any:
    """One value, checked against its annotation."""
    if isinstance(kind, types.UnionType):
        kind = get_args(kind)[0]
    where = f"{file}: {key}"
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected a table, got {_found(value)}")
        return read_table(cast(Any, kind), value, file=file, where=key)
    origin = get_origin(kind)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected a table of tables, got {_found(value)}")
        of = get_args(kind)[1]
        if of is Any:
            return dict(value)
        return {
            check_slug(f"{where}", name): _value(of, item, limits, file, _join(key, name))
            for name, item in value.items()
        }
    if origin is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where}: expected an array, got {_found(value)}")
        of = get_args(kind)[0]
        return tuple(_value(of, item, limits, file, _element(key, i, item)) for i, item in enumerate(value))
    if kind is float:
        value = fraction(value)
        value = float(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if type(value) is not kind:
        raise InputError(f"{where}: expected {_expected(kind)}, got {_found(value)}")
    if kind is int:
        return check_count(where, value, minimum=int(max(limits.get("minimum", 0), -(1 << 63))))
    if kind is float:
        return check_number(where, value, **{name: limits[name] for name in _NUMBER if name in limits})
    if kind is str and limits.get("choices"):
        check_choice(where, value, limits["choices"])
    return value


_NUMBER = ("minimum", "maximum", "above")


def _with_fractions(value: Any) -> Any:
    """A setting of whatever type, in which fractions such as ``"8/255"`` are numbers."""
    if isinstance(value, list):
        return [_with_fractions(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _with_fractions(item) for key, item in value.items()}
    return fraction(value)


def check_slug(where: str, name: str) -> str:
    """Let only short names pass that can be part of a file's name.

    Parameters
    ----------
    where : str
        What is named, for the complaint.
    name : str
        Letters, digits and ``_ + = , -``.
    """
    if "/" in name or "." in name:
        raise InputError(f"{where}: expected a name of letters, digits and _+=,-; got {name!r}")
    return check_name(where, name)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _element(key: str, number: int, item: Any) -> str:
    """Name of an array's element in complaints: its own, if it has one."""
    name = item.get("name") if isinstance(item, Mapping) else None
    return f"{key}.{name}" if isinstance(name, str) else f"{key}[{number}]"


def _expected(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        kind = get_args(kind)[0]
    if get_origin(kind) is tuple:
        return "an array"
    return _WORDS.get(kind, "a table")


def _found(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "a table",
    }
    name = names.get(type(value), type(value).__name__)
    return f"{name} ({value!r})" if isinstance(value, bool | int | float | str) and len(repr(value)) < 60 else name
