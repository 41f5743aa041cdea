"""What computes, and how it can be set.

Settings are environment variables, so that processes started from this one have them too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from malade_ref.checks import check_choice

from ..device import MEMORY, device, memory_size
from ..precision import PRECISIONS
from ..precision import precision as current_precision

PACKAGE = Path(__file__).parents[1]


def describe_device() -> dict[str, Any]:
    """As `malade_ref.ops.describe_device`."""
    return {**device().describe(), "precision": current_precision(), "source_sha256": _source_sha256()}


@contextmanager
def device_settings(*, memory: str | None = None, precision: str | None = None) -> Iterator[None]:
    """As `malade_ref.ops.device_settings`."""
    given = {}
    if memory is not None:
        memory_size("device_memory", memory)
        given[MEMORY] = memory
    if precision is not None:
        given["MALADE_GPU_PRECISION"] = check_choice("precision", precision, PRECISIONS)
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@cache
def _source_sha256() -> str:
    """SHA-256 of the names and contents of this package's files: tells two states of a working folder apart."""
    digest = hashlib.sha256()
    for path in sorted(file for pattern in ("*.py", "*.cuh") for file in PACKAGE.rglob(pattern)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
