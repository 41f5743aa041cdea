"""Models of an experiment: what decides a training, training it, taking it from the store or from a file."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from numpy.typing import NDArray

from malade_ref import checkpoint
from malade_ref.bundle import Bundle
from malade_ref.bundle.manifest import read_left_out
from malade_ref.checks import InputError, OutOfMemoryError
from malade_ref.classes import KEY, check_class_names, listed, with_class_names
from malade_ref.datasets import Dataset, Split
from malade_ref.experiment.config import Experiment, Method, Model
from malade_ref.experiment.store import Kept, Store, key_of
from malade_ref.interop.wrap import Wrapped
from malade_ref.network import Network, channel_statistics, make, parameters_of
from malade_ref.robust_training import TRADES, AdversarialLogitPairing, CleanLogitPairing, Smoothed
from malade_ref.storage import to_json
from malade_ref.training import (
    Adversarial,
    Classification,
    Denoising,
    Distillation,
    Fitted,
    Objective,
    Progress,
    SupervisedDenoising,
    evaluate,
    fit,
)

# Raise it when a training comes to end with other bits: other arithmetic, another order of images, other noise.
# Networks that were kept before are then trained again. tests/ref/test_store.py notices a change without it.
TRAINING_VERSION = 1

# Settings of an attack that grow over the first epochs of adversarial training.
GROWING = ("eps", "step_size")

History = Mapping[str, Sequence[float | None]]


class Training(NamedTuple):
    """A training that could begin.

    Attributes
    ----------
    model : Model
        Its table.
    start : Network
        Where it starts.
    objective : Objective
        What is minimised.
    train, validation : Split
        The images that it sees.
    seed : int
        Of the order and the noise.
    recipe : dict
        Everything that decides which bits come out, JSON-able.
    """

    model: Model
    start: Network
    objective: Objective
    train: Split
    validation: Split
    seed: int
    recipe: dict[str, Any]

    @property
    def key(self) -> str:
        """SHA-256 of the recipe."""
        return key_of(self.recipe)


def objective_of(model: Model, networks: Mapping[str, Network]) -> Objective:
    """What a model is trained for.

    Parameters
    ----------
    model : Model
        Its table.
    networks : mapping of str to Network
        The models it refers to.
    """
    if model.kind == "classifier":
        if model.learns in ("trades", "alp", "clp"):
            return _objective_of_pairs(model)
        plain = Classification() if model.teacher is None else Distillation(networks[model.teacher])
        found = plain if model.attack is None else Adversarial(*_attack_of(model, model.attack))
        return Smoothed(found, model.label_smoothing) if model.label_smoothing else found
    sigma = math.sqrt(model.sigma2 or 0.0)
    if model.classifier is None:
        return Denoising(sigma)
    return SupervisedDenoising(sigma, networks[model.classifier], model.ce_weight)


def network_for(model: Model, data: Dataset, *, seed: int = 0, ops: ModuleType | None = None) -> Network:
    """The network that a training starts from, for the images and classes of a data set.

    Parameters
    ----------
    model : Model
        Its table.
    data : Dataset
        Images.
    seed : int
        Of the initial weights.
    ops : module, optional
        The backend.

    Raises
    ------
    InputError
        If the network does not fit the images.
    """
    normalize: tuple[Sequence[float], Sequence[float]] | None = None
    if model.mean is not None and model.std is not None:
        normalize = model.mean, model.std
    elif "normalize" in parameters_of(model.kind, model.network):
        normalize = channel_statistics(data.name, data.shape[0])
    sizes: dict[str, Any] = {"preset": model.preset, "depth": model.depth, "width": model.width}
    shape = data.shape, data.num_classes
    return make(model.kind, model.network, *shape, **sizes, normalize=normalize, seed=seed, ops=ops)


def _attack_of(model: Model, attack: Method) -> tuple[Callable[..., Any], int, dict[str, float]]:
    """The attack of a training as an `Adversarial` takes it: the function, and which settings grow, how long."""
    settings = attack.resolved()
    growing = {name: float(settings[name]) for name in GROWING if model.ramp and name in settings}
    return partial(attack.function, **attack.settings), model.ramp, growing


def _objective_of_pairs(model: Model) -> Objective:
    """What compares two images of each sample."""
    smoothing = model.label_smoothing
    if model.attack is None:
        return CleanLogitPairing(model.noise or 0.0, model.pairing_weight, smoothing)
    if model.learns == "alp":
        return AdversarialLogitPairing(*_attack_of(model, model.attack), model.pairing_weight, smoothing)
    settings = {name: model.attack.resolved()[name] for name in ("eps", "step_size", "num_steps", "norm")}
    return TRADES(**settings, beta=model.beta, smoothing=smoothing, ramp=model.ramp)


def training_of(
    model: Model, networks: Mapping[str, Network], data: Dataset, *, seed: int, ops: ModuleType
) -> Training:
    """What a model's table asks for.

    Parameters
    ----------
    model : Model
        Its table.
    networks : mapping of str to Network
        The models it refers to.
    data : Dataset
        Images.
    seed : int
        Of the initial weights, the order and the noise.
    ops : module
        The backend.
    """
    start = networks[model.init] if model.init else network_for(model, data, seed=seed, ops=ops)
    if model.kind == "classifier":
        start = with_class_names(start, data.class_names)
    train, validation = _first(data.train, model.subset), _first(data.validation, model.validation)
    recipe = {
        "version": TRAINING_VERSION,
        **arithmetic_of(ops),
        "dtype": start.dtype,
        "start": {**identity_of(start), "metadata": _sha256(start.metadata)},
        "objective": _description(model, networks),
        **({"further": model.further_settings()} if model.further_settings() else {}),
        **{name: getattr(model, name) for name in ("epochs", "batch_size", "learning_rate", "schedule", "optimizer")},
        "seed": seed,
        "data": {
            name: {"count": len(split), "sha256": split.sha256()}
            for name, split in (("train", train), ("validation", validation))
        },
    }
    return Training(model, start, objective_of(model, networks), train, validation, seed, recipe)


def train_model(training: Training, *, checkpoint: Path, progress: Progress | None = None) -> Fitted:
    """Train one model.

    Parameters
    ----------
    training : Training
        Which, from `training_of`.
    checkpoint : Path
        For interruptions.
    progress : callable, optional
        Told the fraction done and a line of text.
    """
    model, asarray = training.model, training.start.ops.asarray
    train, validation = training.train, training.validation
    return fit(
        training.start,
        training.objective,
        asarray(train.images()),
        asarray(train.labels()),
        epochs=model.epochs,
        batch_size=model.batch_size,
        learning_rate=model.learning_rate,
        schedule=model.schedule,
        optimizer=model.optimizer,
        validation=(asarray(validation.images()), asarray(validation.labels())),
        seed=training.seed,
        checkpoint=checkpoint,
        progress=progress,
        options=model.options(),
    )


def train_or_take(
    training: Training,
    store: Store | None,
    *,
    title: str,
    data: str,
    checkpoint: Path,
    tell: Callable[[str], None],
    progress: Progress,
) -> tuple[Network, History, dict[str, Any]]:
    """A trained model: from the store if it is there, else trained, and kept there.

    Parameters
    ----------
    training : Training
        Which.
    store : Store, optional
        Where trained networks are kept; None to train.
    title, data : str
        What to call the model, and the name of its data, for `Store.put`.
    checkpoint : Path
        For interruptions.
    tell : callable
        Told in one line what is out of the ordinary.
    progress : callable
        Told the fraction done and a line of text.

    Returns
    -------
    network : Network
        The network.
    history : mapping
        Numbers an epoch.
    origin : dict
        ``from``: "store" or "training"; of what is from the store also ``trained``, ``seconds`` and ``environment``.
    """
    said: list[str] = []

    def tell_once(line: str) -> None:
        if line not in said:
            said.append(line)
            tell(line)

    def take() -> tuple[Network, History, dict[str, Any]] | None:
        kept = store.take(training.key, ops=training.start.ops, tell=tell_once) if store is not None else None
        return (kept.network, kept.history, _origin(kept)) if kept is not None else None

    def train() -> tuple[Network, History, dict[str, Any]]:
        progress(0.0, "")
        began = time.monotonic()
        network, history = train_model(training, checkpoint=checkpoint, progress=progress)
        if store is not None:
            seconds = time.monotonic() - began
            try:
                store.put(training.recipe, network, history, title=title, data=data, seconds=seconds)
            except InputError as error:
                tell(f"not kept for other runs: {error}")
        return network, history, {"from": "training"}

    def told(
        found: tuple[Network, History, dict[str, Any]],
    ) -> tuple[Network, History, dict[str, Any]]:
        made = found[0].metadata.get("training")
        stopped = made.get("stopped") if isinstance(made, Mapping) else None
        if isinstance(stopped, Mapping):
            tell(str(stopped["why"]))
        return found

    if store is None:
        return told(train())
    found = take()
    if found is None:
        with store.claim(training.key, tell):
            # Whoever had it before may have left it there.
            found = take() or train()
    return told(found)


def read_files(
    experiment: Experiment, data: Dataset, ops: ModuleType, given: Mapping[str, Network] | None = None
) -> dict[str, Network]:
    """Read the networks that models take from files, and check that they fit their tables and the data.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    data : Dataset
        Its data.
    ops : module
        The backend.
    given : mapping of str to Network, optional
        Models that are there already, in place of those of their files.

    Raises
    ------
    InputError
        Naming the model, if a file cannot be read, or its network has other shapes or classes, is of another kind, or
        was trained at another noise.
    """
    found, given = {}, given or {}
    for name, model in experiment.models.items():
        if model.file is not None:
            try:
                found[name] = given[name] if name in given else checkpoint.load(model.file, ops=ops)
                _check_fits(model, found[name], data)
            except InputError as error:
                raise InputError(f"models.{name}.file: {error}") from error
    return found


def facts_of_file(model: Model, network: Network) -> dict[str, Any]:
    """What the results depend on, of a model that is taken from a file: its settings, without those of a training.

    Parameters
    ----------
    model : Model
        Its table.
    network : Network
        What the file holds.

    Returns
    -------
    dict
        JSON-able, for the bundle's configuration.
    """
    facts = {name: getattr(model, name) for name in ("kind", "name", "note", "sigma2", "classifier")}
    return {**facts, "file": {"name": Path(model.file or "").name, **identity_of(network)}}


def trained_for_another(experiment: Experiment, name: str, networks: Mapping[str, Network]) -> list[str]:
    """Classifiers that a denoiser from a file is to protect, and was not trained for.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    name : str
        The denoiser.
    networks : mapping of str to Network
        All models.

    Returns
    -------
    list of str
        Names of models; none of a denoiser that was trained for none.
    """
    if experiment.models[name].file is None:
        return []
    trained_for = _objective_in(networks[name]).get("classifier")
    others = [
        other
        for other in experiment.protected_by(name)
        if trained_for not in (networks[other].fingerprint(), checkpoint.unrounded(networks[other]))
    ]
    return others if trained_for is not None else []


def check_networks(bundle: Bundle) -> list[str]:
    """Compare the networks of a bundle with its record of them.

    Parameters
    ----------
    bundle : Bundle
        Finished.

    Returns
    -------
    list of str
        What differs, one line each; nothing if the bundle is older than this record.
    """
    if not (bundle.path / f"{NETWORKS}.h5").exists():
        return []
    problems = []
    recorded, left_out = bundle.record(NETWORKS).meta, read_left_out(bundle.path) or {}
    for name, facts in recorded.items():
        if facts.get("foreign"):  # which is not kept in a bundle
            logged = bundle.log.networks.get(name, {}).get("fingerprint", facts["fingerprint"])
            if logged != facts["fingerprint"]:
                problems.append(f"environment.json: networks.{name}: another model than that of the run")
            continue
        # A record may be kept without the network; what the log says of it is compared all the same.
        there = f"models/{name}.h5" not in left_out or (bundle.path / f"models/{name}.h5").exists()
        found = bundle.network(name).fingerprint() if there else facts["fingerprint"]
        logged = bundle.log.networks.get(name, {}).get("fingerprint", found)
        for what, fingerprint in ((f"models/{name}.h5", found), (f"environment.json: networks.{name}", logged)):
            if fingerprint != facts["fingerprint"]:
                problems.append(f"{what}: another network than that of the run, see {NETWORKS}.h5")
    return problems


# The stage that records what every network of a bundle is.
NETWORKS = "networks"


def model_quality(
    model: Model, network: Network, classifiers: Mapping[str, Network], test: tuple[NDArray[Any], NDArray[Any]]
) -> dict[str, Any]:
    """How good a trained network is on test images.

    Parameters
    ----------
    model : Model
        Its table.
    network : Network
        The network.
    classifiers : mapping of str to Network
        For a denoiser: those that are to understand its reconstructions.
    test : tuple of two arrays, (n, c, h, w) and (n,)
        Images and labels.

    Returns
    -------
    dict
        ``accuracy`` of a classifier; ``error`` of a denoiser at noisy images (mean of the sum of squares) and, by
        classifier, the mean ``cross_entropy`` at its reconstructions.
    """
    x, y = (network.ops.asarray(array) for array in test)
    quality: dict[str, Any] = {"kind": model.kind, "num_images": len(x)}
    if model.kind == "classifier":
        return {**quality, "accuracy": evaluate(network, Classification(), x, y)["accuracy"]}
    sigma = math.sqrt(model.sigma2 or 0.0)
    quality |= {"sigma2": model.sigma2, "cross_entropy": {}}
    found = {} if classifiers else evaluate(network, Denoising(sigma), x, y)
    for name, classifier in classifiers.items():
        found = evaluate(network, SupervisedDenoising(sigma, classifier), x, y)
        quality["cross_entropy"][name] = found["cross_entropy"]
    return {**quality, "error": found["error"]}


def saved(seconds: float) -> str:
    """Write how long a training took.

    Parameters
    ----------
    seconds : float
        How long.
    """
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{max(1, round(seconds))} s"


def _check_fits(model: Model, network: Network, data: Dataset) -> None:
    where = str(model.file)
    if network.input_shape != data.shape:
        raise InputError(
            f"{where}: takes images of shape {network.input_shape}, those of {data.name} have {data.shape}; "
            "choose another file or other data"
        )
    kind = "denoiser" if network.output_shape == network.input_shape else "classifier"
    if kind != model.kind or (kind == "classifier" and len(network.output_shape) != 1):
        raise InputError(
            f"{where}: expected a {model.kind}, its outputs have shape {network.output_shape}; choose another"
        )
    if kind == "classifier" and network.num_classes < data.num_classes:
        raise InputError(
            f"{where}: knows {network.num_classes} classes, {data.name} has {data.num_classes}; choose another file"
        )
    names = network.metadata.get(KEY)
    if kind == "classifier" and isinstance(names, list | tuple):
        own = check_class_names(where, names, network.num_classes)
        if own[: data.num_classes] != data.class_names:
            raise InputError(
                f"{where}: its classes are {listed(own)}, those of {data.name} {listed(data.class_names)}; choose "
                "another file, or bring the data's classes into its order"
            )
    if network.dtype != "float32":
        raise InputError(f"{where}: computes in {network.dtype}, experiments in float32; choose another file")
    if model.published:
        made = network.metadata.get("training")
        for key in ("epochs", "batch_size", "learning_rate", "schedule", "optimizer"):
            if isinstance(made, Mapping) and made.get(key) != getattr(model, key):
                raise InputError(
                    f"{where}: was trained with {key} {made.get(key)}, the table says {getattr(model, key)}; "
                    "published = false trains it as the table says"
                )
    sigma = _objective_in(network).get("sigma")
    if kind == "denoiser" and isinstance(sigma, float) and not math.isclose(sigma**2, model.sigma2 or 0, rel_tol=1e-6):
        raise InputError(
            f"{where}: was trained at sigma2 = {sigma**2:.6g}, the table says {model.sigma2}; change sigma2 or the file"
        )


def _objective_in(network: Network) -> Mapping[str, Any]:
    """What a network's metadata say of its objective; nothing if they do not."""
    training = network.metadata.get("training")
    objective = training.get("objective") if isinstance(training, Mapping) else None
    return objective if isinstance(objective, Mapping) else {}


