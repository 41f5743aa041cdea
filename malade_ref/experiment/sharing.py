"""What several runs of a suite have in common is computed once: searches, attacked images, the quality of networks.

A record is kept under the SHA-256 of the facts that decide it: networks, settings, data, seed, backend and the
program's own code. Whoever asks for the same facts gets the same record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from malade_ref.bundle.environment import source_sha256
from malade_ref.checkpoint import load_state, save_state
from malade_ref.checks import InputError
from malade_ref.storage import Record, make_folder, to_json


class Sharing:
    """Records by their facts.

    Parameters
    ----------
    folder : path, optional
        Where they are kept; without one nothing is shared.
    common : mapping
        Facts of all records of a run: JSON-able.
    """

    def __init__(self, folder: Path | None, common: Mapping[str, Any]) -> None:
        self.folder = folder
        self.common = {**common, "source": source_sha256()} if folder is not None else {}

    def record(self, facts: Callable[[], Mapping[str, Any]], compute: Callable[[], Record]) -> Record:
        """Give a record that another run computed, or compute it.

        Parameters
        ----------
        facts : callable
            Gives what decides the record, JSON-able.
        compute : callable
            Computes it.
        """
        if self.folder is None:
            return compute()
        text = to_json("facts", {**self.common, **facts()}, indent=None)
        key = hashlib.sha256(text.encode()).hexdigest()
        path = self.folder / f"{key}.h5"
        try:
            found = load_state(path) if path.exists() else None
        except InputError:
            found = None  # what is damaged is computed again
        if found is not None and found.meta.get("facts") == key:
            return Record(dict(found.arrays), found.meta["meta"])
        record = compute()
        make_folder(self.folder)
        save_state(path, record.arrays, {"facts": key, "meta": dict(record.meta)})
        return record
