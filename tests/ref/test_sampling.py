"""The purification chain: against the recursion written out, its addressing of noise, and its exact gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from malade_ref import ops, sampling
from malade_ref.layers import Flatten, Linear, Reshape
from malade_ref.network import Network, build, sdae
from malade_ref.sampling import ChainSettings, Stream, run_chain, run_chain_vjp
from tests.strategies import DTYPES
from tests.tolerances import assert_close, assert_not_mutated, directional_check

KEY = ops.derive_key(5, "test")


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def denoiser(dtype: str = "float64") -> Network:
    """A small one whose output is about grey, so that chains stay between black and white."""
    network = sdae("small", dtype=dtype)
    return network.replace_params({**network.params, "8.bias": np.array([0.5], dtype=dtype)})


def grey_images(n: int, dtype: str = "float64") -> Any:
    return (0.3 + 0.4 * rng().random((n, 1, 28, 28))).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", [False, True])
def test_the_recursion(clip: bool, dtype: str) -> None:
    """x <- clip(x + a (r(x) - x) + delta z), with the noise of (key, step, sample)."""
    network, x, samples = denoiser(dtype), grey_images(3, dtype), np.array([4, 0, 70_000])
    settings = ChainSettings(4, 0.3, 0.4, clip)
    with assert_not_mutated(x, *network.params.values()):
        positions = run_chain(x, network, settings, key=KEY, sample_index=samples)
    assert len(positions) == 5
    assert np.array_equal(positions[0], x)
    z_all = []
    for t in range(4):
        z = np.stack(
            [ops.normal((1, 28, 28), key=KEY, sample_index=np.array([i]), step=t, dtype=dtype)[0] for i in samples]
        )
        z_all.append(z)
        start = positions[t].astype("float64")
        moved = start + 0.3 * (network.astype("float64").apply(start) - start) + 0.4 * z.astype("float64")
        if clip:
            assert moved.min() < 0 < 1 < moved.max()  # there is something to clip
            moved = np.clip(moved, 0, 1)
        assert_close(positions[t + 1], moved, op="network", dtype=dtype)
    assert len({z.tobytes() for z in z_all}) == 4


def test_steps_tell_what_they_did() -> None:
    network, x, samples = denoiser(), grey_images(2), np.arange(2)
    settings = ChainSettings(2, 0.2, 0.1)
    state = sampling.init(x)
    assert state.step == 0
    for t in range(2):
        before = state.position
        state, info = sampling.step(state, network, settings, key=KEY, sample_index=samples)
        assert state.step == t + 1
        assert_close(info.residual, network.apply(before) - before, op="network")
        z = ops.normal((1, 28, 28), key=KEY, sample_index=samples, step=t, dtype="float64")
        assert np.array_equal(info.noise, z)
        moved = np.clip(before + 0.2 * info.residual + 0.1 * info.noise, 0, 1)
        assert_close(state.position, moved, op="langevin_step")
    positions = run_chain(x, network, settings, key=KEY, sample_index=samples)
    assert np.array_equal(positions[-1], state.position)


@pytest.mark.parametrize("num_steps", [0, 1, 5])
def test_gradient_of_unclipped_and_clipped_chains(num_steps: int) -> None:
    """From grey to black and white: also pixels that were cut off on the way."""
    network, x, samples = denoiser(), grey_images(2), np.array([9, 3])
    noise: Any = {"key": KEY, "sample_index": samples}
    for settings in (ChainSettings(num_steps, 0.4, 0.2, False), ChainSettings(num_steps, 0.4, 0.2, True)):
        positions = run_chain(x, network, settings, **noise)
        cut = np.isin(positions[-1], (0.0, 1.0)).mean()
        assert (0.001 < cut < 0.5) == (settings.clip and num_steps > 0)

        def vjp(dy: Any, x: Any, settings: ChainSettings = settings) -> Any:
            return run_chain_vjp(dy, run_chain(x, network, settings, **noise), network, settings, **noise)

        directional_check(lambda x, settings=settings: run_chain(x, network, settings, **noise)[-1], vjp, [x], eps=1e-4)


def test_wrong_gradients_of_chains_are_caught() -> None:
    """Each of the three ways of a chain's gradient, left out in turn."""
    network, x = denoiser(), grey_images(2)
    settings, noise = ChainSettings(3, 0.4, 0.05), {"key": KEY, "sample_index": np.arange(2)}

    def vjp(dy: Any, x: Any, identity: float, residual: float, through: float) -> Any:
        for position in reversed(run_chain(x, network, settings, **noise)[:-1]):
            _, tape = network.forward(position)
            dresidual = 0.4 * dy
            dy = identity * dy - residual * dresidual + through * network.backward(tape, dresidual)[0]
        return dy

    def check(*factors: float) -> None:
        directional_check(
            lambda x: run_chain(x, network, settings, **noise)[-1],
            lambda dy, x: vjp(dy, x, *factors),
            [x],
            eps=1e-4,
        )

    check(1, 1, 1)
    for factors in [(1.001, 1, 1), (1, 1.001, 1), (1, 1, 1.001), (1, 1, 0)]:
        with pytest.raises(AssertionError, match="is wrong"):
            check(*factors)


def test_affine_denoiser_in_closed_form() -> None:
    """With r(x) = W x + b the chain is x_N = M^N x + sum_t M^(N-1-t) (a b + delta z_t), M = (1 - a) I + a W."""
    network = build([Flatten(), Linear(4, 4), Reshape((1, 2, 2))], (1, 2, 2), initialisation="he", dtype="float64")
    W, b, x = network.params["1.weight"], rng().random(4), grey_images(3)[:, :, :2, :2]
    network = network.replace_params({**network.params, "1.bias": b})
    settings, samples = ChainSettings(6, 0.25, 0.1, False), np.array([2, 7, 1])
    positions = run_chain(x, network, settings, key=KEY, sample_index=samples)
    M = 0.75 * np.eye(4) + 0.25 * W
    expected = x.reshape(3, 4) @ np.linalg.matrix_power(M, 6).T
    for t in range(6):
        z = ops.normal((4,), key=KEY, sample_index=samples, step=t, dtype="float64")
        expected += (0.25 * b + 0.1 * z) @ np.linalg.matrix_power(M, 5 - t).T
    assert_close(positions[-1].reshape(3, 4), expected, op="network")
    dy = rng().standard_normal((3, 1, 2, 2))
    dx = run_chain_vjp(dy, positions, network, settings, key=KEY, sample_index=samples)
    assert_close(dx.reshape(3, 4), dy.reshape(3, 4) @ np.linalg.matrix_power(M, 6), op="network")


def test_streams_are_named() -> None:
    assert Stream(3, "defence") == (3, "defence")
