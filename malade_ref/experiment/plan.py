"""What a run will do, in order, and about how long each step takes.

The durations are for two cores and come from measurements of the reference; they only serve to say what to expect and
how far a run is. What they are made of is the work on one image, in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from malade_ref.attacks.cards import Target
from malade_ref.datasets import Dataset
from malade_ref.experiment.config import CLEAN, Attack, Defence, Experiment, Method, Model
from malade_ref.experiment.search import attacked_images

# By network: the pixels of an image it was measured with, and by preset seconds an image, forward, forward and gradient
# with respect to the image, training. Other images take as much longer as they have more pixels.
_SECONDS: dict[str, tuple[int, dict[str, tuple[float, float, float]]]] = {
    "cnn": (28 * 28, {"paper": (0.75e-3, 1.4e-3, 2.4e-3), "small": (0.07e-3, 0.17e-3, 0.3e-3)}),
    "madry": (28 * 28, {"paper": (0.9e-3, 2.2e-3, 3.5e-3), "small": (0.03e-3, 0.11e-3, 0.2e-3)}),
    "sdae": (28 * 28, {"paper": (0.06e-3, 0.16e-3, 0.13e-3), "small": (0.035e-3, 0.1e-3, 0.09e-3)}),
    "cifar-resnet": (32 * 32, {"paper": (7e-3, 17e-3, 23e-3), "small": (0.8e-3, 2e-3, 2.8e-3)}),
    "madry-wide-resnet": (32 * 32, {"paper": (0.3, 0.7, 1.0), "small": (2e-3, 4.7e-3, 6.5e-3)}),
    "resnet-v2-50": (64 * 64, {"paper": (20e-3, 40e-3, 60e-3), "small": (1e-3, 1.8e-3, 2.7e-3)}),
    "conv-sdae": (32 * 32, {"paper": (4e-3, 7e-3, 11e-3), "small": (0.9e-3, 1.6e-3, 2.8e-3)}),
    "dncnn": (32 * 32, {"paper": (20e-3, 40e-3, 60e-3), "small": (0.9e-3, 1.7e-3, 3.8e-3)}),
    "unet": (32 * 32, {"paper": (12e-3, 25e-3, 40e-3), "small": (0.7e-3, 1.5e-3, 2.8e-3)}),
}

# Steps of a chain whose number is not known before the search.
_TYPICAL_STEPS = 5


class Step(NamedTuple):
    """One step of a run.

    Attributes
    ----------
    kind : str
        What is done: ``"train"``, ``"read"``, ``"quality"``, ``"search"``, ``"ahead"``, ``"attack"``, ``"audit"``,
        ``"certify"``, ``"paths"``, ``"pictures"``, ``"sheet"``, ``"perturbations"``, ``"walk"`` or ``"report"``.
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


# Seconds an image: forward, forward and gradient with respect to the image, training.
Passes = tuple[float, float, float]


def plan_of(
    experiment: Experiment, data: Dataset, seconds: Mapping[str, Passes] | None = None, *, ahead: bool = False
) -> list[Step]:
    """All steps of a run, in order.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    data : Dataset
        Its data.
    seconds : mapping of str to tuple of three float, optional
        By model, what a pass of one image takes: forward; forward and gradient with respect to the image; a step of a
        training. What was not measured is estimated.
    ahead : bool
        Whether workers compute all outcomes in one step, before those that take them one after another.

    Returns
    -------
    list of Step
        At least one.
    """
    steps = list(_steps(experiment, data, _Work(experiment, math.prod(data.shape[1:]), seconds or {})))
    if not ahead:
        return steps
    first = next(number for number, step in enumerate(steps) if step.kind == "attack")
    altogether = sum(step.seconds for step in steps if step.kind == "attack")
    cells = [step._replace(seconds=0.0) if step.kind == "attack" else step for step in steps]
    return [*cells[:first], Step("ahead", (), "attack and judge, all at once", altogether), *cells[first:]]


def _steps(experiment: Experiment, data: Dataset, work: _Work) -> Iterator[Step]:
    models, defences = experiment.models, experiment.defences
    for name in experiment.training_order():
        model = models[name]
        if model.file is not None:
            yield Step("read", (name,), f"read {model.name or name}", 0.0)
            continue
        images = (model.subset or len(data.train)) * model.epochs
        yield Step("train", (name,), f"train {model.name or name}", images * work.training(model))
    for name, model in models.items():
        seconds = work.passes(model)[0] + sum(work.passes(models[other])[0] for other in experiment.protected_by(name))
        count = min(len(data.test), experiment.evaluation.quality_images or len(data.test))
        yield Step("quality", (name,), f"test {model.name or name}", count * seconds)
    for name, defence in defences.items():
        if defence.search is not None:
            search = defence.search
            classifier, denoiser = work.parts(defence)
            grid = len(search.a) * len(search.delta) * search.num_draws * 2
            chain = max(search.num_steps) * denoiser[0] + len(search.num_steps) * classifier[0]
            seconds = search.num_images * (grid * chain + work.attack(name, search.attack, defence.classifier))
            if search.against == "defence":
                seconds += sum(
                    images * work.attack(name, search.attack, None, length)
                    for length, images in attacked_images(search)
                )
            yield Step("search", (name,), f"search settings of {defence.name}", seconds)
    attacked = set()
    for name, attack, eps in experiment.cells():
        title = (attack.title or attack.name) if attack else f"{CLEAN} images"
        title += f", eps {eps:g}," if attack and attack.eps else ""
        seconds = work.judging(name, attack)
        victim = attack.victim(name, defences) if attack is not None else None
        target = (victim, attack and attack.name, eps)
        if attack is not None and victim is not None and target not in attacked:
            of, bare = (name, victim.name) if victim.bare else (victim.name, None)
            seconds += work.num_images(attack) * work.attack(of, attack, bare)
        attacked.add(target)
        yield Step("attack", (name, attack, eps), f"{title} on {defences[name].name}", seconds)
    for name, defence in defences.items():
        yield Step("audit", (name,), f"check gradients of {defence.name}", work.audit(defence))
    if experiment.certify is not None:
        for name, smoothed in experiment.certify.smoothed.items():
            yield Step("certify", (name,), f"certify {smoothed.name}", work.certifying(name))
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


