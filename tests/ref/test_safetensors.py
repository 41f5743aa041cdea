"""Networks as safetensors: bit by bit, readable by the library of that name, and refused in one line when hostile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malade_ref.checkpoint import load, save, unrounded
from malade_ref.checks import InputError
from malade_ref.cli import main
from malade_ref.network import Network, mlp, resnet, sdae
from malade_ref.storage.safetensors import load_safetensors, save_safetensors

NETWORKS: dict[str, Callable[[], Network]] = {
    "float32": lambda: mlp((1, 2, 2), 3, hidden=(4,), seed=1),
    "float64": lambda: mlp((1, 2, 2), 3, hidden=(4,), seed=1, dtype="float64"),
    "vectors": lambda: mlp((5,), 3, hidden=(), seed=2),
    "residual": lambda: sdae("small", seed=3),
    "buffers": lambda: resnet((1, 8, 8), 3, depth=18, channels=2, seed=4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip(tmp_path: Path, name: str) -> None:
    network = NETWORKS[name]()
    network.metadata["classes"] = ["naïve", "cat\n", '"]}']
    save(network, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors")
    assert loaded.fingerprint() == network.fingerprint()
    assert json.dumps(loaded.architecture()) == json.dumps(network.architecture())
    assert loaded.metadata == network.metadata
    save(loaded, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    # From one format to the other and back.
    save(loaded, tmp_path / "c.h5")
    save(load(tmp_path / "c.h5"), tmp_path / "d.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "d.safetensors").read_bytes()


def test_half_precision(tmp_path: Path) -> None:
    network = mlp((1, 2, 2), 3, hidden=(40,), seed=1)
    save(network, tmp_path / "a.safetensors", half=True)
    save(network, tmp_path / "a.h5", half=True)
    loaded = load(tmp_path / "a.safetensors")
    assert loaded.fingerprint() == load(tmp_path / "a.h5").fingerprint() != network.fingerprint()
    assert unrounded(loaded) == network.fingerprint()
    assert {str(array.dtype) for array in load_safetensors(tmp_path / "a.safetensors")[0].values()} == {"float16"}


def test_the_library_of_that_name_reads_and_writes_the_same(tmp_path: Path) -> None:
    theirs = pytest.importorskip("safetensors")
    numpy_side = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "a.safetensors"
    network = NETWORKS["buffers"]()
    save(network, path)
    read = numpy_side.load_file(path)
    assert read.keys() == network.params.keys()
    assert all(read[name].tobytes() == network.params[name].tobytes() for name in read)
    with theirs.safe_open(path, framework="np") as file:
        texts = file.metadata()
    assert json.loads(texts["architecture"]) == json.loads(json.dumps(network.architecture()))
    # What it writes is the network again: the SHA-256 is over the content, not over the bytes.
    numpy_side.save_file(dict(reversed(read.items())), tmp_path / "b.safetensors", metadata=texts)
    assert load(tmp_path / "b.safetensors").fingerprint() == network.fingerprint()


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.tuples(
            st.sampled_from(["?", "i1", "u2", ">i4", "i8", "f2", "<f4", ">f8"]), st.lists(st.integers(0, 3), max_size=3)
        ),
        max_size=4,
    )
)
def test_any_arrays(tmp_path_factory: pytest.TempPathFactory, kinds: dict[str, tuple[str, list[int]]]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.safetensors"
    arrays = {
        name: (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(dtype)
        for name, (dtype, shape) in kinds.items()
    }
    save_safetensors(path, arrays, {"note": "é"}, kind="test")
    read, texts = load_safetensors(path)
    assert texts["note"] == "é"
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(read[name], array)


# Foreign, damaged and hostile files ----------------------------------------------------------------------------------


def entry(dtype: Any, shape: Any, first: Any, last: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def file_of(header: Any, size: int, *, length: int | None = None) -> bytes:
    """A file with any header, as JSON or as text, before ``size`` bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(size)


