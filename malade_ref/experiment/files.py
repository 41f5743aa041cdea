"""The files of an experiment: the one that was named, merged over those that it extends.

``extends = "mnist"``, or an array of names, at the top of a file. A name is that of a built-in experiment, or of tables
that several of them share (``malade_ref/experiments/shared``); a user's file may also give the path of a TOML file,
from its own folder. Files are merged in the order in which they are named, and the extending file last: tables key by
key, an array of tables with names (such as ``[[attacks]]``) name by name, everything else is replaced.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from malade_ref.checks import InputError, check_number, fraction
from malade_ref.experiment.tables import nearest
from malade_ref.published import PREFIX
from malade_ref.storage.files import cannot_read, from_toml, open_regular

MAX_BYTES = 1 << 20
MAX_DEPTH = 8
MAX_FILES = 64

EXTENDS = "extends"
SHARED = "shared"


class _File(NamedTuple):
    """A file that was found.

    `name` is for complaints, `folder` where its relative paths begin (None for what is built in), `key` tells files
    apart.
    """

    name: str
    text: str
    folder: Path | None
    key: str


def built_in_experiments() -> dict[str, str]:
    """The experiments that come with the program.

    Returns
    -------
    dict of str to str
        Title by name.
    """
    found = {name: tomllib.loads(_built_in_text(name))["title"] for name in _built_in_names()}
    return dict(sorted(found.items()))


def read_files(source: str) -> tuple[str, dict[str, Any], str]:
    """Read an experiment's file and those that it extends.

    Parameters
    ----------
    source : str
        Name of a built-in experiment, or path of a TOML file.

    Returns
    -------
    file : str
        Its name, for complaints.
    table : dict
        All of them merged.
    text : str
        The file's text; those that it extends follow as comments.

    Raises
    ------
    InputError
        If a file is not found or not valid TOML, or files extend each other.
    """
    first = _named(source)
    texts: dict[str, _File] = {}
    table = _read(first, [], texts)
    others = [file for key, file in texts.items() if key != first.key]
    return first.name, table, "\n".join([first.text, *(_as_comment(file) for file in others)])


def merged(old: Any, new: Any, where: str) -> Any:
    """A value with changes.

    Parameters
    ----------
    old, new : object
        As TOML gives them. A table is changed key by key; an array of tables with names, by a table, item by item.
    where : str
        Their key, for complaints.

    Returns
    -------
    object
        A new value; the old one is not modified.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        changed = {
            key: merged(old[key], value, _join(where, key)) if key in old else value for key, value in new.items()
        }
        return {**copy.deepcopy(old), **copy.deepcopy(changed)}
    if isinstance(old, list) and isinstance(new, dict) and all(isinstance(item, dict) for item in old):
        items = {str(item.get("name")): item for item in old}
        for name in new:
            if name not in items:
                raise InputError(f"{where}: nothing is called {name!r}; {nearest(name, list(items))}")
        return [merged(item, new.get(name, {}), _join(where, name)) for name, item in items.items()]
    return copy.deepcopy(new)


def _read(file: _File, above: list[_File], texts: dict[str, _File]) -> dict[str, Any]:
    """A file's table over those that it extends; all files that were read are added to ``texts``."""
    chain = [*above, file]
    names = ", ".join(one.name for one in chain)
    if file.key in [one.key for one in above]:
        raise InputError(f"{above[-1].name}: {EXTENDS}: {names} extend each other; remove one")
    if len(chain) > MAX_DEPTH:
        raise InputError(f"{above[-1].name}: {EXTENDS}: at most {MAX_DEPTH} files may extend each other, got {names}")
    texts[file.key] = file
    if len(texts) > MAX_FILES:
        raise InputError(f"{file.name}: {EXTENDS}: more than {MAX_FILES} files; put some of them together")
    own = from_toml(file.name, file.text)
    take_sigma(own, f"{file.name}: ")
    _resolve_paths(own, file.folder)
    table: dict[str, Any] = {}
    for name in _extended(own.pop(EXTENDS, []), file.name):
        table = _over(table, _read(_found(name, file), chain, texts), file.name)
    return _over(table, own, file.name)


