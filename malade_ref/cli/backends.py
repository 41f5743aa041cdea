"""From a backend's name to its arithmetic.

The reference imports no other backend. One that is asked for is imported here, by name, when it is asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from malade_ref.checks import InputError
from malade_ref.experiment.reading import parse_change

BACKENDS = {"ref": "malade_ref", "gpu": "malade_gpu"}

# What `--set` sets of the device and not of the experiment.
DEVICE_SETTINGS = {"device_memory": "memory", "precision": "precision"}


def add_backend(command: argparse.ArgumentParser) -> None:
    """Add ``--backend``.

    Parameters
    ----------
    command : argparse.ArgumentParser
        Where to.
    """
    command.add_argument("--backend", choices=BACKENDS, default="ref", help="ref: NumPy (default); gpu: CUDA")


def backend_ops(name: str) -> ModuleType:
    """Arithmetic of a backend whose device is ready.

    Parameters
    ----------
    name : {"ref", "gpu"}
        The backend.
    """
    ops = _imported(name)
    ops.describe_device()
    return ops


def split_changes(changes: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Tell settings of the experiment from those of the device.

    Parameters
    ----------
    changes : sequence of str
        Each ``key=value``.

    Returns
    -------
    changes : list of str
        Those of the experiment.
    settings : dict of str to str
        Those of the device, for `ready_backend`.
    """
    rest, settings = [], {}
    for change in changes:
        keys, value = parse_change(change)
        if len(keys) == 1 and keys[0] in DEVICE_SETTINGS:
            settings[DEVICE_SETTINGS[keys[0]]] = str(value)
        else:
            rest.append(change)
    return rest, settings


@contextmanager
def ready_backend(name: str, settings: Mapping[str, str]) -> Iterator[ModuleType]:
    """Arithmetic of a backend, with settings of its device as long as a ``with`` block lasts.

    Parameters
    ----------
    name : {"ref", "gpu"}
        The backend.
    settings : mapping of str to str
        Of ``ops.device_settings``.

    Yields
    ------
    module
        Its ops.
    """
    ops = _imported(name)
    with ops.device_settings(**settings):
        ops.describe_device()
        yield ops


def _imported(name: str) -> ModuleType:
    try:
        return import_module(f"{BACKENDS[name]}.ops")
    except ModuleNotFoundError as error:
        raise InputError(f"--backend {name}: {error.name} is not installed; install malade[{name}]") from None
