"""Run an experiment: every step once, into a bundle that can be gone on with after any interruption.

A step reads what it needs from the files of the steps before it, so a run that was interrupted at any moment ends with
the same bits as one that was not. Test images are the first of a fixed random order of the test split; noise belongs to
a sample's number in the split, so no result depends on how the images were cut into shards, or on their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from malade_ref import ops as reference_ops
from malade_ref.arrays import Array
from malade_ref.audit import eot_check, gradient_check
from malade_ref.binarisation import binarisation_check
from malade_ref.bundle import Bundle
from malade_ref.bundle.layout import MODELS
from malade_ref.checkpoint import load_state, save_state
from malade_ref.checks import InputError
from malade_ref.datasets import Dataset, load_dataset
from malade_ref.defence import MALADE, MODES
from malade_ref.experiment.ahead import Cell, Workers, compute_ahead
from malade_ref.experiment.config import CLEAN, Attack, Defence, Experiment, Victim
from malade_ref.experiment.models import (
    NETWORKS,
    History,
    arithmetic_of,
    facts_of_file,
    has_gradient,
    identity_of,
    is_foreign,
    model_quality,
    read_files,
    saved,
    train_or_take,
    trained_for_another,
    training_of,
)
from malade_ref.experiment.outcomes import Outcomes
from malade_ref.experiment.plan import Passes, Step, plan_of
from malade_ref.experiment.plates import Plates
from malade_ref.experiment.reading import Reading, settings_of
from malade_ref.experiment.rehearsal import check_sizes, rehearse
from malade_ref.experiment.search import Chains, Images, search_by_halving, search_settings
from malade_ref.experiment.sharing import Sharing
from malade_ref.experiment.stages import Arrays, chain_paths, picture_positions, run_attack
from malade_ref.experiment.store import Store, store_folder
from malade_ref.experiment.workers import Job
from malade_ref.figures import require
from malade_ref.network import Network
from malade_ref.report import require_page, write_report
from malade_ref.storage import Record, to_json
from malade_ref.training import Progress


class Watcher(Protocol):
    """Who is told how a run goes."""

    def plan(self, steps: list[Step], out: Path) -> None:
        """Hear what will be done, before anything is.

        Parameters
        ----------
        steps : list of Step
            All of them, in order.
        out : Path
            Where the results will be.
        """

    def begin(self, step: Step) -> Progress:
        """Hear that a step begins; give back whom to tell its progress. A step that was done already tells none."""

    def end(self, step: Step) -> None:
        """Hear that it ended."""

    def tell(self, line: str) -> None:
        """Hear what is out of the ordinary."""


class _Nobody:
    """Watches nothing."""

    def plan(self, steps: list[Step], out: Path) -> None:
        pass

    def begin(self, step: Step) -> Progress:
        return lambda fraction, message: None

    def end(self, step: Step) -> None:
        pass

    def tell(self, line: str) -> None:
        pass


def run_experiment(
    reading: Reading,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    resume: bool = False,
    ops: ModuleType | None = None,
    watcher: Watcher | None = None,
    shared: Path | None = None,
    data: Dataset | None = None,
    networks: Mapping[str, Network] | None = None,
    seconds: Mapping[str, Passes] | None = None,
    command: str | None = None,
    workers: Workers | None = None,
) -> Bundle:
    """Run an experiment, or go on with it.

    Parameters
    ----------
    reading : Reading
        The experiment, from `read_experiment`.
    out : path
        The bundle's folder.
    data_dir : path, optional
        Where to look for data first.
    resume : bool
        Whether the folder may hold a part of this very run.
    ops : module, optional
        The backend; the NumPy reference by default.
    watcher : Watcher, optional
        Told how it goes.
    shared : Path, optional
        Folder of what runs of a suite have in common, see `malade_ref.experiment.sharing`.
    data : Dataset, optional
        Images in place of those that are loaded by the experiment's name of them.
    networks : mapping of str to Network, optional
        Models in place of those that are read from files; those from `malade_ref.interop.wrap` among them, which the
        bundle names and does not keep.
    seconds : mapping of str to tuple, optional
        As of `plan_of`.
    command : str, optional
        What began the run, for its report.
    workers : callable, optional
        Gives a context manager with an executor whose workers attack and judge; by default this process does.

    Raises
    ------
    InputError
        If data, settings or the folder cannot be used; nothing that was there is overwritten.
    """
    experiment = reading.experiment
    ops = reference_ops if ops is None else ops
    watcher = watcher or _Nobody()
    if data is None:
        data = load_dataset(
            experiment.data.name,
            data_dir=data_dir,
            seed=experiment.data.seed,
            sizes=experiment.data.sizes(),
            progress=_of_data(watcher),
        )
    check_sizes(experiment, data)
    given = read_files(experiment, data, ops, networks)
    rehearse(experiment, ops)
    device = ops.describe_device()
    config = {**settings_of(experiment), "backend": ops.__name__.partition(".")[0], "data": _facts(experiment, data)}
    for name, network in given.items():
        config["models"][name] = facts_of_file(experiment.models[name], network)
    if "precision" in device:
        config["precision"] = device["precision"]
    begin = Bundle.resume if resume else Bundle.create
    with begin(out, reading.text, config, device=device) as bundle:
        if not bundle.finished:
            bundle.log.command = bundle.log.command or command
            _Run(bundle, experiment, data, ops, watcher, given, shared, data_dir, workers, seconds).run()
    return Bundle.open(out)


def _of_data(watcher: Watcher) -> Progress:
    """Tells, at each quarter, how far data are that are read for the first time."""
    said = 0

    def progress(fraction: float, message: str) -> None:
        nonlocal said
        if said < int(4 * fraction) < 4:
            said = int(4 * fraction)
            watcher.tell(f"reading data for the first time; {message}")

    return progress


class _Run(Outcomes):
    """A run in progress: what its steps share."""

    def __init__(
        self,
        bundle: Bundle,
        experiment: Experiment,
        data: Dataset,
        ops: ModuleType,
        watcher: Watcher,
        given: Mapping[str, Network],
        shared: Path | None,
        data_dir: str | Path | None,
        workers: Workers | None,
        seconds: Mapping[str, Passes] | None,
    ) -> None:
        self.data_dir, self.workers, self.seconds = data_dir, workers, seconds
        self.networks: dict[str, Network] = {}
        super().__init__(experiment, data, ops, self.networks)
        self.bundle, self.watcher, self.given = bundle, watcher, given
        folder = store_folder(experiment.store)
        self.store = Store(folder) if folder is not None else None
        common = {"arithmetic": arithmetic_of(ops), "seed": self.seed, "data": _facts(experiment, data)["sha256"]}
        self.sharing = Sharing(shared, common if shared is not None else {})
        self.recipes: dict[str, str] = {}
        self.quality: dict[str, Any] = {}
        self.findings: dict[str, dict[str, Any]] = {"gradient": {}, "eot": {}}
        self.audited = 0
        self.plates = Plates(self, bundle)

    def run(self) -> None:
        """Do every step that is not done."""
        steps = plan_of(self.experiment, self.data, self.seconds, ahead=self.workers is not None)
        self.watcher.plan(steps, self.bundle.path)
        do: dict[str, Callable[..., None]] = {
            "train": self.train,
            "read": self.read,
            "quality": self.test_model,
            "search": self.search,
            "ahead": self.attack_ahead,
            "attack": self.attack,
            "audit": self.audit,
            "certify": self.certify,
            "paths": self.follow_paths,
            "pictures": self.collect_pictures,
            "sheet": self.plates.draw_sheet,
            "perturbations": self.plates.draw_perturbations,
            "walk": self.plates.draw_walk,
            "report": self.report,
        }
        for step in steps:
            progress = self.watcher.begin(step)
            do[step.kind](progress, *step.subject)
            self.watcher.end(step)

    # Models ----------------------------------------------------------------------------------------------------------

    def train(self, progress: Progress, name: str) -> None:
        model = self.experiment.models[name]
        title = model.name or name
        training = training_of(model, self.networks, self.data, seed=self.seed + model.seed, ops=self.ops)
        self.recipes[name] = training.key

        def tell(line: str) -> None:
            self.watcher.tell(f"{title}: {line}")

        def compute(checkpoint: Path) -> tuple[Network, History]:
            # A change of somebody's code may leave no trace in what is known of a model.
            rests_on = {model.init, model.classifier, model.teacher} - {None}
            foreign = any(is_foreign(self.networks[other]) for other in rests_on if other is not None)
            network, history, origin = train_or_take(
                training,
                None if foreign else self.store,
                title=title,
                data=self.data.name,
                checkpoint=checkpoint,
                tell=tell,
                progress=progress,
            )
            self.bundle.log.networks[name] = {**origin, "fingerprint": network.fingerprint()}
            if origin["from"] == "store":
                tell(f"from the store (trained {origin['trained'][:10]}, {saved(origin['seconds'])} saved)")
            return network, history

        self.networks[name], _ = self.bundle.trained(name, compute, ops=self.ops)

    def read(self, progress: Progress, name: str) -> None:
        """Take a network from its file; the bundle keeps a copy, and goes on with that."""
        if is_foreign(self.given[name]):  # of which there is no copy: another one cannot have come in between
            self.networks[name] = self.given[name]
            self.bundle.log.networks[name] = {"from": "file", "fingerprint": self.given[name].fingerprint()}
            title = self.experiment.models[name].name or name
            self.warn(f"{title} is no network of malade's, so this bundle holds its outcomes and no copy of it")
            return

        def compute(checkpoint: Path) -> tuple[Network, History]:
            progress(0.0, "")
            network = self.given[name]
            self.bundle.log.networks[name] = {"from": "file", "fingerprint": network.fingerprint()}
            return network, {}

        self.networks[name], _ = self.bundle.trained(name, compute, ops=self.ops)

    def test_model(self, progress: Progress, name: str) -> None:
        model = self.experiment.models[name]

        def compute() -> Record:
            progress(0.0, "")
            classifiers = {other: self.networks[other] for other in self.experiment.protected_by(name)}
            return Record({}, model_quality(model, self.networks[name], classifiers, self.quality_images()))

        def facts() -> dict[str, Any]:
            protected = {other: identity_of(self.networks[other]) for other in self.experiment.protected_by(name)}
            network = identity_of(self.networks[name])
            return {"what": "quality", "network": network, "sigma2": model.sigma2, "classifiers": protected}

        shared = self.sharing.record
        self.quality[name] = dict(self.bundle.stage(f"quality/{name}", lambda: shared(facts, compute)).meta)
        for other in trained_for_another(self.experiment, name, self.networks):
            titles = [self.experiment.models[one].name or one for one in (name, other)]
            self.warn(f"{titles[0]}, from a file, was not trained for {titles[1]}, which it is to protect")
        if len(self.quality) == len(self.experiment.models):
            self.bundle.stage("quality", lambda: Record({}, self.quality), keep=True)
            self.bundle.stage(NETWORKS, self.record_networks, keep=True)

    def quality_images(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Images that models are tested on, and their labels."""
        test, count = self.data.test, self.experiment.evaluation.quality_images
        if count is None or count >= len(test):
            return test.images(), test.labels()
        key = self.ops.derive_key(self.seed, "evaluation-order")
        index = self.ops.to_host(self.ops.permutation(len(test), key=key)[:count])
        return test.images(index), test.labels(index)

    def record_networks(self) -> Record:
        """What every network is, and the recipe by which it was trained here or before."""
        found = {
            name: {
                "fingerprint": network.fingerprint(),
                "recipe": self.recipes.get(name),
                **({"foreign": True} if is_foreign(network) else {}),
            }
            for name, network in self.networks.items()
        }
        return Record({}, found)

    def warn(self, warning: str) -> None:
        """Say something that the reader of the results should know, too."""
        if warning not in self.bundle.log.warnings:
            self.bundle.log.warnings.append(warning)
            self.watcher.tell(warning)

    # Defences --------------------------------------------------------------------------------------------------------

    def search(self, progress: Progress, name: str) -> None:
        defence = self.experiment.defences[name]
        search, denoiser = defence.search, defence.denoiser
        assert search is not None
        assert denoiser is not None
        classifier, split = self.networks[defence.classifier], self.data.validation
        part = slice(0, search.num_images)
        x, y = self.ops.asarray(split.images(part)), self.ops.asarray(split.labels(part))
        images = Images(x, y, self.ops.arange(search.num_images))
        chains = Chains(classifier, self.networks[denoiser], defence.clip, self.seed)

        def attack() -> Record:
            progress(0.0, "attack the bare classifier")
            found = run_attack(search.attack, classifier, *images[:2], sample_index=images.sample_index, seed=self.seed)
            return Record({"x_adv": found["x_adv"]})

        def compute() -> Record:
            if search.against == "defence":
                stage = self.bundle.stage
                keep = lambda key, attack: stage(f"search-attack/{name}/{key}", attack)  # noqa: E731
                return search_by_halving(search, chains, images, keep=keep, progress=progress)
            attacked = self.bundle.stage(f"search-attack/{name}", attack).arrays["x_adv"]
            progress(0.0, "")
            return search_settings(search, chains, images, self.ops.asarray(attacked), progress=progress)

        def facts() -> dict[str, Any]:
            networks = {"classifier": classifier, "denoiser": self.networks[denoiser]}
            settings = {**asdict(search), "attack": [search.attack.method, search.attack.resolved()]}
            identities = {role: identity_of(network) for role, network in networks.items()}
            return {"what": "search", **identities, "clip": defence.clip, "search": settings}

        shared = self.sharing.record
        self.bundle.stage(f"search/{name}", lambda: shared(facts, compute), keep=True)

    @cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Settings of every chain, after the searches."""

        def of(defence: Defence, name: str) -> dict[str, Any]:
            if defence.same_settings_as is not None:
                name, defence = defence.same_settings_as, self.experiment.defences[defence.same_settings_as]
            if defence.search is not None:
                return dict(self.bundle.record(f"search/{name}").meta["chosen"])
            return {"num_steps": defence.num_steps, "a": defence.a, "delta": defence.delta, "clip": defence.clip}

        found = {
            name: {**of(defence, name), "sigma2": self.experiment.models[defence.denoiser].sigma2}
            for name, defence in self.experiment.defences.items()
            if defence.denoiser is not None
        }
        return {
            name: dict(value)
            for name, value in self.bundle.stage("settings", lambda: Record({}, found), keep=True).meta.items()
        }

    def chain_settings(self, name: str) -> Mapping[str, Any]:
        return self.settings[name]

    # Attacks ---------------------------------------------------------------------------------------------------------

    def attack(self, progress: Progress, name: str, attack: Attack | None, eps: float) -> None:
        cell = self.cell(name, attack, eps)
        model = self.defence(name)

        def compute(first: int, last: int) -> Arrays:
            progress(first / cell.num_images, f"image {first} of {cell.num_images}")
            return self.put_aside(cell, first, last, self.outcome(model, name, attack, eps, first, last))

        shard_size = self.experiment.evaluation.shard_size
        self.bundle.shards(cell.key, cell.num_images, shard_size, compute, meta=cell.meta, only=())

    def cell(self, name: str, attack: Attack | None, eps: float) -> Cell:
        """What is known of a cell of the outcomes before it is computed."""
        num_images = (attack.num_images if attack else None) or self.experiment.evaluation.num_images
        meta = _description(name, self.experiment.defences, attack, eps)
        return Cell(name, attack, eps, f"{name}/{meta['attack']}/{eps:g}", num_images, meta)

    def put_aside(self, cell: Cell, first: int, last: int, outcome: Arrays) -> Arrays:
        """Put aside what pictures need of a shard of outcomes, and give what is kept of it."""
        self.plates.keep(cell.key, outcome, first)
        if first == 0 and self.experiment.pictures is not None:
            self.keep_pictures(
                cell.key, self.defence(cell.defence), self.ops.asarray(outcome["x_adv"]), self.order[:last]
            )
        keep_images = self.experiment.evaluation.save_images
        return {key: value for key, value in outcome.items() if key != "x_adv" or keep_images}

    def attack_ahead(self, progress: Progress) -> None:
        """Have workers compute all shards that are not there; the steps of the cells then find them."""
        assert self.workers is not None
        compute_ahead(self, self.bundle, self.job, self.workers, progress)

    def job(self) -> Job:
        """What workers have to know."""
        config, folder = to_json("configuration", self.bundle.config), str((self.bundle.path / MODELS).resolve())
        fingerprints = tuple((name, network.fingerprint()) for name, network in self.networks.items())
        data_dir = None if self.data_dir is None else str(Path(self.data_dir).resolve())
        return Job(config, to_json("settings", self.settings), data_dir, folder, fingerprints)

    def images_against(self, victim: Victim, attack: Attack, eps: float, first: int, last: int) -> Arrays:
        """Images that are tried on several defences are made once."""
        make = super().images_against
        return self.made_once(victim, attack, eps, first, last, lambda: make(victim, attack, eps, first, last))

    def made_once(
        self, victim: Victim, attack: Attack, eps: float, first: int, last: int, make: Callable[[], Arrays]
    ) -> Arrays:
        """Images that an attack makes, as they were kept, or made and kept now."""

        def facts() -> dict[str, Any]:
            return {
                "what": "attack",
                "victim": self.identity(victim),
                "method": attack.method,
                "settings": attack.resolved(),
                "eps": eps if attack.eps else None,
                "early_stop": self.stops_early(victim, attack),
                "images": self.ops.to_host(self.order[first:last]).tolist(),
            }

        if self.sharing.folder is not None:
            return dict(self.sharing.record(facts, lambda: Record(make())).arrays)
        if not self.kept(victim, attack):
            return make()
        kind = "attacked" if victim.bare else "attacked-defence"
        path = self.bundle.partial(f"{kind}/{victim.name}/{attack.name}/{eps:g}/{first:09d}-{last:09d}")
        if not path.exists():
            save_state(path, make(), {})
        return dict(load_state(path).arrays)

    def kept(self, victim: Victim, attack: Attack) -> bool:
        """Whether images are for more than one: another defence, or another run of a suite."""
        return self.sharing.folder is not None or len(self.tried_on(victim, attack)) > 1

    def identity(self, victim: Victim) -> dict[str, Any]:
        """What decides how a model answers: its networks, and the settings of its chain."""
        if victim.bare:
            return {"classifier": identity_of(self.networks[victim.name])}
        defence = self.experiment.defences[victim.name]
        assert defence.denoiser is not None
        networks = {"classifier": defence.classifier, "denoiser": defence.denoiser}
        identities = {role: identity_of(self.networks[name]) for role, name in networks.items()}
        return {**identities, "chain": dict(self.settings[victim.name])}

    def keep_pictures(self, cell: str, model: Any, x_adv: Array, index: Array) -> None:
        """Put the first images of a cell aside, with what the defence makes of them in one draw."""
        pictures = self.experiment.pictures
        assert pictures is not None
        part = slice(0, min(pictures.num_images, len(x_adv)))
        settings = {"sample_index": index[part]} if model.stochastic else {}
        probability = np.exp(self.ops.to_host(self.ops.log_softmax(model.logits(x_adv[part], **settings))))
        arrays = {"x_adv": self.ops.to_host(x_adv[part]), "probability": probability}
        if isinstance(model, MALADE):
            arrays |= picture_positions(model, x_adv[part], sample_index=index[part])
        save_state(self.bundle.partial(f"pictures/{cell}"), arrays, {})

    # Looking into the models -----------------------------------------------------------------------------------------

    def audit(self, progress: Progress, name: str) -> None:
        """Compare gradients with finite differences, and measure the noise of those that are random."""
        model, audit = self.defence(name), self.experiment.audit

        classifier = self.networks[self.experiment.defences[name].classifier]
        foreign = is_foreign(classifier)

        def compare() -> Record:
            progress(0.0, "finite differences")
            index = self.order[: audit.gradient_images]
            try:
                found = gradient_check(model, *self.images(index), sample_index=index, seed=self.seed)
            except InputError as error:
                if not foreign:  # not every model has a gradient, or answers in float64
                    raise
                return Record({}, {"why_not": str(error)})
            return Record({}, found._asdict())

        def measure(mode: str, draws: list[int]) -> Record:
            progress(0.5, f"draws, {mode}")
            index = self.order[: audit.eot_images]
            options = {"num_draws": draws, "mode": mode, "sample_index": index, "seed": self.seed}
            return Record({}, eot_check(model, *self.images(index), **options)._asdict())

        def solve() -> Record:
            progress(0.9, "finding what is known to exist")
            index = self.order[: audit.binarisation_images]
            options = {"eps": audit.binarisation_eps, "sample_index": index, "seed": self.seed}
            return Record({}, binarisation_check(model, self.images(index)[0], **options)._asdict())

        self.audited += 1
        found = dict(self.bundle.stage(f"audit/{name}/gradient", compare).meta)
        if "why_not" in found:
            title = self.experiment.defences[name].name
            self.warn(f"the gradients of {title} were not compared with finite differences ({found['why_not']})")
        else:
            self.findings["gradient"][name] = found
        if model.stochastic and not (foreign and not has_gradient(classifier)):
            self.findings["eot"][name] = {
                mode: dict(self.bundle.stage(f"audit/{name}/eot-{mode}", partial(measure, mode, draws)).meta)
                for mode, draws in self.draws_of_attacks(name).items()
            }
        if audit.binarisation_images and not foreign:  # it looks into the last layer
            known = self.findings.setdefault("binarisation", {})
            known[name] = dict(self.bundle.stage(f"audit/{name}/binarisation", solve).meta)
        if audit.convergence:
            self.findings["convergence"] = {}  # the attacks' own ladders
        if self.audited == len(self.experiment.defences):
            self.bundle.stage("audit", lambda: Record({}, self.findings), keep=True)

    def draws_of_attacks(self, name: str) -> dict[str, list[int]]:
        """Numbers of draws that the attacks on a defence average over, by the kind of gradient."""
        most = self.experiment.audit.eot_draws
        draws: dict[str, set[int]] = {"exact": {1, most}}
        for attack in self.experiment.attacks:
            gradient = attack.profile.gradient
            if name in attack.against and attack.source == "defence" and gradient in MODES:
                own = draws.setdefault(gradient, {1, most})
                own.add(int(attack.resolved().get("num_draws", 1)))
        return {mode: sorted(numbers) for mode, numbers in draws.items()}

    def certify(self, progress: Progress, name: str) -> None:
        """Certify one smoothed classifier, some images at a time."""
        settings = self.experiment.certify
        assert settings is not None
        total = settings.num_images

        def of_shard(first: int, last: int) -> Record:
            def tell(fraction: float, _: str) -> None:
                done = first + fraction * (last - first)
                progress(done / total, f"image {int(done)} of {total}")

            return self.certificates(name, first, last, tell)

        def whole() -> Record:
            parts = []
            for first in range(0, total, settings.shard_size):
                last = min(first + settings.shard_size, total)
                parts.append(
                    self.bundle.stage(f"certify-shard/{name}/{first:09d}", partial(of_shard, first, last)).arrays
                )
            return Record({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})

        self.bundle.stage(f"certify/{name}", whole, keep=True)

    def follow_paths(self, progress: Progress) -> None:
        paths = self.experiment.paths
        assert paths is not None
        attack = next(attack for attack in self.experiment.attacks if attack.name == paths.attack)
        defence, marginal = self.experiment.defences[paths.defence], self.experiment.models[paths.marginal]

        def compute() -> Record:
            progress(0.0, "")
            classifier = self.networks[defence.classifier]
            candidates = self.order[: 8 * paths.num_images]
            x, y = self.images(candidates)
            found = self.attacked(classifier, attack, paths.eps, candidates)
            fooled = self.ops.to_host(classifier.predict(x) == y) & found["success"]
            # Those that were fooled come first, in their order.
            chosen = np.argsort(~fooled, kind="stable")[: paths.num_images]
            index = candidates[self.ops.asarray(chosen)]
            clean, label = self.images(index)
            chains = {
                "malade": self.defence(paths.defence),
                "marginal": self.defence(paths.defence, denoiser=paths.marginal),
            }
            attacked = self.ops.asarray(found["x_adv"][chosen])
            arrays = chain_paths(chains, clean, attacked, sample_index=index)
            arrays |= {"sample_index": self.ops.to_host(index), "label": self.ops.to_host(label)}
            titles = {"malade": defence.name, "marginal": f"the same chain with {marginal.name or paths.marginal}"}
            return Record(
                arrays, {"chains": titles, "defence": paths.defence, "attack": paths.attack, "eps": paths.eps}
            )

        self.bundle.stage("paths", compute, keep=True)

    def collect_pictures(self, progress: Progress) -> None:
        pictures = self.experiment.pictures
        assert pictures is not None

        def compute() -> Record:
            progress(0.0, "")
            index = self.order[: pictures.num_images]
            arrays = {"sample_index": self.ops.to_host(index), "label": self.ops.to_host(self.images(index)[1])}
            for name, attack, eps in self.experiment.cells():
                cell = f"{name}/{attack.name if attack else CLEAN}/{eps:g}"
                found = load_state(self.bundle.partial(f"pictures/{cell}")).arrays
                arrays |= {f"{cell}/{key}": array for key, array in found.items()}
            return Record(arrays, {})

        self.bundle.stage("pictures", compute, keep=True)

    def report(self, progress: Progress) -> None:
        progress(0.0, "")
        self.bundle.merge()
        # Nothing that was computed is to be lost for want of a library that only draws.
        drawable = {}
        for what, check in (("figures", require), ("page", require_page)):
            try:
                check()
                drawable[what] = True
            except InputError as error:
                drawable[what] = False
                left_out = "figures were" if what == "figures" else "report.html was"
                warning = f"{left_out} left out ({error}); malade report draws them"
                if warning not in self.bundle.log.warnings:
                    self.bundle.log.warnings.append(warning)
        write_report(self.bundle, **drawable)
        self.bundle.finish()


def _description(name: str, defences: Mapping[str, Defence], attack: Attack | None, eps: float) -> dict[str, Any]:
    """What a cell of the outcomes says of itself."""
    if attack is None:
        return {
            "defence": name,
            "attack": CLEAN,
            "method": CLEAN,
            "eps": 0.0,
            "norm": "",
            "settings": {},
            "source": "defence",
        }
    victim = attack.victim(name, defences)
    own = replace(attack, source="defence").victim(name, defences)
    return {
        "defence": name,
        "attack": attack.name,
        "title": attack.title or attack.name,
        "method": attack.method,
        "eps": eps,
        "norm": attack.profile.norm,
        "card": attack.profile._asdict(),
        "settings": {key: value for key, value in attack.resolved().items() if key not in ("eps", "seed")},
        "source": "defence" if victim == own else "classifier" if victim.bare else "another",
        **({"crafted_on": victim.name} if victim != own else {}),
        **({"family": attack.family} if attack.family else {}),
        **({"cuts": list(attack.cuts), "cut_norm": attack.cut_norm} if attack.nearest else {}),
    }


def _facts(experiment: Experiment, data: Dataset) -> dict[str, Any]:
    """What the results depend on, of the data."""
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        "name": data.name,
        "seed": experiment.data.seed,
        "note": data.note,
        "class_names": list(data.class_names),
        **{split: len(images) for split, images in splits.items()},
        "sha256": {split: images.sha256() for split, images in splits.items()},
    }
