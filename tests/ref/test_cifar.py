"""CIFAR-10 and CIFAR-100: every byte arrives, batches that are missing are said, hostile archives lead nowhere."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from malade_ref.datasets import cifar, import_dataset, incoming, library, list_datasets, load_dataset
from malade_ref.datasets.sources import load_sources
from malade_ref.experiment.run import _Nobody, _of_data
from tests.ref.dataset_files import (
    BATCHES,
    NAMES,
    batch,
    cifar10_files,
    complaint,
    complaint_or_none,
    member,
    own_folders,  # noqa: F401 (a fixture)
    tar,
)

REAL_DATA = os.environ.get("MALADE_DATA")  # before any test takes it away


def cifar100_files(n: int = 100) -> dict[str, bytes]:
    fine = load_sources()["cifar100"]["classes"]
    return {
        "train.bin": batch(n, 0, classes=100, coarse=20),
        "test.bin": batch(20, 1, classes=100, coarse=20),
        "fine_label_names.txt": "\n".join(fine).encode(),
        "coarse_label_names.txt": b"aquatic_mammals\nfish\n",
    }


def put_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def put_archive(path: Path, files: Mapping[str, bytes], root: str = "cifar-10-batches-bin/") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(tar(files, root), 1))
    return path


def written_back(data: Any, first_labels: Any) -> tuple[bytes, bytes]:
    """CIFAR-10's training batches, joined, and its test batch, from what was read.

    Which of the training images are for validation follows from their labels in the order of the batches.
    """
    held = incoming.hold_out(first_labels, np.zeros(len(first_labels), dtype=np.int64)) == 1
    labels = np.empty(len(held), dtype=np.int64)
    pixels = np.empty((len(held), *data.shape), dtype=np.uint8)
    for split, rows in ((data.train, ~held), (data.validation, held)):
        labels[rows], pixels[rows] = split.labels(), split.pixels()
    return records(labels, pixels), records(data.test.labels(), data.test.pixels())


def records(labels: Any, pixels: Any) -> bytes:
    return np.column_stack([labels.astype(np.uint8), pixels.reshape(len(labels), 3072)]).tobytes()


def train_labels(files: Mapping[str, bytes]) -> Any:
    content = b"".join(files.get(name, b"") for name in BATCHES)
    return np.frombuffer(content, np.uint8).reshape(-1, 3073)[:, 0].astype(np.int64)


# What arrives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["folder", "archive", "files", "in the search folder"])
def test_cifar10_is_found_and_exact(tmp_path: Path, place: str) -> None:
    files = cifar10_files()
    if place == "folder":
        put_folder(tmp_path / "data" / "cifar10" / "cifar-10-batches-bin", files)
    elif place == "archive":
        put_archive(tmp_path / "data" / "cifar10" / "cifar-10-binary.tar.gz", files)
    elif place == "files":
        put_folder(tmp_path / "data" / "cifar10", files)
    else:
        put_folder(tmp_path / "data" / "cifar-10-batches-bin", files)
    data = load_dataset("cifar10", data_dir=tmp_path / "data")
    assert (len(data.train), len(data.validation), len(data.test)) == (135, 15, 7)
    assert (data.name, data.num_classes, data.shape) == ("cifar10", 10, (3, 32, 32))
    assert data.class_names == tuple(NAMES)
    train, test = written_back(data, train_labels(files))
    assert train == b"".join(files[name] for name in BATCHES)
    assert test == files["test_batch.bin"]
    # Red, green, blue; row by row.
    first = np.frombuffer(files["test_batch.bin"], np.uint8)[1:3073]
    assert data.test.pixels()[0, 1, 2, 3] == first[1024 + 2 * 32 + 3]
    assert "NOT the published data" in data.note
    assert "Missing" not in data.note
    assert "15 of the 150 training images" in data.note


def test_a_folder_and_its_archives_are_the_same(tmp_path: Path) -> None:
    files = cifar10_files()
    places = {
        "folder": put_folder(tmp_path / "folder", files),
        "around": put_folder(tmp_path / "around" / "cifar-10-batches-bin", files).parent,
        "gzip": put_archive(tmp_path / "any.name.tar.gz", files, root=""),
        "tgz": put_archive(tmp_path / "deep.TGZ", files, root="a/b/c/"),
    }
    places["tar"] = tmp_path / "plain.tar"
    places["tar"].write_bytes(tar(files))
    records = {import_dataset(path, "mine", tmp_path / what).read_bytes() for what, path in places.items()}
    assert len(records) == 1
    data = load_dataset("mine", data_dir=tmp_path / "tar")
    assert data.train.sha256() == load_dataset("cifar10", data_dir=places["around"]).train.sha256()


def test_cifar100_has_the_fine_labels(tmp_path: Path) -> None:
    files = cifar100_files()
    put_archive(tmp_path / "cifar100" / "cifar-100-binary.tar.gz", files, "cifar-100-binary/")
    data = load_dataset("cifar100", data_dir=tmp_path)
    rows = np.frombuffer(files["test.bin"], np.uint8).reshape(-1, 3074)
    np.testing.assert_array_equal(data.test.labels(), rows[:, 1])
    np.testing.assert_array_equal(data.test.pixels(), rows[:, 2:].reshape(-1, 3, 32, 32))
    assert (data.num_classes, len(data.train), len(data.validation)) == (100, 90, 10)
    assert data.class_names[:2] + data.class_names[-1:] == ("apple", "aquarium_fish", "worm")
    assert "(aquatic_mammals, fish) are left out" in data.note
    import_dataset(put_folder(tmp_path / "unpacked", files), "mine", tmp_path)
    assert load_dataset("mine", data_dir=tmp_path).train.sha256() == data.train.sha256()
    # Without its file of names, train.bin could be anything.
    del files["fine_label_names.txt"]
    assert "holds no train" in complaint(import_dataset, put_folder(tmp_path / "other", files), "other", tmp_path)


@pytest.mark.parametrize("missing", [BATCHES[3:], BATCHES[:1], BATCHES, ["test_batch.bin"], ["batches.meta.txt"]])
def test_what_is_missing_is_said_and_the_rest_is_used(tmp_path: Path, missing: list[str]) -> None:
    files = {name: content for name, content in cifar10_files().items() if name not in missing}
    put_folder(tmp_path / "cifar10" / "cifar-10-batches-bin", files)
    data = load_dataset("cifar10", data_dir=tmp_path)
    num_train = 30 * sum(name in files for name in BATCHES)
    sizes = (num_train - num_train // 10, num_train // 10, 7 * ("test_batch.bin" in files))
    assert (len(data.train), len(data.validation), len(data.test)) == sizes
    assert data.class_names == tuple(NAMES)
    if missing != ["batches.meta.txt"]:
        assert f"Missing: {', '.join(missing)}; there are {num_train} training images" in data.note
    assert written_back(data, train_labels(files)) == (
        b"".join(files.get(name, b"") for name in BATCHES),
        files.get("test_batch.bin", b""),
    )


@given(
    labels=hnp.arrays(np.int64, st.integers(0, 300), elements=st.integers(0, 4)),
    others=st.sampled_from([0, 1, 2]),
)
def test_hold_out(labels: Any, others: int) -> None:
    """A tenth goes, and of classes of one size as many each; test images stay, and nothing else is chosen."""
    splits = np.where(np.arange(len(labels)) % 3 < others, 2, 0)
    out = incoming.hold_out(labels, splits)
    train = splits == 0
    assert (out == 1).sum() == train.sum() // 10
    np.testing.assert_array_equal(out[~train], 2)
    counts = np.bincount(labels[train], minlength=5)
    taken = np.bincount(labels[out == 1], minlength=5)
    for size in np.unique(counts):
        assert np.ptp(taken[counts == size]) <= 1
    even = incoming.hold_out(np.arange(1000) % 5, np.zeros(1000, dtype=np.int64))
    assert np.bincount(np.flatnonzero(even) % 5).tolist() == [20] * 5
    assert np.ptp(np.diff(np.flatnonzero(even))) > 20  # here and there, by chance


# What they are beside the published ones --------------------------------------------------------------------


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Small files that pass for the published ones."""
    files = cifar10_files()
    source = dict(load_sources()["cifar10"])
    source["members"] = {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name.endswith(".bin")
    }
    packed = gzip.compress(tar(files), 1, mtime=0)
    source["files"] = [{**source["files"][0], "sha256": hashlib.sha256(packed).hexdigest()}]
    sources = {**load_sources(), "cifar10": source}
    for module in (cifar, library):
        monkeypatch.setattr(module, "load_sources", lambda: sources)
    return {**files, "archive": packed}


