"""What is measured on a device: works, what each must compute, what it takes at least, and what is asked of it.

A *work* is done on a batch, with the paper's networks. Every backend computes the same function, and is held against
the NumPy reference on a few images before it is timed; noise that a backend draws itself is switched off for that.

Least operations are counted as in `bench.cases`: two for each multiply-add of convolutions and matrix products, twice
as many for an input gradient, three times for a training step; what is computed again counts nothing. Least bytes:
images in and out once, parameters once. Chains on a mixture of Gaussians have walkers in place of images; only their
two products a component count, so that exponentials and random numbers leave little of the floor's share.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from bench.cases import forward_flops
from bench.device.timing import DATA_SHEET, roofline
from bench.mixtures import make_mixture
from malade_ref import attacks, ops
from malade_ref.defence import MALADE
from malade_ref.density import GaussianMixture
from malade_ref.network import Network, cnn, sdae
from malade_ref.sampling import ChainSettings, run_chain, run_chain_vjp
from malade_ref.training import Batch, Classification, SupervisedDenoising, _State, _train_step

A, DELTA, SIGMA, RATE = 0.2, 0.1, 0.15**0.5, 1e-3
EPS, STEP_SIZE = 0.3, 0.01
COMPONENTS, DIMENSIONS, ALPHA = 8, 2, 0.02
CHECKED = 16  # images that are compared with the reference
NOISE = "denoising"  # stream of `malade_ref.training`


class Work(NamedTuple):
    """One measurement: which kind, on how many images, over how many steps, with how many draws."""

    kind: str
    batch: int
    steps: int = 0
    draws: int = 1

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.batch}" + (f"x{self.steps}" if self.steps else "")


KINDS = {
    "chain": "purification",
    "chain-gradient": "gradient through the chain",
    "forward": "classifier",
    "gradient": "classifier, input gradient",
    "train-cnn": "training step, CNN",
    "train-sdae": "training step, sDAE with J",
    "pgd": "PGD, Linf",
    "bpda": "BPDA step, EOT",
    "mixture": "Langevin chains on a mixture",
}
# What is asked comes first, then how it grows, then the rest of the curves: time may run out.
ASKED = (
    *(Work("chain", batch, 25) for batch in (10_000, 1, 128)),
    Work("gradient", 10_000),
    *(Work("chain-gradient", 10_000, steps) for steps in (10, 20, 40)),
    Work("train-sdae", 512),
    Work("pgd", 10_000, 40),
    Work("mixture", 1_000_000, 1000),
    Work("bpda", 10_000, 25, 30),
)
# Without the peers that compile for each of them, which nothing here is held against.
CURVES = (
    *(Work("chain", batch, 25) for batch in (30_000, 100_000)),
    *(Work("chain", 10_000, steps) for steps in (50, 100, 200)),
    Work("forward", 10_000),
    Work("train-cnn", 512),
    *(Work("gradient", batch) for batch in (1, 128, 1000)),
    *(Work("chain", batch, 25) for batch in (10, 1000)),
    *(Work("chain", 10_000, steps) for steps in (5, 10)),
)
WORKS = (*ASKED, *CURVES)
QUICK = (
    *(Work("chain", batch, 25) for batch in (1, 128, 10_000)),
    *(Work("chain-gradient", 1000, steps) for steps in (10, 40)),
    Work("forward", 1000),
    Work("gradient", 1000),
    Work("train-cnn", 512),
    Work("train-sdae", 512),
    Work("pgd", 1000, 40),
    Work("bpda", 1000, 25, 2),
    Work("mixture", 100_000, 100),
)
REHEARSAL = (
    *(Work("chain", batch, 2) for batch in (1, 2)),
    Work("chain-gradient", 2, 2),
    Work("forward", 2),
    Work("gradient", 2),
    Work("train-cnn", 2),
    Work("train-sdae", 2),
    Work("pgd", 2, 2),
    Work("bpda", 2, 2, 2),
    Work("mixture", 20, 3),
)


class Problem(NamedTuple):
    """What every backend computes with: the same weights, images, labels and cotangents; or mixture and walkers."""

    classifier: Network
    denoiser: Network
    chain: ChainSettings
    mixture: GaussianMixture
    x: Any  # (n, 1, 28, 28) float32; walkers: (n, 2) float32
    y: Any  # (n,) int64
    cotangent: Any  # of the chain's end, as x
    noise: Any  # standard normal, as x: of a training step, where results are compared


@lru_cache(maxsize=2)
def _images(batch: int) -> Any:
    return ops.uniform((1, 28, 28), key=ops.derive_key(0, "bench"), sample_index=ops.arange(batch))


def make_problem(work: Work, preset: str) -> Problem:
    """Networks with their initial weights and images of uniform noise, labelled as the classifier does."""
    classifier, denoiser = cnn(preset), sdae(preset)
    chain = ChainSettings(work.steps, A, DELTA)
    mixture = make_mixture(COMPONENTS, DIMENSIONS, dtype="float32")
    index = ops.arange(work.batch)
    if work.kind == "mixture":
        walkers = 3 * ops.normal((DIMENSIONS,), key=ops.derive_key(0, "bench"), sample_index=index)
        return Problem(classifier, denoiser, chain, mixture, walkers, np.zeros(work.batch, np.int64), walkers, walkers)
    x = _images(work.batch)
    noise = x  # only a training looks at it
    if work.kind.startswith("train"):
        noise = ops.normal((1, 28, 28), key=ops.derive_key(0, NOISE), sample_index=index)
    y = ((np.arange(work.batch) * 7) % 10).astype(np.int64)
    y[:CHECKED] = classifier.predict(x[:CHECKED])
    return Problem(classifier, denoiser, chain, mixture, x, y, 1 - 2 * x, noise)


def expected(work: Work, problem: Problem) -> Any:
    """The reference's result: of the first images, or the first two losses of a training."""
    few = slice(0, CHECKED)
    classifier, denoiser, x, y = problem.classifier, problem.denoiser, problem.x[few], problem.y[few]
    still = problem.chain._replace(delta=0.0)
    noise: dict[str, Any] = {"key": (0, 0), "sample_index": ops.arange(len(x))}
    match work.kind:
        case "chain":
            return run_chain(x, denoiser, still, **noise)[-1]
        case "chain-gradient":
            positions = run_chain(x, denoiser, still, **noise)
            return run_chain_vjp(problem.cotangent[few], positions, denoiser, still, **noise)
        case "forward":
            return classifier.apply(x)
        case "gradient":
            return classifier.loss_and_gradient(x, y).gradient
        case "train-cnn":
            return training_losses(classifier, Classification(), problem.x, problem.y)
        case "train-sdae":
            return training_losses(denoiser, SupervisedDenoising(SIGMA, classifier), problem.x, problem.y)
        case "pgd":
            return attacks.pgd(
                *(classifier, x, y), eps=EPS, step_size=STEP_SIZE, num_steps=work.steps, random_start=False
            ).loss
        case "bpda":
            defended = MALADE(classifier, denoiser, **still._asdict())
            return defended.loss_and_gradient(x, y, mode="bpda").gradient
        case "mixture":
            settings = {"num_steps": work.steps, "alpha": ALPHA, "delta": 0.0}
            return ops.mixture_chain(x, *problem.mixture.arrays, **settings, **noise)[0]
    raise ValueError(work.kind)


