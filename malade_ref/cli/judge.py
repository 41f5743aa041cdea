"""``malade evaluate`` and ``malade defend``: a verdict on the user's own model, in one command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from malade_ref.bundle import Bundle
from malade_ref.checkpoint import load
from malade_ref.checks import InputError, check_count, check_eps, check_number, check_work, printable
from malade_ref.cli.backends import add_backend, ready_backend
from malade_ref.cli.console import number, say
from malade_ref.cli.folders import run_folder
from malade_ref.cli.own import add_model, open_model
from malade_ref.cli.report import headlines
from malade_ref.cli.run import console_watcher, out_of_memory
from malade_ref.cli.single import add_chain, check_kind
from malade_ref.datasets import Dataset, load_dataset
from malade_ref.defence import MALADE
from malade_ref.experiment.judging import judge, judged_of, title_of, verdict_of
from malade_ref.experiment.protocol import DEFENDED, SDAE
from malade_ref.interop.wrap import Wrapped


def add_commands(commands: Any) -> None:
    """Add ``evaluate`` and ``defend``.

    Parameters
    ----------
    commands : argparse subparsers
        Where to.
    """
    evaluate = commands.add_parser(
        "evaluate",
        help="judge your own model: attacks, audit, report",
        description="Judge a classifier by the strict protocol, bare or behind MALADE: the attacks of malade run "
        "honest, at the size and within the time that you name, with intervals and an audit, into a bundle.",
        allow_abbrev=False,
    )
    _add_common(evaluate, minutes=10.0)
    add_chain(evaluate, required=False)
    evaluate.add_argument(
        "--sigma2", type=number, help="variance of the noise that --denoiser was trained on, if it does not say so"
    )
    evaluate.set_defaults(command=_evaluate)
    defend = commands.add_parser(
        "defend",
        help="put MALADE in front of your own model, and judge it",
        description="From a classifier and data to a verdict: train a DAE and an sDAE for it, search the settings of "
        "the chain on validation images, and judge the classifier, bare and defended, as malade evaluate does.",
        allow_abbrev=False,
    )
    _add_common(defend, minutes=60.0)
    defend.add_argument(
        "--sigma2", type=number, help="variance of the noise; 0.15 for grey images and 0.01 for others by default"
    )
    defend.set_defaults(command=_defend, denoiser=None)


def _add_common(command: argparse.ArgumentParser, *, minutes: float) -> None:
    add_model(command)
    command.add_argument("--data", required=True, metavar="NAME", help="data set, see malade data list and import")
    command.add_argument("--eps", type=number, required=True, help="size of the perturbation, such as 0.3 or 8/255")
    command.add_argument("--norm", choices=("linf", "l2"), default="linf", help="its norm; linf by default")
    command.add_argument(
        "--minutes",
        type=number,
        default=minutes,
        metavar="M",
        help=f"about how long it may take, {minutes:g} by default: the model is timed, and images, steps"
        + (" and epochs" if minutes > 10 else "")
        + " are as many as fit",
    )
    command.add_argument("--num-images", type=int, metavar="N", help="test images, at most")
    command.add_argument("--name", dest="title", default="", metavar="TITLE", help="what to call the model in tables")
    command.add_argument("--seed", type=int, default=0, help="of everything random")
    command.add_argument("--data-dir", metavar="DIR", help="where to look for data first; MALADE_DATA does the same")
    command.add_argument("--out", metavar="DIR", help="folder of the bundle; runs/evaluate-1, ... by default")
    command.add_argument("--resume", action="store_true", help="go on with an interrupted run, as malade run does")
    add_backend(command)


def _evaluate(arguments: argparse.Namespace) -> int:
    chain = {"--chain-steps": arguments.chain_steps, "--a": arguments.a, "--delta": arguments.delta}
    given = [name for name, value in chain.items() if value is not None]
    if arguments.denoiser is None and given:
        raise InputError(f"{given[0]}: has no meaning without --denoiser; add it or leave it out")
    if arguments.denoiser is not None and len(given) < len(chain):
        raise InputError(f"--denoiser: needs {' and '.join(name for name in chain if name not in given)} too")
    _judged(arguments, train=False)
    return 0


def _defend(arguments: argparse.Namespace) -> int:
    bundle = _judged(arguments, train=True)
    found = bundle.record("settings").meta[DEFENDED]
    options = f"--chain-steps {found['num_steps']} --a {found['a']:g} --delta {found['delta']:g}"
    say(f"the chain in other commands: --denoiser {bundle.path / 'models' / f'{SDAE}.h5'} {options}")
    return 0


def _judged(arguments: argparse.Namespace, *, train: bool) -> Bundle:
    check_number("--minutes", arguments.minutes, above=0)
    check_number("--eps", arguments.eps, above=0)
    check_eps(arguments.eps, arguments.norm)
    if arguments.num_images is not None:
        check_count("--num-images", arguments.num_images)
    check_count("--seed", arguments.seed, minimum=0)
    data = _data(arguments)
    if not len(data.test):
        raise InputError(f"{data.name}: has no test images to judge by; import some as test")
    with ready_backend(arguments.backend, {}) as ops:
        model = open_model(arguments, data.test.images(slice(0, 4)), ops)
        denoiser = ""
        if arguments.denoiser is not None:
            if isinstance(model, MALADE):
                raise InputError("--denoiser: the model is behind a chain already; leave it out")
            network = load(arguments.denoiser, ops=ops)
            check_kind(network, "denoiser", "--denoiser")
            denoiser = Path(arguments.denoiser).name
            model = MALADE(
                model,
                network,
                num_steps=check_work("--chain-steps", arguments.chain_steps, minimum=0),
                a=arguments.a,
                delta=arguments.delta,
                clip=not arguments.no_clip,
            )
        judged = judged_of(
            model,
            data,
            title=_title(arguments, model),
            eps=arguments.eps,
            norm=arguments.norm,
            file=printable(Path(arguments.model).name, 100),
            denoiser=denoiser,
            train=train,
            num_images=arguments.num_images,
            sigma2=arguments.sigma2,
            seed=arguments.seed,
        )
        with run_folder(arguments, "defend" if train else "evaluate") as out:
            watcher = console_watcher(f"{judged.question.title} on {data.name}", "this machine", estimates=True)
            with out_of_memory(arguments, "this machine", {}):
                bundle = judge(judged, out, minutes=arguments.minutes, resume=arguments.resume, watcher=watcher)
    watcher.close()
    for line in verdict_of(bundle).lines():
        say(line)
    say(f"results: {bundle.path / 'report.md'}")
    for line in headlines(bundle):
        say(line)
    return bundle


def _data(arguments: argparse.Namespace) -> Dataset:
    name = arguments.data
    if Path(name).exists() and not name.replace("-", "").isalnum():
        raise InputError(
            f"--data {printable(name, 100)}: is a path; malade data import {printable(name, 100)} --name NAME first"
        )
    return load_dataset(name, data_dir=arguments.data_dir)


def _title(arguments: argparse.Namespace, model: Any) -> str:
    """What to call a model: as it was asked, or after its class, or its file."""
    if arguments.title:
        return printable(arguments.title, 60)
    classifier = model.classifier if isinstance(model, MALADE) else model
    if isinstance(classifier, Wrapped) and ":" in arguments.model:
        return title_of(model)
    return printable(Path(arguments.model).stem or "model", 60)
