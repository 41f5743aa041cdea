"""What attacks are, by their cards, and what users call: signatures, limits, costs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref import MALADE, attacks
from malade_ref.attacks import AttackResult, Cost, Oracle, card
from malade_ref.attacks.cards import CARDS, GRADIENTS, KINDS, Target, card_of
from malade_ref.audit import audit
from malade_ref.checks import InputError
from malade_ref.evaluation import Cell, derive_results
from malade_ref.experiment import read_experiment, run_experiment
from malade_ref.experiment.config import available_attacks
from malade_ref.network import mlp
from malade_ref.report import check_report
from tests.outcomes import made_cells
from tests.ref.test_attacks import images, small_malade
from tests.ref.test_attacks_all import QUICK, every_attack

# Parameters and defaults, a star before those by name only.
SIGNATURES = json.loads(Path(__file__).with_name("signatures.json").read_text())


def signature_of(function: Any) -> str:
    """In the form above."""
    words = []
    for one in inspect.signature(function).parameters.values():
        if one.kind is one.VAR_KEYWORD:
            words.append(f"**{one.name}")
            continue
        default = one.default.__name__ if inspect.isfunction(one.default) else repr(one.default)
        star = "*" if one.kind is one.KEYWORD_ONLY else ""
        words.append(f"{star}{one.name}" + ("" if one.default is one.empty else f"={default}"))
    return " ".join(words)


@pytest.mark.parametrize("name", SIGNATURES)
def test_what_users_call_is_as_it_was(name: str) -> None:
    assert signature_of(getattr(attacks, name)) == SIGNATURES[name]


# Cards ---------------------------------------------------------------------------------------------------------------


@pytest.mark.faults
def test_every_attack_has_a_card() -> None:
    assert set(every_attack()) | {"ascent"} == {
        name for name, one in CARDS.items() if one.function.__module__ != __name__
    }
    for name, one in CARDS.items():
        profile = one.profile({})
        assert profile.gradient in GRADIENTS, name
        assert profile.kind in KINDS, name
        assert (profile.gradient == "none") == (profile.kind in ("noise", "black-box")), name
    assert set(available_attacks()) == set(every_attack()) - {"transfer"}
    assert set(available_attacks(training=True)) == {*available_attacks(), "ascent"}


@pytest.mark.parametrize(
    ("name", "settings", "gradient", "norm", "nearest", "kind"),
    [
        ("pgd", {}, "exact", "linf", False, "exact"),
        ("pgd", {"mode": "bpda", "norm": "l2"}, "bpda", "l2", False, "bpda"),
        ("apgd", {"mode": "bpda-denoiser"}, "bpda-denoiser", "linf", False, "bpda"),
        ("fgsm", {"mode": "bpda"}, "bpda", "linf", False, "one-step"),
        ("eot", {}, "exact", "linf", False, "exact"),
        ("bpda_eot", {}, "bpda", "linf", False, "bpda"),
        ("fab", {"norm": "l2"}, "exact", "l2", True, "exact"),
        ("cw", {}, "exact", "l2", True, "exact"),
        ("ead", {}, "exact", "elastic net", True, "exact"),
        ("ead", {"rule": "l1"}, "exact", "l1", True, "exact"),
        ("boundary", {}, "none", "l2", True, "black-box"),
        ("salt_and_pepper", {}, "none", "l0", False, "black-box"),
        ("salt_and_pepper", {"smallest": True}, "none", "l0", True, "black-box"),
        ("square", {}, "none", "linf", False, "black-box"),
        ("spsa", {}, "none", "linf", False, "black-box"),
        ("uniform_noise", {}, "none", "linf", False, "noise"),
        ("transfer", {}, "classifier", "linf", False, "transfer"),
    ],
)
def test_what_settings_make_of_attacks(
    name: str, settings: dict[str, Any], gradient: str, norm: str, nearest: bool, kind: str
) -> None:
    assert card_of(name).profile(settings)[1:] == (gradient, norm, nearest, kind)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("name", sorted(set(QUICK) - {"transfer", "auto_attack"}))
def test_costs_are_what_is_spent(name: str, stochastic: bool) -> None:
    """Queries but for those of the verdicts, which are extrapolated to none."""
    model = small_malade() if stochastic else mlp((1, 4, 4), 3, dtype="float64")
    x, y = images(2, (1, 4, 4)), np.array([0, 1])
    verdicts = [getattr(attacks, name)(model, x, y, **QUICK[name], num_judge_draws=judge) for judge in (1, 2)]
    queries = 2 * verdicts[0].num_queries - verdicts[1].num_queries if stochastic else verdicts[0].num_queries
    cost = card_of(name).costs(QUICK[name], Target(stochastic, 3, 16))
    assert cost.gradients == verdicts[0].num_gradients[0]
    assert 0 <= queries[0] - cost.queries <= (0 if stochastic else 3)


def toy(model: Any, x: Any, y: Any, *, eps: float = 0.3, seed: int = 0, sample_index: Any = None) -> AttackResult:
    """Make images darker: asks for no gradient."""
    oracle = Oracle(model, x, y, seed=seed, sample_index=sample_index)
    dark = np.clip(x - np.float32(eps), np.maximum(x - np.float32(eps), 0), 1).astype(x.dtype)
    verdict, _ = oracle.judge(dark)
    return oracle.result(verdict, model.ops.distance_linf(dark, x))


@pytest.fixture
def toy_attack() -> Iterator[None]:
    card(title="darker", gradient="none", norm="linf", cost=lambda s: Cost(0, 0))(toy)
    yield
    del CARDS["toy"]


EXPERIMENT = """
name = "toys"
title = "A user's own attack"

