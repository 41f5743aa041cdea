"""What the tests of data sets share: small files in the formats that are read, and the one line of a complaint."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref.checks import InputError
from malade_ref.datasets.idx import MNIST_FILES


def complaint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The one line that an InputError says."""
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    text = str(caught.value)
    assert text.isprintable(), text
    return text


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or touches the data of whoever runs it."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("MALADE_DATA", "MALADE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def idx(array: Any, *, magic: int | None = None, sizes: tuple[int, ...] | None = None) -> bytes:
    """An IDX file, written from its description."""
    array = np.asarray(array, dtype=np.uint8)
    sizes = array.shape if sizes is None else sizes
    magic = 0x0800 + len(sizes) if magic is None else magic
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + array.tobytes()


def pixels(n: int, *, seed: int = 0, side: int = 28) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side), dtype=np.uint8)


def classes(n: int) -> Any:
    return np.arange(n) % 10


def put_mnist(folder: Path, *, num_train: int = 60, num_test: int = 20, seed: int = 0) -> dict[str, Any]:
    """Four small files under MNIST's names, and what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "train images": pixels(num_train, seed=seed),
        "train labels": classes(num_train),
        "test images": pixels(num_test, seed=seed + 1),
        "test labels": classes(num_test)[::-1],
    }
    for what, name in MNIST_FILES.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(content[what]), 1, mtime=0))
    return content


def complaint_or_none(function: Callable[..., Any], *args: Any) -> str | None:
    """The one line that an InputError says, or None if there is none; other exceptions pass."""
    try:
        function(*args)
    except InputError as error:
        text = str(error)
    else:
        return None
    assert text.isprintable(), text
    return text


# CIFAR-10 ------------------------------------------------------------------------------------------------

BATCHES = ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def batch(n: int, seed: int, *, classes: int = 10, coarse: int = 0) -> bytes:
    """A batch as the publication describes it: a record is the labels, then the pixels."""
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (n, 3072 + 1 + bool(coarse)), dtype=np.uint8)
    records[:, 0] = rng.integers(0, coarse or classes, n)
    if coarse:
        records[:, 1] = rng.integers(0, classes, n)
    return records.tobytes()


def cifar10_files(n: int = 30, num_test: int = 7) -> dict[str, bytes]:
    files = {name: batch(n, seed) for seed, name in enumerate(BATCHES)}
    return {**files, "test_batch.bin": batch(num_test, 9), "batches.meta.txt": "\n".join([*NAMES, "", ""]).encode()}


def member(name: str, **changes: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(info, key, value)
    return info


def tar(files: Mapping[str, bytes], root: str = "cifar-10-batches-bin/") -> bytes:
    """A tar archive, its files in reverse order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in reversed(files.items()):
            archive.addfile(member(root + name, size=len(content)), io.BytesIO(content))
    return out.getvalue()
