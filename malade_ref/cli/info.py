"""``malade info``: versions, devices, BLAS, data found."""

from __future__ import annotations

import argparse
from typing import Any

from malade_ref.bundle import describe_environment
from malade_ref.checks import InputError
from malade_ref.cli.backends import BACKENDS, backend_ops
from malade_ref.cli.console import say
from malade_ref.datasets import list_datasets
from malade_ref.ops import num_threads


def add_commands(commands: Any) -> None:
    """Add ``info``.

    Parameters
    ----------
    commands : argparse subparsers
        Where to.
    """
    command = commands.add_parser("info", help="versions, devices, BLAS, data found", allow_abbrev=False)
    command.add_argument("--data-dir", metavar="DIR", help="where to look for data first")
    command.set_defaults(command=_info)


def _info(arguments: argparse.Namespace) -> int:
    found = describe_environment()
    commit = f", commit {found['commit']}" if found["commit"] else ""
    say(f"malade     {found['malade']}{commit}")
    say(f"python     {found['python']}, {found['platform']}")
    say(f"packages   {', '.join(f'{name} {version}' for name, version in found['packages'].items())}")
    say(f"processor  {found['processor']}, {found['cpus']} cores, {num_threads()} threads used (MALADE_NUM_THREADS)")
    for library in found["blas"]:
        say(f"BLAS       {library['internal_api']} {library['version'] or ''}, {library['architecture'] or 'unknown'}")
    say(f"SIMD       {', '.join(found['simd']) or 'unknown'}")
    for name in BACKENDS:
        say(f"backend    {name}: {_device(name)}")
    for entry in list_datasets(arguments.data_dir):
        say(f"data       {entry.name}: {entry.location or entry.description}")
    return 0


def _device(name: str) -> str:
    """What a backend computes with, or why it cannot."""
    try:
        device = backend_ops(name).describe_device()
    except InputError as error:
        return f"none; {error}"
    if "memory" in device:
        device["memory"] = f"{device['memory'] / 2**30:.1f} GiB"
    shown = [f"{key.replace('_', ' ')} {device[key]}" for key in device if key not in ("name", "source_sha256")]
    return ", ".join([device["name"], *(fact for fact in shown if not fact.endswith(" None"))])
