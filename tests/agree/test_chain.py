"""The fused chain of the paper's sDAE: against the reference, step by step, and against itself otherwise arranged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import malade_gpu
import malade_ref
from malade_gpu.emulation import SCHEDULES
from malade_gpu.ops import chain
from malade_ref.checks import InputError
from malade_ref.sampling import ChainSettings, run_chain, run_chain_vjp
from tests.marks import slow_but
from tests.tolerances import assert_close, assert_no_alias, assert_not_mutated, assert_planted_caught

from .backends import device, gpu, on_device, ref, to_device, to_host

KEY = (0xA4093822, 0x299F31D0)
# Enough noise that pixels are clipped.
SETTINGS: dict[str, Any] = {"num_steps": 2, "a": 0.5, "delta": 0.2, "clip": True, "key": KEY}


def network() -> Any:
    """The paper's sDAE, with biases that are not 0 and weights large enough to bend the tanh."""
    plain = malade_ref.sdae(seed=1)
    rng = np.random.default_rng(0)
    scale = {"weight": 0.03, "bias": 0.1}
    params = {
        name: value + rng.normal(scale=scale[name.partition(".")[2]], size=value.shape).astype("float32")
        for name, value in plain.params.items()
    }
    return plain.replace_params(params)


NETWORK = network()


def fused() -> Any:
    found = gpu.fused_chain(NETWORK.architecture(), {k: to_device(v) for k, v in NETWORK.params.items()})
    assert found is not None
    return found


def images(n: int) -> Any:
    return np.random.default_rng(n).random((n, 1, 28, 28)).astype("float32")


def numbers(n: int) -> Any:
    """Sample numbers in no order, from the smallest to the largest."""
    return np.array([2**32 - 1, 0, *np.random.default_rng(n).integers(0, 2**32, n)])[:n]


def run(x: Any, index: Any, **changes: Any) -> Any:
    return on_device(fused().run)(x, sample_index=index, **{**SETTINGS, **changes})


def vjp(dy: Any, x: Any, index: Any, **changes: Any) -> Any:
    return on_device(fused().vjp)(dy, x, sample_index=index, **{**SETTINGS, **changes})


def expected(x: Any, index: Any, **changes: Any) -> tuple[Any, Any]:
    """The reference's last positions, and its way back."""
    settings = {**SETTINGS, **changes}
    key = settings.pop("key")
    positions = run_chain(x, NETWORK, ChainSettings(**settings), key=key, sample_index=index)
    return positions[-1], lambda dy: run_chain_vjp(
        dy, positions, NETWORK, ChainSettings(**settings), key=key, sample_index=index
    )


def gradients(n: int) -> Any:
    return np.random.default_rng(n).standard_normal((n, 1, 28, 28)).astype("float32")


