"""The strict protocol for anybody's classifier: the attacks of ``honest.toml``, sized for a threat and for a time.

What is written here is an experiment like any other, as a file of TOML has it: the classifier, bare and perhaps behind
a chain; the protocol's attacks; audit, pictures, report. Lengths of the protocol are those for L-infinity 0.3; for
another size they are scaled with it. How many images and steps there are, an `Effort` says.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from malade_ref.attacks.cards import card_of
from malade_ref.experiment.files import read_files
from malade_ref.network import fitting
from malade_ref.report.labels import threat_label

PROTOCOL = "honest"
MODEL, DEFENDED, DAE, SDAE = "model", "model+malade", "dae", "sdae"
# What the classifier and its defence are called in the protocol.
_NAMES = {"cnn": MODEL, "cnn+malade": DEFENDED}
# Of its length, the longest step of an attack.
_LONGEST_STEP = 0.25
# For a model without gradients the protocol has one attack that asks for none; this is another.
_SPSA = {"name": "spsa", "title": "SPSA", "method": "spsa", "num_steps": 20, "num_directions": 32}
NORMS = ("linf", "l2")


class Effort(NamedTuple):
    """How much is done.

    Attributes
    ----------
    num_images : int
        Test images, at most.
    steps : float
        Share of the protocol's steps of attacks.
    num_draws : int
        Fresh draws of a random defence's noise for the verdict.
    sizes : bool
        Whether attacks that the protocol makes at several sizes are made at all of them; else at two.
    dae_epochs, sdae_epochs : int
        Of the trainings, if there are any.
    grid_images : int
        Validation images of the search, if there is one.
    """

    num_images: int
    steps: float
    num_draws: int
    sizes: bool
    dae_epochs: int = 30
    sdae_epochs: int = 5
    grid_images: int = 200


# From the protocol's own down to what takes next to nothing.
JUDGING = (
    Effort(200, 1.0, 128, True),
    Effort(100, 1.0, 128, True),
    Effort(100, 0.5, 64, False),
    Effort(50, 0.5, 64, False),
    Effort(50, 0.25, 32, False),
    Effort(20, 0.25, 32, False),
    Effort(10, 0.125, 20, False),
)
TRAINING = ((30, 5, 200), (15, 3, 200), (8, 2, 100), (4, 1, 100), (2, 1, 50), (1, 1, 20))


class Chain(NamedTuple):
    """A chain whose settings are known, in front of the classifier.

    Attributes
    ----------
    num_steps, a, delta, clip
        As of `malade_ref.MALADE`.
    sigma2 : float
        Variance of the noise that the denoiser was trained on.
    """

    num_steps: int
    a: float
    delta: float
    clip: bool
    sigma2: float


class Question(NamedTuple):
    """What is judged, and how.

    Attributes
    ----------
    title : str
        What reports call the classifier.
    file : str
        Where it is from.
    data : str
        Name of the data.
    data_seed : int
        Of synthetic data.
    shape : tuple of int
        (c, h, w) of an image.
    num_test, num_validation : int
        How many images there are.
    norm, eps : str and float
        The threat.
    seed : int
        Of everything random.
    gradients : bool
        Whether the classifier has any.
    num_classes : int
        How many logits it gives.
    chain : Chain, optional
        In front of the classifier.
    denoiser : str
        Where its denoiser is from.
    train : bool
        Whether denoisers are trained and the chain is searched for.
    sigma2 : float, optional
        For that: variance of the noise; by default the paper's for grey or for colour images.
    num_images : int, optional
        Test images, at most.
    """

    title: str
    file: str
    data: str
    data_seed: int
    shape: tuple[int, ...]
    num_test: int
    num_validation: int
    norm: str
    eps: float
    seed: int
    gradients: bool
    num_classes: int
    chain: Chain | None = None
    denoiser: str = ""
    train: bool = False
    sigma2: float | None = None
    num_images: int | None = None


def efforts(question: Question) -> Iterator[Effort]:
    """All sizes of an experiment, those of its trainings before those of its judgement, from the largest on.

    Parameters
    ----------
    question : Question
        What is judged.
    """
    for dae_epochs, sdae_epochs, grid_images in TRAINING if question.train else TRAINING[:1]:
        for effort in JUDGING:
            yield effort._replace(dae_epochs=dae_epochs, sdae_epochs=sdae_epochs, grid_images=grid_images)


def experiment_text(question: Question, effort: Effort) -> str:
    """The experiment, as a TOML file has it.

    Parameters
    ----------
    question : Question
        What is judged.
    effort : Effort
        With how much work.

    Returns
    -------
    str
        For `malade_ref.experiment.reading.read_text`.
    """
    honest = _protocol()
    scale = question.eps / honest["report"]["eps"]
    defended = question.chain is not None or question.train
    num_images = min(question.num_test, effort.num_images, question.num_images or effort.num_images)
    threat = threat_label(question.norm, question.eps)
    table: dict[str, Any] = {
        "name": "defend" if question.train else "evaluate",
        "title": f"{question.title} on {question.data}, {threat}: the strict protocol",
        "note": f"Sized for a time: {num_images} images, {100 * effort.steps:g}% of the protocol's steps. More of both "
        "may find more. Attacks beyond these may do better still.",
        "seed": question.seed,
        "data": {"name": question.data, "seed": question.data_seed},
        "models": _models(question, effort),
        "defences": _defences(question, effort, scale),
        "attacks": [
            *_attacks(honest["attacks"], question, effort, scale, defended=defended),
            *([_spsa(question, effort, defended=defended)] if not question.gradients else []),
        ],
        "evaluation": {
            "num_images": num_images,
            "num_draws": effort.num_draws,
            "shard_size": min(num_images, honest["evaluation"]["shard_size"]),
            "quality_images": min(question.num_test, 5 * num_images),
        },
        "audit": {"eot_images": min(num_images, 16), "eot_draws": 32 if effort.steps == 1 else 8, "gradient_images": 4},
        "pictures": {"num_images": min(num_images, honest["pictures"]["num_images"])},
        "report": {"norm": question.norm, "eps": question.eps},
    }
    if question.train and question.gradients:
        paths = {"defence": DEFENDED, "marginal": DAE, "attack": "pgd", "eps": question.eps}
        table["paths"] = {**paths, "num_images": min(3, num_images)}
    head = "# The attacks of honest.toml for a model, a size and a time: written by malade evaluate or malade defend.\n"
    return head + to_toml(table)


@cache
def _protocol() -> dict[str, Any]:
    """The protocol's table, which nobody changes."""
    return read_files(PROTOCOL)[1]


