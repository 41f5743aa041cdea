"""The steps of an experiment as functions: train, search, attack, judge, look.

Each is a function of its arguments alone and computes what one record or shard of a bundle keeps; the order of steps,
and what is already there, is the business of `malade_ref.experiment.run`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.arrays import Array
from malade_ref.certify import certify
from malade_ref.classes import with_class_names
from malade_ref.datasets import Split
from malade_ref.defence import MALADE
from malade_ref.experiment.config import BUILDERS, Certify, Method, Model, Search
from malade_ref.network import Network
from malade_ref.sampling import ChainSettings, Stream, run_chain
from malade_ref.storage import Record
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

Arrays = dict[str, NDArray[Any]]

# Settings of an attack that grow over the first epochs of adversarial training.
GROWING = ("eps", "step_size")

# Most positions of a chain that a picture shows.
MAX_POSITIONS = 9


def objective_of(model: Model, networks: Mapping[str, Network]) -> Objective:
    """What a model is trained for.

    Parameters
    ----------
    model : Model
        Its table.
    networks : mapping of str to Network
        The models it refers to.

    Returns
    -------
    Objective
        For `malade_ref.training.fit`.
    """
    if model.kind == "classifier":
        if model.teacher is not None:
            return Distillation(networks[model.teacher])
        if model.adversarial is None:
            return Classification()
        settings = model.adversarial.resolved()
        growing = {name: float(settings[name]) for name in GROWING if model.ramp and name in settings}
        return Adversarial(partial(model.adversarial.function, **model.adversarial.settings), model.ramp, growing)
    sigma = math.sqrt(model.sigma2 or 0.0)
    if model.classifier is None:
        return Denoising(sigma)
    return SupervisedDenoising(sigma, networks[model.classifier], model.ce_weight)


def train_model(
    model: Model,
    networks: Mapping[str, Network],
    train: Split,
    validation: Split,
    *,
    seed: int,
    ops: ModuleType,
    checkpoint: Path,
    class_names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train one model.

    Parameters
    ----------
    model : Model
        Its table.
    networks : mapping of str to Network
        The models it refers to.
    train, validation : Split
        Images.
    seed : int
        Of the initial weights, the order and the noise.
    ops : module
        The backend.
    checkpoint : Path
        For interruptions.
    class_names : sequence of str, optional
        What the labels stand for; a classifier keeps them.
    progress : callable, optional
        Told the fraction done and a line of text.

    Returns
    -------
    Fitted
        Network and history.
    """
    start = networks[model.init] if model.init else BUILDERS[model.kind](model.preset, seed=seed, ops=ops)
    if class_names is not None and model.kind == "classifier":
        start = with_class_names(start, class_names)
    asarray = ops.asarray
    subset = slice(0, model.subset)
    looked_at = slice(0, model.validation)
    return fit(
        start,
        objective_of(model, networks),
        asarray(train.images(subset)),
        asarray(train.labels(subset)),
        epochs=model.epochs,
        batch_size=model.batch_size,
        learning_rate=model.learning_rate,
        schedule=model.schedule,
        optimizer=model.optimizer,
        validation=(asarray(validation.images(looked_at)), asarray(validation.labels(looked_at))),
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )


def model_quality(model: Model, network: Network, classifiers: Mapping[str, Network], test: Split) -> dict[str, Any]:
    """How good a trained network is on all test images.

    Parameters
    ----------
    model : Model
        Its table.
    network : Network
        The network.
    classifiers : mapping of str to Network
        For a denoiser: those that are to understand its reconstructions.
    test : Split
        Images.

    Returns
    -------
    dict
        ``accuracy`` of a classifier; ``error`` of a denoiser at noisy images (mean of the sum of squares) and, by
        classifier, the mean ``cross_entropy`` at its reconstructions.
    """
    x, y = network.ops.asarray(test.images()), network.ops.asarray(test.labels())
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


def run_attack(
    method: Method, model: Any, x: Array, y: Array, *, sample_index: Array, seed: int, **settings: Any
) -> Arrays:
    """Attack images.

    Parameters
    ----------
    method : Method
        Which attack, and its settings.
    model : Network or MALADE
        What is attacked.
    x : array of shape (n, c, h, w)
        Clean images.
    y : array of shape (n,), integer
        True labels.
    sample_index : array of shape (n,), integer
        Numbers of the samples in their data set.
    seed : int
        Of the attacker's noise.
    **settings
        Further settings, such as ``eps``.

    Returns
    -------
    dict of str to ndarray
        The fields of an `AttackResult`, on the host.
    """
    result = method.function(model, x, y, seed=seed, sample_index=sample_index, **{**method.settings, **settings})
    return {name: model.ops.to_host(array) for name, array in result._asdict().items()}


