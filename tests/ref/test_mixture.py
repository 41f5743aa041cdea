"""Mixtures of Gaussians against SciPy, finite differences, quadrature, and the identities they are the oracle for."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from malade_ref import GaussianMixture, ops
from malade_ref.checks import InputError
from malade_ref.ops import mixture as module
from tests.mixtures import FromArrays, Parameters, Textbook, magnitudes, mixtures, points_around, random_parameters
from tests.strategies import DTYPES
from tests.tolerances import assert_close, assert_no_alias, assert_not_mutated, assert_planted_caught

DISTANCES = st.sampled_from([3.0, 50.0])


def differences(f: Callable[[Any], Any], x: Any, *, step: float = 2e-3) -> Any:
    """Derivatives of f (n, ...) with respect to x (n, d), as a last axis: central differences of sixth order."""
    columns = []
    for direction in np.eye(x.shape[1]):
        h = step * direction
        terms = [f(x + i * h) - f(x - i * h) for i in (1, 2, 3)]
        columns.append((45 * terms[0] - 9 * terms[1] + terms[2]) / (60 * step))
    return np.stack(columns, axis=-1)


# Against the textbook --------------------------------------------------------------------------------------


def check_ops(parameters: Parameters, x: Any, dtype: str, scores: Any = None) -> None:
    """Values and gradients of the ops, by class and in all; the textbook gets the numbers that the op gets."""
    mixture = parameters.mixture(dtype=dtype)
    x = x.astype(dtype)
    inputs = x, *mixture.arrays, mixture.labels
    with assert_not_mutated(*inputs):
        values, gradients = (scores or ops.mixture_scores)(*inputs, num_classes=mixture.num_classes)
    assert_no_alias(values, *inputs)
    assert_no_alias(gradients, *inputs)
    at = x.astype("float64")
    exact, sizes = FromArrays(parameters, mixture.arrays), magnitudes(parameters, at)
    assert_close(values, exact.class_log_joints(at), op="mixture_scores", dtype=dtype, scale=sizes.log_density[:, None])
    assert_close(gradients, exact.class_scores(at), op="mixture_scores", dtype=dtype, scale=sizes.score[:, None])
    plain = ops.mixture_log_densities(*inputs, num_classes=mixture.num_classes)
    assert np.array_equal(plain, values) or scores is not None


@given(mixtures(), DISTANCES, st.sampled_from(DTYPES))
def test_ops(parameters: Parameters, distance: float, dtype: str) -> None:
    check_ops(parameters, points_around(parameters, 5, distance=distance), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    parameters = random_parameters(4, 2, num_classes=2)
    x = points_around(parameters, 6, distance=2)
    assert_planted_caught(lambda f: check_ops(parameters, x, dtype, f), ops.mixture_scores)


@given(mixtures(), DISTANCES)
def test_the_object(parameters: Parameters, distance: float) -> None:
    """The class against SciPy, whose eigenvalues and solutions lose digits in proportion to the conditioning."""
    x = points_around(parameters, 4, distance=distance)
    mixture, exact = parameters.mixture(), Textbook(parameters)
    sizes = magnitudes(parameters, x)
    tolerance = 1e-13 + 1e-15 * np.linalg.cond(parameters.covariances).max()

    def near(actual: Any, expected: Any, size: Any) -> None:
        assert actual.shape == expected.shape
        size = np.reshape(size, (len(x), *[1] * (expected.ndim - 1)))
        assert (np.abs(actual - expected) <= tolerance * size).all()

    near(mixture.log_density(x), exact.log_density(x), sizes.log_density)
    near(mixture.score(x), exact.score(x), sizes.score)
    near(mixture.class_log_posteriors(x), exact.class_log_posteriors(x), sizes.log_density)
    near(mixture.logits(x), exact.class_log_posteriors(x), sizes.log_density)
    near(mixture.class_scores(x), exact.class_scores(x), sizes.score)
    np.testing.assert_allclose(mixture.priors, np.bincount(parameters.labels, parameters.weights), rtol=1e-15)
    assert (mixture.predict(x) == mixture.logits(x).argmax(axis=1)).all()


# Safe far out ----------------------------------------------------------------------------------------------


@given(mixtures(), st.sampled_from([50.0, 1e3, 1e9]), st.sampled_from(DTYPES))
def test_nothing_overflows(parameters: Parameters, distance: float, dtype: str) -> None:
    """Warnings are errors: no overflow, no NaN, posteriors that add up to 1, at 50 standard deviations and beyond."""
    mixture = parameters.mixture(dtype=dtype)
    x = points_around(parameters, 3, distance=distance).astype(dtype)
    sigma = 0.3
    for values in (
        mixture.log_density(x),
        mixture.score(x),
        mixture.score_jacobian(x),
        mixture.class_scores(x),
        mixture.posterior_mean(x, sigma),
        mixture.posterior_covariance(x, sigma),
        *mixture.tempered(2.0).expand(x),
    ):
        assert str(values.dtype) == dtype
        assert np.isfinite(values).all()
    posteriors = np.exp(mixture.class_log_posteriors(x))
    np.testing.assert_allclose(posteriors.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_beyond_the_format(dtype: str) -> None:
    """Where the logarithm of the density itself overflows it is the lowest number, and nothing becomes NaN."""
    mixture = random_parameters(3, 2, num_classes=2).mixture(dtype=dtype)
    x = np.full((1, 2), {"float32": 1e30, "float64": 1e200}[dtype], dtype=dtype)
    assert mixture.log_density(x)[0] == np.array(module.LOWEST[dtype], dtype=dtype)
    assert np.isfinite(mixture.score(x)).all()
    np.testing.assert_allclose(np.exp(mixture.class_log_posteriors(x)).sum(), 1, rtol=1e-6)


# Derivatives -----------------------------------------------------------------------------------------------


@given(mixtures(dimensions=(1, 2, 3), condition=100), st.floats(0.3, 3), st.integers(0, 2**32 - 1))
def test_derivatives(parameters: Parameters, beta: float, seed: int) -> None:
    x = points_around(parameters, 4, distance=3, seed=seed)
    mixture = parameters.mixture()
    bias = np.random.default_rng(seed).standard_normal(mixture.num_classes)
    classifier = mixture.tempered(beta, bias)
    expansion = classifier.expand(x)
    pairs = [
        (mixture.log_density, mixture.score(x)),
        (mixture.score, mixture.score_jacobian(x)),
        (mixture.class_log_posteriors, mixture.class_scores(x) - mixture.score(x)[:, None]),
        (classifier.log_probabilities, classifier.gradients(x)),
        (classifier.log_probabilities, expansion.gradients),
        (classifier.gradients, expansion.hessians),
        (lambda x: mixture.expand(x).gradients, mixture.expand(x).hessians),
    ]
    for f, derivative in pairs:
        numeric = differences(f, x)
        assert np.abs(numeric - derivative).max() <= 1e-6 * max(1, np.abs(derivative).max())
    hessians = np.concatenate([expansion.hessians, mixture.score_jacobian(x)[:, None]], axis=1)
    np.testing.assert_array_equal(mixture.score_jacobian(x), mixture.score_jacobian(x).transpose(0, 2, 1))
    np.testing.assert_allclose(hessians, hessians.transpose(0, 1, 3, 2), atol=1e-12 * np.abs(hessians).max())


def test_wrong_derivatives_are_caught() -> None:
    parameters = random_parameters(4, 2, num_classes=2)
    mixture, x = parameters.mixture(), points_around(parameters, 4, distance=2)
    numeric, exact = differences(mixture.score, x), mixture.score_jacobian(x)
    assert np.abs(numeric - exact).max() < 1e-7
    assert np.abs(numeric - 1.001 * exact).max() > 1e-6
    inner = -np.linalg.inv(parameters.covariances).mean(axis=0)  # the Hessian without the spread of the gradients
    assert np.abs(numeric - inner).max() > 1e-2


def test_a_single_gaussian() -> None:
    parameters = random_parameters(1, 3, condition=50.0)
    x, precision = points_around(parameters, 6, distance=20), np.linalg.inv(parameters.covariances[0])
    mixture = parameters.mixture()
    np.testing.assert_allclose(mixture.score(x), -(x - parameters.means) @ precision, rtol=1e-12)
    np.testing.assert_allclose(
        mixture.score_jacobian(x), np.broadcast_to(-precision, (6, 3, 3)), rtol=1e-12, atol=1e-12
    )
    assert not mixture.class_log_posteriors(x).any()


# Identities ------------------------------------------------------------------------------------------------


@given(mixtures(condition=100), st.sampled_from([0.05, 0.3, 2.0]), DISTANCES)
def test_tweedie(parameters: Parameters, sigma: float, distance: float) -> None:
    """Mean and covariance given a noisy point, from the components' posteriors and from p_s: the same."""
    mixture = parameters.mixture()
    u = points_around(parameters, 5, distance=distance)
    smoothed = mixture.smoothed(sigma)
    sizes = magnitudes(Parameters(smoothed.weights, smoothed.means, smoothed.covariances, smoothed.labels), u)
    mean = u + sigma**2 * smoothed.score(u)
    size = np.abs(u).max() + np.abs(mixture.means).max() + sigma**2 * sizes.score
    assert (np.abs(mixture.posterior_mean(u, sigma) - mean) <= 2e-15 * size).all()
    covariance = sigma**2 * (np.eye(u.shape[1]) + sigma**2 * smoothed.score_jacobian(u))
    size = sigma**2 * (1 + sigma**2 * sizes.hessian[:, :, None])
    assert (np.abs(mixture.posterior_covariance(u, sigma) - covariance) <= 4e-15 * size).all()


