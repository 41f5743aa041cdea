"""Random proposals: words, places and coins bit by bit, the rest up to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import malade_gpu
from malade_gpu import device as module
from malade_gpu.ops.proposals import bump
from malade_ref.ops.proposals import _bump
from tests.strategies import DTYPES, dtypes, floats_of_shape, shapes_nchw
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, gpu, on_device, to_device, to_host
from .strict import StrictDevice
from .test_networks import both, defended, images

WORDS = st.integers(0, 2**32 - 1)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """Two sets of images and a counter; some pixels are at 0, at 1, or equal."""
    shape, dtype = draw(shapes_nchw()), draw(dtypes())
    x, centre = (draw(floats_of_shape(shape, dtype=dtype, uniform=True)) for _ in range(2))
    if x.size and draw(st.booleans()):
        x, centre = (np.clip(2 * array - 0.5, 0, 1).astype(dtype) for array in (x, centre))
        x[0] = centre[0]
    index = np.array(draw(st.lists(WORDS, min_size=len(x), max_size=len(x))), dtype="int64")
    counter = {"key": draw(st.tuples(WORDS, WORDS)), "sample_index": index, "step": draw(WORDS)}
    return {"x": x, "centre": centre, "counter": counter, "size": draw(st.integers(1, min(shape[2:])))}


EPS = st.sampled_from([0.0, 1e-9, 0.3, 1.0, 5.0]) | st.floats(0, 3)


def without_step(counter: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in counter.items() if name != "step"}


@pytest.mark.slow
@settings(max_examples=25)
@given(cases(), st.integers(-2, 90))
def test_salt_and_pepper(case: dict[str, Any], count: int) -> None:
    x, centre = case["x"], case["centre"]
    counts = count + 7 * np.arange(len(x))
    noisy = agree("salt_and_pepper_noise", x, counts, **case["counter"], exact=True)
    agree("changed_share", noisy, x, exact=True)
    agree("changed_share", x, centre, exact=True)


@pytest.mark.slow
@settings(max_examples=25)
@given(cases(), EPS)
def test_squares_linf(case: dict[str, Any], eps: float) -> None:
    x, centre, counter = case["x"], case["centre"], case["counter"]
    agree("square_start_linf", centre, eps=eps, **without_step(counter), exact=True)
    agree("square_step_linf", x, centre, size=case["size"], eps=eps, **counter, exact=True)


@pytest.mark.slow
@settings(max_examples=25)
@given(cases(), EPS)
def test_squares_l2(case: dict[str, Any], eps: float) -> None:
    x, centre, counter = case["x"], case["centre"], case["counter"]
    scale = 1 + eps + 0 * centre.astype("float64")
    agree("square_start_l2", centre, eps=eps, **without_step(counter), scale=scale)
    agree("square_step_l2", x, centre, size=case["size"], eps=eps, **counter, scale=scale)


@pytest.mark.parametrize("shape", [(3, 2, 13, 21), (2, 1, 28, 28)])
def test_tiles(shape: tuple[int, ...]) -> None:
    """Of more than one pixel, with a margin around the grid."""
    centre = np.full(shape, 0.5)
    start = agree("square_start_l2", centre, eps=0.3, key=(1, 2), sample_index=np.arange(len(centre)))
    assert (start == centre).any()
    assert (start != centre).any()


@pytest.mark.slow
def test_a_bump_that_cancels() -> None:
    """The square holds the bump's opposite, exactly: what is left of their sum is rounding."""
    centre = np.full((40, 1, 3, 3), 0.5)
    x = centre - 0.1 * np.array(bump(3)).reshape(3, 3)
    counter = {"key": (1, 2), "sample_index": np.arange(40), "step": 3}
    agree("square_step_l2", x, centre, size=3, eps=0.1, **counter)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 25])
def test_bumps(size: int) -> None:
    np.testing.assert_allclose(np.array(bump(size)).reshape(size, size), _bump(size), rtol=1e-12)