def _models(question: Question, effort: Effort) -> dict[str, Any]:
    models: dict[str, Any] = {MODEL: {"kind": "classifier", "name": question.title, "file": question.file}}
    if question.chain is not None:
        sigma2 = question.chain.sigma2
        models[SDAE] = {"kind": "denoiser", "name": "denoiser", "file": question.denoiser, "sigma2": sigma2}
    if question.train:
        models |= denoisers(question.shape, question.sigma2)
        models[DAE]["epochs"] = effort.dae_epochs
        models[SDAE] |= {"epochs": effort.sdae_epochs, "classifier": MODEL, "name": f"sDAE of {question.title}"}
    return models


def denoisers(shape: Sequence[int], sigma2: float | None = None) -> dict[str, Any]:
    """Tables of a DAE and an sDAE for images of a shape, as in the project's own experiments.

    Parameters
    ----------
    shape : sequence of int
        (c, h, w) of an image.
    sigma2 : float, optional
        Variance of the noise; by default 0.15 for grey images and 0.01 for others, as in the paper.

    Returns
    -------
    dict
        ``dae`` and ``sdae``, without epochs and classifier.
    """
    grey = shape[0] == 1
    common = {"kind": "denoiser", "sigma2": (0.15 if grey else 0.01) if sigma2 is None else sigma2}
    if tuple(shape) == (1, 28, 28):  # the paper's network
        return {
            DAE: {**common, "name": "DAE", "network": "sdae", "learning_rate": 4e-3},
            SDAE: {**common, "network": "sdae", "init": DAE, "learning_rate": 1e-3},
        }
    common |= {"network": fitting("denoiser", shape), "preset": "small"}
    return {
        DAE: {**common, "name": "DAE", "learning_rate": 2e-3},
        SDAE: {**common, "init": DAE, "learning_rate": 5e-4},
    }


def _defences(question: Question, effort: Effort, scale: float) -> dict[str, Any]:
    defences: dict[str, Any] = {MODEL: {"name": question.title, "classifier": MODEL}}
    chained = {"name": f"{question.title} + MALADE", "classifier": MODEL, "denoiser": SDAE}
    if question.chain is not None:
        chain = question.chain._asdict()
        del chain["sigma2"]
        defences[DEFENDED] = {**chained, **chain}
    if question.train:
        defences[DEFENDED] = {**chained, "search": _search(question, effort, scale)}
    return defences


