"""Public implementations of attacks: torchattacks, Foolbox, ART.

A peer is opened on a problem and then has, for each row of the table of `bench.attacks`, functions from a seed to
adversarial images; several where the best of them counts, image by image. Settings that a peer leaves to the caller
are those of this package's attack; what it has none of is left at its default. Where a peer stops a search early to
save time, it is told not to.

To add one, write a function like `_foolbox` and add it to `OPENERS`. torchattacks' APGD, APGDT, FAB and Square are
ports of AutoAttack's.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from malade_ref.interop.torch import to_torch
from malade_ref.network import Network
from malade_ref.ops import num_threads

# Carlini and Wagner's weights, for an implementation that does not search for them.
WEIGHTS = (0.1, 1.0, 10.0, 100.0)
# How ART's boundary attack spends its queries: about so many on the sphere and as many towards the clean image a step.
ART_SAMPLES = 20

Images = Any
Run = Callable[[int], Images]


class Problem(NamedTuple):
    """What is attacked, and with how much effort."""

    model: Network
    x: Images
    y: Any
    num_steps: int  # of attacks with gradients; of each weight where weights are searched for
    num_queries: int  # proposals of attacks without gradients
    eps: float
    eps_l2: float

    @property
    def step_size(self) -> float:
        """Of attacks with a fixed step in the maximum norm."""
        return self.eps / 10

    @property
    def step_size_l2(self) -> float:
        """Of attacks with a fixed step in the Euclidean norm."""
        return self.eps_l2 / 10

    @property
    def far(self) -> float:
        """Euclidean distance that excludes nothing."""
        return math.sqrt(self.x[:1].size)


class Peer(NamedTuple):
    """An implementation.

    Attributes
    ----------
    versions : dict
        Of its packages.
    runs : dict of str to list of callables
        What must be run for a row of the table.
    evaluations : callable
        How many images its attacks have put through the network so far.
    """

    versions: dict[str, str]
    runs: dict[str, list[Run]]
    evaluations: Callable[[], int]


def open_peers(problem: Problem) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that can be used here, and of the others why not."""
    peers, missing = {}, {}
    for name, opener in OPENERS.items():
        try:
            module, evaluations = _counted(problem.model)
            runs, packages = opener(problem, module)
        except ImportError as error:
            missing[name] = str(error)
        else:
            versions = {package: importlib.metadata.version(package) for package in (*packages, "torch")}
            peers[name] = Peer(versions, runs, evaluations)
    return peers, missing


