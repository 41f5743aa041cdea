"""From a name or a path, and the changes of a command line, to an `Experiment`.

The file is merged over those that it extends (see `malade_ref.experiment.files`), and changes over the file, in this
order: the scale that is asked for (``[scales.<name>]``), then each ``key=value``. What comes out is checked as if it
had been in one file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from malade_ref.checks import InputError, fraction, printable
from malade_ref.experiment.adapting import Wish, adapted
from malade_ref.experiment.config import FURTHER, Experiment, Model, check_experiment
from malade_ref.experiment.files import built_in_experiments, merged, read_files, take_sigma
from malade_ref.experiment.pictures import KINDS
from malade_ref.experiment.tables import nearest, read_table
from malade_ref.published import PREFIX
from malade_ref.storage.files import MAX_PARTS, from_toml

__all__ = [
    "Reading",
    "built_in_experiments",
    "experiment_of",
    "parse_change",
    "read_experiment",
    "read_text",
    "settings_of",
]

_KEY = re.compile(r"\"([^\"]+)\"|'([^']+)'|([^.\"'=\s]+)")


class Reading(NamedTuple):
    """An experiment that was read.

    Attributes
    ----------
    experiment : Experiment
        With all changes.
    text : str
        The file's text, without them; those that it extends follow as comments.
    notes : tuple of str
        What was changed so that other data fit, a line each.
    """

    experiment: Experiment
    text: str
    notes: tuple[str, ...] = ()


def read_experiment(source: str, changes: Sequence[str] = (), wish: Wish | None = None) -> Reading:
    """Read and check an experiment.

    Parameters
    ----------
    source : str
        Name of a built-in experiment, or path of a TOML file.
    changes : sequence of str
        Each ``key=value``: the key dotted, the value in TOML's syntax, or a word. ``scale=NAME`` selects a scale.
    wish : Wish, optional
        Other data, or another size, which the experiment is brought to before the changes.
    """
    file, table, text = read_files(source)
    scales = table.pop("scales", {})
    if not isinstance(scales, dict):
        raise InputError(f"{file}: scales: expected tables [scales.<name>]")
    written = _parse(table, file)
    for name, scale in scales.items():
        _parse(_scaled(table, name, scale, file), f"{file}: scales.{name}")
    pairs = [parse_change(change) for change in changes]
    for (key, *rest), value in pairs:
        if key == "scale" and not rest:
            if value not in scales:
                raise InputError(f"--set scale: {file} has no scale {value!r}; {nearest(str(value), list(scales))}")
            table = _scaled(table, value, scales[value], file)
    notes: list[str] = []
    if wish is not None:
        table, notes = adapted(table, wish, file)
    for keys, value in pairs:
        if keys != ["scale"]:
            _check_subject(table, keys)
            change: Any = value
            for key in reversed(keys):
                change = {key: change}
            take_sigma(change, f"--set {'.'.join(keys[:-1])}.")
            table = merged(table, change, "--set ")
    experiment = _parse(table, f"{file} with --set" if changes else file)
    return Reading(_with_published(_with_data(experiment, written), written), text, tuple(notes))


def read_text(text: str, file: str) -> Reading:
    """Read and check an experiment that is in no file, and extends none.

    Parameters
    ----------
    text : str
        TOML.
    file : str
        What to call it, for complaints.
    """
    return Reading(_parse(from_toml(file, text), file), text)


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """Settings as JSON: everything that the results depend on.

    Parameters
    ----------
    experiment : Experiment
        The experiment.

    Returns
    -------
    dict
        Nested; attacks with all their settings, defaults included.
    """
    settings: dict[str, Any] = json.loads(json.dumps(asdict(experiment)))
    del settings["about"]  # has had its effect, and changes no result
    del settings["store"], settings["published"]  # no result depends on them but by the networks
    for name, model in settings["models"].items():
        further = experiment.models[name].further_settings()
        for key in FURTHER:
            del model[key]
            if key in further:
                model[key] = further[key]
        if model["file"] is None:
            del model["file"]
        del model["published"]
        for key in ("network", "depth", "width", "mean", "std"):
            if model[key] is None:
                del model[key]
    for name, defence in experiment.defences.items():
        if defence.search is not None and defence.search.against == "classifier":
            for key in ("against", "num_rounds"):
                del settings["defences"][name]["search"][key]
    if not experiment.evaluation.early_stop:
        del settings["evaluation"]["early_stop"]
    if experiment.evaluation.quality_images is None:
        del settings["evaluation"]["quality_images"]
    if not experiment.audit.binarisation_images:
        del settings["audit"]["binarisation_images"], settings["audit"]["binarisation_eps"]
    if not experiment.audit.convergence:
        del settings["audit"]["convergence"]
    for key in ("tables", "figures", *KINDS):
        if not settings[key]:
            del settings[key]
    for attack, table in zip(experiment.attacks, settings["attacks"], strict=True):
        if not attack.family:
            del table["family"]
        table["settings"] = attack.resolved()
    return settings


def experiment_of(config: Mapping[str, Any], file: str) -> Experiment:
    """The experiment that a bundle's configuration is of.

    Parameters
    ----------
    config : mapping
        What `settings_of` gave, with facts on data and models from files.
    file : str
        For complaints.

    Returns
    -------
    Experiment
        With all settings; what is published beside it, and networks' files, are left out.

    Raises
    ------
    InputError
        If they are no experiment's of this version.
    """

    def method(table: Mapping[str, Any]) -> dict[str, Any]:
        settings = {key: value for key, value in table["settings"].items() if key != "seed"}
        return {**{key: value for key, value in table.items() if key != "settings"}, **settings}

    def model(table: Mapping[str, Any]) -> dict[str, Any]:
        attacks = {key: table.get(key) for key in ("adversarial", "robust_check")}
        return {**table, "file": None, **{key: method(attack) if attack else None for key, attack in attacks.items()}}

    def defence(table: Mapping[str, Any]) -> dict[str, Any]:
        search = table.get("search")
        return {**table, "search": {**search, "attack": method(search["attack"])} if search else None}

    def attack(table: Mapping[str, Any]) -> dict[str, Any]:
        return {**method(table), "eps": table["eps"]}

    known = {
        **{key: value for key, value in config.items() if key not in ("backend", "precision", "paper")},
        "data": {key: config["data"][key] for key in ("name", "seed", "train", "validation", "test")},
        "models": {name: model(table) for name, table in config["models"].items()},
        "defences": {name: defence(table) for name, table in config["defences"].items()},
        "attacks": [attack(table) for table in config["attacks"]],
    }
    return read_table(Experiment, _without_nothing(known), file=file)


def _without_nothing(value: Any) -> Any:
    """A JSON value without keys whose value is null, which stand for what was left out."""
    if isinstance(value, Mapping):
        return {key: _without_nothing(item) for key, item in value.items() if item is not None}
    return [_without_nothing(item) for item in value] if isinstance(value, list) else value


def parse_change(change: str) -> tuple[list[str], Any]:
    """Take ``key=value`` apart.

    Parameters
    ----------
    change : str
        The key dotted, parts of it quoted if need be; the value in TOML's syntax, or a word.

    Returns
    -------
    keys : list of str
        Parts of the key.
    value : object
        The value.
    """
    text, equals, value = change.partition("=")
    keys, position = [], 0
    while match := _KEY.match(text.strip(), position):
        keys.append(next(filter(None, match.groups())))
        position = match.end() + 1
        if text.strip()[match.end() : position] != ".":
            break
    if not equals or not keys or position <= len(text.strip()) or len(keys) > MAX_PARTS:
        raise InputError(f"--set: expected key=value, such as seed=1 or models.cnn.epochs=2; got {printable(change)!r}")
    try:
        found = from_toml(f"--set {printable(text, 60)}", f"value = {value}")
    except InputError as error:
        if isinstance(error.__cause__, tomllib.TOMLDecodeError):
            return keys, value
        raise
    return keys, found["value"] if len(found) == 1 else value


def _parse(table: Mapping[str, Any], file: str) -> Experiment:
    experiment = read_table(Experiment, _varied(table, file), file=file)
    check_experiment(experiment, file)
    return experiment


def _varied(table: Mapping[str, Any], file: str) -> Mapping[str, Any]:
    """An experiment's table in which every attack that varies a setting is several, one for each value."""
    attacks = table.get("attacks")
    if not isinstance(attacks, list):
        return table
    found: list[Any] = []
    for attack in attacks:
        if not isinstance(attack, Mapping) or "vary" not in attack:
            found.append(attack)
            continue
        name = attack.get("name")
        where = f"{file}: attacks.{name}.vary"
        if not isinstance(name, str):
            raise InputError(f"{file}: attacks: one without a name varies a setting; name it")
        vary = attack["vary"]
        if not isinstance(vary, Mapping) or len(vary) != 1:
            raise InputError(f"{where}: expected a table of one setting, such as {{ num_steps = [10, 20] }}")
        ((key, values),) = vary.items()
        values = [fraction(value) for value in values] if isinstance(values, list) else values
        numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
        if not numbers or not values or len({f"{value:g}" for value in values}) < len(values):
            raise InputError(f"{where}.{key}: expected an array of different numbers")
        if key in attack:
            raise InputError(f"{where}.{key}: the attack has this setting, too; remove one of them")
        rest = {name: value for name, value in attack.items() if name != "vary"}
        for value in values:
            # A name has no point in it.
            number = f"{value:g}".replace(".", ",")
            title = f"{attack.get('title') or name}, {key.removeprefix('num_').replace('_', ' ')} {value:g}"
            found.append({**rest, "name": f"{name}-{number}", "title": title, "family": name, key: value})
    return {**table, "attacks": found}


