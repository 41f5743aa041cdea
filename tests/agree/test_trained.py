"""The laboratory's networks on both backends: the same data, start, noise and classifier, and so the same network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from malade_ref.theorem.claims import Settings
from malade_ref.theorem.trained import (
    SIGMA,
    Posterior,
    Recipe,
    apply,
    dae_target,
    in_single,
    jacobian,
    noisy_points,
    train,
)
from malade_ref.theorem.worlds import three_islands
from malade_ref.training import Denoising, SupervisedDenoising

from .backends import gpu, ref

RECIPE = Recipe(points=12, steps=3, batch_size=8, learning_rate=0.01, hidden=(6, 4))


@pytest.mark.slow
def test_networks_are_trained_alike() -> None:
    results = []
    for ops in (ref, gpu):
        plane = three_islands(Settings(ops=ops))
        objective = SupervisedDenoising(SIGMA, Posterior(in_single(plane).tempered(2.0)))
        network = train(plane, objective, RECIPE, seed=5)
        assert network.ops is ops
        _, u = noisy_points(plane, 20, SIGMA, np.random.default_rng(0))
        results.append((u, apply(network, u), jacobian(network, u), dae_target(plane, u, SIGMA)))
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    # Else equal networks would mean nothing: without training, or without the classifier, they are others.
    u, learnt, *_ = results[0]
    for recipe in (replace(RECIPE, learning_rate=1e-9), RECIPE):
        other = train(three_islands(Settings()), Denoising(SIGMA), recipe, seed=5)
        assert np.abs(learnt - apply(other, u)).max() > 1e-3
