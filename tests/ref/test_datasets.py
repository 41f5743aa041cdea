"""Data sets as they are loaded: which images are where, in every place and from every source."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from malade_ref.datasets import (
    check_images,
    check_labels,
    get_dataset,
    import_dataset,
    library,
    list_datasets,
    load_dataset,
    synthetic_digits,
)
from malade_ref.datasets.idx import MNIST_FILES
from malade_ref.datasets.splits import ArraySource, Split, SyntheticSource
from tests.ref.dataset_files import classes, complaint, idx, own_folders, pixels, put_mnist  # noqa: F401 (a fixture)

REAL_DATA = os.environ.get("MALADE_DATA")  # before any test takes it away

# Splits --------------------------------------------------------------------------------------------------


def indices(n: int) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.slices(n),
        st.lists(st.integers(0, n - 1), max_size=12),
        hnp.arrays(st.sampled_from([np.int64, np.uint8]), st.integers(0, 12), elements=st.integers(0, n - 1)),
    )


@given(index=indices(90), kind=st.sampled_from(["array", "record", "synthetic"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_split_is_indexed_like_an_array(split_of: dict[str, Any], index: Any, kind: str) -> None:
    split, images, labels = split_of[kind]
    key = index if isinstance(index, slice) else np.asarray(index, dtype=np.int64)
    assert len(split) == 90
    got = split.images(index)
    np.testing.assert_array_equal(got, (images[key] / 255).astype(np.float32))
    np.testing.assert_array_equal(split.pixels(index), images[key])
    np.testing.assert_array_equal(split.labels(index), labels[key])
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert split.labels(index).dtype == np.int64


@pytest.fixture(scope="module")
def split_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same kind of split from every source, as (split, its pixels, its labels)."""
    folder = tmp_path_factory.mktemp("splits")
    x, y = pixels(300, side=5)[:, None], classes(300)
    np.savez(folder / "a.npz", images=x, labels=y, split=np.repeat(["train", "test", "validation"], 100))
    import_dataset(folder / "a.npz", "a", folder)
    record = load_dataset("a", data_dir=folder).validation
    record = Split(record.source, 10, 100)
    digits = synthetic_digits(90, seed=1, split="test", start=460)
    return {
        "array": (Split(ArraySource(x, y), 60, 150), x[60:150], y[60:150]),
        "record": (record, x[210:], y[210:]),
        "synthetic": (Split(SyntheticSource(1, "test"), 460, 550), *digits),
    }


@pytest.mark.parametrize("kind", ["array", "record", "synthetic"])
def test_a_split_travels(split_of: dict[str, Any], kind: str) -> None:
    split, images, labels = split_of[kind]
    copy = pickle.loads(pickle.dumps(split))
    np.testing.assert_array_equal(copy.pixels(), images)
    expected = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert split.sha256() == copy.sha256() == expected
    if kind != "array":
        assert len(pickle.dumps(split)) < 1000


@pytest.mark.parametrize("index", [[90], [-1], [0.5], [[1]], 3, "all", np.ones(90, dtype=bool)])
def test_bad_index(split_of: dict[str, Any], index: Any) -> None:
    assert "index" in complaint(split_of["array"][0].images, index)


def test_images_are_the_callers(split_of: dict[str, Any]) -> None:
    for split, images, labels in split_of.values():
        split.images()[:] = 0.5
        split.labels()[:] = 77
        np.testing.assert_array_equal(split.pixels(), images)
        np.testing.assert_array_equal(split.labels(), labels)


# Loading -------------------------------------------------------------------------------------------------


def test_synthetic_set() -> None:
    data = load_dataset("synthetic-digits", seed=3, sizes={"train": 30, "test": 20})
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10_000, 20)
    assert (data.name, data.num_classes, data.shape) == ("synthetic-digits", 10, (1, 28, 28))
    assert data.class_names == tuple("0123456789")
    assert "not handwriting" in data.note
    assert "Seed 3" in data.note
    images, labels = synthetic_digits(20, seed=3, split="test")
    np.testing.assert_array_equal(data.test.pixels(), images)
    np.testing.assert_array_equal(data.test.labels(), labels)


