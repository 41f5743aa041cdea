"""Losses in turn, targets and images that retire, on both backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import malade_gpu
import malade_ref
from malade_ref import MALADE
from malade_ref.layers import Reshape

from .backends import to_device, to_host

SHAPE = (1, 2, 2)


def chain(package: Any) -> MALADE:
    """The same tiny chain over either backend."""
    f = package.mlp(SHAPE, 3, hidden=(4,), dtype="float64", seed=1)
    r = package.mlp(SHAPE, 4, hidden=(4,), dtype="float64", seed=2)
    r = package.Network([*r.layers, Reshape(SHAPE)], r.params, SHAPE)
    return MALADE(f, r, num_steps=1, a=0.3, delta=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_attacks(name: str) -> None:
    models = chain(malade_ref), chain(malade_gpu)
    x = np.random.default_rng(0).random((6, *SHAPE))
    y = models[0].predict(x)
    settings: dict[str, Any] = {"loss": ["margin", "ce"], "num_restarts": 2, "retire": True, "eps": 0.4, "num_steps": 2}
    settings |= {"step_size": 0.2} if name == "pgd" else {}
    settings |= {"num_draws": 2, "num_judge_draws": 2}
    for targets in (None, (y + 1) % 3):
        attack = getattr(malade_gpu.attacks, name)
        expected = attack(models[0], x, y, targets=targets, **settings)
        own = None if targets is None else to_device(targets)
        result = attack(models[1], to_device(x), to_device(y), targets=own, **settings)
        for field in ("success", "num_queries", "num_gradients"):
            np.testing.assert_array_equal(to_host(getattr(result, field)), getattr(expected, field), strict=True)
        for field in ("x_adv", "loss", "distance"):
            wanted = getattr(expected, field)
            np.testing.assert_allclose(to_host(getattr(result, field)), wanted, rtol=1e-6, atol=1e-9, err_msg=field)
