"""Do attacks of other libraries say the same of our defended model as ours, and ours of their models?

    python -m bench.interop --data-dir DIR --out bench/results/NAME
    python -m bench.interop --data-dir DIR --num-images 20 --num-steps 5 --num-seeds 1     a look

PGD of ART, Foolbox and torchattacks attacks published networks, with and without MALADE in front, through the adapters
of `malade_ref.interop`; so does ours, and ours attacks the same classifier as a module of PyTorch, an estimator of ART
and a model of Foolbox, wrapped, with the same chain in front. All take the same steps from random starts, and a new
draw of the defence's noise at each.

Then Carlini and Wagner's attack, EAD and the boundary attack: ours, the counterpart itself, and the counterpart as
`malade_ref.interop.conformance` computes it, on the bare classifier: whose number is whose.

What counts is the accuracy that is left, the mean over draws of the defence that no attack saw, or the median distance
over the images that the classifier knows (one that did not fall counts as infinitely far); of random attacks the mean
over seeds. A difference to ours has a 95% interval, from the differences of single images.

--out is a folder, into which results.json and report.md are written as the measurements go.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.peers import WEIGHTS
from malade_ref import MALADE, attacks, load
from malade_ref.bundle.environment import describe_environment
from malade_ref.checks import InputError, check_count, check_number, printable
from malade_ref.cli.files import read_images
from malade_ref.interop import (
    as_art_classifier,
    as_foolbox_model,
    as_torch_module,
    conformance,
    to_torch,
    wrap,
)
from malade_ref.ops import num_threads
from malade_ref.storage import atomic_write, to_json

PACKAGES = ("torchattacks", "foolbox", "adversarial-robustness-toolbox", "torch")
ALLOWED = 0.01  # of the accuracy

Images = Any


class Row(NamedTuple):
    """An attack on a model.

    Attributes
    ----------
    group : str
        What it is compared within; its first row is ours.
    name : str
        Whose attack, on whose model.
    run : callable
        From a seed to adversarial images.
    random : bool
        Whether it is worth more than one seed.
    distance : str
        "" for accuracy, or which distance counts: "l2" or "l1".
    """

    group: str
    name: str
    run: Callable[[int], Images]
    random: bool = True
    distance: str = ""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.interop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classifier", metavar="FILE", default="published:mnist-cnn", help="of grey images")
    parser.add_argument("--denoiser", metavar="FILE", default="published:mnist-sdae", help="of the same")
    parser.add_argument("--data", default="mnist:test", metavar="INPUT", help="images with labels")
    parser.add_argument("--data-dir", metavar="DIR", help="where to look for data sets first")
    parser.add_argument("--num-images", type=int, default=200, help="the first so many images (default 200)")
    parser.add_argument("--eps", type=float, default=0.3, help="radius for the defended model (default 0.3)")
    parser.add_argument("--eps-bare", type=float, default=0.08, help="radius for the classifier alone (default 0.08)")
    parser.add_argument("--num-steps", type=int, default=40, help="steps of PGD, eps / 10 long (default 40)")
    parser.add_argument("--num-seeds", type=int, default=2, help="seeds of random attacks (default 2)")
    parser.add_argument("--num-draws", type=int, default=64, help="draws of a verdict (default 64)")
    parser.add_argument("--chain", type=int, default=5, metavar="N", help="steps of the chain (default 5)")
    parser.add_argument("--a", type=float, default=0.5, help="step size of the chain (default 0.5)")
    parser.add_argument("--delta", type=float, default=0.02, help="noise of the chain (default 0.02)")
    parser.add_argument("--only", action="append", metavar="GROUP", help="only this group; repeat")
    parser.add_argument("--check", action="store_true", help="exit 1 if accuracies differ by more than a point")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write everything there")
    options = parser.parse_args(arguments)
    for name in ("num_images", "num_steps", "num_seeds", "num_draws", "chain"):
        check_count(f"--{name.replace('_', '-')}", getattr(options, name))
    for name in ("eps", "eps_bare", "a"):
        check_number(f"--{name.replace('_', '-')}", getattr(options, name), above=0)
    check_number("--delta", options.delta, minimum=0)
    return options


def pgd_rows(
    group: str, model: Any, wrapped: dict[str, Any], x: Images, y: Any, eps: float, steps: int
) -> Iterator[Row]:
    """PGD of everybody on our model, and ours on everybody's."""
    import foolbox
    import torch
    import torchattacks
    from art.attacks import evasion

    images, labels, step = torch.from_numpy(x), torch.from_numpy(y), eps / 10
    ball: dict[str, Any] = {"eps": eps, "step_size": step, "num_steps": steps}

    def seeded(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  the generator that ART draws from
        return {"noise": "fresh", "seed": seed}

    def of_foolbox(seed: int) -> Images:
        attack = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps)
        return attack(as_foolbox_model(model, **seeded(seed)), images, labels, epsilons=eps)[1].numpy()

    def of_art(seed: int) -> Images:
        settings = {"eps": eps, "eps_step": step, "max_iter": steps, "num_random_init": 1, "batch_size": len(x)}
        classifier = as_art_classifier(model, **seeded(seed))
        return evasion.ProjectedGradientDescent(classifier, verbose=False, **settings).generate(x, y)

    def of_torchattacks(seed: int) -> Images:
        attack = torchattacks.PGD(as_torch_module(model, **seeded(seed)), eps=eps, alpha=step, steps=steps)
        return attack(images, labels).numpy()

    yield Row(group, "ours, on ours", lambda seed: attacks.pgd(model, x, y, seed=seed, **ball).x_adv)
    yield Row(group, "torchattacks', on ours", of_torchattacks)
    yield Row(group, "Foolbox's, on ours", of_foolbox)
    yield Row(group, "ART's, on ours", of_art)
    yield Row(
        group,
        "torchattacks' as conformance computes it, on ours",
        lambda seed: conformance.torchattacks_pgd(model, x, y, noise="fresh", seed=seed, **ball).x_adv,
    )
    for name, theirs in wrapped.items():
        yield Row(
            group,
            f"ours, on a classifier of {name}",
            lambda seed, theirs=theirs: attacks.pgd(theirs, x, y, seed=seed, **ball).x_adv,  # type: ignore[misc]
        )