def training_losses(network: Network, objective: Any, x: Any, y: Any, steps: int = 2) -> Any:
    """Mean losses before each of the first steps of a training; the second tells whether the first moved right."""
    state, losses = _State.begin(network, "adam"), []
    batch = Batch(x, y, network.ops.arange(len(x)), epoch=0, seed=0)
    for _ in range(steps):
        state = _train_step(network, objective, batch, state._replace(sums={}), "adam", RATE)
        losses.append(state.sums["loss"] / len(x))
    return np.array(losses)


def least_flops(work: Work, problem: Problem) -> int:
    """Operations of a work, at least."""
    of_classifier, of_denoiser = forward_flops(problem.classifier), forward_flops(problem.denoiser)
    classifier, denoiser = sum(of_classifier), sum(of_denoiser)
    of_image = {
        "chain": work.steps * denoiser,
        "chain-gradient": 2 * work.steps * denoiser,
        "forward": classifier,
        "gradient": 2 * classifier,
        # Nobody needs the gradient with respect to the first layer's input.
        "train-cnn": 3 * classifier - of_classifier[0],
        "train-sdae": 3 * denoiser - of_denoiser[0] + 2 * classifier,
        "pgd": 2 * work.steps * classifier + 2 * classifier,  # the clean images, each iterate, the last one
        "bpda": work.draws * (work.steps * denoiser + 2 * classifier),
        "mixture": work.steps * 4 * COMPONENTS * DIMENSIONS**2,
    }
    return of_image[work.kind] * work.batch


