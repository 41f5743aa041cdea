"""Synthetic digits: what the images look like in numbers, and that each depends on its own number only."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref.checks import InputError
from malade_ref.datasets import synthetic
from malade_ref.datasets.synthetic import synthetic_digits, synthetic_labels


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    return synthetic_digits(2000, seed=0, split="train")


def test_shapes_and_dtypes() -> None:
    images, labels = synthetic_digits(3, seed=1, split="test")
    assert images.shape == (3, 1, 28, 28)
    assert images.dtype == np.uint8
    assert labels.shape == (3,)
    assert labels.dtype == np.int64
    images, labels = synthetic_digits(0)
    assert images.shape == (0, 1, 28, 28)
    assert labels.shape == (0,)


# Counters --------------------------------------------------------------------------------------------------


@given(
    start=st.integers(0, 700),
    n=st.integers(1, 30),
    seed=st.sampled_from([0, 2**64 - 1]),
    split=st.sampled_from(["train"]),
)
def test_an_image_depends_on_its_number_only(start: int, n: int, seed: int, split: str) -> None:
    some = synthetic_digits(n, seed=seed, split=split, start=start)
    last = synthetic_digits(1, seed=seed, split=split, start=start + n - 1)
    np.testing.assert_array_equal(some[0][-1:], last[0])
    np.testing.assert_array_equal(some[1][-1:], last[1])


def test_chunks_do_not_show(digits: tuple[Any, Any]) -> None:
    for start in (0, synthetic.CHUNK - 3, 1500):
        images, labels = synthetic_digits(300, start=start)
        np.testing.assert_array_equal(images, digits[0][start : start + 300])
        np.testing.assert_array_equal(labels, digits[1][start : start + 300])


def test_seeds_and_splits_differ(digits: tuple[Any, Any]) -> None:
    for seed, split in ((1, "train"), (0, "validation"), (0, "test")):
        images, labels = synthetic_digits(100, seed=seed, split=split)
        same = (images == digits[0][:100]).all(axis=(1, 2, 3))
        assert not same.any()
        assert (labels != digits[1][:100]).any()


def test_labels() -> None:
    index = np.array([123456, 5, 5, 0])
    labels = synthetic_labels(index, seed=3, split="test")
    for i, label in zip(index, labels, strict=True):
        assert synthetic_digits(1, seed=3, split="test", start=int(i))[1][0] == label
    tens = synthetic_labels(np.arange(1000)).reshape(100, 10)
    np.testing.assert_array_equal(np.sort(tens, axis=1), np.tile(np.arange(10), (100, 1)))
    # In random order: each digit comes first about as often as any other.
    assert np.bincount(tens[:, 0], minlength=10).min() > 2


KNOWN_LABELS = [5, 7, 0, 6, 4, 8, 9, 2, 3, 1]
KNOWN_MEANS = [34.092, 18.823, 30.665, 38.915, 31.138, 27.31, 43.134, 41.091, 23.722, 26.362]
KNOWN_CENTRES = [221.375, 85.125, 27.5, 134.625, 101.25, 170.75, 250.625, 142.375, 144.5, 110.0]


def test_known_images() -> None:
    """The data set must not change by accident: its first labels, and how much ink is where."""
    images, labels = synthetic_digits(10, seed=0, split="train")
    assert labels.tolist() == KNOWN_LABELS
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), KNOWN_MEANS, atol=0.01)
    np.testing.assert_allclose(images[:, 0, 14, 10:18].mean(axis=1), KNOWN_CENTRES, atol=0.15)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"n": -1}, "n:"),
        ({"n": 1.5}, "n:"),
        ({"n": 1, "seed": -1}, "seed"),
        ({"n": 1, "seed": 2**64}, "seed"),
        ({"n": 1, "split": "all"}, "split"),
        ({"n": 1, "start": -1}, "start"),
        ({"n": 2, "start": 2**32 - 1}, "2**32"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError) as caught:
        synthetic_digits(**arguments)
    assert word in str(caught.value)


# Looks -----------------------------------------------------------------------------------------------------


def test_ink(digits: tuple[Any, Any]) -> None:
    """Statistics near MNIST's: mean 0.131, standard deviation 0.308, and a black margin."""
    x = digits[0] / 255
    assert 0.115 < x.mean() < 0.145
    assert 0.28 < x.std() < 0.33
    assert x.max() == 1
    assert 0.15 < (x > 0).mean() < 0.23
    peak = x.max(axis=(1, 2, 3))
    assert 0.6 < peak.min() < 0.9 < np.median(peak)  # some pens are faint, none is dry


