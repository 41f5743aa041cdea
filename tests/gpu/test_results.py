"""Results of a device: the same bits every time and in every batch, the reference's numbers, and images without end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="malade_gpu needs Numba, which is not installed")

import malade_gpu
from malade_gpu import ops
from malade_gpu.device import device
from malade_gpu.precision import PRECISIONS, TENSOR_CORES
from malade_ref import ops as ref
from malade_ref.sampling import Stream
from malade_ref.training import Batch, Classification

from .conftest import REHEARSAL

pytestmark = pytest.mark.rehearsed


def count(on_gpu: int, rehearsed: int) -> int:
    return rehearsed if REHEARSAL else on_gpu


def images(n: int, shape: tuple[int, ...] = (1, 28, 28)) -> Any:
    return ops.uniform(shape, key=(3, 4), sample_index=ops.arange(n))


def labels(n: int) -> Any:
    return ops.arange(n) % 10


def defended() -> Any:
    """The defence at the size of the paper; a small one for a rehearsal."""
    preset = "small" if REHEARSAL else "paper"
    steps = count(25, 2)
    return malade_gpu.MALADE(malade_gpu.cnn(preset), malade_gpu.sdae(preset), num_steps=steps, a=0.3, delta=0.1, seed=1)


def training_step(n: int) -> dict[str, Any]:
    network = malade_gpu.cnn("small" if REHEARSAL else "paper")
    batch = Batch(images(n), labels(n), ops.arange(n), epoch=0, seed=0)
    return dict(Classification().evaluate(network, batch, training=True).gradients)


def normalised(n: int) -> dict[str, Any]:
    x = images(n, (5, 9, 9))
    vector = ops.asarray(np.linspace(0.5, 1, 5, dtype="float32"))
    y, mean, variance = ops.batch_norm(x, vector, vector)
    dx, dgain, dbias = ops.batch_norm_vjp(y, x, vector, mean, variance)
    return {"y": y, "dx": dx, "dgain": dgain, "dbias": dbias}


WORK: dict[str, Callable[[int], dict[str, Any]]] = {
    "purification": lambda n: {"x": defended().purify(images(n))},
    "exact gradient": lambda n: defended().loss_and_gradient(images(n), labels(n), num_draws=2)._asdict(),
    "bpda": lambda n: defended().loss_and_gradient(images(n), labels(n), mode="bpda")._asdict(),
    "classifier": lambda n: defended().classifier.loss_and_gradient(images(n), labels(n))._asdict(),
    "training step": training_step,
    "batch norm": normalised,
    "norms": lambda n: {
        "step": ops.normalised_step(images(n), images(n) - 0.5, step_size=0.1),
        "distance": ops.distance_l2(images(n), 1 - images(n)),
    },
}


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "fp32" and device().capability < TENSOR_CORES:
        pytest.skip(f"{device().name} has no tensor cores for {request.param}")
    monkeypatch.setenv("MALADE_GPU_PRECISION", request.param)
    return str(request.param)


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("name", WORK)
def test_the_same_bits_every_time(name: str) -> None:
    n = count(1000, 3)
    first = {key: ops.to_host(value) for key, value in WORK[name](n).items()}
    assert all(np.isfinite(value).all() for value in first.values())
    for _ in range(count(4, 1)):
        for key, value in WORK[name](n).items():
            np.testing.assert_array_equal(ops.to_host(value), first[key], err_msg=key, strict=True)


BATCHES = (1, 2, 31, 128, 999)


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("name", ["purification", "exact gradient", "bpda", "classifier", "norms"])
def test_the_same_bits_in_every_batch(name: str) -> None:
    """f(x)[:m] is f(x[:m]): what is computed for an image does not depend on the others."""
    whole = {key: ops.to_host(value) for key, value in WORK[name](count(1000, 5)).items()}
    for m in BATCHES[: count(5, 2)]:
        for key, value in WORK[name](m).items():
            np.testing.assert_array_equal(ops.to_host(value), whole[key][:m], err_msg=f"{key}, {m} images")


def test_ten_million_numbers() -> None:
    n, size = count(10_000, 50), 1000
    settings: dict[str, Any] = {"key": (5, 6), "step": 7}
    words = ops.to_host(ops.random_words(size, sample_index=ops.arange(n), **settings))
    np.testing.assert_array_equal(words, ref.random_words(size, sample_index=np.arange(n), **settings), strict=True)
    normal = ops.to_host(ops.normal((size,), sample_index=ops.arange(n), **settings))
    assert np.abs(normal - ref.normal((size,), sample_index=np.arange(n), **settings)).max() <= 1e-6


def test_not_a_number_stays_one() -> None:
    """No compiler takes NaN for impossible."""
    row = np.array([[np.nan, 1.0, -1.0, np.inf], [0.5, np.nan, 0.25, -np.inf], [0.0, -0.0, 2.0, 1.0]], "float32")
    x, finite = ops.asarray(row), ops.asarray(np.ones_like(row))
    pairs: dict[str, tuple[Any, Any]] = {
        "relu": (ops.relu(x), ref.relu(row)),
        "relu_vjp": (ops.relu_vjp(x, finite), ref.relu_vjp(row, np.ones_like(row))),
        "clip": (ops.clip_pixels(x), ref.clip_pixels(row)),
        "argmax": (ops.argmax(x), ref.argmax(row)),
        "tanh": (ops.tanh(x), ref.tanh(row)),
        "distance": (ops.distance_linf(x, finite), ref.distance_linf(row, np.ones_like(row))),
    }
    for name, (got, expected) in pairs.items():
        np.testing.assert_allclose(ops.to_host(got), expected, rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_one_hundred_thousand_images() -> None:
    """More than 2^31 numbers: where an index of 32 bits would wrap around."""
    n, channels = count(100_000, 6), count(32, 2)
    needed = 3 * 4 * channels * 784 * n
    if device().memory < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of device memory, {device().name} has less")
    assert REHEARSAL or channels * 784 * n > 1 << 31
    x = images(n)
    weight = ops.asarray(np.random.default_rng(0).standard_normal((channels, 1, 3, 3)).astype("float32"))
    bias = ops.asarray(np.linspace(-1, 1, channels, dtype="float32"))
    last = slice(n - 3, n)

    def layers(x: Any) -> Any:
        return ops.relu(ops.add_bias(ops.conv2d(x, weight), bias))

    y = layers(x)
    few = layers(x[last])
    np.testing.assert_array_equal(ops.to_host(y[last]), ops.to_host(few))
    expected = ref.relu(ref.add_bias(ref.conv2d(*map(ops.to_host, (x[last], weight))), ops.to_host(bias)))
    np.testing.assert_allclose(ops.to_host(few), expected, rtol=1e-5, atol=1e-5)
    del few
    dx, dweight = ops.conv2d_vjp(y, x, weight)
    np.testing.assert_array_equal(ops.to_host(dx[last]), ops.to_host(ops.conv2d_vjp(y[last], x[last], weight)[0]))
    # The sum over all images is that of its halves, up to rounding.
    halves = [ops.conv2d_vjp(y[part], x[part], weight, need_dx=False)[1] for part in (slice(n // 2), slice(n // 2, n))]
    np.testing.assert_allclose(ops.to_host(dweight), ops.to_host(halves[0] + halves[1]), rtol=1e-4)


def test_a_hundred_thousand_images_through_the_chain() -> None:
    """Slice by slice, and the last ones as if alone."""
    n = count(100_000, 4)
    model = defended()
    x = images(n)
    purified = model.purify(x)
    alone = model.purify(x[n - 2 :], sample_index=ops.arange(n)[n - 2 :])
    np.testing.assert_array_equal(ops.to_host(purified[n - 2 :]), ops.to_host(alone))
    other = model.purify(x[n - 2 :], sample_index=ops.arange(n)[n - 2 :], stream=Stream(2, "attack"))
    assert not np.array_equal(ops.to_host(other), ops.to_host(alone))
