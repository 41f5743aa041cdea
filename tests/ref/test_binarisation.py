"""What an attack must find because it is there, whether it has converged, and masks that both see through."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref.attacks import AttackResult, Oracle, pgd, square, uniform_noise
from malade_ref.audit import NOT_RUN, OK, WARNING, Finding, audit
from malade_ref.binarisation import Binarisation, binarisation_check
from malade_ref.checks import InputError
from malade_ref.convergence import Convergence, convergence, convergence_check
from malade_ref.defence import MALADE
from malade_ref.experiment import read_experiment, run_experiment
from malade_ref.experiment.reading import settings_of
from malade_ref.layers import Reshape
from malade_ref.network import LossGradient, Network, cnn, mlp
from malade_ref.report import check_report
from tests.outcomes import ATTACKS, CHECKS, made_cells
from tests.ref.test_attacks_cards import EXPERIMENT

SHAPE = (1, 5, 5)
KNOWN, STEPS = "attack finds what is known to exist", "attacks have converged"


def classifier(*, dtype: str = "float64") -> Network:
    return mlp(SHAPE, 4, hidden=(40,), activation="relu", dtype=dtype, seed=1)


def photographs(n: int = 4) -> Any:
    return np.random.default_rng(0).uniform(0.3, 0.7, (n, *SHAPE))


def finding(name: str, cells: Any = (), **checks: Any) -> Finding:
    return {one.name: one for one in audit(cells, checks)}[name]


class Shattered:
    """A classifier of images that are rounded to a few levels first; its exact gradient is zero."""

    stochastic = False

    def __init__(self, network: Network) -> None:
        self.network = network
        self.ops, self.dtype = network.ops, network.dtype
        self.input_shape, self.num_classes = network.input_shape, network.num_classes

    def rounded(self, x: Any) -> Any:
        return np.round(8 * x) / 8

    def logits(self, x: Any) -> Any:
        return self.network.logits(self.rounded(x))

    def loss_and_gradient(self, x: Any, y: Any, **settings: Any) -> LossGradient:
        found = self.network.loss_and_gradient(self.rounded(x), y, **settings)
        return found._replace(gradient=0 * found.gradient)


class Cut(MALADE):
    """A chain whose gradient does not get back."""

    def loss_and_gradient(self, *arguments: Any, **settings: Any) -> LossGradient:
        found = super().loss_and_gradient(*arguments, **settings)
        return found._replace(gradient=0 * found.gradient)


def chain(kind: type[MALADE], f: Network) -> MALADE:
    r = mlp(SHAPE, 25, hidden=(16,), seed=2, dtype=f.dtype)
    r = Network([*r.layers, Reshape(SHAPE)], r.params, SHAPE)
    return kind(f, r, num_steps=2, a=0.2, delta=0.02)


ATTACK = partial(pgd, num_steps=10, step_size=0.05, loss="margin")
QUICK: dict[str, Any] = {"eps": 0.15, "attack": ATTACK, "num_inner": 15, "num_judge_draws": 2}
QUICK["search"] = partial(square, num_steps=40)


# The binarisation test -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sound_attack_finds_what_is_there(norm: str) -> None:
    size: dict[str, Any] = {"linf": {}, "l2": {"eps": 0.6, "attack": partial(ATTACK, step_size=0.2)}}[norm]
    found = binarisation_check(classifier(), photographs(), norm=norm, **{**QUICK, **size})
    assert found.num_problems == found.num_images == 4
    assert found.found == 1
    assert found.sound
    assert finding(KNOWN, binarisation={"mlp": found._asdict()}).status == OK


def test_what_is_known_is_no_easy_find() -> None:
    """Points at random solve few of the problems, or the test would say nothing."""
    blind = binarisation_check(classifier(), photographs(), **{**QUICK, "attack": partial(uniform_noise, num_trials=3)})
    assert blind.found < 0.5
    assert not blind.sound


@pytest.mark.parametrize("how", ["quantised", "cut"])
def test_masking_is_flagged_by_the_binarisation_test(how: str) -> None:
    around: Any = {"quantised": Shattered, "cut": lambda f: chain(Cut, f)}[how]
    masked = binarisation_check(classifier(), photographs(), around=around, **QUICK)
    assert masked.found < 0.5
    assert masked.found_by_search > masked.found
    assert not masked.sound
    good = Binarisation(1.0, 1.0, 6, 6, 0.15, "linf")
    told = finding(KNOWN, binarisation={"sound": good._asdict(), how: masked._asdict()})
    assert told.status == WARNING
    assert f"{how}: the attack found {100 * masked.found:.1f}% of {masked.num_problems} images" in told.message


def test_a_chain_whose_gradient_is_whole_passes() -> None:
    found = binarisation_check(chain(MALADE, classifier()), photographs(), **QUICK)
    assert found.num_problems == 4
    assert found.sound


def test_a_weak_attack_is_flagged() -> None:
    attack = partial(pgd, num_steps=2, step_size=1e-3)
    assert not binarisation_check(classifier(), photographs(), **{**QUICK, "attack": attack}).sound


def test_the_known_image_is_a_success_and_the_clean_one_is_not() -> None:
    """Every problem handed to the attack has a solution on the surface of the ball, and a centre that is right."""
    seen: list[Any] = []

    def watched(model: Any, x: Any, y: Any, *, eps: float, norm: str, **asked: Any) -> AttackResult:
        seen.append((model, x))
        assert model.num_classes == 2
        assert not Oracle(model, x, y, **asked).judge(x)[0].success.any()
        return ATTACK(model, x, y, eps=eps, norm=norm, **asked)

    own: dict[str, Any] = {**QUICK, "attack": watched, "eps": 0.1}
    found = binarisation_check(cnn("small", dtype="float64"), np.full((2, 1, 28, 28), 0.5), **own)
    assert len(seen) == found.num_problems == 2
    assert found.sound


def test_without_a_problem_there_is_no_verdict() -> None:
    """A network that looks at nothing cannot tell points apart."""
    blind = classifier()
    blind = blind.replace_params({name: 0 * value for name, value in blind.params.items()})
    found = binarisation_check(blind, photographs(2), **QUICK)
    assert found == (0.0, 0.0, 0, 2, 0.15, "linf")
    assert not found.sound
    assert str(found) == "no problem could be made of 2 images"


# Convergence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_steps", "accuracy", "slope", "converged"),
    [
        ([10, 20, 40], [0.5, 0.3, 0.29], 0.01, True),
        ([10, 20, 40], [0.5, 0.3, 0.28], 0.02, False),
        ([20, 80], [0.5, 0.48], 0.01, True),  # two doublings
        ([20, 30], [0.5, 0.49], 0.01 / np.log2(1.5), False),
        ([1, 2], [0.2, 0.3], -0.1, True),
    ],
)
def test_the_slope(num_steps: list[int], accuracy: list[float], slope: float, converged: bool) -> None:
    found = convergence(num_steps, accuracy)
    assert found.slope == pytest.approx(slope)
    assert found.converged == converged
    assert str(found).startswith("not converged: ") != converged
    assert finding(STEPS, convergence={"pgd": found._asdict()}).status == (OK if converged else WARNING)


@pytest.mark.parametrize(("step_size", "converged"), [(0.05, True), (0.002, False)])
def test_an_attack_that_has_not_converged_is_flagged(step_size: float, converged: bool) -> None:
    model, x = classifier(), photographs(40)
    settings: dict[str, Any] = {"eps": 0.05, "step_size": step_size, "random_start": False, "attack": pgd}
    found = convergence_check(model, x, model.predict(x), num_steps=(5, 10, 20), **settings)
    assert found.converged == converged
    assert found.num_steps == [5, 10, 20]
    assert found.accuracy == sorted(found.accuracy, reverse=True)


@pytest.mark.parametrize(("strength", "status"), [((0.5, 0.9, 0.9), OK), ((0.5, 0.7, 0.95), WARNING)])
def test_ladders_of_experiments(strength: tuple[float, ...], status: str) -> None:
    attack = ATTACKS["exact"]
    steps = {
        f"exact-{number}": attack._replace(settings={**attack.settings, "num_steps": number}, strength=value)
        for number, value in zip((20, 40, 80), strength, strict=True)
    }
    cells = [cell for cell in made_cells(attacks=steps, num_samples=1000) if cell.defence == "cnn+malade"]
    told = finding(STEPS, cells, convergence={})
    assert told.status == status
    assert ("not converged" in told.message) == (status == WARNING)
    assert "cnn+malade, linf 0.1, pgd" in told.message
    assert STEPS not in {one.name for one in audit(cells, CHECKS)}, "asked for"
    assert finding(STEPS, cells[:1], convergence={}).status == NOT_RUN


# Experiments ---------------------------------------------------------------------------------------------------------

AUDITED = """
[[attacks]]
name = "pgd-1"
method = "pgd"
num_steps = 1
against = ["cnn"]
eps = [0.2]

