"""The precisions of products, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .backends import device

# Errors relative to the sum of the terms' magnitudes that a precision is allowed.
ALLOWED = {"fp32": 3e-6, "tf32x3": 1e-5, "tf32": 1e-3, "bf16": 2e-2}


@contextmanager
def set_precision(name: str) -> Iterator[None]:
    """A block in which products of float32 have this precision; skips the test on a device without it."""
    if name != "fp32" and device().capability < 80:
        pytest.skip("tensor cores of this kind exist from compute capability 8.0 on")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MALADE_GPU_PRECISION", name)
        yield
