"""Losses that attacks raise, targets, and restarts of what still stands."""

from __future__ import annotations

import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref import attacks, ops
from malade_ref.attacks import AttackResult, Oracle, apgd, eot, fab, pgd, transfer
from malade_ref.attacks.oracle import JUDGE
from malade_ref.checks import InputError
from malade_ref.experiment import read_experiment
from malade_ref.experiment.config import Method
from malade_ref.experiment.stages import run_attack
from malade_ref.network import LOSSES, Network, mlp
from malade_ref.sampling import Stream
from tests.ref.test_attacks import Counted, W, images, inner_images, linear_model, optimum_linf, small_malade
from tests.ref.test_attacks_cards import EXPERIMENT

SHORT = {"step_size": 0.02, "num_steps": 10, "eps": 0.1}
CLIMBS = ("pgd", "eot", "bpda", "bpda_eot", "mim", "r_pgd", "drift_pgd", "apgd")
AIMED = (*CLIMBS, "fgsm", "fgm", "fab", "cw", "ead")


def network(k: int = 5, *, scale: float = 1.0, seed: int = 2) -> Network:
    """Of images of 4x4 pixels; a scale makes it sure of itself."""
    model = mlp((1, 4, 4), k, hidden=(16,), activation="relu", dtype="float64", seed=seed)
    last = list(model.params)[-2:]
    return model.replace_params({name: value * (scale if name in last else 1) for name, value in model.params.items()})


def attacked(name: str, model: Any, x: Any, y: Any, **own: Any) -> AttackResult:
    """Attack in ten steps."""
    known = attacks.cards.card_of(name).parameters
    settings = {**SHORT, "num_draws": 2, "num_judge_draws": 3, "num_search_steps": 4, "initial_weight": 1.0, **own}
    result: AttackResult = getattr(attacks, name)(model, x, y, **{k: v for k, v in settings.items() if k in known})
    return result


# Losses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CLIMBS, "fgsm", "fgm"])
@pytest.mark.parametrize("loss", LOSSES)
def test_attacks_raise_the_loss_that_they_are_given(name: str, loss: str) -> None:
    """What a saturated classifier hides from the cross entropy, the margin and the ratio see."""
    sure = network(scale=1e4)
    x = images(12, (1, 4, 4))
    y = sure.predict(x)
    found = attacked(name, sure, x, y, loss=loss, eps=0.3, step_size=0.1)
    blind = name in ("fgsm", "fgm", "mim") or loss == "ce"  # one step, or a start at the clean image
    if loss == "ce":
        assert found.success.mean() < 0.3
    else:
        assert found.success.mean() > (0.4 if blind else 0.7)
    assert np.array_equal(found.success, sure.predict(found.x_adv) != y)


@pytest.mark.parametrize("loss", LOSSES[1:])
def test_losses_are_those_of_the_iterates(loss: str) -> None:
    model, x = network(), images(6, (1, 4, 4))
    y, seen = model.predict(x), []
    asked: list[Any] = []

    class Watched(Counted):
        def loss_and_gradient(self, x: Any, y: Any, **settings: Any) -> Any:
            asked.append(x)
            return super().loss_and_gradient(x, y, **settings)

    pgd(Watched(model), x, y, **SHORT, loss=loss, record=lambda _, values: seen.append(values))
    own = {"margin": ops.margin_loss, "dlr": ops.dlr_loss}[loss]
    for point, values in zip(asked, seen, strict=False):
        np.testing.assert_allclose(values, own(model.logits(point), y), rtol=1e-9)
    assert all((after > before - 1e-9).all() for before, after in pairwise(seen[:4]))


@pytest.mark.parametrize("loss", ["margin", ["margin"], ["ce", "margin"]])
def test_the_margin_reaches_the_corner(loss: Any) -> None:
    """On a linear classifier every loss has the same optimum."""
    model = linear_model(W, [9.0, 0.0], shape=(1, 3, 4))
    x, y = inner_images()
    found = pgd(model, x, y, eps=0.2, step_size=0.02, num_steps=25, num_restarts=2, loss=loss)
    np.testing.assert_allclose(found.x_adv, optimum_linf(x, 0.2), atol=1e-12)


