"""The steps of an experiment as functions: attack, judge, certify, look.

Training is in `malade_ref.experiment.models`, the search for a chain in `malade_ref.experiment.search`.

Each is a function of its arguments alone and computes what one record or shard of a bundle keeps; the order of steps,
and what is already there, is the business of `malade_ref.experiment.run`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.arrays import Array
from malade_ref.certify import certify
from malade_ref.defence import MALADE
from malade_ref.experiment.config import Certify, Method
from malade_ref.network import Network
from malade_ref.sampling import Stream
from malade_ref.storage import Record
from malade_ref.training import Progress

Arrays = dict[str, NDArray[Any]]

# Most positions of a chain that a picture shows.
MAX_POSITIONS = 9
# Positions of a chain in the gallery.
NUM_SHOWN = 6


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


def correct_draws(model: Any, x: Array, y: Array, *, num_draws: int, sample_index: Array) -> NDArray[np.bool_]:
    """Whether a defence is right about images, on fresh draws of its own noise, of shape (n, num_draws), bool.

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
    """
    if not model.stochastic:
        return np.asarray(model.ops.to_host(model.predict(x) == y))[:, None]
    predictions = model.ops.to_host(model.predict_draws(x, num_draws=num_draws, sample_index=sample_index))
    return np.ascontiguousarray((predictions == model.ops.to_host(y)).T)


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


def picture_positions(defence: MALADE, x: Array, *, sample_index: Array) -> Arrays:
    """Images on their way through a chain, for a gallery.

    Parameters
    ----------
    defence : MALADE
        The defence.
    x : array of shape (k, c, h, w)
        Images as attacked.
    sample_index : array of shape (k,), integer
        Numbers of the samples in their data set.

    Returns
    -------
    dict of str to ndarray
        ``steps`` (`NUM_SHOWN`,), of a short chain some of them twice; ``position`` (t, k, c, h, w), bytes, what is
        outside of [0, 1] cut off; ``position_probability`` (t, k, classes), what the bare classifier makes of them.
    """
    ops, num_steps = defence.ops, defence.chain.num_steps
    steps = np.rint(np.linspace(0, num_steps, NUM_SHOWN)).astype(np.int64)
    path = defence.path(x, sample_index=sample_index)
    positions = [path[step] for step in steps]
    shown = [np.rint(255 * np.clip(ops.to_host(position), 0, 1)).astype(np.uint8) for position in positions]
    logits = [defence.classifier.logits(position) for position in positions]
    probability = [np.exp(ops.to_host(ops.log_softmax(one))) for one in logits]
    return {"steps": steps, "position": np.stack(shown), "position_probability": np.stack(probability)}