def test_tweedie_to_the_last_digits() -> None:
    """At ordinary points no scale is needed."""
    parameters = random_parameters(6, 2, num_classes=3)
    mixture = parameters.mixture()
    u, _ = mixture.sample(500, seed=0)
    for sigma in (0.05, 0.3, 1.0):
        mean = mixture.posterior_mean(u, sigma)
        np.testing.assert_allclose(mean, u + sigma**2 * mixture.smoothed(sigma).score(u), rtol=0, atol=2e-14)
        wrong = u + 1.001 * sigma**2 * mixture.smoothed(sigma).score(u)
        assert np.abs(mean - wrong).max() > 1e-6
        covariance = mixture.posterior_covariance(u, sigma)
        assert np.linalg.eigvalsh(covariance).min() > 0


@given(mixtures(condition=100), DISTANCES)
def test_class_scores_average_to_the_score(parameters: Parameters, distance: float) -> None:
    """sum_y p(y | x) grad log p(y | x) = 0, at machine precision."""
    mixture = parameters.mixture()
    x = points_around(parameters, 5, distance=distance)
    posteriors = np.exp(mixture.class_log_posteriors(x))
    gradients = mixture.class_scores(x) - mixture.score(x)[:, None]
    mean = np.einsum("nk,nkd->nd", posteriors, gradients)
    assert (np.abs(mean) <= 4e-15 * magnitudes(parameters, x).score).all()
    calibrated = mixture.tempered()
    np.testing.assert_allclose(calibrated.log_probabilities(x), mixture.class_log_posteriors(x), rtol=1e-13, atol=1e-13)


