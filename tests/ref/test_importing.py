"""Importing: data from outside arrives exactly, or is refused in one line and leaves nothing behind."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from malade_ref.datasets import (
    import_dataset,
    incoming,
    load_dataset,
)
from malade_ref.storage import load_record, open_record, save_record
from tests.ref.dataset_files import classes, complaint, complaint_or_none, own_folders, pixels, put_mnist  # noqa: F401 (a fixture)

# Importing -----------------------------------------------------------------------------------------------


def test_import_idx(tmp_path: Path) -> None:
    content = put_mnist(tmp_path / "files")
    path = import_dataset(tmp_path / "files", "fashion", tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "fashion.h5"
    data = load_dataset("fashion", data_dir=tmp_path / "new" / "folder")
    np.testing.assert_array_equal(data.train.pixels()[:, 0], content["train images"][:50])
    assert "not checked against a publication" in data.note


@pytest.mark.parametrize("save", ["npz", "npz compressed", "h5", "h5 compressed"])
def test_import_arrays(tmp_path: Path, save: str) -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (40, 3, 5, 4), dtype=np.uint8), np.arange(40, dtype=np.uint8) % 7
    split = np.array(["train", "test", "train", "validation"] * 10)
    if save.startswith("npz"):
        path = tmp_path / "a.npz"
        (np.savez_compressed if "compressed" in save else np.savez)(path, images=x, labels=y, split=split)
    else:
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            options = {"compression": "gzip", "chunks": (7, 3, 5, 4)} if "compressed" in save else {}
            file.create_dataset("images", data=x, **options)
            file["labels"] = y
            file["split"] = np.char.encode(split)
    import_dataset(path, "mine", tmp_path)
    data = load_dataset("mine", data_dir=tmp_path)
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(data, name).pixels(), x[split == name])
        np.testing.assert_array_equal(getattr(data, name).labels(), y[split == name])
    assert (data.num_classes, data.shape) == (7, (3, 5, 4))


def test_missing_splits_are_random_sixths(tmp_path: Path) -> None:
    x, y = pixels(60), classes(60)
    np.savez(tmp_path / "a.npz", images=x, labels=y)
    import_dataset(tmp_path / "a.npz", "mine", tmp_path)
    data = load_dataset("mine", data_dir=tmp_path)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [40, 10, 10]
    number = {image.tobytes(): i for i, image in enumerate(x)}
    drawn = [
        [number[image.tobytes()] for image in split.pixels()] for split in (data.train, data.validation, data.test)
    ]
    assert sorted([i for numbers in drawn for i in numbers]) == list(range(60))
    assert drawn[2] != list(range(50, 60))
    for numbers, split in zip(drawn, (data.train, data.validation, data.test), strict=True):
        np.testing.assert_array_equal(split.labels(), y[numbers])
    assert "chosen at random" in data.note


@given(splits=hnp.arrays(np.int64, st.integers(0, 40), elements=st.integers(0, 2)), shuffle=st.booleans())
def test_complete_splits(splits: Any, shuffle: bool) -> None:
    out = incoming.complete_splits(splits, shuffle=shuffle)
    given_train = splits == 0
    np.testing.assert_array_equal(out[~given_train], splits[~given_train])
    for number in (1, 2):
        if not (splits == number).any():
            assert (out == number).sum() == given_train.sum() // 6


def test_equal_data_give_equal_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=pixels(30), labels=classes(30))
    for folder in ("one", "two"):
        import_dataset(tmp_path / "a.npz", "mine", tmp_path / folder)
    assert (tmp_path / "one" / "mine.h5").read_bytes() == (tmp_path / "two" / "mine.h5").read_bytes()
    # A record, imported again, stays what it is.
    import_dataset(tmp_path / "one" / "mine.h5", "mine", tmp_path / "three")
    assert (tmp_path / "three" / "mine.h5").read_bytes() == (tmp_path / "one" / "mine.h5").read_bytes()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=pixels(30), labels=classes(30))
    import_dataset(tmp_path / "a.npz", "mine", tmp_path)
    assert "exists already" in complaint(import_dataset, tmp_path / "a.npz", "mine", tmp_path)
    assert "built in" in complaint(import_dataset, tmp_path / "a.npz", "synthetic-digits", tmp_path)


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"images": pixels(4)}, "no array 'labels'"),
    "no images": ({"labels": classes(4)}, "no array 'images'"),
    "floats": ({"images": pixels(4) / 255, "labels": classes(4)}, "expected uint8"),
    "channels last": ({"images": np.zeros((4, 8, 8, 3), np.uint8), "labels": classes(4)}, "transpose"),
    "two channels": ({"images": np.zeros((4, 2, 8, 8), np.uint8), "labels": classes(4)}, "1 or 3 channels"),
    "rows": ({"images": np.zeros((4, 64), np.uint8), "labels": classes(4)}, "expected shape"),
    "nothing": ({"images": pixels(0), "labels": classes(0)}, "at least one"),
    "flat": ({"images": np.zeros((4, 0, 5), np.uint8), "labels": classes(4)}, "1 to 4096"),
    "too wide": ({"images": np.zeros((1, 1, 5000), np.uint8), "labels": classes(1)}, "1 to 4096"),
    "too few labels": ({"images": pixels(4), "labels": classes(3)}, "labels: expected shape (4,)"),
    "one-hot labels": ({"images": pixels(4), "labels": np.eye(4, dtype=int)}, "labels: expected shape (4,)"),
    "float labels": ({"images": pixels(4), "labels": classes(4) * 1.0}, "expected integers"),
    "negative labels": ({"images": pixels(4), "labels": classes(4) - 1}, "got -1..2"),
    "large labels": ({"images": pixels(4), "labels": classes(4) + 2**40}, "expected 0..65535"),
    "unknown split": ({"images": pixels(4), "labels": classes(4), "split": np.array(["train"] * 3 + ["dev"])}, "'dev'"),
    "numbered split": ({"images": pixels(4), "labels": classes(4), "split": np.arange(4)}, "split: expected the words"),
    "long words": ({"images": pixels(4), "labels": classes(4), "split": np.array(["x" * 500] * 4)}, "split: holds"),
    "objects": ({"images": pixels(4), "labels": np.array([1, 2, 3, None])}, "labels: holds object"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays(tmp_path: Path, case: str) -> None:
    arrays, words = BAD_ARRAYS[case]
    np.savez(tmp_path / "a.npz", **arrays)
    text = complaint(import_dataset, tmp_path / "a.npz", "mine", tmp_path)
    assert str(tmp_path / "a.npz") in text
    assert words in text
    if case not in ("objects", "unknown split", "long words"):  # which HDF5 cannot be given by h5py
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for name, array in arrays.items():
                file[name] = array
        assert words in complaint(import_dataset, tmp_path / "a.h5", "mine", tmp_path)
    assert not (tmp_path / "mine.h5").exists()


def npy(array: Any, **changes: Any) -> bytes:
    """A .npy file whose header may lie."""
    file = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, {**header, **changes})
    return file.getvalue() + array.tobytes()


def put_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("images", "method", "words"),
    [
        (npy(pixels(4), shape=(10**9, 28, 28)), zipfile.ZIP_DEFLATED, "does not fit its size"),
        (npy(pixels(4), shape=(3, 28, 28)), zipfile.ZIP_DEFLATED, "does not fit its size"),
        (npy(pixels(4), shape=(-4, -28, 28)), zipfile.ZIP_DEFLATED, "does not fit its size"),
        (npy(pixels(4), fortran_order=True), zipfile.ZIP_DEFLATED, "Fortran"),
        (npy(pixels(4), descr="|O"), zipfile.ZIP_DEFLATED, "holds object"),
        (npy(pixels(4)), zipfile.ZIP_BZIP2, "compressed oddly"),
        (b"no array", zipfile.ZIP_DEFLATED, "damaged"),
        (b"", zipfile.ZIP_DEFLATED, "damaged"),
    ],
)
def test_hostile_npz(tmp_path: Path, images: bytes, method: int, words: str) -> None:
    path = put_zip(tmp_path / "a.npz", {"images.npy": images, "labels.npy": npy(classes(4))}, method)
    assert words in complaint(import_dataset, path, "mine", tmp_path)


def test_an_npz_member_that_lies_about_its_size(tmp_path: Path) -> None:
    path = put_zip(tmp_path / "a.npz", {"images.npy": npy(pixels(4)), "labels.npy": npy(classes(4))})
    content = path.read_bytes()
    size = struct.pack("<I", len(npy(pixels(4))))
    claimed = struct.pack("<I", len(npy(pixels(4))) + 10**9)
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, claimed))
    assert "can hold" in complaint(import_dataset, path, "mine", tmp_path)


@pytest.mark.slow
@given(data=st.data(), kind=st.sampled_from(["npz", "h5", "record"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_damaged_arrays_are_one_complaint(
    good_files: dict[str, bytes], tmp_path: Path, data: st.DataObject, kind: str
) -> None:
    content = bytearray(good_files[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    path = tmp_path / f"damaged.{'npz' if kind == 'npz' else 'h5'}"
    path.write_bytes(content)
    (tmp_path / "mine.h5").unlink(missing_ok=True)
    text = complaint_or_none(import_dataset, path, "mine", tmp_path)
    if text is None:
        load_dataset("mine", data_dir=tmp_path).train.images()
    else:
        assert str(path) in text
        assert not (tmp_path / "mine.h5").exists()


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    np.savez_compressed(folder / "a.npz", images=pixels(12, side=4), labels=classes(12))
    with h5py.File(folder / "a.h5", "w") as file:
        file["images"], file["labels"] = pixels(12, side=4), classes(12)
    import_dataset(folder / "a.npz", "a", folder / "record")
    paths = {"npz": folder / "a.npz", "h5": folder / "a.h5", "record": folder / "record" / "a.h5"}
    return {kind: path.read_bytes() for kind, path in paths.items()}


@pytest.mark.slow
def test_hostile_h5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["images"] = pixels(4)
    (tmp_path / "secret.raw").write_bytes(pixels(4).tobytes())

    def external_link(file: h5py.File) -> None:
        file["images"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/images")

    def soft_link(file: h5py.File) -> None:
        file["elsewhere"] = pixels(4)
        file["images"] = h5py.SoftLink("/elsewhere")

    def external_storage(file: h5py.File) -> None:
        file.create_dataset("images", (4, 28, 28), np.uint8, external=[(str(tmp_path / "secret.raw"), 0, 3136)])

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((4, 28, 28), np.uint8)
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "images", (4, 28, 28))
        file.create_virtual_dataset("images", layout)

    def huge(file: h5py.File) -> None:
        file.create_dataset("images", (10**9, 28, 28), np.uint8, chunks=(1000, 28, 28))

    def huge_chunk(file: h5py.File) -> None:
        file.create_dataset("images", (5, 4000, 4000), np.uint8, chunks=(5, 4000, 4000), compression="gzip")
        file["images"][0, 0, 0] = 1

    def loose_words(file: h5py.File) -> None:
        file["images"] = pixels(4)
        file["split"] = np.array(["train"] * 4, dtype=object)

    def a_group(file: h5py.File) -> None:
        file.create_group("images")

    for make in (external_link, soft_link, external_storage, virtual, huge, huge_chunk, loose_words, a_group):
        path = tmp_path / f"{make.__name__}.h5"
        with h5py.File(path, "w") as file:
            make(file)
            file["labels"] = classes(5 if make is huge_chunk else 4)
        text = complaint(import_dataset, path, "mine", tmp_path)
        assert any(
            words in text
            for words in ("no plain array", "no array", "is a link", "can hold", "variable length", "smaller chunks")
        ), (make, text)


def test_damaged_record(tmp_path: Path, good_files: dict[str, bytes]) -> None:
    """A changed pixel is found on import; a changed structure, already on loading."""
    content = good_files["record"]
    pixel = content.index(load_record_bytes(content, tmp_path))
    changed = bytearray(content)
    changed[pixel] ^= 1
    (tmp_path / "mine.h5").write_bytes(changed)
    assert "SHA-256" in complaint(import_dataset, tmp_path / "mine.h5", "other", tmp_path)
    with open_record(tmp_path / "mine.h5", kind="dataset") as record:
        assert "SHA-256" in complaint(record.verify)
    (tmp_path / "mine.h5").write_bytes(content[:-50])
    assert "import the data again" in complaint(load_dataset, "mine", data_dir=tmp_path)
    (tmp_path / "mine.h5").write_bytes(b"")
    assert "import the data again" in complaint(load_dataset, "mine", data_dir=tmp_path)


def load_record_bytes(content: bytes, folder: Path) -> bytes:
    (folder / "copy.h5").write_bytes(content)
    arrays, _ = load_record(folder / "copy.h5", kind="dataset")
    return bytes(arrays["train/images"].tobytes())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"meta": {"name": "x", "class_names": [], "note": ""}}, "no name, note"),
        ({"meta": {"name": "x", "class_names": ["a\x1b[31m"], "note": ""}}, "no name, note"),
        ({"meta": {"name": "x", "class_names": ["a"], "note": ""}}, "expected labels in 0..0"),
        ({"meta": {}}, "no name, note"),
        ({"test/images": pixels(2, side=5)[:, None]}, "different shapes"),
        ({"test/images": pixels(2, side=4)}, "not as malade writes them"),
        ({"test/images": pixels(2, side=4)[:, None] / 255}, "not as malade writes them"),
        ({"test/labels": np.zeros(3, dtype=np.int64)}, "not as malade writes them"),
        ({"test/labels": None}, "no split test"),
    ],
)
def test_foreign_record(tmp_path: Path, good_files: dict[str, bytes], change: dict[str, Any], words: str) -> None:
    """Records that are whole, and hold something else than a data set."""
    (tmp_path / "good.h5").write_bytes(good_files["record"])
    arrays, meta = load_record(tmp_path / "good.h5", kind="dataset")
    change = dict(change)
    meta = change.pop("meta", meta)
    arrays = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    save_record(tmp_path / "mine.h5", arrays, meta, kind="dataset")
    assert words in complaint(load_dataset, "mine", data_dir=tmp_path)


def test_not_importable(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    assert "expected a folder of IDX files" in complaint(import_dataset, tmp_path / "a.txt", "mine")
    assert "no such file" in complaint(import_dataset, tmp_path / "b.npz", "mine")
    assert "train/<class>" in complaint(import_dataset, tmp_path / "empty", "mine")
    (tmp_path / "a.zip").write_text("hello")
    assert "damaged" in complaint(import_dataset, tmp_path / "a.zip", "mine")


# Images --------------------------------------------------------------------------------------------------


def picture(array: Any, kind: str = "png", **options: Any) -> bytes:
    image = pytest.importorskip("PIL.Image").fromarray(np.asarray(array, dtype=np.uint8))
    for step, value in options.items():
        image = getattr(image, step)(value)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def picture_members() -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files of a data set, and the pixels by (split, class)."""
    members, expected = {}, {}
    for i, split in enumerate(("train", "val", "test")):
        for j, name in enumerate(("2", "10")):
            x = np.random.default_rng(10 * i + j).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
            expected[split, name] = x
            members |= {f"{split}/{name}/{k}.png": picture(image) for k, image in enumerate(x)}
    return {**members, "train/2/Thumbs.db": b"x", "train/10/.DS_Store": b"x", "readme.txt": b"x"}, expected