def described(folder: Path) -> tuple[str, str]:
    """The note of a data set, and what the list says of it."""
    entry = next(entry for entry in list_datasets(folder) if entry.name == "cifar10")
    assert entry.found
    return load_dataset("cifar10", data_dir=folder).note, entry.description


def test_published_files_are_recognised(tmp_path: Path, published: dict[str, bytes]) -> None:
    archive = published.pop("archive")
    for what in ("folder", "archive", "packed anew"):
        folder = tmp_path / what
        if what == "folder":
            put_folder(folder / "cifar10" / "cifar-10-batches-bin", published)
        else:
            path = put_archive(folder / "cifar10" / "cifar-10-binary.tar.gz", published, root="")
            if what == "archive":
                path.write_bytes(archive)
        note, listed = described(folder)
        assert "it is the published data." in note
        assert listed.endswith("published, checked")


def test_a_part_of_the_published_files(tmp_path: Path, published: dict[str, bytes]) -> None:
    del published["archive"], published["data_batch_5.bin"]
    put_folder(tmp_path / "folder" / "cifar10" / "cifar-10-batches-bin", published)
    put_archive(tmp_path / "archive" / "cifar10" / "cifar-10-binary.tar.gz", published)
    for folder in ("folder", "archive"):
        note, listed = described(tmp_path / folder)
        assert "a part of the published data. Missing: data_batch_5.bin;" in note
        assert "part of the published, checked (data_batch_5.bin missing): 108 + 12 + 7" in listed