def test_noise_widens_every_component() -> None:
    parameters = random_parameters(3, 2, num_classes=2)
    smoothed = parameters.mixture().smoothed(0.5)
    np.testing.assert_allclose(smoothed.covariances, parameters.covariances + 0.25 * np.eye(2), rtol=1e-15)
    x = points_around(parameters, 5, distance=2)
    assert np.array_equal(parameters.mixture().smoothed(0).score(x), parameters.mixture().score(x))


def test_normalisation() -> None:
    parameters = random_parameters(4, 1, num_classes=2, spread=3.0)
    mixture = parameters.mixture()

    def density(x: float) -> float:
        return float(np.exp(mixture.log_density(np.array([[x]]))[0]))

    nodes = sorted(parameters.means[:, 0])
    total, _ = integrate.quad(density, -40, 40, points=nodes, limit=200, epsabs=1e-12)
    assert total == pytest.approx(1, abs=1e-10)
    u, sigma = 0.7, 0.4
    evidence, _ = integrate.quad(lambda x: density(x) * stats.norm.pdf(u, x, sigma), -40, 40, points=[*nodes, u])
    first, _ = integrate.quad(lambda x: x * density(x) * stats.norm.pdf(u, x, sigma), -40, 40, points=[*nodes, u])
    point = np.array([[u]])
    assert np.exp(mixture.smoothed(sigma).log_density(point)[0]) == pytest.approx(evidence, abs=1e-9)
    assert mixture.posterior_mean(point, sigma)[0, 0] == pytest.approx(first / evidence, abs=1e-8)


# Batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "d"), [(1, 1), (6, 2), (5, 10), (3, 50)])
def test_points_do_not_mix(m: int, d: int, dtype: str) -> None:
    """A point alone gives what it gives in a batch of several blocks, up to the order in which BLAS adds up."""
    parameters = random_parameters(m, d, num_classes=min(2, m))
    mixture = parameters.mixture(dtype=dtype)
    n = 2 * module.BLOCK // (m * d) + 5
    x = points_around(parameters, n, distance=5).astype(dtype)
    values, scores = mixture.log_density_and_score(x)
    size = magnitudes(parameters, x.astype("float64"))
    for i in (0, 1, n // 2 + 3, n - 1):
        value, score = mixture.log_density_and_score(x[i : i + 1])
        assert_close(value, values[i : i + 1], op="mixture_scores", scale=size.log_density[i])
        assert_close(score, scores[i : i + 1], op="mixture_scores", scale=size.score[i])


def test_no_points() -> None:
    mixture = random_parameters(3, 2, num_classes=2).mixture()
    x = np.zeros((0, 2))
    assert mixture.log_density(x).shape == (0,)
    assert mixture.score(x).shape == (0, 2)
    assert mixture.score_jacobian(x).shape == (0, 2, 2)
    assert mixture.class_scores(x).shape == (0, 2, 2)
    assert mixture.posterior_mean(x, 0.1).shape == (0, 2)
    assert mixture.posterior_covariance(x, 0.1).shape == (0, 2, 2)
    assert [len(array) for array in mixture.sample(0, seed=0)] == [0, 0]


def test_memory_is_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides the result, two hundred thousand points take as much memory as twenty thousand."""
    monkeypatch.setenv("MALADE_NUM_THREADS", "1")
    mixture = random_parameters(8, 10).mixture()

    def beside_the_result(n: int) -> int:
        x = np.zeros((n, 10))
        mixture.score(x[:100])
        tracemalloc.start()
        result = mixture.score(x)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak - result.nbytes - 8 * n  # and the log densities

    assert beside_the_result(200_000) < 1.1 * beside_the_result(20_000)


# Points ----------------------------------------------------------------------------------------------------


def test_samples_have_the_moments() -> None:
    parameters = random_parameters(4, 3, num_classes=2)
    mixture = parameters.mixture()
    n = 40_000
    x, y = mixture.sample(n, seed=(5, "test"))
    weights, means, covariances, _ = parameters
    mean = weights @ means
    apart = means - mean
    covariance = np.einsum("k,kij->ij", weights, covariances + apart[:, :, None] * apart[:, None, :])
    assert (np.abs(x.mean(axis=0) - mean) < 4 * np.sqrt(np.diag(covariance) / n)).all()
    assert np.abs(np.cov(x.T) - covariance).max() < 0.05 * np.abs(covariance).max()
    shares = np.bincount(y, minlength=2) / n
    assert (np.abs(shares - mixture.priors) < 4 * np.sqrt(mixture.priors * (1 - mixture.priors) / n)).all()


def test_samples_of_one_dimension_have_the_distribution() -> None:
    parameters = random_parameters(3, 1, spread=3.0)
    x, y = parameters.mixture().sample(5000, seed=1)

    def below(points: Any) -> Any:
        parts = zip(*parameters[:3], strict=True)
        return sum(w * stats.norm.cdf(points, mean[0], c[0, 0] ** 0.5) for w, mean, c in parts)

    assert stats.kstest(x[:, 0], below).pvalue > 0.01
    for k in range(3):
        own = stats.norm(parameters.means[k, 0], parameters.covariances[k, 0, 0] ** 0.5)
        assert stats.kstest(x[y == k, 0], own.cdf).pvalue > 0.01


@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_are_addressed(dtype: str) -> None:
    mixture = random_parameters(4, 3).mixture(dtype=dtype)
    x, y = mixture.sample(50, seed=3)
    numbers = np.array([41, 7, 7, 0])
    some, labels = mixture.sample(4, seed=3, sample_index=numbers)
    assert np.array_equal(some, x[numbers])
    assert np.array_equal(labels, y[numbers])
    assert str(x.dtype) == dtype
    for other in ({"seed": 4}, {"seed": (3, "another")}, {"seed": 3, "draw": 1}):
        assert not np.array_equal(mixture.sample(50, **other)[0], x)


# Complaints ------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "weights": [0.5, 0.5],
    "means": np.zeros((2, 3)),
    "covariances": np.stack([np.eye(3)] * 2),
    "labels": [0, 1],
}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"weights": [0.5, 0.6]}, "weights: expected positive numbers that add up to 1, got a sum of 1.1"),
        ({"weights": [1.0, 0.0]}, "weights: expected positive"),
        ({"weights": [1.0]}, r"weights: expected shape \(2,\)"),
        ({"weights": [0.5, np.nan]}, "weights: expected finite"),
        ({"weights": ["a", "b"]}, "weights: expected numbers"),
        ({"means": np.zeros(3)}, "means: expected 2 axes"),
        ({"means": np.zeros((0, 3))}, "means: expected at least one component"),
        ({"covariances": np.eye(3)}, "covariances: expected 3 axes"),
        ({"covariances": np.ones((2, 3, 3))}, "covariances: number 0 is not positive definite"),
        ({"covariances": np.stack([np.eye(3), np.triu(np.ones((3, 3)))])}, "covariances: number 1 is not symmetric"),
        ({"labels": [0, 2]}, "labels: expected every class of 0..K-1 at least once, got 0, 2"),
        ({"labels": [0.0, 1.0]}, "labels: expected integers"),
        ({"labels": [0]}, "labels: expected shape"),
        ({"dtype": "float16"}, "dtype: expected one of"),
    ],
)
def test_complaints(bad: Any, message: str) -> None:
    GaussianMixture(**GOOD)
    with pytest.raises(InputError, match=message):
        GaussianMixture(**{**GOOD, **bad})


def test_complaints_of_methods() -> None:
    mixture = GaussianMixture(**GOOD)
    x = np.zeros((4, 3))
    for call, message in (
        (lambda: mixture.score(x[:, :2]), r"x: expected shape \(4, 3\)"),
        (lambda: mixture.score(x[0]), "x: expected 2 axes"),
        (lambda: mixture.score(x.astype("float32")), "log_scale: expected dtype float32"),
        (lambda: mixture.score(x.astype(int)), "x: expected float32 or float64"),
        (lambda: mixture.smoothed(-1), "sigma: expected"),
        (lambda: mixture.posterior_mean(x, 0), "sigma: expected"),
        (lambda: mixture.tempered(0), "beta: expected"),
        (lambda: mixture.tempered(1, [0.0]), "bias: expected shape"),
        (lambda: mixture.sample(-1, seed=0), "n: expected"),
        (lambda: mixture.sample(2, seed=0, sample_index=np.array([0, -1])), "sample_index: -1"),
    ):
        with pytest.raises(InputError, match=message):
            call()
