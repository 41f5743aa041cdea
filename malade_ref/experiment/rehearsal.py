"""Before a run: whether there are enough images, and whether every attack accepts its settings."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from malade_ref.checks import InputError
from malade_ref.datasets import Dataset
from malade_ref.defence import MALADE
from malade_ref.experiment.config import Experiment
from malade_ref.experiment.models import network_for
from malade_ref.network import cnn, sdae


def check_sizes(experiment: Experiment, data: Dataset) -> None:
    """Raise unless there are enough images, of the shape and with the classes that the networks take.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    data : Dataset
        Its data.
    """
    wanted = [("evaluation.num_images", experiment.evaluation.num_images, "test", data.test)]
    for name, model in experiment.models.items():
        if model.file is not None:
            continue  # looked at when it was read
        wanted.append((f"models.{name}.subset", model.subset or 1, "training", data.train))
        wanted.append((f"models.{name}.validation", 1, "validation", data.validation))
        try:
            network_for(model, data)
        except InputError as error:
            raise InputError(f"models.{name}: {error}") from error
    for name, defence in experiment.defences.items():
        if defence.search is not None:
            wanted.append(
                (f"defences.{name}.search.num_images", defence.search.num_images, "validation", data.validation)
            )
    for key, size, what, split in wanted:
        if size > len(split):
            raise InputError(
                f"{key}: expected at most {len(split)}, the number of {what} images of {data.name}; got {size}"
            )


def rehearse(experiment: Experiment, ops: ModuleType) -> None:
    """Let every attack run on no images, so that a setting out of range is found before hours of training.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    ops : module
        The backend.
    """
    classifier = cnn("small", ops=ops)
    defended = MALADE(classifier, sdae("small", ops=ops), num_steps=1, a=0.5, delta=0.1)
    x, y, none = ops.zeros((0, *classifier.input_shape), "float32"), ops.zeros((0,), "int64"), ops.arange(0)
    methods = [(f"attacks.{attack.name}", attack) for attack in experiment.attacks]
    rehearsals: list[tuple[str, Any, Any, dict[str, Any]]] = []
    for where, attack in methods:
        for eps in attack.eps or (None,):
            given = {} if eps is None else {"eps": eps}
            rehearsals += [(where, attack, model, given) for model in (classifier, defended)]
    for name, model in experiment.models.items():
        for key, method in (("adversarial", model.attack), ("robust_check", model.check)):
            if method is not None:
                rehearsals.append((f"models.{name}.{key}", method, classifier, {}))
    for name, defence in experiment.defences.items():
        if defence.search is not None:
            key, method = f"defences.{name}.search.attack", defence.search.attack
            rehearsals += [(key, method, model, {}) for model in (classifier, defended)]
    for where, method, model, given in rehearsals:
        try:
            settings = {**method.settings, **given}
            method.function(model, x, y, seed=experiment.seed, sample_index=none, **settings)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