@pytest.mark.parametrize("kind", ["folder", "zip", "zip with a root"])
def test_import_pictures(tmp_path: Path, kind: str) -> None:
    members, expected = picture_members()
    if kind == "folder":
        path = tmp_path / "pictures"
        for name, content in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    else:
        root = "some/root/" if "root" in kind else ""
        path = put_zip(tmp_path / "a.zip", {root + name: content for name, content in members.items()})
    import_dataset(path, "mine", tmp_path)
    data = load_dataset("mine", data_dir=tmp_path)
    assert data.class_names == ("2", "10")
    assert data.shape == (3, 5, 4)
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        got = getattr(data, name)
        for label, class_name in enumerate(data.class_names):
            images = got.pixels(np.flatnonzero(got.labels() == label)).transpose(0, 2, 3, 1)
            assert sorted(map(bytes, images)) == sorted(map(bytes, expected[split, class_name]))
        assert got.labels().tolist() != sorted(got.labels().tolist())  # in random order
    assert "Thumbs.db" in data.note


def test_grey_pictures(tmp_path: Path) -> None:
    grey = {f"train/a/{i}.png": picture(x) for i, x in enumerate(pixels(7, side=4))}
    import_dataset(put_zip(tmp_path / "grey.zip", grey), "grey", tmp_path)
    assert load_dataset("grey", data_dir=tmp_path).shape == (1, 4, 4)
    mixed = {**grey, "train/b/1.jpg": picture(np.full((4, 4, 3), 200), "jpeg")}
    import_dataset(put_zip(tmp_path / "mixed.zip", mixed), "mixed", tmp_path)
    data = load_dataset("mixed", data_dir=tmp_path)
    assert data.shape == (3, 4, 4)
    assert "1 of 8 images were JPEG" in data.note


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (lambda: {"train/a/1.png": picture(pixels(1)[0]), "train/a/2.png": picture(pixels(1, side=9)[0])}, "one size"),
        (lambda: {"train/a/1.png": picture(pixels(1)[0])[:60]}, "not a whole image"),
        (lambda: {"train/a/1.png": b"GIF89a"}, "not a whole image"),
        (lambda: {"train/a/1.png": b""}, "not a whole image"),
        (lambda: {"train/a/1.png": picture(np.zeros((4, 4, 4)))}, "is of the mode RGBA"),
        (lambda: {"train/a/1.png": picture(np.zeros((1, 5000)))}, "more than 4096"),
        (lambda: {"train/a/1.png": picture(pixels(1)[0]), "test/b/1.png": picture(pixels(1)[0])}, "'b'"),
        (lambda: {"train/a\n/1.png": picture(pixels(1)[0])}, "printable"),
        (lambda: {f"train/{'9' * 5000}/1.png": picture(pixels(1)[0])}, "short"),
        (lambda: {"x/train/a/1.png": picture(pixels(1)[0]), "y/train/a/1.png": picture(pixels(1)[0])}, "several"),
        (lambda: {"train/1.png": picture(pixels(1)[0])}, "in no class folder"),
        (lambda: {"a/1.png": picture(pixels(1)[0])}, "one class only, 'a'"),
        (lambda: {"1.png": picture(pixels(1)[0])}, "holds no train"),
    ],
)
def test_bad_pictures(tmp_path: Path, members: Callable[[], dict[str, bytes]], words: str) -> None:
    path = put_zip(tmp_path / "a.zip", members())
    text = complaint(import_dataset, path, "mine", tmp_path)
    assert str(path) in text
    assert words in text
    assert not (tmp_path / "mine.h5").exists()


def test_a_zip_leads_nowhere(tmp_path: Path) -> None:
    """Names that point out of the folder are only names."""
    members = {f"../../train/a/{i}.png": picture(x) for i, x in enumerate(pixels(6, side=4))}
    before = set(tmp_path.parent.rglob("*.png"))
    import_dataset(put_zip(tmp_path / "a.zip", members), "mine", tmp_path)
    assert set(tmp_path.parent.rglob("*.png")) == before


def test_pillow_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "pip install pillow" in complaint(import_dataset, tmp_path, "mine", tmp_path)