@pytest.mark.parametrize("changed", ["test_batch.bin", "data_batch_2.bin", "batches.meta.txt"])
def test_one_byte_makes_another_data_set(tmp_path: Path, published: dict[str, bytes], changed: str) -> None:
    del published["archive"]
    content = bytearray(published[changed])
    content[-5] ^= 1
    published[changed] = bytes(content)
    put_folder(tmp_path / "cifar10", published)
    note, listed = described(tmp_path)
    assert "NOT the published data" in note
    assert changed in note
    assert listed.startswith("not the published cifar10: 10 classes, 3 x 32 x 32, 135 + 15 + 7")


def test_an_import_says_what_it_was(tmp_path: Path, published: dict[str, bytes]) -> None:
    del published["archive"]
    import_dataset(put_folder(tmp_path / "in", published), "cifar10", tmp_path)
    note, listed = described(tmp_path)
    assert note.startswith("cifar10: imported, not checked against a publication. When it was imported:")
    assert "it is the published data." in note
    assert listed.startswith("imported, 10 classes")


def test_not_there(tmp_path: Path) -> None:
    for name, archive in (("cifar10", "cifar-10-binary.tar.gz"), ("cifar100", "cifar-100-binary.tar.gz")):
        text = complaint(load_dataset, name, data_dir=tmp_path)
        assert f"malade data get {name}" in text
        assert f"put {archive} into {tmp_path / name}" in text
        entry = next(entry for entry in list_datasets(tmp_path) if entry.name == name)
        assert not entry.found


# The record in the cache ------------------------------------------------------------------------------------


