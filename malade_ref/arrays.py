"""The type of an array in code that serves every backend.

Drivers (networks, chains, attacks, training) never name an array library: they receive arrays from
``model.ops`` and hand them back. `Array` marks such a value; its shape and dtype stand in the docstring.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Array: TypeAlias = Any
