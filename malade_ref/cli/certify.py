"""``malade certify``: certified L2 radii of a classifier under Gaussian noise, behind a denoiser or bare.

What takes long is kept image by image in ``FILE.partial``, so that ``--resume`` goes on with an interrupted computation
and ends with the same bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.certify import (
    BOUNDS,
    Certificates,
    certificates_of,
    certified_accuracy,
    certify,
    largest_radius,
    majority_accuracy,
    resolve_sigma,
)
from malade_ref.checkpoint import load, load_state, save_state
from malade_ref.checks import InputError, check_count, check_number
from malade_ref.cli.backends import backend_ops
from malade_ref.cli.console import Meter, number, say
from malade_ref.cli.files import Images, check_new, fingerprint_of_model, read_settings, write_arrays
from malade_ref.cli.kept import check_question, interruptible, partial_of, words_of
from malade_ref.cli.single import FIRST_USE, add_input, check_answers, check_kind, needed_labels, opened, options_of
from malade_ref.network import Network

COUNTS = ("selection", "counts")


def add_commands(commands: Any) -> None:
    """Add ``certify``.

    Parameters
    ----------
    commands : argparse subparsers
        Where to.
    """
    command = commands.add_parser(
        "certify",
        help="certify L2 radii by randomised smoothing",
        description="Certify within which L2 radius the prediction for an image cannot change, by randomised smoothing "
        "(Cohen et al. 2019), with a denoiser in front of the classifier (Salman et al. 2020) or without.",
        allow_abbrev=False,
    )
    add_input(command)
    command.add_argument("--model", required=True, metavar="MODEL", help="the classifier")
    command.add_argument("--denoiser", metavar="MODEL", help="denoiser that the noisy images pass through, once")
    command.add_argument(
        "--sigma", type=number, help="standard deviation of the noise, in pixel units; that of the denoiser's training"
    )
    command.add_argument(
        "--any-sigma", action="store_true", help="allow another sigma than that of the denoiser's training"
    )
    command.add_argument("--num-selection", type=int, default=100, metavar="N", help="draws that select the class")
    command.add_argument("--num-estimation", type=int, default=10_000, metavar="N", help="draws that certify it")
    command.add_argument("--alpha", type=float, default=0.001, help="probability of a wrong certificate, at most")
    command.add_argument(
        "--bound",
        choices=BOUNDS,
        default="rest",
        help="what the first class is held against: all others together (default), or the most probable of them",
    )
    command.add_argument("--batch-size", type=int, default=10, help="images that are worked on, and kept, together")
    command.add_argument("--seed", type=int, default=0, help="of the noise")
    command.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help=".npz or .h5: predicted (-1: abstained), radius, abstained, selection, counts (by class), y, sigma, "
        "alpha, index, and names of files and classes if there are any",
    )
    command.add_argument("--resume", action="store_true", help="go on with an interrupted computation")
    command.set_defaults(command=_certify)


def _certify(arguments: argparse.Namespace) -> int:
    out = check_new(arguments.out, resume=arguments.resume)
    if out.suffix == ".npy":
        raise InputError(f"--out {out}: there are several results; choose .npz or .h5")
    partial = partial_of(out)
    if partial.exists() and not arguments.resume:
        raise InputError(f"{partial}: an interrupted computation; pass --resume to go on with it, or delete it")
    with interruptible(arguments, partial):
        return _certified(arguments, out, partial)


def _certified(arguments: argparse.Namespace, out: Path, partial: Path) -> int:
    batch_size = check_count("--batch-size", arguments.batch_size)
    classifier, denoiser = _networks(arguments)
    sigma = _sigma(arguments, denoiser)
    settings: dict[str, Any] = {
        "num_selection": check_count("--num-selection", arguments.num_selection),
        "num_estimation": check_count("--num-estimation", arguments.num_estimation),
        "alpha": check_number("--alpha", arguments.alpha, above=0, below=1),
        "bound": arguments.bound,
        "sigma": sigma,
        "seed": check_count("--seed", arguments.seed, minimum=0),
    }
    images = opened(arguments.input, **options_of(classifier, arguments))
    x, y = images.x, needed_labels(images.y, arguments.input, needed=True, count=len(images))
    meta = {**settings, **_fingerprints(arguments, images)}
    if out.exists():
        check_question(out, read_settings(out), meta, "was made")
        partial.unlink(missing_ok=True)
        say(f"{out}: finished already, nothing was left to do")
        return 0
    done = _kept(partial, meta) if partial.exists() else []

    tried = classifier.ops.asarray(x[:FIRST_USE])
    check_answers("--model", classifier.ops.to_host(classifier.logits(tried)))
    say(f"certifying {len(x):,} images of {images.source} at sigma {sigma:.4g}, into {out}")
    first = sum(len(counts) for _, counts in done)
    if first:
        say(f"{first} of them were done already")
    meter = Meter("certify")
    try:
        for start in range(first, len(x), batch_size):
            part = slice(start, min(start + batch_size, len(x)))

            def tell(fraction: float, _: str, part: slice = part) -> None:
                images = part.start + fraction * (part.stop - part.start)
                meter(images / len(x), f"image {int(images)} of {len(x)}")

            asarray = classifier.ops.asarray
            found = certify(
                classifier,
                asarray(x[part]),
                asarray(y[part]),
                denoiser=denoiser,
                any_sigma=True,
                batch_size=batch_size,
                sample_index=asarray(np.arange(part.start, part.stop)),
                progress=tell,
                **settings,
            )
            done.append((found.selection, found.counts))
            save_state(partial, dict(zip(COUNTS, _joined(done), strict=True)), meta)
    finally:
        meter.close()
    rule = {name: settings[name] for name in ("sigma", "alpha", "bound", "num_estimation")}
    certificates = certificates_of(*_joined(done), y, **rule)
    names = ("predicted", "radius", "abstained", *COUNTS)
    arrays = {name: getattr(certificates, name) for name in names}
    facts = {"y": y, "sigma": np.array([sigma]), "alpha": np.array([settings["alpha"]]), "index": images.index}
    write_arrays(out, {**arrays, **facts}, words_of(images, meta))
    partial.unlink(missing_ok=True)
    _summarise(certificates, settings)
    say(f"certificates: {out}")
    return 0


def _networks(arguments: argparse.Namespace) -> tuple[Network, Network | None]:
    ops = backend_ops(arguments.backend)
    classifier = load(arguments.model, ops=ops)
    check_kind(classifier, "classifier", "--model")
    if arguments.denoiser is None:
        return classifier, None
    denoiser = load(arguments.denoiser, ops=ops)
    check_kind(denoiser, "denoiser", "--denoiser")
    return classifier, denoiser


def _sigma(arguments: argparse.Namespace, denoiser: Network | None) -> float:
    try:
        return resolve_sigma(arguments.sigma, denoiser, any_sigma=arguments.any_sigma)
    except InputError as error:
        message = str(error).replace("allow any sigma", "pass --any-sigma")
        raise InputError(f"--{message}") from error


def _fingerprints(arguments: argparse.Namespace, images: Images) -> dict[str, Any]:
    """What the result depends on besides the settings."""
    models = {name: fingerprint_of_model(getattr(arguments, name)) for name in ("model", "denoiser")}
    return {"backend": arguments.backend, **models, **images.fingerprints()}


def _kept(partial: Path, meta: Mapping[str, Any]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Counts of an interrupted computation, which must have been this one."""
    arrays, found = load_state(partial)
    check_question(partial, found, meta, "was begun")
    if set(arrays) != set(COUNTS):
        raise InputError(f"{partial}: holds no counts of malade certify; delete it")
    return [(arrays["selection"], arrays["counts"])]


