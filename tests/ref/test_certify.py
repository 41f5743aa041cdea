"""Certificates against closed forms: a linear classifier under Gaussian noise has a known radius, its distance.

With logits (w.x + b, 0) the smoothed classifier's probability of class 0 is Phi((w.x + b) / (sigma |w|)), so the radius
at full knowledge is |w.x + b| / |w| whatever sigma is: no certificate may be larger.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from malade_ref import MALADE, cnn, ops, sdae
from malade_ref.certify import (
    ABSTAINED,
    Certificates,
    certificates_of,
    certified_accuracy,
    certify,
    largest_radius,
    majority_accuracy,
    predict,
    predictions_of,
    training_sigma,
)
from malade_ref.checks import InputError
from malade_ref.layers import Conv2d, Flatten, Linear, Tanh
from malade_ref.network import Network, build
from malade_ref.statistics import even_split_p_value, lower_quantile

SHAPE = (1, 4, 4)
SIGMA = 0.3
NUM_TRIALS = 10_000
ALPHA = 0.001


def linear(weights: np.ndarray, bias: float) -> Network:
    """A classifier with logits (w.x + b, 0)."""
    params = {"1.weight": np.stack([weights, 0 * weights]), "1.bias": np.array([bias, 0.0])}
    return Network([Flatten(), Linear(weights.size, 2)], params, SHAPE)


@pytest.fixture(scope="module")
def problem() -> tuple[Network, np.ndarray, np.ndarray, np.ndarray]:
    """A linear classifier, images of which every second has pixels at 0 and 1 only, labels, and distances."""
    rng = np.random.default_rng(0)
    x = rng.random((60, *SHAPE))
    x[::2] = x[::2].round()
    weights = rng.normal(size=16)
    scores = x.reshape(len(x), -1) @ weights
    bias = -float(np.median(scores))
    label = (scores + bias < 0).astype(np.int64)
    return linear(weights, bias), x, label, np.abs(scores + bias) / np.linalg.norm(weights)


def counts_of(p: np.ndarray, num_draws: int, seed: int) -> np.ndarray:
    """Counts of two classes of which the first has probability p."""
    first = np.random.default_rng(seed).binomial(num_draws, p)
    return np.stack([first, num_draws - first], axis=1)


# The bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_lower_quantile_is_that_of_scipy_s_exact_interval(alpha: float) -> None:
    counts = np.array([0, 1, 2, 250, 499, 500])
    found = lower_quantile(counts, 500, alpha=alpha)
    for count, quantile in zip(counts.tolist(), found, strict=True):
        interval = stats.binomtest(count, 500, alternative="greater").proportion_ci(1 - alpha, method="exact")
        assert stats.norm.cdf(quantile) == pytest.approx(interval.low, abs=1e-11)  # its root finder stops there


def test_even_split_is_scipy_s_binomial_test() -> None:
    pairs = [(0, 0), (1, 0), (5, 5), (3, 8), (100, 60), (0, 30)]
    first, second = np.array(pairs).T
    expected = [stats.binomtest(a, a + b).pvalue if a + b else 1.0 for a, b in pairs]
    np.testing.assert_allclose(even_split_p_value(first, second), expected, rtol=1e-9)


def violations(radius: np.ndarray, predicted: np.ndarray, exact: np.ndarray) -> int:
    """Certificates that are wrong: too large, or for the class that is not the smoothed classifier's."""
    return int((((predicted == 0) & (radius > exact)) | (predicted == 1)).sum())


