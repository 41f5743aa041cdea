"""What is said to somebody who hands an op arrays of another library: NumPy's, where CuPy's are needed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from malade_ref.checks import InputError

from ..device import device

LIBRARIES = {"numpy": "NumPy", "cupy": "CuPy"}
F = TypeVar("F", bound=Callable[..., Any])


def of_this_device(op: F) -> F:
    """The op, which says in one line if an array is not the device's.

    On a GPU it looks when something went wrong, so that it costs other calls nothing: no foreign array gets as far as
    a kernel there. The emulated device might take one, and always looks.

    Parameters
    ----------
    op : callable
        Of arrays, sequences and dicts of arrays, and anything else.

    Returns
    -------
    callable
        With the op's signature.
    """
    parameters = list(inspect.signature(op).parameters)

    def check(args: tuple[Any, ...], settings: dict[str, Any]) -> None:
        for name, value in _named(parameters, args, settings):
            check_is_array(name, value)

    @functools.wraps(op)
    def call(*args: Any, **settings: Any) -> Any:
        if device().emulated:
            check(args, settings)
        try:
            return op(*args, **settings)
        except Exception:
            check(args, settings)
            raise

    return call  # type: ignore[return-value]


def check_is_array(name: str, value: Any, *, must_be: bool = False) -> None:
    """Raise if a value is an array of another library than the device's.

    Parameters
    ----------
    name : str
        What to call it.
    value : object
        Maybe an array.
    must_be : bool
        Whether to raise if it is no array at all, too.

    Raises
    ------
    InputError
        If it is an array of the wrong kind.
    """
    xp = device().xp
    if isinstance(value, xp.ndarray):
        return
    is_array = hasattr(value, "__array_interface__") or hasattr(value, "__dlpack__")
    if must_be or (is_array and not isinstance(value, np.generic)):
        mend = "; malade_gpu.ops.asarray makes it one" if is_array else ""
        raise InputError(f"{name}: expected a {LIBRARIES[xp.__name__]} array, got {_kind(value)}{mend}")


def _kind(value: Any) -> str:
    """Its type, with the library's name if the type's own says too little."""
    kind = type(value)
    library = kind.__module__.split(".")[0]
    return kind.__name__ if library == "builtins" else f"{library}.{kind.__name__}"


def _named(parameters: list[str], args: tuple[Any, ...], settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Arguments by name, and what is in those that are sequences or dicts."""
    for name, value in [*zip(parameters, args, strict=False), *settings.items()]:
        if isinstance(value, list | tuple):
            yield from ((f"{name}[{i}]", one) for i, one in enumerate(value))
        elif isinstance(value, dict):
            yield from ((f"{name}[{key!r}]", one) for key, one in value.items())
        else:
            yield name, value
