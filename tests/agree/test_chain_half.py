"""The fused chain on tensor cores: against the reference, and against itself otherwise arranged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import malade_gpu
import malade_ref
from malade_gpu.emulation import SCHEDULES
from malade_gpu.ops import chain, chain_half
from malade_ref.checks import InputError
from tests.tolerances import assert_close, assert_no_alias, assert_not_mutated

from .backends import device, gpu, on_device, to_device, to_host
from .precisions import set_precision
from .test_chain import (
    NETWORK,
    SETTINGS,
    expected,
    fused,
    gradients,
    images,
    launched,
    numbers,
    on_the_device,
    run,
    vjp,
)

HALF = {"op": "fused_chain_half", "dtype": "float32"}


@pytest.fixture(autouse=True)
def tensor_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On two blocks at a time, so that a few images are many."""
    if device().capability < chain_half.CAPABILITY or chain_half.residence(device().max_shared) is None:
        pytest.skip("the chain on tensor cores needs compute capability 8.0 and 162 KiB of shared memory")
    monkeypatch.setattr(device(), "multiprocessors", 2)
    with set_precision("tf32"):
        yield


# Against the reference ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_purification() -> None:
    """8 images over 25 steps: closer than TF32 promises, and not by multiplying in float32."""
    x, index, settings = images(8), numbers(8), {"num_steps": 25, "a": 0.2, "delta": 0.1}
    wanted, _ = expected(x, index, **settings)
    assert np.abs(wanted - x).max() > 0.5
    with assert_not_mutated(x, index):
        result = run(x, index, **settings)
    assert_no_alias(result, x)
    assert_close(result, wanted, **HALF)
    assert np.abs(result - wanted).max() > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("n", "num_steps"), [(0, 2), (1, 0), (1, 1), (35, 2)])
def test_any_number_of_images(n: int, num_steps: int) -> None:
    """None; less than a group; three groups for two blocks, the last one not full."""
    x, index = images(n), numbers(n)
    settings = {"num_steps": num_steps, "clip": n != 1}
    result = run(x, index, **settings)
    assert_no_alias(result, x)
    assert_close(result, expected(x, index, **settings)[0], **HALF)


@pytest.mark.slow
def test_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way back is in float32, from the positions that the way there has kept."""
    x, index, dy = images(2), numbers(2), gradients(2)
    for num_kept in (10, 0):
        monkeypatch.setattr(chain, "NUM_KEPT", num_kept)
        last, back = on_device(fused().run_with_vjp)(x, sample_index=index, **SETTINGS)
        np.testing.assert_array_equal(last, run(x, index))
        dx = to_host(back(to_device(dy)))
        np.testing.assert_array_equal(dx, vjp(dy, x, index))
        # What is clipped at one of these positions only makes a difference, and this is rare.
        wanted = expected(x, index)[1](dy)
        assert np.median(np.abs(dx - wanted)) < 1e-3 * np.abs(wanted).max()


@pytest.mark.slow
def test_planted_errors_are_caught() -> None:
    """Of three thousandths, or a weight in a hundred."""
    x, index = images(2), numbers(2)
    last, _ = expected(x, index, num_steps=1)
    result = run(x, index, num_steps=1)
    assert_close(result, last, **HALF)
    with pytest.raises(AssertionError):
        assert_close(result * np.float32(1.003), last, **HALF)
    for name in ("0.weight", "2.weight", "4.weight"):
        weight = NETWORK.params[name].copy()
        weight.reshape(-1)[::100] *= 1.5
        params = {key: to_device(value) for key, value in {**NETWORK.params, name: weight}.items()}
        changed = gpu.fused_chain(NETWORK.architecture(), params)
        assert changed is not None
        wrong = on_device(changed.run)(x, sample_index=index, **{**SETTINGS, "num_steps": 1})
        with pytest.raises(AssertionError):
            assert_close(wrong, last, **HALF)


def test_weights_beyond_half_precision() -> None:
    """They count as its largest number: tanh is 1 either way."""
    params = {name: to_device(value) for name, value in NETWORK.params.items()}
    large = {**params, "0.weight": 1e6 * params["0.weight"]}
    found = gpu.fused_chain(NETWORK.architecture(), large)
    assert found is not None
    last = on_device(found.run)(images(2), sample_index=numbers(2), **{**SETTINGS, "num_steps": 1})
    assert np.isfinite(last).all()


# Against itself, bit by bit --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_image_does_not_see_its_batch() -> None:
    x, index = images(19), numbers(19)
    together = run(x, index)
    for part in (slice(0, 1), slice(18, 19), slice(3, 9)):
        np.testing.assert_array_equal(run(x[part], index[part]), together[part])


@pytest.mark.slow
def test_a_chain_in_two_pieces() -> None:
    x, index = images(3), numbers(3)
    whole = run(x, index, num_steps=3, first_step=7)
    middle = run(x, index, num_steps=2, first_step=7)
    np.testing.assert_array_equal(run(middle, index, num_steps=1, first_step=9), whole)


def test_every_image_may_have_its_own_noise() -> None:
    x, index, keys = images(2), numbers(2), np.array([(1, 2), (2**32 - 1, 0)], "uint32")
    together = run(x, index, key=keys, num_steps=1)
    for i in range(2):
        one, own = slice(i, i + 1), {"key": tuple(keys[i].tolist()), "num_steps": 1}
        np.testing.assert_array_equal(together[one], run(x[one], index[one], **own))


@pytest.mark.slow
def test_smaller_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third layer's weights from global memory; and where that is too little, float32."""
    x, index = images(3), numbers(3)
    whole = run(x, index)
    monkeypatch.setattr(device(), "max_shared", 163 * 1024)
    assert chain_half.residence(device().max_shared) is False
    np.testing.assert_array_equal(run(x, index), whole)
    monkeypatch.setattr(device(), "max_shared", 99 * 1024)
    kernels = launched(monkeypatch)
    assert_close(run(x, index), expected(x, index)[0], op="fused_chain", dtype="float32")
    assert kernels == ["chain"]


@pytest.mark.slow
def test_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    if not device().emulated:
        pytest.skip("schedules are the emulated device's")
    x, index = images(3), numbers(3)
    results = []
    for schedule in SCHEDULES:
        monkeypatch.setattr(device(), "schedule", schedule)
        results.append(run(x, index).tobytes())
    assert len(set(results)) == 1


# Who uses it -------------------------------------------------------------------------------------------------------


def test_the_defence_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In both coarse precisions, with the same bits; the gradient's positions are float32's."""
    defended = malade_gpu.MALADE(
        on_the_device(malade_ref.cnn("small")), on_the_device(NETWORK), num_steps=1, a=0.5, delta=0.2, seed=3
    )
    x = to_device(images(3))
    kernels = launched(monkeypatch)
    purified = to_host(defended.purify(x))
    assert kernels == ["chain_half"]
    with set_precision("bf16"):
        np.testing.assert_array_equal(to_host(defended.purify(x)), purified)
    kernels.clear()
    for name in ("fp32", "tf32x3"):
        with set_precision(name):
            assert_close(purified, to_host(defended.purify(x)), **HALF)
    assert kernels == ["chain", "chain"]


def test_complaints() -> None:
    x, index = images(2), numbers(2)
    with pytest.raises(InputError, match="x: expected shape"):
        run(x[:, :, 1:], index)
    with pytest.raises(InputError, match="sample_index: expected shape"):
        run(x, index[:1])
