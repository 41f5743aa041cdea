"""Tiny ImageNet: images, classes and names are those of the published layout, in a zip or unpacked."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref.datasets import import_dataset, library, list_datasets, load_dataset, tiny_imagenet
from malade_ref.datasets.sources import load_sources
from malade_ref.storage import file_sha256
from tests.ref.dataset_files import complaint, own_folders  # noqa: F401 (a fixture)

REAL_DATA = os.environ.get("MALADE_DATA")  # before any test takes it away
Image = pytest.importorskip("PIL.Image")

WNIDS = {"n02012849": "crane", "n01443537": "goldfish", "n03126707": "crane", "n09999999": ""}
ANNOTATIONS = "val/val_annotations.txt"


def jpeg(seed: int, side: int = 8, *, grey: bool = False, kind: str = "jpeg") -> bytes:
    out = io.BytesIO()
    shape = (side, side) if grey else (side, side, 3)
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(noise).save(out, kind)
    return out.getvalue()


def decoded(content: bytes) -> Any:
    """Pixels as another reader sees them: (3, h, w), grey ones thrice."""
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    return np.stack([pixels] * 3) if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def published(num_train: int = 20, num_val: int = 12) -> dict[str, bytes]:
    """A small one, by path: four classes, some images grey, wnids.txt not whole."""
    files = {}
    for i, wnid in enumerate(WNIDS):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"x\t0\t0\t1\t1\n"
        for k in range(num_train):
            files[f"train/{wnid}/images/{wnid}_{k}.JPEG"] = jpeg(100 * i + k, grey=k % 7 == 3)
    lines = []
    for k in range(num_val):
        files[f"val/images/val_{k}.JPEG"] = jpeg(1000 + k, grey=k == 5)
        lines.append(f"val_{k}.JPEG\t{list(WNIDS)[(k * 7) % 4]}\t0\t0\t7\t7\n")
    files[ANNOTATIONS] = "".join(lines).encode()
    files["wnids.txt"] = b"n01443537"
    words = "n01443537\tgoldfish, Carassius auratus\nn02012849\tcrane\nn03126707\tcrane, hoist\nn00001740\tentity\n"
    files["words.txt"] = words.encode()
    return files


def put(path: Path, files: Mapping[str, bytes], root: str = "tiny-imagenet-200/") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(root + name, content)
        return path
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("place", ["tiny-imagenet-200.zip", "tiny-imagenet-200", "."])
def test_it_is_found_and_exact(tmp_path: Path, place: str) -> None:
    files = published()
    put(tmp_path / "data" / "tiny-imagenet" / place, files)
    data = load_dataset("tiny-imagenet", data_dir=tmp_path / "data")
    assert (len(data.train), len(data.validation), len(data.test)) == (72, 8, 12)
    assert (data.name, data.num_classes, data.shape) == ("tiny-imagenet", 4, (3, 8, 8))
    wnids = sorted(WNIDS)
    assert data.class_names == ("goldfish", "crane (n02012849)", "crane (n03126707)", "n09999999")
    # The test split is val, in the order of its annotations.
    for k in range(12):
        np.testing.assert_array_equal(data.test.pixels()[k], decoded(files[f"val/images/val_{k}.JPEG"]))
        assert wnids[data.test.labels()[k]] == list(WNIDS)[(k * 7) % 4]
    # Each training image is in one of the two others, once, with the class of its folder.
    there = [
        (wnids[label], image.tobytes())
        for split in (data.train, data.validation)
        for label, image in zip(split.labels(), split.pixels(), strict=True)
    ]
    expected = [(name.split("/")[1], decoded(files[name]).tobytes()) for name in files if "/images/n" in name]
    assert sorted(there) == sorted(expected)
    assert np.bincount(data.validation.labels()).tolist() == [2] * 4
    assert len(set(data.train.labels(slice(12)).tolist())) > 2  # not sorted by class
    assert "8 of the 80 training images" in data.note
    assert "12 images of the published validation set" in data.note
    assert "92 of 92 images were JPEG" in data.note
    assert "not checked against the publication" in data.note


def test_a_folder_and_its_zip_are_the_same(tmp_path: Path) -> None:
    files = published(10, 4)
    paths = [put(tmp_path / "a.zip", files), put(tmp_path / "b.zip", files, root=""), put(tmp_path / "folder", files)]
    hashes = set()
    for i, path in enumerate(paths):
        import_dataset(path, f"mine{i}", tmp_path / "out")
        data = load_dataset(f"mine{i}", data_dir=tmp_path / "out")
        assert "not checked against the publication" in data.note
        hashes.add(data.train.sha256() + data.validation.sha256() + data.test.sha256())
    assert len(hashes) == 1


def test_the_published_zip_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "tiny-imagenet" / "tiny-imagenet-200.zip", published(10, 4))
    source = {**load_sources()["tiny-imagenet"], "files": [{"name": path.name, "sha256": file_sha256(path)}]}
    for module in (tiny_imagenet, library):
        monkeypatch.setattr(module, "load_sources", lambda: {**load_sources(), "tiny-imagenet": source})
    assert "it is the published data." in load_dataset("tiny-imagenet", data_dir=tmp_path).note
    entry = next(entry for entry in list_datasets(tmp_path) if entry.name == "tiny-imagenet")
    assert entry.description.endswith("published, checked")
    put(path, published(10, 5))
    assert "not checked against the publication" in load_dataset("tiny-imagenet", data_dir=tmp_path).note
    entry = next(entry for entry in list_datasets(tmp_path) if entry.name == "tiny-imagenet")
    assert "not known to be the published tiny-imagenet: 4 classes, 3 x 8 x 8, 36 + 4 + 5" in entry.description


def test_the_record_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("tiny-imagenet-200.zip", "tiny-imagenet-200"):
        folder = tmp_path / kind.replace(".", "")
        path = put(folder / "tiny-imagenet" / kind, published(10, 4))
        first = load_dataset("tiny-imagenet", data_dir=folder)
        with monkeypatch.context() as patch:
            patch.setattr(
                tiny_imagenet.TinyImageNetFiles,
                "incoming",
                lambda self, stack: pytest.fail("the files were read again"),
            )
            assert load_dataset("tiny-imagenet", data_dir=folder).train.sha256() == first.train.sha256()
        put(path, {**published(10, 4), "train/n01443537/images/n01443537_0.JPEG": jpeg(7777)})
        assert load_dataset("tiny-imagenet", data_dir=folder).train.sha256() != first.train.sha256()


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    files = published(10, 12)
    for name in [name for name in files if "/n09999999/" in name]:
        del files[name]
    del files["val/images/val_2.JPEG"]
    files |= {f"test/images/test_{k}.JPEG": jpeg(k) for k in range(3)}
    files |= {"val/images/val_99.JPEG": jpeg(5), "train/n01443537/images/._n01443537_0.JPEG": b"x", "__MACOSX/x": b""}
    put(tmp_path / "tiny-imagenet" / "tiny-imagenet-200.zip", files)
    data = load_dataset("tiny-imagenet", data_dir=tmp_path)
    assert (len(data.train), len(data.validation), len(data.test), data.num_classes) == (27, 3, 8, 3)
    for words in (
        "1 validation images are in no line of val_annotations.txt",
        "1 lines of val_annotations.txt are of images that are missing",
        "3 validation images are of classes that have no folder in train",
        "3 test images have no labels",
    ):
        assert f"Left out: {words}." in data.note


def test_names_without_words(tmp_path: Path) -> None:
    files = published(10, 4)
    del files["words.txt"], files["wnids.txt"]
    import_dataset(put(tmp_path / "a.zip", files), "mine", tmp_path)
    assert load_dataset("mine", data_dir=tmp_path).class_names == tuple(sorted(WNIDS))


BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "no tab": ({ANNOTATIONS: b"val_0.JPEG n01443537\n"}, "val_annotations.txt: line 1: expected"),
    "two classes": ({ANNOTATIONS: b"val_0.JPEG\tn01443537\nval_0.JPEG\tn02012849\n"}, "line 2: 'val_0.JPEG' has two"),
    "no text": ({ANNOTATIONS: b"\xff\xfe\n"}, "damaged or not of its kind"),
    "no image": ({"train/n01443537/images/n01443537_3.JPEG": b"nothing"}, "n01443537_3.JPEG: not a whole image"),
    "half an image": ({"val/images/val_2.JPEG": jpeg(3)[:200]}, "val_2.JPEG: not a whole image"),
    "another size": ({"val/images/val_2.JPEG": jpeg(3, 9)}, "val_2.JPEG: has 9 x 9 pixels, others have 8 x 8"),
    "control characters": ({"words.txt": b"n01443537\t\x1b[31mred\n"}, "printable names"),
    "two sets": ({f"other/{ANNOTATIONS}": b""}, "holds 2 files val/val_annotations.txt"),
    "too large": ({"val/images/val_3.JPEG": jpeg(3, 5000)}, "more than 4096"),
}


@pytest.mark.parametrize("kind", ["zip", "folder"])
@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path: Path, case: str, kind: str) -> None:
    changes, words = BAD[case]
    path = put(tmp_path / "in" / ("a.zip" if kind == "zip" else "a"), {**published(10, 4), **changes})
    text = complaint(import_dataset, path, "mine", tmp_path)
    assert str(path) in text
    assert words in text
    assert not list(tmp_path.rglob("*.h5"))


def test_no_training_images(tmp_path: Path) -> None:
    files = {name: content for name, content in published(10, 4).items() if not name.startswith("train")}
    path = put(tmp_path / "a.zip", files)
    assert "holds no train/<class>/images/*.JPEG" in complaint(import_dataset, path, "mine", tmp_path)


def test_a_zip_that_lies_or_leads_out(tmp_path: Path) -> None:
    files = published(10, 4)
    path = put(tmp_path / "in" / "a.zip", files, root="../../")
    import_dataset(path, "mine", tmp_path / "in")
    assert not list(tmp_path.rglob("*.JPEG"))
    content = path.read_bytes()
    name = b"../../val/images/val_2.JPEG"
    at = content.rindex(name)  # in the directory at the end; its size stands 22 bytes before
    path.write_bytes(content[: at - 22] + (1 << 30).to_bytes(4, "little") + content[at - 18 :])
    assert "claims 1073741824 bytes" in complaint(import_dataset, path, "other", tmp_path / "in")


def test_not_there(tmp_path: Path) -> None:
    text = complaint(load_dataset, "tiny-imagenet", data_dir=tmp_path)
    assert f"put tiny-imagenet-200.zip into {tmp_path / 'tiny-imagenet'}" in text


@pytest.mark.slow
def test_real_tiny_imagenet(tmp_path: Path) -> None:
    source = Path(REAL_DATA or "nowhere") / "tiny-imagenet" / "tiny-imagenet-200.zip"
    if not source.is_file():
        pytest.skip("needs Tiny ImageNet, in the folder that MALADE_DATA names")
    code = (
        "import resource, sys; from malade_ref.datasets import load_dataset;"
        "load_dataset('tiny-imagenet', data_dir=sys.argv[1]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(tiny_imagenet.__file__).parents[2])}
    run = [sys.executable, "-c", code, str(REAL_DATA)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1 << 20  # KiB
    data = load_dataset("tiny-imagenet", data_dir=REAL_DATA)
    assert (data.num_classes, data.shape, len(data.test)) == (200, (3, 64, 64), 10_000)
    assert data.class_names[:3] == ("goldfish", "European fire salamander", "bullfrog")
    assert data.class_names[-1] == "acorn"
    assert np.bincount(data.test.labels()).tolist() == [50] * 200
    assert np.ptp(np.bincount(data.validation.labels())) == 0
    with zipfile.ZipFile(source) as archive:
        for k, wnid in ((0, "n03444034"), (3, "n02808440"), (9999, None)):
            image = decoded(archive.read(f"tiny-imagenet-200/val/images/val_{k}.JPEG"))
            np.testing.assert_array_equal(data.test.pixels([k])[0], image)
            if wnid is not None:
                assert (
                    data.class_names[data.test.labels([k])[0]] == {"n03444034": "go-kart", "n02808440": "bathtub"}[wnid]
                )
