"""What a run will do, in order, and about how long each step takes.

The durations are for two cores and come from measurements of the reference; they only serve to say what to expect and
how far a run is. What they are made of is the work on one image, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from malade_ref.attacks.cards import Target
from malade_ref.datasets import Dataset
from malade_ref.experiment.config import CLEAN, Attack, Defence, Experiment, Method, Model

# Seconds an image: forward, forward and gradient with respect to the image, training.
_CLASSIFIER = {"paper": (0.75e-3, 1.4e-3, 2.4e-3), "small": (0.07e-3, 0.17e-3, 0.3e-3)}
_MADRY = {"paper": (0.9e-3, 2.2e-3, 3.5e-3), "small": (0.03e-3, 0.11e-3, 0.2e-3)}
_DENOISER = {"paper": (0.06e-3, 0.16e-3, 0.13e-3), "small": (0.035e-3, 0.1e-3, 0.09e-3)}

# Steps of a chain whose number is not known before the search.
_TYPICAL_STEPS = 5


class Step(NamedTuple):
    """One step of a run.

    Attributes
    ----------
    kind : str
        What is done: ``"train"``, ``"read"``, ``"quality"``, ``"search"``, ``"attack"``, ``"audit"``, ``"certify"``,
        ``"paths"``, ``"pictures"``, ``"sheet"``, ``"perturbations"``, ``"walk"`` or ``"report"``.
    subject : tuple
        With what: the name of a model or defence, or defence, attack and eps.
    title : str
        For people.
    seconds : float
        About how long it takes.
    """

    kind: str
    subject: tuple[Any, ...]
    title: str
    seconds: float


def plan_of(experiment: Experiment, data: Dataset) -> list[Step]:
    """All steps of a run, in order.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    data : Dataset
        Its data.

    Returns
    -------
    list of Step
        At least one.
    """
    return list(_steps(experiment, data))


def _steps(experiment: Experiment, data: Dataset) -> Iterator[Step]:
    models, defences = experiment.models, experiment.defences
    for name in experiment.training_order():
        model = models[name]
        if model.file is not None:
            yield Step("read", (name,), f"read {model.name or name}", 0.0)
            continue
        images = (model.subset or len(data.train)) * model.epochs
        yield Step("train", (name,), f"train {model.name or name}", images * _training(experiment, model))
    for name, model in models.items():
        seconds = _passes(model)[0] + sum(_passes(models[other])[0] for other in experiment.protected_by(name))
        yield Step("quality", (name,), f"test {model.name or name}", len(data.test) * seconds)
    for name, defence in defences.items():
        if defence.search is not None:
            search = defence.search
            classifier, denoiser = _parts(experiment, defence)
            grid = len(search.a) * len(search.delta) * search.num_draws * 2
            chain = max(search.num_steps) * denoiser[0] + len(search.num_steps) * classifier[0]
            seconds = search.num_images * (grid * chain + _attack(experiment, name, search.attack, defence.classifier))
            yield Step("search", (name,), f"search settings of {defence.name}", seconds)
    attacked = set()
    for name, attack, eps in experiment.cells():
        title = (attack.title or attack.name) if attack else f"{CLEAN} images"
        title += f", eps {eps:g}," if attack and attack.eps else ""
        seconds = _judging(experiment, name, attack)
        victim = attack.victim(name, defences) if attack is not None else None
        target = (victim, attack and attack.name, eps)
        if attack is not None and victim is not None and target not in attacked:
            of, bare = (name, victim.name) if victim.bare else (victim.name, None)
            seconds += _num_images(experiment, attack) * _attack(experiment, of, attack, bare)
        attacked.add(target)
        yield Step("attack", (name, attack, eps), f"{title} on {defences[name].name}", seconds)
    for name, defence in defences.items():
        yield Step("audit", (name,), f"check gradients of {defence.name}", _audit(experiment, defence))
    if experiment.certify is not None:
        for name, smoothed in experiment.certify.smoothed.items():
            yield Step("certify", (name,), f"certify {smoothed.name}", _certifying(experiment, name))
    if experiment.paths is not None:
        yield Step("paths", (), "follow images through the chains", 1.0)
    if experiment.pictures is not None:
        yield Step("pictures", (), "collect pictures", 1.0)
    for sheet in experiment.sheets:
        yield Step("sheet", (sheet,), f"sheet {sheet.name}", 1.0)
    for plate in experiment.perturbations:
        yield Step("perturbations", (plate,), f"perturbations {plate.name}", 1.0)
    for walk in experiment.walks:
        yield Step("walk", (walk,), f"ways through the chain {walk.name}", 1.0)
    yield Step("report", (), "write the report", 5.0)


def _passes(model: Model) -> tuple[float, float, float]:
    seconds = _MADRY if model.network == "madry" else _CLASSIFIER if model.kind == "classifier" else _DENOISER
    return seconds[model.preset]


def _training(experiment: Experiment, model: Model) -> float:
    seconds = _passes(model)[2]
    if model.attack is not None:
        seconds += model.attack.resolved().get("num_steps", 1) * _passes(model)[1]
    if model.learns in ("trades", "alp", "clp"):
        seconds += _passes(model)[2]  # two images a sample
    if model.teacher is not None:
        seconds += _passes(experiment.models[model.teacher])[0]
    if model.classifier is not None:
        seconds += _passes(experiment.models[model.classifier])[1]
    return seconds


def _parts(experiment: Experiment, defence: Defence) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    denoiser = experiment.models[defence.denoiser] if defence.denoiser else None
    return _passes(experiment.models[defence.classifier]), _passes(denoiser) if denoiser else (0.0, 0.0, 0.0)


def _num_steps(experiment: Experiment, defence: Defence) -> int:
    if defence.same_settings_as is not None:
        defence = experiment.defences[defence.same_settings_as]
    return _TYPICAL_STEPS if defence.num_steps is None else defence.num_steps


def _num_images(experiment: Experiment, attack: Attack | None) -> int:
    return (attack.num_images if attack else None) or experiment.evaluation.num_images


def _forward(experiment: Experiment, defence: Defence) -> float:
    classifier, denoiser = _parts(experiment, defence)
    return classifier[0] + _num_steps(experiment, defence) * denoiser[0]


def _judging(experiment: Experiment, name: str, attack: Attack | None) -> float:
    defence = experiment.defences[name]
    num_draws = 1 if defence.denoiser is None else experiment.evaluation.num_draws
    return _num_images(experiment, attack) * num_draws * _forward(experiment, defence)


def _attack(experiment: Experiment, name: str, attack: Method, victim: str | None) -> float:
    """Seconds of an attack on one image, of a defence or of a classifier in its place."""
    defence = experiment.defences[name] if victim is None else Defence(name="", classifier=victim)
    classifier, denoiser = _parts(experiment, defence)
    steps, forward = _num_steps(experiment, defence), _forward(experiment, defence)
    cost = attack.card.costs(attack.settings, Target(stochastic=defence.denoiser is not None))
    # A denoiser's gradient includes a pass forward.
    back = denoiser[1] if attack.profile.gradient == "exact" else 0.0
    gradients = cost.gradients * (classifier[1] + steps * (denoiser[0] + back))
    drifts = cost.drifts * steps * (2 * denoiser[0] + denoiser[1])
    judging = 2 * (attack.resolved().get("num_judge_draws", 1) if victim is None else 1) * forward
    return gradients + (cost.queries - cost.gradients) * forward + drifts + judging


def _certifying(experiment: Experiment, name: str) -> float:
    certify = experiment.certify
    assert certify is not None
    smoothed = certify.smoothed[name]
    names = [smoothed.classifier, *([smoothed.denoiser] if smoothed.denoiser is not None else [])]
    passes = sum(_passes(experiment.models[model])[0] for model in names)
    return certify.num_images * (certify.num_selection + certify.num_estimation) * passes


def _audit(experiment: Experiment, defence: Defence) -> float:
    classifier, denoiser = _parts(experiment, defence)
    gradient = classifier[1] + _num_steps(experiment, defence) * denoiser[1]
    audit = experiment.audit
    draws = 2 * audit.eot_images * audit.eot_draws if defence.denoiser is not None else 0
    return gradient * (8 * audit.gradient_images + draws)