def test_mnist_is_split_as_in_the_paper(tmp_path: Path) -> None:
    content = put_mnist(tmp_path / "mnist")
    data = load_dataset("mnist", data_dir=tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (50, 10, 20)
    np.testing.assert_array_equal(data.train.pixels()[:, 0], content["train images"][:50])
    np.testing.assert_array_equal(data.validation.pixels()[:, 0], content["train images"][50:])
    np.testing.assert_array_equal(data.validation.labels(), content["train labels"][50:])
    np.testing.assert_array_equal(data.test.pixels()[:, 0], content["test images"])
    np.testing.assert_array_equal(data.test.labels(), content["test labels"])
    assert (data.name, data.num_classes, data.shape) == ("mnist", 10, (1, 28, 28))
    assert "NOT the published data" in data.note


def test_published_data_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_mnist(tmp_path / "mnist")
    data = load_dataset("mnist", data_dir=tmp_path)
    source = dict(library.load_sources()["mnist"])
    source["splits"] = {split: getattr(data, split).sha256() for split in ("train", "validation", "test")}
    monkeypatch.setattr(library, "load_sources", lambda: {"mnist": source})
    assert "is the published data" in load_dataset("mnist", data_dir=tmp_path).note
    source["splits"]["test"] = "0" * 64
    assert "NOT the published data" in load_dataset("mnist", data_dir=tmp_path).note


def test_sizes(tmp_path: Path) -> None:
    content = put_mnist(tmp_path / "mnist")
    data = load_dataset("mnist", data_dir=tmp_path, sizes={"train": 7, "test": 0})
    assert (len(data.train), len(data.validation), len(data.test)) == (7, 10, 0)
    np.testing.assert_array_equal(data.train.pixels()[:, 0], content["train images"][:7])
    assert data.test.images().shape == (0, 1, 28, 28)
    assert "train of mnist has 50 images, not 51" in complaint(
        load_dataset, "mnist", data_dir=tmp_path, sizes={"train": 51}
    )
    for name in ("mnist", "synthetic-digits"):
        assert "'tests'" in complaint(load_dataset, name, data_dir=tmp_path, sizes={"tests": 5})
        assert "sizes: test" in complaint(load_dataset, name, data_dir=tmp_path, sizes={"test": -1})


def test_the_record_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = put_mnist(tmp_path / "mnist")
    first = load_dataset("mnist", data_dir=tmp_path)
    assert Path(first.location).parent == tmp_path
    with monkeypatch.context() as patch:
        patch.setattr(library, "incoming_idx", lambda files: pytest.fail("the files were read again"))
        second = load_dataset("mnist", data_dir=tmp_path)
    assert second.train.sha256() == first.train.sha256()
    # Other files, another record: the old one is never mistaken for theirs.
    changed = put_mnist(tmp_path / "mnist", seed=7)
    third = load_dataset("mnist", data_dir=tmp_path)
    np.testing.assert_array_equal(third.train.pixels()[:, 0], changed["train images"][:50])
    np.testing.assert_array_equal(first.train.pixels()[:, 0], content["train images"][:50])


def test_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    content = put_mnist(folder / "mnist")
    before = sorted(folder.rglob("*"))
    folder.chmod(0o555)
    try:
        data = load_dataset("mnist", data_dir=folder)
        text = complaint(import_dataset, folder / "mnist", "mine", folder)
    finally:
        folder.chmod(0o755)
    assert data.location == str(folder / "mnist")
    assert len(list((tmp_path / "cache" / "malade").glob("mnist.*.h5"))) == 1
    np.testing.assert_array_equal(data.test.pixels()[:, 0], content["test images"])
    assert "read-only" in text
    assert sorted(folder.rglob("*")) == before


def test_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    put_mnist(folder / "mnist")
    expected = load_dataset("mnist", data_dir=folder)
    hashes = [getattr(expected, split).sha256() for split in ("train", "validation", "test")]
    for path in (tmp_path / "cache" / "malade").iterdir():
        path.unlink()
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder.chmod(0o555)
    try:
        data = load_dataset("mnist", data_dir=folder)
    finally:
        folder.chmod(0o755)
    assert isinstance(data.train.source, ArraySource)
    assert [getattr(data, split).sha256() for split in ("train", "validation", "test")] == hashes
    assert (data.note, data.class_names, data.shape) == (expected.note, expected.class_names, expected.shape)


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Argument, environment, ./data, user's cache: each hides those after it."""
    argument, environment, cache = (tmp_path / name for name in ("argument", "environment", "cache"))
    argument.mkdir()
    environment.mkdir()
    expected = {}
    for i, folder in enumerate((cache / "malade", Path("data"), environment, argument)):
        content = put_mnist(folder / "mnist", seed=10 * i)
        if folder is environment:
            monkeypatch.setenv("MALADE_DATA", str(environment))
        data = load_dataset("mnist", data_dir=argument)
        np.testing.assert_array_equal(data.test.pixels()[:, 0], content["test images"])
        expected[folder] = content
    # IDX files may also lie in the folder itself.
    data = load_dataset("mnist", data_dir=argument / "mnist")
    np.testing.assert_array_equal(data.test.pixels()[:, 0], expected[argument]["test images"])


def test_missing_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = complaint(load_dataset, "mnist", data_dir=tmp_path)
    assert "malade data get mnist" in text
    assert str(tmp_path / "mnist") in text
    for name in MNIST_FILES.values():
        assert name in text
    assert "malade data import PATH --name mine" in complaint(load_dataset, "mine")
    assert "no folder" in complaint(load_dataset, "mnist", data_dir=tmp_path / "nowhere")
    monkeypatch.setenv("MALADE_DATA", str(tmp_path / "nowhere"))
    assert "MALADE_DATA" in complaint(load_dataset, "mnist")


def test_some_files_missing(tmp_path: Path) -> None:
    put_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    text = complaint(load_dataset, "mnist", data_dir=tmp_path)
    assert "3 of MNIST's 4 files" in text
    assert "t10k-labels-idx1-ubyte" in text


def test_damaged_mnist_names_the_file(tmp_path: Path) -> None:
    put_mnist(tmp_path / "mnist")
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    assert str(path) in complaint(load_dataset, "mnist", data_dir=tmp_path)
    path.write_bytes(gzip.compress(idx(pixels(20, side=27))))
    assert "belong together" in complaint(load_dataset, "mnist", data_dir=tmp_path)
    assert not list(tmp_path.glob("*.h5"))


@pytest.mark.parametrize("name", ["", "../mnist", "a/b", "MNIST", "a.b", "-x", "x" * 65, "a\nb", "é"])
def test_bad_names(tmp_path: Path, name: str) -> None:
    for function in (load_dataset, get_dataset, lambda name: import_dataset(tmp_path, name)):
        assert "data set: expected a name" in complaint(function, name)


def _load_at_once(folder: str) -> str:
    return load_dataset("mnist", data_dir=folder).train.sha256()


@pytest.mark.slow
def test_concurrent_loading(tmp_path: Path) -> None:
    put_mnist(tmp_path / "mnist", num_train=600)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        hashes = set(pool.map(_load_at_once, [str(tmp_path)] * 6, chunksize=1))
    assert hashes == {load_dataset("mnist", data_dir=tmp_path).train.sha256()}
    assert sorted(os.listdir(tmp_path)) == ["cache", "mnist", "work"]
    assert len(os.listdir(tmp_path / "cache" / "malade")) == 1


def test_replaced_while_in_use(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=pixels(60), labels=classes(60))
    path = import_dataset(tmp_path / "a.npz", "mine", tmp_path)
    data = load_dataset("mine", data_dir=tmp_path)
    path.unlink()
    assert "cannot be read" in complaint(data.train.images, slice(3))
    np.savez(tmp_path / "a.npz", images=pixels(66), labels=classes(66))
    import_dataset(tmp_path / "a.npz", "mine", tmp_path)
    assert "was replaced while in use" in complaint(data.train.images, slice(3))


def test_memory_stays_flat(tmp_path: Path) -> None:
    """A slice of 20 MB costs what the slice does, to import and to read."""
    np.savez(
        tmp_path / "a.npz", images=np.zeros((30_000, 28, 28), dtype=np.uint8), labels=np.zeros(30_000, dtype=np.uint8)
    )
    tracemalloc.start()
    try:
        import_dataset(tmp_path / "a.npz", "mine", tmp_path)
        data = load_dataset("mine", data_dir=tmp_path)
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        data.train.images(slice(100, 200))
        assert tracemalloc.get_traced_memory()[1] - held < 2 << 20
        data.train.images(np.arange(0, 20_000, 200))
        assert tracemalloc.get_traced_memory()[1] - held < 2 << 20
    finally:
        tracemalloc.stop()


def test_real_mnist(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    folder = REAL_DATA
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip("needs MNIST, in the folder that MALADE_DATA names")
    data = load_dataset("mnist", data_dir=folder)
    assert "is the published data" in data.note
    assert (len(data.train), len(data.validation), len(data.test)) == (50_000, 10_000, 10_000)
    assert data.train.labels(slice(5)).tolist() == [5, 0, 4, 1, 9]
    assert data.test.labels(slice(5)).tolist() == [7, 2, 1, 0, 4]
    assert abs(float(data.test.images(slice(1000)).mean()) - 0.1265) < 0.005


# Listing -------------------------------------------------------------------------------------------------


def test_list(tmp_path: Path) -> None:
    entries = {entry.name: entry for entry in list_datasets(tmp_path)}
    public = ["synthetic-digits", "mnist", "cifar10", "cifar100", "tiny-imagenet"]
    assert list(entries) == public
    assert entries["synthetic-digits"].found
    assert not entries["mnist"].found
    assert "malade data get mnist" in entries["mnist"].description

    put_mnist(tmp_path / "mnist")
    np.savez(tmp_path / "a.npz", images=pixels(60), labels=classes(60))
    import_dataset(tmp_path / "a.npz", "mine", tmp_path)
    (tmp_path / "broken.h5").write_bytes(b"broken")
    (tmp_path / "No Name.h5").write_bytes(b"broken")
    entries = {entry.name: entry for entry in list_datasets(tmp_path)}
    assert list(entries) == [*public, "broken", "mine"]
    assert entries["mnist"].found
    assert entries["mine"].description == "imported, 10 classes, 1 x 28 x 28, 40 + 10 + 10"
    assert not entries["broken"].found
    assert "choose another file" in entries["broken"].description


# Values --------------------------------------------------------------------------------------------------


def ones(*shape: int, dtype: str = "float32") -> Any:
    return np.ones(shape, dtype=dtype)


def with_value(value: float, place: tuple[int, ...]) -> Any:
    x = ones(5, 1, 4, 4) / 2
    x[place] = value
    return x


def test_good_values() -> None:
    for x in (
        ones(2, 1, 28, 28),
        ones(0, 3, 4, 4),
        np.zeros((1, 1, 1, 1)),
        with_value(np.nextafter(1, 0), (1, 0, 0, 0)),
    ):
        check_images(x, shape=x.shape[1:])
    check_labels(np.array([0, 9], dtype=np.uint8), 10)
    check_labels(np.array([], dtype=np.int64), 10, num_images=0)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (with_value(np.nan, (3, 0, 1, 1)), "image 3 has pixels that are NaN"),
        (with_value(np.inf, (2, 0, 1, 1)), "image 2 has pixels that are NaN"),
        (with_value(1.01, (4, 0, 3, 3)), "image 4 has 0.5 to 1.01; scale or clip"),
        (with_value(-1e-6, (1, 0, 0, 0)), "image 1 has -1e-06 to 0.5"),
        (255 * ones(2, 1, 4, 4), "divide by 255"),
        (np.ones((2, 1, 4, 4), dtype=np.uint8), "divide by 255"),
        (np.ones((2, 1, 4, 4), dtype=np.float16), "float32 or float64"),
        (ones(2, 4, 4), "4 axes"),
        (ones(2, 3, 4, 4), "(1, 4, 4)"),
        ([[1.0]], "NumPy array, got list"),
    ],
)
def test_bad_values(x: Any, words: str) -> None:
    text = complaint(check_images, x, name="a.npy", shape=(1, 4, 4))
    assert text.startswith("a.npy: ")
    assert words in text


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.array([0, 10, 3]), "label 1 is 10"),
        (np.array([0, 3, -1]), "label 2 is -1"),
        (np.array([-1, 10, 3]), "and 1 more"),
        (np.array([0.0, 1, 2]), "expected integers"),
        (np.eye(3, dtype=int), "1 axes"),
        (np.array([True, False, True]), "expected integers"),
        (np.array([1, 2]), "2 labels for 3 images"),
        ((1, 2, 3), "NumPy array, got tuple"),
    ],
)
def test_bad_label_values(y: Any, words: str) -> None:
    text = complaint(check_labels, y, 10, name="a.npy", num_images=3)
    assert text.startswith("a.npy: ")
    assert words in text
