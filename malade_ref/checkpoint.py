"""Networks and training states on the disk, as records of HDF5 (see :mod:`malade_ref.storage`) or as safetensors.

A network's file holds its parameters as ``params/<name>``, and its architecture and metadata as JSON. Nothing
in it is ever executed, and an architecture from a stranger's file passes through the same checks as one from
a program. A file whose name ends in ``.safetensors`` holds the same in that format, for other libraries: parameters
under their own names, architecture and metadata as texts (:mod:`malade_ref.storage.safetensors`).

In half precision a file takes half the room. The network that is read from it computes in float32, with the rounded
parameters; its metadata say which network was rounded, see `unrounded`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError, printable
from malade_ref.network import Network
from malade_ref.published import network_file
from malade_ref.storage import Record, from_json, load_record, one_line, save_record, to_json
from malade_ref.storage.safetensors import FORMAT, is_safetensors, load_safetensors, save_safetensors

_KIND = "network"
_PREFIX = "params/"
_ROUNDED = "rounded"


def save(network: Network, path: str | Path, *, half: bool = False) -> None:
    """Write a network to a file, atomically; equal networks give equal bytes.

    Parameters
    ----------
    network : Network
        Its parameters may live on any device.
    path : path
        The file: ``*.safetensors``, or HDF5, by custom ``*.h5``; its folder must exist.
    half : bool
        Whether to round the parameters to float16.

    Raises
    ------
    InputError
        If the file cannot be written; what was there is untouched. If a parameter is too large for float16.
    """
    arrays = {_PREFIX + name: network.ops.to_host(array) for name, array in network.params.items()}
    metadata = network.metadata
    if half:
        arrays = {name: _rounded(f"{path}: {name}", array) for name, array in arrays.items()}
        asarray = network.ops.asarray
        params = {name: asarray(arrays[_PREFIX + name].astype(np.float32)) for name in network.params}
        rounded = network.replace_params(params)
        before, after = unrounded(network), rounded.fingerprint()
        metadata = {**metadata, _ROUNDED: {"from": before, "to": after}} if before != after else metadata
    meta = {"architecture": network.architecture(), "metadata": metadata}
    if not is_safetensors(path):
        save_record(path, arrays, meta, kind=_KIND)
        return
    texts = {key: to_json(f"{path}: {key}", value, indent=None) for key, value in meta.items()}
    save_safetensors(path, {name.removeprefix(_PREFIX): array for name, array in arrays.items()}, texts, kind=_KIND)


def load(path: str | Path, *, ops: ModuleType | None = None) -> Network:
    """Read a network from a file.

    Parameters
    ----------
    path : path
        A file written by :func:`save`, or ``published:NAME``, see :mod:`malade_ref.published`.
    ops : module, optional
        The arithmetic to compute with, by default :mod:`malade_ref.ops`; the parameters go to its device.

    Returns
    -------
    Network
        Its parameters have the values that were saved; those in half precision become float32.
    """
    arrays, meta = _from_safetensors(path) if is_safetensors(path) else load_record(network_file(path), kind=_KIND)
    params = {
        name.removeprefix(_PREFIX): array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in arrays.items()
        if name.startswith(_PREFIX)
    }
    if len(params) != len(arrays):
        raise InputError(f"{path}: holds arrays besides {_PREFIX}; it is no network of malade's, choose another")
    if ops is not None:
        params = {name: ops.asarray(array) for name, array in params.items()}
    architecture, metadata = meta.get("architecture"), meta.get("metadata")
    if not isinstance(architecture, dict) or not isinstance(metadata, dict):
        raise InputError(f"{path}: has no architecture; it is no network of malade's, choose another")
    try:
        return Network.from_architecture(architecture, params, metadata=metadata, ops=ops)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        # What a layer cannot make sense of, it may complain about in any of these ways.
        raise InputError(f"{path}: describes no network ({one_line(error)}); choose another file") from error


def _from_safetensors(path: str | Path) -> Record:
    """What a record of the same network holds."""
    arrays, texts = load_safetensors(path)
    if texts.get(FORMAT) != f"malade-{_KIND}":
        raise InputError(
            f"{path}: has no architecture, as malade export writes it, so it is no network yet; load it into your own "
            "model of PyTorch, of which malade_ref.interop.from_torch or wrap makes one"
        )
    meta = {key: from_json(f"{path}: {key}", texts.get(key, "{}")) for key in ("architecture", "metadata")}
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise InputError(f"{path}: {printable(name, 80)}: expected floats, got {array.dtype}; choose another file")
    return Record({_PREFIX + name: array for name, array in arrays.items()}, meta)


def unrounded(network: Network) -> str:
    """Fingerprint of a network before it was saved in half precision.

    Parameters
    ----------
    network : Network
        From a file.

    Returns
    -------
    str
        SHA-256; the network's own if it was not rounded, or was trained since.
    """
    own = network.fingerprint()
    said = network.metadata.get(_ROUNDED)
    before = said.get("from") if isinstance(said, Mapping) and said.get("to") == own else None
    return before if isinstance(before, str) else own


def _rounded(what: str, array: NDArray[Any]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise InputError(f"{what}: has numbers too large for half precision (65504); save it without")
    return half


def save_state(path: str | Path, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Write the state of a computation that may be interrupted, such as a training, atomically.

    Parameters
    ----------
    path : path
        The file; its folder must exist.
    arrays : mapping of str to ndarray
        Host arrays: booleans, integers or floats of at most 8 bytes.
    meta : mapping
        JSON-able, of finite numbers.

    Raises
    ------
    InputError
        If something cannot be stored, or the file cannot be written; what was there is untouched.
    """
    save_record(path, arrays, meta, kind="state")


def load_state(path: str | Path) -> Record:
    """Read what :func:`save_state` wrote.

    Parameters
    ----------
    path : path
        The file.
    """
    return load_record(path, kind="state", mend="delete it to begin this step again")
