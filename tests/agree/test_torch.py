"""Modules of PyTorch on the device: their outputs and input gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from malade_ref.interop import from_torch

from .backends import gpu, to_device, to_host

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn


class Block(nn.Module):
    """A residual block, basic or with pre-activation; the body may be depthwise."""

    def __init__(self, before: int, after: int, *, first: bool, groups: int = 1) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(before if first else after)
        conv = nn.Conv2d(before, after, 3, 2, 1, groups=groups, bias=False)
        self.body = nn.Sequential(norm, nn.ReLU(), conv) if first else nn.Sequential(conv, norm)
        self.project = nn.Conv2d(before, after, 1, 2)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.body(x) + self.project(x))


@pytest.mark.parametrize(("first", "groups"), [(False, 1), (True, 2)])
def test_residual_blocks(first: bool, groups: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), Block(2, 4, first=first, groups=groups)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    ).eval()
    for inner in module.modules():
        if isinstance(inner, nn.BatchNorm2d):
            inner.running_mean.normal_(0, 0.3)
            inner.running_var.uniform_(0.5, 2)
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    y = module(x)
    dy = torch.randn(y.shape)
    y.backward(dy)
    network = from_torch(module, (1, 8, 8), ops=gpu)
    assert network.ops is gpu
    ours, tape = network.forward(to_device(x.detach().numpy()))
    dx, _ = network.backward(tape, to_device(dy.numpy()))
    for got, expected in ((ours, y.detach().numpy()), (dx, x.grad.numpy())):
        np.testing.assert_allclose(to_host(got), expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))
