"""Whole files, safe names and canonical JSON.

A file is written aside, under another name in the same folder, flushed to the disk, and only then given its
name. Whoever is killed, or runs out of disk, leaves the old file or none: never half of one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from malade_ref.checks import InputError, printable

MAX_JSON_BYTES = 1 << 24
MAX_DEPTH = 16
MAX_NESTING = 64  # of tables and arrays in JSON and TOML
MAX_PARTS = 16  # of a dotted key in TOML, whose reader takes time and memory by their square

# Folders below which no link is followed; see `protect`.
_protected: set[str] = set()

_ABSENT = object()
_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_PARTS}}}")
_SEGMENT = re.compile(r"[A-Za-z0-9_+=,-][A-Za-z0-9_.+=,-]{0,99}")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


def atomic_write(path: str | Path, content: bytes | str) -> None:
    """Write a file so that at every moment ``path`` is the old content or the new, whole.

    Parameters
    ----------
    path : path
        Its folder must exist.
    content : bytes or str
        Text is written as UTF-8, line ends as they are.

    Raises
    ------
    InputError
        If the disk is full or the folder cannot be written. What was at ``path`` is untouched and nothing
        is left beside it.
    """
    data = content.encode() if isinstance(content, str) else content
    with aside(Path(path)) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]


@contextmanager
def aside(path: Path) -> Iterator[io.FileIO]:
    """Open a new file beside ``path``; make it durable and give it the name, or remove it.

    Parameters
    ----------
    path : path
        The name that the file gets when the ``with`` block ends; its folder must exist.

    Yields
    ------
    io.FileIO
        The new file, to read and write; unbuffered.

    Raises
    ------
    InputError
        If the block raises OSError, or the file cannot be created, flushed or renamed.
    """
    try:
        with opened_folder(path.parent) as folder:
            temporary, descriptor = _new_temporary(path.name, folder)
            try:
                with io.FileIO(descriptor, "r+") as file:
                    yield file
                    os.fsync(descriptor)
                    # While the lock is held: see `sweep_stale`.
                    os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            _sync_folder(folder)
    except OSError as error:
        raise cannot_write(path, error) from error


def _new_temporary(name: str, folder: int) -> tuple[str, int]:
    """A new file in a folder, locked while its writer lives: by this `sweep_stale` knows what is left over."""
    while True:
        temporary = f".{name}.{secrets.token_hex(8)}.tmp"
        # 0o666 less the umask, as any other file; tempfile would make it private.
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
        with suppress(OSError):  # some file systems know no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # swept before it was locked


def protect(folder: str | Path) -> None:
    """From now on, follow no link below a folder when something is written, made or removed there.

    Parameters
    ----------
    folder : path
        The folder; it may be a link itself, and need not exist.
    """
    _protected.add(os.path.abspath(folder))


@contextmanager
def opened_folder(folder: str | Path, *, make: bool = False) -> Iterator[int]:
    """Open a folder, so that what is done to names in it is done there and nowhere else.

    Parameters
    ----------
    folder : path
        The folder. Below one that is protected, every part of the path is opened by itself and may not be a link.
    make : bool
        Whether to make the parts below the protected folder that are missing, durably.

    Yields
    ------
    int
        Its descriptor.

    Raises
    ------
    InputError
        If a part is a link.
    OSError
        If it cannot be opened or made.
    """
    whole = os.path.abspath(folder)
    roots = [root for root in _protected if whole == root or whole.startswith(root + "/")]
    root = min(roots, key=len, default=whole)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(root, flags)
    try:
        for part in Path(whole).relative_to(root).parts:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
                    _sync_folder(descriptor)
            try:
                inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=descriptor)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(part, descriptor):
                    raise is_link(folder) from error
                raise
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def is_link(path: str | Path) -> InputError:
    """The complaint about a link where none may be.

    Parameters
    ----------
    path : path
        What is, or lies behind, a link.

    Returns
    -------
    InputError
        One line: what, where, how to mend it.
    """
    return InputError(f"{path}: is a symbolic link, which a bundle may not hold, or lies behind one; remove the link")


def _is_link(name: str, folder: int) -> bool:
    with suppress(OSError):
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def _sync_folder(descriptor: int) -> None:
    """Make the names in a folder durable: a rename is on the disk only after this."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder, and say so thus
            raise


def make_folder(folder: str | Path) -> None:
    """Create a folder and its parents, durably; one that exists is fine.

    Parameters
    ----------
    folder : path
        The folder.
    """
    folder = Path(folder)
    whole = os.path.abspath(folder)
    try:
        if any(whole.startswith(root + "/") and os.path.isdir(root) for root in _protected):
            with opened_folder(folder, make=True):
                return
        if folder.is_dir():
            return
        make_folder(folder.parent)
        with opened_folder(folder.parent) as parent:
            with suppress(FileExistsError):
                os.mkdir(folder.name, dir_fd=parent)
            _sync_folder(parent)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise cannot_write(folder, error) from error


