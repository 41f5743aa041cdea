"""The defended classifier: what a sample gets does not depend on its company, and its gradients are what they say."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from malade_ref import ops
from malade_ref.checks import InputError
from malade_ref.defence import MALADE, MODES
from malade_ref.layers import Conv2d, Flatten, Linear, Reshape, Tanh
from malade_ref.network import Network, build, cnn, loss_ops, mlp, sdae
from malade_ref.sampling import Stream
from tests.strategies import DTYPES
from tests.tolerances import assert_close, assert_no_alias, assert_not_mutated, directional_check

ATTACKER = Stream(11, "attack-pgd")


def rng() -> np.random.Generator:
    return np.random.default_rng(6)


def images(n: int, dtype: str = "float64") -> Any:
    return rng().random((n, 1, 28, 28)).astype(dtype)


def grey_images(n: int, dtype: str = "float64") -> Any:
    return (0.3 + 0.4 * rng().random((n, 1, 28, 28))).astype(dtype)


def labels(n: int) -> Any:
    return rng().integers(0, 10, n)


def defended(dtype: str = "float64", *, classifier: str = "cnn", **settings: Any) -> MALADE:
    """A denoiser whose output is about grey, so that chains stay between black and white where noise is weak."""
    denoiser = sdae("small", dtype=dtype)
    denoiser = denoiser.replace_params({**denoiser.params, "8.bias": np.array([0.5], dtype=dtype)})
    # The smooth classifier is for finite differences through many steps.
    smooth = mlp((1, 28, 28), 10, hidden=(16,), dtype=dtype)
    f = cnn("small", dtype=dtype) if classifier == "cnn" else smooth
    return MALADE(f, denoiser, **{"num_steps": 3, "a": 0.3, "delta": 0.2, "seed": 1, **settings})


# Company does not matter ------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_do_not_know_their_company(dtype: str, clip: bool) -> None:
    """f(X)[i] equals f(X[i:i+1]), by the sample's number; also shuffled, cut into shards, and elsewhere in a batch."""
    model = defended(dtype, clip=clip)
    x, samples = images(40, dtype), rng().permutation(1000)[:40]
    for i in (0, 17, 39):
        one = {"sample_index": samples[i : i + 1], "num_draws": 2}
        alone, together = model.logits(x[i : i + 1], **one), model.logits(x, num_draws=2, sample_index=samples)
        assert_close(alone, together[i : i + 1], op="chain", scale=np.abs(together).max())
    order = rng().permutation(40)
    whole = model.purify(x, sample_index=samples)
    assert_close(model.purify(x[order], sample_index=samples[order]), whole[order], op="chain")
    shards = [model.purify(x[part], sample_index=samples[part]) for part in (slice(0, 7), slice(7, 40))]
    assert_close(np.concatenate(shards), whole, op="chain")
    assert_close(model.path(x, sample_index=samples)[-1], whole, op="chain")


@pytest.mark.parametrize(
    ("mode", "expectation"), [("exact", "loss"), ("exact", "logits"), ("bpda", "loss"), ("bpda-denoiser", "loss")]
)
def test_gradients_do_not_know_their_company(mode: str, expectation: str) -> None:
    model, x, y = defended(), images(20), labels(20)
    samples, settings = np.arange(100, 120), {"mode": mode, "expectation": expectation, "num_draws": 2}
    whole = model.loss_gradient(x, y, **settings, sample_index=samples)
    for i in (0, 10, 19):
        part = slice(i, i + 1)
        alone = model.loss_gradient(x[part], y[part], **settings, sample_index=samples[part])
        assert_close(alone, whole[part], op="chain", scale=np.abs(whole).max())


def test_noise_is_the_samples_own_bit_for_bit() -> None:
    """A chain of one step without a denoiser's pull shows its noise: (x_1 - x) / delta."""
    flat = build([Conv2d(1, 1, (1, 1))], (1, 28, 28), initialisation="he")
    identity = flat.replace_params({"0.weight": np.ones((1, 1, 1, 1), "float32"), "0.bias": np.zeros(1, "float32")})
    model = MALADE(cnn("small"), identity, num_steps=1, a=1.0, delta=0.25, clip=False, seed=3)
    x, samples = np.zeros((30, 1, 28, 28), "float32"), np.arange(50, 80)
    together = model.purify(x, sample_index=samples, draw=2)
    for i in (0, 13, 29):
        assert np.array_equal(model.purify(x[:1], sample_index=samples[i : i + 1], draw=2)[0], together[i])
    z = ops.normal((1, 28, 28), key=ops.derive_key(3, "defence", 2), sample_index=samples)
    assert np.array_equal(together, np.float32(0.25) * z)


