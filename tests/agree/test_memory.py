"""Arrays in and out, and the checks where they enter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import LAYOUTS, images_nchw, logits_nk, with_layout

from .backends import agree, complain_alike, device, gpu, ref, to_device


@given(images_nchw())
def test_there_and_back(x: Any) -> None:
    on_device = gpu.asarray(x)
    assert isinstance(on_device, device().xp.ndarray)
    assert gpu.asarray(on_device) is on_device
    np.testing.assert_array_equal(gpu.to_host(on_device), x, strict=True)
    assert str(gpu.asarray(x, dtype="float64").dtype) == "float64"
    assert isinstance(gpu.to_host(on_device), np.ndarray)


def test_lists_and_numbers() -> None:
    for values in ([1, 2, 3], 1.5, [[1.0, 2.0]]):
        np.testing.assert_array_equal(gpu.to_host(gpu.asarray(values)), ref.asarray(values), strict=True)


def test_dlpack_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6.0).reshape(2, 3).to("cpu" if device().emulated else "cuda")
    array = gpu.asarray(tensor)
    tensor[0, 0] = 7
    assert float(array[0, 0]) == 7
    array[1, 1] = 8
    assert float(tensor[1, 1]) == 8
    assert float(torch.from_dlpack(array)[0, 0]) == 7


class Exporter:
    """Something that speaks DLPack and nothing else."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **settings: Any) -> Any:
        return self.array.__dlpack__(**settings)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_dlpack_from_anything() -> None:
    x = gpu.asarray([1.0, 2.0])
    y = gpu.asarray(Exporter(x))
    x[0] = 5
    assert float(y[0]) == 5
    z = gpu.asarray(Exporter(np.array([1.0, 2.0])))
    assert isinstance(z, device().xp.ndarray)
    assert float(z[1]) == 2


def test_new_arrays() -> None:
    for name in ("zeros", "ones"):
        agree(name, (2, 3), "float32", exact=True)
    agree("arange", 5, exact=True)
    empty = gpu.empty((2, 3), "float32")
    assert (empty.shape, str(empty.dtype)) == ((2, 3), "float32")


@given(st.lists(images_nchw(dtype="float32", min_n=2), min_size=1, max_size=1), st.integers(1, 3))
def test_joining_and_adding(arrays: Any, count: int) -> None:
    parts = [with_layout(arrays[0] + i, LAYOUTS[i]) for i in range(count)]
    on_device = list(map(to_device, parts))
    for name in ("concatenate", "stack", "add_up"):
        result = getattr(gpu, name)(on_device)
        np.testing.assert_array_equal(gpu.to_host(result), getattr(ref, name)(parts), strict=True)
        assert not np.may_share_memory(gpu.to_host(result), parts[0])


@given(logits_nk())
def test_argmax(case: Any) -> None:
    agree("argmax", case.logits, exact=True)
    agree("argmax", np.round(case.logits), exact=True)  # ties


@pytest.mark.parametrize(
    "row",
    [
        [1, np.nan, 3],
        [np.nan, 1, 3],
        [1, 3, np.nan],
        [np.nan, np.nan],
        [np.inf, np.inf],
        [-np.inf, -np.inf],
        [1, np.inf, 3],
        [-np.inf, 1, 0],
        [0.0, -0.0],
    ],
)
def test_argmax_of_special_numbers(row: Any) -> None:
    agree("argmax", np.array([row]), exact=True)


X = np.full((3, 1, 4, 4), 0.5, dtype="float32")
Y = np.array([0, 1, 2])


def test_good_input_passes() -> None:
    for name, array, rest in (
        ("check_images", X, ((1, 4, 4),)),
        ("check_vectors", 9 * X[:, 0, 0], ((4,),)),
        ("check_labels", Y, (3, 3)),
        ("check_sample_index", Y, (3,)),
    ):
        array = to_device(array)
        assert getattr(gpu, name)("x", array, *rest) is array


def test_complaints() -> None:
    def bad(place: Any, value: Any) -> Any:
        x = X.copy()
        x[place] = value
        return x

    shape = (1, 4, 4)
    for x in (X[0], X[:, :, :3], (X * 255).astype("uint8"), X.astype("float16"), X > 0):
        complain_alike("check_images", "x", x, shape)
    for x in (bad((1, 0, 2, 2), np.nan), bad((2, 0, 0, 0), 1.5), bad((0, 0, 3, 3), -0.25), bad(np.s_[1:], np.inf)):
        complain_alike("check_images", "x", x, shape)
    vectors = X[:, 0, 0]
    for x in (X, vectors[:, :3], vectors[0], vectors.astype("int64"), vectors + np.array([0, np.nan, np.inf, 1])):
        complain_alike("check_vectors", "x", x, (4,))
    for y in (Y[:2], Y[None], Y.astype("float64"), Y + 1, Y - 1):
        complain_alike("check_labels", "y", y, 3, 3)
    for index in (Y[:2], Y[None], Y.astype("float64"), Y - 1, Y + 2**32 - 1):
        complain_alike("check_sample_index", "sample_index", index, 3)


def test_lists_are_not_arrays() -> None:
    for name, rest in (
        ("check_images", ((1, 4, 4),)),
        ("check_vectors", ((3,),)),
        ("check_labels", (3, 3)),
        ("check_sample_index", (3,)),
    ):
        complain_alike(name, "x", [1, 2, 3], *rest)