def nearest_rows(model: Any, x: Images, y: Any, steps: int) -> Iterator[Row]:
    """Attacks whose counterparts differ from ours."""
    import foolbox
    import torch
    from art.attacks import evasion

    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    criterion = foolbox.criteria.Misclassification(labels)

    cw: dict[str, Any] = {"step_size": 0.05, "num_search_steps": 9, "initial_weight": WEIGHTS[0]}
    few = max(1, steps // 4)  # each step of ART's looks at about ten lengths, one image after the other
    theirs = {"learning_rate": 0.05, "max_iter": few, "binary_search_steps": 9, "initial_const": WEIGHTS[0]}
    yield Row("cw", "ours", lambda _: attacks.cw(model, x, y, num_steps=steps, **cw).x_adv, False, "l2")
    yield Row(
        "cw",
        "ART's",
        lambda _: evasion.CarliniL2Method(as_art_classifier(model), verbose=False, **theirs).generate(x, y),
        False,
        "l2",
    )
    yield Row(
        "cw",
        "ART's as conformance computes it",
        lambda _: conformance.art_cw(model, x, y, num_steps=few, **cw).x_adv,
        False,
        "l2",
    )

    ead: dict[str, Any] = {"num_steps": steps, "num_search_steps": 9, "rule": "l1"}
    yield Row("ead", "ours", lambda _: attacks.ead(model, x, y, **ead).x_adv, False, "l1")
    yield Row(
        "ead",
        "Foolbox's",
        lambda _: foolbox.attacks.EADAttack(
            binary_search_steps=9, steps=steps, initial_stepsize=0.01, regularization=1e-3, decision_rule="L1"
        ).run(as_foolbox_model(model), images, criterion),
        False,
        "l1",
    )
    yield Row(
        "ead",
        "the authors' as conformance computes it",
        lambda _: conformance.authors_ead(model, x, y, **ead).x_adv,
        False,
        "l1",
    )

    queries = 20 * steps

    def of_foolbox(seed: int) -> Images:
        torch.manual_seed(seed)
        return foolbox.attacks.BoundaryAttack(steps=queries).run(as_foolbox_model(model), images, criterion)

    yield Row(
        "boundary",
        "ours",
        lambda seed: attacks.boundary(model, x, y, num_steps=queries, seed=seed).x_adv,
        distance="l2",
    )
    yield Row("boundary", "Foolbox's", of_foolbox, distance="l2")
    yield Row(
        "boundary",
        "Foolbox's as conformance computes it",
        lambda seed: conformance.foolbox_boundary(model, x, y, num_steps=queries, seed=seed).x_adv,
        distance="l2",
    )


def measure(row: Row, model: Any, x: Images, y: Any, options: argparse.Namespace) -> dict[str, Any]:
    """What is left of each image, and in all."""
    began, found = time.perf_counter(), []
    record: dict[str, Any] = {"group": row.group, "name": row.name}
    for seed in range(options.num_seeds if row.random else 1):
        try:
            x_adv = np.asarray(row.run(seed)).clip(0, 1).astype(x.dtype)
        except Exception as error:  # a stranger's code: its failure must not cost the rest of the table
            return {**record, "failed": f"{type(error).__name__}: {error}"}
        right = (
            model.predict_draws(x_adv, num_draws=options.num_draws) if model.stochastic else model.predict(x_adv)[None]
        )
        of_image = (right == y).mean(axis=0)
        if row.distance:
            move = (x_adv - x).astype("float64").reshape(len(x), -1)
            far = np.sqrt(np.square(move).sum(axis=1)) if row.distance == "l2" else abs(move).sum(axis=1)
            of_image = np.where(of_image > 0, math.inf, far)
        found.append(of_image)
    known = model.predict(x) == y if row.distance else np.ones(len(y), bool)
    values = [float(np.median(one[known]) if row.distance else one.mean()) for one in found]
    return {
        **record,
        "measure": f"median {row.distance}" if row.distance else "accuracy",
        "value": float(np.mean(values)),
        "values": values,
        "seconds": time.perf_counter() - began,
        "of_image": np.mean(found, axis=0).tolist(),
    }


def compare(record: dict[str, Any], own: dict[str, Any]) -> None:
    """Add how a record differs from ours."""
    if "failed" in record or "failed" in own:
        return
    if record["measure"] == "accuracy":
        difference = np.subtract(record["of_image"], own["of_image"])
        error = 1.96 * float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
        mean = float(difference.mean())
        record["difference"] = {"value": mean, "low": mean - error, "high": mean + error}
        record["same"] = abs(mean) <= ALLOWED + 1e-12
    elif 0 < own["value"] < math.inf:
        record["ratio"] = record["value"] / own["value"]


def line(record: dict[str, Any]) -> str:
    """A row of the table in Markdown."""
    if "failed" in record:
        return f"| {record['group']} | {record['name']} | failed: {printable(record['failed'], 100)} | | |"
    if record["measure"] == "accuracy":
        found = record.get("difference", dict.fromkeys(("low", "value", "high"), math.nan))
        low, value, high = (100 * found[name] for name in ("low", "value", "high"))
        cells = [f"{100 * record['value']:.1f}%", f"{value:+.1f} [{low:+.1f}, {high:+.1f}] points"]
    else:
        cells = [f"{record['value']:.4g} ({record['measure']})", f"{record.get('ratio', math.nan):.2f} times"]
    return f"| {record['group']} | {record['name']} | {' | '.join(cells)} | {record['seconds']:.0f} |"


HEADER = "| group | attack | left | against ours | seconds |\n|---|---|---|---|---|"


def write(folder: Path, document: dict[str, Any]) -> None:
    """The record, and its table."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "results.json", to_json("results", _jsonable(document)))
    settings = document["settings"]
    text = [
        "# Attacks of other libraries on our models, and ours on theirs",
        f"{settings['num_images']} images of {settings['data']}; {settings['classifier']}, alone (group `bare`; eps "
        f"{settings['eps_bare']:g}) and behind a chain of {settings['chain']} steps with {settings['denoiser']} (a "
        f"{settings['a']:g}, delta {settings['delta']:g}; group `defended`; eps {settings['eps']:g}). PGD takes "
        f"{settings['num_steps']} steps, eps / 10 long, from a random start; a verdict is the mean over "
        f"{settings['num_draws']} draws and {settings['num_seeds']} seeds. Clean accuracy: "
        + ", ".join(f"{name} {100 * value:.1f}%" for name, value in document["clean"].items())
        + ".",
        "\n".join([HEADER, *(line(record) for record in document["rows"])]),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in document["versions"].items()) + ".",
        f"Made with `{document['command']}`.",
    ]
    atomic_write(folder / "report.md", "\n\n".join(text) + "\n")


def _without_folders(words: Sequence[str]) -> list[str]:
    """Words of a command, less --out and --data-dir: they are of one machine only."""
    names = ("--out", "--data-dir")
    own = zip(["", *words], words, strict=False)
    return [
        word
        for before, word in own
        if before not in names and word not in names and not word.startswith(("--out=", "--data-dir="))
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison.

    Parameters
    ----------
    arguments : sequence of str, optional
        In place of the command line's.

    Returns
    -------
    int
        Exit code: 0 done, 1 accuracies differ by more than a point and --check was given, 2 bad usage.
    """
    try:
        options = parse(arguments)
        versions = {name: _version(name) for name in PACKAGES}
        classifier, denoiser = load(options.classifier), load(options.denoiser)
        settings = {"shape": classifier.input_shape, "num_classes": classifier.num_classes}
        x, y = read_images(options.data, data_dir=options.data_dir, **settings)
        if y is None:
            raise InputError(f"--data {options.data}: has no labels; choose images that have")
    except InputError as error:
        print(f"bench.interop: {error}", file=sys.stderr)
        return 2
    import foolbox
    import torch
    from art.estimators.classification import PyTorchClassifier

    warnings.simplefilter("ignore")  # other people's
    torch.set_num_threads(num_threads())
    x, y = x[: options.num_images].astype(classifier.dtype), y[: options.num_images]
    shape, k = classifier.input_shape, classifier.num_classes
    whole = torch.nn.Sequential(to_torch(classifier)).eval()  # ART calls each layer of a sequence by itself
    estimator = PyTorchClassifier(
        whole, torch.nn.CrossEntropyLoss(), shape, k, clip_values=(0.0, 1.0), device_type="cpu"
    )
    theirs = {
        "PyTorch": wrap(whole, input_shape=shape),
        "Foolbox": wrap(foolbox.PyTorchModel(whole, bounds=(0, 1), device="cpu"), input_shape=shape),
        "ART": wrap(estimator, input_shape=shape),
    }
    chain: dict[str, Any] = {"num_steps": options.chain, "a": options.a, "delta": options.delta}
    defended = MALADE(classifier, denoiser, **chain)
    theirs_defended = {name: MALADE(model, denoiser, **chain) for name, model in theirs.items()}
    rows = [
        *((classifier, row) for row in pgd_rows("bare", classifier, theirs, x, y, options.eps_bare, options.num_steps)),
        *(
            (defended, row)
            for row in pgd_rows("defended", defended, theirs_defended, x, y, options.eps, options.num_steps)
        ),
        *((classifier, row) for row in nearest_rows(classifier, x, y, options.num_steps)),
    ]
    document: dict[str, Any] = {
        "format": "malade-bench-interop",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(
            ["python -m bench.interop", *_without_folders(sys.argv[1:] if arguments is None else arguments)]
        ),
        "environment": describe_environment(),
        "versions": versions,
        "settings": {
            name: value for name, value in vars(options).items() if name not in ("out", "data_dir", "check", "only")
        },
        "clean": {
            "bare": float((classifier.predict(x) == y).mean()),
            "defended": float((defended.predict_draws(x, num_draws=options.num_draws) == y).mean()),
        },
        "rows": [],
    }
    print(HEADER, flush=True)
    for model, row in rows:
        if options.only is None or row.group in options.only:
            record = measure(row, model, x, y, options)
            compare(record, next((one for one in document["rows"] if one["group"] == row.group), record))
            document["rows"].append(record)
            print(line(record), flush=True)
            if options.out is not None:
                write(options.out, document)
    return int(options.check and not all(record.get("same", True) for record in document["rows"]))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"{name} is not installed, and is one of those that are compared; pip install {name}"
        ) from None


def _jsonable(value: Any) -> Any:
    """JSON has no infinity: the distance of an image that did not fall is null."""
    if isinstance(value, dict):
        return {key: _jsonable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_jsonable(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
