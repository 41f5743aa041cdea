"""Files that other programs made, by accident or on purpose: each is read as what it is, or refused in one line."""

from __future__ import annotations

import gzip
import io
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from malade_ref.checks import InputError, check_choice, check_count, check_number, printable
from malade_ref.cli.files import read_images
from malade_ref.datasets import Dataset, import_dataset, list_datasets, load_dataset
from malade_ref.datasets.from_arrays import open_npy
from malade_ref.experiment.reading import parse_change, read_experiment
from malade_ref.storage import (
    atomic_write,
    from_json,
    from_toml,
    is_record,
    load_record,
    open_record,
    save_record,
    sweep_stale,
)
from malade_ref.storage import foreign as foreign_module
from malade_ref.storage.strict import checksum
from tests.ref.dataset_files import classes, complaint, idx, own_folders, pixels, put_mnist  # noqa: F401 (a fixture)

pytestmark = pytest.mark.faults

SMALL = np.arange(8 * 16, dtype=np.uint8).reshape(8, 4, 4)


def imported(path: Path, folder: Path, name: str = "mine") -> Dataset:
    import_dataset(path, name, folder)
    return load_dataset(name, data_dir=folder)


def put_h5(path: Path, change: Callable[[h5py.File], None] = lambda file: None, **options: Any) -> Path:
    with h5py.File(path, "w", **options) as file:
        file["images"], file["labels"] = SMALL, np.arange(8) % 2
        change(file)
    return path


# HDF5 ----------------------------------------------------------------------------------------------------------------


def own_words(file: h5py.File) -> None:
    """What a record's header holds, short of a SHA-256."""
    file.attrs["format"], file.attrs["version"], file.attrs["kind"] = np.bytes_("malade-dataset"), 1, "dataset"


@pytest.mark.parametrize("libver", ["earliest", "v110"])
@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.attrs.update({"format": "NCHW"}),
        lambda file: file.attrs.update({"format": "HDF5::Cooler", "version": 3, "kind": "x", "sha256": "abc"}),
        own_words,
        lambda file: file.create_dataset("params", data=np.zeros(3)),
        lambda file: file.create_group("meta").attrs.update({"format": "malade-dataset"}),
    ],
)
def test_generic_names_do_not_make_a_file_ours(
    tmp_path: Path, change: Callable[[h5py.File], None], libver: str
) -> None:
    path = put_h5(tmp_path / "a.h5", change, libver=(libver, "latest"))
    assert not is_record(path)
    data = imported(path, tmp_path)
    assert sum(len(getattr(data, split)) for split in ("train", "validation", "test")) == 8
    assert is_record(tmp_path / "mine.h5")


@pytest.mark.parametrize("content", [None, b"a text", b""])
def test_advice_on_what_is_not_ours(tmp_path: Path, content: bytes | None) -> None:
    path = put_h5(tmp_path / "mine.h5", lambda file: file.attrs.update({"format": "NCHW"}))
    if content is not None:
        path.write_bytes(content)
    texts = [complaint(load_dataset, "mine", data_dir=tmp_path)]
    texts += [complaint(load_record, path, kind=kind, mend="move it away") for kind in ("network", "state")]
    assert not any("delete" in text for text in texts)
    assert path.exists()


def mended(content: bytes, at: int, value: bytes) -> bytes:
    """Bytes of an object header changed, and its checksum made to fit."""
    changed = bytearray(content)
    changed[at : at + len(value)] = value
    start = content.rfind(b"OHDR", 0, at)
    end = next(n for n in range(20, 2000) if checksum(content[start : start + n]) == word(content, start + n))
    changed[start + end : start + end + 4] = struct.pack("<I", checksum(bytes(changed[start : start + end])))
    return bytes(changed)


def word(content: bytes, at: int) -> int:
    number: int = struct.unpack_from("<I", content, at)[0]
    return number


