"""Compute some outcomes of a finished bundle again, from what it holds, and compare them with what it recorded.

Hashes tell that a bundle is what its manifest says; they do not tell that the outcomes are those of the networks beside
them. That takes computing. A shard is computed as a whole, as the run did, so that the bits can be compared where the
software and the kind of processor are the same; elsewhere decisions are, and numbers to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from malade_ref.bundle import Bundle
from malade_ref.bundle.environment import describe_environment
from malade_ref.checks import InputError, check_count
from malade_ref.datasets import load_dataset
from malade_ref.experiment.config import CLEAN, Experiment
from malade_ref.experiment.outcomes import Outcomes
from malade_ref.experiment.reading import experiment_of
from malade_ref.storage import RecordReader
from malade_ref.training import Progress

# What numbers may differ by on other kernels: those are sums of some thousand products, and an attack takes many steps.
RELATIVE, ABSOLUTE = 1e-3, 1e-4

# Votes of a certificate are counted; those within rounding of a tie may go to another class.
MOST_VOTES = 0.01


class Recomputed(NamedTuple):
    """What came of it.

    Attributes
    ----------
    problems : list of str
        Outcomes that are not those that were recorded, one line for each cell's array, naming the first image.
    num_chosen, num_compared : int
        Outcomes that were chosen, and those that were compared: all of their shards.
    num_cells : int
        Cells that they are of.
    other : str
        What differs between this machine's software and that of the run; empty if the bits were compared.
    """

    problems: list[str]
    num_chosen: int
    num_compared: int
    num_cells: int
    other: str


class _Cell(NamedTuple):
    name: str
    num_images: int
    shard_size: int
    compute: Callable[[int, int], Mapping[str, NDArray[Any]]]
    recorded: Callable[[int, int], Mapping[str, NDArray[Any]]]


def recompute(
    bundle: Bundle,
    count: int,
    *,
    ops: ModuleType,
    seed: int = 0,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Recomputed:
    """Compute outcomes again that are chosen at random.

    Parameters
    ----------
    bundle : Bundle
        Finished, with its networks.
    count : int
        How many; all if there are fewer.
    ops : module
        The backend of the run.
    seed : int
        Of the choice.
    data_dir : path, optional
        Where to look for data first.
    progress : callable, optional
        Told the fraction done and what is computed.

    Returns
    -------
    Recomputed
        What differs.

    Raises
    ------
    InputError
        If the data cannot be had or are others, or the settings are none of this version's.
    """
    check_count("--recompute", count)
    experiment = experiment_of(bundle.config, str(bundle.path))
    data = load_dataset(
        experiment.data.name, data_dir=data_dir, seed=experiment.data.seed, sizes=experiment.data.sizes()
    )
    if data.test.sha256() != bundle.config["data"]["sha256"]["test"]:
        raise InputError(
            f"{data.name}: its test images are others than those of {bundle.path}; name a folder that holds those with "
            "--data-dir"
        )
    foreign = [name for name in experiment.models if not (bundle.path / "models" / f"{name}.h5").exists()]
    if foreign:
        raise InputError(
            f"{bundle.path}: holds no copy of {foreign[0]}, which is no network of malade's, so nothing can be "
            "computed again; leave out --recompute"
        )
    networks = {name: bundle.network(name, ops=ops) for name in experiment.models}
    chains = any(defence.denoiser is not None for defence in experiment.defences.values())
    work = Outcomes(experiment, data, ops, networks, bundle.record("settings").meta if chains else {})
    other = _other_environment(bundle, ops)
    problems: list[str] = []
    compared, touched = 0, set()
    with bundle.outcomes() as reader:
        cells = list(_cells(bundle, experiment, work, reader))
        chosen = _choose([cell.num_images for cell in cells], count, seed)
        shards = sorted({(c, image // cells[c].shard_size) for c, image in chosen})
        for number, (c, shard) in enumerate(shards):
            cell = cells[c]
            first = shard * cell.shard_size
            last = min(first + cell.shard_size, cell.num_images)
            if progress is not None:
                progress(number / len(shards), f"{cell.name}, images {first} to {last - 1}")
            problems += _compare(cell, first, last, cell.compute(first, last), exact=not other)
            compared += last - first
            touched.add(c)
    return Recomputed(problems, len(chosen), compared, len(touched), other)


def _cells(bundle: Bundle, experiment: Experiment, work: Outcomes, reader: RecordReader) -> Iterator[_Cell]:
    """Everything that has outcomes an image."""
    evaluation = experiment.evaluation
    for name, attack, eps in experiment.cells():
        cell = f"{name}/{attack.name if attack else CLEAN}/{eps:g}"
        arrays = [one.rpartition("/")[2] for one in reader.names if one.rpartition("/")[0] == f"outcomes/{cell}"]

        def compute(first: int, last: int, name: Any = name, attack: Any = attack, eps: Any = eps) -> Any:
            return work.outcome(work.defence(name), name, attack, eps, first, last)

        def recorded(first: int, last: int, cell: str = cell, arrays: Any = arrays) -> Any:
            return {key: reader.read(f"outcomes/{cell}/{key}", first, last) for key in arrays}

        num_images = (attack.num_images if attack else None) or evaluation.num_images
        yield _Cell(cell, num_images, evaluation.shard_size, compute, recorded)
    for name in experiment.certify.smoothed if experiment.certify else ():
        assert experiment.certify is not None

        def certificates(first: int, last: int, name: str = name) -> Any:
            return work.certificates(name, first, last).arrays

        def of_record(first: int, last: int, name: str = name) -> Any:
            return {key: array[first:last] for key, array in bundle.record(f"certify/{name}").arrays.items()}

        settings = experiment.certify
        yield _Cell(f"certify/{name}", settings.num_images, settings.shard_size, certificates, of_record)


def _choose(sizes: list[int], count: int, seed: int) -> list[tuple[int, int]]:
    """Cells and images in them, none twice."""
    ends = np.cumsum(sizes)
    found = np.random.default_rng(seed).choice(int(ends[-1]), min(count, int(ends[-1])), replace=False)
    return [(c := int(np.searchsorted(ends, one, side="right")), int(one - ends[c] + sizes[c])) for one in found]


def _compare(cell: _Cell, first: int, last: int, computed: Mapping[str, NDArray[Any]], *, exact: bool) -> Iterator[str]:
    """What differs between outcomes as recorded and as computed again, one line an array."""
    recorded = cell.recorded(first, last)
    if not recorded:
        yield f"{cell.name}: has no recorded outcomes"
    for name, old in recorded.items():
        new = computed.get(name)
        if new is None or new.shape != old.shape or new.dtype != old.dtype:
            got = "nothing" if new is None else f"{new.dtype} of shape {new.shape}"
            yield f"{cell.name}: {name}: recorded {old.dtype} of shape {old.shape}, computed again {got}"
            continue
        rows = _differs(old, new, exact=exact).reshape(len(old), -1)
        wrong = np.flatnonzero(rows.any(axis=1))
        if len(wrong):
            row = int(wrong[0])
            at = int(np.flatnonzero(rows[row])[0])
            before, now = old[row].reshape(-1)[at], new[row].reshape(-1)[at]
            numbers = computed["sample_index"]
            others = f", and {len(wrong) - 1} more of images {first} to {last - 1}" if len(wrong) > 1 else ""
            image = f"image {first + row} (test image {numbers[row]})"
            yield f"{cell.name}: {image}: {name} was recorded as {before}, computed again it is {now}{others}"


def _differs(old: NDArray[Any], new: NDArray[Any], *, exact: bool) -> NDArray[np.bool_]:
    """Where two arrays of a shape and type differ: in a bit, or by more than rounding."""
    if exact and old.dtype.kind == "f":
        bits = np.dtype(f"u{old.dtype.itemsize}")
        return np.asarray(np.ascontiguousarray(old).view(bits) != np.ascontiguousarray(new).view(bits))
    if exact or old.dtype.kind == "b":
        return np.asarray(old != new)
    if old.dtype.kind == "f":
        return np.asarray(~np.isclose(new, old, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True))
    votes = MOST_VOTES * old.sum(axis=-1, keepdims=True) if old.ndim > 1 else 0
    return np.asarray(np.abs(new - old) > votes)


def _other_environment(bundle: Bundle, ops: ModuleType) -> str:
    """What differs from the environment of the run as far as bits depend on it; the first that does."""
    import_module("scipy.linalg")  # brings a BLAS of its own, which a run has loaded
    here = _arithmetic(describe_environment(ops.describe_device()))
    for session in bundle.log.sessions:
        there = _arithmetic(session["environment"])
        for name, value in here.items():
            if there[name] != value:
                return name
    return "" if bundle.log.sessions else "an environment that was not recorded"


def _arithmetic(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What bits depend on, in an environment."""
    blas = environment.get("blas") or ()
    libraries = [
        tuple(library.get(key) for key in ("internal_api", "architecture", "version", "num_threads"))
        for library in blas
        if library.get("internal_api") != "openmp"
    ]
    packages = environment.get("packages") or {}
    return {
        "the BLAS kernel, its version or threads": sorted(set(libraries), key=str),
        "NumPy's SIMD extensions": environment.get("simd"),
        "the device": environment.get("device"),
        "the version of malade": environment.get("malade"),
        "the version of NumPy or SciPy": [packages.get("numpy"), packages.get("scipy")],
    }
