"""The sDAE's exact minimiser: stationary, lowest, counted; and the slopes that the theorem predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from malade_ref.checks import InputError
from malade_ref.minimiser import minimise
from tests.mixtures import Parameters, Textbook, mixtures, points_around, random_parameters


def classifier_of(parameters: Parameters, r: Any, beta: float, bias: Any) -> tuple[Any, Any]:
    """The textbook's log yhat and its gradients."""
    exact = Textbook(parameters)
    values = log_softmax(beta * exact.class_log_posteriors(r) + bias, axis=1)
    scores = exact.class_scores(r)
    return values, beta * (scores - np.einsum("nk,nkd->nd", np.exp(values), scores)[:, None])


def residual_of(parameters: Parameters, r: Any, u: Any, sigma: float, beta: float, bias: Any, weight: float = 1) -> Any:
    """r - E[x | u] - sigma^2 sum_y p_s(y | u) grad log yhat_y(r), from SciPy's densities and Tweedie's formula."""
    wider = parameters._replace(covariances=parameters.covariances + sigma**2 * np.eye(u.shape[1]))
    smoothed = Textbook(wider)
    mean = u + sigma**2 * smoothed.score(u)
    _, gradients = classifier_of(parameters, r, beta, bias)
    label_term = np.einsum("nk,nkd->nd", np.exp(smoothed.class_log_posteriors(u)), gradients)
    return r - mean - weight * sigma**2 * label_term


@settings(max_examples=25)
@given(
    mixtures(dimensions=(1, 2, 10), condition=10),
    st.sampled_from([0.02, 0.1, 0.4]),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(0, 2**32 - 1),
)
def test_stationary(parameters: Parameters, sigma: float, beta: float, seed: int) -> None:
    mixture = parameters.mixture()
    bias = np.random.default_rng(seed).standard_normal(mixture.num_classes)
    u = points_around(parameters, 5, distance=3, seed=seed)
    found = minimise(mixture, mixture.tempered(beta, bias), u, sigma)
    size = 1 + np.abs(u).max(axis=1)
    assert (found.residual <= 1e-12 * size).all()
    independent = residual_of(parameters, found.position, u, sigma, beta, bias)
    assert (np.abs(independent).max(axis=1) <= 1e-12 * size).all()
    assert (found.num_minima >= 1).all()
    assert np.array_equal(found.posterior_mean, mixture.posterior_mean(u, sigma))


def test_other_equations_are_not_solved() -> None:
    """The check above sees a wrong sign, a wrong weight and the DAE's minimiser."""
    parameters = random_parameters(6, 2, num_classes=3)
    mixture, sigma, bias = parameters.mixture(), 0.3, np.zeros(3)
    u, _ = mixture.sample(20, seed=0)
    found = minimise(mixture, mixture.tempered(0.5), u, sigma)
    assert np.abs(residual_of(parameters, found.position, u, sigma, 0.5, bias)).max() < 1e-13
    for weight in (-1, 1.001, 0):
        assert np.abs(residual_of(parameters, found.position, u, sigma, 0.5, bias, weight)).max() > 1e-6
    half = minimise(mixture, mixture.tempered(0.5), u, sigma, ce_weight=0.5)
    assert np.abs(residual_of(parameters, half.position, u, sigma, 0.5, bias, 0.5)).max() < 1e-13


def test_without_labels_it_is_the_denoiser() -> None:
    parameters = random_parameters(6, 3, num_classes=2)
    mixture = parameters.mixture()
    u, _ = mixture.sample(20, seed=0)
    found = minimise(mixture, mixture, u, 0.3, ce_weight=0)
    np.testing.assert_allclose(found.position, mixture.posterior_mean(u, 0.3), rtol=1e-15)
    assert (found.num_minima == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 3, 8, 11])
