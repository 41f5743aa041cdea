"""Files in the *safetensors* format: named arrays and short texts, which other libraries read and write, too.

::

    8 bytes     N, the length of the header, little-endian
    N bytes     JSON: {"__metadata__": {name: text}, name: {"dtype", "shape", "data_offsets": [first, last]}, ...}
    the rest    the arrays, row by row, little-endian, one behind another; offsets count from here

The format is a page long, so it is read and written here, by the rules of this package (see
:mod:`malade_ref.storage.records`), and no further library is needed: a file may be hostile, what is wrong with it is
said in one line, no claimed size is believed, and equal contents give equal bytes. Names may be there once; arrays may
neither overlap nor leave gaps.

Source: https://huggingface.co/docs/safetensors, section "Format".
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError, printable
from malade_ref.storage.files import MAX_JSON_BYTES, aside, cannot_read, from_json, open_regular

SUFFIX = ".safetensors"
MAX_NAMES = 100_000
MAX_AXES = 32

FORMAT, SHA256 = "format", "sha256"  # keys of the texts; files of malade have both
_MAGIC = "malade-"
_TEXTS = "__metadata__"
_DTYPES = {
    **{"BOOL": "?", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8"},
    **{"U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8"},
}
_WORDS = {np.dtype(code): word for word, code in _DTYPES.items()}
_ENTRY = {"dtype", "shape", "data_offsets"}


def is_safetensors(path: str | Path) -> bool:
    """Whether a file is in this format by its name.

    Parameters
    ----------
    path : path
        Any path.
    """
    return Path(path).suffix.lower() == SUFFIX


def save_safetensors(
    path: str | Path, arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str] | None = None, *, kind: str
) -> None:
    """Write arrays and texts, atomically; equal contents give equal bytes.

    Parameters
    ----------
    path : path
        Its folder must exist.
    arrays : mapping of str to ndarray
        Booleans, integers or floats of at most 8 bytes, any shape, any strides and byte order.
    texts : mapping of str to str, optional
        At most 16 MiB, with the header.
    kind : str
        What the file is, for instance ``"network"``. It becomes the text ``format``, with ``malade-`` before it; a
        second one, ``sha256``, signs the content.

    Raises
    ------
    InputError
        If something cannot be stored, or the file cannot be written; what was there is untouched.
    """
    host = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in host.items():
        if array.dtype.newbyteorder("<") not in _WORDS:
            raise InputError(f"{path}: {printable(name)}: expected booleans, integers or floats, got {array.dtype}")
        if name == _TEXTS:
            raise InputError(f"{path}: {name}: the format needs this name itself; choose another")
    # The widest first, so that each array begins at a multiple of its width.
    order = sorted(host, key=lambda name: (-host[name].dtype.itemsize, name))
    host = {name: np.asarray(host[name], dtype=host[name].dtype.newbyteorder("<"), order="C") for name in order}
    texts = {**(texts or {}), FORMAT: f"{_MAGIC}{kind}"}
    texts[SHA256] = _content_sha256(host, texts)
    header: dict[str, Any] = {_TEXTS: dict(sorted(texts.items()))}
    first = 0
    for name, array in host.items():
        last = first + array.nbytes
        header[name] = {"dtype": _WORDS[array.dtype], "shape": list(array.shape), "data_offsets": [first, last]}
        first = last
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_JSON_BYTES:
        raise InputError(f"{path}: {len(text)} bytes of names and texts, at most {MAX_JSON_BYTES}; shorten them")
    with aside(Path(path)) as file:
        for piece in (len(text).to_bytes(8, "little"), text, *map(_bytes_of, host.values())):
            view = memoryview(piece)
            while view:
                view = view[file.write(view) :]


def load_safetensors(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read arrays and texts, and check what signs them, if the file is malade's.

    Parameters
    ----------
    path : path
        A file that may be truncated, damaged, foreign or hostile.

    Returns
    -------
    arrays : dict of str to ndarray
        In native byte order, C-contiguous, by name.
    texts : dict of str to str
        All of them; empty if there are none.
    """
    with open_regular(path) as file:
        try:
            header, start, size = _header(path, file)
            texts = _texts(path, header.pop(_TEXTS, {}))
            places = _places(path, header, size - start)
            arrays = {name: _read(path, name, file, start, *places[name]) for name in sorted(places)}
        except OSError as error:
            raise cannot_read(path, error) from error
    if texts.get(FORMAT, "").startswith(_MAGIC) and texts.get(SHA256) != _content_sha256(arrays, texts):
        raise _damage(path, "its content does not match its SHA-256")
    return arrays, texts


