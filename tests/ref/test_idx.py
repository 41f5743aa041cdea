"""IDX files: whole ones are read exactly, and whatever happened to others is said in one line."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from malade_ref.datasets.idx import read_idx_images, read_idx_labels
from tests.ref.dataset_files import complaint, complaint_or_none, idx, own_folders, pixels  # noqa: F401 (a fixture)


@given(
    array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7)),
    compressed=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_idx_images(tmp_path: Path, array: Any, compressed: bool) -> None:
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
    images = read_idx_images(path)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, array[:, None])


def test_idx_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(idx([3, 1, 4, 9]))
    labels = read_idx_labels(path)
    assert labels.dtype == np.int64
    assert labels.tolist() == [3, 1, 4, 9]


IMAGES = idx(pixels(2, side=3))

BAD_IMAGES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "got nothing"),
    "labels": (idx([1, 2]), "00000801"),
    "floats": (idx(pixels(1), magic=0x0D03), "00000d03"),
    "text": (b"hello, I am no image", "68656c6c"),
    "short header": (IMAGES[:9], "header"),
    "short": (IMAGES[:-1], "more than its 33 bytes can hold"),
    "long": (IMAGES + b"\0", "goes on"),
    "wide": (idx([], sizes=(1, 5000, 5000)), "1 to 4096"),
    "flat": (idx([], sizes=(1, 0, 28)), "1 to 4096"),
    "none": (idx([], sizes=(0, 28, 28)), "holds no images"),
    "huge": (idx([], sizes=(2**32 - 1, 4096, 4096)), "more than its 16 bytes"),
    "gzip short": (gzip.compress(IMAGES)[:-9], "not a whole gzip file"),
    "gzip damaged": (gzip.compress(IMAGES)[:-8] + bytes(8), "not a whole gzip file"),
    "gzip long": (gzip.compress(IMAGES + b"\0"), "goes on"),
    "gzip followed": (gzip.compress(IMAGES) + b"more", "not a whole gzip file"),
    "gzip payload short": (gzip.compress(IMAGES[:-1]), "ends after 17 of 18"),
    "gzip huge": (gzip.compress(idx([], sizes=(2**20, 2048, 2048))), "can hold"),
    "gzip header only": (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "not a whole gzip file"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images(tmp_path: Path, case: str) -> None:
    content, words = BAD_IMAGES[case]
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    text = complaint(read_idx_images, path)
    assert text.startswith(f"{path}: ")
    assert words in text
    assert ";" in text  # ... and how to mend it


def test_bad_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(idx([1, 2, 10, 11]))
    assert "label 2 is 10, expected 0..9" in complaint(read_idx_labels, path)
    assert read_idx_labels(path, num_classes=12).tolist() == [1, 2, 10, 11]
    path.write_bytes(idx([1, 2, 3], sizes=(4,)))
    assert "more than its 11 bytes" in complaint(read_idx_labels, path)


def test_counts_must_match(tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(IMAGES)
    (tmp_path / "l").write_bytes(idx([1, 2, 3]))
    assert "3 labels for 2 images" in complaint(read_idx_labels, tmp_path / "l", num_images=2)


def test_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", "."):
        assert "cannot be read" in complaint(read_idx_images, tmp_path / name)


def test_a_bomb_does_not_go_off(tmp_path: Path) -> None:
    """256 MB of zeros in 260 kB, after a header that claims one image: no more than a block is unpacked."""
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(idx(pixels(1)))
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        assert "goes on" in complaint(read_idx_images, path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@given(data=st.data(), compressed=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_idx_is_one_complaint(tmp_path: Path, data: st.DataObject, compressed: bool) -> None:
    """Whatever happened to the bytes: the same images, or a complaint."""
    whole = gzip.compress(IMAGES, mtime=0) if compressed else IMAGES
    content = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 70), st.integers(0, 255)), max_size=3)):
        if place < len(content):
            content[place] = value
    path = tmp_path / "damaged"
    path.write_bytes(content)
    text = complaint_or_none(read_idx_images, path)
    if text is None:
        images = read_idx_images(path)
        assert images.dtype == np.uint8
        assert images.ndim == 4
        assert images.size <= 18
    else:
        assert text.startswith(f"{path}: ")
