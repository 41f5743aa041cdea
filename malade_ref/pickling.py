"""Objects that compute with a backend, copied or sent to another process: the backend goes along by its name."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any


class NamesBackend:
    """Base of classes with an attribute `ops`: `copy.deepcopy` and `pickle` take its name in its place."""

    ops: Any

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, a module by its name."""
        return {**vars(self), "ops": self.ops.__name__ if isinstance(self.ops, ModuleType) else self.ops}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the attributes, a module by its name."""
        ops = state["ops"]
        vars(self).update(state, ops=import_module(ops) if isinstance(ops, str) else ops)