class _Work(NamedTuple):
    """Seconds that the parts of an experiment take, whose images have so many pixels; some were measured."""

    experiment: Experiment
    pixels: int
    measured: Mapping[str, Passes]

    def passes(self, model: Model) -> Passes:
        known = [name for name, one in self.experiment.models.items() if one is model and name in self.measured]
        if known:
            return self.measured[known[0]]
        pixels, seconds = _SECONDS[model.architecture[0]]
        forward, gradient, training = (one * self.pixels / pixels for one in seconds[model.preset])
        return forward, gradient, training

    def training(self, model: Model) -> float:
        seconds = self.passes(model)[2]
        if model.attack is not None:
            seconds += model.attack.resolved().get("num_steps", 1) * self.passes(model)[1]
        if model.learns in ("trades", "alp", "clp"):
            seconds += self.passes(model)[2]  # two images a sample
        if model.teacher is not None:
            seconds += self.passes(self.experiment.models[model.teacher])[0]
        if model.classifier is not None:
            seconds += self.passes(self.experiment.models[model.classifier])[1]
        return seconds

    def parts(self, defence: Defence) -> tuple[Passes, Passes]:
        denoiser = self.experiment.models[defence.denoiser] if defence.denoiser else None
        nothing = (0.0, 0.0, 0.0)
        classifier = self.experiment.models[defence.classifier]
        return self.passes(classifier), self.passes(denoiser) if denoiser else nothing

    def num_steps(self, defence: Defence) -> int:
        if defence.same_settings_as is not None:
            defence = self.experiment.defences[defence.same_settings_as]
        return _TYPICAL_STEPS if defence.num_steps is None else defence.num_steps

    def num_images(self, attack: Attack | None) -> int:
        return (attack.num_images if attack else None) or self.experiment.evaluation.num_images

    def forward(self, defence: Defence, steps: int | None = None) -> float:
        classifier, denoiser = self.parts(defence)
        return classifier[0] + (self.num_steps(defence) if steps is None else steps) * denoiser[0]

    def judging(self, name: str, attack: Attack | None) -> float:
        defence = self.experiment.defences[name]
        num_draws = 1 if defence.denoiser is None else self.experiment.evaluation.num_draws
        return self.num_images(attack) * num_draws * self.forward(defence)

    def attack(self, name: str, attack: Method, victim: str | None, steps: int | None = None) -> float:
        """Seconds of an attack on one image, of a defence, with so many steps, or of a classifier in its place."""
        defence = self.experiment.defences[name] if victim is None else Defence(name="", classifier=victim)
        classifier, denoiser = self.parts(defence)
        steps = self.num_steps(defence) if steps is None else steps
        forward = self.forward(defence, steps)
        cost = attack.card.costs(attack.settings, Target(stochastic=defence.denoiser is not None))
        # A denoiser's gradient includes a pass forward.
        back = denoiser[1] if attack.profile.gradient == "exact" else 0.0
        gradients = cost.gradients * (classifier[1] + steps * (denoiser[0] + back))
        drifts = cost.drifts * steps * (2 * denoiser[0] + denoiser[1])
        judging = 2 * (attack.resolved().get("num_judge_draws", 1) if victim is None else 1) * forward
        return gradients + (cost.queries - cost.gradients) * forward + drifts + judging

    def certifying(self, name: str) -> float:
        certify = self.experiment.certify
        assert certify is not None
        smoothed = certify.smoothed[name]
        names = [smoothed.classifier, *([smoothed.denoiser] if smoothed.denoiser is not None else [])]
        passes = sum(self.passes(self.experiment.models[model])[0] for model in names)
        return certify.num_images * (certify.num_selection + certify.num_estimation) * passes

    def audit(self, defence: Defence) -> float:
        classifier, denoiser = self.parts(defence)
        gradient = classifier[1] + self.num_steps(defence) * denoiser[1]
        audit = self.experiment.audit
        draws = 2 * audit.eot_images * audit.eot_draws if defence.denoiser is not None else 0
        binary = audit.binarisation_images * (40 * gradient + 700 * self.forward(defence))
        return gradient * (8 * audit.gradient_images + draws) + binary