@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_restarts_take_losses_in_turn(name: str) -> None:
    model, x = network(), images(6, (1, 4, 4))
    y = model.predict(x)

    def curves(**own: Any) -> Any:
        seen: list[Any] = []
        attacked(name, model, x, y, num_restarts=4, **own, record=lambda _, loss: seen.append(loss))
        return np.reshape(seen, (4, 11, 6))

    cycled = curves(loss=["ce", "margin", "dlr"])
    for restart, loss in enumerate(("ce", "margin", "dlr", "ce")):
        np.testing.assert_allclose(cycled[restart], curves(loss=loss)[restart], rtol=1e-12)


def test_several_losses_are_no_weaker_than_each() -> None:
    x = images(20, (1, 4, 4))
    for scale in (1.0, 1e4):
        model = network(scale=scale)
        y = model.predict(x)
        mixed = pgd(model, x, y, **SHORT, num_restarts=3, loss=LOSSES)
        alone = [pgd(model, x, y, **SHORT, num_restarts=r + 1, loss=loss) for r, loss in enumerate(LOSSES)]
        assert mixed.success.sum() >= alone[0].success.sum()
        assert mixed.success.sum() >= max(one.success.sum() for one in alone) - 1
        assert (mixed.loss == model.loss_and_gradient(mixed.x_adv, y).loss).all(), "reported is the cross entropy"


def test_losses_of_random_models_are_means_over_draws() -> None:
    model, x, y = small_malade(), 0.1 + 0.8 * images(4, (1, 4, 4)), np.array([0, 1, 2, 0])
    oracle = Oracle(model, x, y, num_draws=3, common_draws=True)
    step, direction = 1e-5, images(4, (1, 4, 4), seed=9)
    for loss in LOSSES:
        _, gradient = oracle.gradient(x, loss=loss)
        up, down = (oracle.query(x + side * step * direction, loss=loss).loss for side in (1, -1))
        np.testing.assert_allclose((gradient * direction).sum(axis=(1, 2, 3)), (up - down) / (2 * step), rtol=1e-4)


def test_experiments_may_list_losses(tmp_path: Path) -> None:
    text = EXPERIMENT.replace('method = "toy"', 'method = "pgd"\nnum_restarts = 2\nretire = true\nloss = ["ce", "dlr"]')
    (tmp_path / "some.toml").write_text(text)
    read = read_experiment(str(tmp_path / "some.toml")).experiment.attacks[0]
    assert read.resolved()["loss"] == ["ce", "dlr"]
    assert read.card.costs(read.settings).gradients == 200
    x = images(2, (1, 4, 4))
    found = run_attack(read, network(), x, np.array([0, 1]), sample_index=np.arange(2), seed=0, eps=0.1, num_steps=2)
    assert found["x_adv"].shape == x.shape
    for bad, words in (('num_steps = ["a"]', "expected int"), ("loss = 3", "expected str")):
        (tmp_path / "bad.toml").write_text(EXPERIMENT.replace('method = "toy"', f'method = "pgd"\n{bad}'))
        with pytest.raises(InputError, match=words):
            read_experiment(str(tmp_path / "bad.toml"))
    assert tomllib.loads(text)["attacks"][0]["loss"] == ["ce", "dlr"]
    assert Method(method="fgsm", settings={"loss": "dlr"}).resolved()["loss"] == "dlr"


# Targets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AIMED)
def test_targets(name: str) -> None:
    """What succeeds is taken for the target, and an image that is the target already stays where it is."""
    model, x = network(), images(8, (1, 4, 4))
    named = model.predict(x)
    y, targets = (named + 1) % 5, (named + 2) % 5  # wrong to begin with: that alone is no success
    targets[0] = named[0]
    found = attacked(name, model, x, y, targets=targets, eps=0.6, step_size=0.15)
    assert found.success[0]
    assert found.distance[0] == 0
    assert found.success[1:].any()
    assert np.array_equal(found.success, model.predict(found.x_adv) == targets)
    np.testing.assert_allclose(found.loss, -model.loss_and_gradient(found.x_adv, targets).loss, rtol=1e-9)


