"""Per-sample outcomes of an experiment, as functions of its networks, its chains' settings and its images.

A run computes them once, into its bundle; `malade_ref.experiment.recompute` computes some of them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import ModuleType
from typing import Any

from malade_ref.arrays import Array
from malade_ref.attacks.standing import Standing
from malade_ref.datasets import Dataset
from malade_ref.defence import MALADE
from malade_ref.experiment.config import Attack, Experiment, Victim
from malade_ref.experiment.stages import Arrays, certified, clean_outcome, correct_draws, run_attack
from malade_ref.network import Network
from malade_ref.storage import Record
from malade_ref.training import Progress


class Outcomes:
    """What every outcome follows from.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    data : Dataset
        Its data.
    ops : module
        The backend.
    networks : mapping of str to Network
        The models, by name.
    settings : mapping of str to dict, optional
        Of every defence's chain, by name, after the searches.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: Dataset,
        ops: ModuleType,
        networks: Mapping[str, Network],
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.experiment, self.data, self.ops, self.networks = experiment, data, ops, networks
        self.seed = experiment.seed
        self._settings = settings or {}

    def chain_settings(self, name: str) -> Mapping[str, Any]:
        """Settings of a defence's chain.

        Parameters
        ----------
        name : str
            The defence.

        Returns
        -------
        mapping
            Keyword arguments of `MALADE`, and ``sigma2``.
        """
        return self._settings[name]

    def defence(self, name: str, *, denoiser: str | None = None) -> Any:
        """Build a defence, possibly with another denoiser.

        Parameters
        ----------
        name : str
            The defence.
        denoiser : str, optional
            A model in place of the defence's own.

        Returns
        -------
        Network or MALADE
            The model.
        """
        defence = self.experiment.defences[name]
        classifier = self.networks[defence.classifier]
        if defence.denoiser is None:
            return classifier
        chain = {key: value for key, value in self.chain_settings(name).items() if key != "sigma2"}
        return MALADE(classifier, self.networks[denoiser or defence.denoiser], **chain, seed=self.seed)

    @cached_property
    def order(self) -> Array:
        """Numbers of the test images, in the order in which they are used."""
        key = self.ops.derive_key(self.seed, "evaluation-order")
        return self.ops.permutation(len(self.data.test), key=key)[: self.experiment.evaluation.num_images]

    def images(self, index: Array) -> tuple[Array, Array]:
        """Test images of given numbers, and their labels.

        Parameters
        ----------
        index : array of shape (n,), integer
            Numbers in the test split.

        Returns
        -------
        x : array of shape (n, c, h, w)
            Images.
        y : array of shape (n,), integer
            Labels.
        """
        host, test = self.ops.to_host(index), self.data.test
        return self.ops.asarray(test.images(host)), self.ops.asarray(test.labels(host))

    def attacked(self, model: Any, attack: Attack, eps: float, index: Array) -> Arrays:
        """What an attack makes of images.

        Parameters
        ----------
        model : Network or MALADE
            What is attacked.
        attack : Attack
            The attack.
        eps : float
            Size of the perturbation, if the attack lists sizes.
        index : array of shape (n,), integer
            Numbers of the images.

        Returns
        -------
        dict of str to ndarray
            The fields of an `AttackResult`, on the host.
        """
        x, y = self.images(index)
        return run_attack(
            attack, model, x, y, sample_index=index, seed=self.seed, **({"eps": eps} if attack.eps else {})
        )

    def images_against(self, victim: Victim, attack: Attack, eps: float, first: int, last: int) -> Arrays:
        """Attack a model, which may be another than the one that the images are tried on.

        Parameters
        ----------
        victim : Victim
            The model.
        attack : Attack
            The attack.
        eps : float
            Size of the perturbation.
        first, last : int
            Which images of the order.

        Returns
        -------
        dict of str to ndarray
            As of `attacked`.
        """
        model = self.networks[victim.name] if victim.bare else self.defence(victim.name)
        if self.stops_early(victim, attack):
            model = Standing(model)
        return self.attacked(model, attack, eps, self.order[first:last])

    def tried_on(self, victim: Victim, attack: Attack) -> list[str]:
        """Defences that are given the images which an attack makes against a model.

        Parameters
        ----------
        victim : Victim
            The model.
        attack : Attack
            The attack.
        """
        return [name for name in attack.against if attack.victim(name, self.experiment.defences) == victim]

    def stops_early(self, victim: Victim, attack: Attack) -> bool:
        """Whether images that have fallen leave the attack, see `Evaluation`.

        Parameters
        ----------
        victim : Victim
            The model.
        attack : Attack
            The attack.
        """
        tried_on = self.tried_on(victim, attack)
        alone = len(tried_on) == 1 and self.experiment.defences[tried_on[0]].denoiser is None
        return self.experiment.evaluation.early_stop and victim.bare and alone and not attack.profile.nearest

    def outcome(self, model: Any, name: str, attack: Attack | None, eps: float, first: int, last: int) -> Arrays:
        """Outcomes of images [first, last) of the order.

        Parameters
        ----------
        model : Network or MALADE
            The defence.
        name : str
            Its name.
        attack : Attack, optional
            None for the images as they are.
        eps : float
            Size of the perturbation.
        first, last : int
            Which images.

        Returns
        -------
        dict of str to ndarray
            ``sample_index``, ``label``, the fields of an `AttackResult`, ``correct`` and perhaps ``distance_l2``.
        """
        index = self.order[first:last]
        x, y = self.images(index)
        if attack is None:
            found = clean_outcome(model, x, y, sample_index=index, seed=self.seed)
        else:
            victim = attack.victim(name, self.experiment.defences)
            found = self.images_against(victim, attack, eps, first, last)
        x_adv = self.ops.asarray(found["x_adv"])
        if attack is not None and attack.nearest:
            found["distance_l2"] = self.ops.to_host(self.ops.distance_l2(x_adv, x))
        num_draws = self.experiment.evaluation.num_draws
        found["correct"] = correct_draws(model, x_adv, y, num_draws=num_draws, sample_index=index)
        return {"sample_index": self.ops.to_host(index), "label": self.ops.to_host(y), **found}

    def certificates(self, name: str, first: int, last: int, progress: Progress | None = None) -> Record:
        """Counts of a smoothed classifier's votes.

        Parameters
        ----------
        name : str
            Of the smoothed classifier.
        first, last : int
            Which images of the order.
        progress : callable, optional
            Told the fraction done and a line of text.

        Returns
        -------
        Record
            As of `malade_ref.experiment.stages.certified`.
        """
        settings = self.experiment.certify
        assert settings is not None
        smoothed, index = settings.smoothed[name], self.order[first:last]
        denoiser = self.networks[smoothed.denoiser] if smoothed.denoiser is not None else None
        classifier = self.networks[smoothed.classifier]
        return certified(
            settings, classifier, denoiser, *self.images(index), sample_index=index, seed=self.seed, progress=progress
        )
