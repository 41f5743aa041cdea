"""Records give back the bits they were given, in files that depend on nothing else, and refuse anything else."""

from __future__ import annotations

import contextlib
import json
import os
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from malade_ref.checks import InputError
from malade_ref.storage import (
    atomic_write,
    check_name,
    differences,
    file_sha256,
    from_json,
    load_json,
    load_record,
    make_folder,
    open_record,
    save_record,
    sweep,
    to_json,
    write_record,
)

ARRAYS = {
    "a": np.arange(6.0).reshape(2, 3),
    "g/flag": np.array(True),
    "g/h/bytes": np.arange(7, dtype=np.uint8),
    "g/none": np.zeros((0, 3), np.int32),
}
META = {"x": [1, 2.5, {"é": None}]}

dtypes = st.sampled_from(["?", "i1", "<i2", ">i4", "<i8", "u1", ">u2", "<u4", "<u8", "<f2", "<f4", ">f4", "<f8"])
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
segments = st.text(string.ascii_letters + string.digits + "_+=,-", min_size=1, max_size=8)
names = st.lists(segments, min_size=1, max_size=3).map("/".join)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def distinct(candidates: list[str]) -> bool:
    """Whether no name is another's folder, or the one that the JSON has."""
    taken = ["meta", *candidates]
    return not any(a != b and (b + "/").startswith(a + "/") for a in taken for b in taken) and "meta" not in candidates


named_arrays = (
    st.lists(names, max_size=4, unique=True)
    .filter(distinct)
    .flatmap(lambda found: st.fixed_dictionaries({name: arrays for name in found}))
)


def assert_equal_bits(actual: Any, expected: Any) -> None:
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert actual[name].shape == array.shape
        assert actual[name].dtype == array.dtype.newbyteorder("=")
        assert actual[name].dtype.isnative
        assert actual[name].tobytes() == array.astype(array.dtype.newbyteorder("=")).tobytes()


@given(
    content=named_arrays,
    meta=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), values, max_size=3),
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, content: Any, meta: Any) -> None:
    folder = tmp_path_factory.mktemp("record")
    save_record(folder / "one.h5", content, meta, kind="test")
    loaded = load_record(folder / "one.h5", kind="test")
    assert_equal_bits(loaded.arrays, content)
    assert loaded.meta == meta
    # The same content, named in another order, laid out in another way, and loaded once already.
    turned = {
        name: np.asfortranarray(content[name]) if content[name].ndim else content[name] for name in reversed(content)
    }
    save_record(folder / "two.h5", turned, dict(reversed(meta.items())), kind="test")
    save_record(folder / "three.h5", loaded.arrays, loaded.meta, kind="test")
    assert (folder / "one.h5").read_bytes() == (folder / "two.h5").read_bytes()
    assert (folder / "one.h5").read_bytes() == (folder / "three.h5").read_bytes()


def test_strides_and_byte_order_do_not_matter(tmp_path: Path) -> None:
    plain = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-3]
    save_record(tmp_path / "a.h5", {"x": plain}, kind="test")
    save_record(tmp_path / "b.h5", {"x": plain.astype(">f4").copy("F")}, kind="test")
    assert file_sha256(tmp_path / "a.h5") == file_sha256(tmp_path / "b.h5")
    np.testing.assert_array_equal(load_record(tmp_path / "b.h5", kind="test").arrays["x"], plain)


def test_special_values_keep_their_bits(tmp_path: Path) -> None:
    bits = np.array([0x7FC00001, 0xFFC00000, 0x80000000, 0x7F800000, 1], np.uint32)
    save_record(tmp_path / "a.h5", {"x": bits.view(np.float32)}, kind="test")
    np.testing.assert_array_equal(load_record(tmp_path / "a.h5", kind="test").arrays["x"].view(np.uint32), bits)


@pytest.mark.parametrize("cuts", [[10], [3, 3, 4], [0, 1, 0, 9]])
def test_pieces_give_the_same_file(tmp_path: Path, cuts: list[int]) -> None:
    whole = {"a/x": np.arange(30, dtype=np.float32).reshape(10, 3), "b": np.arange(10) % 3 == 0}
    save_record(tmp_path / "whole.h5", whole, META, kind="test")
    with write_record(tmp_path / "pieces.h5", META, kind="test") as writer:
        for name, array in whole.items():
            writer.create(name, array.shape, array.dtype)
        for name, array in whole.items():
            first = 0
            for rows in cuts:
                writer.append(name, array[first : first + rows])
                first += rows
    assert (tmp_path / "whole.h5").read_bytes() == (tmp_path / "pieces.h5").read_bytes()


