"""Pooling, upsampling and convolution in groups beside PyTorch's: results and gradients, to rounding."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from malade_ref import ops

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
functional = torch.nn.functional
torch.set_num_threads(1)


def rng() -> np.random.Generator:
    return np.random.default_rng(15)


def of_torch(f: Callable[..., Any], dy: Any, *arrays: Any) -> tuple[Any, list[Any]]:
    """A function's result, and the gradients of its product with dy."""
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    y = f(*tensors)
    y.backward(torch.tensor(dy))
    return y.detach().numpy(), [tensor.grad.numpy() for tensor in tensors]


def close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


POOLS = [
    (h, k, s, p, ceil)
    for h, k, s, p, ceil in itertools.product((1, 2, 5, 7), (1, 2, 3), (1, 2, 4), (0, 1), (False, True))
    if 2 * p <= k
]


def test_pooling() -> None:
    """With ties, and with tiles of which nothing but padding would be left."""
    refused = 0
    for h, k, s, p, ceil in POOLS:
        x = rng().integers(-3, 4, (2, 2, h, h + 1)).astype("float64")
        settings: dict[str, Any] = {"size": k, "stride": s, "padding": p, "ceil_mode": ceil}
        try:
            y, index = ops.max_pool2d(x, **settings)
        except ValueError:
            with pytest.raises(RuntimeError):
                functional.max_pool2d(torch.tensor(x), k, s, p, 1, ceil)
            refused += 1
            continue
        dy = rng().standard_normal(y.shape)
        expected, (dx,) = of_torch(lambda t, of=(k, s, p, 1, ceil): functional.max_pool2d(t, *of), dy, x)
        np.testing.assert_array_equal(y, expected)
        close(ops.max_pool2d_vjp(dy, index, x.shape, **settings), dx)
        for with_pad in (False, True):
            both = {**settings, "count_include_pad": with_pad}
            expected, (dx,) = of_torch(lambda t, of=(k, s, p, ceil, with_pad): functional.avg_pool2d(t, *of), dy, x)
            close(ops.avg_pool2d(x, **both), expected)
            close(ops.avg_pool2d_vjp(dy, x.shape, **both), dx)
    assert 0 < refused < len(POOLS) / 2


def test_nan_in_max_pooling() -> None:
    x = rng().standard_normal((1, 1, 6, 6))
    x[0, 0, 2, 3] = np.nan
    x[0, 0, 0, 0] = -np.inf
    expected = functional.max_pool2d(torch.tensor(x), 3, 2, 1).numpy()
    np.testing.assert_array_equal(ops.max_pool2d(x, size=3, stride=2, padding=1)[0], expected)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, (2, 5)])
def test_adaptive_pooling(size: Any) -> None:
    x = rng().standard_normal((2, 3, 7, 9))
    y = ops.adaptive_avg_pool2d(x, output_size=size)
    expected, (dx,) = of_torch(lambda t: functional.adaptive_avg_pool2d(t, size), y, x)
    close(y, expected)
    close(ops.adaptive_avg_pool2d_vjp(y, x.shape), dx)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (8, 12), (5, 20), (16, 6)])
def test_upsampling(size: Any) -> None:
    x, dy = rng().standard_normal((2, 3, 4, 6)), rng().standard_normal((2, 3, *size))
    expected, (dx,) = of_torch(lambda t: functional.interpolate(t, size, mode="nearest"), dy, x)
    close(ops.upsample_nearest(x, output_size=size), expected)
    close(ops.upsample_nearest_vjp(dy, x.shape), dx)
    for corners in (False, True):
        settings: dict[str, Any] = {"align_corners": corners}
        expected, (dx,) = of_torch(
            lambda t, settings=settings: functional.interpolate(t, size, mode="bilinear", **settings), dy, x
        )
        close(ops.upsample_bilinear(x, output_size=size, **settings), expected)
        close(ops.upsample_bilinear_vjp(dy, x.shape, **settings), dx)


@pytest.mark.parametrize("channels", [(1, 2, 3), (2, 2, 1), (3, 1, 1), (2, 1, 3)])
@pytest.mark.parametrize(("stride", "dilation", "padding"), [(1, 1, 0), (2, 1, 1), (1, 2, 1), (2, 3, 2), (3, 2, 0)])
def test_convolution_in_groups(channels: Any, stride: int, dilation: int, padding: int) -> None:
    groups, inputs, outputs = channels
    settings: dict[str, Any] = {"groups": groups, "stride": stride, "dilation": dilation, "padding": padding}
    weight = rng().standard_normal((groups * outputs, inputs, 3, 2))
    x = rng().standard_normal((2, groups * inputs, 8, 7))
    y = ops.grouped_conv2d(x, weight, **settings)
    expected, gradients = of_torch(lambda t, v: functional.conv2d(t, v, **settings), y, x, weight)
    close(y, expected)
    for actual, gradient in zip(ops.grouped_conv2d_vjp(y, x, weight, **settings), gradients, strict=True):
        close(actual, gradient)
    x, settings = rng().standard_normal((2, groups * outputs, 4, 5)), {**settings, "output_padding": stride - 1}
    y = ops.grouped_conv_transpose2d(x, weight, **settings)
    expected, gradients = of_torch(lambda t, v: functional.conv_transpose2d(t, v, **settings), y, x, weight)
    close(y, expected)
    for actual, gradient in zip(ops.grouped_conv_transpose2d_vjp(y, x, weight, **settings), gradients, strict=True):
        close(actual, gradient)
