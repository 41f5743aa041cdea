"""The audit flags what is planted, names the number, and leaves sound evaluations alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from malade_ref import ops
from malade_ref.audit import NOT_RUN, OK, WARNING, Finding, audit, eot_check, gradient_check
from malade_ref.checks import InputError
from malade_ref.defence import MALADE
from malade_ref.evaluation import Cell
from malade_ref.experiment.config import Attack, Defence
from malade_ref.experiment.run import _description
from malade_ref.experiment.stages import clean_outcome, correct_draws, run_attack
from malade_ref.layers import Reshape
from malade_ref.network import LossGradient, Network, mlp
from tests.outcomes import ATTACKS, CHECKS, DEFENCES, MadeAttack, made_cells

SHAPE = (1, 6, 6)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def warned(cells: list[Cell], checks: Any = CHECKS) -> dict[str, str]:
    """Messages of the failed checks."""
    return {finding.name: finding.message for finding in audit(cells, checks) if finding.status == WARNING}


# Outcomes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [30, 200])
def test_sound_outcomes_pass(num_samples: int) -> None:
    findings = by_name(audit(made_cells(num_samples=num_samples), CHECKS))
    assert {name for name, finding in findings.items() if finding.status == WARNING} == set()
    assert {name for name, finding in findings.items() if finding.status == NOT_RUN} == {
        "stronger with steps",
        "stronger with EOT draws",
        "white box no weaker than black box",
    }
    assert "0.0% at eps 0.6" in findings["large eps breaks everything"].message


def test_nothing_to_check_is_not_run() -> None:
    clean = [cell for cell in made_cells(num_samples=5) if cell.attack == "clean"]
    findings = audit(clean, None)
    assert {finding.status for finding in findings} == {NOT_RUN, OK}
    assert [finding.name for finding in findings if finding.status == OK] == ["attacker and defender count alike"]
    assert [finding.name for finding in findings] == [finding.name for finding in audit(made_cells(num_samples=5))]


def changed_attack(name: str, **changes: Any) -> list[Cell]:
    """Outcomes with one attack other than it should be."""
    return made_cells(attacks={**ATTACKS, name: ATTACKS[name]._replace(**changes)})


@pytest.mark.parametrize(
    ("cells", "check", "number"),
    [
        (lambda: changed_attack("exact", strength=0.4), "exact gradient no weaker than BPDA", "exact and bpda: 9"),
        (lambda: changed_attack("transfer", strength=1.3), "white box no weaker than transfer", "exact and transfer: "),
        (
            lambda: changed_attack("pgd", strength=0.3),
            "iterative no weaker than one-step",
            "cnn, linf 0.3, pgd and fgsm",
        ),
        (lambda: changed_attack("noise", strength=1.5), "attacks stronger than random noise", "pgd and noise: "),
        (lambda: changed_attack("exact", num_gradients=40), "compute is comparable", "40 exact and 400 BPDA"),
    ],
)
def test_weak_attacks_are_flagged(cells: Callable[[], list[Cell]], check: str, number: str) -> None:
    found = warned(cells())
    assert check in found
    assert number in found[check]


@pytest.mark.parametrize(("strength", "status"), [(0.9, OK), (1.3, WARNING)])
def test_attacks_without_gradients_are_no_stronger(strength: float, status: str) -> None:
    square = MadeAttack(strength, ("cnn",), "square", {"num_steps": 100}, num_gradients=0, title="square")
    findings = by_name(audit(made_cells(attacks={**ATTACKS, "square": square}), CHECKS))
    assert findings["white box no weaker than black box"].status == status
    assert "pgd and square" in findings["white box no weaker than black box"].message
    others = {name for name, finding in findings.items() if finding.status == WARNING}
    assert others <= {"white box no weaker than black box"}


def test_accuracy_that_stays_at_large_eps_is_flagged() -> None:
    found = warned(made_cells(defences={"cnn": DEFENCES["cnn"]._replace(radius=2.0)}))
    assert set(found) == {"large eps breaks everything"}
    assert "expected at most 5.0%" in found["large eps breaks everything"]
    small = by_name(audit(made_cells(eps=(0.1, 0.3)), CHECKS))["large eps breaks everything"]
    assert small == ("large eps breaks everything", NOT_RUN, "needs Linf eps >= 0.5, the largest is 0.3")


def test_accuracy_that_rises_with_eps_is_flagged() -> None:
    cells = made_cells()
    exact = [cell for cell in cells if cell.defence == "madry+malade" and cell.attack == "exact"]
    small, large = (next(cell for cell in exact if cell.eps == eps) for eps in (0.1, 0.3))
    others = [cell for cell in cells if cell not in (small, large)]
    swapped = [small._replace(arrays=large.arrays), large._replace(arrays=small.arrays)]
    found = warned(others + swapped)
    assert "madry+malade, exact, eps 0.3 and 0.1: 94" in found["stronger with eps"]


@pytest.mark.parametrize(
    ("key", "check"), [("num_steps", "stronger with steps"), ("num_draws", "stronger with EOT draws")]
)
@pytest.mark.parametrize("sound", [True, False])
def test_ladders(key: str, check: str, sound: bool) -> None:
    attack = ATTACKS["exact"]
    strength = (0.7, 0.95) if sound else (0.95, 0.7)
    steps = {
        f"exact-{number}": attack._replace(settings={**attack.settings, key: number}, strength=value)
        for number, value in zip((20, 100), strength, strict=True)
    }
    finding = by_name(audit(made_cells(attacks=steps), CHECKS))[check]
    assert finding.status == (OK if sound else WARNING)
    if not sound:
        assert f"100 and 20 {key.removeprefix('num_')}" in finding.message


def test_attacks_that_differ_otherwise_are_no_ladder() -> None:
    attack = ATTACKS["exact"]
    attacks = {
        "slow": attack._replace(settings={"num_steps": 100, "step_size": 0.001}, strength=0.2),
        "fast": attack._replace(settings={"num_steps": 20, "step_size": 0.05}),
    }
    assert by_name(audit(made_cells(attacks=attacks)))["stronger with steps"].status == NOT_RUN


def test_attacks_outside_their_ball_are_flagged() -> None:
    cells = made_cells(num_samples=20)
    number = next(i for i, cell in enumerate(cells) if cell.name == "cnn/pgd/0.3")
    distance = cells[number].arrays["distance"].copy()
    distance[3] = 0.3001
    cells[number] = cells[number]._replace(arrays={**cells[number].arrays, "distance": distance})
    assert warned(cells) == {"attacks stay in their ball": "cnn/pgd/0.3: distance 0.3001"}


def test_a_success_that_is_none_is_flagged() -> None:
    cells = made_cells(num_samples=20)
    number = next(i for i, cell in enumerate(cells) if cell.name == "madry/pgd/0.1")
    success = ~cells[number].arrays["success"]
    success[5:] = cells[number].arrays["success"][5:]
    cells[number] = cells[number]._replace(arrays={**cells[number].arrays, "success": success})
    assert warned(cells) == {"attacker and defender count alike": "they differ on madry/pgd/0.1: 5 images"}


@pytest.mark.parametrize(
    ("gradient", "number"),
    [
        ({"relative_error": 0.02, "zero_share": 0.0, "num_samples": 4}, "cnn: relative error 2.0e-02"),
        ({"relative_error": 0.0, "zero_share": 0.75, "num_samples": 4}, "cnn: zero on 75.0% of 4 images"),
    ],
)
def test_wrong_gradients_are_flagged(gradient: dict[str, Any], number: str) -> None:
    found = warned(made_cells(num_samples=20), {**CHECKS, "gradient": {**CHECKS["gradient"], "cnn": gradient}})
    assert number in found["gradient equals finite differences"]


def test_eot_is_judged_with_the_draws_of_the_attacks() -> None:
    def message(cosine: list[float], num_draws: int) -> Finding:
        settings = {**ATTACKS["exact"].settings, "num_draws": num_draws}
        cells = made_cells(attacks={"exact": ATTACKS["exact"]._replace(settings=settings)}, num_samples=20)
        check = {"num_draws": [1, 10, 30], "cosine": cosine, "num_samples": 16}
        return by_name(audit(cells, {"eot": {"cnn+malade": {"exact": check}}}))["EOT gradient has enough draws"]

    assert message([0.1, 0.6, 0.75], 10).status == OK
    assert "about 90 needed for 0.9" in message([0.1, 0.6, 0.75], 10).message
    assert message([0.1, 0.6, 0.75], 1) == (
        "EOT gradient has enough draws",
        WARNING,
        "cnn+malade, exact: cosine 0.10 between gradients of 1 draw, insufficient (about 90 needed for 0.9)",
    )
    assert message([0.1, 0.3, 0.6], 30).status == OK
    assert "no number of draws" in message([0.0, -0.1, -0.01], 30).message


# Models --------------------------------------------------------------------------------------------------------------


class Masked:
    """A classifier whose gradient does not say how its loss changes."""

    stochastic = False

    def __init__(self, network: Network, how: str) -> None:
        self.network, self.how = network, how
        self.ops, self.dtype = network.ops, network.dtype
        self.input_shape, self.num_classes = network.input_shape, network.num_classes

    def astype(self, dtype: str) -> Masked:
        return Masked(self.network.astype(dtype), self.how)

    def logits(self, x: np.ndarray) -> np.ndarray:
        logits = self.network.logits(x)
        return np.round(2 * logits) / 2 if "rounded" in self.how else logits

    def predict(self, x: np.ndarray) -> np.ndarray:
        return ops.argmax(self.logits(x))

    def loss_and_gradient(self, x: np.ndarray, y: np.ndarray, **_: Any) -> LossGradient:
        loss, logits, gradient = self.network.loss_and_gradient(x, y)
        if "rounded" in self.how:
            logits = np.round(2 * logits) / 2
            loss = ops.softmax_cross_entropy(logits, y)
        factor = {"zero gradient": 0.0, "flat rounded logits": 0.0, "gradient off by 0.1%": 1.001}.get(self.how, 1.0)
        return LossGradient(loss, logits, factor * gradient)


@pytest.fixture(scope="module")
def classifier() -> Network:
    return mlp(SHAPE, 5, hidden=(32,), activation="relu")


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((6, *SHAPE), dtype=np.float32), rng.integers(0, 5, 6)


def chain(classifier: Network, *, delta: float, num_steps: int = 3) -> MALADE:
    """A random defence, with a denoiser that was never trained."""
    denoiser = mlp(SHAPE, SHAPE[1] * SHAPE[2], hidden=(16,), seed=1)
    denoiser = Network([*denoiser.layers, Reshape(SHAPE)], denoiser.params, SHAPE)
    return MALADE(classifier, denoiser, num_steps=num_steps, a=0.3, delta=delta)


def flagged(model: Any, x: np.ndarray, y: np.ndarray) -> bool:
    """Whether the audit of one model's gradient fails."""
    check = gradient_check(model, x, y)._asdict()
    return by_name(audit([], {"gradient": {"model": check}}))["gradient equals finite differences"].status == WARNING


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        *(("rounded logits", True), ("flat rounded logits", True), ("zero gradient", True)),
        *(("gradient off by 0.1%", True), ("sound", False)),
    ],
)
def test_masked_gradients_are_flagged(
    classifier: Network, batch: tuple[np.ndarray, np.ndarray], how: str, expected: bool
) -> None:
    assert flagged(Masked(classifier, how), *batch) == expected