def test_reading_in_slices(tmp_path: Path) -> None:
    save_record(tmp_path / "a.h5", ARRAYS, META, kind="test")
    with open_record(tmp_path / "a.h5", kind="test") as reader:
        assert reader.names == tuple(sorted(ARRAYS))
        assert reader.meta == META
        assert reader.shape("a") == (2, 3)
        assert reader.dtype("g/flag") == np.dtype(bool)
        np.testing.assert_array_equal(reader.read("a", 1), ARRAYS["a"][1:])
        np.testing.assert_array_equal(reader.read("g/h/bytes", 2, 5), ARRAYS["g/h/bytes"][2:5])
        reader.verify()
        with pytest.raises(InputError, match=r"no array named 'b'; it has a, g/flag"):
            reader.read("b")


FORKED = """
import os, sys
import numpy as np
from malade_ref.storage import open_record
with open_record(sys.argv[1], kind="test") as reader:
    child = os.fork()
    for _ in range(300):
        for first in range(0, 1000, 100):
            if not (reader.read("x", first, first + 100) == np.arange(first, first + 100)[:, None]).all():
                os._exit(1)
    if child:
        sys.exit(os.waitpid(child, 0)[1] != 0)
    os._exit(0)
"""


def test_forked_processes_read_one_open_file(tmp_path: Path) -> None:
    """They share its descriptor, and the position of that."""
    save_record(tmp_path / "a.h5", {"x": np.arange(1000)[:, None] * np.ones((1, 16))}, kind="test")
    command = [sys.executable, "-c", FORKED, str(tmp_path / "a.h5")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], timeout=60)


# What cannot be stored --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x": np.array([None])}, "got object"),
        ({"x": np.array(["a"])}, "got <U1"),
        ({"x": np.array([b"a"])}, r"got \|S1"),
        ({"x": np.zeros(2, complex)}, "got complex128"),
        ({"x": np.zeros(2, np.longdouble)}, "got float128|at most 8 bytes"),
        ({"x": np.zeros(2, "M8[s]")}, "got datetime64"),
        ({"x": np.zeros(2, [("a", "f4")])}, "got "),
        ({"meta": np.zeros(2)}, "the name is taken"),
        ({"meta/x": np.zeros(2)}, "the name is taken"),
        ({"x": np.zeros(2), "x/y": np.zeros(2)}, "the name is taken"),
        ({"../x": np.zeros(2)}, "expected names of letters"),
        ({"/x": np.zeros(2)}, "expected names of letters"),
        ({"": np.zeros(2)}, "expected names of letters"),
    ],
)
def test_unfit_arrays(tmp_path: Path, arrays: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        save_record(tmp_path / "a.h5", arrays, kind="test")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "meta",
    [
        {"x": float("nan")},
        {"x": float("inf")},
        {"x": np.zeros(2)},
        {"x": np.float32(1)},
        {1: 2},
        {"x": [{(1, 2): 3}]},
        {"x": "\ud800"},
        {"x": "long" * (1 << 22)},
    ],
    ids=lambda meta: str(meta)[:20],
)
def test_unfit_json(tmp_path: Path, meta: Any) -> None:
    with pytest.raises(InputError, match=r"a\.h5: meta"):
        save_record(tmp_path / "a.h5", {}, meta, kind="test")
    assert os.listdir(tmp_path) == []


def write_pieces(path: Path, *pieces: Any) -> None:
    with write_record(path, kind="test") as writer:
        writer.create("x", (4, 3), float)
        for piece in pieces:
            writer.append("x", piece)


def test_incomplete_or_misfitting_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match=r"array x: only 2 rows were written of \(4, 3\)"):
        write_pieces(path, np.zeros((2, 3)))
    for unfit in (np.zeros((2, 4)), np.zeros((2, 3), np.float32), np.zeros((5, 3)), np.zeros(3)):
        with pytest.raises(InputError, match="do not fit into"):
            write_pieces(path, unfit)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a", "a/b", "cnn+malade/pgd-eps=0.3,k", "_", "a.h5", "1"])
def test_good_names(name: str) -> None:
    assert check_name("name", name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        ".a",
        "a/.b",
        "a b",
        "a\\b",
        "a\n",
        "é",
        "a\0",
        "a" * 101,
        "a/" * 16 + "a",
    ],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(InputError, match="expected names of letters") as caught:
        check_name("name", name)
    assert "\n" not in str(caught.value)