[data]
name = "synthetic-digits"
train = 200
validation = 20
test = 40

[models.cnn]
kind = "classifier"
preset = "small"
epochs = 1

[defences.cnn]
name = "CNN"
classifier = "cnn"

[[attacks]]
name = "mine"
method = "toy"
against = ["cnn"]
eps = [0.2]

[[attacks]]
name = "bpda"
method = "pgd"
mode = "bpda"
num_steps = 2
against = ["cnn"]
eps = [0.2]

[evaluation]
num_images = 12
num_draws = 1

[audit]
gradient_images = 2
"""


@pytest.mark.faults
def test_an_attack_of_a_user_is_what_its_card_says(tmp_path: Path, toy_attack: None) -> None:
    (tmp_path / "toys.toml").write_text(EXPERIMENT)
    bundle = run_experiment(read_experiment(str(tmp_path / "toys.toml")), tmp_path / "bundle")
    results = bundle.folder / "results.json" if hasattr(bundle, "folder") else tmp_path / "bundle" / "results.json"
    text = results.read_text()
    assert '"kind": "black-box"' in text
    assert '"kind": "bpda"' in text
    assert '"kind": "exact"' not in text
    # Where the attack is not known, the bundle still says what it was.
    kept = CARDS.pop("toy")
    try:
        assert check_report(tmp_path / "bundle") == []
    finally:
        CARDS["toy"] = kept


@pytest.mark.faults
def test_an_attack_without_a_card_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "toys.toml").write_text(EXPERIMENT)
    with pytest.raises(InputError, match="no attack 'toy'"):
        read_experiment(str(tmp_path / "toys.toml"))
    cells = made_cells(num_samples=5)
    unknown = next(one for one in cells if one.attack == "pgd")
    for change in ({"method": "toy"}, {"card": {"kind": "exact"}}, {"card": 5}):
        planted = unknown._replace(attack="mine", meta={**unknown.meta, **change})
        for judged in (lambda cells: derive_results(cells, {}), audit):
            with pytest.raises(InputError, match="card") as caught:
                judged([*cells, planted])
            assert "\n" not in str(caught.value)


@pytest.mark.faults
@pytest.mark.parametrize(("gradient", "kind"), [("none", "black-box"), ("bpda", "bpda"), ("exact", "exact")])
def test_audit_compares_attacks_as_what_they_are(gradient: str, kind: str, toy_attack: None) -> None:
    """A user's attack that leaves less than all others is a stronger black-box attack only if it has no gradient."""
    card(title="mine", gradient=gradient, norm="linf", cost=lambda s: Cost(0, 0))(toy)
    cells = made_cells()
    mine = [
        one._replace(
            attack="mine",
            meta={**one.meta, "method": "toy", "settings": {}},
            arrays={**one.arrays, "correct": 0 * one.correct == 1},
        )
        for one in cells
        if one.attack == "exact"
    ]
    assert {one.kind for one in mine} == {kind}
    findings = {finding.name: finding.status for finding in audit([*cells, *mine])}
    assert findings["white box no weaker than black box"] == ("warning" if gradient == "none" else "not run")


