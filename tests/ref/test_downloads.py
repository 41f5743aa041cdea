"""Downloads, from servers on this machine that misbehave in the ways that servers do."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from malade_ref.datasets import (
    cifar,
    download,
    get_dataset,
    library,
    load_dataset,
    tiny_imagenet,
)
from malade_ref.datasets.cifar import FORMATS
from malade_ref.datasets.idx import MNIST_FILES
from tests.ref.dataset_files import cifar10_files, complaint, own_folders, put_mnist, tar  # noqa: F401 (a fixture)


class Mirror:
    """A server on this machine; its behaviour can be changed while it runs."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.ranges = True  # whether it can resume
        self.cut = 0  # after how many bytes it hangs up, once
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                name = self.path.removeprefix("/")
                mirror.requests.append((name, asked))
                content = mirror.files.get(name)
                if content is None:
                    self.send_error(404)
                    return
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and mirror.ranges else 0
                if asked and mirror.ranges and start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206 if asked and mirror.ranges else 200)
                if asked and mirror.ranges:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                cut, mirror.cut = mirror.cut, 0
                self.wfile.write(content[start : start + cut] if cut else content[start:])

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    server = Mirror()
    yield server
    server.close()


PAYLOAD = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()


def fetch(path: Path, *urls: str, **changes: Any) -> None:
    download.download_gzip(urls, path, **{"sha256": SHA256, "num_bytes": len(PAYLOAD), **changes})


def stored(payload: bytes) -> bytes:
    """A gzip file that is as large as its content."""
    return gzip.compress(payload, 0, mtime=0)


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".part")]


def test_download(tmp_path: Path, mirror: Mirror) -> None:
    mirror.files["a.gz"] = stored(PAYLOAD)
    seen: list[float] = []
    fetch(tmp_path / "a.gz", mirror.url + "a.gz", progress=lambda fraction, message: seen.append(fraction))
    assert (tmp_path / "a.gz").read_bytes() == mirror.files["a.gz"]
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert not leftovers(tmp_path)


def test_a_cut_connection_is_resumed(tmp_path: Path, mirror: Mirror) -> None:
    mirror.files["a.gz"] = stored(PAYLOAD)
    mirror.cut = 300_000
    fetch(tmp_path / "a.gz", mirror.url + "a.gz")
    assert [asked for _, asked in mirror.requests] == [None, "bytes=300000-"]
    assert (tmp_path / "a.gz").read_bytes() == mirror.files["a.gz"]