# Files that are not what they should be ---------------------------------------------------------------------


def assert_refused(path: Path, complaint: str = ".", kind: str = "test") -> None:
    """The complaint is one line that names the file."""
    with pytest.raises(InputError, match=complaint) as caught:
        load_record(path, kind=kind)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """Or did no harm: HDF5 leaves gaps. In the arrays and in the JSON every byte counts."""
    path = tmp_path / "a.h5"
    values = np.frombuffer(bytes(range(100, 140)), np.uint8)
    save_record(path, {"x": values}, META, kind="test")
    data = path.read_bytes()
    text = json.dumps(META, separators=(",", ":"), ensure_ascii=False).encode()
    vital = {data.index(part) + i for part in (values.tobytes(), text) for i in range(len(part))}
    harmless = set()
    for i in sorted(vital | set(range(0, len(data), 3))):
        path.write_bytes(data[:i] + bytes([data[i] ^ 0x10]) + data[i + 1 :])
        if i in vital:
            assert_refused(path)
            continue
        with contextlib.suppress(InputError):
            loaded = load_record(path, kind="test")
            harmless.add(i)
            assert_equal_bits(loaded.arrays, {"x": values})
            assert loaded.meta == META
    assert len(harmless) < len(data) / 20


def test_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    save_record(path, ARRAYS, META, kind="test")
    data = path.read_bytes()
    for size in [*range(0, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:size])
        assert_refused(path, "not a whole malade file")


