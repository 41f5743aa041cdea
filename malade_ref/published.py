"""Trained networks that come with the project: ``published:NAME`` wherever the path of a network is asked for.

They lie in ``data/models`` of the repository, in half precision, with ``SHA256SUMS`` (as ``sha256sum`` writes it) and a
model card each. An installation that is not one of the repository has none.
"""

from __future__ import annotations

import re
from pathlib import Path

from .checks import InputError, printable
from .storage.files import cannot_read, file_sha256, open_regular

PREFIX = "published:"
FOLDER = Path(__file__).resolve().parents[1] / "data" / "models"
SUMS = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64})  ([a-z0-9][a-z0-9-]*)\.h5")


def published_networks() -> dict[str, str]:
    """SHA-256 of the files of all published networks.

    Returns
    -------
    dict of str to str
        By name; empty if this installation has none.

    Raises
    ------
    InputError
        If the list of them is damaged.
    """
    path = FOLDER / SUMS
    if not path.exists():
        return {}
    try:
        with open_regular(path) as file:
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        raise cannot_read(path, error) from error
    found = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise InputError(
                f"{path}: line {number}: expected a SHA-256, two spaces and NAME.h5, got {printable(line, 80)!r}; "
                "restore the file from the repository"
            )
        found[match[2]] = match[1]
    return found


def network_file(path: str | Path) -> Path:
    """The file of a network: that of a published one, or the path itself.

    Parameters
    ----------
    path : path
        A path, or ``published:NAME``.

    Raises
    ------
    InputError
        If no network was published under this name, this installation has none, or the file is not the published one.
    """
    if not str(path).startswith(PREFIX):
        return Path(path)
    name = str(path).removeprefix(PREFIX)
    known = published_networks()
    if not known:
        raise InputError(
            f"{path}: this installation comes without published networks; give the path of data/models/{name}.h5 of a "
            "copy of the project's repository, or train one with malade train or malade run"
        )
    if name not in known:
        raise InputError(f"{path}: no network was published under this name; there are {', '.join(sorted(known))}")
    file = FOLDER / f"{name}.h5"
    if file_sha256(file) != known[name]:
        raise InputError(f"{file}: is not the file that was published; restore it from the repository")
    return file
