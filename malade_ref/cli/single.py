"""The single steps on files: ``malade train``, ``attack``, ``purify`` and ``predict``."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.arrays import Array
from malade_ref.checkpoint import load, save
from malade_ref.checks import InputError, check_count, check_number
from malade_ref.cli.backends import add_backend, backend_ops
from malade_ref.cli.console import Meter, duration, say
from malade_ref.cli.files import HELP, check_free, check_new, read_images, write_arrays
from malade_ref.defence import MALADE
from malade_ref.experiment.config import BUILDERS, PRESETS, Method, Model, available_attacks, check_method
from malade_ref.experiment.models import objective_of
from malade_ref.experiment.reading import parse_change
from malade_ref.experiment.stages import run_attack
from malade_ref.network import Network
from malade_ref.sampling import ChainSettings, run_chain
from malade_ref.statistics import wilson
from malade_ref.training import OPTIMIZERS, SCHEDULES, fit

# Images that are worked on between two looks at the clock.
BLOCK = 100


def add_commands(commands: Any) -> None:
    """Add ``train``, ``attack``, ``purify`` and ``predict``.

    Parameters
    ----------
    commands : argparse subparsers
        Where to.
    """
    _add_train(commands)
    attack = commands.add_parser("attack", help="attack a model's images", allow_abbrev=False)
    attack.add_argument("method", metavar="METHOD", help=", ".join(available_attacks()))
    add_input(attack)
    attack.add_argument("--eps", type=float, help="size of the perturbation")
    attack.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another setting of the attack, such as num_steps=100; may be given several times",
    )
    attack.add_argument("--seed", type=int, default=0, help="of the attacker's noise")
    attack.add_argument("--out", required=True, metavar="FILE", help=".npz or .h5: x (adversarial), y, success, ...")
    _add_model(attack)
    attack.set_defaults(command=_attack)

    purify = commands.add_parser("purify", help="send images through a Langevin chain", allow_abbrev=False)
    add_input(purify)
    _add_chain(purify, required=True)
    purify.add_argument("--out", required=True, metavar="FILE", help=".npy, .npz or .h5: x (purified), and y")
    purify.set_defaults(command=_purify)

    predict = commands.add_parser("predict", help="classify images", allow_abbrev=False)
    add_input(predict)
    predict.add_argument("--num-draws", type=int, default=1, help="draws of the chain whose mean logits decide")
    predict.add_argument("--out", metavar="FILE", help=".npy, .npz or .h5: predictions (and logits)")
    _add_model(predict)
    predict.set_defaults(command=_predict)


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a classifier or a denoiser", allow_abbrev=False)
    train.add_argument("kind", choices=tuple(BUILDERS), help="what to train")
    add_input(train)
    train.add_argument("--out", required=True, metavar="FILE", help="the network, by custom *.h5")
    train.add_argument("--validation", metavar="INPUT", help="images to look at after each epoch")
    train.add_argument("--preset", choices=PRESETS, default="paper", help="size of the network")
    train.add_argument("--init", metavar="MODEL", help="network to start from")
    train.add_argument("--epochs", type=int, default=3)
    train.add_argument("--batch-size", type=int, default=128)
    train.add_argument("--learning-rate", type=float, default=1e-3, help="peak of the schedule")
    train.add_argument("--schedule", choices=SCHEDULES, default="one-cycle")
    train.add_argument("--optimizer", choices=OPTIMIZERS, default="adam")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--sigma2", type=float, default=0.15, help="denoiser: variance of the noise")
    train.add_argument("--classifier", metavar="MODEL", help="denoiser: the classifier it is to protect (sDAE)")
    train.add_argument("--ce-weight", type=float, default=1.0, help="sDAE: weight of the classifier's cross entropy")
    train.add_argument("--adversarial", metavar="METHOD", help="classifier: attack to train on, such as pgd")
    train.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="setting of that attack, such as eps=0.3; may be given several times",
    )
    train.add_argument("--checkpoint-every", type=float, default=20.0, metavar="SECONDS", help="how often to save")
    train.add_argument("--resume", action="store_true", help="go on with an interrupted training of the same settings")
    train.set_defaults(command=_train)


def add_input(command: argparse.ArgumentParser) -> None:
    """Add what a command reads, and with which backend it works.

    Parameters
    ----------
    command : argparse.ArgumentParser
        Where to.
    """
    command.add_argument("input", metavar="INPUT", help=HELP)
    command.add_argument("--labels", metavar="FILE", help="labels, if INPUT holds none")
    command.add_argument("--data-dir", metavar="DIR", help="where to look for data sets first")
    add_backend(command)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", required=True, metavar="MODEL", help="the classifier, from malade train or a bundle"
    )
    _add_chain(command, required=False)


def _add_chain(command: argparse.ArgumentParser, *, required: bool) -> None:
    chain = command.add_argument_group("the chain" + ("" if required else " in front of the classifier, if any"))
    chain.add_argument("--denoiser", metavar="MODEL", required=required)
    chain.add_argument("--chain-steps", type=int, metavar="N", required=required, help="steps of the chain")
    chain.add_argument("--a", type=float, required=required, help="step on the residual, alpha / sigma^2")
    chain.add_argument("--delta", type=float, required=required, help="noise, in pixel units")
    chain.add_argument("--no-clip", action="store_true", help="do not clip to [0, 1] after every step")
    chain.add_argument("--chain-seed", type=int, default=0, help="of the chain's noise")


# Training ------------------------------------------------------------------------------------------------------------


def _train(arguments: argparse.Namespace) -> int:
    out = Path(arguments.out)
    partial = out.with_name(f"{out.name}.partial")
    if arguments.resume and out.exists():
        load(out)
        partial.unlink(missing_ok=True)
        say(f"{out}: finished already, nothing was left to do")
        return 0
    check_free(arguments.out)
    if partial.exists() and not arguments.resume:
        raise InputError(f"{partial}: an interrupted training; pass --resume to go on with it, or delete it")
    model = _model_table(arguments)
    ops = backend_ops(arguments.backend)
    networks = {name: load(name, ops=ops) for name in (model.init, model.classifier) if name is not None}
    start = networks[model.init] if model.init else BUILDERS[model.kind](model.preset, seed=arguments.seed, ops=ops)
    check_kind(start, model.kind, "--init")
    if model.classifier is not None:
        check_kind(networks[model.classifier], "classifier", "--classifier")
    classes = start.num_classes if model.kind == "classifier" else 1 << 31
    protected = networks[model.classifier].num_classes if model.classifier else classes
    options = {"shape": start.input_shape, "num_classes": min(classes, protected), "data_dir": arguments.data_dir}
    x, y = read_images(arguments.input, labels=arguments.labels, **options)
    y = needed_labels(
        y, arguments.input, needed=model.kind == "classifier" or model.classifier is not None, count=len(x)
    )
    validation = None
    if arguments.validation:
        images = read_images(arguments.validation, **options)
        needed = model.kind == "classifier" or model.classifier is not None
        y_validation = needed_labels(images.y, arguments.validation, needed=needed, count=len(images.x))
        validation = ops.asarray(images.x), ops.asarray(y_validation)
    say(f"training a {model.kind} ({start.num_parameters:,} parameters) on {len(x):,} images, into {out}")
    began, meter = time.monotonic(), Meter(f"train {out.name}")
    try:
        fitted = fit(
            start,
            objective_of(model, networks),
            ops.asarray(x),
            ops.asarray(y),
            epochs=model.epochs,
            batch_size=model.batch_size,
            learning_rate=model.learning_rate,
            schedule=model.schedule,
            optimizer=model.optimizer,
            validation=validation,
            seed=arguments.seed,
            checkpoint=partial,
            checkpoint_every=arguments.checkpoint_every,
            progress=meter,
        )
    except KeyboardInterrupt:
        words = shlex.join(["malade", *(word for word in arguments.argv if word != "--resume"), "--resume"])
        raise KeyboardInterrupt(f"what was done is kept; go on with: {words}") from None
    finally:
        meter.close()
    save(fitted.network, out)
    partial.unlink(missing_ok=True)
    last = {name: values[-1] for name, values in fitted.history.items() if name not in ("epoch", "learning_rate")}
    say(
        f"done in {duration(time.monotonic() - began)}: "
        + ", ".join(f"{name} {value:.4g}" for name, value in last.items())
    )
    say(f"network: {out}")
    return 0


def _model_table(arguments: argparse.Namespace) -> Model:
    """The model as an experiment's file would describe it, with paths in place of names."""
    adversarial = None
    if arguments.adversarial is not None:
        if arguments.kind != "classifier":
            raise InputError("--adversarial: only classifiers can be trained on attacks; leave it out")
        adversarial = _method(arguments.adversarial, arguments.changes, training=True)
    elif arguments.changes:
        raise InputError("--set: has no meaning without --adversarial; add it or leave it out")
    if arguments.classifier is not None and arguments.kind != "denoiser":
        raise InputError("--classifier: only denoisers protect a classifier; leave it out")
    return Model(
        kind=arguments.kind,
        preset=arguments.preset,
        epochs=check_count("--epochs", arguments.epochs),
        batch_size=check_count("--batch-size", arguments.batch_size),
        learning_rate=check_number("--learning-rate", arguments.learning_rate, above=0),
        schedule=arguments.schedule,
        optimizer=arguments.optimizer,
        init=arguments.init,
        adversarial=adversarial,
        sigma2=check_number("--sigma2", arguments.sigma2, above=0),
        classifier=arguments.classifier,
        ce_weight=check_number("--ce-weight", arguments.ce_weight, minimum=0),
    )