def test_things_that_are_no_files(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.h5", "No such file or directory")
    assert_refused(tmp_path, "not a regular file")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", "not a regular file")


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_text("an HDF5 file? no")
    assert_refused(path, "not a whole malade file")
    for libver, words in (("earliest", "another version of HDF5's format"), ("v110", "it has no format")):
        with h5py.File(path, "w", libver=(libver, "latest")) as file:
            file["x"] = np.zeros(2)
        assert_refused(path, f"{words}.*choose another file")
    save_record(path, ARRAYS, kind="other")
    assert_refused(path, "expected a malade-test file, got 'malade-other'")


def planted(path: Path, plant: Callable[[h5py.File], None]) -> None:
    """Change a good record."""
    save_record(path, {"x": np.zeros(3)}, META, kind="test")
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        plant(file)


def plant_version(file: h5py.File) -> None:
    file.attrs["version"] = np.int64(2)


def plant_huge_attribute(file: h5py.File) -> None:
    file.attrs["format"] = np.zeros((100, 100))


def plant_object_attribute(file: h5py.File) -> None:
    file.attrs["format"] = "malade-test"


def plant_no_json(file: h5py.File) -> None:
    del file["meta"]


def plant_huge_json(file: h5py.File) -> None:
    del file["meta"]
    file.create_dataset("meta", shape=(), dtype=h5py.string_dtype("utf-8", 1 << 30))


def plant_claim(file: h5py.File) -> None:
    file.create_dataset("huge", shape=(1 << 40,), dtype="f8")  # contiguous, never written


def plant_bomb(file: h5py.File) -> None:
    file.create_dataset("bomb", shape=(1 << 30,), dtype="u1", chunks=(1 << 20,), compression="gzip")


def plant_object(file: h5py.File) -> None:
    file.create_dataset("words", data=["a", "b"], dtype=h5py.string_dtype())


def plant_compound(file: h5py.File) -> None:
    file["pair"] = np.zeros(2, [("a", "f4"), ("b", "f4")])


def plant_null(file: h5py.File) -> None:
    file["null"] = h5py.Empty("f4")


def plant_type(file: h5py.File) -> None:
    file["type"] = np.dtype("f4")


def plant_outside(file: h5py.File) -> None:
    file.create_dataset("outside", shape=(10,), dtype="u1", external=[("/etc/hostname", 0, 10)])


def plant_external_link(file: h5py.File) -> None:
    file["link"] = h5py.ExternalLink("other.h5", "/x")


def plant_soft_link(file: h5py.File) -> None:
    file["link"] = h5py.SoftLink("/x")


def plant_loop(file: h5py.File) -> None:
    group = file.create_group("g")
    group["again"] = group
    group["anew"] = group


def plant_aliases(file: h5py.File) -> None:
    file["big"] = np.zeros(1000)
    for i in range(100):
        file[f"alias{i}"] = file["big"]


def plant_hidden(file: h5py.File) -> None:
    file["..."] = np.zeros(2)


def plant_another_array(file: h5py.File) -> None:
    file["y"] = np.zeros(2)


def plant_another_dtype(file: h5py.File) -> None:
    del file["x"]
    file["x"] = np.zeros(3, np.int64)


def plant_another_shape(file: h5py.File) -> None:
    del file["x"]
    file["x"] = np.zeros((3, 1))


@pytest.mark.parametrize(
    ("plant", "complaint"),
    [
        (plant_version, "version 2 of the format, this malade reads 1"),
        (plant_huge_attribute, "it has no format that malade wrote"),
        (plant_object_attribute, "its format is not as malade writes it"),
        (plant_no_json, "not a whole malade file"),
        (plant_huge_json, "meta claims 1073741824 bytes and has 0"),
        (plant_claim, "huge claims 8796093022208 bytes and has 0"),
        (plant_bomb, "bomb is not stored in one piece"),
        (plant_object, "words has a dtype that"),
        (plant_compound, "pair has a dtype that"),
        (plant_null, "null is not stored in one piece"),
        (plant_type, "type is not an array"),
        (plant_outside, "outside is not stored in one piece"),
        (plant_external_link, "link is a link"),
        (plant_soft_link, "link is a link"),
        (plant_loop, "g/again is a link"),
        (plant_aliases, "is a link"),
        (plant_hidden, "expected names of letters"),
        (plant_another_array, "does not match its SHA-256"),
        (plant_another_dtype, "does not match its SHA-256"),
        (plant_another_shape, "does not match its SHA-256"),
    ],
)
def test_hostile_files(tmp_path: Path, plant: Callable[[h5py.File], None], complaint: str) -> None:
    planted(tmp_path / "a.h5", plant)
    assert_refused(tmp_path / "a.h5", complaint)


def test_verify_notices_what_opening_does_not(tmp_path: Path) -> None:
    planted(tmp_path / "a.h5", plant_another_dtype)
    with open_record(tmp_path / "a.h5", kind="test") as reader, pytest.raises(InputError, match="SHA-256"):
        reader.verify()


# JSON, text and folders -------------------------------------------------------------------------------------


@given(value=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), values, max_size=4))
def test_json_is_canonical(value: Any) -> None:
    text = to_json("test", value)
    assert from_json("test", text) == value
    assert to_json("test", dict(reversed(value.items()))) == text
    assert list(differences(value, from_json("test", text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "null",
        '{"x": NaN}',
        '{"x": -Infinity}',
        "\xff",
        '{"x": ' + "[" * 100_000,
        '{"x": ' + "9" * 5000 + "}",
    ],
    ids=lambda text: text[:12],
)
def test_hostile_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.json: ") as caught:
        load_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_long_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b" " * ((1 << 24) + 1))
    with pytest.raises(InputError, match="more than 16777216"):
        load_json(tmp_path / "a.json")


def test_differences() -> None:
    old = {"a": {"b": [1, {"c": 2}], "same": 0}, "gone": True, "number": 1}
    new = {"a": {"b": [1, {"c": 3}, 4], "same": 0}, "new": None, "number": 1.0}
    assert list(differences(old, new)) == [
        ("a.b[1].c", "2", "3"),
        ("a.b[2]", "(absent)", "4"),
        ("gone", "true", "(absent)"),
        ("new", "(absent)", "null"),
        ("number", "1", "1.0"),
    ]


def test_atomic_write(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for content in ("first\r\n\n", "zweite é", b"\x00\xff", ""):
        atomic_write(path, content)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert os.listdir(tmp_path) == ["a.txt"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_make_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "a/b/c")
    make_folder(tmp_path / "a/b/c")
    (tmp_path / "a/file").write_text("")
    for path in ("a/file", "a/file/b"):
        with pytest.raises(InputError, match="cannot be written"):
            make_folder(tmp_path / path)


def test_sweep_takes_only_what_was_left_aside(tmp_path: Path) -> None:
    make_folder(tmp_path / "sub")
    left = [".a.h5.0123456789abcdef.tmp", "sub/.b.0123456789abcdef.tmp"]
    kept = ["a.tmp", ".hidden", "sub/.b.tmp", "sub/b.0123456789abcdef.tmp"]
    for name in left + kept:
        (tmp_path / name).write_text("")
    sweep(tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)