@pytest.fixture(autouse=True)
def two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that runs two blocks at a time: a few images are many."""
    monkeypatch.setattr(device(), "multiprocessors", 2)


# Against the reference ------------------------------------------------------------------------------------------


def test_purification() -> None:
    """8 images over 25 steps."""
    x, index = images(8), numbers(8)
    wanted, _ = expected(x, index, num_steps=25)
    assert np.abs(wanted - x).max() > 0.5
    with assert_not_mutated(x, index):
        result = run(x, index, num_steps=25)
    assert_no_alias(result, x)
    assert_close(result, wanted, op="fused_chain", dtype="float32")


@pytest.mark.parametrize("steps", slow_but(((5, True),), [(1, True), (5, True), (5, False), (25, True)]))
def test_gradient(steps: tuple[int, bool]) -> None:
    num_steps, clip = steps
    settings = {"num_steps": num_steps, "clip": clip, "a": 0.2}
    x, index, dy = images(3), numbers(3), gradients(3)
    last, back = expected(x, index, **settings)
    assert np.isin(last, (0.0, 1.0)).any() == clip
    with assert_not_mutated(x, index, dy):
        result = vjp(dy, x, index, **settings)
    assert_no_alias(result, x, dy)
    assert_close(result, back(dy), op="fused_chain", dtype="float32")


@pytest.mark.slow
@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 9, 19])
def test_any_number_of_images(n: int) -> None:
    """One, two, four, eight images a block; a ragged last block; more images than the blocks hold."""
    x, index, dy = images(n), numbers(n), gradients(n)
    last, back = expected(x, index)
    assert_close(run(x, index), last, op="fused_chain", dtype="float32")
    assert_close(vjp(dy, x, index), back(dy), op="fused_chain", dtype="float32")


def test_no_steps() -> None:
    x, index, dy = images(2), numbers(2), gradients(2)
    for result, start in ((run(x, index, num_steps=0), x), (vjp(dy, x, index, num_steps=0), dy)):
        np.testing.assert_array_equal(result, start)
        assert_no_alias(result, start)


@pytest.mark.slow
def test_planted_errors_are_caught() -> None:
    x, index, dy = images(2), numbers(2), gradients(2)
    last, back = expected(x, index)
    assert_planted_caught(lambda f: assert_close(f(x, index), last, op="fused_chain", dtype="float32"), run)
    dx = back(dy)
    assert_planted_caught(lambda f: assert_close(f(dy, x, index), dx, op="fused_chain", dtype="float32"), vjp)


@pytest.mark.parametrize("step", [0, 2**32 - 1])
def test_noise(step: int) -> None:
    """Parameters of 0 reconstruct 0: from 0 the chain moves by its noise."""
    zeros = {name: to_device(0 * value) for name, value in NETWORK.params.items()}
    silent = gpu.fused_chain(NETWORK.architecture(), zeros)
    assert silent is not None
    index, settings = numbers(9), {"num_steps": 1, "a": 1.0, "delta": 1.0, "clip": False, "first_step": step}
    z = on_device(silent.run)(np.zeros_like(images(9)), sample_index=index, key=KEY, **settings)
    assert_close(z, ref.normal((1, 28, 28), key=KEY, sample_index=index, step=step), op="normal", scale=1.0)


# Against itself, bit by bit --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_image_does_not_see_its_batch() -> None:
    x, index, dy = images(19), numbers(19), gradients(19)
    together, back = run(x, index), vjp(dy, x, index)
    for part in (slice(0, 1), slice(18, 19), slice(4, 7), slice(3, 9)):
        np.testing.assert_array_equal(run(x[part], index[part]), together[part])
        np.testing.assert_array_equal(vjp(dy[part], x[part], index[part]), back[part])


def test_a_chain_in_two_pieces() -> None:
    x, index, dy = images(3), numbers(3), gradients(3)
    whole, back = run(x, index, num_steps=5, first_step=7), vjp(dy, x, index, num_steps=5, first_step=7)
    middle = run(x, index, num_steps=2, first_step=7)
    rest = {"num_steps": 3, "first_step": 9}
    np.testing.assert_array_equal(run(middle, index, **rest), whole)
    between = vjp(dy, middle, index, **rest)
    np.testing.assert_array_equal(vjp(between, x, index, num_steps=2, first_step=7), back)


def test_few_positions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    x, index, dy = images(2), numbers(2), gradients(2)
    whole = vjp(dy, x, index, num_steps=9)
    monkeypatch.setattr(chain, "NUM_KEPT", 0)
    for num_slots in (1, 3):
        monkeypatch.setattr(chain, "NUM_SLOTS", num_slots)
        np.testing.assert_array_equal(vjp(dy, x, index, num_steps=9), whole)


@pytest.mark.slow
@pytest.mark.parametrize("num_kept", [0, 1, 2])
def test_kept_positions_make_no_difference(monkeypatch: pytest.MonkeyPatch, num_kept: int) -> None:
    """Those of the way there, or computed again on the way back: segments of one, two, three and five steps."""
    x, index, dy = images(19), numbers(19), gradients(19)
    whole = vjp(dy, x, index, num_steps=5)
    assert np.isfinite(whole).all()
    monkeypatch.setattr(chain, "NUM_KEPT", num_kept)
    with assert_not_mutated(x, index, dy):
        last, back = on_device(fused().run_with_vjp)(x, sample_index=index, **{**SETTINGS, "num_steps": 5})
        dx = to_host(back(to_device(dy)))
    np.testing.assert_array_equal(last, run(x, index, num_steps=5))
    np.testing.assert_array_equal(dx, whole)


def test_every_image_may_have_its_own_noise() -> None:
    x, index, dy = images(3), numbers(3), gradients(3)
    keys = np.array([(1, 2), KEY, (2**32 - 1, 0)], "uint32")
    together, back = run(x, index, key=keys), vjp(dy, x, index, key=keys)
    for i in range(3):
        one, own = slice(i, i + 1), {"key": tuple(keys[i].tolist())}
        np.testing.assert_array_equal(together[one], run(x[one], index[one], **own))
        np.testing.assert_array_equal(back[one], vjp(dy[one], x[one], index[one], **own))


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "kibibytes"), [(80, 163), (86, 99), (75, 64)])
def test_smaller_devices(monkeypatch: pytest.MonkeyPatch, capability: int, kibibytes: int) -> None:
    """Weights from global memory, fewer images a block."""
    x, index, dy = images(9), numbers(9), gradients(9)
    whole, back = run(x, index), vjp(dy, x, index)
    monkeypatch.setattr(device(), "max_shared", kibibytes * 1024)
    if device().emulated:
        monkeypatch.setattr(device(), "capability", capability)
    assert not chain._variant(9).resident
    np.testing.assert_array_equal(run(x, index), whole)
    np.testing.assert_array_equal(vjp(dy, x, index), back)


def test_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    if not device().emulated:
        pytest.skip("schedules are the emulated device's")
    x, index, dy = images(3), numbers(3), gradients(3)
    results = []
    for schedule in SCHEDULES:
        monkeypatch.setattr(device(), "schedule", schedule)
        results.append(run(x, index).tobytes() + vjp(dy, x, index).tobytes())
    assert len(set(results)) == 1


def test_memory_order() -> None:
    x, index, dy = images(3), numbers(3), gradients(3)
    turned = np.ascontiguousarray(x.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    spread = np.repeat(index, 2)[::2]
    np.testing.assert_array_equal(run(turned, spread), run(x, index))
    np.testing.assert_array_equal(vjp(dy[:, :, ::-1][:, :, ::-1], turned, spread), vjp(dy, x, index))


# Plans -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.integers(1, 40))
def test_plans(num_steps: int, num_slots: int) -> None:
    """Followed by hand: each step is gone back through once, from the last to the first, from the right position."""
    held = {0: 0}  # slot to the number of steps that its position has behind it
    gone_back = []
    for step, source, target in chain.checkpoint_plan(num_steps, num_slots).tolist():
        assert held[source] == step
        if target < 0:
            gone_back.append(step)
        else:
            assert 1 <= target <= num_slots
            held[target] = step + 1
    assert gone_back == list(reversed(range(num_steps)))


@given(st.integers(1, 100), st.integers(1, 40), st.integers(1, 40))
def test_plans_between_kept_positions(num_steps: int, every: int, num_slots: int) -> None:
    num_kept = (num_steps - 1) // every
    held = {number: number * every for number in range(num_kept + 1)}
    gone_back = []
    for step, source, target in chain.backward_plan(num_steps, every, num_slots).tolist():
        assert held[source] == step
        if target < 0:
            gone_back.append(step)
        else:
            assert num_kept < target <= num_kept + num_slots
            held[target] = step + 1
    assert gone_back == list(reversed(range(num_steps)))


def test_plans_cost_little() -> None:
    forward = {n: int((chain.checkpoint_plan(n, 32)[:, 2] >= 0).sum()) for n in (25, 33, 100, 1000, 10000)}
    assert forward[25] == 24
    assert forward[33] == 32
    for n, steps in forward.items():
        assert steps <= 5 * n


# Who uses it -------------------------------------------------------------------------------------------------------


def on_the_device(of: Any) -> Any:
    return malade_gpu.Network(of.layers, {k: to_device(v) for k, v in of.params.items()}, of.input_shape)


def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that are launched from now on."""
    names: list[str] = []
    launch = device().launch

    def noted(file: str, kernel: str, **how: Any) -> None:
        names.append(kernel)
        launch(file, kernel, **how)

    monkeypatch.setattr(device(), "launch", noted)
    return names