def test_hdf5_that_breaks_the_library(tmp_path: Path) -> None:
    """One byte of a largest size makes HDF5 1.14 and 2.0 crash; a filter that is not asked for is never run."""
    path = tmp_path / "evil.h5"
    images = np.arange(96, dtype=np.uint8).reshape(6, 1, 4, 4)
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("images", data=images, chunks=(2, 1, 4, 4), shuffle=True, compression="gzip")
        file["labels"] = np.arange(6) % 3
        file["x"] = h5py.SoftLink("/images")
    content = path.read_bytes()
    at = content.index(struct.pack("<8Q", 6, 1, 4, 4, 6, 1, 4, 4)) + 40
    path.write_bytes(mended(content, at, struct.pack("<Q", (1 << 24) + 1)))
    text = complaint(import_dataset, path, "mine", tmp_path)
    assert "breaks down" in text or "damaged" in text
    assert "is a link" in complaint(read_images, str(path), shape=(1, 4, 4))

    def scaled(file: h5py.File) -> None:
        del file["images"]
        file.create_dataset("images", data=SMALL, chunks=(2, 4, 4), scaleoffset=0)

    put_h5(tmp_path / "scaled.h5", scaled)
    assert "the filter 'scaleoffset'" in complaint(import_dataset, tmp_path / "scaled.h5", "mine", tmp_path)
    assert not (tmp_path / "mine.h5").exists()


def test_hdf5_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put_h5(tmp_path / "a.h5")
    file = foreign_module.ForeignFile(path, ["images"])
    monkeypatch.setattr(foreign_module, "MAX_SECONDS", 0.2)
    try:
        os.kill(file._process.pid, signal.SIGSTOP)
        assert "does not come to an end" in complaint(file.read, "images")
        os.kill(file._process.pid, signal.SIGKILL)
        assert "breaks down over it (SIGKILL)" in complaint(file.read, "images")
    finally:
        file.close()


def test_conditions_have_their_own_words(tmp_path: Path) -> None:
    def large_chunks(file: h5py.File) -> None:
        del file["images"]
        file.create_dataset("images", (8, 3000, 3000), "u1", chunks=(8, 3000, 3000), compression=1)
        file["images"][0, 0, 0] = 1

    def never_written(file: h5py.File) -> None:
        del file["images"]
        file.create_dataset("images", (8, 3000, 3000), "u1", chunks=(1, 300, 300))

    def too_large(file: h5py.File) -> None:
        del file["images"]
        file.create_dataset("images", (1 << 20, 1000, 1000), "u1")

    for change, words in (
        (large_chunks, "chunks of 72000000 bytes, at most 67108864 can be read; save it with smaller chunks"),
        (never_written, "more than the 0 stored bytes can hold"),
        (too_large, "more than the 0 stored bytes can hold"),
    ):
        text = complaint(import_dataset, put_h5(tmp_path / "a.h5", change), "mine", tmp_path)
        assert words in text or (change is large_chunks and "can hold" in text), text


def test_records_from_strangers_are_refused_by_their_bytes(tmp_path: Path) -> None:
    """Changed structure with checksums that fit: the same content or one line, quickly, and no other exception."""
    arrays = {f"layer/{i}.weight": np.arange(i, dtype=np.float32) for i in range(12)}
    save_record(tmp_path / "good.h5", {**arrays, "flag": np.array(True)}, {"a": 1}, kind="test")
    content = (tmp_path / "good.h5").read_bytes()
    blocks = []
    for name in (b"\x89HDF", b"OHDR", b"OCHK", b"FRHP", b"FHIB"):
        at = -1
        while (at := content.find(name, at + 1)) >= 0:
            ends = (n for n in range(12, min(1200, len(content) - at - 3)) if fits(content, at, n))
            blocks += [(at, n) for n in [next(ends, 0)] if n]
    assert len(blocks) > 10
    draw = random.Random(0)
    path = tmp_path / "changed.h5"
    began, refused = time.monotonic(), 0
    for _ in range(250):
        at, size = draw.choice(blocks)
        changed = bytearray(content)
        place = at + draw.randrange(size)
        changed[place] = draw.choice([0, 1, 255, changed[place] ^ (1 << draw.randrange(8))])
        changed[at + size : at + size + 4] = struct.pack("<I", checksum(bytes(changed[at : at + size])))
        path.write_bytes(changed)
        try:
            found = load_record(path, kind="test")
        except InputError:
            refused += 1
        else:
            assert set(found.arrays) == {*arrays, "flag"}
    assert refused > 50
    assert time.monotonic() - began < 15