def least_bytes(work: Work, problem: Problem) -> int:
    """Bytes that a work must move through the device's memory, at least."""
    if work.kind == "mixture":
        return 4 * (2 * DIMENSIONS * work.batch + COMPONENTS * (1 + DIMENSIONS + DIMENSIONS**2))
    images = {"chain": 2, "chain-gradient": 3, "forward": 1, "train-cnn": 1, "train-sdae": 1}.get(work.kind, 2)
    networks = {"chain": [problem.denoiser], "chain-gradient": [problem.denoiser], "forward": [problem.classifier]}
    used = networks.get(work.kind, [problem.classifier, problem.denoiser])
    parameters = sum(network.num_parameters for network in used)
    return 4 * (images * problem.x[0].size * work.batch + parameters)


# What is asked ------------------------------------------------------------------------------------------------------


class Bar(NamedTuple):
    """At least ``times`` as fast as a peer, or at least that share of a roofline, or at most so many seconds.

    ``of`` is a peer's name, "roofline" (of an H200's data sheet, in the precision ``peak``) or "seconds" (those of
    ``scale`` times the work). The fastest of the backends counts.
    """

    work: str
    backends: tuple[str, ...]
    of: str
    times: float
    peak: str = ""
    scale: int = 1


# What is asked in float32 counts in either of the precisions that are held to float32's tolerances.
EXACT = ("gpu-fp32", "gpu-tf32x3")
ROUNDED = ("gpu-tf32", "gpu-bf16")
BARS = (
    Bar("chain-10000x25", EXACT, "torch", 5),
    Bar("chain-10000x25", EXACT, "torch-compiled", 3),
    Bar("chain-10000x25", EXACT, "roofline", 0.5, peak="fp32"),
    Bar("chain-10000x25", ROUNDED, "torch-tf32", 15),
    Bar("chain-1x25", EXACT, "torch", 10),
    Bar("chain-128x25", EXACT, "torch", 10),
    Bar("chain-gradient-10000x10", EXACT, "torch", 4),
    Bar("gradient-10000", ("gpu-tf32",), "torch-compiled-tf32", 1.3),
    Bar("gradient-10000", ("gpu-tf32",), "roofline", 0.4, peak="tf32"),
    Bar("pgd-10000x40", ("gpu-tf32",), "torch-compiled-tf32", 1.5),
    Bar("pgd-10000x40", ("gpu-tf32",), "torch-tf32", 1.5),  # torchattacks is eager
    Bar("bpda-10000x25", (*EXACT, *ROUNDED), "seconds", 480, scale=1000),
    Bar("mixture-1000000x1000", EXACT, "torch", 20),
    Bar("train-sdae-512", EXACT, "torch-compiled", 1.3),
)
# What one call of a work stands for: said in its record, because it is not measured.
EXTRAPOLATED = {"bpda-10000x25": {"to": "PGD-1000 by BPDA with 30 draws", "times": 1000}}


class Growth(NamedTuple):
    """Time is to grow as images or steps do: the exponent fitted to at least three sizes is 1, give or take 0.05.

    Sizes are past saturation: 132 multiprocessors hold 1,056 images at a time, 2,112 of a chain in half precision. With
    steps, memory is not to grow at all.
    """

    kind: str
    along: str  # "batch" or "steps"
    works: tuple[Work, ...]


EXPONENT, MEMORY = 0.05, 1.1
GROWTH = (
    Growth("chain", "batch", tuple(Work("chain", batch, 25) for batch in (10_000, 30_000, 100_000))),
    Growth("chain", "steps", tuple(Work("chain", 10_000, steps) for steps in (25, 50, 100, 200))),
    Growth("chain-gradient", "steps", tuple(Work("chain-gradient", 10_000, steps) for steps in (10, 20, 40))),
)


