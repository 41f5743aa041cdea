"""One call, one verdict: anybody's classifier, bare or behind MALADE, under the attacks of the strict protocol.

The images, the model and a size of perturbation become an experiment (see `malade_ref.experiment.protocol`), which is
run into an ordinary bundle. How many images and steps there are follows from a time and from how fast the model is.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from malade_ref import ops as reference_ops
from malade_ref.bundle import Bundle
from malade_ref.bundle.layout import EXPERIMENT, RESULTS
from malade_ref.checks import InputError, check_choice, check_count, check_eps, check_number, printable
from malade_ref.classes import class_names_of
from malade_ref.datasets import Dataset
from malade_ref.defence import MALADE
from malade_ref.experiment.given import data_of, seconds_of, with_classes_of
from malade_ref.experiment.models import has_gradient, network_for
from malade_ref.experiment.plan import Passes, Step, plan_of
from malade_ref.experiment.protocol import MODEL, NORMS, SDAE, Chain, Question, efforts, experiment_text
from malade_ref.experiment.reading import Reading, read_text
from malade_ref.experiment.run import Watcher, run_experiment
from malade_ref.interop.wrap import Wrapped, wrap
from malade_ref.network import Network
from malade_ref.report.labels import percent, threat_label
from malade_ref.storage import load_json
from malade_ref.training import Progress

# Of the time that a training and a search may take, what judging has to leave.
TRAINING_SHARE = 0.6
MOST_MINUTES = 100_000.0


@dataclass(frozen=True, repr=False)
class Verdict:
    """What became of a classifier under attack.

    Attributes
    ----------
    table : list of dict
        A row for each attack and each defence, clean images first: ``attack``, ``defence``, ``eps``, ``n`` images, and
        the share that is classified rightly, ``value``, with its 95% interval from ``low`` to ``high``. The attack
        ``"worst"`` takes the worst attack for each image.
    audit : list of dict
        ``name``, ``status`` ("ok", "warning" or "not run") and ``message`` of each check.
    results : dict
        All numbers, as of results.json.
    report : str
        The report, in Markdown.
    figures : dict of str to bytes
        Drawings, PNG by name; none without matplotlib.
    path : Path, optional
        The bundle, if it was kept.
    """

    table: list[dict[str, Any]]
    audit: list[dict[str, Any]]
    results: dict[str, Any] = field(compare=False)
    report: str = field(compare=False)
    figures: dict[str, bytes] = field(compare=False)
    path: Path | None = None

    def __repr__(self) -> str:
        """Return the table, and the checks that failed, as text."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the table, and the checks that failed, as lines of text."""
        main = self.results["main"]
        size = threat_label(main["norm"], main["eps"])
        defences = list(dict.fromkeys(row["defence"] for row in self.table))
        rows = [row for row in self.table if row["eps"] in (0.0, main["eps"]) or row["attack"] == "worst"]
        attacks = [name for name in dict.fromkeys(row["attack"] for row in rows) if name != "worst"]
        cells = {(row["attack"], row["defence"]): percent(row, "") for row in rows}
        lines = [["percent right", *defences]]
        lines += [
            [attack, *(cells.get((attack, defence), "") for defence in defences)] for attack in [*attacks, "worst"]
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        failed = [finding for finding in self.audit if finding["status"] == "warning"]
        done = sum(finding["status"] != "not run" for finding in self.audit)
        text.append(f"{size}; audit: {done} checks, {len(failed)} failed, {len(self.audit) - done} not run")
        return text + [f"failed: {finding['name']}: {finding['message']}" for finding in failed]


class Judged(NamedTuple):
    """A question that can be answered: a model, images, and what is asked of them.

    Attributes
    ----------
    question : Question
        What is judged, and how.
    data : Dataset
        Images.
    networks : dict of str to Network
        Models by their names in the experiment.
    ops : module
        The backend.
    """

    question: Question
    data: Dataset
    networks: dict[str, Network]
    ops: ModuleType


def evaluate(
    model: Any,
    x: Any,
    y: Any,
    *,
    eps: float,
    norm: str = "linf",
    out: str | Path | None = None,
    minutes: float = 10.0,
    num_images: int | None = None,
    name: str = "",
    sigma2: float | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Callable[[str], None] | None = None,
    **settings: Any,
) -> Verdict:
    """Judge a classifier by the strict protocol: many attacks, the worst of them for each image, and an audit of them.

    Parameters
    ----------
    model : Network, MALADE, torch.nn.Module, callable, object with predict_proba, or path
        The classifier, bare or behind a chain; what is not of this package goes through `malade_ref.interop.wrap`.
    x : array of shape (n, c, h, w)
        Test images, pixels in [0, 1]: none that the model was trained on.
    y : array of shape (n,), integer
        Their labels.
    eps : float
        Size of the perturbation, pixels in [0, 1]: 8 / 255 and not 8.
    norm : {"linf", "l2"}
        Norm of the perturbation.
    out : path, optional
        Folder to write a bundle into, for ``malade report``; without it only the verdict is kept.
    minutes : float
        About how long it may take. The model is timed, and images and steps are as many as fit, at most 200 images and
        the steps of ``malade run honest``; what is least takes its time in any case.
    num_images : int, optional
        Images, at most: a random choice of them is taken where there are more.
    name : str
        What to call the model in tables; its class by default.
    sigma2 : float, optional
        For a chain: variance of the noise that its denoiser was trained on; by default what the denoiser says.
    seed : int
        Of everything random, the defender's noise included.
    resume : bool
        Whether ``out`` may hold a part of this very evaluation, to go on with.
    progress : callable, optional
        Told what is done, a line each time.
    **settings
        Of `malade_ref.interop.wrap`, such as ``mean``, ``std`` and ``class_names``, for a model of others.

    Returns
    -------
    Verdict
        Table, audit, report and figures.

    Raises
    ------
    InputError
        If the model, the images or a setting does not fit, or ``out`` holds something else.
    """
    if hasattr(x, "detach"):  # a tensor of PyTorch
        x, y = x.detach().cpu().numpy(), y.detach().cpu().numpy() if hasattr(y, "detach") else y
    if getattr(x, "ndim", None) != 4 or getattr(y, "ndim", None) != 1:
        raise InputError(f"x and y: expected images (n, c, h, w) and labels (n,), got {_shape(x)} and {_shape(y)}")
    to_host = model.ops.to_host if hasattr(model, "ops") else lambda array: array
    x, y = to_host(x), to_host(y)
    opened = opened_model(model, x, settings)
    classifier = opened.classifier if isinstance(opened, MALADE) else opened
    names = class_names_of(classifier, "model") or tuple(map(str, range(classifier.num_classes)))
    title = name or title_of(opened)
    judged = judged_of(
        opened,
        data_of(x, y, names),
        title=title,
        eps=eps,
        norm=norm,
        num_images=num_images,
        sigma2=sigma2,
        seed=seed,
    )
    watcher = None if progress is None else _Teller(progress)
    if out is not None:
        return verdict_of(judge(judged, out, minutes=minutes, resume=resume, watcher=watcher), kept=True)
    if resume:
        raise InputError("resume: needs out, the folder to go on in; name it or leave resume out")
    with tempfile.TemporaryDirectory() as folder:
        bundle = judge(judged, Path(folder, "bundle"), minutes=minutes, watcher=watcher)
        return verdict_of(bundle, kept=False)


class _Teller:
    """Tells each step in a line."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def plan(self, steps: list[Step], out: Path) -> None:
        minutes = sum(step.seconds for step in steps) / 60
        self._tell(f"{len(steps)} steps, about {max(1, round(minutes))} min")

    def begin(self, step: Step) -> Progress:
        self._tell(step.title)
        return lambda fraction, message: None

    def end(self, step: Step) -> None:
        pass

    def tell(self, line: str) -> None:
        self._tell(line)


def title_of(model: Any) -> str:
    """What to call a model.

    Parameters
    ----------
    model : Network or MALADE
        The model.
    """
    classifier = model.classifier if isinstance(model, MALADE) else model
    if isinstance(classifier, Wrapped):
        return printable(classifier.foreign.title, 60)
    return "the classifier"


def opened_model(
    model: Any,
    x: Any,
    settings: Mapping[str, Any],
    *,
    ops: ModuleType | None = None,
) -> Any:
    """A model of this package: as it is, or with `malade_ref.interop.wrap` around it.

    Parameters
    ----------
    model : object
        As of `evaluate`.
    x : ndarray of shape (n, c, h, w)
        Some images that it takes.
    settings : mapping
        Of `wrap`.
    ops : module, optional
        The backend.

    Returns
    -------
    Network or MALADE
        The model.
    """
    if isinstance(model, Network | MALADE):
        if settings:
            raise InputError(f"{next(iter(settings))}: is for models of others; leave it out")
        return model
    if isinstance(model, str | Path) and Path(model).suffix.lower() in (".h5", ".hdf5"):
        raise InputError(f"model: {printable(model, 100)} is a file; give malade_ref.load of it")
    return wrap(model, input_shape=x.shape[1:], images=x[:4], ops=ops, **settings)


def judged_of(
    model: Any,
    data: Dataset,
    *,
    title: str,
    eps: float,
    norm: str = "linf",
    file: str = "",
    denoiser: str = "",
    train: bool = False,
    num_images: int | None = None,
    sigma2: float | None = None,
    seed: int = 0,
    data_seed: int = 0,
) -> Judged:
    """What is judged, after looking at all that is given.

    Parameters
    ----------
    model : Network or MALADE
        The model.
    data : Dataset
        Images; the test split is what it is judged on.
    title : str
        What reports call the classifier.
    eps, norm, num_images, sigma2, seed
        As of `evaluate`.
    file, denoiser : str
        Where classifier and denoiser are from.
    train : bool
        Whether denoisers are trained for it, and a chain is searched for.
    data_seed : int
        Of synthetic data.

    Returns
    -------
    Judged
        For `judge`.
    """
    check_choice("norm", norm, NORMS)
    if not check_eps(eps, norm) > 0:
        raise InputError("eps: expected a number > 0, got 0; without a perturbation there is nothing to judge")
    if num_images is not None:
        check_count("num_images", num_images)
    check_count("seed", seed, minimum=0)
    classifier = model.classifier if isinstance(model, MALADE) else model
    if not isinstance(classifier, Network) or len(classifier.output_shape) != 1:
        raise InputError(f"model: expected a classifier, got {printable(repr(classifier), 100)}")
    if classifier.input_shape != data.shape:
        raise InputError(
            f"model: takes images of shape {classifier.input_shape}, those of {data.name} have {data.shape}; "
            "malade data import can bring them to another size or to grey"
        )
    if not len(data.test):
        raise InputError(f"{data.name}: has no test images to judge by; import some as test")
    networks, chain = {MODEL: classifier}, None
    if isinstance(model, MALADE):
        if train:
            raise InputError("model: is behind a chain already; give the bare classifier to be defended")
        if not isinstance(model.denoiser, Network):
            raise InputError(f"model: its denoiser is no network, but {type(model.denoiser).__name__}")
        networks[SDAE] = model.denoiser
        settings = model.chain._asdict()
        chain = Chain(**settings, sigma2=_sigma2(model.denoiser, sigma2))
    elif sigma2 is not None and not train:
        raise InputError("sigma2: is of a chain's denoiser; leave it out for a bare classifier")
    elif sigma2 is not None:
        check_number("sigma2", sigma2, above=0)
    gradients = has_gradient(classifier)
    if train and not gradients:
        raise InputError(
            f"{title}: has no gradient, which the training of the sDAE needs; give a model of PyTorch, or the two "
            "functions that malade_ref.interop.wrap takes"
        )
    if train:
        for split in ("train", "validation"):
            if not len(getattr(data, split)):
                raise InputError(f"{data.name}: has no {split} images, which training and search need; import some")
    data = with_classes_of(data, class_names_of(classifier, title), title)
    return Judged(
        Question(
            title=title,
            file=file or title,
            data=data.name,
            data_seed=data_seed,
            shape=data.shape,
            num_test=len(data.test),
            num_validation=len(data.validation),
            norm=norm,
            eps=float(eps),
            seed=seed,
            gradients=gradients,
            num_classes=classifier.num_classes,
            chain=chain,
            denoiser=denoiser or "denoiser",
            train=train,
            sigma2=sigma2,
            num_images=num_images,
        ),
        data,
        networks,
        classifier.ops if classifier.ops is not None else reference_ops,
    )


def _sigma2(denoiser: Network, sigma2: float | None) -> float:
    training = denoiser.metadata.get("training")
    objective = training.get("objective") if isinstance(training, Mapping) else None
    sigma = objective.get("sigma") if isinstance(objective, Mapping) else None
    if sigma2 is not None:
        return check_number("sigma2", sigma2, above=0)
    if not isinstance(sigma, float):
        raise InputError("sigma2: the denoiser does not say at which noise it was trained; give its variance as sigma2")
    return float(f"{sigma**2:.9g}")


def judge(
    judged: Judged,
    out: str | Path,
    *,
    minutes: float,
    resume: bool = False,
    watcher: Watcher | None = None,
) -> Bundle:
    """Answer a question, into a bundle.

    Parameters
    ----------
    judged : Judged
        The question.
    out : path
        The bundle's folder.
    minutes : float
        About how long it may take.
    resume : bool
        Whether the folder may hold a part of this very answer.
    watcher : Watcher, optional
        Told how it goes.

    Returns
    -------
    Bundle
        Finished.
    """
    seconds = _measured(judged)
    reading = _begun(judged.question, Path(out)) if resume else None
    if reading is None:
        reading = chosen(judged, minutes=minutes, seconds=seconds)
    return run_experiment(
        reading,
        out,
        resume=resume,
        ops=judged.ops,
        watcher=watcher,
        data=judged.data,
        networks=judged.networks,
        seconds=seconds,
    )


def _measured(judged: Judged) -> dict[str, Passes]:
    """Seconds of each model's passes, of those that will be trained by networks like them."""
    networks = dict(judged.networks)
    if judged.question.train:
        first = next(efforts(judged.question))
        models = read_text(experiment_text(judged.question, first), "evaluate").experiment.models
        untrained = {name: model for name, model in models.items() if model.file is None}
        networks |= {name: network_for(model, judged.data, ops=judged.ops) for name, model in untrained.items()}
    return seconds_of(networks, judged.data.test.images(slice(0, 1)))


def chosen(judged: Judged, *, minutes: float, seconds: Mapping[str, Passes]) -> Reading:
    """The largest experiment that is expected to fit into a time; the smallest if none does.

    Parameters
    ----------
    judged : Judged
        The question.
    minutes : float
        The time.
    seconds : mapping
        As of `malade_ref.experiment.plan.plan_of`.
    """
    limit = 60 * check_number("minutes", minutes, above=0, maximum=MOST_MINUTES)
    trainable: dict[Sequence[int], bool] = {}
    reading: Reading | None = None
    for effort in efforts(judged.question):
        trainings = (effort.dae_epochs, effort.sdae_epochs)
        if not trainable.get(trainings, True):
            continue
        reading = read_text(experiment_text(judged.question, effort), "evaluate")
        steps = plan_of(reading.experiment, judged.data, seconds)
        before = sum(step.seconds for step in steps if step.kind in ("train", "search"))
        trainable[trainings] = before <= TRAINING_SHARE * limit
        if trainable[trainings] and sum(step.seconds for step in steps) <= limit:
            return reading
    last = list(efforts(judged.question))[-1]
    return read_text(experiment_text(judged.question, last), "evaluate")


def _begun(question: Question, out: Path) -> Reading | None:
    """The experiment that was begun in a folder, if it is one of this question."""
    if not (out / EXPERIMENT).is_file():
        return None
    text = (out / EXPERIMENT).read_bytes().decode(errors="replace")
    for effort in efforts(question):
        if experiment_text(question, effort) == text:
            return read_text(text, str(out / EXPERIMENT))
    return None


def verdict_of(bundle: Bundle, *, kept: bool = True) -> Verdict:
    """The verdict in a finished bundle.

    Parameters
    ----------
    bundle : Bundle
        Of `judge`.
    kept : bool
        Whether its folder stays.
    """
    results = load_json(bundle.path / RESULTS)
    titles = {attack["name"]: attack.get("title") or attack["name"] for attack in bundle.config["attacks"]}
    names = {name: defence["name"] for name, defence in bundle.config["defences"].items()}
    order = {name: number for number, name in enumerate(["clean", *titles])}
    rows = []
    cells = sorted(results["cells"].values(), key=lambda cell: (order.get(cell["attack"], math.inf), cell["eps"]))
    for cell in cells:
        attack = titles.get(cell["attack"], cell["attack"])
        rows.append(_row(attack, names[cell["defence"]], cell["eps"], cell["n"], cell["mean"]))
    main = results["main"]
    for name, defence in results["defences"].items():
        worst = defence["worst"].get(main["threat"])
        if worst:
            honest = worst["honest"]
            rows.append(_row("worst", names[name], main["eps"], honest["n"], honest["mean"]))
    return Verdict(
        rows,
        results["audit"],
        results,
        (bundle.path / "report.md").read_text(encoding="utf-8"),
        {path.name: path.read_bytes() for path in sorted((bundle.path / "figures").glob("*.png"))},
        bundle.path if kept else None,
    )


def _row(attack: str, defence: str, eps: float, n: int, share: Mapping[str, float]) -> dict[str, Any]:
    numbers = {key: share[key] for key in ("value", "low", "high")}
    return {"attack": attack, "defence": defence, "eps": eps, "n": n, **numbers}


def _shape(array: Any) -> str:
    return str(tuple(array.shape)) if hasattr(array, "shape") else type(array).__name__
