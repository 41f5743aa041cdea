"""``malade models`` and ``export``: which trained networks there are, what they are, copies, and away with them."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from malade_ref import ops
from malade_ref.checkpoint import load, save
from malade_ref.checks import InputError, check_number
from malade_ref.cli.console import duration, say
from malade_ref.experiment.models import TRAINING_VERSION
from malade_ref.experiment.store import OFF, VARIABLE, Entry, Store, store_folder
from malade_ref.network import Network
from malade_ref.published import PREFIX, network_file, published_networks
from malade_ref.storage.safetensors import is_safetensors

DAYS = 90.0
FORMATS = ("h5", "safetensors")
SHOWN = 12  # digits of a fingerprint


def add_commands(commands: Any) -> None:
    """Add ``models``.

    Parameters
    ----------
    commands : argparse subparsers
        Where to.
    """
    command = commands.add_parser(
        "models",
        help="list, show, export or remove the trained networks that are kept",
        description="Networks that experiments trained, kept so that no other run has to train them again. They are in "
        f"{VARIABLE}, or in the user's cache; malade run --set store=off neither takes nor keeps any. Those whose name "
        f"begins with {PREFIX} come with the project; the name is good wherever the path of a network is.",
    )
    command.set_defaults(command=_none)
    actions = command.add_subparsers(title="actions", metavar="ACTION")
    listing = actions.add_parser(
        "list", help="which networks are kept, newest use first, and which are published", allow_abbrev=False
    )
    listing.set_defaults(command=_list)
    show = actions.add_parser("show", help="how a network was trained, and how good it was", allow_abbrev=False)
    show.add_argument("model", metavar="NAME", help="its name, or the first digits of its fingerprint")
    show.set_defaults(command=_show)
    # The same under the name that it had first; without help it is not listed.
    kept = actions.add_parser("export", allow_abbrev=False)
    export = commands.add_parser(
        "export", help="write a network to a file of its own: HDF5 or safetensors", allow_abbrev=False
    )
    for parser in (export, kept):
        parser.add_argument(
            "model", metavar="NAME|FILE", help=f"its name, the first digits of its fingerprint, {PREFIX}NAME, or a file"
        )
        parser.add_argument("out", metavar="OUT", help="the file, .h5 or .safetensors, which must not exist")
        parser.add_argument("--format", choices=FORMATS, help="of the file; by default what its name ends in")
        parser.add_argument(
            "--half",
            action="store_true",
            help="round its parameters to half precision: half the size; computes in float32",
        )
        parser.set_defaults(command=_export)
    remove = actions.add_parser("remove", help="remove networks", allow_abbrev=False)
    remove.add_argument("model", metavar="NAME", nargs="*", help="names, or the first digits of fingerprints")
    which = remove.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="all of them")
    which.add_argument(
        "--unused", action="store_true", help="those that no run has used lately, and those that none can use any more"
    )
    remove.add_argument("--days", type=float, metavar="N", help=f"with --unused: for so many days; {DAYS:g} by default")
    remove.add_argument(
        "--yes", action="store_true", help="with --all or --unused: do it, do not only say what would go"
    )
    remove.set_defaults(command=_remove)
    for action in (listing, show, export, kept, remove):
        action.add_argument("--store", metavar="DIR", default="", help=f"the folder; {VARIABLE} does the same")


def _none(arguments: argparse.Namespace) -> int:
    raise InputError("expected list, show, export or remove; see malade models --help")


def _store(arguments: argparse.Namespace) -> Store:
    folder = store_folder(arguments.store)
    if folder is None:
        raise InputError(f"{VARIABLE}: is {OFF}, so no networks are kept; name a folder with --store")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is no folder; name another with --store")
    return Store(folder)


def _list(arguments: argparse.Namespace) -> int:
    for name in sorted(published_networks()):
        network, file = load(PREFIX + name), network_file(PREFIX + name)
        title = " ".join(str(network.metadata[key]) for key in ("network", "preset") if key in network.metadata)
        facts = [title or "network", f"{network.num_parameters:,} parameters", _size(file.stat().st_size)]
        say(f"{network.fingerprint()[:SHOWN]}  {PREFIX}{name}: {', '.join(facts)}; {file.with_suffix('.md')}")
    store = _store(arguments)
    entries = store.entries()
    for entry in entries:
        say(_line(entry))
    total = _size(sum(entry.size for entry in entries))
    say(
        f"{len(entries)} networks, {total}, in {store.folder}" if entries else f"no networks are kept in {store.folder}"
    )
    return 0


def _show(arguments: argparse.Namespace) -> int:
    entry = _named(_store(arguments), arguments.model)[0]
    meta = entry.meta
    if not meta:
        raise InputError(f"{entry.path}: is damaged; malade models remove {entry.key[:SHOWN]} removes it")
    recipe = meta["recipe"]
    rows = {
        "name": meta["title"],
        "fingerprint": meta["fingerprint"],
        "recipe": entry.key,
        "file": f"{entry.path} ({_size(entry.size)})",
        "trained": f"{meta['trained']}, in {duration(meta['seconds'])}",
        "last used": time.strftime("%Y-%m-%d", time.gmtime(entry.used)),
        "data": f"{meta['data']}: {_counts(recipe)}",
        "objective": json.dumps(_without_none(recipe["objective"]), sort_keys=True),
        "settings": ", ".join(
            f"{name} {recipe[name]}"
            for name in ("epochs", "batch_size", "learning_rate", "schedule", "optimizer", "seed", "dtype", "backend")
        ),
        **({"further": json.dumps(recipe["further"], sort_keys=True)} if "further" in recipe else {}),
        "starts from": recipe["start"]["params"],
        "at the end": ", ".join(f"{name} {value:.4g}" for name, value in sorted(meta["last"].items())) or "unknown",
        "software": ", ".join(
            f"{name} {version}" for name, version in sorted(meta["environment"].get("packages", {}).items())
        ),
    }
    if not _usable(entry):
        rows["note"] = "trained by another version of the training; no run takes it any more"
    for name, value in rows.items():
        say(f"{name:12} {value}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    out = Path(arguments.out)
    word = out.suffix.removeprefix(".").lower()
    if word not in FORMATS or word != (arguments.format or word):
        endings = f".{arguments.format}" if arguments.format else " or ".join(f".{name}" for name in FORMATS)
        raise InputError(f"{out}: expected a name that ends in {endings}")
    if os.path.lexists(out):
        raise InputError(f"{out}: exists already; choose another name")
    network = _found(arguments)
    save(network, out, half=arguments.half)
    written = load(out)
    precision = "half precision" if arguments.half else written.dtype
    say(
        f"{out}: {network.num_parameters:,} parameters in {precision}, {_size(out.stat().st_size)}, "
        f"fingerprint {written.fingerprint()[:SHOWN]}"
    )
    return 0


def _found(arguments: argparse.Namespace) -> Network:
    """A network by its file or its name."""
    name = arguments.model
    if name.startswith(PREFIX) or name.endswith(".h5") or is_safetensors(name):
        return load(name)
    store = _store(arguments)
    entry = _only(name, _named(store, name))
    kept = store.take(entry.key, ops=ops, tell=say)
    if kept is None:
        raise InputError(f"{name}: is damaged in {store.folder}, and was removed; train it again")
    return kept.network


def _remove(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    several = arguments.all or arguments.unused
    if several == bool(arguments.model):
        raise InputError("malade models remove: expected the name of a network, or --unused, or --all")
    if arguments.days is not None:
        if not arguments.unused:
            raise InputError("--days: only with --unused; remove it")
        check_number("--days", arguments.days, minimum=0)
    if arguments.unused:
        days = DAYS if arguments.days is None else arguments.days
        since = time.time() - days * 24 * 3600
        chosen = [entry for entry in store.entries() if entry.used < since or not _usable(entry)]
    elif arguments.all:
        chosen = store.entries()
    else:
        found = [_only(name, _named(store, name)) for name in arguments.model]
        chosen = list({entry.key: entry for entry in found}.values())
    size = _size(sum(entry.size for entry in chosen))
    if several and not arguments.yes:
        for entry in chosen:
            say(_line(entry))
        say(f"{_count(chosen)}, {size}, would be removed" + ("; --yes does it" if chosen else ""))
        return 0
    for entry in chosen:
        store.remove(entry)
    store.sweep()
    say(f"removed {_count(chosen)}, {size}")
    return 0


def _named(store: Store, name: str) -> list[Entry]:
    """Networks of a name, or whose fingerprint or recipe begins with it; at least one, newest use first."""
    entries = store.entries()
    found = [entry for entry in entries if entry.meta.get("title") == name]
    if not found and len(name) >= 4:
        found = [
            entry
            for entry in entries
            if entry.key.startswith(name) or str(entry.meta.get("fingerprint", "")).startswith(name)
        ]
    if not found:
        raise InputError(f"{name}: no such network in {store.folder}; malade models list shows what there is")
    return found


def _only(name: str, entries: list[Entry]) -> Entry:
    if len(entries) > 1:
        digits = ", ".join(_digits(entry) for entry in entries)
        raise InputError(f"{name}: {len(entries)} networks are called so; name one by its fingerprint: {digits}")
    return entries[0]


def _line(entry: Entry) -> str:
    meta = entry.meta
    if not meta:
        return f"{_digits(entry)}  damaged, {_size(entry.size)}"
    last, quality = meta["last"], []
    for name, title in (("validation_accuracy", "accuracy"), ("validation_error", "error")):
        if name in last:
            value = f"{100 * last[name]:.1f}%" if title == "accuracy" else f"{last[name]:.4g}"
            quality.append(f"{title} {value}")
    facts = [_counts(meta["recipe"]), _epochs(meta["recipe"]), *quality, duration(meta["seconds"])]
    facts += [_size(entry.size), *([] if _usable(entry) else ["no longer usable"])]
    return f"{_digits(entry)}  {entry.date}  {meta['title']} on {meta['data']}: {', '.join(facts)}"


def _count(entries: list[Entry]) -> str:
    return f"{len(entries)} network{'' if len(entries) == 1 else 's'}"


def _digits(entry: Entry) -> str:
    return str(entry.meta.get("fingerprint", entry.key))[:SHOWN]


def _usable(entry: Entry) -> bool:
    return bool(entry.meta) and entry.meta["recipe"].get("version") == TRAINING_VERSION


def _counts(recipe: dict[str, Any]) -> str:
    return f"{recipe['data']['train']['count']} images"


def _epochs(recipe: dict[str, Any]) -> str:
    return f"{recipe['epochs']} epoch{'' if recipe['epochs'] == 1 else 's'}"


def _without_none(value: dict[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if item is not None}


def _size(number: int) -> str:
    """Write a number of bytes."""
    if number < 1000:
        return f"{number} B"
    power = min(3, int(math.log10(number) // 3))
    return f"{number / 1000**power:.1f} {('', 'kB', 'MB', 'GB')[power]}"
