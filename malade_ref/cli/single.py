"""The single steps on files: ``malade train``, ``attack``, ``purify`` and ``predict``.

What takes long is kept block by block (a training: now and then) beside the result, so that ``--resume`` goes on with
an interrupted computation and ends with the same bits. Images are answered in the order of their source.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.arrays import Array
from malade_ref.checkpoint import load, save
from malade_ref.checks import InputError, check_count, check_number, check_work
from malade_ref.classes import class_names_of, with_class_names
from malade_ref.cli.backends import add_backend, backend_ops
from malade_ref.cli.console import Meter, duration, number, numbers, say
from malade_ref.cli.data import add_conversion
from malade_ref.cli.files import HELP, Images, check_free, check_new, fingerprint_of_model, read_images
from malade_ref.cli.kept import Kept, check_question, in_blocks, interruptible, partial_of
from malade_ref.datasets.from_images import parse_conversion
from malade_ref.datasets.incoming import MAX_CLASSES
from malade_ref.defence import MALADE
from malade_ref.experiment.config import (
    OBJECTIVES,
    Augment,
    Method,
    Model,
    available_attacks,
    check_method,
    check_training,
)
from malade_ref.experiment.models import objective_of
from malade_ref.experiment.reading import parse_change
from malade_ref.experiment.stages import run_attack
from malade_ref.network import BUILDERS, PRESETS, Network, channel_statistics, fitting, make, parameters_of
from malade_ref.sampling import ChainSettings, run_chain
from malade_ref.statistics import wilson
from malade_ref.training import OPTIMIZERS, SCHEDULES, fit, training_settings
from malade_ref.training_options import Options

# Images that are worked on, and kept, together. Attacks take long: on a CPU their blocks are small, in two slices.
BLOCK = 100
# Images on which a model is tried before long work.
FIRST_USE = 8
BLOCK_OF_ATTACK = {"ref": 16, "gpu": 256}
KEPT_ARRAYS = "index, and names of files and classes if there are any"


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
    attack.add_argument("--eps", type=number, help="size of the perturbation, such as 0.3 or 8/255")
    attack.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another setting of the attack, such as num_steps=100; may be given several times",
    )
    attack.add_argument("--seed", type=int, default=0, help="of the attacker's noise")
    attack.add_argument(
        "--out", required=True, metavar="FILE", help=f".npz or .h5: x (adversarial), y, success, ..., {KEPT_ARRAYS}"
    )
    _add_blocks(attack, "16 with --backend ref, 256 with gpu")
    _add_model(attack)
    attack.set_defaults(command=_attack)

    purify = commands.add_parser("purify", help="send images through a Langevin chain", allow_abbrev=False)
    add_input(purify)
    add_chain(purify, required=True)
    purify.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help=f".npy: x (purified); .npz or .h5: x, distance (L2), y, {KEPT_ARRAYS}",
    )
    _add_blocks(purify, str(BLOCK))
    purify.set_defaults(command=_purify)

    predict = commands.add_parser("predict", help="classify images", allow_abbrev=False)
    add_input(predict)
    predict.add_argument("--num-draws", type=int, default=1, help="draws of the chain whose mean logits decide")
    predict.add_argument(
        "--out",
        metavar="FILE",
        help=f".csv: file, class, prediction and probability; .npy: predictions; .npz or .h5: predictions, logits, y, "
        f"{KEPT_ARRAYS}",
    )
    _add_blocks(predict, str(BLOCK))
    _add_model(predict)
    predict.set_defaults(command=_predict)


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a classifier or a denoiser", allow_abbrev=False)
    train.add_argument("kind", choices=tuple(BUILDERS), help="what to train")
    add_input(train)
    train.add_argument("--out", required=True, metavar="FILE", help="the network, by custom *.h5")
    train.add_argument("--validation", metavar="INPUT", help="images to look at after each epoch")
    train.add_argument(
        "--network",
        choices=[name for builders in BUILDERS.values() for name in builders],
        help="which network; by default the paper's of its kind for grey images of 28 x 28, for others cifar-resnet, "
        "unet (dncnn, if the sides are no multiples of 4)",
    )
    train.add_argument(
        "--preset",
        choices=PRESETS,
        help="size of the network; paper by default, and small for one chosen by the images",
    )
    train.add_argument("--depth", type=int, help="layers of the network in place of the preset's, if it has a depth")
    train.add_argument("--width", type=int, help="its width in place of the preset's, likewise")
    train.add_argument("--init", metavar="MODEL", help="network to start from")
    train.add_argument("--epochs", type=int, default=3)
    train.add_argument("--batch-size", type=int, default=128)
    train.add_argument("--learning-rate", type=float, default=1e-3, help="peak of the schedule")
    train.add_argument("--schedule", choices=SCHEDULES, default="one-cycle")
    train.add_argument("--optimizer", choices=OPTIMIZERS, default="adam")
    train.add_argument("--seed", type=int, default=0)
    noise = train.add_mutually_exclusive_group()
    noise.add_argument("--sigma", type=number, help="denoiser: standard deviation of the noise")
    noise.add_argument("--sigma2", type=number, help="the same by its square, the variance; 0.15 by default")
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
    _add_training(train)
    train.add_argument("--checkpoint-every", type=float, default=20.0, metavar="SECONDS", help="how often to save")
    train.add_argument("--resume", action="store_true", help="go on with an interrupted training of the same settings")
    train.set_defaults(command=_train)


def _add_training(train: argparse.ArgumentParser) -> None:
    """What the paper's trainings do not have; see ``malade_ref/training_options.py``."""
    more = train.add_argument_group("what else a training may do")
    more.add_argument(
        "--augment-pad", type=int, default=0, metavar="N", help="random crops of images padded by N pixels"
    )
    more.add_argument("--augment-flip", action="store_true", help="mirror half of the images, left to right")
    more.add_argument("--weight-decay", type=number, default=0.0, help="L2 penalty with sgd, decoupled with adam")
    more.add_argument("--momentum", type=number, default=Options.momentum, help="of sgd; 0.9 by default")
    more.add_argument("--clip-norm", type=number, metavar="C", help="longest gradient, over all parameters")
    more.add_argument(
        "--averaging", type=number, metavar="D", help="decay of the weights' average, which is the result"
    )
    more.add_argument(
        "--milestones",
        type=numbers,
        metavar="F,F,...",
        help="piecewise: shares of the steps after which the rate falls",
    )
    more.add_argument(
        "--factor", type=number, default=Options.factor, help="piecewise: by what it falls; 0.1 by default"
    )
    more.add_argument(
        "--label-smoothing", type=number, default=0.0, metavar="S", help="classifier: share of the labels"
    )
    more.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="classifier: what is made of --adversarial ascent; clp needs --noise alone",
    )
    more.add_argument("--beta", type=number, default=6.0, help="trades: weight of the divergence; 6 by default")
    more.add_argument("--pairing-weight", type=number, default=0.5, help="alp, clp: weight; 0.5 by default")
    more.add_argument("--noise", type=number, help="clp: standard deviation, in pixel units")
    more.add_argument("--ramp", type=int, default=0, metavar="N", help="epochs over which eps and step size grow")


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
    add_conversion(command)
    add_backend(command)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", required=True, metavar="MODEL", help="the classifier, from malade train or a bundle"
    )
    add_chain(command, required=False)


