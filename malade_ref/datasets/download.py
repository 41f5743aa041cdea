"""Downloads that can be resumed, and are believed only by their SHA-256.

Mirrors compress single files anew, so the checksum is that of the decompressed content: one of the compressed bytes
would say which mirror a file came from, and not whether it is right. Archives are checked as they are. What has
arrived of a file is kept beside it, one part for each mirror, until all of it is there and right.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import http.client
import io
import os
import re
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from malade_ref.checks import InputError, printable
from malade_ref.datasets.incoming import Progress
from malade_ref.storage.files import cannot_write, one_line, open_regular

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 3  # at each mirror

_BLOCK_BYTES = 1 << 18


def download_gzip(
    urls: Sequence[str],
    path: str | Path,
    *,
    sha256: str,
    num_bytes: int,
    packed: bool = False,
    progress: Progress | None = None,
) -> None:
    """Fetch a gzip file or an archive from the first mirror that has it.

    Parameters
    ----------
    urls : sequence of str
        The file at each mirror, best first.
    path : path
        Where it goes; the folder must exist. The file appears there, whole and right, or not at all.
    sha256 : str
        Of the decompressed content, in hexadecimal.
    num_bytes : int
        Size of the decompressed content.
    packed : bool
        Whether ``sha256`` and ``num_bytes`` are those of the file as it is, an archive.
    progress : callable, optional
        Called now and then with the fraction done, in [0, 1], and a message.

    Raises
    ------
    InputError
        If no mirror gave the file. What has arrived is kept, and the next call goes on from there.
    """
    path = Path(path)
    failures = []
    for url in urls:
        part = path.with_name(f".{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
        with _locked(part) as file:
            failure = _download(url, file, part, sha256, num_bytes, packed, progress)
            if not failure:
                try:
                    os.fsync(file.fileno())
                    os.replace(part, path)
                except OSError as error:
                    raise cannot_write(path, error) from error
                return
            failures.append(f"{url}: {failure}")
    raise InputError(f"{path.name}: could not be downloaded ({'; '.join(failures)}); try again later")


def payload_sha256(path: str | Path, num_bytes: int, *, packed: bool = False) -> str | None:
    """SHA-256 of the content of a file, decompressed if it is a gzip file.

    Parameters
    ----------
    path : path
        The file.
    num_bytes : int
        Size of the content; not more is ever decompressed.
    packed : bool
        Whether to take the file as it is.

    Returns
    -------
    str or None
        In hexadecimal; None if the file is damaged or its content has another size.
    """
    digest, done = hashlib.sha256(), 0
    with open_regular(path) as raw:
        try:
            file = gzip.GzipFile(fileobj=raw) if not packed and raw.peek(2)[:2] == b"\x1f\x8b" else raw
            while done <= num_bytes and (block := file.read(min(_BLOCK_BYTES, num_bytes + 1 - done))):
                digest.update(block)
                done += len(block)
        except (OSError, EOFError, zlib.error):
            return None
    return digest.hexdigest() if done == num_bytes else None


@contextmanager
def _locked(part: Path) -> Iterator[io.FileIO]:
    """A part, open for appending; nobody else writes to it. It is removed if it is empty in the end."""
    try:
        file = io.FileIO(part, "ab")
    except OSError as error:
        raise cannot_write(part, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{part}: another program is downloading this file; wait for it to end") from error
        try:
            yield file
        finally:
            if os.fstat(file.fileno()).st_size == 0:
                part.unlink(missing_ok=True)


def _download(
    url: str, file: io.FileIO, part: Path, sha256: str, num_bytes: int, packed: bool, progress: Progress | None
) -> str:
    """Complete a part from one mirror; say why if that fails."""
    failure = ""
    for _ in range(ATTEMPTS):
        try:
            _transfer(url, file, part, limit=num_bytes + _BLOCK_BYTES, progress=progress)
        except urllib.error.HTTPError as error:
            return f"{error.code} {printable(error.reason, 100)}"
        except (OSError, http.client.HTTPException) as error:
            failure = _reason(error)
            continue
        if payload_sha256(part, num_bytes, packed=packed) == sha256:
            return ""
        # Perhaps the mirror's file changed between two halves of a download: once more, from its start.
        file.truncate(0)
        failure = "its content has the wrong SHA-256"
    return failure


def _transfer(url: str, file: io.FileIO, part: Path, *, limit: int, progress: Progress | None) -> None:
    """Bring a part to its full length, from where it ends."""
    done = os.fstat(file.fileno()).st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # there is no more; the checksum will tell
            return
        raise
    with response:
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if not (response.status == 206 and found and int(found[1]) == done):  # the mirror starts afresh
            if response.status == 206:
                raise ConnectionError("the mirror sent another part than was asked for")
            file.truncate(0)
            done = 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        while block := response.read(_BLOCK_BYTES):
            done += len(block)
            if done > limit:
                file.truncate(0)
                raise ConnectionError(f"the mirror sends more than {limit} bytes")
            try:
                view = memoryview(block)
                while view:
                    view = view[file.write(view) :]
            except OSError as error:
                raise cannot_write(part, error) from error
            if progress is not None and total:
                progress(min(1.0, done / total), f"{url}: {done / 1e6:.1f} of {total / 1e6:.1f} MB")
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return printable(one_line(cause) if isinstance(cause, BaseException) else cause, 200)
