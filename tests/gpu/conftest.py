"""Tests of what only a device shows. Without one they are skipped, and counted.

``MALADE_GPU_REHEARSE=1`` makes them small: on the emulated device, where only those run that make sense there, or on a
CUDA device in software.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

REHEARSAL = os.environ.get("MALADE_GPU_REHEARSE") == "1"


def why_not() -> str:
    """Why there is no CUDA device; empty if there is one."""
    if os.environ.get("MALADE_GPU_EMULATE", "0") != "0" and not REHEARSAL:
        return "needs a CUDA device (MALADE_GPU_EMULATE asks for the emulated one)"
    try:
        from malade_gpu.device import CudaDevice

        CudaDevice()
    except ValueError as error:
        return f"needs a CUDA device ({error})"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.is_relative_to(os.path.dirname(__file__))]
    reason = why_not() if here else ""
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if reason and not (REHEARSAL and item.get_closest_marker("rehearsed")):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def allocator() -> None:
    """With ``MALADE_GPU_WITHOUT_POOL=1`` every array is an allocation of its own, for checkers of memory."""
    if os.environ.get("MALADE_GPU_WITHOUT_POOL") == "1" and not why_not():
        import cupy

        cupy.cuda.set_allocator(None)


@pytest.fixture(scope="session")
def cupy() -> Any:
    """CuPy, on a machine with a device."""
    return pytest.importorskip("cupy")