def _counted(model: Network) -> tuple[Any, Callable[[], int]]:
    """The network in PyTorch, and the number of images it has seen."""
    import torch

    torch.set_num_threads(num_threads())
    dtype, seen = getattr(torch, model.dtype), [0]

    class Counted(torch.nn.Module):  # type: ignore[misc]
        """What ART takes for one piece: of a sequence of layers it calls each by itself."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = to_torch(model)

        def forward(self, x: Any) -> Any:
            seen[0] += len(x)
            return self.layers(x.to(dtype))  # ART's boundary attack works in float64

    return Counted().eval().requires_grad_(False), lambda: seen[0]


def _torchattacks(problem: Problem, module: Any) -> tuple[dict[str, list[Run]], tuple[str, ...]]:
    import torch
    import torchattacks

    _, x, y, steps, queries, eps, eps_l2 = problem
    images, labels = torch.from_numpy(x), torch.from_numpy(y)

    def run(name: str, **settings: Any) -> Run:
        seeded = {"APGD", "APGDT", "FAB", "Square"}  # they set PyTorch's seed themselves

        def attack(seed: int) -> Images:
            torch.manual_seed(seed)
            of_seed = {"seed": seed} if name in seeded else {}
            return getattr(torchattacks, name)(module, **settings, **of_seed)(images.clone(), labels).detach().numpy()

        return attack

    linf, l2 = {"norm": "Linf", "eps": eps, "steps": steps}, {"norm": "L2", "eps": eps_l2, "steps": steps}
    classes = {"n_classes": problem.model.num_classes}
    step, step_l2 = {"alpha": problem.step_size, "steps": steps}, {"alpha": problem.step_size_l2, "steps": steps}
    ead = {"max_iterations": steps, "binary_search_steps": 9, "abort_early": False}
    return {
        "fgsm": [run("FGSM", eps=eps)],
        "mim linf": [run("MIFGSM", eps=eps, **step)],
        "pgd linf": [run("PGD", eps=eps, **step)],
        "pgd l2": [run("PGDL2", eps=eps_l2, **step_l2)],
        "apgd ce linf": [run("APGD", loss="ce", **linf)],
        "apgd dlr linf": [run("APGD", loss="dlr", **linf)],
        "apgd dlr targeted linf": [run("APGDT", **linf, **classes)],
        "apgd ce l2": [run("APGD", loss="ce", **l2)],
        "apgd dlr l2": [run("APGD", loss="dlr", **l2)],
        "apgd dlr targeted l2": [run("APGDT", **l2, **classes)],
        "fab linf": [run("FAB", norm="Linf", eps=1.0, steps=steps, **classes)],
        "fab l2": [run("FAB", norm="L2", eps=problem.far, steps=steps, **classes)],
        "square linf": [run("Square", norm="Linf", eps=eps, n_queries=queries)],
        "square l2": [run("Square", norm="L2", eps=eps_l2, n_queries=queries)],
        "cw l2": [run("CW", c=c, lr=0.05, steps=steps) for c in WEIGHTS],
        "ead en": [run("EADEN", **ead)],
        "ead l1": [run("EADL1", **ead)],
    }, ("torchattacks",)


def _foolbox(problem: Problem, module: Any) -> tuple[dict[str, list[Run]], tuple[str, ...]]:
    import foolbox
    import torch

    _, x, y, steps, queries, eps, eps_l2 = problem
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")

    def run(name: str, epsilon: float | None = None, **settings: Any) -> Run:
        in_ball = {} if epsilon is None else {"epsilon": epsilon}

        def attack(seed: int) -> Images:
            torch.manual_seed(seed)
            criterion = foolbox.criteria.Misclassification(labels)
            return getattr(foolbox.attacks, name)(**settings).run(model, images, criterion, **in_ball).numpy()

        return attack

    step, step_l2 = ({"abs_stepsize": size, "steps": steps} for size in (problem.step_size, problem.step_size_l2))
    search = {"binary_search_steps": 9, "steps": steps, "abort_early": False}
    ead = {"initial_stepsize": 0.01, "regularization": 1e-3, **search}
    return {
        "fgsm": [run("LinfFastGradientAttack", eps)],
        "fgm l2": [run("L2FastGradientAttack", eps_l2)],
        "mim linf": [run("LinfMomentumIterativeFastGradientMethod", eps, momentum=1.0, **step)],
        "pgd linf": [run("LinfPGD", eps, **step)],
        "pgd l2": [run("L2PGD", eps_l2, **step_l2)],
        "boundary l2": [run("BoundaryAttack", steps=queries)],
        "salt and pepper": [run("SaltAndPepperNoiseAttack", steps=queries)],
        "cw l2": [run("L2CarliniWagnerAttack", stepsize=0.05, initial_const=0.1, **search)],
        "ead en": [run("EADAttack", decision_rule="EN", **ead)],
        "ead l1": [run("EADAttack", decision_rule="L1", **ead)],
    }, ("foolbox", "eagerpy")


def _art(problem: Problem, module: Any) -> tuple[dict[str, list[Run]], tuple[str, ...]]:
    import torch
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    logging.getLogger("art").setLevel(logging.ERROR)
    _, x, y, steps, queries, eps, eps_l2 = problem
    classifier = PyTorchClassifier(
        module,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=problem.model.input_shape,
        nb_classes=problem.model.num_classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )

    def run(name: str, *, batch: int = len(x), quiet: bool = True, **settings: Any) -> Run:
        options = {"batch_size": batch, **({"verbose": False} if quiet else {}), **settings}

        def attack(seed: int) -> Images:
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002  the generator that ART draws from
            return getattr(evasion, name)(classifier, **options).generate(x=x.copy(), y=y.copy())

        return attack

    linf, l2 = {"norm": np.inf, "eps": eps}, {"norm": 2, "eps": eps_l2}
    step, step_l2 = ({"eps_step": size, "max_iter": steps} for size in (problem.step_size, problem.step_size_l2))
    ead = {"learning_rate": 0.01, "binary_search_steps": 9, "max_iter": steps, "beta": 1e-3}

    def auto(loss: str, ball: dict[str, Any]) -> list[Run]:
        settings = {"eps_step": ball["eps"], "max_iter": steps, "nb_random_init": 1, "loss_type": loss}
        return [run("AutoProjectedGradientDescent", **ball, **settings)]

    ratio, boundary_steps = "difference_logits_ratio", max(1, queries // (2 * ART_SAMPLES))
    tenth = max(10, steps // 10)  # Carlini and Wagner's: each step looks at about ten lengths
    return {
        "fgsm": [run("FastGradientMethod", quiet=False, **linf)],
        "fgm l2": [run("FastGradientMethod", quiet=False, **l2)],
        "mim linf": [run("MomentumIterativeMethod", decay=1.0, **linf, **step)],
        "pgd linf": [run("ProjectedGradientDescentPyTorch", num_random_init=1, **linf, **step)],
        "pgd l2": [run("ProjectedGradientDescentPyTorch", num_random_init=1, **l2, **step_l2)],
        "apgd ce linf": auto("cross_entropy", linf),
        "apgd dlr linf": auto(ratio, linf),
        "apgd ce l2": auto("cross_entropy", l2),
        "apgd dlr l2": auto(ratio, l2),
        "square linf": [run("SquareAttack", max_iter=queries, **linf)],
        "square l2": [run("SquareAttack", max_iter=queries, **l2)],
        "boundary l2": [
            run("BoundaryAttack", batch=64, targeted=False, max_iter=boundary_steps, sample_size=ART_SAMPLES)
        ],
        "cw l2": [run("CarliniL2Method", learning_rate=0.05, initial_const=0.1, binary_search_steps=9, max_iter=tenth)],
        "ead en": [run("ElasticNet", decision_rule="EN", **ead)],
        "ead l1": [run("ElasticNet", decision_rule="L1", **ead)],
    }, ("adversarial-robustness-toolbox",)


OPENERS = {"torchattacks": _torchattacks, "foolbox": _foolbox, "art": _art}
