"""The same names with the same parameters and defaults in both backends."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from .backends import gpu, ref


def parameters_of(f: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]


@pytest.mark.parametrize("name", gpu.__all__)
def test_parameters(name: str) -> None:
    assert parameters_of(getattr(gpu, name)) == parameters_of(getattr(ref, name))


def test_names() -> None:
    assert gpu.__all__ == ref.__all__ == sorted(ref.__all__)


def test_a_changed_default_is_seen() -> None:
    def f(x: Any, *, step: int = 0) -> None:
        """A function."""

    def g(x: Any, *, step: int = 1) -> None:
        """The same with another default."""

    assert parameters_of(f) != parameters_of(g)
