"""Modules of PyTorch on the device: their outputs and input gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from malade_ref.interop import from_torch
from tests.torch_networks import CifarResNet, WideResNet, random_statistics, trained_statistics

from .backends import gpu, ref, to_device

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


def assert_alike(module: Any, input_shape: tuple[int, ...]) -> None:
    """The module's outputs and input gradients are those of both backends."""
    x = torch.rand(2, *input_shape, requires_grad=True)
    y = module(x)
    dy = torch.randn(y.shape)
    y.backward(dy)
    expected = y.detach().numpy(), x.grad.numpy()
    for ops, to_ops, tolerance in ((gpu, to_device, 1e-4), (ref, np.asarray, 1e-5)):
        network = from_torch(module, input_shape, ops=ops)
        assert network.ops is ops
        logits, tape = network.forward(to_ops(x.detach().numpy()))
        dx, _ = network.backward(tape, to_ops(dy.numpy()))
        for got, theirs in zip((logits, dx), expected, strict=True):
            atol = tolerance * float(np.abs(theirs).max())
            np.testing.assert_allclose(ops.to_host(got), theirs, rtol=tolerance, atol=atol)


@pytest.mark.parametrize(("first", "groups"), [(False, 1), (True, 2)])
def test_residual_blocks(first: bool, groups: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), Block(2, 4, first=first, groups=groups)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    assert_alike(random_statistics(module), (1, 8, 8))


@pytest.mark.slow
@pytest.mark.parametrize("statistics", ["random", "trained"])
@pytest.mark.parametrize(
    "make",
    [lambda: CifarResNet(3, (2, 2, 2, 2)), lambda: WideResNet(28, 2, 2)],
    ids=["resnet18", "wide resnet 28-2"],
)
def test_whole_networks(make: Any, statistics: str) -> None:
    """Networks of their full depth, of few channels."""
    torch.manual_seed(0)
    module, input_shape = make(), (3, 8, 8)
    if statistics == "random":
        assert_alike(random_statistics(module), input_shape)
    else:
        assert_alike(trained_statistics(module, input_shape), input_shape)