def _joined(done: list[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[NDArray[Any], NDArray[Any]]:
    selection, counts = zip(*done, strict=True)
    return np.concatenate(selection), np.concatenate(counts)


def _summarise(certificates: Certificates, settings: Mapping[str, Any]) -> None:
    """Say in a few lines what came out."""
    limits = {name: settings[name] for name in ("sigma", "num_estimation", "alpha", "bound")}
    most = largest_radius(**limits)
    radii = [most * quarter / 4 for quarter in range(4)]
    shares = [
        f"{100 * found.value:.1f}% [{100 * found.low:.1f}, {100 * found.high:.1f}] beyond {radius:.3g}"
        for radius, found in zip(radii, certified_accuracy(certificates, radii), strict=True)
    ]
    right = majority_accuracy(certificates)
    say(
        f"right by most draws, certain or not: {100 * right.value:.1f}% [{100 * right.low:.1f}, {100 * right.high:.1f}]"
    )
    say(f"certified and right (L2, pixels in [0, 1]): {', '.join(shares)}")
    correct = certificates.correct
    median = f"median radius of these {np.median(certificates.radius[correct]):.3g}; " if correct.any() else ""
    say(f"{median}{100 * certificates.abstained.mean():.1f}% abstained; so many draws certify at most {most:.3g}")
