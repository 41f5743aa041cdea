"""What holds for every attack there is: `malade_ref.attacks` is asked which, so that none can be forgotten."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malade_ref import attacks, ops
from malade_ref.attacks import AttackResult
from malade_ref.network import Network, mlp
from tests.ref.test_attacks import SHORT, images, linear_model, rng, small_malade
from tests.tolerances import assert_no_alias, assert_not_mutated

# Settings that make each quick.
EOT = {**SHORT, "num_draws": 2}
DESCENT = {"num_steps": 8, "num_search_steps": 2, "initial_weight": 1.0, "step_size": 0.1}
QUICK: dict[str, dict[str, Any]] = {
    "apgd": {"num_steps": 5},
    "auto_attack": {"num_steps": 2, "num_targets": 1, "num_square_steps": 2, "num_draws": 1},
    "boundary": {"num_steps": 8, "window": 4, "num_checks": 2, "num_starts": 3, "num_line_steps": 2},
    "bpda": SHORT,
    "bpda_eot": EOT,
    "cw": DESCENT,
    "drift_pgd": {**EOT, "weight": 0.1},
    "ead": DESCENT,
    "eot": EOT,
    "fab": {"num_steps": 3},
    "fgm": {},
    "fgsm": {},
    "mim": SHORT,
    "pgd": SHORT,
    "r_pgd": SHORT,
    "salt_and_pepper": {"num_trials": 2},
    "spsa": {"num_steps": 2, "num_directions": 2},
    "square": {"num_steps": 4},
    "transfer": SHORT,
    "uniform_noise": {"num_trials": 2},
}
# What those measure that have one norm only; None for a measure of its own.
OWN_MEASURE = {"fgm": "l2", "boundary": "l2", "cw": "l2", "ead": None, "salt_and_pepper": "l0"}
DISTANCES = {"linf": ops.distance_linf, "l2": ops.distance_l2, "l0": ops.changed_share}


def every_attack() -> list[str]:
    """Functions that give an `AttackResult`; `ascent` judges nothing, and gives another."""
    functions = {name: getattr(attacks, name) for name in attacks.__all__}
    return sorted(
        name
        for name, function in functions.items()
        if inspect.isfunction(function) and inspect.signature(function).return_annotation == "AttackResult"
    )


def test_every_attack_is_here() -> None:
    assert sorted(QUICK) == every_attack()


def norms(name: str) -> list[str | None]:
    """In which norms an attack measures distances; None for another measure."""
    if name in OWN_MEASURE:
        return [OWN_MEASURE[name]]
    parameters = inspect.signature(getattr(attacks, name)).parameters
    return ["linf", "l2"] if "norm" in parameters or name == "transfer" else ["linf"]


CASES = [(name, norm) for name in QUICK for norm in norms(name)]


def attack(name: str, norm: str | None, model: Any, x: Any, y: Any, **own: Any) -> AttackResult:
    """Attack quickly."""
    if "norm" in inspect.signature(getattr(attacks, name)).parameters or name == "transfer":
        own["norm"] = norm
    if name == "transfer":
        own["surrogate"] = mlp(model.input_shape, model.num_classes, seed=5, dtype=model.dtype)
    if name in ("cw", "ead"):
        del own["eps"]
    result: AttackResult = getattr(attacks, name)(model, x, y, **{**QUICK[name], **own})
    return result


def check(result: AttackResult, x: Any, norm: str | None, eps: float) -> None:
    """The forms, the ball and [0, 1], exactly."""
    assert result.x_adv.shape == x.shape
    assert result.x_adv.dtype == x.dtype
    assert_no_alias(result.x_adv, x)
    assert [str(field.dtype) for field in result[1:]] == ["bool", str(x.dtype), "float64", "int64", "int64"]
    assert all(field.shape == (len(x),) for field in result[1:])
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()
    assert np.isfinite(result.loss).all()
    if norm is not None:
        # What was found beyond the ball is not submitted, but said to be so far.
        np.testing.assert_array_equal(result.distance * (result.distance <= eps), DISTANCES[norm](result.x_adv, x))
        assert not result.success[result.distance > eps].any()


@given(
    st.sampled_from(CASES),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([0.0, 1e-8, 0.1, 0.3, 1.0]) | st.floats(0, 1),
    st.integers(0, 2**32),
)
@settings(max_examples=100)
def test_balls(case: tuple[str, str | None], dtype: str, eps: float, seed: int) -> None:
    name, norm = case
    n = seed % 4
    model = mlp((2, 3, 3), 4, hidden=(8,), activation="relu", seed=seed % 7, dtype=dtype)
    x, y = images(n, (2, 3, 3), dtype=dtype, seed=seed), rng(seed).integers(0, 4, n)
    with assert_not_mutated(x, y):
        result = attack(name, norm, model, x, y, eps=eps, seed=seed)
    check(result, x, norm, np.inf if name in ("cw", "ead") else eps)
    assert (result.success == (model.predict(result.x_adv) != y)).all()
    # Rounding depends on how many images there are, and the ensemble's members do not get all.
    expected = model.loss_and_gradient(result.x_adv, y).loss
    np.testing.assert_allclose(result.loss, expected, rtol={"float32": 1e-6, "float64": 1e-12}[dtype])
    wrong = model.predict(x) != y
    assert result.success[wrong].all()
    assert (result.x_adv[wrong] == x[wrong]).all()


# Of four classes: constant; always right about class 1, wrong about the others; saturated; hardly finite.
DULL: dict[str, tuple[Any, Any, list[bool]]] = {
    "constant": (np.zeros((4, 16)), [0.0] * 4, [False, True, True]),
    "decided": (np.zeros((4, 16)), [0.0, 9.0, 0.0, 0.0], [True, False, True]),
    "saturated": (1e4 * np.eye(4, 16), [1e6, 0.0, 0.0, 0.0], [False, True, True]),
    "huge": (np.full((4, 16), 1e100), [0.0] * 4, [False, True, True]),
}


def dull_model(kind: str) -> Network:
    weight, bias, _ = DULL[kind]
    return linear_model(weight, bias, shape=(1, 4, 4))


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_dull_models(name: str, norm: str | None) -> None:
    """On a black image, a white one and a grey one; warnings are errors. Images that are wrong stay as they are."""
    x = np.stack([np.zeros((1, 4, 4)), np.ones((1, 4, 4)), np.full((1, 4, 4), 0.25)])
    for kind, (_, _, success) in DULL.items():
        result = attack(name, norm, dull_model(kind), x, np.arange(3), eps=0.2)
        check(result, x, norm, np.inf if name in ("cw", "ead") else 0.2)
        assert result.success.tolist() == success, kind
        assert (result.x_adv[success] == x[success]).all()
        assert (result.distance[success] == 0).all()


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_random_models_and_no_images(name: str, norm: str | None) -> None:
    version = {"version": "rand"} if name == "auto_attack" else {}
    for n in (0, 2):
        x, y = images(n, (1, 4, 4), dtype="float32"), np.arange(n)
        model = small_malade(dtype="float32")
        result = attack(name, norm, model, x, y, eps=0.2, num_judge_draws=2, **version)
        check(result, x, norm, np.inf if name in ("cw", "ead") else 0.2)