def _first(split: Split, count: int | None) -> Split:
    return split if count is None else replace(split, last=split.first + min(count, len(split)))


def arithmetic_of(ops: ModuleType) -> dict[str, Any]:
    """What computes, as far as different bits are to be expected of it.

    Parameters
    ----------
    ops : module
        The backend.
    """
    backend, device = ops.__name__.partition(".")[0], ops.describe_device()
    known = {key: device[key] for key in ("precision", "source_sha256") if key in device}
    return {"backend": backend, **({"device": {"name": device["name"], **known}} if known else {})}


def identity_of(network: Network) -> dict[str, str]:
    """What tells a network from others: hashes of its parameters and of its architecture.

    Parameters
    ----------
    network : Network
        The network.
    """
    return {"params": network.fingerprint(), "architecture": _sha256(_architecture(network))}


def is_foreign(network: Network) -> bool:
    """Whether a model is of another library or somebody's function, which no file of ours can hold.

    Parameters
    ----------
    network : Network
        The model, possibly from `malade_ref.interop.wrap`.
    """
    return isinstance(network, Wrapped)


def has_gradient(network: Network) -> bool:
    """Whether a classifier has a gradient with respect to images: not every model of others does.

    Parameters
    ----------
    network : Network
        The classifier.
    """
    if not isinstance(network, Wrapped):
        return True
    x = network.ops.zeros((1, *network.input_shape), network.dtype)
    try:
        network.loss_and_gradient(x, network.predict(x))
    except OutOfMemoryError:
        raise
    except InputError:
        return False
    return True


def _architecture(network: Network) -> Mapping[str, Any]:
    """What is known of a network besides its parameters."""
    if not isinstance(network, Wrapped):
        return network.architecture()
    sizes = {"input_shape": list(network.input_shape), "output_shape": list(network.output_shape)}
    return {"wrapped": network.foreign.title, "dtype": network.dtype, **sizes}


def _sha256(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json("network", value, indent=None).encode()).hexdigest()


def _description(model: Model, networks: Mapping[str, Network]) -> dict[str, Any]:
    """A model's objective, JSON-able."""
    description: dict[str, Any] = {"kind": model.kind, "sigma2": model.sigma2, "ramp": model.ramp}
    for role in ("classifier", "teacher"):
        name = getattr(model, role)
        description[role] = identity_of(networks[name]) if name is not None else None
    if model.classifier is not None:
        description["ce_weight"] = model.ce_weight
    if model.adversarial is not None:
        description["adversarial"] = {"method": model.adversarial.method, "settings": model.adversarial.resolved()}
    return description


def _origin(kept: Kept) -> dict[str, Any]:
    known = {name: kept.entry.meta.get(name) for name in ("trained", "seconds", "environment")}
    return {"from": "store", **known}
