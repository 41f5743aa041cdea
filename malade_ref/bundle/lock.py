"""A lock that lets one process at a time work in a folder, and that dies with it."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path

from malade_ref.checks import InputError
from malade_ref.storage import cannot_write, make_folder, opened_folder


class LockedError(InputError):
    """Another process holds the lock.

    Parameters
    ----------
    message : str
        One line.
    owner : str
        The number of that process, or "unknown".
    """

    def __init__(self, message: str, owner: str) -> None:
        super().__init__(message)
        self.owner = owner


class Lock:
    """Exclusive use of a folder, held from construction to :meth:`release` or the end of the process.

    The system drops the lock when the process dies, however it dies: the file that stays behind means
    nothing.

    Parameters
    ----------
    path : path
        The lock file, created where needed, with its folder.

    Raises
    ------
    InputError
        If another process holds the lock (`LockedError`), or the file cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = None
        while self._descriptor is None:
            make_folder(path.parent)
            try:
                with opened_folder(path.parent) as folder:
                    self._descriptor = _locked(path, folder)
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
            except FileNotFoundError:
                continue  # its last owner has just finished and removed the folder
            except OSError as error:
                self.release()
                raise cannot_write(path, error) from error
            if not _is_at(self._descriptor, path):
                self.release()
        _held.add(self)

    def release(self) -> None:
        """Let others work in the folder; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _release_all() -> None:
    """A forked child shares its parent's locks, and would keep them if the parent were killed."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_all)


def _locked(path: Path, folder: int) -> int:
    """Open and lock a file."""
    descriptor = os.open(path.name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666, dir_fd=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise LockedError(
            f"{path.parent.parent}: another process ({owner}) is working here; wait for it, or choose another --out",
            owner,
        ) from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name, and not one that was removed meanwhile."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)