@pytest.mark.parametrize("num_steps", [1, 5, 25])
def test_the_chain_has_the_gradient_it_says(
    classifier: Network, batch: tuple[np.ndarray, np.ndarray], num_steps: int
) -> None:
    defended = chain(classifier, delta=0.1, num_steps=num_steps)
    assert not flagged(defended, *batch)
    assert gradient_check(defended, *batch).relative_error < 1e-6


def test_gradient_check_of_a_black_image(batch: tuple[np.ndarray, np.ndarray]) -> None:
    # Rectifiers without bias on a black image stand at their kinks.
    x, y = np.zeros_like(batch[0]), batch[1]
    assert gradient_check(mlp(SHAPE, 5, activation="relu"), x, y).relative_error < 1e-6


def test_eot_of_little_and_of_huge_noise(classifier: Network, batch: tuple[np.ndarray, np.ndarray]) -> None:
    little = eot_check(chain(classifier, delta=0.01), *batch, num_draws=(1, 8))
    huge = eot_check(chain(classifier, delta=3.0), *batch, num_draws=(8, 1, 8))
    assert little.num_draws == huge.num_draws == [1, 8]
    assert little.cosine[0] > 0.8
    assert little.cosine[1] > little.cosine[0]
    assert huge.cosine[1] < 0.5
    checks = {"eot": {name: {"exact": found._asdict()} for name, found in (("little", little), ("huge", huge))}}
    finding = by_name(audit([], checks))["EOT gradient has enough draws"]
    assert finding.status == WARNING
    assert finding.message.count("insufficient") == 1


