"""The strategies reach the corners they are there for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings

from malade_ref.ops import conv
from tests.strategies import (
    DTYPES,
    LAYOUTS,
    ConvCase,
    conv_cases,
    images_nchw,
    logits_nk,
    with_layout,
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (0, 1, 2, 2), (3, 2), (4,)])
def test_layouts_keep_values(layout: Any, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype("float32")
    out = with_layout(array, layout)
    assert out.dtype == array.dtype
    np.testing.assert_array_equal(out, array)


def test_layouts_differ() -> None:
    array = np.zeros((2, 3, 4, 5), dtype="float32")
    assert len({with_layout(array, layout).strides for layout in LAYOUTS}) == len(LAYOUTS)


@given(images_nchw())
def test_images(images: Any) -> None:
    assert images.ndim == 4
    assert images.dtype in DTYPES
    assert ((images >= 0) & (images <= 1)).all()


@given(logits_nk())
def test_labels_fit_logits(case: Any) -> None:
    assert case.labels.shape == case.logits.shape[:1]
    assert ((case.labels >= 0) & (case.labels < case.logits.shape[1])).all()


@given(conv_cases())
def test_conv_cases_are_valid(case: ConvCase) -> None:
    y = conv.conv2d(case.x, case.weight, stride=case.stride, padding=case.padding)
    assert y.size > 0 or len(case.x) == 0


@given(conv_cases(transposed=True))
def test_transposed_conv_cases_are_valid(case: ConvCase) -> None:
    options = case._asdict()
    y = conv.conv_transpose2d(options.pop("x"), options.pop("weight"), **options)
    assert y.size > 0 or len(case.x) == 0


@pytest.mark.parametrize(
    "corner",
    [
        lambda case: len(case.x) == 0,
        lambda case: case.padding == "same" and case.stride[0] != case.stride[1],
        lambda case: isinstance(case.padding, tuple) and len({*case.padding[0], *case.padding[1]}) == 4,
        lambda case: case.stride[0] > case.weight.shape[2],
        lambda case: not case.x.flags.c_contiguous and case.x.size > 1,
        lambda case: min(case.x.strides) < 0 and case.x.size > 0,
        lambda case: case.x.dtype == "float64",
    ],
    ids=["empty", "same", "asymmetric", "stride beyond kernel", "layout", "negative strides", "float64"],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_conv_cases_reach(corner: Any, transposed: bool) -> None:
    search = settings(max_examples=1000, phases=[Phase.generate], derandomize=True)
    find(conv_cases(transposed=transposed), corner, settings=search)
