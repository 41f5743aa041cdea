"""The *record*: named arrays and a JSON object in one HDF5 file. Models and outcomes are kept as records.

::

    /           attributes: format ("malade-<kind>"), version, sha256
    /meta       the JSON object, as UTF-8 text
    /<name>     an array: contiguous, little-endian, not compressed; a name may hold '/'

Equal contents give equal bytes: HDF5 keeps no times, the version of the file format is fixed, names are
sorted. ``sha256`` covers names, dtypes, shapes, bytes and JSON, and is checked on loading.

Files may come from strangers. There is no pickle; an array may not be compressed, in pieces, elsewhere or a
link; and no claimed size is believed before the file turns out to be large enough for it. The HDF5 library writes
records, but what is read never meets it: see :mod:`malade_ref.storage.strict`.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError, printable
from malade_ref.storage.files import (
    MAX_JSON_BYTES,
    aside,
    check_name,
    from_json,
    one_line,
    open_regular,
    to_json,
)
from malade_ref.storage.strict import (
    NO_ARRAY,
    ForeignError,
    FormatError,
    StoredArray,
    StrictFile,
    number_type,
    text_type,
)

FORMAT_VERSION = 1
MAX_NAMES = 100_000

# The first version of HDF5's file format whose metadata carries checksums and has not changed since.
_LIBVER = ("v110", "v110")
_BLOCK_BYTES = 1 << 22
_MAGIC = "malade-"


class Record(NamedTuple):
    """Named arrays and a JSON-able dict: what one file holds.

    Attributes
    ----------
    arrays : dict of str to ndarray
        Booleans, integers or floats of at most 8 bytes, any shape.
    meta : dict
        Anything JSON can say; numbers are finite.
    """

    arrays: Mapping[str, NDArray[Any]]
    meta: Mapping[str, Any] = {}


def save_record(
    path: str | Path, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any] | None = None, *, kind: str
) -> None:
    """Write a record, atomically; equal contents give equal bytes.

    Parameters
    ----------
    path : path
        Its folder must exist.
    arrays : mapping of str to ndarray
        Booleans, integers or floats of at most 8 bytes, any shape, any strides and byte order.
    meta : mapping, optional
        JSON-able, of finite numbers, at most 16 MiB.
    kind : str
        What the record is, for instance ``"shard"``; :func:`load_record` must be told the same.
    """
    host = {name: np.asarray(array) for name, array in arrays.items()}
    with write_record(path, meta, kind=kind) as writer:
        for name in sorted(host):
            writer.create(name, host[name].shape, host[name].dtype)
        for name in sorted(host):
            writer.append(name, host[name])


def load_record(path: str | Path, *, kind: str, mend: str = "restore it from a copy or make it again") -> Record:
    """Read a whole record and check its content against its SHA-256.

    Parameters
    ----------
    path : path
        A file that may be truncated, damaged, foreign or hostile.
    kind : str
        What :func:`save_record` was told.
    mend : str
        How to mend a damaged file, for the complaint.

    Returns
    -------
    Record
        Arrays in native byte order, C-contiguous, and the JSON object.
    """
    with open_record(path, kind=kind, mend=mend) as reader:
        arrays = {name: reader.read(name) for name in reader.names}
        reader._check({name: _digest(array) for name, array in arrays.items()})
        return Record(arrays, reader.meta)


class RecordWriter:
    """Writes a record piece by piece, so that memory need hold one piece only.

    Made by :func:`write_record`.

    Parameters
    ----------
    file : h5py.File
        The file, open for writing, its header and JSON written.
    sink : io.RawIOBase
        What ``file`` writes to.
    path : path
        The name the file will get, for complaints.
    """

    def __init__(self, file: h5py.File, sink: _Sink, path: Path) -> None:
        self._file, self._sink, self._path = file, sink, path
        self._datasets: dict[str, Any] = {}
        self._rows: dict[str, int] = {}
        self._digests: dict[str, Any] = {}

    def create(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        """Announce an array.

        Parameters
        ----------
        name : str
            Its name, see :func:`check_name`. Names must come in an order that does not depend on chance.
        shape : tuple of int
            Its shape.
        dtype : dtype
            Booleans, integers or floats of at most 8 bytes.

        Raises
        ------
        InputError
            If the name or the dtype cannot be stored, or the name is taken.
        """
        label = f"{self._path}: array {name}"
        check_name(f"{self._path}: array", name)
        dtype = np.dtype(dtype)
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise InputError(f"{label}: expected booleans, integers or floats of at most 8 bytes, got {dtype}")
        if name in self._file or any(name.startswith(taken + "/") for taken in ("meta", *self._rows)):
            raise InputError(f"{label}: the name is taken, or a part of it; choose another")
        self._datasets[name] = self._file.create_dataset(
            name, shape=shape, dtype=dtype.newbyteorder("<"), track_times=False
        )
        self._rows[name] = 0
        self._digests[name] = hashlib.sha256()

    def append(self, name: str, rows: NDArray[Any]) -> None:
        """Write the next rows of an array.

        Parameters
        ----------
        name : str
            An array that was announced.
        rows : ndarray
            Rows along its first axis, or the whole of an array that has no axes.
        """
        dataset = self._datasets[name]
        block = np.asarray(rows, dtype=rows.dtype.newbyteorder("<"), order="C")
        first = self._rows[name]
        last = first + (block.shape[0] if block.ndim else 1)
        total = dataset.shape[0] if dataset.ndim else 1
        same_rows = block.ndim == dataset.ndim and block.shape[1:] == dataset.shape[1:]
        if not same_rows or block.dtype != dataset.dtype or last > total:
            raise InputError(
                f"{self._path}: array {name}: rows {block.dtype} {block.shape} at {first} do not fit into "
                f"{dataset.dtype} {dataset.shape}"
            )
        self._digests[name].update(_buffer(block))
        self._rows[name] = last
        if block.size:
            dataset[(slice(first, last),) if block.ndim else ()] = block
        if self._sink.error is not None:
            raise self._sink.error

    def _close(self, kind: str, text: bytes) -> None:
        """Sign the content; every announced array must be complete."""
        for name, rows in self._rows.items():
            shape = self._datasets[name].shape
            if rows != (shape[0] if shape else 1):
                raise InputError(f"{self._path}: array {name}: only {rows} rows were written of {shape}")
        digests = {name: digest.hexdigest() for name, digest in self._digests.items()}
        self._file.attrs["sha256"] = np.bytes_(_content_sha256(kind, text, self._datasets, digests))


@contextmanager
def write_record(path: str | Path, meta: Mapping[str, Any] | None = None, *, kind: str) -> Iterator[RecordWriter]:
    """Write a record piece by piece: ``create`` every array, then ``append`` its rows in order.

    The file appears, whole, when the ``with`` block ends; if that raises, nothing is left behind.

    Parameters
    ----------
    path : path
        Its folder must exist.
    meta : mapping, optional
        JSON-able, of finite numbers, at most 16 MiB.
    kind : str
        What the record is, for instance ``"outcomes"``.

    Yields
    ------
    RecordWriter
        To create and append with.
    """
    path = Path(path)
    text = to_json(f"{path}: meta", dict(meta or {}), indent=None).encode()
    if len(text) > MAX_JSON_BYTES:
        raise InputError(f"{path}: meta: {len(text)} bytes of JSON, at most {MAX_JSON_BYTES}; store arrays as arrays")
    with aside(path) as raw:
        sink = _Sink(raw)
        try:
            with h5py.File(sink, "w", libver=_LIBVER, track_order=False) as file:
                file.attrs["format"] = np.bytes_(f"{_MAGIC}{check_name('kind', kind)}")
                file.attrs["version"] = np.int64(FORMAT_VERSION)
                string = h5py.string_dtype("utf-8", len(text))
                file.create_dataset("meta", data=np.array(text, dtype=string), track_times=False)
                writer = RecordWriter(file, sink, path)
                yield writer
                writer._close(kind, text)
        finally:
            # Whatever HDF5 made of it, the disk's complaint came first.
            if sink.error is not None:
                raise sink.error


class _Source(io.RawIOBase):
    """The file HDF5 reads from.

    It keeps its own position: processes that were forked share that of the file's descriptor, and would read
    each other's places.
    """

    def __init__(self, file: io.FileIO | io.BufferedReader) -> None:
        self._descriptor = file.fileno()
        self._size = os.fstat(self._descriptor).st_size
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (self._size if whence == io.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        while view and (count := os.preadv(self._descriptor, [view], self._position)):
            self._position += count
            view = view[count:]
        return len(buffer) - len(view)


class _Sink(_Source):
    """The file HDF5 writes to; it keeps the first failure instead of raising it.

    HDF5 writes when it sees fit, small files not before they are closed; an error raised into its midst comes
    out as another one, and may leave the file open. So it is told that all went well, and :func:`write_record`
    throws the file away and raises ``error``.
    """

    error: OSError | None = None

    def readinto(self, buffer: Any) -> int:
        super().readinto(buffer)
        return len(buffer)  # also of what could not be written

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        end = self._position + len(view)
        try:
            while view and self.error is None:
                view = view[os.pwrite(self._descriptor, view, end - len(view)) :]
        except OSError as error:
            self.error = error
        self._position, self._size = end, max(self._size, end)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        try:
            if self.error is None:
                os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            self.error = error
        return self._size


class RecordReader:
    """A record, open for reading in slices; a context manager.

    Made by :func:`open_record`.

    Parameters
    ----------
    path : path
        The file.
    kind : str
        What :func:`save_record` was told.
    mend : str
        How to mend a damaged file, for the complaint.

    Attributes
    ----------
    meta : dict
        The JSON object.
    names : tuple of str
        The arrays' names, sorted.
    """

    meta: dict[str, Any]
    names: tuple[str, ...]

    def __init__(self, path: str | Path, *, kind: str, mend: str) -> None:
        self._path, self._kind, self._mend = Path(path), kind, mend
        with ExitStack() as stack, self._damage():
            raw = stack.enter_context(open_regular(path))
            self._file = StrictFile(raw.fileno())
            self._attributes = self._file.attributes(self._file.header(self._file.root))
            self._check_header()
            self._datasets = _datasets(f"{path}: array", self._file)
            self.names = tuple(sorted(self._datasets.keys() - {"meta"}))
            self._text = self._read_text()
            self.meta = from_json(f"{path}: meta", self._text, mend=mend)
            self._open = stack.pop_all()

    @property
    def sha256(self) -> str:
        """SHA-256 of the content as the file says it, in hexadecimal; `verify` checks it."""
        return self._claimed

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array.

        Parameters
        ----------
        name : str
            Its name.
        """
        return tuple(self._dataset(name).shape)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Dtype of an array.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        dtype
            In native byte order.
        """
        dtype: np.dtype[Any] = np.dtype(self._dataset(name).dtype).newbyteorder("=")
        return dtype

    def read(self, name: str, first: int = 0, last: int | None = None) -> NDArray[Any]:
        """Rows of an array.

        Parameters
        ----------
        name : str
            Its name.
        first, last : int, optional
            Which rows, as in a slice; by default all. An array without axes is read whole.

        Returns
        -------
        ndarray
            In native byte order, C-contiguous.
        """
        dataset = self._dataset(name)
        with self._damage():
            return np.asarray(self._file.read(dataset, first, last), dtype=self.dtype(name))

    def verify(self) -> None:
        """Check the content against its SHA-256, block by block."""
        digests = {}
        for name in self.names:
            shape = self.shape(name)
            row_bytes = math.prod(shape[1:]) * self.dtype(name).itemsize
            step = max(1, _BLOCK_BYTES // max(1, row_bytes))
            digest = hashlib.sha256()
            for first in range(0, shape[0] if shape else 1, step):
                digest.update(_buffer(self.read(name, first, first + step)))
            digests[name] = digest.hexdigest()
        self._check(digests)

    def _check(self, digests: Mapping[str, str]) -> None:
        """Raise unless the SHA-256 of each array's bytes gives the record's."""
        with self._damage():
            if _content_sha256(self._kind, self._text, self._datasets, digests) != self._claimed:
                raise FormatError("its content does not match its SHA-256")

    def _dataset(self, name: str) -> StoredArray:
        if name not in self.names:
            raise InputError(
                f"{self._path}: no array named {printable(name, 200)!r}; it has {', '.join(self.names) or 'none'}"
            )
        return self._datasets[name]

    def _check_header(self) -> None:
        found = self._word("format")
        if not found.startswith(_MAGIC):
            raise ForeignError(f"its format is {printable(found, 40)!r}, which is not malade's")
        self._claimed = self._word("sha256")
        version = self._number("version")
        if found != _MAGIC + self._kind:
            raise InputError(
                f"{self._path}: expected a {_MAGIC}{self._kind} file, got {printable(found, 80)!r}; choose another file"
            )
        if version != FORMAT_VERSION:
            raise InputError(
                f"{self._path}: version {version} of the format, this malade reads {FORMAT_VERSION}; "
                "use the malade that wrote it, or make it again"
            )

    def _word(self, name: str) -> str:
        """One short text of the header."""
        kind, value = self._attribute(name)
        dtype = text_type(kind)
        if dtype is None or dtype.itemsize != len(value) or len(value) > 256:
            raise ForeignError(f"its {name} is not as malade writes it")
        return value.rstrip(b"\0").decode("ascii", "backslashreplace")

    def _number(self, name: str) -> int:
        """One integer of the header."""
        kind, value = self._attribute(name)
        dtype = number_type(kind)
        if dtype is None or dtype.kind not in "iu" or dtype.itemsize != len(value):
            raise ForeignError(f"its {name} is not as malade writes it")
        return int(np.frombuffer(value, dtype)[0])

    def _attribute(self, name: str) -> tuple[bytes, bytes]:
        if name not in self._attributes:
            raise ForeignError(f"it has no {name} that malade wrote")
        return self._attributes[name]

    def _read_text(self) -> bytes:
        text = self._datasets.get("meta")
        if text is None or text.shape != () or text.dtype.kind != "S" or text.dtype.itemsize > MAX_JSON_BYTES:
            raise FormatError("its JSON is missing")
        return bytes(self._file.read(text)[()])

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Turn what a damaged file leads to into one line."""
        try:
            yield
        except InputError:
            raise
        except (FormatError, struct.error, OSError, LookupError, ValueError, ArithmeticError) as error:
            # Nobody is told to delete a file that this program did not write.
            mend = "choose another file" if isinstance(error, ForeignError) else self._mend
            raise InputError(f"{self._path}: not a whole malade file ({one_line(error)}); {mend}") from error