def sweep(folder: str | Path) -> None:
    """Remove what killed writers left aside; only who alone writes to a folder may call this.

    Parameters
    ----------
    folder : path
        The folder; those below it are swept too.
    """
    # By descriptors: a folder that becomes a link meanwhile leads nowhere else.
    for parent, _, names, descriptor in os.fwalk(folder):
        for name in names:
            if is_temporary(name):
                try:
                    os.unlink(name, dir_fd=descriptor)
                except OSError as error:
                    raise cannot_write(Path(parent, name), error) from error


def sweep_stale(folder: str | Path, suffix: str) -> None:
    """Remove what killed writers left aside in a folder that others may be writing to.

    Parameters
    ----------
    folder : path
        The folder; those below it are left alone, and so are files that a living process writes, or that cannot be
        removed.
    suffix : str
        What was to be written: only files for names that end in this are removed.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if is_temporary(entry.name) and entry.name[:-21].endswith(suffix) and entry.is_file(follow_symlinks=False)
        ]
        for name in names:
            with suppress(OSError):
                descriptor = os.open(Path(folder, name), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(Path(folder, name))
                finally:
                    os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Whether a name is one that :func:`aside` gives to a file it has not finished.

    Parameters
    ----------
    name : str
        Without a folder.

    Returns
    -------
    bool
        Whether a killed writer left it.
    """
    return _TEMPORARY.fullmatch(name) is not None


def cannot_write(path: str | Path, error: OSError) -> InputError:
    """The complaint about a failed write.

    Parameters
    ----------
    path : path
        What was to be written.
    error : OSError
        What the system said.

    Returns
    -------
    InputError
        One line: what, where, how to mend it.
    """
    mend = {
        errno.ENOSPC: "free some space or choose another folder",
        errno.EDQUOT: "free some space or choose another folder",
        errno.EFBIG: "raise the limit on file sizes (ulimit -f) or choose another folder",
        errno.EACCES: "make the folder writable or choose another",
        errno.EPERM: "make the folder writable or choose another",
        errno.EROFS: "choose a folder that can be written",
        errno.ENOENT: "create the folder first",
        errno.ENOTDIR: "choose a path whose parents are folders",
        errno.EEXIST: "choose another name",
        errno.EISDIR: "choose a name that is not a folder's",
        errno.ENAMETOOLONG: "give a shorter name",
    }.get(error.errno or 0, "check the disk or choose another folder")
    return InputError(f"{path}: cannot be written ({one_line(error)}); {mend}; nothing was overwritten")