def test_complaints_about_cards() -> None:
    def pgd(model: Any, x: Any, y: Any, *, seed: int = 0, sample_index: Any = None) -> Any:
        """Another attack of that name."""

    def no_seed(model: Any, x: Any, y: Any, *, mode: str = "exact", sample_index: Any = None) -> Any:
        """Without a seed."""

    def no_mode(model: Any, x: Any, y: Any, *, seed: int = 0, sample_index: Any = None) -> Any:
        """Without a mode to read the gradient from."""

    declare: dict[str, Any] = {"title": "t", "norm": "linf", "cost": lambda s: Cost(0, 0)}
    for function, own, words in (
        (pgd, {"gradient": "none"}, "an attack of malade_ref.attacks.gradient has that name"),
        (no_seed, {}, "needs the keyword seed"),
        (no_mode, {}, "no setting 'mode'"),
        (no_mode, {"gradient": "some"}, "gradient: expected one of none"),
    ):
        with pytest.raises(InputError, match=words):
            card(**declare, **own)(function)
        assert function.__name__ == "pgd" or function.__name__ not in CARDS


# Limits --------------------------------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("name", ["fab", "boundary", "salt_and_pepper"])
def test_without_a_limit_all_finds_count(name: str) -> None:
    model = mlp((1, 4, 4), 3, hidden=(8,), activation="relu", dtype="float64", seed=3)
    x = images(6, (1, 4, 4))
    y, norms = model.predict(x), ("linf", "l2") if name == "fab" else (None,)
    for norm in norms:
        own: dict[str, Any] = {"norm": norm} if norm else {}
        own |= {"smallest": True, "num_trials": 4} if name == "salt_and_pepper" else {"num_steps": 20}
        whole = getattr(attacks, name)(model, x, y, **own)
        found = whole.distance[whole.success]
        assert len(found) >= 3
        if name == "salt_and_pepper":
            continue  # it looks no further than its limit
        limited = getattr(attacks, name)(model, x, y, eps=float(np.median(found)), **own)
        beyond = ~limited.success & (limited.distance > 0)
        assert limited.success.any()
        assert beyond.any()
        assert (limited.distance[beyond] > np.median(found)).all()
        assert (limited.x_adv[beyond] == x[beyond]).all()
        nothing = getattr(attacks, name)(mlp_that_never_moves(), x, 0 * y, eps=0.1, **own)
        assert not nothing.success.any()
        assert (nothing.distance == 0).all()


def mlp_that_never_moves() -> Any:
    """Class 0, whatever it is asked."""
    model = mlp((1, 4, 4), 3, hidden=(), dtype="float64")
    params = {name: 0 * value for name, value in model.params.items()}
    bias = next(name for name, value in params.items() if value.ndim == 1)
    params[bias] = np.array([5.0, 0.0, 0.0])
    return type(model)(model.layers, params, model.input_shape)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pgd", {"num_draws": 2**62}),
        ("eot", {"num_steps": 2**62}),
        ("fab", {"num_restarts": 10**7}),
        ("square", {"num_judge_draws": 10**30}),
        ("uniform_noise", {"num_trials": 10**5000}),
        ("cw", {"num_search_steps": 2**40}),
    ],
)
def test_work_without_end_is_refused(name: str, settings: dict[str, int]) -> None:
    x, y = images(1, (1, 4, 4)), np.array([0])
    with pytest.raises(InputError, match=f"{next(iter(settings))}: expected an integer >= 1 and <= 1000000") as caught:
        getattr(attacks, name)(small_malade(), x, y, **settings)
    assert len(str(caught.value)) < 200