def test_results_do_not_depend_on_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = defended("float32"), images(70, "float32"), labels(70)
    results = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("MALADE_NUM_THREADS", threads)
        results.append([model.purify(x), model.logits(x), *model.loss_and_gradient(x, y, num_draws=2)])
    for other in results[1:]:
        assert [value.tobytes() for value in other] == [value.tobytes() for value in results[0]]


def test_nothing_is_kept_between_calls() -> None:
    model, x, y = defended("float32"), images(5, "float32"), labels(5)
    with assert_not_mutated(x, y, *model.denoiser.params.values(), *model.classifier.params.values()):
        first = model.loss_and_gradient(x, y)
        model.logits(images(9, "float32")[3:])
        second = model.loss_and_gradient(x, y)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert_no_alias(model.purify(x), x)
    assert_no_alias(defended("float32", num_steps=0).purify(x), x)


# Draws and streams ------------------------------------------------------------------------------------------


def test_draws_differ_and_their_means_are_taken() -> None:
    model, x, y = defended(), images(4), labels(4)
    each = [model.logits(x, first_draw=draw) for draw in range(5)]
    assert all(not np.array_equal(a, b) for i, a in enumerate(each) for b in each[:i])
    assert_close(model.logits(x, num_draws=3, first_draw=2), np.mean(each[2:], axis=0), op="network")
    assert model.predict(x, num_draws=5).tolist() == np.mean(each, axis=0).argmax(axis=1).tolist()
    votes = model.predict_draws(x, num_draws=4, first_draw=1)
    assert votes.shape == (4, 4)
    assert votes.tolist() == [logits.argmax(axis=1).tolist() for logits in each[1:]]
    for mode in MODES:
        singles = [model.loss_and_gradient(x, y, mode=mode, first_draw=draw) for draw in (1, 2, 3)]
        means = model.loss_and_gradient(x, y, mode=mode, num_draws=3, first_draw=1)
        for k, mean in enumerate(means):
            assert_close(mean, np.mean([single[k] for single in singles], axis=0), op="network")


def test_the_attackers_noise_is_not_the_defenders() -> None:
    model, x, y = defended(clip=False), images(3), labels(3)
    own, foreign = model.purify(x), model.purify(x, stream=ATTACKER)
    assert not np.isin(own - x, foreign - x).any()
    assert np.array_equal(own, model.purify(x, stream=Stream(1, "defence")))
    assert not np.array_equal(own, defended(clip=False, seed=2).purify(x))
    twin = defended(clip=False, seed=2)
    for method, other in ((model.logits, twin.logits), (model.path, twin.path), (model.purify, twin.purify)):
        assert np.array_equal(method(x, stream=Stream(2, "defence")), other(x))
        assert np.array_equal(method(x, stream=ATTACKER), other(x, stream=ATTACKER))
    votes = model.predict_draws(x, num_draws=9, stream=Stream(2, "defence"))
    assert np.array_equal(votes, twin.predict_draws(x, num_draws=9))
    assert not np.array_equal(model.loss_gradient(x, y), model.loss_gradient(x, y, stream=ATTACKER))


def test_a_chain_without_steps_is_the_classifier() -> None:
    model, x, y = defended(num_steps=0), images(3), labels(3)
    assert np.array_equal(model.purify(x), x)
    assert np.array_equal(model.logits(x), model.classifier.logits(x))
    for mode in MODES:
        assert np.array_equal(model.loss_gradient(x, y, mode=mode), model.classifier.loss_gradient(x, y))


def test_paths() -> None:
    model, x = defended(), images(3)
    path = model.path(x, draw=1)
    assert len(path) == 4
    assert np.array_equal(path[0], x)
    assert_close(path[-1], model.purify(x, draw=1), op="chain")
    assert_close(model.classifier.apply(path[-1]), model.logits(x, first_draw=1), op="chain")


def test_clipping() -> None:
    x = images(4, "float32")
    clipped, free = (defended("float32", clip=clip, delta=0.5).purify(x) for clip in (True, False))
    assert clipped.min() == 0
    assert clipped.max() == 1
    assert free.min() < 0 < 1 < free.max()
    # The classifier is asked about what left [0, 1] too.
    assert np.isfinite(defended("float32", clip=False, delta=0.5).logits(x)).all()


# Gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("num_steps", [1, 5, 25])
def test_exact_gradient(num_steps: int, clip: bool) -> None:
    """Against finite differences of the loss for the same noise, at points inside (0, 1) all along the chain."""
    model = defended(classifier="mlp", num_steps=num_steps, clip=clip, a=0.15, delta=0.02)
    x, y, samples = grey_images(2), labels(2), np.array([8, 5])
    path = model.path(x, sample_index=samples)
    assert all(position.min() > 0.05 and position.max() < 0.95 for position in path)
    directional_check(
        lambda x: model.loss_and_gradient(x, y, sample_index=samples).loss,
        lambda w, x: w[:, None, None, None] * model.loss_gradient(x, y, sample_index=samples),
        [x],
        eps=1e-2,
    )


@pytest.mark.parametrize("num_steps", [1, 5, 25])
def test_exact_gradient_of_clipped_chains(num_steps: int) -> None:
    """Of few pixels, so that 25 clipped steps leave room between the kinks for finite differences."""
    layers = [Flatten(), Linear(9, 8), Tanh(), Linear(8, 9), Reshape((1, 3, 3))]
    denoiser = build(layers, (1, 3, 3), initialisation="glorot", seed=1, dtype="float64")
    classifier = mlp((1, 3, 3), 4, activation="relu", dtype="float64")
    model = MALADE(classifier, denoiser, num_steps=num_steps, a=0.2, delta=0.2)
    x, y = rng().uniform(0.05, 0.95, (3, 1, 3, 3)), np.array([0, 3, 1])
    clipped = [np.isin(position, (0.0, 1.0)) for position in model.path(x)[1:]]
    assert all(positions.any() and not positions.all() for positions in clipped)
    for expectation in ("loss", "logits"):
        settings = {"expectation": expectation, "num_draws": 2}
        directional_check(
            lambda x, settings=settings: model.loss_and_gradient(x, y, **settings).loss,
            lambda w, x, settings=settings: w[:, None, None, None] * model.loss_gradient(x, y, **settings),
            [x],
            eps=1e-3,
        )


@pytest.mark.parametrize("num_steps", [1, 5])
def test_exact_gradient_with_draws_clipping_and_kinks(num_steps: int) -> None:
    """Means over draws, through rectifiers, and where pixels were cut off."""
    model, x, y = defended(num_steps=num_steps, delta=0.3), images(2), labels(2)
    assert (np.isin(model.purify(x), (0.0, 1.0)).mean(axis=(1, 2, 3)) > 0.01).all()
    directional_check(
        lambda x: model.loss_and_gradient(x, y, num_draws=2).loss,
        lambda w, x: w[:, None, None, None] * model.loss_gradient(x, y, num_draws=2),
        [np.clip(x, 0.01, 0.99)],
        eps=1e-4,
    )


def test_the_bpda_gradient_is_another_one() -> None:
    """And would not pass for the exact one."""
    model, x, y = defended(classifier="mlp"), grey_images(2), labels(2)
    with pytest.raises(AssertionError, match="is wrong"):
        directional_check(
            lambda x: model.loss_and_gradient(x, y).loss,
            lambda w, x: w[:, None, None, None] * model.loss_gradient(x, y, mode="bpda"),
            [x],
        )


def test_bpda_is_the_classifiers_gradient_at_the_purified_image() -> None:
    model, x, y = defended(), images(3), labels(3)
    for draw in (0, 4):
        purified = model.purify(x, draw=draw)
        expected = model.classifier.loss_and_gradient(purified, y)
        actual = model.loss_and_gradient(x, y, mode="bpda", first_draw=draw)
        for result, wanted in zip(actual, expected, strict=True):
            assert_close(result, wanted, op="chain")


def test_bpda_through_the_denoiser() -> None:
    """Against finite differences of the denoiser at x, along the gradient at the purified images: the mean of both."""
    model, x, y = defended(), grey_images(2), labels(2)
    settings: dict[str, Any] = {"num_draws": 2, "first_draw": 1}
    directional_check(
        model.denoiser.apply,
        lambda _, x: model.loss_gradient(x, y, mode="bpda-denoiser", **settings),
        [x],
        cotangent=model.loss_gradient(x, y, mode="bpda", **settings),
    )


