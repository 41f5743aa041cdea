"""Keys of ``[models.x]`` about the training: what they become, what is recorded of them, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref import ops
from malade_ref.attacks import ascent
from malade_ref.augmentation import Augmentation
from malade_ref.checks import InputError
from malade_ref.datasets import load_dataset
from malade_ref.experiment.config import Augment, Check, Method, Model
from malade_ref.experiment.models import objective_of, train_or_take, training_of
from malade_ref.experiment.reading import experiment_of, read_experiment, settings_of
from malade_ref.experiment.store import Store
from malade_ref.objectives import Adversarial, Classification
from malade_ref.report.background import _further
from malade_ref.robust_training import TRADES, AdversarialLogitPairing, CleanLogitPairing, Smoothed
from malade_ref.training_options import Options


def changed(*changes: str, model: str = "madry", experiment: str = "mnist-madry") -> Model:
    found = read_experiment(experiment, [f"models.{model}.{change}" for change in changes]).experiment
    return found.models[model]


def test_keys_become_options() -> None:
    model = changed(
        "augment={pad = 4, flip = true}",
        "optimizer=sgd",
        "momentum=0.8",
        "weight_decay=5e-4",
        "clip_norm=1",
        "averaging=0.99",
        "schedule=piecewise",
        "milestones=[0.4, 0.8]",
        "factor=0.2",
    )
    assert model.options() == Options(
        momentum=0.8,
        weight_decay=5e-4,
        clip_norm=1.0,
        averaging=0.99,
        milestones=(0.4, 0.8),
        factor=0.2,
        augment=Augmentation(4, True),
    )
    assert changed().options() == Options()
    assert changed().further_settings() == {}


def test_objectives() -> None:
    madry = objective_of(changed(), {})
    assert isinstance(madry, Adversarial)
    trades = objective_of(changed("objective=trades", "beta=2", "label_smoothing=0.1"), {})
    assert trades == TRADES(0.3, 0.01, 40, beta=2.0, smoothing=0.1, ramp=2)
    alp = objective_of(changed("objective=alp"), {})
    assert isinstance(alp, AdversarialLogitPairing)
    assert (alp.weight, alp.ramp, alp.growing) == (0.5, 2, {"eps": 0.3, "step_size": 0.01})
    clp = objective_of(Model(kind="classifier", epochs=1, objective="clp", noise=0.5, pairing_weight=0.1), {})
    assert clp == CleanLogitPairing(0.5, 0.1)
    smoothed = objective_of(changed("label_smoothing=0.1"), {})
    assert isinstance(smoothed, Smoothed)
    assert isinstance(smoothed.objective, Adversarial)
    plain = objective_of(Model(kind="classifier", epochs=1, label_smoothing=0.1), {})
    assert plain == Smoothed(Classification(), 0.1)


FAST = Model(
    kind="classifier",
    epochs=3,
    objective="fast",
    adversarial=Method(method="ascent", settings={"eps": 0.08, "norm": "linf"}),
)


def test_the_fast_variant() -> None:
    """One step of 1.25 eps from a random start, and a check with ten."""
    found = objective_of(FAST, {})
    assert isinstance(found, Adversarial)
    attack: Any = found.attack
    assert (attack.func, attack.keywords) == (ascent, {"eps": 0.08, "norm": "linf", "step_size": 0.1, "num_steps": 1})
    check = FAST.options().robust_check
    assert check is not None
    own: Any = check.attack
    assert own.keywords == {"eps": 0.08, "step_size": 0.02, "num_steps": 10, "norm": "linf"}
    slower = replace(FAST, adversarial=Method(method="ascent", settings={"eps": 0.08, "step_size": 0.04}))
    assert slower.attack is not None
    assert slower.attack.settings == {"eps": 0.08, "step_size": 0.04, "num_steps": 1}
    given = replace(FAST, robust_check=Check(method="pgd", settings={"eps": 0.1}, num_images=50, max_drop=1.0))
    assert given.check == given.robust_check
    made = given.options().robust_check
    assert made is not None
    assert (made.num_images, made.max_drop) == (50, 1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["objective=madrid"], "models.madry.objective: expected one of"),
        (["beta=2"], "models.madry.beta: only with objective = 'trades'"),
        (["pairing_weight=0.1"], "models.madry.pairing_weight: only with objective = 'alp' or 'clp'"),
        (["noise=0.1"], "models.madry.noise: only with"),
        (["objective=clp", "noise=0.1"], "models.madry.adversarial: clp attacks nothing"),
        (["objective=fast"], "models.madry.adversarial.num_steps: fast makes 1 step, got 40"),
        (
            ["objective=trades", "adversarial.random_start=false"],
            "models.madry.adversarial.random_start: trades has no",
        ),
        (["objective=trades", "adversarial.method=pgd"], "models.madry.adversarial.method: trades has an ascent"),
        (["label_smoothing=1"], "models.madry.label_smoothing: expected"),
        (["label_smoothing=-0.1"], "models.madry.label_smoothing: expected"),
        (["augment={}"], "models.madry.augment: expected pad > 0 or flip"),
        (["augment={pad = 1.5}"], "models.madry.augment.pad: expected an integer"),
        (["augment={padding = 4}"], "models.madry.augment.padding: unknown key; did you mean 'pad'"),
        (["augment=4"], "models.madry.augment: expected a table"),
        (["momentum=0.5"], "models.madry.momentum: only of optimizer"),
        (["optimizer=sgd", "momentum=1"], "models.madry.momentum: expected"),
        (["averaging=1"], "models.madry.averaging: expected"),
        (["milestones=[0.1]"], "models.madry.milestones: only of schedule"),
        (["schedule=piecewise", "milestones=[0.5, 0.1]"], "models.madry.milestones: expected"),
        (["schedule=piecewise", "milestones=[]"], "models.madry.milestones: expected"),
        (["weight_decay=-1"], "models.madry.weight_decay: expected"),
        (["clip_norm=0"], "models.madry.clip_norm: expected"),
        (['robust_check={method = "bang"}'], "models.madry.robust_check.method: no attack 'bang'"),
        (['robust_check={method = "ascent", epsilon = 1}'], "models.madry.robust_check.epsilon: unknown key"),
        (['robust_check={method = "ascent", max_drop = 0}'], "models.madry.robust_check.max_drop: expected"),
        (['robust_check={method = "ascent", num_images = 0}'], "models.madry.robust_check.num_images: expected"),
    ],
)
def test_what_is_refused(changes: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        changed(*changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["objective=trades"], "models.sdae.objective: only of classifiers"),
        (["label_smoothing=0.1"], "models.sdae.label_smoothing: only of classifiers"),
        (["noise=0.1"], "models.sdae.noise: only of classifiers"),
        (['robust_check={method = "ascent"}'], "models.sdae.robust_check: only of classifiers"),
    ],
)
def test_what_denoisers_are_refused(changes: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        changed(*changes, model="sdae", experiment="demo")
    assert words in str(caught.value)
    assert changed("augment={flip = true}", model="sdae", experiment="demo").augment == Augment(flip=True)


def test_objectives_without_an_attack_are_refused() -> None:
    for name in ("madry", "fast", "trades", "alp"):
        with pytest.raises(InputError, match=f"models.cnn.adversarial: missing; {name} needs an attack"):
            changed(f"objective={name}", model="cnn", experiment="demo")
    with pytest.raises(InputError, match=r"models\.cnn\.noise: missing"):
        changed("objective=clp", model="cnn", experiment="demo")


def test_what_is_recorded_can_be_read_again() -> None:
    changes = [
        *("objective=alp", "label_smoothing=0.1", "augment={pad = 2}", "schedule=piecewise", "milestones=[0.2]"),
        'robust_check={method = "ascent", eps = 0.3, num_images = 20}',
    ]
    experiment = read_experiment("mnist-madry", [f"models.madry.{change}" for change in changes]).experiment
    settings = settings_of(experiment)
    table = settings["models"]["madry"]
    assert table["robust_check"]["settings"]["num_steps"] == 40
    assert {name for name in ("beta", "momentum", "averaging", "noise") if name in table} == set()
    again = experiment_of({**settings, "data": {**settings["data"], "test": None}}, "file")
    assert settings_of(again)["models"] == settings["models"]
    plain = read_experiment("mnist-madry").experiment
    assert "augment" not in settings_of(plain)["models"]["madry"]
    assert ", ".join(_further(table)) == (
        "label smoothing 0.1, milestones 0.2, crops of 2 pixels, stopped if robustness collapses"
    )
    assert _further(settings_of(plain)["models"]["madry"]) == []


SMALL: dict[str, Any] = {"kind": "classifier", "preset": "small", "epochs": 2, "batch_size": 16, "subset": 32}
SMALL |= {"validation": 16, "schedule": "constant"}
ATTACK = Method(method="ascent", settings={"eps": 0.1, "num_steps": 1, "step_size": 0.1})


@pytest.mark.parametrize("objective", ["fast", "trades", "alp", "clp"])
def test_each_objective_trains(objective: str, tmp_path: Path) -> None:
    data = load_dataset("synthetic-digits", sizes={"train": 32, "validation": 16, "test": 4})
    own: dict[str, Any] = {"noise": 0.1} if objective == "clp" else {"adversarial": ATTACK}
    model = Model(**SMALL, objective=objective, augment=Augment(pad=2), averaging=0.5, **own)
    training = training_of(model, {}, data, seed=1, ops=ops)
    assert training.recipe["further"]["objective"] == objective
    said: list[str] = []
    network, history, _ = train_or_take(
        training,
        Store(tmp_path / "store"),
        title="",
        data="",
        checkpoint=tmp_path / "c.h5",
        tell=said.append,
        progress=lambda *_: None,
    )
    assert len(history["loss"]) == 2
    assert ("robust_accuracy" in history) == (objective == "fast")
    assert network.metadata["training"]["augment"]["pad"] == 2
    assert said == []


def test_a_collapse_is_told_from_training_and_from_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_dataset("synthetic-digits", sizes={"train": 32, "validation": 16, "test": 4})
    model = Model(**{**SMALL, "epochs": 4}, objective="fast", adversarial=ATTACK)
    training = training_of(model, {}, data, seed=1, ops=ops)
    values = iter([0.9, 0.0])
    monkeypatch.setattr("malade_ref.robust_training.RobustCheck.accuracy", lambda self, *_, seed: next(values))
    take = partial(
        train_or_take,
        training,
        Store(tmp_path / "store"),
        title="",
        data="",
        checkpoint=tmp_path / "c.h5",
        progress=lambda *_: None,
    )
    for origin in ("training", "store"):
        said: list[str] = []
        network, history, found = take(tell=said.append)
        assert found["from"] == origin
        assert len(history["loss"]) == 2
        assert network.metadata["training"]["stopped"]["best_epoch"] == 1
        assert said == [network.metadata["training"]["stopped"]["why"]]
        assert "fell from 90.0% after epoch 1 to 0.0% after epoch 2" in said[0]
    assert np.isfinite(history["loss"]).all()
