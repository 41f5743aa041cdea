"""Settings of a chain, found on validation images: N, a and delta (App. B.2.2).

The attacker may know the bare classifier only, as in the paper: one set of attacked images serves all settings. Or he
has the gradient through each setting's own chain: then every setting is attacked for itself, by successive halving.

.. [1] Jamieson, Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from malade_ref.arrays import Array
from malade_ref.defence import MALADE
from malade_ref.experiment.config import Search
from malade_ref.experiment.stages import run_attack
from malade_ref.network import Network
from malade_ref.sampling import ChainSettings, Stream, run_chain
from malade_ref.storage import Record
from malade_ref.training import Progress

# Of the settings of a round of halving, the share that goes on to the next, on as many times more images.
KEPT = 3


class Tried(NamedTuple):
    """A setting, and what it gave.

    Attributes
    ----------
    num_steps, a, delta : number
        The setting.
    clean, attacked : float
        Share of images that are classified rightly, clean and attacked.
    images : int
        Attacked images; 0 for a setting that was not attacked: ``attacked`` says nothing then.
    """

    num_steps: int
    a: float
    delta: float
    clean: float
    attacked: float = 0.0
    images: int = 0

    @property
    def setting(self) -> tuple[int, float, float]:
        """The setting alone."""
        return self[:3]


class Images(NamedTuple):
    """Validation images.

    Attributes
    ----------
    x : array of shape (n, c, h, w)
        As they are.
    y : array of shape (n,), integer
        Labels.
    sample_index : array of shape (n,), integer
        Numbers of the samples in their data set.
    """

    x: Array
    y: Array
    sample_index: Array


class Chains(NamedTuple):
    """What is searched: chains of all settings, with the same networks.

    Attributes
    ----------
    classifier, denoiser : Network
        What is defended, and by what.
    clip : bool
        Whether the chain is clipped.
    seed : int
        Of the chain's noise and the attacker's, streams of their own.
    """

    classifier: Network
    denoiser: Network
    clip: bool
    seed: int


def search_settings(
    search: Search, chains: Chains, images: Images, attacked: Array, *, progress: Progress | None = None
) -> Record:
    """Try every setting of a grid on the same attacked images, and choose one, see `Search`.

    Parameters
    ----------
    search : Search
        The grid and the criterion.
    chains : Chains
        Of what the grid is.
    images : Images
        Validation images.
    attacked : array of shape (n, c, h, w)
        The same, attacked.
    progress : callable, optional
        Told the fraction done and a line of text.

    Returns
    -------
    Record
        Arrays ``num_steps``, ``a``, ``delta``, ``clean``, ``attacked``, one entry a setting; what was ``chosen``.
    """
    rows = [
        Tried(*setting, clean, robust, len(images.y))
        for setting, (clean, robust) in _accuracies(search, chains, images, [images.x, attacked], progress)
    ]
    bare = {name: _bare(chains, x, images.y) for name, x in (("clean", images.x), ("attacked", attacked))}
    return _found(search, chains, rows, bare, len(images.y))


def search_by_halving(
    search: Search,
    chains: Chains,
    images: Images,
    *,
    keep: Callable[[str, Callable[[], Record]], Record],
    progress: Progress | None = None,
) -> Record:
    """Attack every setting of a grid through its own chain, on ever more images, and choose one, see `Search`.

    What costs too much of clean accuracy is not attacked. Of the others the best third goes into the next round, which
    has three times as many images, those of the last among them: samples are independent, so only the new ones are
    attacked.

    Parameters
    ----------
    search, chains, images, progress
        As of `search_settings`.
    keep : callable
        Gives a record by its name, computed by the function that it is given if it is not there.

    Returns
    -------
    Record
        As of `search_settings`, and ``images``, the number that each setting was attacked on. Of those that did not
        come far, ``attacked`` is an estimate from few.
    """
    tried = {
        setting: Tried(*setting, clean)
        for setting, (clean,) in _accuracies(search, chains, images, [images.x], progress)
    }
    number = {setting: i for i, setting in enumerate(tried)}
    right = dict.fromkeys(tried, 0)
    bare_clean = _bare(chains, images.x, images.y)
    left = _allowed(search, tried.values(), bare_clean) or [_cleanest(tried.values())]
    sizes = round_sizes(search)
    total, done = sum(new * share for new, share in _rounds(search, len(left))), 0
    for before, size in zip([0, *sizes], sizes, strict=False):
        part = slice(before, size)
        for row in left:
            setting = row.setting
            attack = partial(_attacked, search, chains, images, setting, part)
            verdict = keep(f"{number[setting]}-{before}-{size}", attack)
            right[setting] += int(verdict.arrays["correct"].sum())
            share = right[setting] / (size * search.num_draws)
            tried[setting] = tried[setting]._replace(attacked=share, images=size)
            done += size - before
            if progress is not None:
                progress(done / total, f"{len(left)} settings on {size} images")
        left = sorted((tried[row.setting] for row in left), key=_rank)[: math.ceil(len(left) / KEPT)]
    x_adv = run_attack(
        search.attack, chains.classifier, images.x, images.y, sample_index=images.sample_index, seed=chains.seed
    )["x_adv"]
    bare = {"clean": bare_clean, "attacked": _bare(chains, chains.classifier.ops.asarray(x_adv), images.y)}
    return _found(search, chains, list(tried.values()), bare, len(images.y))


def round_sizes(search: Search) -> list[int]:
    """Images of each round of halving, those of the rounds before among them.

    Parameters
    ----------
    search : Search
        The rounds and the images of the last.
    """
    rounds = range(search.num_rounds - 1, -1, -1)
    return [max(1, math.ceil(search.num_images / KEPT**number)) for number in rounds]


def _rounds(search: Search, settings: int) -> Iterator[tuple[int, int]]:
    """New images of each round, and the settings that are attacked on them."""
    sizes = round_sizes(search)
    for before, size in zip([0, *sizes], sizes, strict=False):
        yield size - before, settings
        settings = math.ceil(settings / KEPT)


def attacked_images(search: Search) -> Iterator[tuple[int, int]]:
    """How many images are attacked at most through chains of each length: length and number.

    Parameters
    ----------
    search : Search
        Of a defence that is attacked itself.
    """
    pairs = len(search.a) * len(search.delta)
    lengths = len(search.num_steps)
    images = sum(new * settings for new, settings in _rounds(search, pairs * lengths))
    for length in search.num_steps:
        yield length, math.ceil(images / lengths)


def _attacked(search: Search, chains: Chains, images: Images, setting: tuple[int, float, float], part: slice) -> Record:
    """Whether a setting is right about images that were attacked through its chain, of shape (n, num_draws)."""
    num_steps, a, delta = setting
    x, y, sample_index = (array[part] for array in images)
    defence = MALADE(
        chains.classifier, chains.denoiser, num_steps=num_steps, a=a, delta=delta, clip=chains.clip, seed=chains.seed
    )
    found = run_attack(search.attack, defence, x, y, sample_index=sample_index, seed=chains.seed)
    x_adv = chains.classifier.ops.asarray(found["x_adv"])
    answers = defence.predict_draws(
        x_adv, num_draws=search.num_draws, sample_index=sample_index, stream=Stream(chains.seed, "search")
    )
    return Record({"correct": np.ascontiguousarray(defence.ops.to_host(answers == y).T)})


def _accuracies(
    search: Search, chains: Chains, images: Images, versions: Sequence[Array], progress: Progress | None
) -> Iterator[tuple[tuple[int, float, float], tuple[float, ...]]]:
    """Accuracies of every setting on versions of the images; shorter chains are the beginnings of longer ones."""
    lengths, pairs = sorted(set(search.num_steps)), list(product(sorted(set(search.a)), sorted(set(search.delta))))
    for number, (a, delta) in enumerate(pairs):
        chain = ChainSettings(lengths[-1], a, delta, chains.clip)
        found = [_by_length(chains, chain, lengths, images._replace(x=x), search.num_draws) for x in versions]
        for length, *accuracies in zip(lengths, *found, strict=True):
            yield (length, a, delta), tuple(accuracies)
        if progress is not None:
            progress(
                (number + 1) / len(pairs), f"{(number + 1) * len(lengths)} of {len(pairs) * len(lengths)} settings"
            )


def _by_length(
    chains: Chains, chain: ChainSettings, lengths: Sequence[int], images: Images, num_draws: int
) -> list[float]:
    ops, (x, y, sample_index) = chains.classifier.ops, images

    def of_slice(part: slice) -> list[int]:
        counts = [0] * len(lengths)
        for draw in range(num_draws):
            key = ops.derive_key(chains.seed, "search", draw)
            positions = run_chain(x[part], chains.denoiser, chain, key=key, sample_index=sample_index[part])
            for i, length in enumerate(lengths):
                counts[i] += int((ops.argmax(chains.classifier.forward(positions[length])[0]) == y[part]).sum())
        return counts

    totals = zip(*ops.map_slices(of_slice, len(y)), strict=True)
    return [sum(counts) / (len(y) * num_draws) for counts in totals]


def _bare(chains: Chains, x: Array, y: Array) -> float:
    return float((chains.classifier.predict(x) == y).sum()) / len(y)


def _floor(search: Search, bare_clean: float) -> float:
    return bare_clean - search.max_clean_drop


def _allowed(search: Search, rows: Iterable[Tried], bare_clean: float) -> list[Tried]:
    return [row for row in rows if row.clean >= _floor(search, bare_clean) - 1e-12]


def _cleanest(rows: Iterable[Tried]) -> Tried:
    return min(rows, key=lambda row: (-row.clean, row.setting))


def _rank(row: Tried) -> tuple[Any, ...]:
    """The best first; in ties fewer steps, then the smaller a, then the smaller delta."""
    return (-row.images, -row.attacked, row.setting)


def _found(search: Search, chains: Chains, rows: Sequence[Tried], bare: dict[str, float], num_images: int) -> Record:
    allowed = _allowed(search, rows, bare["clean"])
    best = min(allowed, key=_rank) if allowed else _cleanest(rows)
    grids: dict[str, Sequence[float]] = {key: sorted(set(getattr(search, key))) for key in ("num_steps", "a", "delta")}
    at_edge = [
        name
        for name, value in zip(grids, best.setting, strict=True)
        if len(grids[name]) > 1 and value in (grids[name][0], grids[name][-1])
    ]
    floor = _floor(search, bare["clean"])
    criterion = (
        f"highest accuracy on attacked validation images among the settings with clean accuracy of at least "
        f"{100 * floor:.1f}% (the bare classifier's less {100 * search.max_clean_drop:g} points)"
    )
    if not allowed:
        criterion = f"highest clean accuracy, since no setting met the criterion: {criterion}"
    meta = {
        "chosen": {"num_steps": best.num_steps, "a": best.a, "delta": best.delta, "clip": chains.clip},
        "criterion": criterion,
        "criterion_met": bool(allowed),
        "at_edge_of_grid": at_edge,
        "num_images": num_images,
        "num_draws": search.num_draws,
        "attack": {"method": search.attack.method, "settings": search.attack.resolved()},
        "undefended": bare,
    }
    columns: dict[str, NDArray[Any]] = dict(zip(Tried._fields, map(np.array, zip(*rows, strict=True)), strict=True))
    if search.against == "classifier":
        del columns["images"]  # the same for all
    else:
        meta |= {"against": search.against, "rounds": round_sizes(search)}
    return Record(columns, meta)