def test_all_modes_see_the_same_loss_and_logits() -> None:
    model, x, y = defended(), images(3), labels(3)
    exact, *others = (model.loss_and_gradient(x, y, mode=mode, num_draws=2) for mode in MODES)
    assert_close(exact.logits, model.logits(x, num_draws=2), op="chain")
    for other in others:
        assert np.array_equal(exact.loss, other.loss)
        assert np.array_equal(exact.logits, other.logits)
        assert not np.allclose(exact.gradient, other.gradient)
    assert not np.allclose(others[0].gradient, others[1].gradient)


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_gradient_of_the_loss_of_the_mean_logits(loss: str) -> None:
    """Against finite differences, clipped, through 5 steps; one draw has no other mean."""
    model, x, y = defended(num_steps=5, delta=0.3), np.clip(images(2), 0.01, 0.99), labels(2)

    def of_mean(x: Any, **settings: Any) -> Any:
        return model.loss_and_gradient(x, y, **{"loss": loss, "expectation": "logits", "num_draws": 3, **settings})

    mean_logits, mean_loss = of_mean(x), of_mean(x, expectation="loss")
    value_of, _ = loss_ops(ops, loss)
    assert_close(mean_logits.logits, model.logits(x, num_draws=3), op="chain")
    assert_close(mean_logits.loss, value_of(mean_logits.logits, y, None), op="chain")
    assert np.abs(mean_logits.gradient - mean_loss.gradient).max() > 0.01 * np.abs(mean_loss.gradient).max()
    directional_check(
        lambda x: of_mean(x).loss, lambda w, x: w[:, None, None, None] * of_mean(x).gradient, [x], eps=1e-4
    )
    for one, same in zip(of_mean(x, num_draws=1), of_mean(x, num_draws=1, expectation="loss"), strict=True):
        assert np.array_equal(one, same)