def _with_published(experiment: Experiment, written: Experiment) -> Experiment:
    """An experiment whose models take the published networks that they name.

    A model whose settings a scale or a change by hand makes others is trained, and so is what rests on it.
    """
    if not experiment.published or experiment.data.name != experiment.about:
        return experiment
    taken: dict[str, Model] = {}
    for name in experiment.training_order():
        model = experiment.models[name]
        as_written = written.models.get(name)
        same = as_written is not None and model == replace(as_written, name=model.name, note=model.note)
        whole = experiment.data.train == written.data.train
        rests_on = {model.init, model.classifier, model.teacher} - {None}
        if model.published and not model.file and same and whole and rests_on <= taken.keys():
            taken[name] = replace(model, file=f"{PREFIX}{model.published}")
    return replace(experiment, models={**experiment.models, **taken})


def _with_data(experiment: Experiment, written: Experiment) -> Experiment:
    """An experiment on other data than its file speaks of: named after the data, without what the file says of its own.

    What was set by a scale or by hand stays.
    """
    data = experiment.data.name
    if not experiment.about or experiment.about == data:
        return experiment
    models = {
        name: replace(model, note="") if name in written.models and model.note == written.models[name].note else model
        for name, model in experiment.models.items()
    }
    return replace(
        experiment,
        title=f"{experiment.name} on {data}" if experiment.title == written.title else experiment.title,
        note="" if experiment.note == written.note else experiment.note,
        models=models,
        paper=() if experiment.paper == written.paper else experiment.paper,
        tables=tuple(replace(table, paper=None, note="") for table in experiment.tables),
    )


def _check_subject(table: Mapping[str, Any], keys: list[str]) -> None:
    """Raise if a setting is for a model or a defence that does not exist: it would make one that has nothing else."""
    known = table.get(keys[0])
    if keys[0] in ("models", "defences") and len(keys) > 2 and isinstance(known, dict) and keys[1] not in known:
        raise InputError(f"--set {keys[0]}: nothing is called {keys[1]!r}; {nearest(keys[1], list(known))}")


def _scaled(table: Mapping[str, Any], name: str, scale: Any, file: str) -> dict[str, Any]:
    if not isinstance(scale, dict):
        raise InputError(f"{file}: scales.{name}: expected a table")
    return {**merged(table, scale, f"{file}: scales.{name}"), "scale": name}