@pytest.mark.faults
@pytest.mark.parametrize("method", ["logits", "predict", "predict_draws", "loss_gradient"])
def test_draws_without_end_are_refused(method: str) -> None:
    arguments = [images(1, (1, 4, 4)), *([np.array([0])] if method == "loss_gradient" else [])]
    with pytest.raises(InputError, match="num_draws: expected an integer >= 1 and <= 1000000"):
        getattr(small_malade(), method)(*arguments, num_draws=2**62)
    model = small_malade()
    with pytest.raises(InputError, match="num_steps"):
        MALADE(model.classifier, model.denoiser, num_steps=2**40, a=0.1, delta=0.1)


# Rounding ------------------------------------------------------------------------------------------------------------

AT_THE_BOUNDARY: dict[str, dict[str, Any]] = {
    "fab": {"num_steps": 8},
    "cw": {"num_steps": 30, "num_search_steps": 2, "initial_weight": 1.0, "step_size": 0.05},
    "ead": {"num_steps": 20, "num_search_steps": 2, "initial_weight": 1.0, "step_size": 0.05},
    "boundary": {"num_steps": 60, "num_starts": 6, "num_line_steps": 50},
    "salt_and_pepper": {"smallest": True, "num_trials": 3},
    "pgd": {"num_steps": 10, "eps": 0.05},
    "square": {"num_steps": 20, "eps": 0.05},
    "uniform_noise": {"eps": 0.3},
}


@pytest.mark.faults
@pytest.mark.parametrize("name", AT_THE_BOUNDARY)
def test_success_holds_in_any_batch(name: str) -> None:
    """Alone, in batches of three and of seven, backwards, and in float64: the margin is above what rounding can do."""
    model = mlp((1, 8, 8), 5, hidden=(64, 64), activation="relu", seed=2)
    x = images(41, (1, 8, 8), dtype="float32", seed=4)
    y = model.predict(x)
    result = getattr(attacks, name)(model, x, y, **AT_THE_BOUNDARY[name])
    assert result.success.any() or name in ("pgd", "square", "uniform_noise")
    for size in (1, 3, 7, 41):
        for images_of in (result.x_adv, result.x_adv[::-1]):
            parts = [model.predict(images_of[first : first + size]) for first in range(0, 41, size)]
            found = np.concatenate(parts)[:: 1 if images_of is result.x_adv else -1]
            assert not (result.success & (found == y)).any(), size
    exact = model.astype("float64").predict(result.x_adv.astype("float64"))
    assert not (result.success & (exact == y)).any()


class Shaky:
    """A model whose answer on a whole batch is not that on an image alone, by some rounding."""

    def __init__(self, by: float) -> None:
        self.model = mlp((1, 4, 4), 2, hidden=(), seed=1)
        self.by = by

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def logits(self, x: Any) -> Any:
        """Class 1 leads by what is said in a batch, and follows by as much alone."""
        lead = np.float32(self.by if len(x) > 1 else -self.by)
        return np.stack([np.full(len(x), 10, dtype="float32"), np.full(len(x), 10 + lead, dtype="float32")], axis=1)

    def loss_and_gradient(self, x: Any, y: Any, **settings: Any) -> Any:
        """The same logits, their cross entropy, and some gradient."""
        found = self.model.loss_and_gradient(x, y)
        logits = self.logits(x)
        return found._replace(logits=logits, loss=self.model.ops.softmax_cross_entropy(logits, y))


@pytest.mark.faults
@pytest.mark.parametrize("name", ["pgd", "fgsm", "uniform_noise", "salt_and_pepper", "square", "fab", "boundary", "cw"])
def test_what_rounding_could_undo_is_no_success(name: str) -> None:
    x, y = images(4, (1, 4, 4), dtype="float32"), np.zeros(4, dtype=int)
    settings = {**QUICK[name], **({"eps": 0.1} if name not in ("cw", "fab", "boundary") else {})}
    result = getattr(attacks, name)(Shaky(2e-6), x, y, **settings)
    assert not result.success.any()
    assert Cell("a", name, 0.1, {"method": name, "norm": "linf"}, {}).profile.title