def test_eot_gradients_follow_the_mean(classifier: Network, batch: tuple[np.ndarray, np.ndarray]) -> None:
    # The cosine of two means of k draws is about 1 / (1 + c / k).
    found = eot_check(chain(classifier, delta=0.3), *batch, num_draws=(4, 64))
    odds = [1 / cosine - 1 for cosine in found.cosine]
    assert 8 < odds[0] / odds[1] < 32


def test_checks_of_a_deterministic_model(classifier: Network, batch: tuple[np.ndarray, np.ndarray]) -> None:
    assert eot_check(classifier, *batch, num_draws=(1,)).cosine == pytest.approx([1.0])
    zeros = eot_check(Masked(classifier, "zero gradient"), *batch, num_draws=(1,))
    assert zeros.cosine == [0.0]


def test_bad_input(classifier: Network, batch: tuple[np.ndarray, np.ndarray]) -> None:
    none = batch[0][:0], batch[1][:0]
    for call in (
        lambda: gradient_check(classifier, *none),
        lambda: gradient_check(classifier, *batch, step=0.0),
        lambda: eot_check(classifier, *none),
        lambda: eot_check(classifier, *batch, num_draws=()),
        lambda: eot_check(classifier, *batch, num_draws=(0, 3)),
    ):
        with pytest.raises(InputError):
            call()