def test_lowest_and_counted(seed: int) -> None:
    """In one dimension a fine grid sees all minima: the lowest is returned, and none that is counted is invented."""
    parameters = random_parameters(6, 1, num_classes=3, condition=0.1, spread=2.0, seed=seed)
    mixture, sigma = parameters.mixture(), 1.0
    classifier = mixture.tempered(3.0, [1.0, -1.0, 0.0])
    u = np.linspace(-6, 6, 61)[:, None]
    found = minimise(mixture, classifier, u, sigma, thorough=True)
    posteriors = np.exp(mixture.smoothed(sigma).class_log_posteriors(u))
    grid = np.linspace(-12, 12, 24_001)[:, None]
    cross_entropy = -classifier.log_probabilities(grid)
    several = 0
    for i in range(len(u)):
        values = 0.5 * (grid[:, 0] - found.posterior_mean[i, 0]) ** 2 + sigma**2 * cross_entropy @ posteriors[i]
        assert abs(values.min() - found.objective[i]) < 1e-4
        minima = int(((values[1:-1] < values[:-2]) & (values[1:-1] < values[2:])).sum())
        assert 1 <= found.num_minima[i] <= minima
        several += minima > 1 and found.num_minima[i] == minima
    assert several >= 10


def test_slopes() -> None:
    """The score's error falls with sigma squared; the label term vanishes like it if calibrated, and stays if not."""
    parameters = random_parameters(6, 2, num_classes=3, condition=3.0, seed=1)
    mixture = parameters.mixture()
    u, _ = mixture.sample(300, seed=0)
    sigmas = np.array([0.1, 0.05, 0.025, 0.0125])
    slopes = {}
    for beta in (1.0, 0.5, 2.0):
        classifier = mixture.tempered(beta)
        posteriors = np.exp(mixture.class_log_posteriors(u))
        target = mixture.score(u) + np.einsum("nk,nkd->nd", posteriors, classifier.gradients(u))
        errors, label_terms = [], []
        for sigma in sigmas:
            found = minimise(mixture, classifier, u, sigma)
            assert (found.num_minima == 1).all()
            errors.append(np.sqrt(np.mean(((found.position - u) / sigma**2 - target) ** 2)))
            label_terms.append(np.sqrt(np.mean(((found.position - found.posterior_mean) / sigma**2) ** 2)))
        logs = np.log(sigmas)
        slopes[beta] = [np.polyfit(logs[1:], np.log(values)[1:], 1)[0] for values in (errors, label_terms)]
    for beta, (error, label_term) in slopes.items():
        assert error == pytest.approx(2, abs=0.1)
        assert label_term == pytest.approx(2 if beta == 1 else 0, abs=0.1)


def test_noisy_labels_move_the_minimiser() -> None:
    """All labels replaced: all classes pull alike."""
    parameters = random_parameters(4, 2, num_classes=2)
    mixture = parameters.mixture()
    u, _ = mixture.sample(20, seed=0)
    noisy = minimise(mixture, mixture, u, 0.3, label_noise=1.0)
    _, gradients = classifier_of(parameters, noisy.position, 1.0, np.zeros(2))
    np.testing.assert_allclose(noisy.position - noisy.posterior_mean, 0.09 * gradients.mean(axis=1), atol=1e-12)
    assert (noisy.residual < 1e-12).all()


def test_blocks_and_no_points() -> None:
    mixture = random_parameters(3, 10, num_classes=2).mixture()
    u, _ = mixture.sample(900, seed=0)
    whole = minimise(mixture, mixture, u, 0.2)
    some = minimise(mixture, mixture, u[700:702], 0.2)
    np.testing.assert_allclose(whole.position[700:702], some.position, rtol=1e-12)
    assert minimise(mixture, mixture, u[:0], 0.2).position.shape == (0, 10)


def test_complaints() -> None:
    mixture = random_parameters(3, 2).mixture()
    u = np.zeros((2, 2))
    for call, message in (
        (lambda: minimise(mixture, mixture, u, 0), "sigma: expected"),
        (lambda: minimise(mixture, mixture, u, 0.1, ce_weight=-1), "ce_weight: expected"),
        (lambda: minimise(mixture, mixture, u, 0.1, label_noise=2), "label_noise: expected"),
        (lambda: minimise(mixture, mixture, u[0], 0.1), "u: expected 2 axes"),
        (lambda: minimise(mixture, mixture, u[:, :1], 0.1), "u: expected shape"),
        (lambda: minimise(random_parameters(2, 2).mixture(), mixture, u, 0.1), "classifier: expected 2 classes"),
        (
            lambda: minimise(random_parameters(2, 2).mixture(dtype="float32"), mixture, u, 0.1),
            "mixture: expected dtype",
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()
