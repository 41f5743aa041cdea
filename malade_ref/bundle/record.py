"""Records: copies of finished bundles without what is large, which can still be verified, and drawn again elsewhere.

Left out are networks, and files above 1 MiB that hold images: arrays of four axes or more. Of outcomes.h5 only such
arrays are left out. The manifest of a record holds the SHA-256 of every file that is there, and, as ``left_out``, size
and SHA-256 of those that are not, so that one that turns up again can be told from another.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from malade_ref.bundle.layout import CONFIG, CROISSANT, ENVIRONMENT, MANIFEST, MODELS, OUTCOMES, state_of
from malade_ref.bundle.manifest import LeftOut, read_left_out, read_manifest, verify, write_manifest
from malade_ref.checks import InputError
from malade_ref.storage import cannot_write, file_sha256, make_folder, open_record, write_record
from malade_ref.storage.files import open_regular

MOST_BYTES = 1 << 20
IMAGE_AXES = 4
_PART = ".part"


def keep_record(path: str | Path, out: str | Path) -> dict[str, LeftOut]:
    """Copy a finished bundle, or a record of one, without networks and large images.

    Parameters
    ----------
    path : path
        The bundle.
    out : path
        The folder of the record: new, or empty. It appears whole or not at all.

    Returns
    -------
    dict of str to LeftOut
        What was left out, by name.

    Raises
    ------
    InputError
        If the bundle is not finished or not whole, or ``out`` holds anything or cannot be written.
    """
    path, out = Path(path), Path(out)
    _check_places(path, out)
    problems = verify(path)
    if problems:
        raise InputError(f"{path}: is not whole ({problems[0]}); restore it first")
    manifest, left_out = read_manifest(path), dict(read_left_out(path) or {})
    with _aside(out) as part:
        files = {}
        for name in sorted(manifest):
            source = path / name
            if _is_left_out(source, name):
                left_out[name] = LeftOut(source.stat().st_size, manifest[name])
                continue
            make_folder((part / name).parent)
            images = _images_in(source) if name == OUTCOMES else []
            if images:
                left_out[name] = LeftOut(source.stat().st_size, manifest[name])
                _copy_without(source, part / name, images)
                files[name] = file_sha256(part / name)
            else:
                files[name] = _copy(source, part / name)
                if files[name] != manifest[name]:
                    raise InputError(f"{source}: was changed meanwhile; give a bundle that nothing works on")
        if CROISSANT in files and files.get(OUTCOMES) != manifest.get(OUTCOMES):
            # It names the outcomes by their SHA-256.
            text = (part / CROISSANT).read_bytes().replace(manifest[OUTCOMES].encode(), files[OUTCOMES].encode())
            (part / CROISSANT).write_bytes(text)
            files[CROISSANT] = file_sha256(part / CROISSANT)
        _copy(path / ENVIRONMENT, part / ENVIRONMENT)
        write_manifest(part, files, left_out)
    return left_out


def keep_records(bundles: Mapping[str, Path], files: Sequence[Path], out: str | Path) -> None:
    """Copy several bundles that belong together, as `keep_record`, and the files beside them.

    Parameters
    ----------
    bundles : mapping of str to Path
        By the names of their folders in ``out``.
    files : sequence of Path
        Copied as they are.
    out : path
        The folder of all: new, or empty. It appears whole or not at all.

    Raises
    ------
    InputError
        As `keep_record`.
    """
    out = Path(out)
    for path in bundles.values():
        _check_places(path, out)
    with _aside(out) as part:
        for name, path in bundles.items():
            keep_record(path, part / name)
        for file in files:
            _copy(file, part / file.name)


def _check_places(path: Path, out: Path) -> None:
    """Raise unless there is a finished bundle, and nothing where the record is to go."""
    if not (path / CONFIG).is_file():
        raise InputError(f"{path}: is no bundle (it has no {CONFIG}); give the folder of a malade run")
    state = state_of(path)
    if state != "finished" and not (path / MANIFEST).exists() and state == "foreign":
        raise InputError(
            f"{path}: was kept without manifest by an earlier version, and stays as it is; copy its folder"
        )
    if state != "finished":
        raise InputError(f"{path}: is not finished; malade run --resume --out {path} goes on with it")
    if out.resolve().is_relative_to(path.resolve()):
        raise InputError(f"{out}: lies in the bundle itself; choose a folder beside it")
    if os.path.lexists(out) and (os.path.islink(out) or not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; choose another folder")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: there is no folder {out.absolute().parent}; create it first")


def _is_left_out(source: Path, name: str) -> bool:
    if name.startswith(f"{MODELS}/"):
        return True
    large = name.endswith(".h5") and name != OUTCOMES and source.stat().st_size > MOST_BYTES
    return large and bool(_images_in(source))


def _images_in(source: Path) -> list[str]:
    """Names of the arrays of a record's file that hold images."""
    kind = "outcomes" if source.name == OUTCOMES else "stage"
    with suppress(InputError), open_record(source, kind=kind) as reader:
        return [name for name in reader.names if len(reader.shape(name)) >= IMAGE_AXES]
    return []


def _copy(source: Path, target: Path) -> str:
    """Copy the content of a file, not its rights; give its SHA-256."""
    digest = hashlib.sha256()
    with open_regular(source) as old:
        try:
            with open(target, "xb") as new:
                while block := old.read(1 << 20):
                    digest.update(block)
                    new.write(block)
                new.flush()
                os.fsync(new.fileno())
        except OSError as error:
            raise cannot_write(target, error) from error
    return digest.hexdigest()


def _copy_without(source: Path, target: Path, images: list[str]) -> None:
    with (
        open_record(source, kind="outcomes") as reader,
        write_record(target, reader.meta, kind="outcomes") as writer,
    ):
        names = [name for name in reader.names if name not in images]
        for name in names:
            writer.create(name, reader.shape(name), reader.dtype(name))
        for name in names:
            writer.append(name, reader.read(name))


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A folder beside another that takes its name when the block ends, and is removed if that raises."""
    parent = out.absolute().parent
    prefix = f".{out.name}."
    try:
        for old in parent.glob(f"{prefix}*{_PART}"):
            _sweep(old)
        part = Path(tempfile.mkdtemp(prefix=prefix, suffix=_PART, dir=parent))
        held = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield part
        try:
            part.chmod(0o777 & ~_umask())
            os.rename(part, out)
        except OSError as error:
            raise cannot_write(out, error) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        os.close(held)


def _sweep(old: Path) -> None:
    """Remove what a killed process left; a living one holds it."""
    with suppress(OSError):
        held = os.open(old, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            os.close(held)


def _umask() -> int:
    mask = os.umask(0o22)
    os.umask(mask)
    return mask
