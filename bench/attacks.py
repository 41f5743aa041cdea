"""Compare the strength of attacks with that of public implementations.

    python -m bench.attacks --data-dir DIR
    python -m bench.attacks --data-dir DIR --check --out bench/results/NAME.json
    python -m bench.attacks --model cnn.h5 --data mnist:test --only "pgd linf"

Each attack runs on the same images as its counterparts in torchattacks, Foolbox and ART (`bench.peers`), against the
same network exported to PyTorch, at the same eps, steps and restarts. For attacks in a ball the table states the
accuracy that is left; for those that look for the nearest wrong image the median distance over the images that the
network knows, images that did not fall counting as infinitely far. What is random is the mean over several seeds. The
best of the peers counts. The column of a peer that is not installed, or does not have the attack, stays empty.

Without --model the network is trained first, in less than a minute: see `train`. The record says how, and describes
its data.

Distances are measured here, in float64, from the images that an implementation returns, and whether an image is wrong
is asked of this package's network. Evaluations are images put through the network, for each image attacked.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.peers import Images, Peer, Problem, Run, open_peers
from malade_ref import attacks, load, ops
from malade_ref.bundle.environment import describe_environment
from malade_ref.checks import InputError, check_count, check_number
from malade_ref.cli.files import read_images
from malade_ref.layers import Conv2d, Flatten, Linear, ReLU
from malade_ref.network import Network, build
from malade_ref.storage import atomic_write, to_json
from malade_ref.training import Classification, fit

# An attack may leave this much more accuracy than its counterpart, or be this much longer in the median.
ALLOWED_ACCURACY = 0.01
ALLOWED_DISTANCE = 1.03


class Row(NamedTuple):
    """An attack of this package.

    Attributes
    ----------
    name : str
        What it is called in the table, and by peers that have it.
    distance : str
        "" for accuracy within a ball, or the distance whose median counts: "linf", "l2", "l1", "en" or "share".
    attack : callable
        From `malade_ref.attacks`.
    settings : dict
        Its keywords.
    random : bool
        Whether it is worth more than one seed.
    """

    name: str
    distance: str
    attack: Callable[..., attacks.AttackResult]
    settings: dict[str, Any]
    random: bool = False


class Outcome(NamedTuple):
    """What is left after an attack.

    Attributes
    ----------
    value : float
        Accuracy, or the median distance.
    seconds : float
        CPU time of a seed: the machine may be busy with other things.
    evaluations : float
        Of the network, for each image and seed.
    """

    value: float
    seconds: float
    evaluations: float


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.attacks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="FILE", help="a classifier, from malade train or a bundle (default: train)")
    parser.add_argument("--data", default="mnist:test", metavar="INPUT", help="images with labels")
    parser.add_argument("--data-dir", metavar="DIR", help="where to look for data sets first")
    parser.add_argument("--num-images", type=int, default=500, help="the first so many images (default 500)")
    parser.add_argument("--num-steps", type=int, default=100, help="steps of attacks with gradients (default 100)")
    parser.add_argument("--num-queries", type=int, default=1000, help="steps of attacks without (default 1000)")
    parser.add_argument("--num-seeds", type=int, default=3, help="seeds of random attacks in a ball (default 3)")
    parser.add_argument("--eps", type=float, default=0.08, help="radius in the maximum norm (default 0.08)")
    parser.add_argument("--eps-l2", type=float, default=1.0, help="radius in the Euclidean norm (default 1)")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this attack; repeat")
    parser.add_argument("--check", action="store_true", help="exit 1 if an attack is weaker than allowed")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write everything there")
    options = parser.parse_args(arguments)
    for name in ("num_images", "num_steps", "num_queries", "num_seeds"):
        check_count(f"--{name.replace('_', '-')}", getattr(options, name))
    check_number("--eps", options.eps, above=0)
    check_number("--eps-l2", options.eps_l2, above=0)
    return options


def train(data_dir: str | None) -> Network:
    """A convolutional network so small that hundreds of images meet every attack in minutes: 98% on MNIST."""
    layers = [
        *(Conv2d(1, 8, (5, 5), (2, 2)), ReLU()),
        *(Conv2d(8, 16, (5, 5), (2, 2)), ReLU()),
        *(Flatten(), Linear(16 * 7 * 7, 10)),
    ]
    network = build(layers, (1, 28, 28), initialisation="he", seed=0, metadata={"network": "bench.attacks.train"})
    x, y = read_images("mnist:train", shape=network.input_shape, num_classes=network.num_classes, data_dir=data_dir)
    return fit(network, Classification(), x, y, epochs=2, learning_rate=1e-2, seed=0).network


def rows(problem: Problem) -> Iterator[Row]:
    """Everything that is compared."""
    steps, queries = {"num_steps": problem.num_steps}, {"num_steps": problem.num_queries}
    for norm, eps, step in (
        ("linf", problem.eps, problem.step_size),
        ("l2", problem.eps_l2, problem.step_size_l2),
    ):
        one, ball = {"eps": eps}, {"eps": eps, "norm": norm}
        yield Row("fgsm", "", attacks.fgsm, one) if norm == "linf" else Row("fgm l2", "", attacks.fgm, one)
        if norm == "linf":
            yield Row("mim linf", "", attacks.mim, {"step_size": step, **ball, **steps})
        yield Row(f"pgd {norm}", "", attacks.pgd, {"step_size": step, **ball, **steps}, random=True)
        for loss in ("ce", "dlr"):
            yield Row(f"apgd {loss} {norm}", "", attacks.apgd, {"loss": loss, **ball, **steps}, random=True)
        targeted = {"loss": "dlr", "num_targets": problem.model.num_classes - 1}
        yield Row(f"apgd dlr targeted {norm}", "", attacks.apgd, {**targeted, **ball, **steps})
        yield Row(f"square {norm}", "", attacks.square, {**ball, **queries}, random=True)
        everywhere = {"norm": norm, "eps": 1.0 if norm == "linf" else problem.far}
        yield Row(f"fab {norm}", norm, attacks.fab, {**everywhere, **steps})
    yield Row("cw l2", "l2", attacks.cw, {"initial_weight": 0.1, "step_size": 0.05, **steps})
    for rule in ("en", "l1"):
        yield Row(f"ead {rule}", rule, attacks.ead, {"rule": rule, **steps})
    yield Row("boundary l2", "l2", attacks.boundary, {"eps": problem.far, **queries})
    bisection = math.prod(problem.x.shape[2:]).bit_length()
    noise = {"eps": 1.0, "smallest": True, "num_trials": 1, "num_steps": max(0, problem.num_queries - bisection)}
    yield Row("salt and pepper", "share", attacks.salt_and_pepper, noise)


def left(problem: Problem, row: Row, images: Images) -> Any:
    """What is left of each image: 1 if it is still right; or, of those that the model knows, how far it was moved."""
    model, x, y = problem.model, problem.x, problem.y
    x_adv = np.clip(images, 0, 1).astype(x.dtype)
    right = model.predict(x_adv) == y
    if not row.distance:
        return right.astype("float64")
    if row.distance == "en":
        moved = 1e-3 * ops.distance_l1(x_adv, x) + ops.distance_l2(x_adv, x) ** 2
    elif row.distance == "share":
        moved = ops.changed_share(x_adv, x)
    else:
        moved = getattr(ops, f"distance_{row.distance}")(x_adv, x)
    return np.where(right, math.inf, moved)[model.predict(x) == y]


def outcome(problem: Problem, row: Row, runs: Sequence[Run], evaluations: Callable[[], float], seeds: range) -> Outcome:
    """Run an attack with each seed; of several runs the best counts, image by image."""
    summarise = np.median if row.distance else np.mean
    began, before, values = time.process_time(), evaluations(), []
    for seed in seeds:
        values.append(summarise(np.minimum.reduce([left(problem, row, run(seed)) for run in runs])))
    seconds, spent = time.process_time() - began, evaluations() - before
    return Outcome(float(np.mean(values)), seconds / len(seeds), spent / len(seeds) / len(problem.x))


def compare(problem: Problem, row: Row, peers: Mapping[str, Peer], num_seeds: int) -> dict[str, Any]:
    """A line of the table."""
    seeds, queries = range(num_seeds if row.random else 1), [0.0]

    def own(seed: int) -> Images:
        result = row.attack(
            problem.model, problem.x, problem.y, **row.settings, **({"seed": seed} if row.random else {})
        )
        queries[0] += float(result.num_queries.sum())
        return result.x_adv

    record: dict[str, Any] = {
        "name": row.name,
        "measure": f"median {row.distance}" if row.distance else "accuracy",
        "settings": row.settings,
        "seeds": len(seeds),
        "ours": outcome(problem, row, [own], lambda: queries[0], seeds)._asdict(),
        "peers": {},
    }
    for name, peer in peers.items():
        if row.name not in peer.runs:
            continue
        try:
            record["peers"][name] = outcome(problem, row, peer.runs[row.name], peer.evaluations, seeds)._asdict()
        except Exception as error:  # a stranger's code: its failure must not cost the rest of the table
            record["peers"][name] = {"failed": f"{type(error).__name__}: {error}"}
    values = [found["value"] for found in record["peers"].values() if "value" in found]
    if values:
        best = min(values)
        allowed = best * ALLOWED_DISTANCE if row.distance else best + ALLOWED_ACCURACY
        record["weaker"] = not record["ours"]["value"] <= allowed + 1e-12
    return record


def line(record: dict[str, Any], names: Sequence[str]) -> str:
    """A row of the table in Markdown: of every implementation the value, and the CPU seconds."""
    scale, digits = (100, 1) if record["measure"] == "accuracy" else (1, 4)
    found = [record["ours"], *(record["peers"].get(name, {}) for name in names)]
    cells = [
        f"{scale * one['value']:.{digits}f} ({one['seconds']:.0f} s)" if "value" in one else "failed" if one else ""
        for one in found
    ]
    verdict = {True: "weaker", False: "yes", None: ""}[record.get("weaker")]
    return f"| {' | '.join([record['name'], record['measure'], *cells, verdict])} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison.

    Parameters
    ----------
    arguments : sequence of str, optional
        In place of the command line's.

    Returns
    -------
    int
        Exit code: 0 done, 1 an attack is weaker than allowed, 2 bad usage.
    """
    try:
        options = parse(arguments)
        model = load(options.model) if options.model else train(options.data_dir)
        x, y = read_images(
            options.data, shape=model.input_shape, num_classes=model.num_classes, data_dir=options.data_dir
        )
        if y is None:
            raise InputError(f"--data {options.data}: has no labels; choose images that have")
    except InputError as error:
        print(f"bench.attacks: {error}", file=sys.stderr)
        return 2
    x, y = x[: options.num_images].astype(model.dtype), y[: options.num_images]
    problem = Problem(model, x, y, options.num_steps, options.num_queries, options.eps, options.eps_l2)
    clean = float((model.predict(x) == y).mean())
    peers, missing = open_peers(problem)
    print(f"{len(x)} images of {options.data}, clean accuracy {100 * clean:.1f}")
    for name, peer in peers.items():
        print(f"{name}: {', '.join(f'{package} {version}' for package, version in peer.versions.items())}")
    for name, reason in missing.items():
        print(f"{name}: left out, because {reason}")
    print(f"| attack | measure | {' | '.join(['malade', *peers])} | strong enough |\n|{'---|' * (4 + len(peers))}")
    records = []
    for row in rows(problem):
        if options.only is None or row.name in options.only:
            records.append(compare(problem, row, peers, options.num_seeds))
            print(line(records[-1], list(peers)), flush=True)
    if options.out is not None:
        document = {
            "format": "malade-bench-attacks",
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": describe_environment(),
            "peers": {name: peer.versions for name, peer in peers.items()},
            "missing": missing,
            "model": {**model.metadata, "layers": model.architecture(), "clean_accuracy": clean},
            "settings": {
                "images": len(x),
                "data": options.data,
                **{name: getattr(options, name) for name in ("num_steps", "num_queries", "eps", "eps_l2")},
            },
            "attacks": [_jsonable(record) for record in records],
        }
        atomic_write(options.out, to_json("results", document))
    return int(options.check and any(record.get("weaker") for record in records))


def _jsonable(value: Any) -> Any:
    """JSON has no infinity: a median of images of which most did not fall is null."""
    if isinstance(value, dict):
        return {key: _jsonable(one) for key, one in value.items()}
    return None if value == math.inf else value


if __name__ == "__main__":
    sys.exit(main())