def verdicts(records: list[dict[str, Any]]) -> list[tuple[bool | None, str]]:
    """Each bar: whether it is met (None if it could not be measured), and a line that says so, and by which backend."""
    by_name = {record["name"]: record for record in records}
    lines = [_verdict(bar, by_name) for bar in BARS]
    for growth in GROWTH:
        lines.append(_exponents(growth, by_name))
        if growth.along == "steps":
            lines.append(_memory(growth, by_name))
    return lines


def _verdict(bar: Bar, by_name: dict[str, Any]) -> tuple[bool | None, str]:
    what = f"{bar.work}: {' or '.join(bar.backends)}"
    times = {
        name: result["median_seconds"]
        for name in bar.backends
        if "median_seconds" in (result := _result(by_name, bar.work, name))
    }
    if not times:
        return None, f"{what} against {bar.of}: not measured"
    if bar.of == "roofline":
        record = by_name[bar.work]
        least = roofline(bar.peak, record["flops"], record["least_bytes"], DATA_SHEET)
        assert least is not None
        numbers = {name: least["seconds"] / seconds for name, seconds in times.items()}
        said, asked = f"of the data sheet's {bar.peak} roofline", f"{bar.times:.0%}"
    elif bar.of == "seconds":
        numbers = {name: seconds * bar.scale for name, seconds in times.items()}
        said, asked = f"s for {bar.scale} of them, extrapolated from one", f"{bar.times:g} s"
    else:
        peer = _result(by_name, bar.work, bar.of).get("median_seconds")
        if peer is None:
            return None, f"{what} against {bar.of}: not measured"
        numbers = {name: peer / seconds for name, seconds in times.items()}
        said, asked = f"times as fast as {bar.of}", f"{bar.times:g}"
    shown = {name: f"{value:.0%}" if bar.of == "roofline" else f"{value:.3g}" for name, value in numbers.items()}
    best = min(times, key=lambda name: times[name])
    met = numbers[best] <= bar.times if bar.of == "seconds" else numbers[best] >= bar.times
    others = "".join(f"; {name} {text}" for name, text in shown.items() if name != best)
    return met, f"{bar.work}: {best} {shown[best]} {said}, asked {asked}{others}"


def _exponents(growth: Growth, by_name: dict[str, Any]) -> tuple[bool | None, str]:
    """Least squares in logarithms, over the works that were measured."""
    sizes = [getattr(work, growth.along) for work in growth.works]
    what = f"{growth.kind}, time against {growth.along} {sizes[0]} to {sizes[-1]}: exponent"
    found = {}
    for name in (*EXACT, *ROUNDED):
        times = [_result(by_name, work.name, name).get("median_seconds") for work in growth.works]
        points = [(size, seconds) for size, seconds in zip(sizes, times, strict=True) if seconds is not None]
        if len(points) >= 3:
            found[name] = float(np.polyfit(*np.log(points).T, 1)[0])
    if not found:
        return None, f"{what}: not measured at three sizes"
    shown = ", ".join(f"{value:.3f} ({name})" for name, value in found.items())
    return all(abs(value - 1) <= EXPONENT for value in found.values()), f"{what} {shown}, asked 1.00 +- {EXPONENT}"


def _memory(growth: Growth, by_name: dict[str, Any]) -> tuple[bool | None, str]:
    """The most memory of any number of steps, relative to the least."""
    sizes = [getattr(work, growth.along) for work in growth.works]
    what = f"{growth.kind}, memory against {growth.along} {sizes[0]} to {sizes[-1]}: ratio"
    found = {}
    for name in (*EXACT, *ROUNDED):
        taken = [_result(by_name, work.name, name).get("memory_bytes") for work in growth.works]
        known = [size for size in taken if size]
        if len(known) >= 2:
            found[name] = max(known) / min(known)
    if not found:
        return None, f"{what}: not measured"
    shown = ", ".join(f"{value:.2f} ({name})" for name, value in found.items())
    return max(found.values()) <= MEMORY, f"{what} {shown}, asked {MEMORY}"


def _result(by_name: dict[str, Any], work: str, backend: str) -> dict[str, Any]:
    result: dict[str, Any] = by_name.get(work, {}).get("backends", {}).get(backend, {})
    return result