def test_the_next_call_resumes(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.files["a.gz"] = stored(PAYLOAD)
    mirror.cut = 200_000
    with monkeypatch.context() as patch:
        patch.setattr(download, "ATTEMPTS", 1)
        assert "ended after 200000 of" in complaint(fetch, tmp_path / "a.gz", mirror.url + "a.gz")
    assert [path.stat().st_size for path in leftovers(tmp_path)] == [200_000]
    assert not (tmp_path / "a.gz").exists()
    fetch(tmp_path / "a.gz", mirror.url + "a.gz")
    assert mirror.requests[-1] == ("a.gz", "bytes=200000-")
    assert not leftovers(tmp_path)


def test_a_mirror_that_cannot_resume(tmp_path: Path, mirror: Mirror) -> None:
    mirror.files["a.gz"] = stored(PAYLOAD)
    mirror.cut, mirror.ranges = 300_000, False
    fetch(tmp_path / "a.gz", mirror.url + "a.gz")
    assert (tmp_path / "a.gz").read_bytes() == mirror.files["a.gz"]


def test_halves_of_different_files(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror compresses anew in between: the checksum finds it, and the file is fetched from its start."""
    mirror.files["a.gz"] = stored(PAYLOAD)
    mirror.cut = 300_000
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    complaint(fetch, tmp_path / "a.gz", mirror.url + "a.gz")
    monkeypatch.undo()
    mirror.files["a.gz"] = gzip.compress(PAYLOAD[:300_000] + bytes(1), 0) + gzip.compress(PAYLOAD[300_000:], 9)
    assert "wrong SHA-256" in complaint(fetch, tmp_path / "a.gz", mirror.url + "a.gz")
    mirror.files["a.gz"] = gzip.compress(PAYLOAD, 1)
    fetch(tmp_path / "a.gz", mirror.url + "a.gz")
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == PAYLOAD


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(PAYLOAD[:-1]), "wrong SHA-256"),
        (gzip.compress(PAYLOAD[:-1] + b"x"), "wrong SHA-256"),
        (gzip.compress(PAYLOAD)[:-5], "wrong SHA-256"),
        (b"<html>Please log in</html>", "wrong SHA-256"),
        (gzip.compress(PAYLOAD + bytes(1 << 24)), "wrong SHA-256"),
        (bytes(2_000_000), "sends more than"),
    ],
)
def test_wrong_content(tmp_path: Path, mirror: Mirror, content: bytes, words: str) -> None:
    mirror.files["a.gz"] = content
    assert words in complaint(fetch, tmp_path / "a.gz", mirror.url + "a.gz")
    assert list(tmp_path.glob("*.gz")) == []
    assert not leftovers(tmp_path)


def test_the_next_mirror(tmp_path: Path, mirror: Mirror) -> None:
    mirror.files["bad/a.gz"] = gzip.compress(b"something else")
    mirror.files["good/a.gz"] = gzip.compress(PAYLOAD)
    urls = [f"{mirror.url}{folder}/a.gz" for folder in ("missing", "bad", "good")]
    fetch(tmp_path / "a.gz", "http://127.0.0.1:9/a.gz", *urls)
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == PAYLOAD
    assert not leftovers(tmp_path)


def test_no_network(tmp_path: Path, mirror: Mirror) -> None:
    text = complaint(fetch, tmp_path / "a.gz", "http://127.0.0.1:9/a.gz", mirror.url + "a.gz")
    assert "Connection refused" in text
    assert "404" in text
    assert list(tmp_path.glob(".*")) == []


def test_one_download_at_a_time(tmp_path: Path, mirror: Mirror) -> None:
    mirror.files["a.gz"] = gzip.compress(PAYLOAD)
    part = tmp_path / f".a.gz.{hashlib.sha256((mirror.url + 'a.gz').encode()).hexdigest()[:8]}.part"
    with download._locked(part):
        assert "another program" in complaint(fetch, tmp_path / "a.gz", mirror.url + "a.gz")
    fetch(tmp_path / "a.gz", mirror.url + "a.gz")


@pytest.fixture
def published(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """A mirror of a small MNIST that passes for the published one."""
    put_mnist(tmp_path / "origin")
    source = dict(library.load_sources()["mnist"])
    source["files"] = []
    for what in ("train images", "train labels", "test images", "test labels"):
        name = f"{MNIST_FILES[what]}.gz"
        mirror.files[name] = (tmp_path / "origin" / name).read_bytes()
        payload = gzip.decompress(mirror.files[name])
        entry = {"name": name, "num_bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
        source["files"].append(entry)
    source["mirrors"] = [mirror.url]
    monkeypatch.setattr(library, "load_sources", lambda: {"mnist": source})
    return mirror


def test_get(tmp_path: Path, published: Mirror) -> None:
    seen: list[float] = []
    folder = get_dataset("mnist", tmp_path / "new", lambda fraction, message: seen.append(fraction))
    assert folder == tmp_path / "new" / "mnist"
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert len(load_dataset("mnist", data_dir=tmp_path / "new").train) == 50
    # What is there and right is not fetched again, compressed or not.
    count = len(published.requests)
    name = "t10k-labels-idx1-ubyte"
    (folder / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
    (folder / f"{name}.gz").unlink()
    get_dataset("mnist", tmp_path / "new")
    assert len(published.requests) == count


def test_get_goes_where_data_is_looked_for(tmp_path: Path, published: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_dataset("mnist") == tmp_path / "cache" / "malade" / "mnist"
    Path("data").mkdir()
    assert get_dataset("mnist") == Path("data/mnist")
    monkeypatch.setenv("MALADE_DATA", str(tmp_path / "environment"))
    assert get_dataset("mnist") == tmp_path / "environment" / "mnist"
    assert load_dataset("mnist").location.startswith(str(tmp_path / "environment"))


def test_get_without_a_network(tmp_path: Path) -> None:
    text = complaint(get_dataset, "mnist", tmp_path, mirrors=["http://127.0.0.1:9/", "http://127.0.0.1:9/other/"])
    assert "Connection refused" in text
    for name in MNIST_FILES.values():
        assert f"{name}.gz" in text
    assert f"into {tmp_path / 'mnist'}" in text


def test_get_leaves_other_files_alone(tmp_path: Path, published: Mirror) -> None:
    path = tmp_path / "mnist" / "train-labels-idx1-ubyte.gz"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    assert f"{path}: is not the published file" in complaint(get_dataset, "mnist", tmp_path)
    assert path.read_bytes() == b"mine"


def test_get_what_has_no_mirror(tmp_path: Path) -> None:
    for name in ("synthetic-digits", "mine"):
        assert "no public mirror" in complaint(get_dataset, name, tmp_path)


def test_sources_are_complete() -> None:
    for name, source in library.load_sources().items():
        assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in source["mirrors"])
        names = {file["name"] for file in source["files"]}
        hashes = [file["sha256"] for file in source["files"]]
        if name == "mnist":
            assert names == {f"{file}.gz" for file in MNIST_FILES.values()}
            assert set(source["splits"]) == {"train", "validation", "test"}
            hashes += list(source["splits"].values())
        elif name in FORMATS:
            assert names == {FORMATS[name].archive}
            assert tuple(source["members"]) == FORMATS[name].batches
            assert len(set(source["classes"])) == {"cifar10": 10, "cifar100": 100}[name]
            hashes += list(source["members"].values())
        else:
            assert names == {tiny_imagenet.ARCHIVE}
        assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in hashes)


@pytest.fixture
def published_archive(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """A mirror of a small archive that passes for the published one of CIFAR-10."""
    content = gzip.compress(tar(cifar10_files()), 1, mtime=0)
    name = FORMATS["cifar10"].archive
    mirror.files[name] = content
    file = {"name": name, "packed": True, "num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    source = {**library.load_sources()["cifar10"], "files": [file], "mirrors": [mirror.url]}
    sources = {**library.load_sources(), "cifar10": source}
    for module in (library, cifar):
        monkeypatch.setattr(module, "load_sources", lambda: sources)
    return mirror


def test_get_an_archive(tmp_path: Path, published_archive: Mirror) -> None:
    """An archive is checked as it is: one packed anew is another file."""
    published_archive.cut = 100_000
    folder = get_dataset("cifar10", tmp_path)
    name = FORMATS["cifar10"].archive
    assert [path.name for path in folder.iterdir()] == [name]
    data = load_dataset("cifar10", data_dir=tmp_path)
    assert (len(data.train), len(data.test)) == (135, 7)
    assert "it is the published data" in data.note
    count = len(published_archive.requests)
    get_dataset("cifar10", tmp_path)
    assert len(published_archive.requests) == count
    packed_anew = gzip.compress(gzip.decompress((folder / name).read_bytes()), 9, mtime=0)
    (folder / name).write_bytes(packed_anew)
    assert "is not the published file" in complaint(get_dataset, "cifar10", tmp_path)
    assert (folder / name).read_bytes() == packed_anew


def test_get_an_archive_that_was_packed_anew(tmp_path: Path, published_archive: Mirror) -> None:
    name = FORMATS["cifar10"].archive
    published_archive.files[name] = gzip.compress(gzip.decompress(published_archive.files[name]), 9, mtime=0)
    assert "wrong SHA-256" in complaint(get_dataset, "cifar10", tmp_path)
    assert not list((tmp_path / "cifar10").glob("cifar*"))