@pytest.mark.parametrize("p", [0.501, 0.6, 0.9, 0.99, 0.9995])
def test_no_certificate_is_beyond_the_known_radius(p: float) -> None:
    """Of 10,000 at alpha = 0.001 some ten may be; with alpha shared by all of them, none."""
    truth = np.full(NUM_TRIALS, p)
    exact = SIGMA * stats.norm.ppf(truth)
    selection, counts = counts_of(truth, 100, 1), counts_of(truth, 1000, 2)
    label = np.zeros(NUM_TRIALS, dtype=np.int64)

    def wrong(alpha: float) -> int:
        found = certificates_of(selection, counts, label, sigma=SIGMA, alpha=alpha)
        assert not found.radius[found.abstained].any()
        assert (found.radius[~found.abstained] > 0).all()
        return violations(found.radius, found.predicted, exact)

    assert wrong(ALPHA / NUM_TRIALS) == 0
    allowed = stats.binom.isf(1e-6, NUM_TRIALS, ALPHA)
    assert wrong(ALPHA) <= allowed
    # The estimate itself in place of its limit is caught.
    estimate = stats.norm.ppf(counts[:, 0] / 1000)
    assert violations(SIGMA * estimate.clip(0), (estimate <= 0).astype(int) * ABSTAINED, exact) > allowed


@pytest.mark.parametrize("probabilities", [(0.36, 0.35, 0.29), (0.4, 0.2, 0.2, 0.2), (0.7, 0.3), (0.97, 0.02, 0.01)])
def test_no_certificate_against_the_runner_up_is_beyond_the_known_radius(probabilities: tuple[float, ...]) -> None:
    first, second = probabilities[:2]
    exact = SIGMA * (stats.norm.ppf(first) - stats.norm.ppf(second)) / 2
    label = np.zeros(NUM_TRIALS, dtype=np.int64)
    selection, counts = (
        np.random.default_rng(seed).multinomial(n, probabilities, size=NUM_TRIALS) for seed, n in ((1, 100), (2, 1000))
    )
    found = certificates_of(selection, counts, label, sigma=SIGMA, alpha=ALPHA, bound="runner-up")
    certified = found.predicted == 0
    wrong = (certified & (found.radius > exact)) | (found.predicted > 0)
    assert wrong.sum() <= stats.binom.isf(1e-6, NUM_TRIALS, ALPHA)
    # It certifies where no class has the half of it, and otherwise next to nothing less than the published bound.
    rest = certificates_of(selection, counts, label, sigma=SIGMA, alpha=ALPHA)
    if first > 0.5:
        assert (found.radius[certified] >= 0.97 * rest.radius[certified]).all()
    else:
        assert rest.abstained.mean() > 0.99
    if first - second > 0.1:
        assert certified.mean() > 0.97
    # The estimates themselves in place of their limits are caught.
    share = counts / 1000
    plain = SIGMA * (stats.norm.ppf(share[:, 0]) - stats.norm.ppf(share[:, 1:].max(axis=1))) / 2
    assert (plain > exact).sum() > stats.binom.isf(1e-6, NUM_TRIALS, ALPHA)


def test_selecting_from_the_draws_that_estimate_is_caught() -> None:
    """Why there are two sets of draws: of two equal classes, the one that happens to lead is no majority."""
    counts = np.random.default_rng(0).multinomial(1000, np.full(2, 0.5), size=NUM_TRIALS)
    fresh = np.random.default_rng(1).multinomial(1000, np.full(2, 0.5), size=NUM_TRIALS)
    label = np.zeros(NUM_TRIALS, dtype=np.int64)
    honest = certificates_of(fresh, counts, label, sigma=SIGMA, alpha=0.05)
    biased = certificates_of(counts, counts, label, sigma=SIGMA, alpha=0.05)
    allowed = stats.binom.isf(1e-6, NUM_TRIALS, 0.05)
    assert (~honest.abstained).sum() <= allowed < (~biased.abstained).sum()


# A linear classifier, from end to end --------------------------------------------------------------------------------


def test_radii_of_a_linear_classifier(problem: Any) -> None:
    network, x, y, distance = problem
    found = certify(network, x, y, sigma=SIGMA, num_estimation=2000, alpha=1e-6)
    certain = ~found.abstained
    assert (found.predicted[certain] == y[certain]).all()
    assert (found.radius <= distance).all()
    # And they are not much smaller: within the interval's width, as long as so many draws can tell.
    most = largest_radius(sigma=SIGMA, num_estimation=2000, alpha=1e-6)
    known = distance < 0.6 * most
    assert known.sum() >= 10
    assert (found.radius[known] > distance[known] - 0.4 * SIGMA).all()
    assert (found.radius <= most).all()


