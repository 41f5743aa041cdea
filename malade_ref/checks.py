"""Complaints about input: one line each, saying what is wrong, where, and how to mend it.

Metadata (shape, dtype, range of a setting) is checked in the ops; values (NaN, pixels outside [0, 1],
labels out of range) once, where data enters a driver. Both backends share this module, so that the same
bad input raises the same exception with the same words. It needs no array library: array values are
judged by the caller's ops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Shape = tuple[int, ...]

# More draws, steps or restarts than this are not begun: they would end in years, or in a full memory.
MOST_WORK = 1_000_000


class InputError(ValueError):
    """Input that cannot be used; the message is one line: what, where, how to mend it."""


class OutOfMemoryError(InputError):
    """Work that does not fit into the memory, however it is cut."""


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
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise InputError(f"{name}: expected {expected}, got {value!r}")
    number = float(value)
    if not (math.isfinite(number) and minimum <= number <= maximum and above < number < below):
        raise InputError(f"{name}: expected {expected}, got {value!r}")
    return number


def check_count(name: str, value: int, *, minimum: int = 1, maximum: int | None = None) -> int:
    """Raise unless ``value`` is an integer in [minimum, maximum]; without a maximum there is no upper limit."""
    number = value.__index__() if hasattr(value, "__index__") and not isinstance(value, bool) else minimum - 1
    if number < minimum or (maximum is not None and number > maximum):
        limits = f">= {minimum}" + ("" if maximum is None else f" and <= {maximum}")
        raise InputError(f"{name}: expected an integer {limits}, got {_shown(value)}")
    return number


def check_work(name: str, value: int, *, minimum: int = 1) -> int:
    """Raise unless ``value`` counts draws, steps, restarts or the like: what no computer can do is a slip."""
    return check_count(name, value, minimum=minimum, maximum=MOST_WORK)


def _shown(value: Any) -> str:
    """A value in a complaint; Python refuses to write integers of thousands of digits."""
    many = isinstance(value, int) and value.bit_length() > 200
    return f"one of {value.bit_length()} bits" if many else repr(value)


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise InputError(f"{name}: expected one of {', '.join(choices)}; got {value!r}")
    return value