A = entry("F32", [2, 2], 0, 16)
FLAT = '"dtype":"F32","shape":[4],"data_offsets":[0,16]'
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "a header of 8 bytes is claimed, the file has 0"),
    "cut in its length": (b"\1\0\0", "the file has 3"),
    "huge header": (file_of({"a": A}, 16, length=(1 << 64) - 1), "a header of 18446744073709551615 bytes is claimed"),
    "header longer than the file": (file_of({"a": A}, 16, length=500), "a header of 500 bytes is claimed"),
    "header larger than is read": (file_of(b"{" + b" " * (1 << 24), 16), "at most 16777216 are read"),
    "no JSON": (file_of(b"{nonsense", 16), "header: not valid JSON"),
    "no object": (file_of([1, 2], 16), "header: expected a JSON object"),
    "not UTF-8": (file_of(b'{"\xff":1}', 16), "header: not valid JSON"),
    "nested": (file_of(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", 16), "header: not valid JSON"),
    "NaN": (file_of(b'{"a":NaN}', 16), "header: not valid JSON"),
    "twice": (file_of(f'{{"a":{{{FLAT}}},"a":{{{FLAT}}}}}'.encode(), 16), "the name 'a' is there twice"),
    "a key twice": (file_of(f'{{"a":{{"dtype":"F64",{FLAT}}}}}'.encode(), 16), "the name 'dtype' is there twice"),
    "cut": (file_of({"a": A}, 15), "array 'a' does not lie within the 15 bytes"),
    "overlap": (file_of({"a": A, "b": entry("F32", [2], 12, 20)}, 20), "array 'b' overlaps another"),
    "the same bytes": (file_of({"a": A, "b": A}, 16), "array 'b' overlaps another"),
    "gap": (file_of({"a": A, "b": entry("F32", [1], 20, 24)}, 24), "array 'b' comes after a gap"),
    "bytes left": (file_of({"a": A}, 20), "4 bytes at the end belong to no array"),
    "wrong dtype": (file_of({"a": entry("F64", [2, 2], 0, 16)}, 16), "array 'a' is F64 (2, 2) in 16 bytes"),
    "unknown dtype": (file_of({"a": entry("BF16", [8], 0, 16)}, 16), "dtype 'BF16'; expected one of"),
    "no dtype": (file_of({"a": entry(4, [4], 0, 16)}, 16), "dtype 'int'; expected one of"),
    "object dtype": (file_of({"a": entry("O", [2], 0, 16)}, 16), "dtype 'O'; expected one of"),
    "negative offsets": (file_of({"a": entry("F32", [4], -16, 0)}, 16), "array 'a' does not lie within"),
    "backwards": (file_of({"a": entry("F32", [4], 16, 0)}, 16), "array 'a' does not lie within"),
    "offsets that are no integers": (file_of({"a": entry("F32", [4], 0, 16.0)}, 16), "array 'a' does not lie within"),
    "booleans": (file_of({"a": entry("F32", [True, 4], 0, 16)}, 16), "array 'a' has no shape"),
    "negative sizes": (file_of({"a": entry("F32", [-2, -2], 0, 16)}, 16), "array 'a' has no shape"),
    "huge sizes": (file_of({"a": entry("F32", [0, 1 << 62], 0, 0)}, 0), "array 'a' has no shape"),
    "large, but empty": (file_of({"a": entry("F32", [0, *[1 << 40] * 3], 0, 0)}, 0), "has a shape that is none"),
    "many axes": (file_of({"a": entry("F32", [1] * 40 + [4], 0, 16)}, 16), "array 'a' has no shape"),
    "no entry": (file_of({"a": 3}, 16), "array 'a' has not just data_offsets, dtype, shape"),
    "more in an entry": (file_of({"a": {**A, "file": "/etc/passwd"}}, 16), "array 'a' has not just"),
    "texts that are none": (file_of({"__metadata__": {"x": 1}, "a": A}, 16), "__metadata__ is no table of texts"),
    "escapes": (file_of({"\x1b[31m": entry("F32", [4], 0, 15)}, 16), r"array '\x1b[31m' is F32"),
    "booleans of two": (file_of({"a": entry("BOOL", [2], 0, 2)}, 0) + b"\1\2", "neither 0 nor 1"),
    "foreign": (file_of({"__metadata__": {"format": "pt"}, "a": A}, 16), "has no architecture, as malade export"),
    "no texts": (file_of({"a": A}, 16), "malade_ref.interop.from_torch or wrap makes one"),
    "of ours, not signed": (
        file_of({"__metadata__": {"format": "malade-network"}, "a": A}, 16),
        "its content does not match its SHA-256",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path: Path, name: str) -> None:
    content, complaint = HOSTILE[name]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(path)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


def test_signed_nonsense(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    network = NETWORKS["float32"]()
    texts = {"architecture": json.dumps(network.architecture()), "metadata": "{}"}

    def complaint(arrays: dict[str, Any], **changed: str) -> str:
        save_safetensors(path, arrays, {**texts, **changed}, kind="network")
        with pytest.raises(InputError) as caught:
            load(path)
        return str(caught.value)

    params = dict(network.params)
    assert "params" in complaint({})
    assert "expected floats, got int64" in complaint({name: array.astype(int) for name, array in params.items()})
    assert "NaN or infinity" in complaint({name: array * np.nan for name, array in params.items()})
    assert "architecture: not valid JSON" in complaint(params, architecture="{")
    assert "malformed description" in complaint(params, architecture="{}")
    assert "metadata: expected a JSON object" in complaint(params, metadata="[]")
    save_safetensors(path, params, texts, kind="state")
    with pytest.raises(InputError, match="has no architecture"):
        load(path)


def test_every_byte_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(NETWORKS["vectors"](), path)
    content = path.read_bytes()
    for i in range(0, len(content), 31):
        path.write_bytes(content[:i] + bytes([content[i] ^ 4]) + content[i + 1 :])
        with pytest.raises(InputError):
            load(path)
        path.write_bytes(content[:i])
        with pytest.raises(InputError):
            load(path)


def test_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    network = NETWORKS["float32"]()
    save(network, "a.h5")
    assert main(["export", "a.h5", "b.safetensors", "--format", "safetensors"]) == 0
    assert network.fingerprint()[:12] in capsys.readouterr().out
    assert main(["models", "export", "b.safetensors", "c.h5"]) == 0
    assert Path("a.h5").read_bytes() == Path("c.h5").read_bytes()
    assert main(["export", "b.safetensors", "d.safetensors", "--half"]) == 0
    assert unrounded(load("d.safetensors")) == network.fingerprint()
    capsys.readouterr()
    for words, complaint in (
        (["b.safetensors", "e.h5", "--format", "safetensors"], "expected a name that ends in .safetensors"),
        (["b.safetensors", "e.onnx"], "expected a name that ends in .h5 or .safetensors"),
        (["b.safetensors", "a.h5"], "exists already"),
        (["absent.safetensors", "e.h5"], "absent.safetensors: cannot be read"),
        (["b.safetensors", "e.h5", "--format", "onnx"], "invalid choice"),
    ):
        assert main(["export", *words]) == 2
        said = capsys.readouterr().err
        assert complaint in said
        assert said.count("\n") == 1
    assert not Path("e.h5").exists()