def test_noise_is_not_clipped(problem: Any) -> None:
    """The counts are binomial with the known probabilities, for images at 0 and 1 as for others."""
    network, x, y, distance = problem
    num_draws = 2000
    found = certify(network, x, y, sigma=SIGMA, num_estimation=num_draws)
    right = found.counts[np.arange(len(x)), y]
    p = stats.norm.cdf(distance / SIGMA)
    # By the sum of 60 squared deviates, which clipping multiplies.
    deviates = (right - num_draws * p) / np.sqrt(num_draws * p * (1 - p))
    moderate = num_draws * (1 - p) > 5
    assert stats.chi2.sf((deviates[moderate] ** 2).sum(), moderate.sum()) > 1e-4


def test_counts_are_those_of_the_addressed_noise(problem: Any) -> None:
    network, x, y, _ = problem
    found = certify(network, x[:3], y[:3], sigma=SIGMA, num_selection=7, num_estimation=130, seed=5, stream="mine")
    for name, num_draws, counts in (("selection", 7, found.selection), ("estimation", 130, found.counts)):
        expected = np.zeros_like(counts)
        for draw in range(num_draws):
            key = ops.derive_key(5, f"mine/{name}")
            block = ops.normal((100, *SHAPE), key=key, sample_index=np.arange(3), step=draw // 100, dtype="float64")
            predicted = network.apply(x[:3] + SIGMA * block[:, draw % 100]).argmax(axis=1)
            expected[np.arange(3), predicted] += 1
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.slow
def test_accuracy_at_radius_zero_is_that_of_the_smoothed_classifier(problem: Any) -> None:
    network, x, y, distance = problem
    # So many draws can tell a probability of 0.55 from one half.
    x, y = (array[distance > SIGMA * stats.norm.ppf(0.55)] for array in (x, y))
    assert len(x) > 50
    certificates = certify(network, x, y, sigma=SIGMA, num_selection=1000, num_estimation=10_000)
    (certified,) = certified_accuracy(certificates, [0.0])
    majority = majority_accuracy(certificates)
    assert majority.value == (certificates.counts.argmax(axis=1) == y).mean()
    assert 0 <= majority.value - certified.value <= 0.02
    # Both of them near what is known: the smoothed classifier is right about every image.
    assert majority.value >= 0.98
    answers = predict(network, x, sigma=SIGMA, num_draws=2000)
    assert abs(certified.value - (answers.predicted == y).mean()) <= 0.02
    # Few draws leave more of them uncertain.
    few = certify(network, x, y, sigma=SIGMA, num_estimation=10)
    assert majority_accuracy(few).value - certified_accuracy(few, [0.0])[0].value > 0.02
    assert certified.low <= certified.value <= certified.high


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_do_not_matter(problem: Any, batch_size: int) -> None:
    network, x, y, _ = problem
    settings = {"sigma": SIGMA, "num_selection": 10, "num_estimation": 150}
    whole = certify(network, x[:7], y[:7], **settings)
    chosen = np.array([5, 2])
    parts = certify(network, x[chosen], y[chosen], batch_size=batch_size, sample_index=chosen, **settings)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one[chosen], other, strict=True)
    again = predict(network, x[chosen], sigma=SIGMA, batch_size=batch_size, sample_index=chosen, num_draws=50)
    np.testing.assert_array_equal(
        again.counts, predict(network, x[:7], sigma=SIGMA, num_draws=50).counts[chosen], strict=True
    )


def test_more_draws_begin_with_the_fewer(problem: Any) -> None:
    network, x, _, _ = problem
    few, many = (predict(network, x[:3], sigma=SIGMA, num_draws=number).counts for number in (130, 170))
    assert ((many - few) >= 0).all()
    assert ((many - few).sum(axis=1) == 40).all()


def test_streams_do_not_meet(problem: Any) -> None:
    network, x, y, distance = problem
    near = np.argsort(distance)[:5]
    found = certify(network, x[near], y[near], sigma=SIGMA, num_selection=100, num_estimation=100)
    answers = predict(network, x[near], sigma=SIGMA, num_draws=100)
    assert (found.selection != found.counts).any()
    assert (found.counts != answers.counts).any()
    other = certify(network, x[near], y[near], sigma=SIGMA, num_selection=100, num_estimation=100, seed=1)
    assert (found.counts != other.counts).any()


