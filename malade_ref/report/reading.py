"""What a report needs, out of a bundle: the one place that knows where a run keeps it.

Of the records that stages keep, these are used if they are there:

quality
    ``meta[model]``: ``kind``, ``num_images`` and ``accuracy``, or ``error`` (sum of squares, mean over images) and
    ``cross_entropy`` by classifier.
settings
    ``meta[defence]``: ``num_steps``, ``a``, ``delta``, ``clip``, ``sigma2``.
search/<defence>
    Arrays ``num_steps``, ``a``, ``delta``, ``clean``, ``attacked`` (accuracies), one entry a setting; ``meta``:
    ``chosen``, ``criterion``, ``criterion_met``, ``at_edge_of_grid``, ``num_images``, ``undefended``.
certify/<smoothed classifier>
    Arrays ``label`` (n,), ``selection`` and ``counts`` (n, classes), see `malade_ref.certify.Certificates`.
audit
    ``meta``: ``gradient``, ``eot`` and perhaps others, see `malade_ref.audit.audit`.
paths
    Arrays ``clean`` (k, c, h, w) and ``clean_probability`` (k, classes), ``steps`` (t,), ``label`` (k,), and for each
    chain ``<chain>/position`` (t, k, c, h, w) and ``<chain>/probability`` (t, k, classes); ``meta["chains"]``: titles.

sheets/<name>, perturbations/<name>, walks/<name>
    What the paper's plates show, see `malade_ref.experiment.plates`.
pictures
    Arrays ``label`` (k,), and for each cell ``<defence>/<attack>/<eps>/x_adv`` (k, c, h, w) and ``.../probability``
    (k, classes); of a chain also ``.../steps`` (t,), ``.../position`` (t, k, c, h, w), bytes, and
    ``.../position_probability`` (t, k, classes).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from malade_ref.bundle import Bundle
from malade_ref.bundle.layout import CONFIG
from malade_ref.bundle.schema import check_cell, check_config, check_record
from malade_ref.checks import InputError
from malade_ref.evaluation import Cell
from malade_ref.storage import Record, RecordReader

RECORDS = ("quality", "settings", "audit", "paths", "pictures")
SEARCH = "search"
CERTIFY = "certify"
PLATES = ("sheets", "perturbations", "walks")
ARRAYS = ("sample_index", "correct", "success", "distance", "distance_l2", "num_queries", "num_gradients")


class ReportInput(NamedTuple):
    """All that a report is made of.

    Attributes
    ----------
    config : dict
        The experiment, as `malade_ref.experiment.settings_of` gives it, with facts on the data.
    cells : list of Cell
        Outcomes of every defence under every attack.
    histories : dict
        For each model, numbers per epoch by name.
    records : dict of str to Record
        See `malade_ref.report.reading`.
    environment : dict
        ``environment`` of the run's first session, ``warnings``, and the ``command`` that began it, if it is known.
    """

    config: dict[str, Any]
    cells: list[Cell]
    histories: dict[str, dict[str, list[float]]]
    records: dict[str, Record]
    environment: dict[str, Any]


def open_bundle(bundle: Bundle | str | Path) -> Bundle:
    """Open a bundle for reading, unless it is open.

    Parameters
    ----------
    bundle : Bundle or path
        The bundle, or its folder.
    """
    return bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)


def read_bundle(bundle: Bundle | str | Path) -> ReportInput:
    """Read what a report needs; adversarial images stay where they are.

    Parameters
    ----------
    bundle : Bundle or path
        A bundle whose outcomes are merged.

    Returns
    -------
    ReportInput
        Its contents.
    """
    bundle = open_bundle(bundle)
    check_config(str(bundle.path / CONFIG), bundle.config)
    with bundle.outcomes() as reader:
        outcomes = reader.meta.get("outcomes")
        if not isinstance(outcomes, dict):
            raise InputError(
                f"{bundle.path}: outcomes.h5 does not say what its outcomes are of; restore it from a copy"
            )
        cells = [_cell(reader, name, meta) for name, meta in sorted(outcomes.items())]
    path, config = bundle.path, bundle.config
    names = [name for name in RECORDS if (path / f"{name}.h5").is_file()]
    for folder in (SEARCH, CERTIFY, *PLATES):
        names += [f"{folder}/{file.stem}" for file in sorted((path / folder).glob("*.h5"))]
    models = [name for name in config.get("models", {}) if (path / "histories" / f"{name}.h5").is_file()]
    sessions = bundle.log.sessions
    records = {name: bundle.record(name) for name in names}
    for name, record in records.items():
        check_record(str(path / f"{name}.h5"), name, record.meta, record.arrays)
    return ReportInput(
        config,
        cells,
        {name: bundle.history(name) for name in models},
        records,
        {
            "environment": sessions[0]["environment"] if sessions else {},
            "warnings": list(bundle.log.warnings),
            "command": bundle.log.command,
        },
    )


def _cell(reader: RecordReader, name: str, meta: Any) -> Cell:
    names = {key: f"outcomes/{name}/{key}" for key in ARRAYS}
    arrays = {key: reader.read(full) for key, full in names.items() if full in reader.names}
    check_cell(f"outcomes {name}", meta, arrays)
    return Cell(meta["defence"], meta["attack"], float(meta["eps"]), meta, arrays)