def fits(content: bytes, at: int, size: int) -> bool:
    return checksum(content[at : at + size]) == word(content, at + size)


def test_many_names_are_read_as_hdf5_reads_them(tmp_path: Path) -> None:
    """Groups of more than eight names lie in heaps of the file, whatever the lengths of the names."""
    draw = random.Random(1)
    dtypes = ["bool", "i1", "u2", "i8", "f2", "f4", "f8"]
    arrays = {
        f"{'x' * draw.randrange(1, 60)}{i}/{'y' * draw.randrange(1, 60)}": np.arange(i % 4).astype(dtypes[i % 7])
        for i in range(150)
    }
    save_record(tmp_path / "a.h5", arrays, kind="test")
    found = load_record(tmp_path / "a.h5", kind="test").arrays
    with h5py.File(tmp_path / "a.h5") as file:
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype == file[name].dtype
            np.testing.assert_array_equal(found[name], file[name][()])
    assert found.keys() == arrays.keys()


# Images --------------------------------------------------------------------------------------------------------------


def png(image: Any, *, depth: int = 8, kind: int = 0, extra: bytes = b"") -> bytes:
    """A PNG by its definition: grey (kind 0) or RGB (2), without filters."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    image = np.asarray(image)
    rows = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in image)
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], depth, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def saved(array: Any, kind: str, **options: Any) -> bytes:
    image = pytest.importorskip("PIL.Image").fromarray(np.asarray(array, dtype=np.uint8))
    file = io.BytesIO()
    mode = options.pop("mode", None)
    (image if mode is None else image.convert(mode)).save(file, kind, **options)
    return file.getvalue()


def put_folder(root: Path, members: dict[str, bytes]) -> Path:
    for name, content in members.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def put_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


ACTL = struct.pack(">I", 8) + b"acTL" + struct.pack(">II", 2, 0)
GREY = SMALL[0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("0.png", lambda: png(np.full((4, 4, 3), 300), depth=16, kind=2), "16 bits a channel"),
        ("0.png", lambda: png(np.full((4, 4), 300), depth=16), "16 bits a channel"),
        ("0.jpg", lambda: png(np.full((4, 4), 300), depth=16), "16 bits a channel"),
        ("0.png", lambda: png(GREY, extra=ACTL + struct.pack(">I", zlib.crc32(ACTL[4:]))), "animation"),
        ("0.png", lambda: saved(GREY, "gif"), "a GIF file"),
        ("0.png", lambda: saved(GREY, "bmp"), "a BMP file"),
        ("0.jpg", lambda: saved(np.zeros((4, 4, 3)), "jpeg", mode="CMYK"), "CMYK"),
        ("0.png", lambda: saved(np.zeros((4, 4, 4)), "png"), "RGBA"),
        ("\x1b[31m.png", lambda: b"", r"\x1b[31m.png"),
    ],
)
def test_images_that_cannot_be_stored_as_they_are(
    tmp_path: Path, name: str, content: Callable[[], bytes], words: str
) -> None:
    for path in (
        put_folder(tmp_path / "folder", {f"train/a/{name}": content()}),
        put_zip(tmp_path / "a.zip", {f"train/a/{name}": content()}),
    ):
        assert words in complaint(import_dataset, path, "mine", tmp_path)


@pytest.mark.parametrize("kind", ["interlaced", "one bit", "sixteen greys", "grey palette", "png named jpg"])
def test_exact_images(tmp_path: Path, kind: str) -> None:
    image = pytest.importorskip("PIL.Image").fromarray(GREY)
    levels = (GREY // 8 % 16 * 17).astype(np.uint8)
    content, expected = {
        "interlaced": lambda: (saved(GREY, "png", interlace=1), GREY),
        "one bit": lambda: (saved(GREY // 8 % 2 * 255, "png", mode="1"), GREY // 8 % 2 * 255),
        "sixteen greys": lambda: (saved(levels, "png", bits=4), levels),
        "grey palette": lambda: (saved(levels, "png", mode="P"), levels),
        "png named jpg": lambda: (saved(GREY, "png"), GREY),
    }[kind]()
    del image
    suffix = "jpg" if kind == "png named jpg" else "png"
    path = put_folder(tmp_path / "in", {f"train/a/{i}.{suffix}": content for i in range(3)})
    data = imported(path, tmp_path)
    assert data.shape == (1, 4, 4)
    np.testing.assert_array_equal(data.train.pixels()[0, 0], expected)
    assert "exact" not in data.note


def test_what_an_image_is_its_header_says(tmp_path: Path) -> None:
    content = saved(GREY, "jpeg")
    members = {f"train/a/{i}.png": content for i in range(4)} | {"train/a/4.jpg": saved(GREY, "png")}
    assert "4 of 5 images were JPEG" in imported(put_folder(tmp_path / "in", members), tmp_path).note


@pytest.mark.parametrize(
    ("orientation", "turned"), [(3, GREY[::-1, ::-1]), (6, np.rot90(GREY, -1)), (8, np.rot90(GREY))]
)
def test_images_are_turned_as_their_camera_says(tmp_path: Path, orientation: int, turned: Any) -> None:
    image = pytest.importorskip("PIL.Image").fromarray(GREY)
    exif = image.getexif()
    exif[274] = orientation
    file = io.BytesIO()
    image.save(file, "png", exif=exif)
    data = imported(put_folder(tmp_path / "in", {"train/a/0.png": file.getvalue()}), tmp_path)
    np.testing.assert_array_equal(data.train.pixels()[0, 0], turned)
    assert "1 of 1 images were turned" in data.note


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_one_rule_for_what_is_left_out(tmp_path: Path, kind: str) -> None:
    images = {f"train/{c}/{i}.png": png(GREY) for c in ("cat", "dog") for i in range(3)}
    nested = {f"train/dog/more/deep/{i}.png": png(GREY) for i in range(4)}
    foreign = {
        f"train/{name}": png(GREY)
        for name in (".ipynb_checkpoints/0.png", "@eaDir/0.png", "__MACOSX/0.png", "cat/.hidden.png", ".git/x/0.png")
    }
    other = {"train/cat/notes.txt": b"", "train/loose.png": png(GREY), "train/dog/Thumbs.db": b""}
    members = {**images, **nested, **foreign, **other}
    path = put_folder(tmp_path / "in", members) if kind == "folder" else put_zip(tmp_path / "in.zip", members)
    data = imported(path, tmp_path)
    assert data.class_names == ("cat", "dog")
    assert sum(len(getattr(data, split)) for split in ("train", "validation", "test")) == 10
    for words in (
        "8 files were left out",
        "6 hidden or left by",
        "1 that were no .png or .jpg",
        "1 in no class folder",
    ):
        assert words in data.note
    assert "notes.txt" in data.note
    assert "train/loose.png" in data.note


def test_archives_of_other_systems(tmp_path: Path) -> None:
    members = {f"data\\train\\{c}\\{i}.png": png(GREY) for c in ("a", "b") for i in range(3)}
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, content)
    assert imported(path, tmp_path).class_names == ("a", "b")
    twice = {f"train/train/{c}/{i}.png": png(GREY) for c in ("a", "b") for i in range(3)}
    assert imported(put_zip(tmp_path / "twice.zip", twice), tmp_path, "twice").class_names == ("a", "b")


def test_links_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    folder = put_folder(tmp_path / "in", {f"train/a/{i}.png": png(GREY) for i in range(3)})
    (folder / "train" / "a" / "again").symlink_to(folder / "train")
    data = imported(folder, tmp_path)
    assert "circle of links" in data.note
    if os.path.exists("/proc/self/mem"):
        (folder / "train" / "a" / "x.png").symlink_to("/proc/self/mem")
        assert "x.png: cannot be read" in complaint(import_dataset, folder, "other", tmp_path)


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\u202eb", "a\tb"])
def test_class_names_reach_no_terminal(tmp_path: Path, name: str) -> None:
    folder = put_folder(tmp_path / "in", {f"train/{name}/0.png": png(GREY)})
    assert "printable" in complaint(import_dataset, folder, "mine", tmp_path)
    assert printable(name).isprintable()


# Meanings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npz", "h5", "png"])
def test_bytes_of_0_and_1(tmp_path: Path, kind: str) -> None:
    x = SMALL % 2
    if kind == "png":
        path = put_folder(tmp_path / "in", {f"train/a/{i}.png": png(image) for i, image in enumerate(x)})
    elif kind == "npz":
        path = tmp_path / "a.npz"
        np.savez(path, images=x, labels=np.arange(8) % 2)
    else:
        path = put_h5(tmp_path / "a.h5", lambda file: file["images"].write_direct(x))
    assert "0 and 1 only" in complaint(import_dataset, path, "mine", tmp_path)
    assert "the largest byte is 1" in complaint(read_images, str(path), shape=(1, 4, 4))
    assert not list(tmp_path.glob("*mine*"))


@pytest.mark.parametrize("first", [1, 2, 5])
def test_labels_that_begin_after_0(tmp_path: Path, first: int) -> None:
    np.savez(tmp_path / "a.npz", images=SMALL, labels=np.arange(8) % 3 + first)
    text = complaint(import_dataset, tmp_path / "a.npz", "mine", tmp_path)
    assert f"got {first}..{first + 2}" in text
    assert f"subtract {first}" in text


@pytest.mark.parametrize("spelling", ["{}.idx{}-ubyte", "{}.idx{}-ubyte.gz", "{0}-idx{1}-ubyte/{0}-idx{1}-ubyte"])
def test_spellings_of_mnist(tmp_path: Path, spelling: str) -> None:
    for part, n in (("train", 60), ("t10k", 12)):
        for what, digit, array in (("images", 3, pixels(n)), ("labels", 1, classes(n))):
            path = tmp_path / "mnist" / spelling.format(f"{part}-{what}", digit)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(idx(array)) if path.suffix == ".gz" else idx(array))
    data = load_dataset("mnist", data_dir=tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (50, 10, 12)


def test_listed_is_what_is_there(tmp_path: Path) -> None:
    put_mnist(tmp_path / "mnist", num_train=60, num_test=12)
    entry = next(entry for entry in list_datasets(tmp_path) if entry.name == "mnist")
    assert "50 + 10 + 12" in entry.description
    assert entry.description.startswith("not the published")
    assert "60,000" not in entry.description


@pytest.mark.parametrize(
    "value", [np.array([0.1]), np.zeros((2, 2)), [0.1], "0.1", None, True, float("nan"), 1j, np.array("x")]
)
def test_numbers_that_are_none(value: Any) -> None:
    for check in (check_number, check_count):
        assert complaint(check, "eps", value).startswith("eps: expected")
    assert "eps: expected one of" in complaint(check_choice, "eps", np.array(["a", "b"]), ("a", "b"))


def test_arrays_without_axes_are_numbers() -> None:
    assert "thousands of digits" in complaint(check_number, "eps", 10**5000)
    assert check_number("eps", np.array(0.25)) == 0.25
    assert check_count("n", np.array(3)) == 3


# Folders that are only read ------------------------------------------------------------------------------------------


def test_a_folder_that_is_read_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_mnist(tmp_path / "shown" / "mnist")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "shown").rglob("*"))
    for way in ("argument", "environment", "list"):
        if way == "environment":
            monkeypatch.setenv("MALADE_DATA", str(tmp_path / "shown"))
        list_datasets(tmp_path / "shown") if way == "list" else load_dataset(
            "mnist", data_dir=tmp_path / "shown" if way == "argument" else None
        )
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "shown").rglob("*")) == before
    assert len(list((tmp_path / "cache" / "malade").iterdir())) == 1


def test_the_cache_is_never_stale_nor_trusted_when_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALADE_CACHE", str(tmp_path / "own"))
    first = put_mnist(tmp_path / "mnist", seed=1)
    load_dataset("mnist", data_dir=tmp_path)
    for path in (tmp_path / "own").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    data = load_dataset("mnist", data_dir=tmp_path)
    np.testing.assert_array_equal(data.test.pixels()[:, 0], first["test images"])
    stamp = os.stat(tmp_path / "mnist")
    second = put_mnist(tmp_path / "mnist", seed=2)
    for path in (tmp_path / "mnist").iterdir():  # the same names, sizes and times
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    data = load_dataset("mnist", data_dir=tmp_path)
    np.testing.assert_array_equal(data.test.pixels()[:, 0], second["test images"])


def test_what_a_killed_import_left_is_swept(tmp_path: Path) -> None:
    left = [tmp_path / ".mine.h5.0123456789abcdef.tmp", tmp_path / ".other.h5.fedcba9876543210.tmp"]
    kept = [tmp_path / ".notes.0123456789abcdef.tmp", tmp_path / "mine.h5.tmp", tmp_path / ".mine.h5.xyz.tmp"]
    for path in (*left, *kept):
        path.write_bytes(b"half")
    np.savez(tmp_path / "a.npz", images=SMALL, labels=np.arange(8) % 2)
    imported(tmp_path / "a.npz", tmp_path)
    assert [path.exists() for path in left] == [False, False]
    assert all(path.exists() for path in kept)


def test_what_is_being_written_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def swept_by_another(source: Any, target: Any, **folders: int) -> None:
        sweep_stale(tmp_path, ".h5")
        replace(source, target, **folders)

    monkeypatch.setattr(os, "replace", swept_by_another)
    atomic_write(tmp_path / "a.h5", b"whole")
    assert (tmp_path / "a.h5").read_bytes() == b"whole"


# Headers, texts and sizes --------------------------------------------------------------------------------------------


def npy(header: str, payload: bytes = b"", version: int = 1) -> bytes:
    text = header.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + payload


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '|u1', 'shape': (4,  "),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "(" * 900 + ")"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 'x'), }"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",), }"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (4, 4, 4), }", bytes(64)),
        npy("{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (4, 4, 4), }", bytes(64)),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4, 4), }", bytes(64), version=3),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4, 4), }", bytes(64), version=9),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 4, 4), }", bytes(64)),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-4, -4, 4), }", bytes(64)),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (0, 4, 4), }"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4, 4), }", bytes(63)),
        b"\x93NUMPY",
        b"",
    ],
)
def test_npy_headers(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    assert "a.npy" in complaint(read_images, str(tmp_path / "a.npy"), shape=(1, 4, 4))
    put_zip(tmp_path / "a.npz", {"images.npy": content, "labels.npy": content})
    assert "a.npz" in complaint(read_images, str(tmp_path / "a.npz"), shape=(1, 4, 4))
    assert "a.npz" in complaint(import_dataset, tmp_path / "a.npz", "mine", tmp_path)


def test_arrays_in_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(SMALL[:, None] / np.float32(255)))
    np.testing.assert_array_equal(
        read_images(str(tmp_path / "a.npy"), shape=(1, 4, 4)).x, SMALL[:, None] / np.float32(255)
    )


@pytest.mark.parametrize(
    "text",
    [
        "seed = " + "9" * 5000,
        "seed = 0x" + "f" * 5000,
        "seed = " + "9" * 300,
        "a" + ".a" * 20_000 + " = 1",
        "[" + '"a".' * 500 + "a]",
        "x = " + "[" * 20_000,
        "x = " + "{a = " * 100 + "1" + "}" * 100,
        "x = 1\nx = 2",
    ],
    ids=lambda text: text[:12],
)
def test_toml(tmp_path: Path, text: str) -> None:
    began = time.monotonic()
    assert complaint(from_toml, "a.toml", text).startswith("a.toml: ")
    (tmp_path / "a.toml").write_text(text)
    assert "a.toml" in complaint(read_experiment, str(tmp_path / "a.toml"))
    assert time.monotonic() - began < 2


def test_changes_and_json() -> None:
    assert "--set seed: " in complaint(parse_change, "seed=" + "9" * 5000)
    assert "--set" in complaint(parse_change, "a" + ".a" * 2000 + "=1")
    for value in ("nan", "inf", "-inf"):
        assert "attacks.pgd.step_size: expected a finite" in complaint(
            read_experiment, "demo", [f"attacks.pgd.step_size={value}"]
        )
    assert parse_change("models.cnn.name=a word") == (["models", "cnn", "name"], "a word")
    for value in ("[" * 500 + "]" * 500, "9" * 5000, "9" * 300, "1e999", "NaN"):
        assert "not valid JSON" in complaint(from_json, "a.json", f'{{"a": {value}}}')


BOMBS = """
import resource, sys
from pathlib import Path
from malade_ref.checks import InputError
from malade_ref.cli.files import read_images
from malade_ref.datasets import import_dataset
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in map(Path, sys.argv[1:]):
    calls = lambda: import_dataset(path, "mine", path.parent), lambda: read_images(str(path), shape=(1, 28, 28))
    for call in calls:
        try:
            call()
        except InputError as error:
            print(error)
        else:
            print("taken")
usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print((max(usage[0] - before, usage[1])) >> 10)
"""


def zipped(path: Path, members: dict[str, tuple[str, str, int]]) -> Path:
    """An .npz of zeros: dtype, shape and size in bytes by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, (dtype, shape, size) in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(npy(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"))
                for start in range(0, size, 1 << 24):
                    file.write(bytes(min(1 << 24, size - start)))
    return path


@pytest.mark.slow
def test_small_files_take_little_memory(tmp_path: Path) -> None:
    """At most 256 MiB: images of another shape, many labels, long words, IDX files that claim much."""
    with h5py.File(tmp_path / "shape.h5", "w") as file:
        images = file.create_dataset("images", (1_000_000, 27, 28), "u1", chunks=(20_000, 27, 28), compression=1)
        images[:4] = 0
        file["labels"] = np.zeros(1_000_000, np.uint8)
    n = 30_000_000
    zipped(tmp_path / "labels.npz", {"images": ("|u1", f"({n}, 1, 1)", n), "labels": ("|u1", f"({n},)", n)})
    n = 200_000
    members = {"images": ("|u1", f"({n}, 1, 1)", n), "labels": ("|u1", f"({n},)", n)}
    zipped(tmp_path / "words.npz", {**members, "split": ("|S256", f"({n},)", 256 * n)})
    (tmp_path / "idx").mkdir()
    for part in ("train", "t10k"):
        claim = struct.pack(">4I", 0x803, 4_000_000, 28, 28)
        (tmp_path / f"idx/{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(claim + bytes(1 << 23), 1))
        (tmp_path / f"idx/{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 5) + bytes(5))
    paths = [str(tmp_path / name) for name in ("shape.h5", "labels.npz", "words.npz", "idx")]
    run = subprocess.run(
        [sys.executable, "-c", BOMBS, *paths],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=Path(__file__).parents[2],
    )
    *said, megabytes = run.stdout.splitlines()
    assert len(said) == 8, run.stderr
    assert "taken" not in said
    assert int(megabytes) < 256


def test_reading_own_files_stays_quick(tmp_path: Path) -> None:
    """Own files meet no other process: a small network's is read in milliseconds."""
    save_record(tmp_path / "a.h5", {f"params/{i}.weight": np.zeros(9) for i in range(12)}, kind="network")
    began = time.process_time()
    for _ in range(10):
        with open_record(tmp_path / "a.h5", kind="network") as record:
            record.verify()
    assert (time.process_time() - began) / 10 < 0.05


def test_npy_is_read_as_a_stream(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", SMALL)
    with ExitStack() as stack:
        rows = open_npy(tmp_path / "a.npy", stack)
        np.testing.assert_array_equal(rows.read(3), SMALL[:3])
        np.testing.assert_array_equal(rows.read(5), SMALL[3:])