def _extended(value: Any, file: str) -> list[str]:
    """The names after ``extends``."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{file}: {EXTENDS}: expected the name of an experiment or of shared tables, or several")
    if len(set(names)) < len(names):
        raise InputError(f"{file}: {EXTENDS}: expected no name twice")
    return names


def _over(old: dict[str, Any], new: dict[str, Any], where: str) -> dict[str, Any]:
    """One file's table over another's: as `merged`, and arrays of tables with names are joined."""
    result = dict(old)
    for key, value in new.items():
        before: Any = old.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            result[key] = _over(before, value, f"{where}: {key}")
        elif _named_tables(before) and _named_tables(value):
            changes = {item["name"]: item for item in value}
            if len(changes) < len(value):
                raise InputError(f"{where}: {key}: expected names that differ from each other")
            kept = [_over(item, changes.pop(item["name"], {}), f"{where}: {key}") for item in before]
            result[key] = kept + list(changes.values())
        elif isinstance(before, list):
            result[key] = merged(before, value, f"{where}: {key}")
        else:
            result[key] = value
    return result


def _named_tables(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in value)
    )


def _found(name: str, by: _File) -> _File:
    """A file that another one extends."""
    if name.endswith(".toml") and by.folder is not None:
        path = by.folder / name
        return _user_file(str(path), f"{by.name}: {EXTENDS}: ")
    for folder in (SHARED, ""):
        if name in _built_in_names(folder):
            return _built_in_file(name, folder)
    known = [*_built_in_names(), *_built_in_names(SHARED)]
    mend = ", or the path of a TOML file" if by.folder is not None else ""
    raise InputError(f"{by.name}: {EXTENDS}: nothing is called {name!r}; {nearest(name, known)}{mend}")


def _named(source: str) -> _File:
    """The file that a command names."""
    if source in _built_in_names():
        return _built_in_file(source, "")
    if not source.endswith(".toml") and not Path(source).is_file():
        names = _built_in_names()
        raise InputError(f"{source}: no such experiment; {nearest(source, names)}, or the path of a TOML file")
    return _user_file(source, "")


def _user_file(path: str, where: str) -> _File:
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
    except InputError as error:
        raise InputError(f"{where}{error}") from None
    except OSError as error:
        raise InputError(f"{where}{cannot_read(path, error)}") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{where}{path}: larger than {MAX_BYTES} bytes; give the TOML file of an experiment")
    try:
        return _File(path, content.decode(), Path(path).parent, str(Path(path).resolve()))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}{path}: not valid TOML (not UTF-8); give the TOML file of an experiment") from error


def _built_in_file(name: str, folder: str) -> _File:
    return _File(f"{name}.toml", _built_in_text(name, folder), None, f"built in: {folder}/{name}")


def _built_in_names(folder: str = "") -> list[str]:
    entries = _folder(folder).iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


def _built_in_text(name: str, folder: str = "") -> str:
    return str(_folder(folder).joinpath(f"{name}.toml").read_text(encoding="utf-8"))


def _folder(name: str) -> Any:
    top = resources.files("malade_ref").joinpath("experiments")
    return top.joinpath(name) if name else top


def _resolve_paths(table: dict[str, Any], folder: Path | None) -> None:
    """Networks that a user's file names lie where it lies."""
    for model in _models(table):
        file = model.get("file")
        if folder is not None and isinstance(file, str) and file and not file.startswith(PREFIX):
            model["file"] = str(folder / Path(file).expanduser())


def _models(table: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Tables of models, at the top and in scales."""
    scales = table.get("scales", {})
    for part in [table, *(scales.values() if isinstance(scales, dict) else [])]:
        models = part.get("models", {}) if isinstance(part, dict) else {}
        if isinstance(models, dict):
            yield from (model for model in models.values() if isinstance(model, dict))


def take_sigma(table: dict[str, Any], where: str) -> None:
    """Write the noise of denoisers and of certificates as one setting: ``sigma`` becomes its square, ``sigma2``.

    Parameters
    ----------
    table : dict
        Of an experiment, as a file or a change of it says it; modified.
    where : str
        Where it comes from, for complaints.
    """
    scales = table.get("scales", {})
    parts = [table, *(scales.values() if isinstance(scales, dict) else [])]
    certify = [part.get("certify") for part in parts if isinstance(part, dict)]
    for settings in [*_models(table), *(one for one in certify if isinstance(one, dict))]:
        if "sigma" not in settings:
            continue
        if "sigma2" in settings:
            raise InputError(f"{where}sigma: sigma2, its square, is there, too; remove one of them")
        sigma = check_number(f"{where}sigma", fraction(settings.pop("sigma")), above=0, maximum=1e6)
        settings["sigma2"] = float(f"{sigma**2:.15g}")  # 0.1 gives 0.01, as who writes the square has it


def _as_comment(file: _File) -> str:
    lines = [f"{file.name}, which is extended above:", "", *file.text.splitlines()]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _join(where: str, key: str) -> str:
    return where + key if where.endswith(" ") else f"{where}.{key}"