@pytest.mark.parametrize("name", ["eot", "fab"])
def test_targets_of_a_random_model(name: str) -> None:
    model, x = small_malade(), images(4, (1, 4, 4))
    y = model.predict(x)
    targets = (y + 1) % 3
    found = attacked(name, model, x, y, targets=targets, eps=0.6, step_size=0.2, num_steps=4)
    logits = model.logits(found.x_adv, num_draws=3, stream=Stream(0, JUDGE))
    assert found.success.any()
    assert np.array_equal(found.success, logits.argmax(axis=1) == targets)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_targeted_losses(loss: str, name: str) -> None:
    model, x = network(), images(12, (1, 4, 4))
    y = model.predict(x)
    targets = (y + 2) % 5
    seen: list[Any] = []
    settings = {"loss": loss, "targets": targets, "eps": 0.6, "num_steps": 30, "step_size": 0.05}
    found = attacked(name, model, x, y, **settings, record=lambda _, values: seen.append(values))
    assert found.success.mean() > 0.6
    last = {
        "ce": lambda z: -ops.softmax_cross_entropy(z, targets),
        "margin": lambda z: -ops.margin_loss(z, targets),
        "dlr": lambda z: ops.dlr_loss(z, y, targets),
    }[loss]
    oracle = Oracle(model, x, y, targets=targets)
    verdict, gradient = oracle.gradient(x, loss=loss)
    np.testing.assert_allclose(verdict.loss, last(model.logits(x)), rtol=1e-9)
    np.testing.assert_allclose(oracle.query(x, loss=loss).loss, verdict.loss, rtol=1e-9)
    step, direction = 1e-6, images(12, (1, 4, 4), seed=9) - 0.5
    up, down = (last(model.logits(np.clip(0.1 + 0.8 * x, 0, 1) + side * step * direction)) for side in (1, -1))
    _, gradient = oracle.gradient(0.1 + 0.8 * x, loss=loss)
    np.testing.assert_allclose((gradient * direction).sum(axis=(1, 2, 3)), (up - down) / (2 * step), rtol=1e-4)
    assert np.mean(seen[-1] > seen[0]) > 0.8


@pytest.mark.parametrize("loss", ["margin", "dlr", ["margin", "dlr"]])
def test_many_targets_of_apgd(loss: Any) -> None:
    """Any wrong class counts there; each restart goes for each target with its own loss."""
    model, x = network(), images(10, (1, 4, 4))
    y = model.predict(x)
    few = apgd(model, x, y, eps=0.1, num_steps=8, num_restarts=2, loss=loss)
    many = apgd(model, x, y, eps=0.1, num_steps=8, num_restarts=2, loss=loss, num_targets=4)
    assert many.num_gradients[0] == 4 * few.num_gradients[0]
    assert many.success.sum() >= few.success.sum()
    assert np.array_equal(many.success, model.predict(many.x_adv) != y)


def test_a_transferred_image_has_the_target_of_its_attack() -> None:
    model, x = network(), images(6, (1, 4, 4))
    y = model.predict(x)
    targets = (y + 1) % 5
    found = transfer(model, x, y, surrogate=network(), **SHORT, targets=targets)
    assert np.array_equal(found.success, model.predict(found.x_adv) == targets)
    assert np.array_equal(found.success, pgd(model, x, y, **SHORT, targets=targets).success)


