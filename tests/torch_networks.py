"""Residual networks as people write them in PyTorch, with random and with trained running statistics."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn, F = torch.nn, torch.nn.functional


class BasicBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after))
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after))
        self.shortcut: Any = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Any) -> Any:
        out = self.second(self.act(self.first(x)))
        out += self.shortcut(x)
        return self.act(out)


class CifarResNet(nn.Module):
    def __init__(self, width: int, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.ModuleList()
        before = width
        for stage, count in enumerate(blocks):
            for number in range(count):
                after = width * 2**stage
                self.blocks.append(BasicBlock(before, after, 2 if stage and not number else 1))
                before = after
        self.head = nn.Linear(before, 10)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = F.avg_pool2d(x, x.size(3))
        return self.head(x.view(x.size(0), -1))


class WideBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(before), nn.BatchNorm2d(after)])
        self.convs = nn.ModuleList([nn.Conv2d(before, after, 3, stride, 1), nn.Conv2d(after, after, 3, padding=1)])
        self.project = None if before == after and stride == 1 else nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Any) -> Any:
        active = F.relu(self.norms[0](x), inplace=True)
        y = F.relu(self.norms[1](self.convs[0](active)))
        y = self.convs[1](F.dropout(y, 0.3, training=self.training))
        return torch.add(y, x if self.project is None else self.project(active))


class WideResNet(nn.Module):
    def __init__(self, depth: int, width: int, channels: int) -> None:
        super().__init__()
        self.conv, blocks, before = nn.Conv2d(3, channels, 3, padding=1), [], channels
        for stage in range(3):
            for number in range((depth - 4) // 6):
                after = channels * width * 2**stage
                blocks.append(WideBlock(before, after, 2 if stage and not number else 1))
                before = after
        self.blocks, self.norm, self.head = nn.Sequential(*blocks), nn.BatchNorm2d(before), nn.Linear(before, 10)

    def forward(self, x: Any) -> Any:
        x = self.norm(self.blocks(self.conv(x))).relu()
        return self.head(x.mean((2, 3)))


def random_statistics(module: Any) -> Any:
    """At test, with running statistics in general position."""
    generator = torch.Generator().manual_seed(5)
    for inner in module.modules():
        if isinstance(inner, nn.BatchNorm2d | nn.BatchNorm1d | nn.InstanceNorm2d) and inner.running_mean is not None:
            inner.running_mean.normal_(0, 0.3, generator=generator)
            inner.running_var.uniform_(0.5, 2, generator=generator)
    return module.eval()


def trained_statistics(module: Any, input_shape: tuple[int, ...]) -> Any:
    """At test, with the running statistics and the parameters that a few steps of training leave."""
    torch.manual_seed(6)
    x, y = torch.rand(16, *input_shape), torch.arange(16) % 10
    optimizer = torch.optim.SGD(module.train().parameters(), lr=0.05)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
    return module.eval()
