"""Compare the strength of attacks with that of public implementations.

    python -m bench.attacks --model cnn.h5 --data mnist:test --data-dir DIR
    python -m bench.attacks --model cnn.h5 --data mnist:test --check --out bench/results/NAME.json

Each attack runs on the same images as its counterpart in torchattacks, against the same network exported to PyTorch, at
the same eps and steps. For attacks in a ball the table states the accuracy that is left; for those that look for the
nearest wrong image the median distance over the images that the network knows, images that did not fall counting as
infinitely far. Without PyTorch or torchattacks the column of the peer stays empty.

Distances are measured here, in float64, from the images that either implementation returns, and whether an image is
wrong is asked of this package's network.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from malade_ref import attacks, load, ops
from malade_ref.bundle.environment import describe_environment
from malade_ref.checks import InputError, check_count, check_number
from malade_ref.cli.files import read_images
from malade_ref.interop.torch import to_torch
from malade_ref.network import Network
from malade_ref.storage import atomic_write, to_json

# An attack may leave this much more accuracy than its counterpart, or be this much longer in the median.
ALLOWED_ACCURACY = 0.01
ALLOWED_DISTANCE = 1.03
# Carlini and Wagner's weights, for implementations that do not search for them; the best is taken, image by image.
WEIGHTS = (0.1, 1.0, 10.0, 100.0)

Images = Any
Attack = Callable[[], Images]


class Row(NamedTuple):
    """An attack, and the same of a peer.

    Attributes
    ----------
    name : str
        What it is called in the table.
    distance : str
        "" for accuracy within a ball, or the distance whose median counts: "linf", "l2", "l1" or "en".
    ours : callable
        Returns adversarial images.
    theirs : list of callables
        What must be run of the peer; the best of them is taken, image by image.
    """

    name: str
    distance: str
    ours: Attack
    theirs: list[Attack]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.attacks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="FILE", help="a classifier, from malade train or a bundle")
    parser.add_argument("--data", default="mnist:test", metavar="INPUT", help="images with labels")
    parser.add_argument("--data-dir", metavar="DIR", help="where to look for data sets first")
    parser.add_argument("--num-images", type=int, default=500, help="the first so many images (default 500)")
    parser.add_argument("--num-steps", type=int, default=100, help="steps of every attack (default 100)")
    parser.add_argument("--eps", type=float, default=0.3, help="radius in the maximum norm (default 0.3)")
    parser.add_argument("--eps-l2", type=float, default=2.0, help="radius in the Euclidean norm (default 2)")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this attack; repeat")
    parser.add_argument("--check", action="store_true", help="exit 1 if an attack is weaker than allowed")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write everything there")
    options = parser.parse_args(arguments)
    check_count("--num-images", options.num_images)
    check_count("--num-steps", options.num_steps)
    check_number("--eps", options.eps, above=0)
    check_number("--eps-l2", options.eps_l2, above=0)
    return options


def rows(model: Network, x: Images, y: Images, options: argparse.Namespace, peer: Any) -> Iterator[Row]:
    """Everything that is compared; without a peer, nothing of it."""
    steps = options.num_steps

    def ours(attack: Callable[..., attacks.AttackResult], **settings: Any) -> Attack:
        return lambda: attack(model, x, y, num_steps=steps, **settings).x_adv

    def theirs(name: str, **settings: Any) -> list[Attack]:
        return [] if peer is None else [partial(peer, name, steps, settings)]

    linf, l2 = {"eps": options.eps}, {"eps": options.eps_l2, "norm": "l2"}
    torch_linf, torch_l2 = {"norm": "Linf", "eps": options.eps}, {"norm": "L2", "eps": options.eps_l2}
    step = options.eps / 10
    yield Row("mim linf", "", ours(attacks.mim, step_size=step, **linf), theirs("MIFGSM", eps=options.eps, alpha=step))
    yield Row("pgd linf", "", ours(attacks.pgd, step_size=step, **linf), theirs("PGD", eps=options.eps, alpha=step))
    yield Row("apgd ce linf", "", ours(attacks.apgd, **linf), theirs("APGD", loss="ce", **torch_linf))
    yield Row("apgd dlr linf", "", ours(attacks.apgd, loss="dlr", **linf), theirs("APGD", loss="dlr", **torch_linf))
    targets = model.num_classes - 1
    yield Row(
        "apgd dlr targeted linf",
        "",
        ours(attacks.apgd, loss="dlr", num_targets=targets, **linf),
        theirs("APGDT", n_classes=model.num_classes, **torch_linf),
    )
    yield Row("apgd ce l2", "", ours(attacks.apgd, **l2), theirs("APGD", loss="ce", **torch_l2))
    yield Row("apgd dlr l2", "", ours(attacks.apgd, loss="dlr", **l2), theirs("APGD", loss="dlr", **torch_l2))
    classes = {"n_classes": model.num_classes}
    far = math.sqrt(x[:1].size)
    yield Row("fab linf", "linf", ours(attacks.fab, eps=1.0), theirs("FAB", norm="Linf", eps=1.0, **classes))
    yield Row("fab l2", "l2", ours(attacks.fab, eps=far, norm="l2"), theirs("FAB", norm="L2", eps=far, **classes))
    yield Row("square linf", "", ours(attacks.square, **linf), theirs("Square", **torch_linf))
    yield Row("square l2", "", ours(attacks.square, **l2), theirs("Square", **torch_l2))
    several = [run for c in WEIGHTS for run in theirs("CW", c=c, lr=0.05)]
    yield Row("cw l2", "l2", ours(attacks.cw, initial_weight=0.1, step_size=0.05), several)
    for rule, name in (("en", "EADEN"), ("l1", "EADL1")):
        yield Row(f"ead {rule}", rule, ours(attacks.ead, rule=rule), theirs(name))


def open_peer(model: Network, x: Images, y: Images) -> tuple[Callable[..., Images] | None, str]:
    """Function that runs an attack of torchattacks; or None, and why."""
    try:
        import torch
        import torchattacks
    except ImportError as error:
        return None, str(error)
    module, images, labels = to_torch(model).eval(), torch.from_numpy(x), torch.from_numpy(y)

    def run(name: str, num_steps: int, settings: dict[str, Any]) -> Images:
        steps = {"EADEN": "max_iterations", "EADL1": "max_iterations", "Square": "n_queries"}.get(name, "steps")
        torch.manual_seed(0)
        attack = getattr(torchattacks, name)(module, **{steps: num_steps}, **settings)
        return attack(images.clone(), labels).detach().numpy()

    return run, f"torchattacks {importlib.metadata.version('torchattacks')}"


def outcome(model: Network, x: Images, y: Images, row: Row, attack: Attack) -> tuple[Images, float]:
    """What is left of each image after an attack: 1 if it is still right, or how far it had to be moved; seconds."""
    began = time.perf_counter()
    x_adv = np.clip(attack(), 0, 1).astype(x.dtype)
    seconds = time.perf_counter() - began
    right = model.predict(x_adv) == y
    if not row.distance:
        return right.astype("float64"), seconds
    if row.distance == "en":
        moved = 1e-3 * ops.distance_l1(x_adv, x) + ops.distance_l2(x_adv, x) ** 2
    else:
        moved = getattr(ops, f"distance_{row.distance}")(x_adv, x)
    return np.where(right, math.inf, moved)[model.predict(x) == y], seconds


def compare(model: Network, x: Images, y: Images, row: Row) -> dict[str, Any]:
    """A line of the table."""
    own, seconds = outcome(model, x, y, row, row.ours)
    summarise = np.median if row.distance else np.mean
    record: dict[str, Any] = {
        "name": row.name,
        "measure": f"median {row.distance} distance" if row.distance else "accuracy",
        "ours": float(summarise(own)),
        "seconds": seconds,
    }
    found = [outcome(model, x, y, row, attack) for attack in row.theirs]
    if found:
        record["theirs"] = float(summarise(np.minimum.reduce([values for values, _ in found])))
        record["their_seconds"] = sum(seconds for _, seconds in found)
        allowed = record["theirs"] * ALLOWED_DISTANCE if row.distance else record["theirs"] + ALLOWED_ACCURACY
        record["weaker"] = not record["ours"] <= allowed + 1e-12
    return record


def line(record: dict[str, Any]) -> str:
    """A row of the table in Markdown."""
    scale, digits = (100, 1) if record["measure"] == "accuracy" else (1, 4)
    numbers = [f"{scale * record[key]:.{digits}f}" if key in record else "" for key in ("ours", "theirs")]
    times = [f"{record[key]:.1f}" if key in record else "" for key in ("seconds", "their_seconds")]
    verdict = {True: "weaker", False: "yes", None: ""}[record.get("weaker")]
    return f"| {' | '.join([record['name'], record['measure'], *numbers, *times, verdict])} |"


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
        model = load(options.model)
        x, y = read_images(
            options.data, shape=model.input_shape, num_classes=model.num_classes, data_dir=options.data_dir
        )
        if y is None:
            raise InputError(f"--data {options.data}: has no labels; choose images that have")
    except InputError as error:
        print(f"bench.attacks: {error}", file=sys.stderr)
        return 2
    x, y = x[: options.num_images].astype(model.dtype), y[: options.num_images]
    peer, which = open_peer(model, x, y)
    print(
        f"{len(x)} images of {options.data}, clean accuracy {100 * (model.predict(x) == y).mean():.1f}; peer: {which}"
    )
    print("| attack | measure | ours | theirs | our s | their s | strong enough |\n|---|---|---|---|---|---|---|")
    records = []
    for row in rows(model, x, y, options, peer):
        if options.only is None or row.name in options.only:
            records.append(compare(model, x, y, row))
            print(line(records[-1]), flush=True)
    if options.out is not None:
        document = {
            "format": "malade-bench-attacks",
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": describe_environment(),
            "peer": which,
            "settings": {
                "images": len(x),
                "data": options.data,
                "num_steps": options.num_steps,
                "eps": options.eps,
                "eps_l2": options.eps_l2,
            },
            # JSON has no infinity: a median of images of which most did not fall is null.
            "attacks": [
                {key: None if value == math.inf else value for key, value in record.items()} for record in records
            ],
        }
        atomic_write(options.out, to_json("results", document))
    return int(options.check and any(record.get("weaker") for record in records))


if __name__ == "__main__":
    sys.exit(main())
