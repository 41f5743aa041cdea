"""Measure a trained network, and write its model card from what was measured.

    python -m bench.cards madry.h5 --out madry.json
    python -m bench.cards dae.h5 --classifier cnn.h5 --out dae.json
    python -m bench.cards bundle/models/madry.h5 --out madry.json --card madry.md

A classifier is tried on all test images, and on the first 1,000 of them under PGD (100 steps of 0.01, 5 restarts) and
`auto_attack`, both at eps 0.3 in Linf. Restarts of PGD are attacks of one start each, whose seeds count up from --seed;
images that have fallen to one are left out of the next. A denoiser is tried on all noisy test images at the variance
that it was trained at; with --classifier, also how often that classifier is right about its reconstructions of clean
and of noisy images.

The record is written as the measurements go, a block of images at a time. The same command, given again, goes on with
it. The card says how the network was trained, as the network itself, and the environment.json of the bundle that it
came from, tell: the one in the folder above the network's, or that of --environment.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from malade_ref import attacks, load, ops
from malade_ref.bundle.environment import describe_environment, read_log
from malade_ref.checkpoint import unrounded
from malade_ref.checks import InputError, check_count, check_number
from malade_ref.datasets import Split, load_dataset
from malade_ref.network import Network
from malade_ref.statistics import wilson
from malade_ref.storage import atomic_write, file_sha256, load_json, to_json

FORMAT = "malade-card"
VERSION = 1
# Images of a block: what is measured between two states of the record, and what lies in memory at a time.
CLEAN_BLOCK, ATTACK_BLOCK = 1000, 250
_DIGITS = 12  # shown of a fingerprint


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.cards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", type=Path, metavar="FILE.h5", help="the network")
    parser.add_argument("--out", type=Path, metavar="FILE.json", required=True, help="the record, to go on with too")
    parser.add_argument("--card", type=Path, metavar="FILE.md", help="write the card there too; it is printed anyway")
    parser.add_argument("--classifier", type=Path, metavar="FILE.h5", help="of a denoiser: whose images it restores")
    parser.add_argument(
        "--environment", type=Path, metavar="environment.json", help="environment.json of the bundle that trained it"
    )
    parser.add_argument("--data", default="mnist", help="a data set by name (default mnist)")
    parser.add_argument("--data-dir", metavar="DIR", help="where to look for it first")
    parser.add_argument("--count", type=int, default=1000, help="test images under attack, the first (default 1000)")
    parser.add_argument("--clean-count", type=int, help="test images without attack, the first (default all)")
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--step-size", type=float, default=0.01, help="of PGD")
    parser.add_argument("--num-steps", type=int, default=100, help="of PGD, and of the members of auto_attack")
    parser.add_argument("--num-square-steps", type=int, default=5000, help="of auto_attack")
    parser.add_argument("--restarts", type=int, default=5, help="of PGD")
    parser.add_argument("--seed", type=int, default=0, help="of attacks and noise")
    parser.add_argument("--no-auto-attack", action="store_true", help="leave it out: it takes the longest")
    options = parser.parse_args(arguments)
    for name in ("count", "num_steps", "num_square_steps", "restarts"):
        check_count(f"--{name.replace('_', '-')}", getattr(options, name))
    if options.clean_count is not None:
        check_count("--clean-count", options.clean_count)
    check_count("--seed", options.seed, minimum=0)
    check_number("--eps", options.eps, minimum=0)
    check_number("--step-size", options.step_size, minimum=0)
    return options


class Progress:
    """A record that is written after every block, and blocks that are not measured again.

    Parameters
    ----------
    path : Path
        The JSON file; what it holds of the same network and settings is gone on with.
    about : dict
        What decides the numbers, JSON-able.

    Raises
    ------
    InputError
        If the file holds something else.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        if not path.parent.is_dir():
            raise InputError(f"--out: {path.parent} is not a folder; make it, or choose another")
        self.path = path
        self.record: dict[str, Any] = {"format": FORMAT, "version": VERSION, "about": about, "blocks": {}}
        if path.exists():
            found = load_json(path)
            if found.get("about") != json.loads(to_json("about", about)):
                raise InputError(f"--out: {path} is of another network or other settings; choose another file")
            self.record = found

    def measured(self, part: str, block: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Numbers of a block, measured unless the record has them."""
        blocks = self.record["blocks"].setdefault(part, {})
        if block not in blocks:
            began = time.monotonic()
            found = measure()
            blocks[block] = {**found, "seconds": round(time.monotonic() - began, 2)}
            self.write()
            print(f"{part} {block}: {_brief(blocks[block])}", flush=True)
        result: dict[str, Any] = blocks[block]
        return result

    def write(self) -> None:
        """Write the record."""
        atomic_write(self.path, to_json("card", self.record, indent=None))


def _brief(block: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in block.items() if isinstance(value, int | float))


def blocks(count: int, size: int) -> Iterator[slice]:
    """Slices of so many images that cover a number of them."""
    return (slice(first, min(count, first + size)) for first in range(0, count, size))


def as_proportion(right: int, total: int) -> dict[str, Any]:
    """A proportion and its interval, as JSON."""
    value, low, high = wilson(right, total)
    return {"right": right, "images": total, "accuracy": value, "low": low, "high": high}


def clean_accuracy(network: Network, test: Split, count: int, progress: Progress) -> dict[str, Any]:
    """Accuracy on clean images."""

    def measure(part: slice) -> dict[str, Any]:
        return {"right": int((network.predict(test.images(part)) == test.labels(part)).sum())}

    found = [
        progress.measured("clean", _name(part), lambda part=part: measure(part))  # type: ignore[misc]
        for part in blocks(count, CLEAN_BLOCK)
    ]
    return as_proportion(sum(block["right"] for block in found), count)


def under_pgd(network: Network, test: Split, options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Accuracy that the restarts of PGD leave together."""

    def measure(part: slice) -> dict[str, Any]:
        x, y, index = test.images(part), test.labels(part), np.arange(part.start, part.stop)
        standing, left = np.arange(len(x)), []
        for restart in range(options.restarts):
            if len(standing):
                result = attacks.pgd(
                    network,
                    x[standing],
                    y[standing],
                    eps=options.eps,
                    step_size=options.step_size,
                    num_steps=options.num_steps,
                    seed=options.seed + restart,
                    sample_index=index[standing],
                )
                standing = standing[~result.success]
            left.append(len(standing))
        return {"right": len(standing), "right_after_each_restart": left}

    found = [
        progress.measured("pgd", _name(part), lambda part=part: measure(part))  # type: ignore[misc]
        for part in blocks(options.count, ATTACK_BLOCK)
    ]
    each = np.sum([block["right_after_each_restart"] for block in found], axis=0).tolist()
    return {
        **as_proportion(sum(block["right"] for block in found), options.count),
        "right_after_each_restart": each,
    }


def under_auto_attack(network: Network, test: Split, options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Accuracy that AutoAttack leaves."""

    def measure(part: slice) -> dict[str, Any]:
        result = attacks.auto_attack(
            network,
            test.images(part),
            test.labels(part),
            eps=options.eps,
            num_steps=options.num_steps,
            num_square_steps=options.num_square_steps,
            num_targets=min(9, network.num_classes - 1),
            seed=options.seed,
            sample_index=np.arange(part.start, part.stop),
        )
        return {"right": int((~result.success).sum())}

    found = [
        progress.measured("auto_attack", _name(part), lambda part=part: measure(part))  # type: ignore[misc]
        for part in blocks(options.count, ATTACK_BLOCK)
    ]
    return as_proportion(sum(block["right"] for block in found), options.count)


def outputs(network: Network, x: Any) -> Any:
    """Outputs at images whose pixels may lie outside [0, 1], as noisy ones do."""
    return np.concatenate([network.forward(x[part])[0] for part in blocks(len(x), network.slice_size)])


def denoising(
    network: Network,
    classifier: Network | None,
    test: Split,
    sigma: float,
    count: int,
    options: argparse.Namespace,
    progress: Progress,
) -> dict[str, Any]:
    """Squared errors at noisy images, and a classifier's accuracy on reconstructions."""

    def measure(part: slice) -> dict[str, Any]:
        x, y = test.images(part), test.labels(part)
        noise = ops.normal(
            x.shape[1:],
            key=ops.derive_key(options.seed, "denoising-validation"),
            sample_index=np.arange(part.start, part.stop),
            step=0,
            dtype=network.dtype,
        )
        noisy = x + np.float32(sigma) * noise
        restored = outputs(network, noisy)
        errors = np.square(restored - x, dtype=np.float64).mean(axis=(1, 2, 3))
        numbers = {
            "error": float(errors.sum()),
            "squared_error": float(np.square(errors).sum()),
            "error_of_noise": float(np.square(noisy - x, dtype=np.float64).mean(axis=(1, 2, 3)).sum()),
        }
        if classifier is not None:
            numbers["right_clean"] = int((outputs(classifier, outputs(network, x)).argmax(axis=1) == y).sum())
            numbers["right_noisy"] = int((outputs(classifier, restored).argmax(axis=1) == y).sum())
            numbers["right_bare"] = int((outputs(classifier, x).argmax(axis=1) == y).sum())
            numbers["right_bare_noisy"] = int((outputs(classifier, noisy).argmax(axis=1) == y).sum())
        return numbers

    found = [
        progress.measured("denoising", _name(part), lambda part=part: measure(part))  # type: ignore[misc]
        for part in blocks(count, CLEAN_BLOCK)
    ]
    mean, square, noise = (
        sum(block[name] for block in found) / count for name in ("error", "squared_error", "error_of_noise")
    )
    # Thousands of images: Student's quantile is the normal one.
    half = 1.96 * math.sqrt(max(0.0, square - mean**2) / max(1, count - 1))
    results: dict[str, Any] = {
        "error": {"mean_squared": mean, "low": mean - half, "high": mean + half, "images": count, "sigma2": sigma**2},
        "error_of_noise": noise,
    }
    if classifier is not None:
        for name in ("right_clean", "right_noisy", "right_bare", "right_bare_noisy"):
            results[name.replace("right", "accuracy")] = as_proportion(sum(block[name] for block in found), count)
    return results


def _name(part: slice) -> str:
    return f"{part.start}-{part.stop - 1}"


def recipe_of(network: Network) -> dict[str, Any]:
    """What a network's metadata say of its training, without what its architecture says."""
    training = network.metadata.get("training", {})
    about = {name: value for name, value in network.metadata.items() if name != "training"}
    return {**about, **{name: value for name, value in training.items() if name != "architecture"}}


def environment_of(network: Network, path: Path, given: Path | None) -> dict[str, Any] | None:
    """Where a network was trained, by the environment.json of its bundle; None if there is none."""
    source = given if given is not None else path.resolve().parents[1] / "environment.json"
    if given is None and not source.is_file():
        return None
    log = read_log(source.parent)
    for name, facts in log.networks.items():
        if facts.get("fingerprint") in (network.fingerprint(), unrounded(network)):
            # A network from the store was trained elsewhere, and the bundle says where.
            return {
                "environment": facts.get("environment") or log.sessions[0]["environment"],
                "seconds": facts.get("seconds", log.timings.get(f"models/{name}")),
                "trained": facts.get("trained") or log.sessions[0]["began"],
            }
    if given is None:
        return None
    raise InputError(f"{source}: names no network with these parameters; give the one of the bundle that trained it")


def measure_card(options: argparse.Namespace) -> dict[str, Any]:
    """All measurements of a network."""
    network = load(options.network)
    data = load_dataset(options.data, data_dir=options.data_dir)
    if network.input_shape != data.shape:
        raise InputError(
            f"{options.network}: takes images of shape {network.input_shape}, those of {data.name} have {data.shape}; "
            "choose another file or other data"
        )
    test = data.test
    clean_count = len(test) if options.clean_count is None else min(options.clean_count, len(test))
    options.count = min(options.count, len(test))
    denoiser = network.output_shape == network.input_shape
    if options.classifier is not None and not denoiser:
        raise InputError("--classifier: is for denoisers; leave it out")
    classifier = load(options.classifier) if options.classifier is not None else None
    recipe = recipe_of(network)
    about: dict[str, Any] = {
        "fingerprint": network.fingerprint(),
        "unrounded": unrounded(network),
        "sha256": file_sha256(options.network),
        "file": options.network.name,
        "parameters": network.num_parameters,
        "bytes": options.network.stat().st_size,
        "kind": "denoiser" if denoiser else "classifier",
        "architecture": network.architecture(),
        "recipe": recipe,
        "trained": environment_of(network, options.network, options.environment),
        "classifier": classifier.fingerprint() if classifier is not None else None,
        "data": {"name": data.name, "test_sha256": test.sha256(), "images": clean_count},
        "settings": {
            name: getattr(options, name)
            for name in ("count", "eps", "step_size", "num_steps", "num_square_steps", "restarts", "seed")
        },
    }
    progress = Progress(options.out, about)
    if denoiser:
        sigma = recipe.get("objective", {}).get("sigma")
        if not isinstance(sigma, float):
            raise InputError(f"{options.network}: does not say what noise it was trained at; choose another file")
        results = denoising(network, classifier, test, sigma, clean_count, options, progress)
    else:
        results = {"clean": clean_accuracy(network, test, clean_count, progress)}
        results["pgd"] = under_pgd(network, test, options, progress)
        if not options.no_auto_attack:
            results["auto_attack"] = under_auto_attack(network, test, options, progress)
    progress.record |= {
        "results": results,
        "measured": {"date": datetime.now(UTC).isoformat(timespec="seconds"), "environment": describe_environment()},
    }
    progress.write()
    return progress.record


def _percent(value: Mapping[str, Any]) -> str:
    low, high = 100 * value["low"], 100 * value["high"]
    return f"{100 * value['accuracy']:.2f}% [{low:.2f}, {high:.2f}] of {value['images']:,}"


def _mean(value: Mapping[str, Any]) -> str:
    return f"{value['mean_squared']:.5f} [{value['low']:.5f}, {value['high']:.5f}] on {value['images']:,} images"


def _layer(layer: Mapping[str, Any]) -> str:
    words = [str(layer["kind"])]
    if "kernel_size" in layer:
        size = "x".join(str(side) for side in layer["kernel_size"])
        stride = layer.get("stride", [1])[0]
        words += [str(layer["out_channels"])] if "out_channels" in layer else []
        words += [f"{size}/{stride}" if stride != 1 else size]
    elif "out_features" in layer:
        words.append(str(layer["out_features"]))
    return " ".join(words)


def _objective(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    parts = []
    for name, item in value.items():
        if name == "name":
            continue
        text = json.dumps(item, sort_keys=True) if isinstance(item, Mapping | list) else str(item)
        parts.append(f"{name} {text[:_DIGITS] if len(text) == 64 else text}")
    return f"{value.get('name', 'unknown')}" + (f" ({', '.join(parts)})" if parts else "")


def card(record: Mapping[str, Any]) -> str:
    """A model card in Markdown, of nothing but what the record holds.

    Parameters
    ----------
    record : mapping
        From `measure_card`.
    """
    about, results = record["about"], record["results"]
    recipe, trained = about["recipe"], about["trained"]
    settings = about["settings"]
    shown = {
        "network": f"{recipe.get('network', 'unknown')}, preset {recipe.get('preset', 'none')}, "
        f"{about['parameters']:,} parameters: "
        + ", ".join(_layer(layer) for layer in about["architecture"].get("layers", ())),
        "objective": _objective(recipe.get("objective", "unknown")),
        "training": ", ".join(
            f"{name.replace('_', ' ')} {recipe[name]}"
            for name in ("epochs", "batch_size", "learning_rate", "schedule", "optimizer", "steps")
            if name in recipe
        )
        or "unknown",
        "seed": recipe.get("seed", "unknown"),
    }
    if trained is not None:
        environment = trained["environment"]
        names = (environment.get("device", {}).get("name"), environment.get("processor"))
        device = ", ".join(name for name in names if name and name != "CPU")
        shown["device"] = f"{device or 'unknown processor'}, {environment.get('cpus')} CPUs"
        packages = ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items())
        shown["software"] = f"malade {environment.get('malade')}, {environment.get('python')}, {packages}"
        shown["commit"] = (
            f"{environment.get('commit') or 'unknown'}, source {str(environment.get('source_sha256'))[:_DIGITS]}"
        )
        shown["trained"] = trained["trained"][:10]
        if trained["seconds"] is not None:
            shown["trained"] += f", in {trained['seconds'] / 60:.1f} min"
    shown |= {
        "file": f"{about['file']}, {about['bytes']:,} bytes, SHA-256 {about['sha256']}",
        "weights": f"fingerprint {about['fingerprint']}",
    }
    if about["unrounded"] != about["fingerprint"]:
        shown["weights"] += f", rounded to half precision from {about['unrounded']}"
    measured: dict[str, str] = {}
    if about["kind"] == "classifier":
        first = f"first {settings['count']:,} test images, Linf, eps {settings['eps']:g}"
        measured["clean test images"] = _percent(results["clean"])
        measured[
            f"PGD, {settings['num_steps']} steps of {settings['step_size']:g}, {settings['restarts']} restarts; {first}"
        ] = _percent(results["pgd"])
        if "auto_attack" in results:
            measured[f"`auto_attack`, {settings['num_steps']} steps; {first}"] = _percent(results["auto_attack"])
    else:
        error = results["error"]
        measured[f"mean squared error a pixel, noise of variance {error['sigma2']:.4g}"] = _mean(error)
        measured["that of the noise itself"] = f"{results['error_of_noise']:.5f}"
        named = f"classifier {about['classifier'][:_DIGITS]}" if about["classifier"] else ""
        for name, title in (
            ("accuracy_bare", "{} on clean images"),
            ("accuracy_clean", "{} on reconstructions of clean images"),
            ("accuracy_bare_noisy", "{} on noisy images"),
            ("accuracy_noisy", "{} on reconstructions of noisy images"),
        ):
            if name in results:
                measured[title.format(named)] = _percent(results[name])
    where = record["measured"]
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in shown.items()), ""]
    lines += [f"Measured on {about['data']['name']}, with 95% intervals:", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in measured.items()]
    lines += ["", f"Measured {where['date'][:10]} by `python -m bench.cards`, commit {where['environment']['commit']}."]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    try:
        options = parse(arguments)
        text = card(measure_card(options))
        if options.card is not None:
            atomic_write(options.card, text)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