def clean_outcome(model: Any, x: Array, y: Array, *, sample_index: Array, seed: int) -> Arrays:
    """Outcome of images as they are, in the form of an attack's.

    Parameters
    ----------
    model, x, y, sample_index, seed
        As of `run_attack`.

    Returns
    -------
    dict of str to ndarray
        As of `run_attack`.
    """
    ops = model.ops
    settings = {"sample_index": sample_index, "stream": Stream(seed, "clean")} if model.stochastic else {}
    logits = model.logits(x, **settings)
    none = ops.zeros((len(y),), "int64")
    arrays = {
        "x_adv": x,
        "success": ops.argmax(logits) != y,
        "loss": ops.softmax_cross_entropy(logits, y),
        "distance": ops.zeros((len(y),), "float64"),
        "num_queries": none,
        "num_gradients": none,
    }
    return {name: ops.to_host(array) for name, array in arrays.items()}


def judge(model: Any, x: Array, y: Array, *, num_draws: int, sample_index: Array) -> NDArray[np.bool_]:
    """Whether a defence is right about images, on fresh draws of its own noise.

    Parameters
    ----------
    model : Network or MALADE
        The defence.
    x : array of shape (n, c, h, w)
        Images.
    y : array of shape (n,), integer
        True labels.
    num_draws : int
        Draws, numbered from 0; a deterministic model has one.
    sample_index : array of shape (n,), integer
        Numbers of the samples in their data set.

    Returns
    -------
    ndarray of shape (n, num_draws), bool
        Whether each draw is right.
    """
    if not model.stochastic:
        return np.asarray(model.ops.to_host(model.predict(x) == y))[:, None]
    predictions = model.ops.to_host(model.predict_draws(x, num_draws=num_draws, sample_index=sample_index))
    return np.ascontiguousarray((predictions == model.ops.to_host(y)).T)


def search_settings(
    search: Search,
    classifier: Network,
    denoiser: Network,
    clean: Array,
    attacked: Array,
    y: Array,
    *,
    clip: bool,
    sample_index: Array,
    seed: int,
    progress: Progress | None = None,
) -> Record:
    """Judge every setting of a grid, and choose one, see `Search`.

    Parameters
    ----------
    search : Search
        The grid and the criterion.
    classifier, denoiser : Network
        What is defended, and by what.
    clean, attacked : array of shape (n, c, h, w)
        Validation images as they are, and as attacked.
    y : array of shape (n,), integer
        Labels.
    clip : bool
        Whether the chain is clipped.
    sample_index : array of shape (n,), integer
        Numbers of the samples in their data set.
    seed : int
        Of the chain's noise; a stream of its own.
    progress : callable, optional
        Told the fraction done and a line of text.

    Returns
    -------
    Record
        Arrays ``num_steps``, ``a``, ``delta``, ``clean``, ``attacked``, one entry a setting; what was ``chosen``.
    """
    lengths = sorted(set(search.num_steps))
    pairs = [(a, delta) for a in sorted(set(search.a)) for delta in sorted(set(search.delta))]
    rows: list[tuple[int, float, float, float, float]] = []
    for number, (a, delta) in enumerate(pairs):
        chain = ChainSettings(lengths[-1], a, delta, clip)
        settings = {"num_draws": search.num_draws, "sample_index": sample_index, "seed": seed}
        accuracies = [_accuracies(classifier, denoiser, chain, lengths, x, y, **settings) for x in (clean, attacked)]
        rows += [(n, a, delta, *pair) for n, *pair in zip(lengths, *accuracies, strict=True)]
        if progress is not None:
            progress((number + 1) / len(pairs), f"{len(rows)} of {len(pairs) * len(lengths)} settings")
    bare = {name: _bare_accuracy(classifier, x, y) for name, x in (("clean", clean), ("attacked", attacked))}
    floor = bare["clean"] - search.max_clean_drop
    allowed = [row for row in rows if row[3] >= floor - 1e-12]
    # Ties: fewer steps, then the smaller a, then the smaller delta.
    best = (
        min(allowed, key=lambda row: (-row[4], row[:3])) if allowed else min(rows, key=lambda row: (-row[3], row[:3]))
    )
    grids: dict[str, Sequence[float]] = {
        "num_steps": lengths,
        "a": sorted(set(search.a)),
        "delta": sorted(set(search.delta)),
    }
    at_edge = [
        name
        for name, value in zip(grids, best, strict=False)
        if len(grids[name]) > 1 and value in (grids[name][0], grids[name][-1])
    ]
    criterion = (
        f"highest accuracy on attacked validation images among the settings with clean accuracy of at least "
        f"{100 * floor:.1f}% (the bare classifier's less {100 * search.max_clean_drop:g} points)"
    )
    if not allowed:
        criterion = f"highest clean accuracy, since no setting met the criterion: {criterion}"
    meta = {
        "chosen": {"num_steps": best[0], "a": best[1], "delta": best[2], "clip": clip},
        "criterion": criterion,
        "criterion_met": bool(allowed),
        "at_edge_of_grid": at_edge,
        "num_images": len(y),
        "num_draws": search.num_draws,
        "attack": {"method": search.attack.method, "settings": search.attack.resolved()},
        "undefended": bare,
    }
    columns = zip(("num_steps", "a", "delta", "clean", "attacked"), zip(*rows, strict=True), strict=True)
    return Record({name: np.array(column) for name, column in columns}, meta)