def test_other_networks_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    small = malade_ref.sdae("small")
    double = NETWORK.astype("float64")
    architecture = NETWORK.architecture()
    wider = {**architecture, "layers": [{**layer} for layer in architecture["layers"]]}
    wider["layers"][8]["padding"] = 2
    assert gpu.fused_chain(small.architecture(), small.params) is None
    assert gpu.fused_chain(double.architecture(), double.params) is None
    assert gpu.fused_chain(wider, NETWORK.params) is None
    assert ref.fused_chain(architecture, NETWORK.params) is None
    assert gpu.fused_chain(architecture, NETWORK.params) is not None
    monkeypatch.setenv("MALADE_GPU_FUSED", "0")
    assert gpu.fused_chain(architecture, NETWORK.params) is None
    monkeypatch.setenv("MALADE_GPU_FUSED", "perhaps")
    with pytest.raises(InputError, match="MALADE_GPU_FUSED: expected"):
        gpu.fused_chain(architecture, NETWORK.params)


@pytest.mark.slow
def test_the_defence_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One launch for a batch; and the general path, slow here and so tried on its first image, gives the same."""
    classifier = malade_ref.cnn("small")
    settings = {"num_steps": 2, "a": 0.5, "delta": 0.2, "seed": 3}
    defended = malade_gpu.MALADE(on_the_device(classifier), on_the_device(NETWORK), **settings)
    x, y = to_device(images(3)), to_device(np.arange(3))
    launches = launched(monkeypatch)
    purified = to_host(defended.purify(x))
    assert launches == ["chain"]
    gradient = to_host(defended.loss_gradient(x, y))
    assert launches.count("chain_vjp") == 1
    monkeypatch.setenv("MALADE_GPU_FUSED", "0")
    launches.clear()
    assert_close(purified[:1], to_host(defended.purify(x[:1])), op="fused_chain")
    assert_close(gradient[:1], to_host(defended.loss_gradient(x[:1], y[:1])), op="chain")
    assert launches
    assert not {"chain", "chain_vjp"} & set(launches)


def test_complaints() -> None:
    x, index = images(2), numbers(2)
    for call, words in (
        (lambda: run(x[:, :, 1:], index), "x: expected shape"),
        (lambda: run(x.astype("float64"), index), "x: expected float32"),
        (lambda: run(x, index[:1]), "sample_index: expected shape"),
        (lambda: run(x, index, num_steps=-1), "num_steps: expected"),
        (lambda: run(x, index, first_step=2**32 - 1), "first_step: expected"),
        (lambda: run(x, index, key=np.zeros((1, 2), "uint32")), "key: expected shape"),
        (lambda: run(x, index, a=0.0), "a: expected"),
        (lambda: run(x, index, delta=-1.0), "delta: expected"),
        (lambda: vjp(x[:1], x, index), "dy: expected"),
    ):
        with pytest.raises(InputError, match=words):
            call()
