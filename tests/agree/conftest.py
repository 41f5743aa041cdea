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


MEETS = os.environ.get("MALADE_GPU_MEETS")
if MEETS:
    # Before test modules take hold of ops: it is written down which ops and kernels the tests meet.
    from .meets import written_down

    noting = written_down(Path(MEETS))
    noting.__enter__()

    def pytest_sessionfinish() -> None:
        noting.__exit__(None, None, None)


# Each dtype is a kernel of its own, to be compiled: `pytest` is content with that of networks.


def pytest_itemcollected(item: pytest.Item) -> None:
    if getattr(item, "callspec", None) and item.callspec.params.get("dtype") == "float64":
        item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="package")
def fewer_kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Properties draw float32 alone, unless all is asked for."""
    config = request.config
    with pytest.MonkeyPatch.context() as monkeypatch:
        if not any(map(config.getoption, ("full", "hypothesis_profile", "markexpr"))):
            monkeypatch.setattr("tests.strategies.drawn_dtypes", ["float32"])
        yield


@pytest.fixture(autouse=True)
def compiler() -> None:
    """A compiler, if one is needed."""
    check_compiler()