def test_a_denoiser_is_a_part_of_the_classifier(problem: Any) -> None:
    network, x, y, _ = problem
    denoiser = build([Conv2d(1, 1, (3, 3)), Tanh()], SHAPE, initialisation="he", seed=3, dtype="float64")
    after = {f"{int(name[0]) + 2}{name[1:]}": value for name, value in network.params.items()}
    composed = Network([*denoiser.layers, *network.layers], {**denoiser.params, **after}, SHAPE)
    settings = {"sigma": SIGMA, "num_estimation": 200}
    found = certify(network, x, y, denoiser=denoiser, **settings)
    np.testing.assert_array_equal(found.counts, certify(composed, x, y, **settings).counts)
    assert (found.counts != certify(network, x, y, **settings).counts).any()


def test_progress_rises_to_the_end(problem: Any) -> None:
    network, x, y, _ = problem
    told: list[float] = []
    settings = {"sigma": SIGMA, "batch_size": 4, "num_estimation": 300}
    certify(network, x[:10], y[:10], progress=lambda fraction, _: told.append(fraction), **settings)
    assert told == sorted(told)
    assert told[0] == 0
    assert 0.9 < told[-1] < 1


# Derived from counts -------------------------------------------------------------------------------------------------


def test_abstentions() -> None:
    selection = np.array([[9, 1], [1, 9], [9, 1], [5, 5]])
    counts = np.array([[1000, 0], [1000, 0], [530, 470], [1000, 0]])
    found = certificates_of(selection, counts, np.array([0, 1, 0, 1]), sigma=2.0, alpha=ALPHA)
    # The second selects a class that then never comes up; the third is no majority that can be told.
    assert found.abstained.tolist() == [False, True, True, False]
    assert found.predicted.tolist() == [0, ABSTAINED, ABSTAINED, 0]
    assert found.correct.tolist() == [True, False, False, False]
    assert found.radius[0] == pytest.approx(2.0 * stats.norm.ppf(ALPHA ** (1 / 1000)))
    assert found.radius[0] == largest_radius(sigma=2.0, num_estimation=1000, alpha=ALPHA)
    others = certificates_of(selection, counts, np.array([0, 1, 0, 1]), sigma=2.0, alpha=ALPHA, bound="runner-up")
    assert others.abstained.tolist() == found.abstained.tolist()
    most = largest_radius(sigma=2.0, num_estimation=1000, alpha=ALPHA, bound="runner-up")
    assert 0.995 * found.radius[0] < others.radius[0] == most < found.radius[0]
    answers = predictions_of(np.array([[10, 0, 0], [9, 1, 0], [0, 400, 600], [0, 0, 0]]), alpha=0.01)
    assert answers.predicted.tolist() == [0, ABSTAINED, 2, ABSTAINED]
    assert largest_radius(sigma=1.0, num_estimation=5, alpha=ALPHA) == 0


def test_certified_accuracy_counts_what_is_beyond() -> None:
    label = np.array([0, 0, 1, 1])
    none = np.zeros((4, 2), dtype=np.int64)
    radius = np.array([0.5, 0.0, 0.25, 1.0])
    found = Certificates(label, np.array([0, ABSTAINED, 1, 0]), radius, radius == 0, none, none)
    assert [share.value for share in certified_accuracy(found, [0.0, 0.25, 0.5])] == [0.5, 0.25, 0.0]


def test_no_images(problem: Any) -> None:
    network, x, y, _ = problem
    found = certify(network, x[:0], y[:0], sigma=SIGMA, num_estimation=10)
    assert [len(array) for array in found] == [0] * 6
    assert predict(network, x[:0], sigma=SIGMA, num_draws=10).counts.shape == (0, 2)


# Sigma, and bad input ------------------------------------------------------------------------------------------------


def trained_at(sigma: Any) -> Network:
    network = sdae("small")
    return network.replace_params(network.params, {"training": {"objective": {"name": "Denoising", "sigma": sigma}}})