def test_the_record_is_made_once_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put_folder(tmp_path / "cifar10", cifar10_files())
    seen: list[float] = []
    first = load_dataset("cifar10", data_dir=tmp_path, progress=lambda fraction, message: seen.append(fraction))
    assert seen[-1] == 1
    assert seen == sorted(seen)
    (record,) = (tmp_path / "cache" / "malade").glob("cifar10.*.h5")
    whole = record.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(cifar.CifarFiles, "incoming", lambda self: pytest.fail("the files were read again"))
        assert load_dataset("cifar10", data_dir=tmp_path).train.sha256() == first.train.sha256()
    damaged = bytearray(whole)
    damaged[-100] ^= 1
    record.write_bytes(damaged)
    assert load_dataset("cifar10", data_dir=tmp_path).test.sha256() == first.test.sha256()
    assert record.read_bytes() == whole
    # Other files, another record.
    (folder / "data_batch_1.bin").write_bytes(batch(30, 77))
    assert load_dataset("cifar10", data_dir=tmp_path).train.sha256() != first.train.sha256()
    assert len(list((tmp_path / "cache" / "malade").glob("cifar10.*.h5"))) == 2


def test_a_run_tells_of_the_first_reading() -> None:
    class Lines(_Nobody):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def tell(self, line: str) -> None:
            self.lines.append(line)

    watcher = Lines()
    progress = _of_data(watcher)
    for i in range(1, 101):
        progress(i / 100, f"cifar10: {i} of 100 images")
    assert [line.split()[-4] for line in watcher.lines] == ["25", "50", "75"]
    _of_data(watcher)(1.0, "mnist: 20 of 20 images")  # at once: nothing to tell
    assert len(watcher.lines) == 3


def test_no_record_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_folder(tmp_path / "cifar10", cifar10_files())
    expected = load_dataset("cifar10", data_dir=tmp_path)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    data = load_dataset("cifar10", data_dir=tmp_path)
    for split in ("train", "validation", "test"):
        assert getattr(data, split).sha256() == getattr(expected, split).sha256()
    assert data.note == expected.note
    monkeypatch.setattr(library, "_MAX_IN_MEMORY", 1000)
    assert str(tmp_path / "file") in complaint(load_dataset, "cifar10", data_dir=tmp_path)


# Damaged and hostile files ----------------------------------------------------------------------------------


BAD_FILES: dict[str, tuple[dict[str, bytes | None], str]] = {
    "half an image": ({"data_batch_2.bin": batch(3, 0)[:-1]}, "data_batch_2.bin: has 9218 bytes, expected 3073"),
    "empty": ({"test_batch.bin": b""}, "test_batch.bin: has 0 bytes"),
    "label": (
        {"data_batch_1.bin": bytes([3]) + bytes(3072) + bytes([10]) + bytes(3072)},
        "label 1 is 10, expected 0..9",
    ),
    "nine names": ({"batches.meta.txt": "\n".join(NAMES[:9]).encode()}, "has 9 names, expected 10"),
    "names twice": ({"batches.meta.txt": "\n".join(["cat"] * 10).encode()}, "stands twice"),
    "no text": ({"batches.meta.txt": b"\xff" * 30}, "damaged"),
    "long names": ({"batches.meta.txt": b"x" * 100_000}, "expected a few names"),
    "bad names": ({"batches.meta.txt": "\n".join([*NAMES[:9], "\x1b[31m"]).encode()}, "printable names"),
}


@pytest.mark.parametrize("kind", ["folder", "archive"])
@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path: Path, case: str, kind: str) -> None:
    changes, words = BAD_FILES[case]
    files = {name: content for name, content in {**cifar10_files(3), **changes}.items() if content is not None}
    path = tmp_path / "cifar10" / "cifar-10-binary.tar.gz"
    put_folder(path.parent, files) if kind == "folder" else put_archive(path, files)
    where = str(path.parent if kind == "folder" else path)
    for function in (
        lambda: load_dataset("cifar10", data_dir=tmp_path),
        lambda: import_dataset(path.parent if kind == "folder" else path, "mine", tmp_path),
    ):
        text = complaint(function)
        assert where in text
        assert words in text
    assert not list(tmp_path.rglob("*.h5"))
    assert str(path.parent) in next(e for e in list_datasets(tmp_path) if e.name == "cifar10").description


