"""Complaints about input: one line each, saying what is wrong, where, and how to mend it.

Metadata (shape, dtype, range of a setting) is checked in the ops; values (NaN, pixels outside [0, 1],
labels out of range) once, where data enters a driver. Both backends share this module, so that the same
bad input raises the same exception with the same words. It needs no array library: array values are
judged by the caller's ops.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

Shape = tuple[int, ...]

# More draws, steps or restarts than this are not begun: they would end in years, or in a full memory.
MOST_WORK = 1_000_000


class InputError(ValueError):
    """Input that cannot be used; the message is one line: what, where, how to mend it."""


class OutOfMemoryError(InputError):
    """Work that does not fit into the memory, however it is cut."""


def printable(text: object, limit: int | None = None) -> str:
    r"""Text from outside (a title, a path, a reason) for a terminal or a report: one line that commands nothing.

    Parameters
    ----------
    text : object
        What is said of it is ``str(text)``.
    limit : int, optional
        Longest result, in characters; what is longer ends in dots.

    Returns
    -------
    str
        White space became single spaces. Control and escape characters, marks that change the direction of writing or
        cannot be seen, and bytes of a name that is not UTF-8 are written as escapes, such as ``\x1b``.

    Examples
    --------
    >>> print(printable("cat\x1b[31m\n"), printable("x" * 9, limit=5))
    cat\x1b[31m xx...
    """
    found = str(text) if limit is None else str(text)[: limit + 1]
    if not found.isascii() or not found.isprintable() or "  " in found:
        found = "".join(map(_visible, " ".join(found.split())))
    found = found.strip()
    return found if limit is None or len(found) <= limit else found[: limit - 3] + "..."


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return ascii(character)[1:-1] if hidden else character


def check_ndim(name: str, array: Any, ndim: int, axes: str) -> None:
    """Raise unless ``array`` has ``ndim`` axes; ``axes`` names them, as in ``"(n, c, h, w)"``."""
    if getattr(array, "ndim", None) != ndim:
        shape = getattr(array, "shape", type(array).__name__)
        raise InputError(f"{name}: expected {ndim} axes {axes}, got {shape}")


def check_shape(name: str, array: Any, shape: Sequence[int]) -> None:
    """Raise unless ``array.shape`` equals ``shape``."""
    if tuple(array.shape) != tuple(shape):
        raise InputError(f"{name}: expected shape {tuple(shape)}, got {tuple(array.shape)}")


def check_same(name: str, array: Any, other_name: str, other: Any) -> None:
    """Raise unless two arrays have the same shape and dtype."""
    check_shape(name, array, other.shape)
    if array.dtype != other.dtype:
        raise InputError(f"{name}: expected dtype {other.dtype} (that of {other_name}), got {array.dtype}")


def check_float(name: str, array: Any) -> None:
    """Raise unless ``array`` is float32 or float64."""
    if str(array.dtype) not in ("float32", "float64"):
        raise InputError(f"{name}: expected float32 or float64, got {array.dtype}; convert it with .astype")


def check_integer(name: str, array: Any) -> None:
    """Raise unless ``array`` holds integers."""
    if array.dtype.kind not in "iu":
        raise InputError(f"{name}: expected integers, got {array.dtype}")


def check_number(
    name: str,
    value: float,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Raise unless ``value`` is a finite number in [minimum, maximum] and strictly between ``above`` and ``below``."""
    bounds = [f"> {above:g}"] if above > -math.inf else []
    bounds += [f">= {minimum:g}"] if minimum > -math.inf else []
    bounds += [f"<= {maximum:g}"] if maximum < math.inf else []
    bounds += [f"< {below:g}"] if below < math.inf else []
    expected = " ".join(["a finite number", " and ".join(bounds)]).strip()
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__") or _has_axes(value):
        raise InputError(f"{name}: expected {expected}, got {_shown(value)}")
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        raise InputError(f"{name}: expected {expected}, got {_shown(value)}") from None
    if not (math.isfinite(number) and minimum <= number <= maximum and above < number < below):
        raise InputError(f"{name}: expected {expected}, got {_shown(value)}")
    return number


def _has_axes(value: object) -> bool:
    return bool(getattr(value, "ndim", None))


def _shown(value: object) -> str:
    """A value in a complaint: an array by its shape, a number of thousands of digits not at all."""
    if _has_axes(value):
        return f"an array of shape {tuple(getattr(value, 'shape', ()))}; give one number"
    try:
        return printable(repr(value), 100)
    except ValueError:
        return "an integer of thousands of digits"


def check_count(name: str, value: int, *, minimum: int = 1, maximum: int | None = None) -> int:
    """Raise unless ``value`` is an integer in [minimum, maximum]; without a maximum there is no upper limit."""
    try:
        count = None if isinstance(value, bool) else value.__index__()
    except (AttributeError, TypeError):
        count = None
    if count is None or count < minimum or (maximum is not None and count > maximum):
        limits = f">= {minimum}" + ("" if maximum is None else f" and <= {maximum}")
        raise InputError(f"{name}: expected an integer {limits}, got {_shown(value)}")
    return count


def check_work(name: str, value: int, *, minimum: int = 1) -> int:
    """Raise unless ``value`` counts draws, steps, restarts or the like: what no computer can do is a slip."""
    return check_count(name, value, minimum=minimum, maximum=MOST_WORK)


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Raise unless ``value`` is one of ``choices``."""
    if _has_axes(value) or value not in choices:
        raise InputError(f"{name}: expected one of {', '.join(choices)}; got {_shown(value)}")
    return value


def check_model(name: str, model: Any, *, needs: str = "ops") -> None:
    """Raise unless ``model`` is one of this package, by an attribute; `malade_ref.interop.wrap` makes one of others."""
    if not hasattr(model, needs):
        raise InputError(
            f"{name}: expected a model of this package, got {printable(type(model).__name__, 60)}; put "
            "malade_ref.interop.wrap around a classifier, or read a network with from_torch"
        )


def check_eps(eps: float, norm: str) -> float:
    """Raise unless a radius is a finite number >= 0, and in Linf at most 1: pixels lie in [0, 1].

    Parameters
    ----------
    eps : float
        The radius, in pixel units.
    norm : str
        Which ball.

    Returns
    -------
    float
        The radius.
    """
    eps = check_number("eps", eps, minimum=0)
    if norm == "linf" and eps > 1:
        raise InputError(f"eps: expected at most 1, since pixels lie in [0, 1], got {eps:g}; of 255 it is {eps:g}/255")
    return eps


_FRACTION = re.compile(r"\s*([0-9]+(?:[.][0-9]*)?)\s*/\s*([0-9]+(?:[.][0-9]*)?)\s*")


def fraction(value: Any) -> Any:
    """Read a fraction of two numbers, such as ``"8/255"``, which many papers mean by 8.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    object
        The quotient, if it is such a string and not by zero; else the value as it was.
    """
    found = _FRACTION.fullmatch(value) if isinstance(value, str) else None
    return float(found[1]) / float(found[2]) if found and float(found[2]) else value
