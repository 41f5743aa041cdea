"""Compare denoisers for a data set: train each for one classifier, and measure what they do to noise and to accuracy.

    python -m bench.denoisers cnn.h5 --data cifar10 --out denoisers.json --table denoisers.md
    python -m bench.denoisers cnn.h5 --data cifar10 --preset paper --epochs 50 --network unet --out unet.json

Every denoiser is trained from the same images, with the same noise, in the same order, as an sDAE for the classifier
(--ce-weight 0: as a DAE), and then measured on test images that no training saw:

- its mean squared error a pixel at noisy images, beside that of the noise itself;
- how often the classifier is right about clean images, about r(x), and about x after a short chain; about noisy images,
  and about r(x) of these.

The networks lie in the folder FILE.networks beside the record, whose name --out gives. The same command, given again,
goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench import cards
from bench.cards import Progress, as_proportion, blocks, denoising
from malade_ref import MALADE, load, save
from malade_ref.bundle.environment import describe_environment
from malade_ref.checks import InputError, check_count, check_number
from malade_ref.datasets import Dataset, Split, load_dataset
from malade_ref.network import BUILDERS, PRESETS, Network, make, parameters_of
from malade_ref.ops import num_threads
from malade_ref.storage import atomic_write
from malade_ref.training import Denoising, Objective, SupervisedDenoising, fit

# Those that take images of any shape.
NETWORKS = tuple(name for name in BUILDERS["denoiser"] if "input_shape" in parameters_of("denoiser", name))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.denoisers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("classifier", type=Path, metavar="FILE.h5", help="the classifier that they are to protect")
    parser.add_argument("--out", type=Path, metavar="FILE.json", required=True, help="the record, to go on with too")
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="write the table there too; it is printed anyway")
    parser.add_argument("--network", action="append", choices=NETWORKS, help="only this one; repeat (default all)")
    parser.add_argument("--preset", choices=PRESETS, default="small", help="their size (default small)")
    parser.add_argument("--data", default="cifar10", help="a data set by name (default cifar10)")
    parser.add_argument("--data-dir", metavar="DIR", help="where to look for it first")
    parser.add_argument("--subset", type=int, help="training images, the first (default all)")
    parser.add_argument("--count", type=int, help="test images, the first (default all)")
    parser.add_argument("--sigma2", type=float, default=0.01, help="variance of the noise (default 0.01)")
    parser.add_argument("--ce-weight", type=float, default=1.0, help="of the classifier's cross entropy (default 1)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak of the one-cycle schedule")
    parser.add_argument("--chain-steps", type=int, default=5, help="of the short chain (default 5)")
    parser.add_argument("--a", type=float, default=0.2, help="its step on the residual (default 0.2)")
    parser.add_argument("--delta", type=float, default=0.01, help="its noise (default 0.01)")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, order and noise")
    options = parser.parse_args(arguments)
    for name in ("epochs", "batch_size", "chain_steps"):
        check_count(f"--{name.replace('_', '-')}", getattr(options, name))
    for name in ("subset", "count"):
        if getattr(options, name) is not None:
            check_count(f"--{name}", getattr(options, name))
    check_count("--seed", options.seed, minimum=0)
    for name, limits in (
        *(("sigma2", {"above": 0.0}), ("learning_rate", {"above": 0.0}), ("a", {"above": 0.0})),
        *(("ce_weight", {"minimum": 0.0}), ("delta", {"minimum": 0.0})),
    ):
        check_number(f"--{name.replace('_', '-')}", getattr(options, name), **limits)
    if options.table is not None and not options.table.parent.is_dir():
        raise InputError(f"--table: {options.table.parent} is not a folder; make it, or choose another")
    options.network = list(dict.fromkeys(options.network or NETWORKS))
    return options


def trained(name: str, classifier: Network, data: Dataset, options: argparse.Namespace) -> Network:
    """A denoiser, trained or as an earlier run left it."""
    folder = options.out.with_name(f"{options.out.stem}.networks")
    finished, checkpoint = folder / f"{name}.h5", folder / f"{name}.partial.h5"
    if finished.exists():
        return load(finished)
    sizes = {"preset": options.preset, "seed": options.seed}
    start = make("denoiser", name, data.shape, data.num_classes, **sizes)
    sigma = math.sqrt(options.sigma2)
    objective: Objective = Denoising(sigma)
    if options.ce_weight > 0:
        objective = SupervisedDenoising(sigma, classifier, options.ce_weight)
    folder.mkdir(exist_ok=True)
    part = slice(0, len(data.train) if options.subset is None else options.subset)
    shown = [time.monotonic()]

    def tell(fraction: float, line: str) -> None:
        if time.monotonic() > shown[0] + 30:
            shown[0] = time.monotonic()
            print(f"{name}: {fraction:.0%} {line}", flush=True)

    network = fit(
        start,
        objective,
        data.train.images(part),
        data.train.labels(part),
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        checkpoint=checkpoint,
        progress=tell,
    ).network
    save(network, finished)
    checkpoint.unlink(missing_ok=True)
    return network


def behind_a_chain(
    name: str, classifier: Network, denoiser: Network, test: Split, options: argparse.Namespace, progress: Progress
) -> dict[str, Any]:
    """Accuracy on clean images that first walk through a short chain, one draw of its noise each."""
    settings = {"num_steps": options.chain_steps, "a": options.a, "delta": options.delta, "seed": options.seed}
    defended = MALADE(classifier, denoiser, **settings)

    def measure(part: slice) -> dict[str, Any]:
        answers = defended.predict(test.images(part), sample_index=np.arange(part.start, part.stop))
        return {"right": int((answers == test.labels(part)).sum())}

    found = [
        progress.measured(f"{name}: chain", f"{part.start}-{part.stop - 1}", lambda part=part: measure(part))  # type: ignore[misc]
        for part in blocks(options.count, cards.CLEAN_BLOCK)
    ]
    return as_proportion(sum(block["right"] for block in found), options.count)


def seconds_an_image(denoiser: Network, x: Any) -> dict[str, float]:
    """The least CPU time of a pass forward, and of one there and back to the image, on all threads together."""

    def there() -> None:
        denoiser.forward(x)

    def there_and_back() -> None:
        y, tape = denoiser.forward(x)
        denoiser.backward(tape, y)

    found = {}
    for name, run in (("forward", there), ("forward_and_gradient", there_and_back)):
        times = []
        for _ in range(4):
            start = time.process_time()
            run()
            times.append((time.process_time() - start) / len(x))
        found[name] = min(times[1:])
    return found


class _Part(Progress):
    """A record's blocks, under names of their own for each denoiser."""

    def __init__(self, whole: Progress, name: str) -> None:
        self.path, self.record, self.name = whole.path, whole.record, name

    def measured(self, part: str, block: str, measure: Any) -> dict[str, Any]:
        return super().measured(f"{self.name}: {part}", block, measure)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure all of them."""
    classifier = load(options.classifier)
    data = load_dataset(options.data, data_dir=options.data_dir)
    if classifier.input_shape != data.shape or len(classifier.output_shape) != 1:
        raise InputError(
            f"{options.classifier}: expected a classifier of images of shape {data.shape}, those of {data.name}; got a "
            f"network {classifier.input_shape} -> {classifier.output_shape}; choose another file"
        )
    if classifier.num_classes < data.num_classes:
        raise InputError(
            f"{options.classifier}: knows {classifier.num_classes} classes, {data.name} has {data.num_classes}; "
            "choose another file"
        )
    options.count = len(data.test) if options.count is None else min(options.count, len(data.test))
    options.subset = len(data.train) if options.subset is None else min(options.subset, len(data.train))
    names = ("preset", "subset", "count", "sigma2", "ce_weight", "epochs", "batch_size", "learning_rate")
    names += ("chain_steps", "a", "delta", "seed")
    about: dict[str, Any] = {
        "classifier": {"file": options.classifier.name, "fingerprint": classifier.fingerprint()},
        "networks": options.network,
        "data": {"name": data.name, "train_sha256": data.train.sha256(), "test_sha256": data.test.sha256()},
        "settings": {name: getattr(options, name) for name in names},
    }
    progress = Progress(options.out, about)
    progress.write()
    results: dict[str, Any] = {}
    for name in options.network:
        part = _Part(progress, name)

        def train(name: str = name) -> dict[str, Any]:
            network = trained(name, classifier, data, options)
            steps = seconds_an_image(network, data.test.images(slice(0, min(16, len(data.test)))))
            return {"parameters": network.num_parameters, "fingerprint": network.fingerprint(), **steps}

        made = part.measured("training", "all", train)
        denoiser = trained(name, classifier, data, options)
        if denoiser.fingerprint() != made["fingerprint"]:
            raise InputError(f"--out: the network {name} beside it is another than that of the record; delete both")
        found = denoising(denoiser, classifier, data.test, math.sqrt(options.sigma2), options.count, options, part)
        found["accuracy_chain"] = behind_a_chain(name, classifier, denoiser, data.test, options, progress)
        results[name] = {**made, "training_seconds": made["seconds"], **found}
    progress.record |= {
        "results": results,
        "measured": {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": describe_environment(),
            "threads": num_threads(),
        },
    }
    progress.write()
    return progress.record


def table(record: Mapping[str, Any]) -> str:
    """The comparison in Markdown, of nothing but what the record holds."""
    about, results, where = record["about"], record["results"], record["measured"]
    settings, environment = about["settings"], where["environment"]
    first = next(iter(results.values()))
    objective = f"sDAE, cross entropy times {settings['ce_weight']:g}" if settings["ce_weight"] else "DAE"
    packages = ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items())
    lines = [
        f"# Denoisers on {about['data']['name']}",
        "",
        f"{objective}, noise of variance {settings['sigma2']:g}, preset {settings['preset']}; {settings['subset']:,} "
        f"training images, {settings['epochs']} epochs, batch {settings['batch_size']}, learning rate "
        f"{settings['learning_rate']:g}, seed {settings['seed']}. Measured on {settings['count']:,} test images; "
        "errors are mean squares a pixel, accuracies in percent with 95% intervals. The chain has "
        f"{settings['chain_steps']} steps, a = {settings['a']:g}, delta = {settings['delta']:g}.",
        "",
        f"The noise itself: error {first['error_of_noise']:.5f}. The bare classifier ({about['classifier']['file']}): "
        f"{_percent(first['accuracy_bare'])} on clean images, {_percent(first['accuracy_bare_noisy'])} on noisy ones.",
        "",
        "| denoiser | parameters | training, min | ms an image, forward | with gradient | error | clean: r(x) | "
        "clean: chain | noisy: r(x) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        error = found["error"]
        cells = [
            *(name, f"{found['parameters']:,}", f"{found['training_seconds'] / 60:.1f}"),
            *(f"{1e3 * found[key]:.2f}" for key in ("forward", "forward_and_gradient")),
            f"{error['mean_squared']:.5f} [{error['low']:.5f}, {error['high']:.5f}]",
            *(_percent(found[f"accuracy_{key}"]) for key in ("clean", "chain", "noisy")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    device = environment.get("device", {}).get("name") or "CPU"
    lines += [
        "",
        f"Measured {where['date'][:10]} by `python -m bench.denoisers` on {device} ({environment.get('processor')}, "
        f"{where['threads']} threads; the times an image are CPU time), {environment.get('python')}, {packages}, "
        f"commit {environment.get('commit') or 'unknown'}.",
    ]
    return "\n".join(lines) + "\n"


def _percent(value: Mapping[str, Any]) -> str:
    return f"{100 * value['accuracy']:.2f} [{100 * value['low']:.2f}, {100 * value['high']:.2f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    try:
        options = parse(arguments)
        text = table(compare(options))
        if options.table is not None:
            atomic_write(options.table, text)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
