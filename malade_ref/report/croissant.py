"""croissant.json: what a bundle's data are, for search engines of data sets and the loaders that read this format.

The description follows Croissant 1.0, which is JSON-LD over schema.org. It names the files with their SHA-256
(results.json; outcomes.h5 with the outcomes of every image), has the cells of results.json as a record set that a
loader can read, and says which data set of images the bundle is about, with the SHA-256 of its splits. It depends on
these files and settings alone. Who publishes a bundle adds ``url``, ``license`` and ``creator``.

Source: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from malade_ref import __version__
from malade_ref.bundle.layout import CROISSANT, OUTCOMES, RESULTS
from malade_ref.checks import printable
from malade_ref.datasets.sources import load_sources
from malade_ref.storage import file_sha256, to_json

# The context that the specification gives.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
# Fields of a cell: type, where it is in results.json, what it is.
_FIELDS = {
    "defence": ("sc:Text", "defence", "the network or defence that is attacked"),
    "attack": ("sc:Text", "attack", "the attack; clean for the images as they are"),
    "eps": ("sc:Float", "eps", "size of the perturbation, in pixel units"),
    "threat": ("sc:Text", "threat", "norm and size of the perturbation"),
    "n": ("sc:Integer", "n", "number of images"),
    "draws": ("sc:Integer", "draws", "draws of the defence's noise"),
    "accuracy": ("sc:Float", "mean.value", "share classified rightly, mean over draws"),
    "low": ("sc:Float", "mean.low", "lower limit of its 95% interval"),
    "high": ("sc:Float", "mean.high", "upper limit of its 95% interval"),
}


def croissant(folder: Path, results: str, config: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Describe a bundle's data.

    Parameters
    ----------
    folder : Path
        The bundle's folder, with outcomes.h5.
    results : str
        Content of results.json.
    config : mapping
        The experiment, with facts on the data.
    environment : mapping
        Of the run's first session, as in `ReportInput`, or an empty one.

    Returns
    -------
    str
        JSON; the same for the same files and settings.
    """
    name = printable(config.get("name") or "malade")
    found: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"malade-{name}",
        "description": f"{printable(config.get('title') or name)}. Outcomes of attacks on image classifiers and their "
        "defences, for every image and draw (outcomes.h5), and the statistics that follow from them (results.json).",
        "version": str((environment.get("environment") or {}).get("malade") or __version__),
        "distribution": [
            _file(RESULTS, "application/json", hashlib.sha256(results.encode()).hexdigest()),
            _file(OUTCOMES, "application/x-hdf5", file_sha256(folder / OUTCOMES)),
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "cells",
                "name": "cells",
                "description": "One defence under one attack at one size.",
                "field": [_field(key, *about) for key, about in _FIELDS.items()],
            }
        ],
    }
    about = _data(config.get("data") or {})
    return to_json(CROISSANT, {**found, **({"isBasedOn": about} if about else {})}) + "\n"


def _file(name: str, kind: str, sha256: str) -> dict[str, Any]:
    facts = {"name": name, "contentUrl": name, "encodingFormat": kind, "sha256": sha256}
    return {"@type": "cr:FileObject", "@id": name, **facts}


def _field(name: str, kind: str, path: str, words: str) -> dict[str, Any]:
    source = {"fileObject": {"@id": RESULTS}, "extract": {"jsonPath": f"$.cells.*.{path}"}}
    facts = {"name": name, "description": words, "dataType": kind, "source": source}
    return {"@type": "cr:Field", "@id": f"cells/{name}", **facts}


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data set of images: its name, its splits with their SHA-256, where it comes from."""
    if not data.get("name"):
        return {}
    hashes, words = data.get("sha256") or {}, []
    for split in ("train", "validation", "test"):
        if data.get(split):
            words.append(f"{split}: {data[split]:,} images" + (f", SHA-256 {hashes[split]}" if split in hashes else ""))
    known = load_sources().get(str(data["name"]), {})
    found = {
        "@type": "sc:Dataset",
        "name": printable(data["name"]),
        "description": "; ".join([printable(data.get("note") or data["name"]), *words]),
        "keywords": [printable(label) for label in data.get("class_names") or []],
        "citation": known.get("reference"),
        "url": next(iter(known.get("mirrors", [])), None),
    }
    return {key: value for key, value in found.items() if value}
