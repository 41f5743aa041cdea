"""What these tests need of a machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


def check_compiler() -> None:
    """The emulated device needs g++; without it tests are skipped, but never in continuous integration."""
    if os.environ.get("MALADE_GPU_EMULATE") and not shutil.which(os.environ.get("CXX", "g++")):
        if os.environ.get("CI") == "true":
            pytest.fail("the emulated device needs g++")
        pytest.skip("the emulated device needs g++")


@pytest.fixture(scope="session", autouse=True)
def meets() -> Iterator[None]:
    """With ``MALADE_GPU_MEETS=FOLDER`` it is written down which ops and kernels the tests met."""
    folder = os.environ.get("MALADE_GPU_MEETS")
    if not folder:
        yield
        return
    from .meets import written_down

    with written_down(Path(folder)):
        yield


@pytest.fixture(autouse=True)
def compiler() -> None:
    """A compiler, if one is needed."""
    check_compiler()
