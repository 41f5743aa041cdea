"""Settings that hold for every test."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import HealthCheck, Phase, settings

# "ci", of `pytest --full`: the same examples at every run and no time limit for one example, so that a slow or busy
# machine cannot turn a passing test into a failing one. "short", of `pytest`, is the same with fewer examples.
# "explore" looks for new examples: pytest --hypothesis-profile=explore
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=50,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("short", settings.get_profile("ci"), max_examples=5)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
# For a CUDA device in software: all sorts of calls, not many of each.
settings.register_profile("software", settings.get_profile("ci"), max_examples=3, print_blob=True)
# For tests.mutation, which only asks whether a test fails: failing examples are not made smaller.
settings.register_profile(
    "mutation", settings.get_profile("ci"), phases=(Phase.explicit, Phase.generate), print_blob=False
)
settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="also the tests marked slow, and more examples of every property"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Before any test is imported: properties take the examples of the profile that is loaded then.
    if not config.getoption("hypothesis_profile", None):
        settings.load_profile("ci" if config.getoption("full") else "short")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests, unless all are wanted, or some are asked for by name or by mark."""
    asked = config.getoption("full") or config.getoption("markexpr") or any("::" in word for word in config.args)
    slow = [] if asked else [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


# Kernels of Numba that leave an array's bounds raise an IndexError on the emulated device. On CUDA the setting does
# nothing: there a checker of memory has to watch (compute-sanitizer, .ci/gpu --part sanitizer).
os.environ.setdefault("NUMBA_BOUNDSCHECK", "1")

# Every test trains its own networks, and none touches those of the user.
os.environ["MALADE_STORE"] = "off"

# No test opens a window.
os.environ.setdefault("MPLBACKEND", "Agg")

# Bodies of the emulated device (malade_gpu.elements) check every index here: on a GPU one that is off would go unseen.
with contextlib.suppress(ImportError):
    import numba

    numba.config.BOUNDSCHECK = 1