def hostile(changes: Callable[[tarfile.TarFile], None], files: Mapping[str, bytes] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        changes(archive)
        for name, content in (files or {}).items():
            archive.addfile(member(name, size=len(content)), io.BytesIO(content))
    return gzip.compress(out.getvalue(), 1)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header that may claim any size."""
    return member(name, size=size, type=kind).tobuf(tarfile.GNU_FORMAT)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "no archive": (lambda: b"something else" * 100, "damaged or not of its kind"),
    "no tar": (lambda: gzip.compress(bytes(range(256)) * 40), "damaged or not of its kind"),
    "nothing": (lambda: b"", "damaged or not of its kind"),
    "empty": (lambda: hostile(lambda archive: None), "holds none of the batches"),
    "others": (lambda: put(lambda a: None, {"readme.html": b"x"}), "holds none of the batches"),
    "huge": (lambda: gzip.compress(header("data_batch_1.bin", 3073 * 10**6) + bytes(5000)), "unexpected end"),
    "huger": (lambda: gzip.compress(header("data_batch_1.bin", 1 << 40) + bytes(5000)), "holds more than"),
    "back": (lambda: gzip.compress(header("data_batch_1.bin", -2048) + bytes(5000)), "leads from 512 to"),
    "long name": (lambda: gzip.compress(header("x", 1 << 30, tarfile.GNUTYPE_LONGNAME) + bytes(5000)), "damaged"),
    "long header": (lambda: gzip.compress(header("x", 1 << 30, tarfile.XHDTYPE) + bytes(5000)), "damaged"),
    "cut": (lambda: gzip.compress(tar(cifar10_files(3)))[:-2000], "damaged"),
    "checksum": (lambda: gzip.compress(tar(cifar10_files(3)))[:-8] + bytes(8), "damaged"),
    "twice": (lambda: put(lambda a: None, {"a/test_batch.bin": batch(2, 0), "b/test_batch.bin": batch(2, 0)}), "twice"),
    "many": (lambda: put(lambda a: [a.addfile(member(str(i))) for i in range(1100)] and None), "holds more than 1000"),
    "link": (
        lambda: put(lambda a: a.addfile(member("test_batch.bin", type=tarfile.SYMTYPE, linkname="/etc/passwd"))),
        "holds none of the batches",
    ),
    "hard link": (
        lambda: put(lambda a: a.addfile(member("test_batch.bin", type=tarfile.LNKTYPE, linkname="../secret"))),
        "holds none of the batches",
    ),
    "device": (lambda: put(lambda a: a.addfile(member("test_batch.bin", type=tarfile.CHRTYPE))), "holds none"),
    "sparse": (lambda: gzip.compress(header("test_batch.bin", 3073, tarfile.GNUTYPE_SPARSE) + bytes(9000)), "none"),
}


def put(changes: Callable[[tarfile.TarFile], Any], files: Mapping[str, bytes] | None = None) -> bytes:
    return hostile(changes, files)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives(tmp_path: Path, case: str) -> None:
    make, words = HOSTILE[case]
    (tmp_path / "secret").write_bytes(batch(2, 0))
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(make())
    before = sorted(tmp_path.rglob("*"))
    text = complaint(import_dataset, path, "mine", tmp_path)
    assert str(path) in text
    assert words in text
    assert complaint(load_dataset, "cifar10", data_dir=tmp_path).startswith(str(path))
    assert [p for p in sorted(tmp_path.rglob("*")) if p not in before and "cache" not in p.parts] == []


def test_names_that_lead_out_are_only_names(tmp_path: Path) -> None:
    files = {f"../../../{name}": content for name, content in cifar10_files(3).items()}
    path = put_archive(tmp_path / "in" / "a.tar.gz", files, root="/")
    import_dataset(path, "mine", tmp_path / "in")
    assert not list(tmp_path.rglob("*.bin"))
    assert len(load_dataset("mine", data_dir=tmp_path / "in").test) == 7


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """A header that claims 256 MiB, all of which are there in a megabyte of gzip."""
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(header("x", 1 << 28, tarfile.XHDTYPE))
        for _ in range(256):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 21
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "damaged" in complaint(import_dataset, path, "mine", tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_file_with_a_hole_takes_no_memory(tmp_path: Path) -> None:
    """A batch of 16 GiB, of which the disk holds nothing."""
    folder = put_folder(tmp_path / "in", cifar10_files(3))
    with (folder / "data_batch_3.bin").open("wb") as file:
        file.truncate(3073 * ((1 << 22) + 1))
    assert "holds more than the 4194304 images" in complaint(import_dataset, folder, "mine", tmp_path)


def test_links_in_a_folder_are_its_files(tmp_path: Path) -> None:
    """Whoever names a folder means what it shows; a link to nothing, and what is no file, is one complaint."""
    files = cifar10_files(3)
    put_folder(tmp_path / "origin", files)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in files:
        (folder / name).symlink_to(tmp_path / "origin" / name)
    first = import_dataset(folder, "mine", tmp_path / "a").read_bytes()
    assert first == import_dataset(tmp_path / "origin", "mine", tmp_path / "b").read_bytes()
    (folder / "test_batch.bin").unlink()
    os.mkfifo(folder / "test_batch.bin")
    assert "test_batch.bin: cannot be read" in complaint(import_dataset, folder, "mine", tmp_path / "c")


def test_files_that_change_meanwhile(tmp_path: Path) -> None:
    folder = put_folder(tmp_path / "in", cifar10_files(3))
    found = cifar.CifarFiles(folder, cifar.FORMATS["cifar10"])
    blocks = found.incoming().blocks
    (folder / "data_batch_1.bin").write_bytes(batch(3, 99))
    assert "changed while it was read" in complaint(list, blocks)


@pytest.mark.slow
@given(data=st.data(), packed=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_damaged_archives_are_one_complaint(tmp_path: Path, data: st.DataObject, packed: bool) -> None:
    plain = tar(cifar10_files(2, 2))
    content = bytearray(gzip.compress(plain, 1) if packed else plain)
    for _ in range(data.draw(st.integers(1, 4))):
        # Headers are few: more than chance would hit them.
        at = data.draw(st.one_of(st.integers(0, len(content) - 1), st.integers(0, 511)))
        content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    path = tmp_path / "damaged.tar.gz"
    path.write_bytes(content)
    (tmp_path / "mine.h5").unlink(missing_ok=True)
    text = complaint_or_none(import_dataset, path, "mine", tmp_path)
    if text is None:
        load_dataset("mine", data_dir=tmp_path).train.images()
    else:
        assert str(path) in text
        assert not (tmp_path / "mine.h5").exists()


# The published files ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_cifar10(tmp_path: Path) -> None:
    """The pixels give the published MD5 when written back, batch by batch, and the import takes little memory."""
    source = Path(REAL_DATA or "nowhere") / "cifar10" / "cifar-10-batches-bin"
    if not source.is_dir():
        pytest.skip("needs CIFAR-10, in the folder that MALADE_DATA names")
    code = (
        "import resource, sys; from malade_ref.datasets import load_dataset;"
        "load_dataset('cifar10', data_dir=sys.argv[1]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    root = Path(cifar.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    run = [sys.executable, "-c", code, str(REAL_DATA)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1 << 20  # KiB
    data = load_dataset("cifar10", data_dir=REAL_DATA)
    there = [name for name in BATCHES if (source / name).is_file()]
    complete = len(there) == 5
    assert ("it is the published data" if complete else "a part of the published data") in data.note
    assert len(data.validation) == 1000 * len(there)
    test = records(data.test.labels(), data.test.pixels())
    assert hashlib.md5(test, usedforsecurity=False).hexdigest() == "803d5f7f4d78ea53de84dbe85f74fb6d"
    train, _ = written_back(data, train_labels({name: (source / name).read_bytes() for name in there}))
    published = {
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    }
    size = 10_000 * 3073
    for i, name in enumerate(there):
        content = train[i * size : (i + 1) * size]
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == published[name]