# Restarts of what stands ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "aimed", "make"),
    [
        *((name, False, network) for name in ("pgd", "mim", "apgd")),
        *((name, False, small_malade) for name in ("eot", "bpda_eot", "drift_pgd", "apgd")),
        ("pgd", True, network),
        ("eot", True, small_malade),
    ],
)
def test_what_has_fallen_is_left_alone(name: str, aimed: bool, make: Any) -> None:
    """Same successes as without; images that stand are attacked with the same noise, from the same points."""
    x, index = images(12, (1, 4, 4)), np.arange(12) + 7
    y = make().predict(x)
    y[:2] = (y[:2] + 1) % 3  # wrong to begin with
    own: dict[str, Any] = {"targets": (y + 1) % 3} if aimed else {}
    if aimed:
        own |= {"eps": 0.4, "step_size": 0.15}
    own |= {"num_restarts": 3, "sample_index": index, "loss": ["ce", "margin"], "random_start": True, "num_steps": 4}
    models = [Counted(make()) for _ in range(2)]
    whole, spared = (
        attacked(name, model, x, y, **own, retire=retire) for model, retire in zip(models, (False, True), strict=True)
    )
    assert 0 < whole.success.sum() < 12, "planned so"
    if name != "apgd" or models[0].stochastic:  # whose steps follow losses after the fall, for a deterministic model
        np.testing.assert_array_equal(spared.success, whole.success)
    stands = ~whole.success & ~spared.success
    np.testing.assert_allclose(spared.x_adv[stands], whole.x_adv[stands], rtol=0, atol=1e-9)
    np.testing.assert_allclose(spared.loss[stands], whole.loss[stands], rtol=1e-9)
    if models[0].stochastic:
        np.testing.assert_array_equal(spared.num_gradients[stands], whole.num_gradients[stands])
        np.testing.assert_array_equal(spared.num_queries[stands], whole.num_queries[stands])
        fewer = spared.num_gradients < whole.num_gradients
        assert fewer.any()
        assert spared.success[fewer].all()
        # Only what every judging draw finds wrong retires.
        _, always = Oracle(make(), x, y, num_judge_draws=3, sample_index=index, targets=own.get("targets")).judge(
            spared.x_adv
        )
        assert always[fewer].all()


def test_a_random_model_keeps_what_is_wrong_by_most_draws_only() -> None:
    """Without retirement at the first success: some images are successes and are still attacked."""
    model, x, index = small_malade(), images(24, (1, 4, 4)), np.arange(24)
    y = model.predict(x, num_draws=50)
    found = eot(model, x, y, eps=0.03, step_size=0.01, num_steps=3, num_draws=2, num_restarts=3, retire=True)
    most = found.num_gradients == found.num_gradients.max()
    _, always = Oracle(model, x, y, sample_index=index).judge(found.x_adv)
    assert (found.success & most & ~always).any(), "planned so"
    assert not (most & found.success & always & (found.num_gradients < 6)).any()


def test_when_all_have_fallen_nothing_more_is_asked() -> None:
    model, x = small_malade(), images(4, (1, 4, 4))
    y = model.logits(x, num_draws=50).argmin(axis=1)
    far = Counted(model)
    found = eot(far, x, y, eps=0.01, num_steps=2, num_draws=2, num_judge_draws=1, num_restarts=2, retire=True)
    assert found.success.all()
    assert (found.num_gradients == 0).all()
    for name in ("pgd", "apgd"):
        none = attacked(name, model, x[:0], y[:0], retire=True, num_restarts=2)
        assert none.x_adv.shape == (0, 1, 4, 4)


# Complaints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *a: pgd(*a, loss="kl"), "loss: expected one of ce, margin, dlr; got 'kl'"),
        (lambda *a: pgd(*a, loss=["ce", "kl"]), "loss: expected one of ce, margin, dlr; got 'kl'"),
        (lambda *a: pgd(*a, loss=[]), "loss: expected at least one of ce, margin, dlr; got none"),
        (lambda *a: pgd(*a, targets=np.array([0, 2])), "targets: expected classes other than the labels"),
        (lambda *a: pgd(*a, targets=np.array([1, 5])), "targets: label 5 of sample 1 is outside 0..4"),
        (lambda *a: pgd(*a, targets=np.array([1])), "targets: expected shape"),
        (lambda *a: apgd(*a, loss="dlr", targets=np.array([1, 0]), num_targets=2), "num_targets: expected 0 together"),
        (lambda *a: apgd(*a, loss=["dlr", "ce"], num_targets=2), "num_targets: expected 0 for the cross entropy"),
        (lambda *a: fab(*a, targets=np.array([1, 0]), num_targets=2), "num_targets: expected 0 together"),
    ],
)
def test_complaints(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call(network(), images(2, (1, 4, 4)), np.array([0, 1]))
    assert "\n" not in str(caught.value)