def open_record(path: str | Path, *, kind: str, mend: str = "restore it from a copy or make it again") -> RecordReader:
    """Open a record to read it in slices; ``verify()`` checks the whole of it.

    Parameters
    ----------
    path : path
        A file that may be truncated, damaged, foreign or hostile.
    kind : str
        What :func:`save_record` was told.
    mend : str
        How to mend a damaged file, for the complaint.

    Returns
    -------
    RecordReader
        A context manager; errors are those of :func:`load_record`.
    """
    return RecordReader(path, kind=kind, mend=mend)


def is_record(path: str | Path) -> bool:
    """Whether a file is one that this program wrote, as far as its first bytes tell.

    Parameters
    ----------
    path : path
        Any file.

    Returns
    -------
    bool
        True if it is an HDF5 file of the form that records have, and its header holds ``format`` (a word that begins
        with ``malade-``), ``version`` and ``sha256`` as records do. Other programs may use these names, too, but not
        all of that.
    """
    with open_regular(path) as raw:
        try:
            file = StrictFile(raw.fileno())
            found = file.attributes(file.header(file.root))
        except (FormatError, OSError, struct.error, IndexError):
            return False
    words = [text_type(found[name][0]) for name in ("format", "sha256") if name in found]
    return (
        len(words) == 2
        and all(dtype is not None for dtype in words)
        and "version" in found
        and number_type(found["version"][0]) is not None
        and found["format"][1].startswith(_MAGIC.encode())
        and len(found["sha256"][1]) == 64
    )


