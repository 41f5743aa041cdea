"""HDF5 files that this program did not write, read in another process.

Such a file may be hostile, and the HDF5 library trusts it: it can be crashed, kept busy for ever, or made to take all
memory. So a process of its own (`malade_ref.storage.foreign_child`) asks the library, with limits of memory, time and
file size; if it dies, that is one line of complaint here. Only arrays at the top of the file are read.
"""

from __future__ import annotations

import io
import json
import math
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError, printable
from malade_ref.storage.files import open_regular

MAX_MEMORY = 1 << 28  # bytes that the other process may take, beyond what it is before it opens a file
MAX_SECONDS = 30  # without an answer
MAX_CHUNK = 1 << 26  # bytes that are unpacked at once
MAX_BYTES = 1 << 38  # of an array
DEFLATE_RATIO = 1032  # compression cannot do better

_MEND = "fetch or save it again"


class ForeignArray(NamedTuple):
    """An array of a foreign file, before it is read.

    Attributes
    ----------
    shape : tuple of int
        Its shape.
    dtype : dtype
        Booleans, integers, floats, or short words of fixed length (kind "S").
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class ForeignFile:
    """An HDF5 file of unknown origin, open for reading; a context manager.

    Parameters
    ----------
    path : path
        The file.
    names : sequence of str
        Arrays to look for.

    Attributes
    ----------
    arrays : dict of str to ForeignArray
        Those of them that are there; their sizes have been checked.
    """

    arrays: Mapping[str, ForeignArray]

    def __init__(self, path: str | Path, names: Sequence[str]) -> None:
        self._path = Path(path)
        with open_regular(path) as raw:
            if os.fstat(raw.fileno()).st_size == 0:
                raise InputError(f"{path}: is empty; {_MEND}")
            child = Path(__file__).with_name("foreign_child.py")
            environment = {**os.environ, "HDF5_PLUGIN_PATH": "::", "HDF5_USE_FILE_LOCKING": "FALSE"}
            environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            numbers = (raw.fileno(), MAX_MEMORY, MAX_SECONDS)
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(child), *map(str, numbers)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(raw.fileno(),),
                env=environment,
            )
        try:
            found, _ = self._ask({"do": "describe", "names": list(names)})
            self.arrays = {name: self._checked(name, about) for name, about in found.items()}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ForeignFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the other process."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._process.wait()

    def read(self, name: str, first: int = 0, last: int | None = None) -> NDArray[Any]:
        """Rows of an array.

        Parameters
        ----------
        name : str
            One of `arrays`.
        first, last : int, optional
            Which rows, as in a slice; an array without axes is read whole.

        Returns
        -------
        ndarray
            Its own, in native byte order.
        """
        shape, dtype = self.arrays[name]
        if shape:
            first, last, _ = slice(first, last).indices(shape[0])
            shape = (max(0, last - first), *shape[1:])
        values = np.empty(shape, dtype=dtype)
        if not values.size:
            return values
        # A slice's bytes go through a pipe: at most some 8 MiB of them at once.
        rows = max(1, (1 << 23) // max(1, values.nbytes // max(1, len(values) if shape else 1)))
        for start in range(0, shape[0] if shape else 1, rows):
            stop = min(start + rows, shape[0]) if shape else 1
            target = values[start:stop] if shape else values
            _, content = self._ask({"do": "read", "name": name, "first": first + start, "last": first + stop})
            if len(content) != target.nbytes:
                raise InputError(f"{self._path}: {name}: gave {len(content)} bytes of {target.nbytes}; {_MEND}")
            target[...] = np.frombuffer(content, dtype).reshape(target.shape)
        return values.astype(dtype.newbyteorder("="), copy=False)

    def _checked(self, name: str, about: Mapping[str, Any]) -> ForeignArray:
        where = f"{self._path}: {name}"
        if "wrong" in about:
            raise InputError(f"{where}: {printable(about['wrong'], 200)}")
        shape, dtype = tuple(about["shape"]), np.dtype(about["dtype"])
        size = math.prod(shape) * dtype.itemsize
        if size > about["stored"] * DEFLATE_RATIO:
            raise InputError(
                f"{where}: claims {size} bytes, more than the {about['stored']} stored bytes can hold; save it again"
            )
        if size > MAX_BYTES:
            raise InputError(f"{where}: claims {size} bytes, at most {MAX_BYTES} can be read; save fewer images")
        if about["chunk"] > MAX_CHUNK:
            raise InputError(
                f"{where}: has chunks of {about['chunk']} bytes, at most {MAX_CHUNK} can be read; save it with smaller "
                "chunks"
            )
        return ForeignArray(shape, dtype)

    def _ask(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Send a request, and wait for its answer."""
        deadline = time.monotonic() + MAX_SECONDS
        pipe, sink = self._process.stdout, self._process.stdin
        assert pipe is not None
        assert sink is not None
        try:
            sink.write(json.dumps(request).encode() + b"\n")
            sink.flush()
            text_bytes, content_bytes = struct.unpack("<QQ", self._receive(pipe, 16, deadline))
            text = self._receive(pipe, min(text_bytes, 1 << 24), deadline)
            content = self._receive(pipe, min(content_bytes, 1 << 32), deadline)
        except (BrokenPipeError, EOFError):
            raise InputError(f"{self._path}: {self._death()}; {_MEND}") from None
        reply = json.loads(text)
        if "error" in reply:
            raise InputError(f"{self._path}: damaged or not of its kind ({printable(reply['error'], 200)}); {_MEND}")
        return reply, content

    def _receive(self, pipe: Any, size: int, deadline: float) -> bytes:
        out = io.BytesIO()
        while out.tell() < size:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise InputError(f"{self._path}: HDF5 does not come to an end with it in {MAX_SECONDS} s; {_MEND}")
            piece = os.read(pipe.fileno(), min(1 << 20, size - out.tell()))
            if not piece:
                raise EOFError
            out.write(piece)
        return out.getvalue()

    def _death(self) -> str:
        """Say how the other process ended."""
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return f"HDF5 does not come to an end with it in {MAX_SECONDS} s"
        if code < 0:
            return f"HDF5 breaks down over it ({signal.Signals(-code).name})"
        return f"the process that was to read it ended with exit code {code}"