def _damage(path: str | Path, reason: str) -> InputError:
    return InputError(f"{path}: not a whole safetensors file ({reason}); restore it from a copy or choose another file")


def _header(path: str | Path, file: BinaryIO) -> tuple[dict[str, Any], int, int]:
    """The header, where the arrays begin, and the size of the file."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise _damage(path, f"a header of {length if size >= 8 else 8} bytes is claimed, the file has {size}")
    if length > MAX_JSON_BYTES:
        raise InputError(f"{path}: a header of {length} bytes, at most {MAX_JSON_BYTES} are read; choose another file")
    text = file.read(length)
    header = from_json(f"{path}: header", text, mend="restore the file from a copy or choose another")
    json.loads(text.decode(), object_pairs_hook=lambda pairs: _unique(path, pairs))
    if len(header) > MAX_NAMES:
        raise _damage(path, f"more than {MAX_NAMES} names")
    return header, 8 + length, size


def _unique(path: str | Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no name is there twice: readers would not agree on what it holds."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _damage(path, f"the name '{printable(name, 80)}' is there twice")
        found[name] = value
    return found


def _texts(path: str | Path, texts: Any) -> dict[str, str]:
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise _damage(path, f"{_TEXTS} is no table of texts")
    return texts


def _places(
    path: str | Path, header: Mapping[str, Any], size: int
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...], int]]:
    """Dtype, shape and first byte of each array, after checking that together they are the bytes that follow."""
    found, spans = {}, []
    for name, entry in header.items():
        what = f"array '{printable(name, 80)}'"
        if not isinstance(entry, dict) or entry.keys() != _ENTRY:
            raise _damage(path, f"{what} has not just {', '.join(sorted(_ENTRY))}")
        word, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(word, str) or word not in _DTYPES:
            shown = printable(word, 20) if isinstance(word, str) else type(word).__name__
            known = ", ".join(_DTYPES)
            raise InputError(f"{path}: {what} has dtype '{shown}'; expected one of {known}; convert it")
        if not _are_counts(shape) or len(shape) > MAX_AXES or max(shape, default=0) > 1 << 40:
            raise _damage(path, f"{what} has no shape of at most {MAX_AXES} sizes")
        if not _are_counts(span) or len(span) != 2 or not span[0] <= span[1] <= size:
            raise _damage(path, f"{what} does not lie within the {size} bytes of arrays")
        dtype = np.dtype(_DTYPES[word])
        if math.prod(shape) * dtype.itemsize != span[1] - span[0]:
            raise _damage(path, f"{what} is {word} {tuple(shape)} in {span[1] - span[0]} bytes")
        found[name] = (dtype, tuple(shape), span[0])
        spans.append((span[0], span[1], what))
    end = 0
    for first, last, what in sorted(spans):
        if first != end:
            raise _damage(path, f"{what} {'overlaps another' if first < end else 'comes after a gap'}")
        end = last
    if end != size:
        raise _damage(path, f"{size - end} bytes at the end belong to no array")
    return found


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _read(
    path: str | Path, name: str, file: BinaryIO, start: int, dtype: np.dtype[Any], shape: tuple[int, ...], first: int
) -> NDArray[Any]:
    count = math.prod(shape) * dtype.itemsize
    file.seek(start + first)
    content = file.read(count)
    if len(content) != count:
        raise _damage(path, f"array '{printable(name, 80)}' ends early")
    if dtype.kind == "b" and np.frombuffer(content, np.uint8).max(initial=0) > 1:
        raise _damage(path, f"array '{printable(name, 80)}' has booleans that are neither 0 nor 1")
    try:
        return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    except ValueError as error:  # a shape of which one size is 0 and the others fit no array
        raise _damage(path, f"array '{printable(name, 80)}' has a shape that is none") from error


def _content_sha256(arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> str:
    """SHA-256 of the arrays and of the texts but for itself."""
    digest = hashlib.sha256()
    digest.update(json.dumps({key: text for key, text in texts.items() if key != SHA256}, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, _WORDS[array.dtype.newbyteorder("<")], list(array.shape)]).encode())
        digest.update(_bytes_of(array))
    return digest.hexdigest()


def _bytes_of(array: NDArray[Any]) -> Any:
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C").reshape(-1).view(np.uint8).data