def test_expected_gradients_in_closed_form() -> None:
    """Linear all along, two classes: r(x) = x / 2, so with q = 1 - a / 2 the margin of the logits is Gaussian,

    m = u . (q^N x) + b,    s^2 = delta^2 |u|^2 sum_{k<N} q^2k,

    and with p the logistic function the gradient of the expected loss is E[p(m + s e)] q^N u, e standard normal. BPDA
    has 1, and through the denoiser 1/2, in the place of q^N; the loss of the mean logits of D draws has s / D^(1/2).
    """
    u, b, n = np.array([4.0, -6.0, 2.0, 3.0]), 0.7, 600
    a, delta, num_steps = 0.4, 0.3, 4
    half = {"1.weight": np.eye(4) / 2, "1.bias": np.zeros(4)}
    denoiser = Network([Flatten(), Linear(4, 4), Reshape((1, 2, 2))], half, (1, 2, 2))
    weights = {"1.weight": np.stack([0 * u, u]), "1.bias": np.array([0.0, b])}
    classifier = Network([Flatten(), Linear(4, 2)], weights, (1, 2, 2))
    model = MALADE(classifier, denoiser, num_steps=num_steps, a=a, delta=delta, clip=False)
    x, y = np.tile([[[0.1, 0.6], [0.4, 0.9]]], (n, 1, 1, 1)), np.zeros(n, int)

    q = 1 - a / 2
    m = q**num_steps * (u @ x[0].ravel()) + b
    s = delta * np.linalg.norm(u) * np.sqrt(sum(q ** (2 * k) for k in range(num_steps)))
    e, weight = np.polynomial.hermite_e.hermegauss(80)

    def expected_p(spread: float) -> float:
        return float(weight @ (1 / (1 + np.exp(-(m + spread * e)))) / weight.sum())

    def check(expected: Any, **settings: Any) -> None:
        gradients = model.loss_gradient(x, y, stream=ATTACKER, **settings).reshape(n, 4)
        error = gradients.std(axis=0) / np.sqrt(n)
        assert (error < 0.02 * np.abs(expected)).all()
        assert (np.abs(gradients.mean(axis=0) - expected) < 4 * error).all()

    for mode, slope in (("exact", q**num_steps), ("bpda", 1.0), ("bpda-denoiser", 0.5)):
        check(expected_p(s) * slope * u, mode=mode, num_draws=8)
    few = expected_p(s / np.sqrt(8))
    assert few - expected_p(s) > 0.1 * few, "planned so: the two expectations differ"
    check(few * q**num_steps * u, expectation="logits", num_draws=8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_empty_batches(dtype: str) -> None:
    model = defended(dtype)
    for n in (0, 2):
        x, y = images(n, dtype), labels(n)
        assert model.purify(x).shape == x.shape
        assert model.predict_draws(x, num_draws=3).shape == (3, n)
        results = (model.purify(x), model.logits(x), *model.loss_and_gradient(x, y), *model.path(x))
        assert {str(result.dtype) for result in results} == {dtype}
        assert model.loss_gradient(x, y).shape == x.shape


# Memory -----------------------------------------------------------------------------------------------------


def working_memory(model: MALADE, num_images: int) -> int:
    """Most bytes in use at once while purifying, beyond the images given and those returned."""
    x = np.zeros((num_images, *model.input_shape), dtype=model.dtype)
    tracemalloc.start()
    try:
        purified = model.purify(x)
        return tracemalloc.get_traced_memory()[1] - purified.nbytes
    finally:
        tracemalloc.stop()


def tiny() -> MALADE:
    """On images as large as MNIST's, of as little work as can be."""
    denoiser = build([Conv2d(1, 1, (1, 1), (1, 1)), Tanh()], (1, 28, 28), initialisation="he")
    classifier = build([Flatten(), Linear(784, 2)], (1, 28, 28), initialisation="he")
    return MALADE(classifier, denoiser, num_steps=1, a=0.5, delta=0.1)


@pytest.mark.slow
def test_memory_is_flat() -> None:
    model = tiny()
    working_memory(model, 100)
    few, many = working_memory(model, 1_000), working_memory(model, 60_000)
    # What is left is the bookkeeping of 60 times as many slices, some 2 kB for 32 images.
    assert many - few < 0.04 * 60_000 * 784 * 4
    assert few < 30e6


# Complaints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": -1}, "num_steps: expected an integer >= 0"),
        ({"num_steps": 2.5}, "num_steps: expected"),
        ({"a": 0}, "a: expected a finite number > 0"),
        ({"delta": -0.1}, "delta: expected"),
        ({"delta": float("nan")}, "delta: expected"),
        ({"seed": -1}, "seed: expected"),
    ],
)
def test_bad_settings(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        defended(**settings)


def shrinking() -> Network:
    return build([Conv2d(1, 1, (3, 3), (2, 2))], (1, 28, 28), initialisation="he")


@pytest.mark.parametrize(
    ("denoiser", "message"),
    [
        (shrinking, r"denoiser: expected \(1, 28, 28\) -> \(1, 28, 28\) .* got \(1, 28, 28\) -> \(1, 14, 14\)"),
        (lambda: build([Tanh()], (1, 14, 14), initialisation="he"), "denoiser: expected"),
        (lambda: sdae("small", dtype="float64"), "denoiser: expected the classifier's dtype"),
    ],
)
def test_networks_must_fit(denoiser: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MALADE(cnn("small"), denoiser(), num_steps=1, a=0.1, delta=0.1)


def test_bad_calls() -> None:
    model, x, y = defended(), images(2), labels(2)
    methods: list[Any] = [model.purify, model.path, model.logits, model.predict]
    methods += [lambda x, **more: model.loss_gradient(x, y, **more)]
    methods += [lambda x, **more: model.predict_draws(x, num_draws=1, **more)]
    for method in methods:
        for bad, message in (
            (x + 0.5, r"outside \[0, 1\]"),
            (np.where(x < 0.5, x, np.nan), "not a number"),
            (x.astype("float32"), r"x: expected float64 \(the networks' dtype\)"),
            (x[0], "x: expected 4 axes"),
        ):
            with pytest.raises(InputError, match=message):
                method(bad)
        for index, message in (
            (np.array([0, -1]), "sample_index: -1 is outside"),
            (np.array([0, 2**32]), "sample_index: 4294967296 is outside"),
            (np.arange(3), "sample_index: expected shape"),
            (np.array([0.0, 1.0]), "sample_index: expected integers"),
        ):
            with pytest.raises(InputError, match=message):
                method(x, sample_index=index)
    for call, message in (
        (
            lambda: model.loss_gradient(x, y, mode="straight-through"),
            "mode: expected one of exact, bpda, bpda-denoiser;",
        ),
        (lambda: model.loss_gradient(x, y, expectation="vote"), "expectation: expected one of loss, logits;"),
        (lambda: model.loss_gradient(x, np.array([0, 10])), "y: label 10"),
        (lambda: model.loss_gradient(x, y, num_draws=0), "num_draws: expected"),
        (lambda: model.logits(x, num_draws=0), "num_draws: expected"),
        (lambda: model.purify(x, draw=-1), "draw: expected"),
        (lambda: model.purify(x, stream=Stream(-3, "mine")), "seed: expected"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_representation() -> None:
    assert repr(defended()) == "MALADE((1, 28, 28) -> 10 classes: num_steps=3, a=0.3, delta=0.2, clip=True, seed=1)"
    assert defended().stochastic