def _datasets(what: str, file: StrictFile) -> dict[str, StoredArray]:
    """Every array of a file, after checking that it holds nothing but plain arrays it has room for."""
    found: dict[str, StoredArray] = {}
    total = 0
    known = {file.root}
    groups = [("", file.header(file.root))]
    while groups:
        prefix, group = groups.pop()
        for key, address in file.links(group):
            name = check_name(what, prefix + key)
            if len(known) > MAX_NAMES:
                raise FormatError(f"more than {MAX_NAMES} names")
            # A soft or external link could lead to another file, a second hard link back up into a loop.
            if address is None or address in known:
                raise FormatError(f"{name} is a link")
            known.add(address)
            header = file.header(address)
            array = file.array(header)
            if isinstance(array, str):
                if array != NO_ARRAY or not file.is_group(header):
                    raise FormatError(f"{name} {array}")
                groups.append((name + "/", header))
                continue
            if array.dtype.kind == "S" and name != "meta":
                raise FormatError(f"{name} has dtype {array.dtype}")
            total += array.num_bytes
            if total > file.num_bytes:
                raise FormatError(f"it claims {total} bytes of arrays and has {file.num_bytes}")
            found[name] = array
    return found


def _content_sha256(kind: str, text: bytes, datasets: Mapping[str, Any], digests: Mapping[str, str]) -> str:
    """SHA-256 of a record's content, from those of its arrays' bytes."""
    content = {
        "format": f"{_MAGIC}{kind}",
        "version": FORMAT_VERSION,
        "meta": hashlib.sha256(text).hexdigest(),
        "arrays": {
            name: [str(datasets[name].dtype), list(datasets[name].shape), digest] for name, digest in digests.items()
        },
    }
    return hashlib.sha256(to_json("record", content, indent=None).encode()).hexdigest()


def _digest(array: NDArray[Any]) -> str:
    """SHA-256 of an array's bytes, row by row, little-endian."""
    return hashlib.sha256(_buffer(array)).hexdigest()


def _buffer(array: NDArray[Any]) -> Any:
    """An array's bytes, row by row, little-endian."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C").reshape(-1).view(np.uint8).data
