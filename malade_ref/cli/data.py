"""``malade data``: which data there are, fetch them, bring in others."""

from __future__ import annotations

import argparse
from typing import Any

from malade_ref.checks import InputError
from malade_ref.cli.console import Meter, say
from malade_ref.datasets import get_dataset, import_dataset, list_datasets
from malade_ref.datasets.splits import open_dataset


def add_commands(commands: Any) -> None:
    """Add ``data``.

    Parameters
    ----------
    commands : argparse subparsers
        Where to.
    """
    command = commands.add_parser("data", help="list, download or import data", description="Data sets.")
    command.set_defaults(command=_none)
    actions = command.add_subparsers(title="actions", metavar="ACTION")
    listing = actions.add_parser("list", help="which data sets there are, and where", allow_abbrev=False)
    listing.set_defaults(command=_list)
    get = actions.add_parser("get", help="download a public data set, and check it", allow_abbrev=False)
    get.add_argument("dataset", metavar="NAME", help="such as mnist")
    get.set_defaults(command=_get)
    bring = actions.add_parser(
        "import",
        help="bring in other data",
        description="Import a folder of IDX files, a folder or .tar.gz of CIFAR's batches (binary version), a folder "
        "or .zip of Tiny ImageNet, an .npz or .h5 with images (uint8) and labels, or a folder or .zip "
        "of train/<class>/*.png|jpg, or of <class>/*.png|jpg: then validation "
        "and test are a sixth each, chosen at random. Images in folders within a class are of that class; what is "
        "hidden or left by other programs (names that begin with . @ or __, Thumbs.db and so on), and what is no .png "
        "or .jpg, is left out, counted and named.",
        allow_abbrev=False,
    )
    bring.add_argument("path", metavar="PATH", help="file or folder")
    bring.add_argument("--name", dest="dataset", required=True, metavar="NAME", help="its name from now on")
    add_conversion(bring)
    bring.set_defaults(command=_import)
    for action in (listing, get, bring):
        action.add_argument("--data-dir", metavar="DIR", help="the folder of data; MALADE_DATA does the same")


def add_conversion(command: argparse.ArgumentParser) -> None:
    """Add ``--resize`` and ``--convert``.

    Parameters
    ----------
    command : argparse.ArgumentParser
        Where to.
    """
    command.add_argument(
        "--resize",
        metavar="N|HxW",
        help="of image files: scale each until it just covers this size (bicubic), and cut it to its middle",
    )
    command.add_argument(
        "--convert",
        choices=("rgb", "grey", "gray"),
        help="of image files: rgb gives grey images three equal channels, grey takes the luma; what is transparent is "
        "put on white",
    )


def _none(arguments: argparse.Namespace) -> int:
    raise InputError("expected list, get or import; see malade data --help")


def _list(arguments: argparse.Namespace) -> int:
    meters: dict[str, Meter] = {}

    def progress(fraction: float, message: str) -> None:
        name = message.partition(":")[0]
        meters.setdefault(name, Meter(f"reading {name} for the first time"))(fraction, message)

    try:
        entries = list_datasets(arguments.data_dir, progress)
    finally:
        for meter in meters.values():
            meter.close()
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        place = f" [{entry.location}]" if entry.location else ""
        say(f"{entry.name:{width}}  {'found  ' if entry.found else 'missing'}  {entry.description}{place}")
    return 0


def _get(arguments: argparse.Namespace) -> int:
    say(f"downloading {arguments.dataset}")
    meter = Meter(arguments.dataset)
    try:
        folder = get_dataset(arguments.dataset, arguments.data_dir, meter)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("what has arrived is kept; the same command goes on with it") from None
    finally:
        meter.close()
    arguments.out = str(folder)
    say(f"{arguments.dataset}: complete and checked, in {folder}")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    say(f"importing {arguments.path} as {arguments.dataset}")
    meter = Meter(arguments.dataset)
    try:
        record = import_dataset(
            arguments.path,
            arguments.dataset,
            arguments.data_dir,
            meter,
            resize=arguments.resize,
            convert=arguments.convert,
        )
    finally:
        meter.close()
    arguments.out = str(record)
    say(f"{arguments.dataset}: imported into {record}")
    if note := open_dataset(record).note:
        say(note)
    return 0