def _add_blocks(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help=f"images that are worked on, and kept, together; by default {default}",
    )
    command.add_argument(
        "--resume", action="store_true", help="go on with an interrupted computation of the same settings"
    )


def add_chain(command: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the settings of a chain.

    Parameters
    ----------
    command : argparse.ArgumentParser
        Where to.
    required : bool
        Whether there must be one.
    """
    chain = command.add_argument_group("the chain" + ("" if required else " in front of the classifier, if any"))
    chain.add_argument("--denoiser", metavar="MODEL", required=required)
    chain.add_argument("--chain-steps", type=int, metavar="N", required=required, help="steps of the chain")
    chain.add_argument("--a", type=number, required=required, help="step on the residual, alpha / sigma^2")
    chain.add_argument("--delta", type=number, required=required, help="noise, in pixel units")
    chain.add_argument("--no-clip", action="store_true", help="do not clip to [0, 1] after every step")
    chain.add_argument("--chain-seed", type=int, default=0, help="of the chain's noise")


# Training ------------------------------------------------------------------------------------------------------------


def _train(arguments: argparse.Namespace) -> int:
    out = check_free(arguments.out, resume=arguments.resume)
    partial = partial_of(out)
    if partial.exists() and not arguments.resume:
        raise InputError(f"{partial}: an interrupted training; pass --resume to go on with it, or delete it")
    with interruptible(arguments, partial):
        return _trained(arguments, out, partial)


def _trained(arguments: argparse.Namespace, out: Path, partial: Path) -> int:
    finished = load(out) if out.exists() else None
    model = _model_table(arguments)
    ops = backend_ops(arguments.backend)
    networks = {name: load(name, ops=ops) for name in (model.init, model.classifier) if name is not None}
    start = networks[model.init] if model.init else _new_network(arguments, ops)
    check_kind(start, model.kind, "--init")
    if model.classifier is not None:
        check_kind(networks[model.classifier], "classifier", "--classifier")
    labelled = model.kind == "classifier" or model.classifier is not None
    # Whose classes the labels are: those of the classifier that is asked; a new one takes those of the data.
    classifier_file = model.classifier or (model.init if model.kind == "classifier" else None)
    classifier = networks[classifier_file] if classifier_file else start
    options: dict[str, Any] = {
        "shape": start.input_shape,
        "num_classes": classifier.num_classes if labelled else 1 << 31,
        "data_dir": arguments.data_dir,
        "class_names": class_names_of(classifier, str(classifier_file)) if labelled and classifier_file else None,
        "own_labels": not (labelled and classifier_file),
        "convert": parse_conversion(arguments.resize, arguments.convert),
        "unlabelled": not labelled or arguments.labels is not None,
        "model": str(classifier_file),
    }
    images = opened(arguments.input, labels=arguments.labels, split="train", training=True, **options)
    x, y = images
    y = needed_labels(y, arguments.input, needed=labelled, count=len(x))
    if model.kind == "classifier" and images.class_names is not None:
        start = with_class_names(start, images.class_names)
    validation = None
    if arguments.validation:
        options |= {"class_names": images.class_names, "model": images.source} if labelled else {}
        looked_at = opened(arguments.validation, split="validation", **options)
        y_validation = needed_labels(looked_at.y, arguments.validation, needed=labelled, count=len(looked_at))
        validation = ops.asarray(looked_at.x), ops.asarray(y_validation)
    objective, data = objective_of(model, networks), (ops.asarray(x), ops.asarray(y))
    further = model.options()
    if further.robust_check is not None and validation is None:
        raise InputError("--objective fast: watches the accuracy under attack; name images for it with --validation")
    settings: dict[str, Any] = {
        "options": further,
        "epochs": model.epochs,
        "batch_size": model.batch_size,
        "learning_rate": model.learning_rate,
        "schedule": model.schedule,
        "optimizer": model.optimizer,
        "seed": arguments.seed,
    }
    if finished is not None:
        made = finished.metadata.get("training")
        if not isinstance(made, dict):
            raise InputError(f"{out}: does not say how it was trained; choose another --out, or delete it")
        made = {**made, "class_names": finished.metadata.get("class_names")}
        made.pop("steps", None)
        asked = training_settings(start, objective, *data, **settings)
        check_question(out, made, {**asked, "class_names": start.metadata.get("class_names")}, "was trained")
        partial.unlink(missing_ok=True)
        say(f"{out}: finished already, nothing was left to do")
        return 0
    say(f"training a {model.kind} ({start.num_parameters:,} parameters) on {len(x):,} images, into {out}")
    began, meter = time.monotonic(), Meter(f"train {out.name}")
    try:
        fitted = fit(
            start,
            objective,
            *data,
            validation=validation,
            checkpoint=partial,
            checkpoint_every=arguments.checkpoint_every,
            progress=meter,
            **settings,
        )
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


def _new_network(arguments: argparse.Namespace, ops: ModuleType) -> Network:
    """The network that a training starts from; one that takes any images is made for those that are given."""
    kind, name = arguments.kind, arguments.network
    shape: tuple[int, ...] = (1, 28, 28)
    num_classes = 0
    parameters = parameters_of(kind, name)
    if name is None or "input_shape" in parameters or "num_classes" in parameters:
        options = {"labels": arguments.labels, "data_dir": arguments.data_dir, "split": "train", "training": True}
        convert = parse_conversion(arguments.resize, arguments.convert)
        options["unlabelled"] = kind == "denoiser" or arguments.labels is not None
        any_shape = name is None or "input_shape" in parameters
        taken = None if any_shape else shape
        images = read_images(arguments.input, shape=taken, own_labels=True, convert=convert, **options)
        shape = images.shape
        if name is None and fitting(kind, shape) is not None:
            name = fitting(kind, shape)
            arguments.preset = arguments.preset or "small"
            parameters = parameters_of(kind, name)
            size = " x ".join(map(str, shape))
            say(f"--network {name} --preset {arguments.preset}, for images of {size} (channels, height, width)")
        if "num_classes" in parameters:
            y = needed_labels(images.y, arguments.input, needed=True, count=len(images))
            num_classes = max(len(images.class_names or ()), int(y.max()) + 1)
            if num_classes > MAX_CLASSES:
                raise InputError(f"{arguments.input}: y: expected labels in 0..{MAX_CLASSES - 1}, got {int(y.max())}")
        images.close()
    settings: dict[str, Any] = {
        "preset": arguments.preset or "paper",
        "depth": arguments.depth,
        "width": arguments.width,
    }
    if "normalize" in parameters:
        settings["normalize"] = channel_statistics(Path(arguments.input.partition(":")[0]).stem, shape[0])
    return make(kind, name, shape, num_classes, **settings, seed=arguments.seed, ops=ops)


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
    if arguments.network is not None and arguments.network not in BUILDERS[arguments.kind]:
        known = ", ".join(BUILDERS[arguments.kind])
        raise InputError(f"--network: {arguments.network} is no {arguments.kind}; choose one of {known}")
    augment = None
    if arguments.augment_pad or arguments.augment_flip:
        augment = Augment(
            pad=check_count("--augment-pad", arguments.augment_pad, minimum=0), flip=arguments.augment_flip
        )
    model = Model(
        augment=augment,
        momentum=check_number("--momentum", arguments.momentum, minimum=0, below=1),
        weight_decay=check_number("--weight-decay", arguments.weight_decay, minimum=0),
        clip_norm=_optional("--clip-norm", arguments.clip_norm, above=0),
        averaging=_optional("--averaging", arguments.averaging, minimum=0, below=1),
        milestones=Options.milestones if arguments.milestones is None else tuple(arguments.milestones),
        factor=check_number("--factor", arguments.factor, above=0),
        label_smoothing=check_number("--label-smoothing", arguments.label_smoothing, minimum=0, below=1),
        objective=arguments.objective,
        beta=check_number("--beta", arguments.beta, minimum=0),
        pairing_weight=check_number("--pairing-weight", arguments.pairing_weight, minimum=0),
        noise=_optional("--noise", arguments.noise, minimum=0),
        ramp=check_count("--ramp", arguments.ramp, minimum=0),
        kind=arguments.kind,
        network=arguments.network,
        preset=arguments.preset or "paper",
        depth=arguments.depth,
        width=arguments.width,
        epochs=check_work("--epochs", arguments.epochs),
        batch_size=check_count("--batch-size", arguments.batch_size),
        learning_rate=check_number("--learning-rate", arguments.learning_rate, above=0),
        schedule=arguments.schedule,
        optimizer=arguments.optimizer,
        init=arguments.init,
        adversarial=adversarial,
        sigma2=_variance(arguments),
        classifier=arguments.classifier,
        ce_weight=check_number("--ce-weight", arguments.ce_weight, minimum=0),
    )
    if model.ramp and (model.adversarial is None or model.ramp >= model.epochs):
        raise InputError("--ramp: expected less than --epochs, with --adversarial; change it or leave it out")
    check_training(model, "malade train")
    return model


def _optional(name: str, value: float | None, **limits: float) -> float | None:
    return None if value is None else check_number(name, value, **limits)


def _variance(arguments: argparse.Namespace) -> float:
    """The variance of the training noise."""
    if arguments.sigma is not None:
        # As in experiments: 0.1 gives 0.01.
        return float(f"{check_number('--sigma', arguments.sigma, above=0, maximum=1e6) ** 2:.15g}")
    return check_number("--sigma2", 0.15 if arguments.sigma2 is None else arguments.sigma2, above=0)


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
    out = _checked_out(arguments)
    if out.suffix == ".npy":
        raise InputError(f"--out {out}: an attack has several results; choose .npz or .h5")
    with interruptible(arguments, partial_of(out)):
        model = _model(arguments)
        size = _batch_size(arguments, BLOCK_OF_ATTACK[arguments.backend])
        _share_out(model, size)
        unlabelled = arguments.labels is not None
        images = opened(arguments.input, unlabelled=unlabelled, **options_of(model, arguments))
        y = needed_labels(images.y, arguments.input, needed=True, count=len(images))
        settings = _settings(arguments, images, "model", "denoiser")
        settings |= {"method": method.method, "settings": method.resolved(), "seed": arguments.seed}
        kept = Kept(out, {**settings, "batch_size": size}, len(images), size)
        if _finished(kept):
            return 0
        calls = _Calls(method.resolved().get("num_steps", 0))

        def work(x: NDArray[np.float32], part: slice, meter: Meter) -> dict[str, NDArray[Any]]:
            asarray, index = model.ops.asarray, np.arange(part.start, part.stop)
            with calls.told(model, meter, part, len(images)):
                return run_attack(
                    method, model, asarray(x), asarray(y[part]), sample_index=asarray(index), seed=arguments.seed
                )

        check_answers("--model", model.ops.to_host(model.logits(model.ops.asarray(next(images.blocks(FIRST_USE))))))
        say(f"{arguments.method} on {len(images):,} images of {images.source}, into {out}")
        in_blocks(arguments.method, images, work, size=size, kept=kept)
        names = ("success", "loss", "distance", "num_queries", "num_gradients")
        found = kept.finish(images, y, {"x_adv": "x", **{name: name for name in names}})
    rate = wilson(int(found["success"].sum()), len(y))
    say(f"the attack succeeds on {100 * rate.value:.1f}% [{100 * rate.low:.1f}, {100 * rate.high:.1f}]")
    say(f"mean distance {found['distance'].mean():.4g}; adversarial images: {out}")
    return 0


def _purify(arguments: argparse.Namespace) -> int:
    out = _checked_out(arguments)
    with interruptible(arguments, partial_of(out)):
        ops = backend_ops(arguments.backend)
        denoiser = load(arguments.denoiser, ops=ops)
        check_kind(denoiser, "denoiser", "--denoiser")
        chain = ChainSettings(
            check_work("--chain-steps", arguments.chain_steps, minimum=0),
            check_number("--a", arguments.a, above=0),
            check_number("--delta", arguments.delta, minimum=0),
            not arguments.no_clip,
        )
        key = ops.derive_key(check_count("--chain-seed", arguments.chain_seed, minimum=0), "defence")
        size = _batch_size(arguments, BLOCK)
        images = opened(
            arguments.input,
            labels=arguments.labels,
            shape=denoiser.input_shape,
            data_dir=arguments.data_dir,
            split="test",
            own_labels=True,
            unlabelled=True,
            convert=parse_conversion(arguments.resize, arguments.convert),
        )
        kept = Kept(out, {**_settings(arguments, images, "denoiser"), "batch_size": size}, len(images), size)
        if _finished(kept):
            return 0

        def work(x: NDArray[np.float32], part: slice, meter: Meter) -> dict[str, NDArray[Any]]:
            start, numbers = ops.asarray(x), ops.asarray(np.arange(part.start, part.stop))

            def of_slice(inner: slice) -> Array:
                return run_chain(start[inner], denoiser, chain, key=key, sample_index=numbers[inner])[-1]

            purified = ops.to_host(ops.concatenate(ops.map_slices(of_slice, len(x))))
            check_answers("--denoiser", purified, first=part.start)
            return {"x": purified, "distance": np.sqrt(((purified - x) ** 2).sum(axis=(1, 2, 3)))}

        say(f"purifying {len(images):,} images of {images.source}, into {out}")
        in_blocks("purify", images, work, size=size, kept=kept)
        found = kept.finish(images, images.y, {"x": "x", "distance": "distance"})
    say(f"mean distance (L2) {found['distance'].mean():.4g}; purified images: {out}")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    out = _checked_out(arguments, table=True) if arguments.out is not None else None
    if out is None and arguments.resume:
        raise InputError("--resume: nothing is kept without --out; add it or leave --resume out")
    with interruptible(arguments, partial_of(out or Path("nowhere"))):
        model = _model(arguments)
        num_draws = check_work("--num-draws", arguments.num_draws)
        size = _batch_size(arguments, BLOCK)
        options = options_of(model, arguments)
        images = opened(arguments.input, unlabelled=True, **options)
        if images.y is None:
            images.class_names = options["class_names"]
        kept = None
        if out is not None:
            settings = {**_settings(arguments, images, "model", "denoiser"), "num_draws": num_draws}
            kept = Kept(out, {**settings, "batch_size": size}, len(images), size)
            if _finished(kept):
                return 0

        def work(x: NDArray[np.float32], part: slice, meter: Meter) -> dict[str, NDArray[Any]]:
            to_host, asarray = model.ops.to_host, model.ops.asarray
            index = asarray(np.arange(part.start, part.stop))
            draws = {"num_draws": num_draws, "sample_index": index} if model.stochastic else {}
            logits = model.logits(asarray(x), **draws)
            check_answers("--model", to_host(logits), first=part.start)
            return {"predictions": to_host(model.ops.argmax(logits)), "logits": to_host(logits)}

        found = in_blocks("predict", images, work, size=size, kept=kept)
        if kept is not None:
            found = kept.finish(images, images.y, {"predictions": "predictions", "logits": "logits"})
            say(f"predictions: {out}")
    predictions, y = found["predictions"], images.y
    if y is not None:
        rate = wilson(int((predictions == y).sum()), len(y))
        interval = f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
        say(f"accuracy {100 * rate.value:.2f}% {interval} on {len(y):,} images of {images.source}")
    elif out is None:
        _say_predictions(images, found)
    return 0


def _say_predictions(images: Images, found: Mapping[str, NDArray[Any]]) -> None:
    """Tell what images without labels were taken for: of files a line each."""
    known = images.class_names or ()
    words = [known[label] if 0 <= label < len(known) else str(label) for label in found["predictions"].tolist()]
    if images.names is None:
        say(" ".join(words))
        return
    logits = found["logits"].astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    for name, word, probability in zip(images.names, words, odds.max(axis=1) / odds.sum(axis=1), strict=True):
        say(f"{name}: {word} ({100 * probability:.1f}%)")


def check_answers(option: str, answers: NDArray[Any], *, first: int = 0) -> None:
    """Refuse a network whose answers for images are NaN: they are no verdict.

    Parameters
    ----------
    option : str
        What the network was given as.
    answers : ndarray of shape (n, ...)
        Logits, or images.
    first : int
        Number of the first image.
    """
    broken = np.isnan(answers).reshape(len(answers), -1).any(axis=1)
    if broken.any():
        raise InputError(
            f"{option}: the network answers NaN for image {first + int(broken.argmax())}, as numbers overflow in it; "
            "take another network"
        )


def opened(source: str, **options: Any) -> Images:
    """Open images, and say how the source was read.

    Parameters
    ----------
    source : str
        Where they are.
    **options
        Of `read_images`.
    """
    images = read_images(source, **options)
    for note in images.notes:
        say(note)
    return images


def _checked_out(arguments: argparse.Namespace, *, table: bool = False) -> Path:
    """Where the result goes; nothing that lies there is in the way, unless it is gone on with."""
    out = check_new(arguments.out, resume=arguments.resume, table=table)
    partial = partial_of(out)
    if partial.exists() and not arguments.resume:
        raise InputError(f"{partial}: an interrupted computation; pass --resume to go on with it, or delete it")
    return out


def _finished(kept: Kept) -> bool:
    """Say so if there is nothing left to do."""
    finished = kept.finished()
    if finished:
        say(f"{kept.out}: finished already, nothing was left to do")
    return finished


def _batch_size(arguments: argparse.Namespace, default: int) -> int:
    return default if arguments.batch_size is None else check_count("--batch-size", arguments.batch_size)


def _settings(arguments: argparse.Namespace, images: Images, *models: str) -> dict[str, Any]:
    """What a result depends on, besides the settings of the one command."""
    chain = {}
    if arguments.denoiser is not None:
        names = ("chain_steps", "a", "delta", "no_clip", "chain_seed")
        chain = {name: getattr(arguments, name) for name in names}
    return {
        "backend": arguments.backend,
        **{model: fingerprint_of_model(getattr(arguments, model)) for model in models},
        **chain,
        **images.fingerprints(),
    }


def _share_out(model: Any, size: int) -> None:
    """Let two cores have a part of a small block each; the cut is part of the result's bits, and so fixed."""
    if model.ops.__name__ != "malade_ref.ops":
        return  # a device has its own ways
    for network in (model.classifier, model.denoiser) if isinstance(model, MALADE) else (model,):
        network.slice_size = min(network.slice_size, -(-size // 2))


class _Calls:
    """Counts what an attack asks its model, to tell progress within a block.

    Parameters
    ----------
    expected : int
        Calls that a block is thought to take; after the first block, those that it took.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected

    @contextmanager
    def told(self, model: Any, meter: Meter, part: slice, count: int) -> Iterator[None]:
        """Tell a meter of every call while a block is worked on.

        Parameters
        ----------
        model : Network or MALADE
            What is attacked; its methods are replaced meanwhile.
        meter : Meter
            Told.
        part : slice
            The block's images.
        count : int
            Images altogether.
        """
        done, lock = 0, threading.Lock()

        def counted(method: Any) -> Any:
            def call(*args: Any, **settings: Any) -> Any:
                nonlocal done
                result = method(*args, **settings)
                with lock:
                    done += 1
                    share = min(0.95, done / self.expected) if self.expected else 0.0
                    images = part.start + share * (part.stop - part.start)
                    meter(images / count, f"image {part.start} of {count}, {done} calls of the model")
                return result

            return call

        names = ("loss_and_gradient", "logits", "predict")
        for name in names:
            setattr(model, name, counted(getattr(model, name)))
        try:
            yield
        finally:
            for name in names:
                delattr(model, name)
        self.expected = done


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
    """
    found = "classifier" if len(network.output_shape) == 1 else "denoiser"
    if found != kind or (kind == "denoiser" and network.output_shape != network.input_shape):
        raise InputError(f"{where}: expected a {kind}, got a network {network.input_shape} -> {network.output_shape}")


def options_of(model: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """How images are read that a classifier is asked about.

    Parameters
    ----------
    model : Network or MALADE
        The classifier.
    arguments : argparse.Namespace
        Its ``model``, ``labels`` and ``data_dir``.

    Returns
    -------
    dict
        Options of `read_images`.
    """
    classifier = model.classifier if isinstance(model, MALADE) else model
    return {
        "shape": model.input_shape,
        "num_classes": model.num_classes,
        "labels": arguments.labels,
        "data_dir": arguments.data_dir,
        "split": "test",
        "class_names": class_names_of(classifier, arguments.model),
        "model": arguments.model,
        "convert": parse_conversion(arguments.resize, arguments.convert),
    }
