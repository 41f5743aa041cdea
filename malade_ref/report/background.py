"""Tables of what the results depend on: settings of the chains, models, data, versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from malade_ref.report.labels import NONE, Labels, count_of, percent, table
from malade_ref.report.markdown import spoken

# Settings of a grid that are shown; all are in the search's record.
MAX_ROWS = 5
CHAIN = ("num_steps", "a", "delta")


def settings_table(results: Mapping[str, Any], labels: Labels) -> list[str]:
    """Settings of the chains, in the code's terms and in the paper's.

    Parameters
    ----------
    results : mapping
        From `malade_ref.report.results.results_of`.
    labels : Labels
        Names.

    Returns
    -------
    list of str
        Lines; none without chains.
    """
    rows = [
        [
            labels.defences.get(name, name),
            *(f"{chain[key]:.4g}" for key in (*CHAIN, "sigma2", "alpha", "temperature")),
            "yes" if chain["clip"] else "no",
        ]
        for name, chain in results["settings"].items()
    ]
    text = (
        "The chain is x <- x + a (r(x) - x) + delta z, N times, clipped to [0, 1] after each step or not; r is the "
        "denoiser trained at noise of variance sigma^2. alpha = a sigma^2, temperature T = delta^2 / (2 alpha)."
    )
    head = ["defence", "N", "a", "delta", "sigma^2", "alpha", "T", "clipped"]
    return [text, "", *table(head, rows)] if rows else []


def search_tables(results: Mapping[str, Any], labels: Labels) -> list[str]:
    """How settings were found.

    The parameters are those of `settings_table`.

    Returns
    -------
    list of str
        Lines; none without a search.
    """
    lines = []
    for name, search in results["search"].items():
        chosen = tuple(search["chosen"][key] for key in CHAIN)
        grid = {tuple(row[key] for key in CHAIN): row for row in search["grid"]}
        judged = {setting: row for setting, row in grid.items() if row["attacked"] is not None}
        best = sorted(judged, key=lambda one: (-judged[one].get("images", 0), -judged[one]["attacked"], one))
        shown = [setting for number, setting in enumerate(best) if number < MAX_ROWS or setting == chosen]
        bare, rounds = search["undefended"], search.get("rounds")
        text = (
            f"{labels.defences.get(name, name)}: {count_of(len(grid), 'setting')} on "
            f"{count_of(search['num_images'], 'validation image')}, {_attacker(search, len(judged))} "
            f"(alone the classifier is right on {100 * bare['clean']:.1f}% of the clean and "
            f"{100 * bare['attacked']:.1f}% of the attacked images). Chosen: {search['criterion']}."
        )
        if search["at_edge_of_grid"]:
            text += f" The choice is at the edge of the grid in {' and '.join(search['at_edge_of_grid'])}."
        if len(shown) < len(grid):
            text += f" The best are shown; all are in search/{name}.h5."
        rows = [
            [
                *(f"{value:g}" for value in setting),
                *(f"{100 * grid[setting][key]:.1f}" for key in ("clean", "attacked")),
                *([str(grid[setting]["images"])] if rounds else []),
                "**chosen**" if setting == chosen else "",
            ]
            for setting in shown
        ]
        head = ["N", "a", "delta", "clean (%)", "attacked (%)", *(["of images"] if rounds else []), ""]
        lines += [text, "", *table(head, rows)]
    return lines


def _attacker(search: Mapping[str, Any], num_judged: int) -> str:
    """Who attacked the validation images of a search."""
    if search.get("against", "classifier") == "classifier":
        return "attacked by somebody who knew the bare classifier only"
    rounds = ", then ".join(str(size) for size in search["rounds"])
    return (
        f"each attacked through its own chain on {rounds} of them, the best third in every next round; "
        f"{len(search['grid']) - num_judged} cost too much of clean accuracy and were not attacked"
    )


def model_table(results: Mapping[str, Any], config: Mapping[str, Any], labels: Labels) -> list[str]:
    """Models, how they were trained and how good they are.

    Parameters
    ----------
    results, labels
        As in `settings_table`.
    config : mapping
        The experiment.

    Returns
    -------
    list of str
        Lines; none without models.
    """
    num_images = (config.get("data") or {}).get("train")
    rows = [
        [labels.models[name], _recipe(model, num_images, labels), *_quality(results["models"].get(name, {}), labels)]
        for name, model in (config.get("models") or {}).items()
    ]
    text = (
        "Errors are sums of squares over the pixels of an image, at the noise of the training; J is a classifier's "
        "cross entropy at the denoised images, in nats."
    )
    return [text, "", *table(["model", "training", "on test images", "n"], rows)] if rows else []


def _recipe(model: Mapping[str, Any], num_images: int | None, labels: Labels) -> str:
    if model.get("file"):
        noise = f"; sigma^2 = {model['sigma2']:g}" if model.get("sigma2") else ""
        return f"taken from {model['file']['name']} (parameters {model['file']['params'][:12]}){noise}"
    used = model.get("subset") or num_images
    parts = [count_of(model["epochs"], "epoch") + (f" of {count_of(used, 'image')}" if used else "")]
    parts.append(
        f"{model['optimizer']}, {model['schedule']} rate {model['learning_rate']:g}, batches of {model['batch_size']}"
    )
    if model.get("init"):
        parts.append(f"starting from {labels.models.get(model['init'], model['init'])}")
    if model.get("teacher"):
        parts.append(f"on the answers of {labels.models.get(model['teacher'], model['teacher'])}")
    attack = model.get("adversarial")
    if attack:
        settings = [f"{key} {value}" for key, value in sorted(attack["settings"].items())]
        objective = model.get("objective") or "madry"
        how = {"fast": " in one step", "trades": ", TRADES", "alp": ", adversarial logit pairing"}.get(objective, "")
        parts.append(f"on images attacked by {attack['method']} ({', '.join(settings)}){how}")
    parts += _further(model)
    if model.get("sigma2"):
        parts.append(f"sigma^2 = {model['sigma2']:g}")
    if model.get("classifier"):
        protected = labels.models.get(model["classifier"], model["classifier"])
        parts.append(f"+ 2 sigma^2 * {model['ce_weight']:g} J of {protected}")
    return "; ".join(parts)


def _further(model: Mapping[str, Any]) -> list[str]:
    """What else a training does, of what is not as by default."""
    found = []
    if model.get("objective") == "clp":
        found.append(f"clean logit pairing at noise {model['noise']:g}")
    words = {"beta": "beta", "pairing_weight": "pairing weight", "label_smoothing": "label smoothing"}
    words |= {"momentum": "momentum", "weight_decay": "weight decay", "clip_norm": "gradients clipped at"}
    words |= {"averaging": "weights averaged, decay", "factor": "rate factor"}
    found += [f"{words[key]} {model[key]:g}" for key in words if model.get(key) is not None]
    if model.get("milestones"):
        found.append(f"milestones {', '.join(f'{milestone:g}' for milestone in model['milestones'])}")
    augment = model.get("augment") or {}
    crops = [f"crops of {augment['pad']} pixels"] if augment.get("pad") else []
    found += [*crops, *(["flips"] if augment.get("flip") else [])]
    return [*found, "stopped if robustness collapses"] if model.get("robust_check") else found


def _quality(quality: Mapping[str, Any], labels: Labels) -> list[str]:
    if "accuracy" in quality:
        return [f"accuracy {percent(quality['accuracy'])}", f"{quality['num_images']:,}"]
    if "error" in quality:
        entropies = [
            f"J of {labels.models.get(name, name)} {value:.3f}" for name, value in quality["cross_entropy"].items()
        ]
        return [", ".join([f"error {quality['error']:.2f}", *entropies]), f"{quality['num_images']:,}"]
    return [NONE, NONE]


def provenance(config: Mapping[str, Any], environment: Mapping[str, Any]) -> list[str]:
    """Data, seeds and versions.

    Parameters
    ----------
    config : mapping
        The experiment.
    environment : mapping
        ``environment`` (versions) and ``warnings``.
    """
    data, versions = config.get("data") or {}, environment.get("environment") or {}
    sizes = ", ".join(f"{data[split]:,} {split}" for split in ("train", "validation", "test") if data.get(split))
    hashes = ", ".join(f"{split} {sha256[:16]}" for split, sha256 in sorted((data.get("sha256") or {}).items()))
    packages = [f"{name} {version}" for name, version in sorted((versions.get("packages") or {}).items())]
    code = f"{versions.get('malade') or 'not installed'} (code {str(versions.get('source_sha256'))[:12]})"
    scale = f" at scale {config['scale']}" if config.get("scale") else ""
    lines = [
        f"- Experiment {config.get('name', '')}{scale}, seed {config.get('seed', 0)}, "
        f"backend {config.get('backend', '')}.",
        *_command(environment),
        f"- Data: {data.get('name', 'unknown')}, seed {data.get('seed', 0)}; images: {sizes}; SHA-256: {hashes}.",
        f"- Versions: malade {code}, {versions.get('python')}, {', '.join(packages)}.",
        *_device(versions.get("device") or {}),
        *(f"- Note: {warning}." for warning in environment.get("warnings") or []),
        "- All settings: config.json. Every number: results.json. Machine, dates and durations: environment.json.",
    ]
    return [*lines, ""]


def _command(environment: Mapping[str, Any]) -> list[str]:
    """What began the run, if it is known."""
    command = spoken(str(environment.get("command") or "")).replace("`", "'")
    return [f"- Command: `{command}`."] if command else []


def _device(device: Mapping[str, Any]) -> list[str]:
    """What computed, if the run says so."""
    if not device:
        return []
    facts = [f"{key.replace('_', ' ')} {value}" for key, value in sorted(device.items()) if _is_shown(key, value)]
    return [f"- Device: {', '.join([str(device['name']), *facts])}."]


def _is_shown(key: str, value: Any) -> bool:
    return key not in ("name", "source_sha256") and value is not None
