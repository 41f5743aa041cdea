"""Certified radii in a report: what is derived from the counts, and how it is told."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from malade_ref.certify import certificates_of, certified_accuracy, largest_radius, majority_accuracy, predictions_of
from malade_ref.checks import InputError
from malade_ref.report.labels import count_of, percent, table
from malade_ref.report.reading import CERTIFY
from malade_ref.statistics import wilson
from malade_ref.storage import Record

# Points of a curve.
NUM_POINTS = 101

_AGAINST = {
    "rest": "all others together, and needs more than half of the draws for it",
    "runner-up": "the most probable of the others",
}

Result = Mapping[str, Any]


def certified_results(records: Mapping[str, Record], config: Mapping[str, Any]) -> dict[str, Any]:
    """Derive what is certified.

    Parameters
    ----------
    records : mapping of str to Record
        Of a bundle.
    config : mapping
        The experiment.

    Returns
    -------
    dict
        ``certified``: settings, and for each smoothed classifier its ``title``, the ``accuracy`` (by what most of the
        draws that estimate say), what of it is ``certain`` (`malade_ref.certify.predict`), shares of images without a
        certificate and without a class above half of the draws, certified accuracy at the ``radii`` of the experiment
        and as a ``curve``; without certificates an empty dictionary.
    """
    found = {
        name.removeprefix(f"{CERTIFY}/"): record for name, record in records.items() if name.startswith(f"{CERTIFY}/")
    }
    if not found:
        return {}
    settings = config.get("certify")
    if not isinstance(settings, Mapping):
        raise InputError("config.json: certify: missing, although there are certificates; restore it from a copy")
    # Older experiments know one bound only.
    rule = {"sigma": math.sqrt(settings["sigma2"]), "alpha": settings["alpha"], "bound": settings.get("bound", "rest")}
    most = largest_radius(**rule, num_estimation=settings["num_estimation"])
    return {
        "certified": {
            **rule,
            "num_estimation": settings["num_estimation"],
            "largest_radius": most,
            # In the order of the experiment.
            "smoothed": {
                name: {
                    "title": smoothed["name"],
                    **_derived(found[name], settings["radii"], rule, most, settings["num_estimation"]),
                }
                for name, smoothed in settings["smoothed"].items()
            },
        }
    }


def _derived(
    record: Record, radii: list[float], rule: dict[str, Any], most: float, num_estimation: int
) -> dict[str, Any]:
    label, selection, counts = (record.arrays[key] for key in ("label", "selection", "counts"))
    certificates = certificates_of(selection, counts, label, **rule, num_estimation=num_estimation)
    answers = predictions_of(counts, alpha=rule["alpha"], num_draws=num_estimation)
    grid = [most * i / (NUM_POINTS - 1) for i in range(NUM_POINTS)]
    curve = certified_accuracy(certificates, grid)
    return {
        "n": len(label),
        "accuracy": majority_accuracy(certificates)._asdict(),
        "certain": wilson(int((answers.predicted == label).sum()), len(label))._asdict(),
        "abstained": float(certificates.abstained.mean()),
        "no_majority": float((2 * counts.max(axis=1) <= num_estimation).mean()),
        "radii": [
            {"radius": radius, **share._asdict()}
            for radius, share in zip(radii, certified_accuracy(certificates, radii), strict=True)
        ],
        "curve": {
            "radius": grid,
            **{key: [getattr(share, key) for share in curve] for key in ("value", "low", "high")},
        },
    }


def certified_verdict(results: Result) -> str:
    """Say what is certain, in one paragraph.

    Parameters
    ----------
    results : mapping
        With the key ``certified``.
    """
    found = results["certified"]
    parts, size = [], 0
    for smoothed in found["smoothed"].values():
        share = smoothed["radii"][len(smoothed["radii"]) // 2]
        size = smoothed["n"]
        parts.append((smoothed["title"], share))
    radius = parts[0][1]["radius"]
    told = "; ".join(f"{title} {percent(share)}" for title, share in parts)
    return (
        f"**Certified and right, whatever a perturbation of L2 norm {radius:g} does: {told}.** That is of "
        f"{count_of(size, 'test image')}, for the classifiers smoothed by noise of sigma {found['sigma']:.4g}. A "
        f"certificate is wrong with a probability of at most {found['alpha']:g}; but for that, no attack can refute "
        "it. Nothing is said of larger perturbations, or of the classifiers without the noise."
    )


def certified_tables(results: Result) -> list[str]:
    """Certified accuracy against radius.

    Parameters
    ----------
    results : mapping
        From `malade_ref.report.results.results_of`.

    Returns
    -------
    list of str
        Lines; none if nothing was certified.
    """
    if "certified" not in results:
        return []
    found = results["certified"]
    smoothed = list(found["smoothed"].values())
    radii = [share["radius"] for share in smoothed[0]["radii"]]
    text = (
        "A smoothed classifier answers with the class that comes up most often when Gaussian noise of sigma "
        f"{found['sigma']:.4g} is added to the image (never clipped) and the noisy image passes through the denoiser, "
        "if any, and the classifier. Of n test images, in percent, with 95% intervals over images: those that most "
        "of its draws have right, those of them where the first class can be told from the second, those without a "
        "certificate, those where no class came up in more than half of the draws, and those that it has right with a "
        f"certified L2 radius beyond r. A certificate holds the first class against {_AGAINST[found['bound']]}; it "
        f"rests on {found['num_estimation']:,} draws, which can certify a radius of at most "
        f"{found['largest_radius']:.3g}, and is wrong with a probability of at most {found['alpha']:g}."
    )
    head = [
        "smoothed classifier",
        "n",
        "most draws right",
        "first class certain",
        "no certificate",
        "no class above half",
    ]
    return [text, "", *table([*head, *(f"r = {radius:g}" for radius in radii)], _rows(smoothed))]


def _rows(smoothed: list[Result]) -> Iterator[list[str]]:
    for found in smoothed:
        shares = [percent(share, "") for share in found["radii"]]
        yield [
            found["title"],
            str(found["n"]),
            percent(found["accuracy"], ""),
            percent(found["certain"], ""),
            f"{100 * found['abstained']:.1f}",
            f"{100 * found['no_majority']:.1f}",
            *shares,
        ]