def needed_labels(y: NDArray[np.int64] | None, source: str, *, needed: bool, count: int) -> NDArray[np.int64]:
    """Labels of images that were read.

    Parameters
    ----------
    y : ndarray of shape (n,), int64, or None
        As they were read.
    source : str
        Where from, for the complaint.
    needed : bool
        Whether there must be any.
    count : int
        How many images there are.

    Returns
    -------
    ndarray of shape (n,), int64
        The labels; zeros if there are none and none are needed.

    Raises
    ------
    InputError
        If they are needed and missing.
    """
    if y is None and needed:
        raise InputError(f"{source}: has no labels; name a file of labels with --labels")
    return np.zeros(count, dtype=np.int64) if y is None else y


def _method(name: str, changes: list[str], *, training: bool = False) -> Method:
    settings = {}
    for change in changes:
        keys, value = parse_change(change)
        settings[".".join(keys)] = value
    method = Method(method=name, settings=settings)
    check_method(method, "--set", training=training)
    return method


# With a model --------------------------------------------------------------------------------------------------------


def _attack(arguments: argparse.Namespace) -> int:
    changes = arguments.changes + ([f"eps={arguments.eps!r}"] if arguments.eps is not None else [])
    method = _method(arguments.method, changes)
    out = check_new(arguments.out)
    if out.suffix == ".npy":
        raise InputError(f"--out {out}: an attack has several results; choose .npz or .h5")
    model = _model(arguments)
    x, labels = read_images(arguments.input, **_options(model, arguments))
    y = needed_labels(labels, arguments.input, needed=True, count=len(x))

    def work(part: slice, index: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        asarray = model.ops.asarray
        return run_attack(
            method, model, asarray(x[part]), asarray(y[part]), sample_index=asarray(index), seed=arguments.seed
        )

    say(f"{arguments.method} on {len(x):,} images of {arguments.input}, into {out}")
    found = _in_blocks(arguments.method, len(x), work)
    write_arrays(out, {"x": found.pop("x_adv"), "y": y, **found})
    rate = wilson(int(found["success"].sum()), len(y))
    say(f"the attack succeeds on {100 * rate.value:.1f}% [{100 * rate.low:.1f}, {100 * rate.high:.1f}]")
    say(f"mean distance {found['distance'].mean():.4g}; adversarial images: {out}")
    return 0


def _purify(arguments: argparse.Namespace) -> int:
    out = check_new(arguments.out)
    ops = backend_ops(arguments.backend)
    denoiser = load(arguments.denoiser, ops=ops)
    check_kind(denoiser, "denoiser", "--denoiser")
    settings = ChainSettings(
        check_count("--chain-steps", arguments.chain_steps, minimum=0),
        check_number("--a", arguments.a, above=0),
        check_number("--delta", arguments.delta, minimum=0),
        not arguments.no_clip,
    )
    key = ops.derive_key(check_count("--chain-seed", arguments.chain_seed, minimum=0), "defence")
    x, y = read_images(
        arguments.input, labels=arguments.labels, shape=denoiser.input_shape, data_dir=arguments.data_dir
    )

    def work(part: slice, index: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        start, numbers = ops.asarray(x[part]), ops.asarray(index)

        def of_slice(inner: slice) -> Array:
            return run_chain(start[inner], denoiser, settings, key=key, sample_index=numbers[inner])[-1]

        return {"x": ops.to_host(ops.concatenate(ops.map_slices(of_slice, len(index))))}

    say(f"purifying {len(x):,} images of {arguments.input}, into {out}")
    found = _in_blocks("purify", len(x), work)
    write_arrays(out, {**found, **({} if y is None else {"y": y})})
    say(f"mean distance (L2) {np.sqrt(((found['x'] - x) ** 2).sum(axis=(1, 2, 3))).mean():.4g}; purified images: {out}")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    out = check_new(arguments.out) if arguments.out else None
    model = _model(arguments)
    num_draws = check_count("--num-draws", arguments.num_draws)
    x, y = read_images(arguments.input, **_options(model, arguments))

    def work(part: slice, index: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        to_host, asarray = model.ops.to_host, model.ops.asarray
        draws = {"num_draws": num_draws, "sample_index": asarray(index)} if model.stochastic else {}
        logits = model.logits(asarray(x[part]), **draws)
        return {"logits": to_host(logits), "predictions": to_host(model.ops.argmax(logits))}

    found = _in_blocks("predict", len(x), work)
    logits, predictions = found["logits"], found["predictions"]
    if out is not None:
        write_arrays(out, {"predictions": predictions, "logits": logits})
        say(f"predictions: {out}")
    if y is not None:
        rate = wilson(int((predictions == y).sum()), len(y))
        interval = f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
        say(f"accuracy {100 * rate.value:.2f}% {interval} on {len(y):,} images of {arguments.input}")
    elif out is None:
        say(" ".join(map(str, predictions.tolist())))
    return 0


def _model(arguments: argparse.Namespace) -> Any:
    """The classifier, behind a chain if there is a denoiser."""
    ops = backend_ops(arguments.backend)
    classifier = load(arguments.model, ops=ops)
    check_kind(classifier, "classifier", "--model")
    chain = {"--chain-steps": arguments.chain_steps, "--a": arguments.a, "--delta": arguments.delta}
    given = [name for name, value in chain.items() if value is not None]
    if arguments.denoiser is None:
        if given:
            raise InputError(f"{given[0]}: has no meaning without --denoiser; add it or leave it out")
        return classifier
    if len(given) < len(chain):
        missing = [name for name in chain if name not in given]
        raise InputError(f"--denoiser: needs {' and '.join(missing)} too")
    denoiser = load(arguments.denoiser, ops=ops)
    check_kind(denoiser, "denoiser", "--denoiser")
    return MALADE(
        classifier,
        denoiser,
        num_steps=arguments.chain_steps,
        a=arguments.a,
        delta=arguments.delta,
        clip=not arguments.no_clip,
        seed=arguments.chain_seed,
    )


def check_kind(network: Network, kind: str, where: str) -> None:
    """Raise unless a network is what an option needs.

    Parameters
    ----------
    network : Network
        The network.
    kind : {"classifier", "denoiser"}
        What it should be.
    where : str
        The option, for the complaint.

    Raises
    ------
    InputError
        If it is something else.
    """
    found = "classifier" if len(network.output_shape) == 1 else "denoiser"
    if found != kind or (kind == "denoiser" and network.output_shape != network.input_shape):
        raise InputError(f"{where}: expected a {kind}, got a network {network.input_shape} -> {network.output_shape}")


def _options(model: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "shape": model.input_shape,
        "num_classes": model.num_classes,
        "labels": arguments.labels,
        "data_dir": arguments.data_dir,
    }


def _in_blocks(
    title: str, count: int, work: Callable[[slice, NDArray[np.int64]], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """Do something to images, some at a time; every image keeps its number, and so its noise."""
    meter = Meter(title)
    try:
        parts = []
        for part in _blocks(count):
            meter(part.start / count, f"image {part.start} of {count}")
            parts.append(work(part, np.arange(part.start, part.stop)))
    finally:
        meter.close()
    return {name: np.concatenate([found[name] for found in parts]) for name in parts[0]}


def _blocks(count: int) -> Iterator[slice]:
    for first in range(0, count, BLOCK):
        yield slice(first, min(first + BLOCK, count))