def test_sigma_is_that_of_the_training() -> None:
    x, y = np.full((1, 1, 28, 28), 0.5, dtype=np.float32), np.zeros(1, dtype=np.int64)
    draws = {"num_selection": 5, "num_estimation": 20}
    found = certify(cnn("small"), x, y, denoiser=trained_at(0.3873), **draws)
    for given in (0.3873, 0.387):
        same = certify(cnn("small"), x, y, denoiser=trained_at(0.3873), sigma=given, **draws)
        assert same.radius == pytest.approx(found.radius, rel=0.01)
    with pytest.raises(InputError, match=r"expected 0\.3873, the noise that the denoiser was trained at, got 0\.5"):
        certify(cnn("small"), x, y, denoiser=trained_at(0.3873), sigma=0.5, **draws)
    assert certify(cnn("small"), x, y, denoiser=trained_at(0.3873), sigma=0.5, any_sigma=True, **draws)


@pytest.mark.parametrize("metadata", [{}, {"training": 1}, {"training": {"objective": []}}])
def test_metadata_without_sigma(metadata: dict[str, Any]) -> None:
    network = sdae("small")
    assert training_sigma(network.replace_params(network.params, metadata)) is None


@pytest.mark.parametrize("sigma", ["0.3", -1.0, 0.0, float("inf"), float("nan"), None, True])
def test_metadata_with_a_bad_sigma(sigma: Any) -> None:
    assert training_sigma(trained_at(sigma)) is None
    with pytest.raises(InputError, match="the denoiser's file does not say its own"):
        certify(cnn("small"), np.zeros((1, 1, 28, 28), np.float32), np.zeros(1, np.int64), denoiser=trained_at(sigma))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sigma": None}, "there is no denoiser; give it"),
        ({"sigma": 0.0}, "sigma: expected a finite number > 0"),
        ({"sigma": float("nan")}, "sigma: expected a finite number"),
        ({"alpha": 0.0}, "alpha: expected"),
        ({"alpha": 1.0}, "alpha: expected"),
        ({"bound": "second"}, "bound: expected"),
        ({"num_selection": 0}, "num_selection: expected an integer >= 1"),
        ({"num_estimation": 1.5}, "num_estimation: expected an integer"),
        ({"batch_size": 0}, "batch_size: expected"),
        ({"seed": -1}, "seed: expected"),
        ({"sample_index": np.arange(3)}, "sample_index"),
        ({"x": np.full((2, *SHAPE), 1.5)}, "x: "),
        ({"x": np.full((2, *SHAPE), np.nan)}, "x: "),
        ({"x": np.zeros((2, *SHAPE), np.float32)}, "x: expected float64"),
        ({"y": np.array([0, 2])}, "y: "),
        ({"y": np.array([0])}, "y: "),
        ({"denoiser": sdae("small")}, "denoiser: expected"),
        ({"denoiser": build([Tanh()], SHAPE, initialisation="he")}, "dtype and backend"),
    ],
)
def test_bad_input(problem: Any, change: dict[str, Any], complaint: str) -> None:
    network, x, y, _ = problem
    settings = {"x": x[:2], "y": y[:2], "sigma": SIGMA, "num_estimation": 10, **change}
    with pytest.raises(InputError, match=complaint) as found:
        certify(network, settings.pop("x"), settings.pop("y"), **settings)
    assert "\n" not in str(found.value)


def test_a_random_defence_is_refused() -> None:
    defended: Any = MALADE(cnn("small"), sdae("small"), num_steps=1, a=0.5, delta=0.1)
    with pytest.raises(InputError, match="expected a network, got a defence with noise of its own"):
        predict(defended, np.zeros((1, 1, 28, 28), np.float32), sigma=SIGMA)


def test_negative_radii() -> None:
    none = np.zeros((1, 2), dtype=np.int64)
    found = certificates_of(none, none, np.zeros(1, dtype=np.int64), sigma=SIGMA, alpha=ALPHA)
    assert found.abstained.all()
    with pytest.raises(InputError, match="radii: expected"):
        certified_accuracy(found, [-0.1])