@pytest.mark.slow
@settings(max_examples=25)
@given(cases(), st.sampled_from([0.0, 1e-8, 0.01, 1.0]), st.sampled_from([0.0, 1e-8, 0.01, 1.0]))
def test_boundary(case: dict[str, Any], a: float, b: float) -> None:
    x, centre = case["x"], case["centre"]
    sizes = a * np.ones(len(x)), b / (1 + np.arange(len(x)))
    results = agree("boundary_proposal", x, centre, *sizes, **case["counter"], scale=1 + 0 * x)
    assert all(((result >= 0) & (result <= 1)).all() for result in results)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_boundary_makes_up_for_clipping(dtype: str) -> None:
    """In the corners of [0, 1] a step on the sphere loses length, and the step to the clean image must be shorter."""
    x = (np.indices((2, 1, 4, 4)).sum(axis=0) % 2).astype(dtype)
    centre = np.full_like(x, 0.5)
    steps = np.full(2, 0.5), np.full(2, 0.3)
    proposal, *_ = agree("boundary_proposal", x, centre, *steps, key=(5, 6), sample_index=np.arange(2), scale=1 + 0 * x)
    assert (np.sqrt(((proposal - centre) ** 2).sum(axis=(1, 2, 3))) < 1.99).all()


@pytest.mark.slow
@settings(max_examples=25)
@given(cases(), st.sampled_from([1e-3, 0.1]), st.sampled_from([0.0, 1.0, -3.0, np.nan, np.inf]))
def test_spsa(case: dict[str, Any], width: float, rise: float) -> None:
    x, counter = case["x"], case["counter"]
    agree("spsa_points", x, width=width, **counter)
    rises = (rise * (1 + np.arange(len(x)))).astype(x.dtype)
    scale = np.abs(x) + np.where(np.isfinite(rise), np.abs(rise), 0) * 4 / width
    agree("spsa_gradient", x, rises, width=width, **counter, scale=scale)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    rng = np.random.default_rng(1)
    x, centre = rng.uniform(0.2, 0.8, (2, 3, 2, 6, 5)).astype(dtype)
    share = rng.uniform(0.5, 1, 3)
    counter: dict[str, Any] = {"key": (5, 6), "sample_index": np.arange(3)}
    operations: dict[str, tuple[Any, ...]] = {
        "salt_and_pepper_noise": (x, np.array([3, 5, 30]), counter),
        "changed_share": (np.where(x > 0.4, x, centre), centre, {}),
        "square_start_linf": (centre, {"eps": 0.1, **counter}),
        "square_step_linf": (x, centre, {"size": 3, "eps": 0.1, **counter}),
        "square_start_l2": (centre, {"eps": 0.3, **counter}),
        "square_step_l2": (x, centre, {"size": 3, "eps": 0.3, **counter}),
        "boundary_proposal": (x, centre, 0.1 * share, 0.1 * share, counter),
        "spsa_points": (x, {"width": 0.1, **counter}),
        "spsa_gradient": (x, share, {"width": 0.1, **counter}),
    }
    for name, (*arrays, options) in operations.items():
        assert_planted_caught(
            lambda f, name=name, arrays=arrays, options=options: agree(name, *arrays, **options, op=f),
            getattr(gpu, name),
        )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sample_does_not_depend_on_its_batch(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, centre = rng.random((2, 5, 3, 7, 11)).astype(dtype)
    share, index = rng.random(5), np.array([7, 0, 3, 3, 9])
    for op, arrays, options in (
        (gpu.salt_and_pepper_noise, (x, np.arange(5) * 9), {}),
        (gpu.square_step_linf, (x, centre), {"size": 3, "eps": 0.2}),
        (gpu.square_step_l2, (x, centre), {"size": 3, "eps": 0.2}),
        (gpu.boundary_proposal, (x, centre, share, share), {}),
        (gpu.spsa_points, (x,), {"width": 0.1}),
    ):
        together = on_device(op)(*arrays, key=(1, 2), sample_index=index, step=4, **options)
        alone = on_device(op)(*(array[3:4] for array in arrays), key=(1, 2), sample_index=index[3:4], step=4, **options)
        pairs = zip(alone, together, strict=True) if isinstance(alone, tuple) else [(alone, together)]
        for one, all_ in pairs:
            np.testing.assert_array_equal(one, all_[3:4])


X = np.full((2, 1, 3, 3), 0.5)
V = np.ones(2)
COUNTER: dict[str, Any] = {"key": (1, 2), "sample_index": np.arange(2)}


def test_complaints() -> None:
    square = {"size": 2, "eps": 0.1, **COUNTER}
    wrong = ({"sample_index": np.arange(3)}, {"sample_index": V}, {"step": -1}, {"step": 1 << 32})
    for bad in wrong:
        complain_alike("salt_and_pepper_noise", X, np.arange(2), **{**COUNTER, **bad})
        complain_alike("square_step_linf", X, X, **{**square, **bad})
        complain_alike("square_step_l2", X, X, **{**square, **bad})
        complain_alike("boundary_proposal", X, X, V, V, **{**COUNTER, **bad})
        complain_alike("spsa_points", X, **{"width": 0.1, **COUNTER, **bad})
    for x in (X.astype(int), X[0]):
        complain_alike("salt_and_pepper_noise", x, np.arange(2), **COUNTER)
        complain_alike("square_start_linf", x, eps=0.1, **COUNTER)
        complain_alike("square_start_l2", x, eps=0.1, **COUNTER)
        complain_alike("spsa_gradient", x, V, width=0.1, **COUNTER)
    for other in (X[:1], X.astype("float32")):
        complain_alike("changed_share", X, other)
        complain_alike("square_step_linf", X, other, **square)
        complain_alike("square_step_l2", X, other, **square)
        complain_alike("boundary_proposal", X, other, V, V, **COUNTER)
    complain_alike("salt_and_pepper_noise", X, V, **COUNTER)
    complain_alike("salt_and_pepper_noise", X, np.arange(3), **COUNTER)
    complain_alike("boundary_proposal", X, X, V[:1], V, **COUNTER)
    complain_alike("boundary_proposal", X, X, V, V[:1], **COUNTER)
    complain_alike("spsa_gradient", X, V[:1], width=0.1, **COUNTER)
    complain_alike("spsa_points", X, width=0, **COUNTER)
    for name in ("square_step_linf", "square_step_l2"):
        complain_alike(name, X, X, **{**square, "size": 4})
        complain_alike(name, X, X, **{**square, "size": 0})
        complain_alike(name, X, X, **{**square, "eps": -1.0})


# Whole attacks -------------------------------------------------------------------------------------------------------

QUICK: dict[str, dict[str, Any]] = {
    "uniform_noise": {"eps": 0.5, "num_trials": 3},
    "salt_and_pepper": {"eps": 0.3, "num_trials": 2, "num_steps": 3, "smallest": True},
    "square": {"eps": 0.02, "num_steps": 12},
    "square l2": {"eps": 0.5, "num_steps": 12, "norm": "l2"},
    "boundary": {"num_steps": 25, "window": 10, "num_starts": 6},
    "spsa": {"eps": 0.05, "num_steps": 3, "num_directions": 3, "step_size": 0.02},
}


@pytest.mark.slow
@pytest.mark.parametrize("defence", [False, True])
@pytest.mark.parametrize("name", QUICK)
def test_whole_attacks(name: str, defence: bool) -> None:
    """The same noise, decisions and costs, and the same images up to rounding."""

    def network(i: int) -> Any:
        return lambda kind: both({"cnn": "mlp"}.get(kind, kind), dtype="float64")[i]

    models = tuple(defended(network(i), num_steps=1) if defence else both("mlp", dtype="float64")[i] for i in (0, 1))
    x = images(3, "float64")
    y = models[0].predict(x)
    options = {"num_draws": 2, "num_judge_draws": 2, **QUICK[name]}
    attack = getattr(malade_gpu.attacks, name.split()[0])
    expected = attack(models[0], x, y, **options)
    result = attack(models[1], to_device(x), to_device(y), **options)
    for field in ("success", "num_queries", "num_gradients"):
        np.testing.assert_array_equal(to_host(getattr(result, field)), getattr(expected, field), strict=True)
    assert (expected.x_adv != x).any() or not expected.success.any()
    for field in ("x_adv", "loss", "distance"):
        wanted = getattr(expected, field)
        np.testing.assert_allclose(to_host(getattr(result, field)), wanted, rtol=1e-6, atol=1e-9, err_msg=field)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_host_and_device_are_not_mixed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = StrictDevice()
    monkeypatch.setattr(module, "_device", lambda *_: found)
    network = malade_gpu.mlp((1, 28, 28), 10, hidden=(4,))
    x, y = gpu.asarray(images(2)), gpu.asarray(np.arange(2))
    getattr(malade_gpu.attacks, name.split()[0])(network, x, y, **QUICK[name])