def _accuracies(
    classifier: Network,
    denoiser: Network,
    chain: ChainSettings,
    lengths: Sequence[int],
    x: Array,
    y: Array,
    *,
    num_draws: int,
    sample_index: Array,
    seed: int,
) -> list[float]:
    """Accuracy after so many steps of one chain; shorter chains are the beginnings of the longest."""
    ops = classifier.ops

    def of_slice(part: slice) -> list[int]:
        counts = [0] * len(lengths)
        for draw in range(num_draws):
            key = ops.derive_key(seed, "search", draw)
            positions = run_chain(x[part], denoiser, chain, key=key, sample_index=sample_index[part])
            for i, length in enumerate(lengths):
                counts[i] += int((ops.argmax(classifier.forward(positions[length])[0]) == y[part]).sum())
        return counts

    totals = zip(*ops.map_slices(of_slice, len(y)), strict=True)
    return [sum(counts) / (len(y) * num_draws) for counts in totals]


def _bare_accuracy(classifier: Network, x: Array, y: Array) -> float:
    return float((classifier.predict(x) == y).sum()) / len(y)


def certified(
    settings: Certify,
    classifier: Network,
    denoiser: Network | None,
    x: Array,
    y: Array,
    *,
    sample_index: Array,
    seed: int,
    progress: Progress | None = None,
) -> Record:
    """Certify images.

    Parameters
    ----------
    settings : Certify
        The noise, and how many draws.
    classifier : Network
        What is smoothed.
    denoiser : Network, optional
        What noisy images pass through.
    x : array of shape (n, c, h, w)
        Images.
    y : array of shape (n,), integer
        True labels.
    sample_index : array of shape (n,), integer
        Numbers of the samples in their data set.
    seed : int
        Of the noise.
    progress : callable, optional
        Told the fraction done and a line of text.

    Returns
    -------
    Record
        Arrays ``sample_index``, ``label``, ``selection`` and ``counts``, one row an image: all else follows from them.
    """
    found = certify(
        classifier,
        x,
        y,
        denoiser=denoiser,
        sigma=math.sqrt(settings.sigma2),
        num_selection=settings.num_selection,
        num_estimation=settings.num_estimation,
        alpha=settings.alpha,
        bound=settings.bound,
        seed=seed,
        sample_index=sample_index,
        progress=progress,
    )
    numbers = classifier.ops.to_host(sample_index)
    return Record({"sample_index": numbers, "label": found.label, "selection": found.selection, "counts": found.counts})


def chain_paths(chains: Mapping[str, MALADE], clean: Array, attacked: Array, *, sample_index: Array) -> Arrays:
    """Adversarial images on their way through chains, with what the classifier makes of each position.

    Parameters
    ----------
    chains : mapping of str to MALADE
        Defences with the same classifier and number of steps.
    clean, attacked : array of shape (k, c, h, w)
        Images as they are, and as attacked.
    sample_index : array of shape (k,), integer
        Numbers of the samples in their data set.

    Returns
    -------
    dict of str to ndarray
        ``clean`` and ``clean_probability`` (k, classes); ``steps`` (T,), those that are shown; for each chain
        ``<name>/position`` (T, k, c, h, w) and ``<name>/probability`` (T, k, classes).
    """
    first = next(iter(chains.values()))
    to_host = first.ops.to_host

    def probability(x: Array) -> NDArray[Any]:
        return np.asarray(np.exp(to_host(first.ops.log_softmax(first.classifier.logits(x)))))

    num_steps = first.chain.num_steps
    shown = sorted({round(num_steps * i / (MAX_POSITIONS - 1)) for i in range(MAX_POSITIONS)})
    arrays = {"clean": to_host(clean), "clean_probability": probability(clean), "steps": np.array(shown)}
    for name, defence in chains.items():
        positions = defence.path(attacked, sample_index=sample_index)
        arrays[f"{name}/position"] = np.stack([to_host(positions[step]) for step in shown])
        arrays[f"{name}/probability"] = np.stack([probability(positions[step]) for step in shown])
    return arrays
