"""Pooling against its definition, tile by tile, and its derivatives; averages over tiles side by side: test_layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.checks import InputError
from malade_ref.layers import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool, Layer, MaxPool2d, layer_from
from tests.strategies import DTYPES, POOLS, PoolCase, floats_of_shape, images_nchw, pool_cases, with_layout
from tests.textbook import tiles_of
from tests.tolerances import (
    assert_close,
    assert_no_alias,
    assert_not_mutated,
    assert_planted_caught,
    directional_check,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(12)


def inside(rows: range, columns: range, image: Any) -> list[tuple[int, int]]:
    """Pixels of a tile that are in the image, row by row."""
    return [(r, q) for r in rows for q in columns if 0 <= r < image[0] and 0 <= q < image[1]]


# Largest numbers --------------------------------------------------------------------------------------------


def largest_of(image: Any, settings: Any) -> tuple[Any, Any]:
    """The largest number of each tile of one image, and the first pixel that has it."""
    values, places = [], []
    for line in tiles_of(image.shape, **settings):
        pixels = [inside(*tile, image.shape) for tile in line]
        best = [max(tile, key=lambda at: (image[at], -at[0], -at[1])) for tile in pixels]
        values.append([image[at] for at in best])
        places.append([r * image.shape[1] + q for r, q in best])
    return np.array(values), np.array(places)


def check_max_pool2d(max_pool2d: Any, x: Any, settings: Any) -> None:
    with assert_not_mutated(x):
        y, index = max_pool2d(x, **settings)
    assert_no_alias(y, x)
    assert index.dtype == np.int32
    for n in range(len(x)):
        for c in range(x.shape[1]):
            values, places = largest_of(x[n, c], settings)
            np.testing.assert_array_equal(y[n, c], values)
            np.testing.assert_array_equal(index[n, c], places)
    assert y.dtype == x.dtype


def check_max_pool2d_vjp(vjp: Any, dy: Any, x: Any, settings: Any) -> None:
    index = ops.max_pool2d(x, **settings)[1]
    with assert_not_mutated(dy, index):
        dx = vjp(dy, index, x.shape, **settings)
    assert_no_alias(dx, dy)
    expected, scale = np.zeros(x.shape), np.zeros(x.shape)
    for n, c, i, j in np.ndindex(*dy.shape):
        at = divmod(int(index[n, c, i, j]), x.shape[3])
        expected[(n, c, *at)] += float(dy[n, c, i, j])
        scale[(n, c, *at)] += abs(float(dy[n, c, i, j]))
    assert_close(dx, expected, op="max_pool2d_vjp", dtype=str(dy.dtype), scale=scale)


@given(pool_cases() | pool_cases(ties=True), st.data())
def test_max_pool2d(case: PoolCase, data: st.DataObject) -> None:
    x, settings = case
    check_max_pool2d(ops.max_pool2d, x, settings)
    shape = ops.max_pool2d(x, **settings)[0].shape
    check_max_pool2d_vjp(ops.max_pool2d_vjp, data.draw(floats_of_shape(shape, dtype=str(x.dtype))), x, settings)


@given(pool_cases(dtype="float64"))
def test_max_pool2d_finite_differences(case: PoolCase) -> None:
    x, settings = case
    directional_check(
        lambda x: ops.max_pool2d(x, **settings)[0],
        lambda dy, x: ops.max_pool2d_vjp(dy, ops.max_pool2d(x, **settings)[1], x.shape, **settings),
        [x],
    )


def test_the_first_of_equals_takes_the_gradient() -> None:
    x = np.zeros((1, 1, 3, 4))
    y, index = ops.max_pool2d(x, size=2, stride=1)
    np.testing.assert_array_equal(index[0, 0], [[0, 1, 2], [4, 5, 6]])
    dx = ops.max_pool2d_vjp(np.ones_like(y), index, x.shape, size=2, stride=1)
    np.testing.assert_array_equal(dx[0, 0], [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinities_in_max_pool2d(dtype: str) -> None:
    x = np.full((1, 1, 4, 4), -np.inf, dtype)
    x[0, 0, 0, 3] = x[0, 0, 1, 2] = np.nan
    x[0, 0, 0, 2], x[0, 0, 2, 1] = np.inf, 5
    y, index = ops.max_pool2d(x, size=2)
    np.testing.assert_array_equal(y[0, 0], np.array([[-np.inf, np.nan], [5, -np.inf]], dtype))
    np.testing.assert_array_equal(index[0, 0], [[0, 3], [9, 10]])
    # Padding is never taken, whatever is beside it.
    y, index = ops.max_pool2d(np.full((1, 1, 2, 2), -np.inf, dtype), size=2, padding=1)
    np.testing.assert_array_equal(index[0, 0], [[0, 1], [2, 3]])


# Means ------------------------------------------------------------------------------------------------------


def means_of(image: Any, tile: Any, count_include_pad: bool) -> tuple[float, float]:
    """The mean of a tile, and that of the magnitudes."""
    pixels = [float(image[at]) for at in inside(*tile, image.shape)]
    count = len(tile[0]) * len(tile[1]) if count_include_pad else len(pixels)
    return sum(pixels) / count, sum(map(abs, pixels)) / count


def check_avg_pool2d(avg_pool2d: Any, x: Any, settings: Any, count_include_pad: bool) -> None:
    with assert_not_mutated(x):
        y = avg_pool2d(x, **settings, count_include_pad=count_include_pad)
    assert_no_alias(y, x)
    lines = tiles_of(x.shape[2:], **settings)
    means = [
        [[[means_of(image, tile, count_include_pad) for tile in line] for line in lines] for image in images]
        for images in x
    ]
    expected = np.array(means).reshape(*x.shape[:2], len(lines), len(lines[0]), 2)
    assert_close(y, expected[..., 0], op="avg_pool2d", dtype=str(x.dtype), scale=expected[..., 1])


def check_avg_pool2d_vjp(vjp: Any, dy: Any, x_shape: Any, settings: Any, count_include_pad: bool) -> None:
    with assert_not_mutated(dy):
        dx = vjp(dy, x_shape, **settings, count_include_pad=count_include_pad)
    assert_no_alias(dx, dy)
    expected, scale = np.zeros(x_shape), np.zeros(x_shape)
    for i, line in enumerate(tiles_of(x_shape[2:], **settings)):
        for j, tile in enumerate(line):
            pixels = inside(*tile, x_shape[2:])
            count = len(tile[0]) * len(tile[1]) if count_include_pad else len(pixels)
            for r, q in pixels:
                expected[:, :, r, q] += dy[:, :, i, j].astype("float64") / count
                scale[:, :, r, q] += np.abs(dy[:, :, i, j]) / count
    assert_close(dx, expected, op="avg_pool2d_vjp", dtype=str(dy.dtype), scale=scale)


@given(pool_cases(), st.booleans(), st.data())
def test_avg_pool2d(case: PoolCase, count_include_pad: bool, data: st.DataObject) -> None:
    x, settings = case
    check_avg_pool2d(ops.avg_pool2d, x, settings, count_include_pad)
    shape = ops.avg_pool2d(x, **settings).shape
    dy = data.draw(floats_of_shape(shape, dtype=str(x.dtype)))
    check_avg_pool2d_vjp(ops.avg_pool2d_vjp, dy, x.shape, settings, count_include_pad)


@given(pool_cases(dtype="float64"), st.booleans())
def test_avg_pool2d_finite_differences(case: PoolCase, count_include_pad: bool) -> None:
    x, settings = case
    settings = {**settings, "count_include_pad": count_include_pad}
    directional_check(
        lambda x: ops.avg_pool2d(x, **settings), lambda dy, x: ops.avg_pool2d_vjp(dy, x.shape, **settings), [x]
    )


def check_adaptive(adaptive_avg_pool2d: Any, x: Any, size: tuple[int, int]) -> None:
    with assert_not_mutated(x):
        y = adaptive_avg_pool2d(x, output_size=size)
    assert_no_alias(y, x)
    expected, scale = np.empty((2, *x.shape[:2], *size))
    for i, j in np.ndindex(*size):
        rows, columns = (evenly(k, length, count) for k, length, count in zip((i, j), x.shape[2:], size, strict=True))
        window = x[:, :, rows, columns].astype("float64")
        expected[:, :, i, j], scale[:, :, i, j] = window.mean(axis=(2, 3)), np.abs(window).mean(axis=(2, 3))
    assert_close(y, expected, op="adaptive_avg_pool2d", dtype=str(x.dtype), scale=scale)


def evenly(k: int, length: int, count: int) -> slice:
    """All pixels that share a part of positive length with the k-th of ``count`` equal parts of the image."""
    pixels = [p for p in range(length) if (p + 1) * count > k * length and p * count < (k + 1) * length]
    return slice(pixels[0], pixels[-1] + 1)


def check_adaptive_vjp(vjp: Any, dy: Any, x_shape: Any) -> None:
    with assert_not_mutated(dy):
        dx = vjp(dy, x_shape)
    assert_no_alias(dx, dy)
    expected, scale = np.zeros((2, *x_shape))
    for i, j in np.ndindex(*dy.shape[2:]):
        rows, columns = (
            evenly(k, length, count) for k, length, count in zip((i, j), x_shape[2:], dy.shape[2:], strict=True)
        )
        count = (rows.stop - rows.start) * (columns.stop - columns.start)
        expected[:, :, rows, columns] += dy[:, :, i : i + 1, j : j + 1].astype("float64") / count
        scale[:, :, rows, columns] += np.abs(dy[:, :, i : i + 1, j : j + 1]) / count
    assert_close(dx, expected, op="adaptive_avg_pool2d_vjp", dtype=str(dy.dtype), scale=scale)


@given(images_nchw(), st.integers(1, 11), st.integers(1, 11), st.data())
def test_adaptive_avg_pool2d(x: Any, oh: int, ow: int, data: st.DataObject) -> None:
    check_adaptive(ops.adaptive_avg_pool2d, x, (oh, ow))
    dy = data.draw(floats_of_shape((*x.shape[:2], oh, ow), dtype=str(x.dtype)))
    check_adaptive_vjp(ops.adaptive_avg_pool2d_vjp, dy, x.shape)


@given(images_nchw(dtype="float64"), st.integers(1, 11), st.integers(1, 11))
def test_adaptive_avg_pool2d_finite_differences(x: Any, oh: int, ow: int) -> None:
    directional_check(
        lambda x: ops.adaptive_avg_pool2d(x, output_size=(oh, ow)),
        lambda dy, x: ops.adaptive_avg_pool2d_vjp(dy, x.shape),
        [x],
    )


def test_nan_stays_in_its_tiles() -> None:
    x = np.ones((1, 1, 4, 4))
    x[0, 0, 0, 0] = np.nan
    for y in (ops.avg_pool2d(x, size=2, stride=2, padding=1), ops.adaptive_avg_pool2d(x, output_size=2)):
        assert np.isnan(y[0, 0, 0, 0])
        assert np.isnan(y).sum() == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_a_result_does_not_depend_on_the_other_images(dtype: str, layout: Any) -> None:
    x = with_layout(rng().standard_normal((5, 3, 9, 8)).astype(dtype), layout)
    overlapping: dict[str, Any] = {"size": 3, "stride": 2, "padding": 1}
    for op in (
        lambda x: ops.avg_pool2d(x, **overlapping),
        lambda x: ops.avg_pool2d_vjp(x, (len(x), 3, 18, 16), size=2),
        lambda x: ops.adaptive_avg_pool2d(x, output_size=(2, 3)),
        lambda x: ops.adaptive_avg_pool2d_vjp(x, (len(x), 3, 11, 5)),
    ):
        np.testing.assert_array_equal(op(x)[3:4], op(x[3:4]))


@pytest.mark.parametrize("settings", POOLS, ids=repr)
def test_edges(settings: Any) -> None:
    x = rng().standard_normal((2, 3, 7, 8))
    check_max_pool2d(ops.max_pool2d, x, settings)
    dy = ops.max_pool2d(x, **settings)[0]
    check_max_pool2d_vjp(ops.max_pool2d_vjp, dy, x, settings)
    for flag in (True, False):
        check_avg_pool2d(ops.avg_pool2d, x, settings, flag)
        check_avg_pool2d_vjp(ops.avg_pool2d_vjp, dy, x.shape, settings, flag)


# Layers -----------------------------------------------------------------------------------------------------

LAYERS: list[Layer] = [
    MaxPool2d((3, 2), (2, 1), (1, 1), ceil_mode=True),
    MaxPool2d((2, 2)),
    AvgPool2d((3, 3), (2, 2), (1, 1), count_include_pad=False),
    AvgPool2d((2, 3)),
    AdaptiveAvgPool2d((3, 4)),
    GlobalAvgPool(),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: f"{layer.kind}")
def test_layers(layer: Layer) -> None:
    x = rng().standard_normal((2, 3, 7, 6))
    y, saved = layer.forward(ops, {}, x, False)
    assert y.shape == (2, *layer.output_shape((3, 7, 6)))
    assert layer.backward(ops, {}, saved, y, False, True) == (None, {})
    directional_check(
        lambda x: layer.forward(ops, {}, x, False)[0],
        lambda dy, x: layer.backward(ops, {}, layer.forward(ops, {}, x, False)[1], dy, True, False)[0],
        [x],
    )
    assert layer_from(layer.description()) == layer
    with pytest.raises(InputError, match=layer.kind):
        layer.output_shape((5,))


def test_an_average_over_tiles_is_described_as_ever() -> None:
    assert AvgPool2d((2, 2)).description() == {"kind": "avg_pool2d", "size": (2, 2)}
    assert layer_from({"kind": "avg_pool2d", "size": [2, 2]}) == AvgPool2d((2, 2))
    assert AvgPool2d((2, 2), (1, 1)).description() == {"kind": "avg_pool2d", "size": (2, 2), "stride": (1, 1)}


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "max_pool2d", "size": [0, 1]}, "max_pool2d: size: expected an integer >= 1"),
        ({"kind": "max_pool2d", "size": [1 << 40, 1]}, "max_pool2d: size: expected at most"),
        ({"kind": "max_pool2d", "size": [3, 3], "stride": [0, 2]}, "max_pool2d: stride"),
        ({"kind": "max_pool2d", "size": [3, 3], "padding": [2, 0]}, "at most half of the tile"),
        ({"kind": "max_pool2d", "size": [3, 3], "padding": [-1, 0]}, "max_pool2d: padding"),
        ({"kind": "max_pool2d", "size": [3, 3], "ceil_mode": 1}, "ceil_mode: expected true or false, got 1"),
        ({"kind": "avg_pool2d", "size": [3, 3], "count_include_pad": "no"}, "count_include_pad: expected true or"),
        ({"kind": "adaptive_avg_pool2d", "output_size": [True, 1]}, "output_size: expected an integer >= 1"),
        ({"kind": "adaptive_avg_pool2d", "output_size": [60000, 60000]}, "expected at most 16777216 pixels"),
    ],
)
def test_malformed_descriptions(description: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layer_from(description)


# Planted errors, and complaints -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    x = rng().standard_normal((1, 1, 34, 31)).astype(dtype)  # of enough pixels that 0.1% of an index is another one
    settings: dict[str, Any] = {"size": (3, 5), "stride": (2, 3), "padding": (1, 2), "ceil_mode": True}
    dy = rng().standard_normal(ops.avg_pool2d(x, **settings).shape).astype(dtype)
    assert_planted_caught(lambda f: check_max_pool2d(f, x, settings), ops.max_pool2d)
    assert_planted_caught(lambda f: check_max_pool2d_vjp(f, dy, x, settings), ops.max_pool2d_vjp)
    for flag in (True, False):
        assert_planted_caught(lambda f, flag=flag: check_avg_pool2d(f, x, settings, flag), ops.avg_pool2d)
        assert_planted_caught(
            lambda f, flag=flag: check_avg_pool2d_vjp(f, dy, x.shape, settings, flag), ops.avg_pool2d_vjp
        )
    assert_planted_caught(lambda f: check_adaptive(f, x, (7, 6)), ops.adaptive_avg_pool2d)
    assert_planted_caught(lambda f: check_adaptive_vjp(f, dy, x.shape), ops.adaptive_avg_pool2d_vjp)


def test_finite_differences_catch_planted_errors() -> None:
    x, settings = rng().standard_normal((2, 2, 7, 6)), {"size": 3, "stride": 2, "padding": 1}

    def check_max(vjp: Any) -> None:
        directional_check(
            lambda x: ops.max_pool2d(x, **settings)[0],
            lambda dy, x: vjp(dy, ops.max_pool2d(x, **settings)[1], x.shape, **settings),
            [x],
        )

    def check_average(vjp: Any) -> None:
        directional_check(lambda x: ops.avg_pool2d(x, **settings), lambda dy, x: vjp(dy, x.shape, **settings), [x])

    def check_even(vjp: Any) -> None:
        directional_check(lambda x: ops.adaptive_avg_pool2d(x, output_size=4), lambda dy, x: vjp(dy, x.shape), [x])

    assert_planted_caught(check_max, ops.max_pool2d_vjp)
    assert_planted_caught(check_average, ops.avg_pool2d_vjp)
    assert_planted_caught(check_even, ops.adaptive_avg_pool2d_vjp)


X = np.ones((2, 3, 4, 5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.max_pool2d(X, size=5), r"size: tile \(5, 5\) is larger than the image \(4, 5\)"),
        (lambda: ops.max_pool2d(X, size=7, padding=1), r"larger than the image \(4, 5\) with padding \(1, 1\)"),
        (lambda: ops.max_pool2d(X, size=2, padding=2), "padding: expected at most half of the tile"),
        (lambda: ops.max_pool2d(X, size=2, stride=0), "stride: expected an integer >= 1"),
        (lambda: ops.max_pool2d(X, size=2, ceil_mode=1), "ceil_mode: expected true or false, got 1"),
        (lambda: ops.max_pool2d(X[0], size=1), "x: expected 4 axes"),
        (lambda: ops.max_pool2d(X.astype(int), size=1), "x: expected float32 or float64"),
        (lambda: ops.max_pool2d_vjp(X, X, X.shape, size=2), "dy: expected shape"),
        (lambda: ops.max_pool2d_vjp(X, X[:1], X.shape, size=1), "index: expected shape"),
        (lambda: ops.avg_pool2d(X, size=2, count_include_pad=2), "count_include_pad: expected true or false"),
        (lambda: ops.avg_pool2d_vjp(X, X.shape[1:], size=2), "x_shape: expected 4 axes"),
        (lambda: ops.adaptive_avg_pool2d(X, output_size=0), "output_size: expected an integer >= 1"),
        (lambda: ops.adaptive_avg_pool2d(X, output_size=5000), "output_size: expected at most 16777216 pixels"),
        (lambda: ops.adaptive_avg_pool2d(X[:, :, :0], output_size=1), "x: expected images"),
        (lambda: ops.adaptive_avg_pool2d_vjp(X, (2, 2, 4, 5)), "dy: expected shape"),
    ],
)
def test_complaints(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