[[attacks]]
name = "pgd-2"
method = "pgd"
num_steps = 2
against = ["cnn"]
eps = [0.2]

[evaluation]
num_images = 12
num_draws = 1

[audit]
gradient_images = 1
binarisation_images = 1
binarisation_eps = 0.2
convergence = true
"""


@pytest.mark.slow
def test_experiments_ask_for_both(tmp_path: Path) -> None:
    text = EXPERIMENT.partition("[[attacks]]")[0] + AUDITED
    (tmp_path / "some.toml").write_text(text)
    run_experiment(read_experiment(str(tmp_path / "some.toml")), tmp_path / "bundle")
    assert check_report(tmp_path / "bundle") == []
    told = {one["name"]: one for one in json.loads((tmp_path / "bundle" / "results.json").read_text())["audit"]}
    assert "of 1 image known to exist (linf 0.2)" in told[KNOWN]["message"]
    assert told[KNOWN]["status"] in (OK, WARNING)
    assert "cnn, linf 0.2, pgd: " in told[STEPS]["message"]
    assert "after 1, " in told[STEPS]["message"]
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())
    assert config["audit"]["binarisation_eps"] == 0.2


def test_what_is_not_asked_for_is_not_recorded(tmp_path: Path) -> None:
    (tmp_path / "some.toml").write_text(EXPERIMENT.replace('method = "toy"', 'method = "pgd"'))
    config = settings_of(read_experiment(str(tmp_path / "some.toml")).experiment)
    assert config["audit"] == {"gradient_images": 2, "eot_images": 16, "eot_draws": 32}


# Complaints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: binarisation_check(classifier(), photographs(0), eps=0.1), "x: expected at least one image"),
        (lambda: binarisation_check(classifier(), photographs(), eps=0.0), "eps: expected a finite number > 0"),
        (
            lambda: binarisation_check(classifier(), photographs(), eps=0.1, num_inner=0),
            "num_inner: expected an integer",
        ),
        (lambda: binarisation_check(Shattered(classifier()), photographs(), eps=0.1), "model: expected a Network or"),
        (lambda: binarisation_check(mlp(SHAPE, 3, hidden=()), photographs(), eps=0.1), "model: expected a layer with"),
        (lambda: convergence([10], [0.5]), "num_steps: expected at least two numbers"),
        (lambda: convergence([20, 10], [0.5, 0.4]), "num_steps: expected at least two numbers"),
        (lambda: convergence_check(classifier(), photographs(0), np.zeros(0, int)), "x: expected at least one image"),
        (
            lambda: convergence_check(classifier(), photographs(1), np.zeros(1, int), num_steps=(20, 10)),
            "num_steps: expected at least two",
        ),
    ],
)
def test_complaints(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_findings_come_back_from_what_is_stored() -> None:
    kept = Convergence([10, 20], [0.5, 0.4], 0.1, False)
    told = finding(STEPS, convergence={"a": kept._asdict()})
    assert "a: not converged: 50.0% after 10, 40.0% after 20 steps; 10.0 points" in told.message