# The whole way: attack masked classifiers, judge them, audit the outcomes ---------------------------------------------

BATTERY: tuple[dict[str, Any], ...] = (
    {"name": "noise", "method": "uniform_noise"},
    {"name": "fgsm", "method": "fgsm"},
    {"name": "pgd", "method": "pgd", "settings": {"num_steps": 10, "step_size": 0.05}},
    {"name": "transfer", "method": "pgd", "settings": {"num_steps": 10, "step_size": 0.05}, "source": "classifier"},
    {"name": "square", "method": "square", "settings": {"num_steps": 30}},
)
# What happens to attacks that follow a gradient that is not there.
LOST = {
    *("white box no weaker than transfer", "white box no weaker than black box"),
    *("attacks stronger than random noise", "gradient equals finite differences"),
}


def outcomes(bare: Network, model: Any, x: np.ndarray, y: np.ndarray) -> tuple[list[Cell], dict[str, Any]]:
    """What a run of an experiment would store of a defence: its outcomes, and what was found by looking into it."""
    name, index = "mlp" if model is bare else "mlp+planted", np.arange(len(x))
    defence = Defence(name=name, classifier="mlp", denoiser=None if model is bare else "planted")

    def cell(attack: Attack | None, eps: float, found: dict[str, Any]) -> Cell:
        meta = _description(name, {name: defence}, attack, eps)
        correct = correct_draws(model, found.pop("x_adv"), y, num_draws=20, sample_index=index)
        return Cell(name, meta["attack"], eps, meta, {**found, "correct": correct, "sample_index": index})

    cells = [cell(None, 0.0, clean_outcome(model, x, y, sample_index=index, seed=0))]
    for table in BATTERY:
        attack = Attack(against=(name,), eps=(0.1, 0.5), **table)
        victim = bare if attack.source == "classifier" else model
        for eps in attack.eps:
            cells.append(cell(attack, eps, run_attack(attack, victim, x, y, sample_index=index, seed=0, eps=eps)))
    checks = {"gradient": {name: gradient_check(model, x[:4], y[:4])._asdict()}}
    if model.stochastic:
        checks["eot"] = {name: {"exact": eot_check(model, x[:8], y[:8], num_draws=(1, 8))._asdict()}}
    return cells, checks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("plain", set()),
        ("zero gradient", LOST),
        ("flat rounded logits", LOST),
        ("rounded logits", {"gradient equals finite differences"}),
        ("huge noise", {"EOT gradient has enough draws", "large eps breaks everything"}),
    ],
)
def test_planted_masking_is_flagged_all_the_way(classifier: Network, how: str, expected: set[str]) -> None:
    planted = {"plain": classifier, "huge noise": chain(classifier, delta=3.0, num_steps=1)}
    model = planted.get(how) or Masked(classifier, how)
    x = np.random.default_rng(0).random((60, *SHAPE), dtype=np.float32)
    y = classifier.predict(x)
    assert set(warned(*outcomes(classifier, model, x, y))) == expected
