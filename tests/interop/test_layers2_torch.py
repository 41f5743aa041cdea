"""Activations and normalisation within a sample give what PyTorch's do, and so do their derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from malade_ref import ops
from malade_ref.layers import (
    ELU,
    GELU,
    GroupNorm,
    Hardtanh,
    InstanceNorm,
    LayerNorm,
    LeakyReLU,
    Normalize,
    PReLU,
    Sigmoid,
    SiLU,
    Softplus,
)

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn
torch.set_num_threads(1)

PAIRS: list[tuple[Any, Any]] = [
    (LeakyReLU(0.2), lambda: nn.LeakyReLU(0.2)),
    (ELU(0.7), lambda: nn.ELU(0.7)),
    (SiLU(), nn.SiLU),
    (GELU(), nn.GELU),
    (GELU("tanh"), lambda: nn.GELU(approximate="tanh")),
    (Sigmoid(), nn.Sigmoid),
    (Softplus(), nn.Softplus),
    (Softplus(2.5, 1.5), lambda: nn.Softplus(2.5, 1.5)),
    (Hardtanh(-0.5, 2.0), lambda: nn.Hardtanh(-0.5, 2.0)),
    (Hardtanh(0.0, 6.0), nn.ReLU6),
    (PReLU(), nn.PReLU),
    (PReLU(4), lambda: nn.PReLU(4)),
    (GroupNorm(2, 4), lambda: nn.GroupNorm(2, 4)),
    (GroupNorm(1, 4, 1e-3, False), lambda: nn.GroupNorm(1, 4, 1e-3, affine=False)),
    (InstanceNorm(4), lambda: nn.InstanceNorm2d(4)),
    (InstanceNorm(4, 1e-3, True), lambda: nn.InstanceNorm2d(4, 1e-3, affine=True)),
    (LayerNorm((4, 5, 3)), lambda: nn.LayerNorm((4, 5, 3))),
    (LayerNorm((3,), 1e-3), lambda: nn.LayerNorm(3, 1e-3)),
    (LayerNorm((5, 3), 1e-3, False), lambda: nn.LayerNorm((5, 3), 1e-3, elementwise_affine=False)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("layer", "make"), PAIRS, ids=[repr(layer) for layer, _ in PAIRS])
def test_the_same_as_pytorch(layer: Any, make: Any, dtype: str) -> None:
    rng = np.random.default_rng(2)
    module = make().to(getattr(torch, dtype))
    names = list(layer.parameter_shapes())
    p = {}
    for name, parameter in zip(names, module.parameters(), strict=True):
        p[name] = rng.standard_normal(parameter.shape).astype(dtype)
        parameter.data = torch.tensor(p[name])
    x = (3 * rng.standard_normal((2, 4, 5, 3))).astype(dtype)
    x.reshape(-1)[:4] = 0, 2, 6, -0.5  # where some of them bend
    dy = rng.standard_normal(x.shape).astype(dtype)
    theirs = torch.tensor(x, requires_grad=True)
    module(theirs).backward(torch.tensor(dy))
    y, saved = layer.forward(ops, p, x, True)
    dx, gradients = layer.backward(ops, p, saved, dy, True, True)
    tolerance = {"rtol": 1e-5, "atol": 3e-6} if dtype == "float32" else {"rtol": 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(y, module(theirs).detach().numpy(), **tolerance)
    np.testing.assert_allclose(dx, theirs.grad.numpy(), **tolerance)
    for name, parameter in zip(names, module.parameters(), strict=True):
        np.testing.assert_allclose(gradients[name], parameter.grad.numpy(), **tolerance)


def test_normalize() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = np.random.default_rng(0).random((2, 3, 4, 4)).astype("float32")
    expected = (torch.tensor(x) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    np.testing.assert_allclose(
        Normalize(mean, std).forward(ops, {}, x, False)[0], expected.numpy(), rtol=1e-6, atol=1e-6
    )