def test_centred_in_the_box(digits: tuple[Any, Any]) -> None:
    x = digits[0][:, 0].astype(np.float64)
    index = np.arange(28)
    mass = x.sum(axis=(1, 2))
    for centre in ((x.sum(axis=2) * index).sum(axis=1) / mass, (x.sum(axis=1) * index).sum(axis=1) / mass):
        assert np.abs(centre - synthetic.CENTRE).max() < 1.5
        assert abs(centre.mean() - synthetic.CENTRE) < 0.15
    height, width = (x > 127).any(axis=2).sum(axis=1), (x > 127).any(axis=1).sum(axis=1)
    larger = np.maximum(height, width)
    assert larger.min() >= 17
    assert larger.max() <= 21


def test_no_two_alike(digits: tuple[Any, Any]) -> None:
    assert len({image.tobytes() for image in digits[0]}) == len(digits[0])
    for label in range(10):
        x = digits[0][digits[1] == label][:50].reshape(50, -1) / 255
        distance = np.linalg.norm(x[:, None] - x, axis=-1)[~np.eye(50, dtype=bool)]
        assert distance.min() > 1.5  # MNIST's nearest pairs are about as far apart


def test_learnable_and_not_trivial(digits: tuple[Any, Any]) -> None:
    """Ridge regression on the pixels does as on MNIST; on shuffled labels it must fail."""
    x, y = digits[0].reshape(2000, -1) / 255, digits[1]
    test_images, test_labels = synthetic_digits(1000, split="test")
    design = np.hstack([x, np.ones((len(x), 1))])
    probe = np.hstack([test_images.reshape(1000, -1) / 255, np.ones((1000, 1))])
    solver = np.linalg.solve(design.T @ design + 10 * np.eye(785), design.T)
    accuracy = (np.argmax(probe @ (solver @ np.eye(10)[y]), axis=1) == test_labels).mean()
    assert 0.75 < accuracy < 0.95
    shuffled = np.random.default_rng(0).permutation(y)
    assert (np.argmax(probe @ (solver @ np.eye(10)[shuffled]), axis=1) == test_labels).mean() < 0.2


def test_speed() -> None:
    synthetic_digits(10)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        synthetic_digits(512, seed=5)
        seconds.append(time.process_time() - start)
    assert 512 / min(seconds) > 2000


# Parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [text for texts in synthetic.TEMPLATES.values() for text in texts])
def test_templates(text: str) -> None:
    control, basis, taper = synthetic._parse(text)
    assert basis.shape == (synthetic.NUM_POINTS, len(control))
    np.testing.assert_allclose(basis.sum(axis=1), 1, atol=1e-12)  # a constant is its own spline
    curve = basis @ control
    # The pen passes through every control point: none is further from the curve than half a step of it.
    step = np.hypot(*np.diff(curve, axis=0).T)
    for point in control:
        assert np.hypot(*(curve - point).T).min() < 0.035
    assert np.median(step) < 0.06
    assert taper.min() == 0
    assert taper.max() == 1
    assert curve.min() > -0.1
    assert curve.max() < 1.1


def test_a_corner_is_sharp() -> None:
    """At a corner the direction jumps; without the mark the pen goes round it."""

    def sharpest(text: str) -> float:
        control, basis, _ = synthetic._parse(text)
        step = np.diff(basis @ control, axis=0)
        step = step[np.hypot(*step.T) > 1e-9]
        angle = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
        return float(np.abs(np.diff(angle)).max())

    assert sharpest("0,0 50,0 100,0 / 100,50 100,100") > 1.2
    assert sharpest("0,0 50,0 100,0 100,50 100,100") < 0.3


def test_render_against_the_formula() -> None:
    """Each pixel is the maximum over all points, near or far."""
    rng = np.random.default_rng(0)
    n, p = 3, 40
    x, y = 14 + 5 * rng.standard_normal((2, n, p)).clip(-2, 2)
    radius = rng.uniform(0.8, 2.3, (n, p))
    ink = rng.uniform(0.5, 1.2, (n, p))
    index = np.arange(28)
    distance = np.hypot(x[:, :, None, None] - index, y[:, :, None, None] - index[:, None])
    cover = np.clip((radius[:, :, None, None] - distance) / synthetic.SOFTNESS + 0.5, 0, 1)
    expected = 255 * np.minimum((cover * ink[:, :, None, None]).max(axis=1), 1)
    np.testing.assert_allclose(synthetic._render(x, y, radius, ink), expected, atol=0.5001)
