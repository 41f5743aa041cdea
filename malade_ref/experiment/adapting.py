"""An experiment on other data than its file is about, and at another size of the perturbation.

Networks that do not take the images are others, noise and steps of denoisers for colour images are those of the colour
experiments, and no more images are asked for than there are. Sizes in the norm of the report are scaled to the one that
is asked for, and lengths of steps with them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from malade_ref.attacks.cards import CARDS
from malade_ref.checks import InputError, check_eps
from malade_ref.datasets import Dataset
from malade_ref.experiment.protocol import denoisers, fewest_classes
from malade_ref.network import BUILDERS, fitting, parameters_of

# Parts of an experiment that quote sizes of the paper.
_QUOTING = ("tables", "figures", "sheets", "perturbations", "walks")
_COLOUR_DELTAS = [0.01, 0.03, 0.1]
# Settings of an attack that are lengths in its norm.
_LENGTHS = ("eps", "step_size")


class Wish(NamedTuple):
    """What an experiment is to be brought to.

    Attributes
    ----------
    data : Dataset, optional
        Images in place of the file's.
    eps : float, optional
        Size of the perturbation in place of that of ``[report]``.
    """

    data: Dataset | None = None
    eps: float | None = None


def adapted(table: Mapping[str, Any], wish: Wish, file: str) -> tuple[dict[str, Any], list[str]]:
    """An experiment's table for other images, or another size.

    Parameters
    ----------
    table : mapping
        As TOML gives it, merged.
    wish : Wish
        What is wanted.
    file : str
        For complaints.

    Returns
    -------
    table : dict
        A new one.
    notes : list of str
        What was changed besides what was asked for, a line each.

    Raises
    ------
    InputError
        If the experiment has no size of its own, or speaks of the paper's.
    """
    found: dict[str, Any] = copy.deepcopy(dict(table))
    notes: list[str] = []
    if wish.data is not None:
        notes += _onto(found, wish.data)
    if wish.eps is not None:
        _to_size(found, wish.eps, file)
    return found, notes


def _onto(table: dict[str, Any], data: Dataset) -> Iterator[str]:
    """Change a table to other images; yields what was changed."""
    table.setdefault("data", {})["name"] = data.name
    counts = {split: len(getattr(data, split)) for split in ("train", "validation", "test")}
    for split, count in counts.items():
        if table["data"].get(split, count) > count:
            table["data"][split] = count
    table["data"] = {key: value for key, value in table["data"].items() if value != counts.get(key)}
    counts |= {split: table["data"].get(split, count) for split, count in counts.items()}
    yield from _cut(table, counts["test"], counts["validation"], data.name)
    for name, model in _tables(table, "models"):
        if isinstance(model.get("subset"), int) and model["subset"] > counts["train"] > 0:
            del model["subset"]
            yield f"models.{name}.subset: left out, {data.name} has {counts['train']} training images"
    yield from _networks(table, data)
    attacks = _listed(table, "attacks")
    lost = [attack for attack in attacks if data.num_classes < fewest_classes(attack)]
    if lost:
        table["attacks"] = [attack for attack in attacks if attack not in lost]
        for attack in lost:
            yield f"attacks.{attack.get('name')}: left out, its loss needs {fewest_classes(attack)} classes"


def _cut(table: dict[str, Any], num_test: int, num_validation: int, name: str) -> Iterator[str]:
    """No more images than there are."""
    named = [(key, table.get(key, {})) for key in ("evaluation", "certify", "pictures")]
    named += [(f"attacks.{attack.get('name')}", attack) for attack in _listed(table, "attacks")]
    wanted = [(where, part, num_test, "test") for where, part in named if isinstance(part, dict)]
    for defence, part in _tables(table, "defences"):
        if isinstance(part.get("search"), dict):
            wanted.append((f"defences.{defence}.search", part["search"], num_validation, "validation"))
    for where, part, most, split in wanted:
        if isinstance(part.get("num_images"), int) and part["num_images"] > most > 0:
            part["num_images"] = most
            yield f"{where}.num_images = {most}, the {split} images of {name}"


def _networks(table: dict[str, Any], data: Dataset) -> Iterator[str]:
    """Networks that take the images."""
    recipes, changed = denoisers(data.shape), {}
    for name, model in _tables(table, "models"):
        kind = model.get("kind")
        if kind not in BUILDERS or model.get("file") or model.get("network", "") not in ("", *BUILDERS[kind]):
            continue  # which is complained about later
        other = fitting(kind, data.shape)
        if other is None or "input_shape" in parameters_of(kind, model.get("network")):
            continue
        model |= {"network": other, "preset": "small"}
        said = f"models.{name}: network {other}, preset small, for images of {' x '.join(map(str, data.shape))}"
        if kind == "denoiser":
            recipe = recipes["sdae" if "init" in model else "dae"]
            changed[model.get("sigma2")] = recipe["sigma2"]
            model |= {key: recipe[key] for key in ("sigma2", "learning_rate")}
            said += f", sigma2 {recipe['sigma2']:g}"
        yield said
    certify = table.get("certify", {})
    if isinstance(certify, dict) and certify.get("sigma2") in changed:
        certify["sigma2"] = changed[certify["sigma2"]]
    if changed and data.shape[0] != 1:
        for name, defence in _tables(table, "defences"):
            if isinstance(defence.get("search"), dict):
                defence["search"]["delta"] = list(_COLOUR_DELTAS)
                yield f"defences.{name}.search: delta of {', '.join(map(str, _COLOUR_DELTAS))}, for colours"


def _to_size(table: dict[str, Any], eps: float, file: str) -> None:
    """Scale a table to another size of the perturbation."""
    report = table.get("report")
    if not isinstance(report, dict) or not isinstance(report.get("eps"), int | float) or not report["eps"] > 0:
        raise InputError(f"--eps: {file} has no [report] with a size; use --set attacks.NAME.eps=...")
    quoting = [name for name in _QUOTING if table.get(name)]
    if quoting:
        raise InputError(f"--eps: {file} has {quoting[0]} at the paper's sizes; take honest, or use --set")
    norm = report.get("norm", "linf")
    if not check_eps(eps, norm) > 0:
        raise InputError("--eps: expected a number > 0, got 0")
    scale = eps / report["eps"]

    def scaled(value: Any) -> Any:
        if isinstance(value, list):
            found = dict.fromkeys(scaled(one) for one in value)
            return [one for one in found if norm != "linf" or one <= 1]
        if not isinstance(value, int | float):
            return value
        return eps if abs(value * scale - eps) < 1e-9 * eps else value * scale

    methods: list[Any] = list(_listed(table, "attacks"))
    for _, defence in _tables(table, "defences"):
        methods.append((defence.get("search") or {}).get("attack"))
    for _, model in _tables(table, "models"):
        methods += [model.get("adversarial"), model.get("robust_check")]
    for method in methods:
        if isinstance(method, dict) and _norm_of(method) == norm:
            for key in _LENGTHS:
                if key in method:
                    method[key] = scaled(method[key])
    if isinstance(table.get("paths"), dict):
        table["paths"]["eps"] = scaled(table["paths"].get("eps"))
    report["eps"] = eps
    table.pop("paper", None)


def _norm_of(method: Mapping[str, Any]) -> str:
    """Norm of an attack's ball; of none that there is, nothing is scaled, and it is complained about later."""
    card = CARDS.get(str(method.get("method")))
    if card is None:
        return ""
    settings = {key: value for key, value in method.items() if key in card.parameters and key != "eps"}
    return card.profile(settings).norm


def _tables(table: Mapping[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    part = table.get(key)
    return [(name, one) for name, one in part.items() if isinstance(one, dict)] if isinstance(part, dict) else []


def _listed(table: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    part = table.get(key)
    return [one for one in part if isinstance(one, dict)] if isinstance(part, list) else []
