"""Mixtures of Gaussians, the Metropolis test and whole chains on both backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import malade_gpu
import malade_ref
from malade_gpu.ops import mixture as module
from malade_ref.mcmc import mala, ula, walk
from malade_ref.minimiser import minimise
from malade_ref.sampling import Stream
from tests.mixtures import Parameters, magnitudes, mixtures, points_around, random_parameters
from tests.strategies import DTYPES, dtypes, layouts, with_layout
from tests.tolerances import assert_close, assert_planted_caught, tolerance_for

from .backends import agree, complain_alike, gpu, on_device, ref, to_device

KEYS: dict[str, Any] = {"key": (1, 2), "accept_key": (3, 4)}
# Each number of dimensions is a kernel of its own, to be compiled.
DIMENSIONS = (1, 3)


def arrays_of(parameters: Parameters, dtype: str) -> Any:
    mixture = parameters.mixture(dtype=dtype)
    return mixture.arrays, mixture.labels, mixture.num_classes


@pytest.mark.slow
@given(
    mixtures(dimensions=DIMENSIONS, condition=1e4), st.sampled_from([3.0, 50.0]), dtypes(), layouts(), st.integers(0, 5)
)
def test_densities(parameters: Parameters, distance: float, dtype: str, layout: Any, n: int) -> None:
    x = with_layout(points_around(parameters, n, distance=distance).astype(dtype), layout)
    arrays, labels, num_classes = arrays_of(parameters, dtype)
    size = magnitudes(parameters, x.astype("float64"))
    value, score, hessian = size.log_density[:, None], size.score[:, None], size.hessian[:, None, None]
    for which in ({"labels": labels, "num_classes": num_classes}, {"labels": 0 * labels, "num_classes": 1}):
        agree("mixture_log_densities", x, *arrays, **which, scale=value)
        agree("mixture_scores", x, *arrays, **which, scale=(value, score))
        agree("mixture_hessians", x, *arrays, **which, scale=(value, score, hessian))
    agree("mixture_responsibilities", x, *arrays, scale=value)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_dimensions(dtype: str) -> None:
    parameters = random_parameters(3, 20, num_classes=2)
    x = points_around(parameters, 4, distance=8).astype(dtype)
    arrays, labels, _ = arrays_of(parameters, dtype)
    size = magnitudes(parameters, x.astype("float64"))
    scale = size.log_density[:, None], size.score[:, None]
    agree("mixture_scores", x, *arrays, labels=labels, num_classes=2, scale=scale)
    assert x.shape[1] > module.MOST_DIMENSIONS
    chain = {"num_steps": 5, "alpha": 0.05, "delta": 0.3, "sample_index": np.arange(4)}
    agree("mixture_chain", x, *arrays, **chain, **KEYS, scale=(10 * size.score, 1.0))
    agree("mixture_chain", x, *arrays, **chain, key=(1, 2), scale=(10 * size.score, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_beyond_the_format(dtype: str) -> None:
    arrays, labels, _ = arrays_of(random_parameters(3, 3, num_classes=2), dtype)
    x = np.full((1, 3), {"float32": 1e30, "float64": 1e200}[dtype], dtype=dtype)
    agree("mixture_scores", x, *arrays, labels=labels, num_classes=2)
    agree("mixture_responsibilities", x, *arrays)


# The Metropolis test ---------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), dtypes(), layouts(), st.sampled_from([(0, 3), (4, 1), (3, 1, 2, 3)]))
def test_metropolis(seed: int, dtype: str, layout: Any, shape: Any) -> None:
    rng = np.random.default_rng(seed)
    points = [with_layout(rng.standard_normal(shape).astype(dtype), layout) for _ in range(4)]
    values = [rng.standard_normal(shape[0]).astype(dtype) for _ in range(2)]
    agree("langevin_log_ratio", *points, *values, alpha=0.3, delta=0.7, scale=100.0)
    agree("metropolis_accept", values[0], rng.uniform(0.01, 0.99, shape[0]).astype(dtype))


def test_not_a_number_is_refused() -> None:
    ratio = np.array([np.nan, -np.inf, np.inf, 0.0])
    assert agree("metropolis_accept", ratio, np.full(4, 0.5)).tolist() == [False, False, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_walker_at_a_point_that_is_not_a_number_stays(dtype: str) -> None:
    arrays, _, _ = arrays_of(random_parameters(2, 3), dtype)
    x = np.array([[0.0, np.nan, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    chain = {"num_steps": 3, "alpha": 0.1, "delta": 0.4, "sample_index": np.arange(2)}
    position, moves = agree("mixture_chain", x, *arrays, **chain, **KEYS, scale=100.0)
    assert moves[0] == 0 < moves[1]
    np.testing.assert_array_equal(position[0], x[0])


# Chains ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", DIMENSIONS)
def test_one_step_from_the_same_state(d: int, dtype: str) -> None:
    """Who is accepted is the same, except where the ratio is within rounding of the uniform number; so is the rest."""
    n, alpha = 3000, {1: 3.0, 3: 0.5}[d]
    delta = (2 * alpha) ** 0.5
    parameters = random_parameters(4, d)
    arrays, _, _ = arrays_of(parameters, dtype)
    x = points_around(parameters, n, distance=3).astype(dtype)
    index = np.arange(n) * 1_000_003 % 2**32
    chain = {"num_steps": 1, "alpha": alpha, "delta": delta, "sample_index": index, "first_step": 7}
    position, accepted = on_device(gpu.mixture_chain)(x, *arrays, **chain, **KEYS)
    expected, expected_accepted = ref.mixture_chain(x, *arrays, **chain, **KEYS)
    # What was compared, in float64 and from the same proposal.
    wide, _, _ = arrays_of(parameters, "float64")
    labels = np.zeros(4, dtype=int)
    noise = ref.normal((d,), key=(1, 2), sample_index=index, step=7, dtype=dtype).astype("float64")
    at = x.astype("float64")
    value, score = ref.mixture_scores(at, *wide, labels, num_classes=1)
    moved = at + alpha * score[:, 0] + delta * noise
    moved_value, moved_score = ref.mixture_scores(moved, *wide, labels, num_classes=1)
    ratio = ref.langevin_log_ratio(
        *(at, moved, score[:, 0], moved_score[:, 0], value[:, 0], moved_value[:, 0]), alpha=alpha, delta=delta
    )
    level = np.log(ref.uniform((), key=(3, 4), sample_index=index, step=7, dtype=dtype).astype("float64"))
    sizes = magnitudes(parameters, at), magnitudes(parameters, moved)
    steps = 1 + delta / alpha + np.abs(noise).max(axis=1)
    size = sum(of.log_density + of.score[:, 0] * steps for of in sizes)
    relative = getattr(tolerance_for("mixture_chain"), dtype)
    clear = np.abs(ratio - level) > relative * size
    assert clear.mean() > (0.95 if dtype == "float32" else 1 - 1e-12)
    assert np.array_equal(accepted[clear], expected_accepted[clear])
    assert np.array_equal(accepted[clear], (level < ratio)[clear])
    assert 0.2 < accepted.mean() < 0.95
    same = accepted == expected_accepted
    scale = np.abs(at) + alpha * sizes[0].score + 4 * delta
    assert_close(position[same], expected[same], op="mixture_chain", dtype=dtype, scale=scale[same])
    assert np.array_equal(position[accepted == 0], x[accepted == 0])


@pytest.mark.slow
@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("keys", [KEYS, {"key": (1, 2)}], ids=["mala", "ula"])
def test_many_steps(keys: Any, d: int) -> None:
    """In float64 whole chains agree, moves included: rounding needs longer than this to grow."""
    parameters = random_parameters(4, d)
    arrays, _, _ = arrays_of(parameters, "float64")
    x = points_around(parameters, 200, distance=2)
    chain = {"num_steps": 25, "alpha": 0.3, "delta": 0.77, "sample_index": np.arange(200)[::-1]}
    agree("mixture_chain", x, *arrays, **chain, **keys, scale=1e3)
    first, moves = on_device(gpu.mixture_chain)(x, *arrays, **{**chain, "num_steps": 10}, **keys)
    second, more = on_device(gpu.mixture_chain)(first, *arrays, **{**chain, "num_steps": 15}, **keys, first_step=10)
    whole, all_moves = on_device(gpu.mixture_chain)(x, *arrays, **chain, **keys)
    assert_close(second, whole, op="mixture_chain", scale=1e3)
    assert np.array_equal(moves + more, all_moves)
    one, _ = on_device(gpu.mixture_chain)(x[7:8], *arrays, **{**chain, "sample_index": np.array([192])}, **keys)
    assert np.array_equal(one, whole[7:8])


@pytest.mark.slow
@pytest.mark.parametrize("keys", [KEYS, {"key": (1, 2)}], ids=["mala", "ula"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_and_step_by_step(dtype: str, keys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel with the chain in registers against the same steps through the device's memory."""
    parameters = random_parameters(4, 3)
    arrays, _, _ = arrays_of(parameters, dtype)
    x = points_around(parameters, 100, distance=2).astype(dtype)
    chain = {"num_steps": 10, "alpha": 0.3, "delta": 0.77, "sample_index": np.arange(100)}
    fused, moves = on_device(gpu.mixture_chain)(x, *arrays, **chain, **keys)
    monkeypatch.setattr(module, "MOST_DIMENSIONS", 0)
    stepwise, same_moves = on_device(gpu.mixture_chain)(x, *arrays, **chain, **keys)
    assert np.array_equal(moves, same_moves)
    assert_close(fused, stepwise, op="mixture_chain", dtype=dtype, scale=100.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_steps_no_walkers(dtype: str) -> None:
    arrays, _, _ = arrays_of(random_parameters(2, 3), dtype)
    x = np.ones((3, 3), dtype=dtype)
    chain = {"alpha": 0.3, "delta": 0.77}
    agree("mixture_chain", x, *arrays, num_steps=0, **chain, **KEYS, sample_index=np.arange(3), exact=True)
    agree("mixture_chain", x[:0], *arrays, num_steps=4, **chain, **KEYS, sample_index=np.arange(0), exact=True)


# Objects ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=10)
@given(mixtures(dimensions=(3,), condition=100), dtypes())
def test_the_public_object(parameters: Parameters, dtype: str) -> None:
    ours, theirs = malade_gpu.GaussianMixture(*parameters, dtype=dtype), parameters.mixture(dtype=dtype)
    assert isinstance(ours, malade_gpu.GaussianMixture)
    assert isinstance(ours.smoothed(0.1), malade_gpu.GaussianMixture)
    assert isinstance(ours, malade_ref.GaussianMixture)
    assert not isinstance(theirs, malade_gpu.GaussianMixture)
    x, y = map(gpu.to_host, ours.sample(20, seed=3))
    expected, labels = theirs.sample(20, seed=3)
    assert np.array_equal(y, labels)
    assert_close(x, expected, op="normal", dtype=dtype, scale=100.0)
    sizes = magnitudes(parameters, expected.astype("float64"))

    def same(call: Any, scale: Any) -> None:
        there = theirs.ops.asarray(expected)
        wanted = call(theirs, there)
        got = gpu.to_host(call(ours, to_device(expected)))
        scale = np.reshape(scale, (len(scale), *[1] * (wanted.ndim - 1)))
        assert_close(got, wanted, op="mixture_scores", dtype=dtype, scale=scale)

    value, score, hessian = sizes.log_density, sizes.score[:, 0], sizes.hessian[:, 0]
    same(lambda mixture, x: mixture.log_density(x), value)
    same(lambda mixture, x: mixture.score(x), score)
    same(lambda mixture, x: mixture.score_jacobian(x), hessian)
    same(lambda mixture, x: mixture.class_log_posteriors(x), 4 * value)
    same(lambda mixture, x: mixture.class_scores(x), score)
    same(lambda mixture, x: mixture.posterior_mean(x, 0.3), value + score)
    same(lambda mixture, x: mixture.posterior_covariance(x, 0.3), value + hessian)
    same(lambda mixture, x: mixture.tempered(2.0).gradients(x), 10 * score)
    same(lambda mixture, x: mixture.tempered(2.0).expand(x).hessians, 100 * hessian)


@pytest.mark.slow
def test_walks_and_minimisers() -> None:
    parameters = random_parameters(4, 3, num_classes=2)
    ours, theirs = malade_gpu.GaussianMixture(*parameters), parameters.mixture()
    x = points_around(parameters, 30, distance=2)
    for chain in (ula(0.2), mala(0.5)):
        how: dict[str, Any] = {"num_steps": 12, "seed": Stream(5, "walk"), "keep_every": 4}
        got, wanted = walk(to_device(x), ours, chain, **how), walk(x, theirs, chain, **how)
        assert np.array_equal(gpu.to_host(got.num_accepted), wanted.num_accepted)
        assert_close(gpu.to_host(got.kept), wanted.kept, op="mixture_chain", scale=100.0)
    got, wanted = (minimise(m, m.tempered(0.5), u, 0.2) for m, u in ((ours, to_device(x)), (theirs, x)))
    assert isinstance(got.position, np.ndarray)
    np.testing.assert_allclose(got.position, wanted.position, atol=1e-11)
    assert got.residual.max() < 1e-12


# What these checks see -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    parameters = random_parameters(3, 3, num_classes=2)
    arrays, labels, _ = arrays_of(parameters, dtype)
    x = points_around(parameters, 6, distance=2).astype(dtype)
    for name in ("mixture_log_densities", "mixture_scores", "mixture_hessians"):
        which = {"labels": labels, "num_classes": 2, "scale": 30.0}
        assert_planted_caught(
            lambda f, name=name, which=which: agree(name, x, *arrays, **which, op=f), getattr(gpu, name)
        )
    assert_planted_caught(
        lambda f: agree("mixture_responsibilities", x, *arrays, scale=30.0, op=f), gpu.mixture_responsibilities
    )
    chain = {"num_steps": 3, "alpha": 0.3, "delta": 0.77, "sample_index": np.arange(6), **KEYS}
    expected, moves = ref.mixture_chain(x, *arrays, **chain)

    def check_position(position_of: Any) -> None:
        assert_close(position_of(x, *arrays, **chain), expected, op="mixture_chain", dtype=dtype, scale=30.0)

    assert_planted_caught(check_position, lambda *args, **how: on_device(gpu.mixture_chain)(*args, **how)[0])
    with pytest.raises(AssertionError):
        agree("mixture_chain", x, *arrays, **chain, op=lambda *args, **how: (expected.copy(), moves + 1))
    points, values = [x, 1.5 * x, 0.5 * x, -x], [x[:, 0], x[:, 1]]
    assert_planted_caught(
        lambda f: agree("langevin_log_ratio", *points, *values, alpha=0.3, delta=0.7, op=f), gpu.langevin_log_ratio
    )


def test_complaints() -> None:
    arrays, labels, _ = arrays_of(random_parameters(3, 2), "float64")
    log_scale, means, whitening = arrays
    x = np.zeros((4, 2))
    chain = {"num_steps": 1, "alpha": 0.1, "delta": 0.1, "sample_index": np.arange(4), **KEYS}
    for name, more in (
        ("mixture_scores", {"labels": labels, "num_classes": 3}),
        ("mixture_responsibilities", {}),
        ("mixture_chain", chain),
    ):
        complain_alike(name, x[0], *arrays, **more)
        complain_alike(name, x.astype(int), *arrays, **more)
        complain_alike(name, x[:, :1], *arrays, **more)
        complain_alike(name, x.astype("float32"), *arrays, **more)
        complain_alike(name, x, log_scale[:1], means, whitening, **more)
        complain_alike(name, x, log_scale, means[:0], whitening, **more)
        complain_alike(name, x, log_scale, means, whitening[:, :1], **more)
    for name in ("mixture_log_densities", "mixture_hessians"):
        complain_alike(name, x, *arrays, labels=labels[:1], num_classes=3)
        complain_alike(name, x, *arrays, labels=labels.astype(float), num_classes=3)
        complain_alike(name, x, *arrays, labels=labels, num_classes=0)
    for bad in ({"alpha": 0}, {"delta": 0}, {"num_steps": -1}, {"first_step": -1}, {"sample_index": np.arange(3)}):
        complain_alike("mixture_chain", x, *arrays, **{**chain, **bad})
    values = np.zeros(4)
    good = {"alpha": 0.1, "delta": 0.1}
    complain_alike("langevin_log_ratio", x, x[:1], x, x, values, values, **good)
    complain_alike("langevin_log_ratio", x, x, x, x, values[:1], values, **good)
    complain_alike("langevin_log_ratio", x, x, x, x, values, values, alpha=0.1, delta=0)
    complain_alike("metropolis_accept", values, values[:1])
    complain_alike("metropolis_accept", values.astype(int), values)