def _search(question: Question, effort: Effort, scale: float) -> dict[str, Any]:
    """The grid of the project's own experiments, on grey or on colour images."""
    grey = question.shape[0] == 1
    step = _step_size(0.02 * scale, question.eps, 0.5)
    return {
        "num_steps": [1, 5, 10, 20] if grey else [1, 2, 5, 10],
        "a": [0.2, 0.5, 1.0],
        "delta": [0.02, 0.05, 0.15] if grey else [0.01, 0.03, 0.1],
        "num_images": min(question.num_validation, effort.grid_images),
        "attack": {
            "method": "pgd" if question.gradients else "square",
            "eps": question.eps,
            "norm": question.norm,
            **({"step_size": step, "num_steps": 20} if question.gradients else {"num_steps": 200}),
        },
    }


def _attacks(
    protocol: Sequence[Mapping[str, Any]], question: Question, effort: Effort, scale: float, *, defended: bool
) -> Iterator[dict[str, Any]]:
    """The protocol's attacks on what there is, at other sizes."""
    for original in protocol:
        attack = copy.deepcopy(dict(original))
        card = card_of(attack["method"])
        own = ("name", "title", "method", "against", "eps", "source")
        profile = card.profile({key: value for key, value in attack.items() if key not in own})
        attack["against"] = [_NAMES[name] for name in attack["against"] if defended or _NAMES[name] == MODEL]
        without = not question.gradients and profile.gradient != "none"
        if not attack["against"] or without or question.num_classes < fewest_classes(attack):
            continue
        if question.norm != profile.norm:
            if "norm" in card.parameters:
                attack["norm"] = question.norm
            elif attack["method"] == "fgsm":
                attack |= {"method": "fgm", "title": "FGM"}
            else:
                continue
        attack["eps"] = _radii(attack["eps"], question, effort, scale)
        if "num_steps" in attack:
            attack["num_steps"] = max(1, round(attack["num_steps"] * effort.steps))
        if "step_size" in attack:
            attack["step_size"] = _step_size(attack["step_size"] * scale, question.eps, effort.steps)
        yield attack


def fewest_classes(attack: Mapping[str, Any]) -> int:
    """How many logits an attack needs: its loss compares the largest ones.

    Parameters
    ----------
    attack : mapping
        Its table.
    """
    return 3 if attack.get("loss") == "dlr" else 2


def _radii(radii: Sequence[float], question: Question, effort: Effort, scale: float) -> list[float]:
    """Sizes around that of the question: all of the protocol's, or one more, which is smaller."""
    found = [radius * scale for radius in radii]
    found = [question.eps if abs(radius - question.eps) < 1e-9 * question.eps else radius for radius in found]
    if not effort.sizes and len(found) > 1:
        found = [question.eps / 2, question.eps]
    return [radius for radius in found if question.norm != "linf" or radius <= 1]


def _step_size(step: float, eps: float, share: float) -> float:
    """Fewer steps are longer, so that an attack still reaches all of its ball."""
    return min(step / share, _LONGEST_STEP * eps)


def _spsa(question: Question, effort: Effort, *, defended: bool) -> dict[str, Any]:
    against = [MODEL, DEFENDED] if defended else [MODEL]
    num_steps = max(1, round(_SPSA["num_steps"] * effort.steps))  # type: ignore[operator]
    sizes = {"eps": [question.eps], "norm": question.norm, "step_size": question.eps / 5, "width": question.eps / 10}
    return {**_SPSA, "against": against, "num_steps": num_steps, **sizes}


def to_toml(table: Mapping[str, Any]) -> str:
    """Write a table of tables, words, numbers and arrays.

    Parameters
    ----------
    table : mapping
        As `tomllib` gives it back.

    Returns
    -------
    str
        TOML: plain values first, a table each below.
    """
    lines: list[str] = []
    _write(table, (), lines)
    return "\n".join(lines).strip() + "\n"


def _write(table: Mapping[str, Any], keys: tuple[str, ...], lines: list[str]) -> None:
    below = {key: value for key, value in table.items() if _is_table(value)}
    if keys and (len(below) < len(table) or not table):
        lines += ["", f"[{_key(keys)}]"]
    lines += [f"{_key((key,))} = {_value(value)}" for key, value in table.items() if key not in below]
    for key, value in below.items():
        for item in value if isinstance(value, list) else ():
            lines += ["", f"[[{_key((*keys, key))}]]"]
            lines += [f"{_key((name,))} = {_value(entry)}" for name, entry in item.items()]
        if isinstance(value, Mapping):
            _write(value, (*keys, key), lines)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
    )


def _key(keys: Sequence[str]) -> str:
    return ".".join(key if key.replace("-", "").replace("_", "").isalnum() else json.dumps(key) for key in keys)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