def one_line(error: BaseException) -> str:
    """What an exception says, in one line.

    Parameters
    ----------
    error : BaseException
        The exception.

    Returns
    -------
    str
        At most 200 characters.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def check_name(what: str, name: str) -> str:
    """Let only safe relative names pass, such as ``"cnn/pgd-eps0.3"``.

    Parameters
    ----------
    what : str
        What is named, for the complaint.
    name : str
        At most 16 segments joined by slashes. Segments are of letters, digits and ``_ . + = , -`` and do not
        start with a dot, so that no name leads out of its folder or to a hidden file.
    """
    segments = name.split("/")
    if len(segments) > MAX_DEPTH or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise InputError(
            f"{what}: expected names of letters, digits and _.+=,- joined by '/', none starting with a dot; "
            f"got {name!r}"
        )
    return name


def to_json(what: str, value: Any, *, indent: int | None = 2) -> str:
    """Canonical JSON: keys are sorted, so that equal values give equal text.

    Parameters
    ----------
    what : str
        What is stored, for the complaint.
    value : object
        Dicts with string keys, lists, tuples, strings, booleans, None and finite numbers.
    indent : int, optional
        Spaces to indent by; None for one line.

    Returns
    -------
    str
        The text, without an end of line.

    Raises
    ------
    InputError
        If ``value`` holds something JSON has no word for (an array, a date, NaN, a key that is no string).
    """
    try:
        _check_keys(value)
        separators = (",", ":") if indent is None else None
        text = json.dumps(
            value, sort_keys=True, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False
        )
        text.encode()  # half of a surrogate pair is a string for Python, and nothing for a file
        return text
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what}: cannot be stored as JSON ({one_line(error)}); use plain values") from error


def _check_keys(value: Any) -> None:
    """Raise TypeError on a key that is no string: json would turn 1 into "1" without a word."""
    items: Iterable[Any] = ()
    if isinstance(value, Mapping):
        items = value.values()
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is not a string")
    elif isinstance(value, list | tuple):
        items = value
    for item in items:
        _check_keys(item)


def from_json(what: str, text: bytes | str, *, mend: str = "restore the file from a copy") -> dict[str, Any]:
    """Parse a JSON object from a file that may be hostile.

    Parameters
    ----------
    what : str
        Where the text is from, for the complaint.
    text : bytes or str
        At most 16 MiB.
    mend : str
        How to mend it, for the complaint.

    Raises
    ------
    InputError
        If it is too long, not UTF-8, not JSON, not an object, nested too deep or not finite.
    """
    try:
        if len(text) > MAX_JSON_BYTES:
            raise ValueError(f"{len(text)} bytes, more than {MAX_JSON_BYTES}")
        value = json.loads(text.decode() if isinstance(text, bytes) else text, parse_constant=_refuse)
        _check_plain(value, bits=256, finite=True)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what}: not valid JSON ({_limit(error)}); {mend}") from error
    if not isinstance(value, dict):
        raise InputError(f"{what}: expected a JSON object, got {type(value).__name__}; {mend}")
    return value


def from_toml(what: str, text: str) -> dict[str, Any]:
    """Parse TOML from a file that may be hostile.

    Parameters
    ----------
    what : str
        Where the text is from, for the complaint.
    text : str
        The text.

    Returns
    -------
    dict
        The table.

    Raises
    ------
    InputError
        If it is not TOML (its cause is then `tomllib.TOMLDecodeError`), nested too deep, or holds integers of more
        than 64 bits.
    """
    try:
        if _LONG_KEY.search(text):
            raise ValueError(f"a key of more than {MAX_PARTS} parts")
        found = tomllib.loads(text)
        _check_plain(found)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{what}: not valid TOML ({printable(one_line(error), 200)}); mend it") from error
    except (ValueError, RecursionError, OverflowError) as error:
        raise InputError(f"{what}: not valid TOML for malade ({_limit(error)}); mend it") from error
    return found


def _limit(error: Exception) -> str:
    """What is wrong with a text, without the advice that Python gives to programmers."""
    if isinstance(error, RecursionError):
        return f"nested deeper than {MAX_NESTING}"
    return (
        "an integer of thousands of digits"
        if "set_int_max_str_digits" in str(error)
        else printable(one_line(error), 200)
    )


def _check_plain(value: Any, *, bits: int = 64, finite: bool = False) -> None:
    """Raise ValueError on what would break a reader later: deep nesting, integers of more bits than that."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_NESTING:
            raise ValueError(f"nested deeper than {MAX_NESTING}")
        below: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, int) and item.bit_length() > bits:
                raise ValueError(f"an integer that does not fit into {bits} bits")
            elif finite and isinstance(item, float) and not math.isfinite(item):
                raise ValueError(f"{item} where a number is expected")
        level = below


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    """Where two JSON values differ.

    Parameters
    ----------
    old, new : object
        As :func:`from_json` gives them.
    key : str
        The name of the whole.

    Yields
    ------
    tuple of str
        Key (such as ``attacks[1].eps``), old and new value as JSON, each ``(absent)`` where there is none.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(f"{key}.{name}".lstrip("."), name) for name in sorted(old.keys() | new.keys())]
        for where, name in pairs:
            yield from differences(old.get(name, _ABSENT), new.get(name, _ABSENT), where)
    elif isinstance(old, list) and isinstance(new, list):
        for i in range(max(len(old), len(new))):
            before, now = (items[i] if i < len(items) else _ABSENT for items in (old, new))
            yield from differences(before, now, f"{key}[{i}]")
    else:
        texts = ["(absent)" if value is _ABSENT else to_json(key, value, indent=None) for value in (old, new)]
        if texts[0] != texts[1]:
            yield key, texts[0], texts[1]


def load_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Parameters
    ----------
    path : path
        The file, at most 16 MiB.
    """
    with open_regular(path) as file:
        try:
            text = file.read(MAX_JSON_BYTES + 1)
        except OSError as error:
            raise cannot_read(path, error) from error
    return from_json(str(path), text)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of the bytes of a file.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    with open_regular(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise cannot_read(path, error) from error


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a file for reading; a folder, a pipe or a device is an error, not a wait.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    io.BufferedReader
        The file, open; its user closes it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file")
        return open(descriptor, "rb")
    except OSError as error:
        raise cannot_read(path, error) from error


def cannot_read(path: str | Path, error: OSError) -> InputError:
    """The complaint about a failed read.

    Parameters
    ----------
    path : path
        What was to be read.
    error : OSError
        What the system said.

    Returns
    -------
    InputError
        One line: what, where, how to mend it.
    """
    mend = {errno.ENOENT: "check the path", errno.ENAMETOOLONG: "give a shorter name"}.get(
        error.errno or 0, "check the file and its permissions"
    )
    return InputError(f"{path}: cannot be read ({one_line(error)}); {mend}")
