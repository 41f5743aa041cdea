"""Modules with branches, functions and repetitions, as people write them in PyTorch, there and back."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from malade_ref.checks import InputError
from malade_ref.interop import from_torch, to_torch
from malade_ref.layers import Branches, GlobalAvgPool, Normalize, Residual
from malade_ref.network import Network, resnet, wide_resnet
from tests.tolerances import assert_close
from tests.torch_networks import CifarResNet, WideResNet, random_statistics

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn, F = torch.nn, torch.nn.functional
torch.set_num_threads(1)


def prepared(module: Any) -> Any:
    """In float64 and at test, with weights and running statistics in general position."""
    generator = torch.Generator().manual_seed(7)
    module = random_statistics(module.double())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def assert_alike(network: Network, module: Any, x: Any) -> None:
    theirs = torch.tensor(x, requires_grad=True)
    y = module(theirs + 0)  # a module may change its input in place
    ours, tape = network.forward(x)
    assert_close(ours, y.detach().numpy(), op="network", dtype="float64")
    dy = np.random.default_rng(3).standard_normal(ours.shape)
    y.backward(torch.tensor(dy))
    dx, _ = network.backward(tape, dy)
    assert_close(dx, theirs.grad.numpy(), op="network", dtype="float64")


def both_ways(module: Any, input_shape: tuple[int, ...]) -> Network:
    """There, back, and there again: the same function each time."""
    module = prepared(module)
    network = from_torch(module, input_shape)
    x = np.random.default_rng(2).standard_normal((3, *input_shape))
    assert_alike(network, module, x)
    back = to_torch(network)
    assert_alike(network, back, x)
    again = from_torch(back, input_shape)
    assert repr(again) == repr(network)
    assert all(np.array_equal(again.params[name], value) for name, value in network.params.items())
    return network


# Whole networks -------------------------------------------------------------------------------------------------


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 5), nn.Conv2d(4, 6, 5)
        self.fc1, self.fc2 = nn.Linear(6 * 4 * 4, 12), nn.Linear(12, 10)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(torch.relu(self.conv2(x)), (2, 2))
        x = x.reshape(-1, 6 * 4 * 4)
        return self.fc2(F.relu(self.fc1(x)))


class Separable(nn.Module):
    """An inverted residual: wide, depthwise, narrow."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        wide = 3 * channels
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True)),
            *(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )
        self.stride = stride

    def forward(self, x: Any) -> Any:
        return x + self.body(x) if self.stride == 1 else self.body(x)


def mobile() -> Any:
    first = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Hardtanh(0, 6))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 10))
    return nn.Sequential(first, Separable(4), Separable(4, stride=2), Separable(4), head)


@pytest.mark.parametrize(
    ("make", "input_shape"),
    [
        (lambda: CifarResNet(2, (2, 2, 2, 2)), (3, 8, 8)),
        (lambda: WideResNet(28, 2, 2), (3, 8, 8)),
        (LeNet, (1, 28, 28)),
        (mobile, (3, 9, 10)),
    ],
    ids=["resnet18", "wide resnet 28-2", "lenet", "mobile"],
)
def test_whole_networks(make: Any, input_shape: tuple[int, ...]) -> None:
    network = both_ways(make(), input_shape)
    assert network.output_shape == (10,)


@pytest.mark.parametrize(
    "network",
    [
        resnet((3, 8, 8), 10, depth=8, channels=2, normalize=((0.4, 0.5, 0.3), (0.2, 0.3, 0.2)), dtype="float64"),
        wide_resnet((3, 8, 8), 10, depth=10, width=2, channels=2, dtype="float64"),
    ],
    ids=["resnet", "wide resnet"],
)
def test_networks_of_this_package(network: Network) -> None:
    again = both_ways(to_torch(network), network.input_shape)
    assert again.params.keys() == network.params.keys()


def test_the_modules_are_copied_and_pickled() -> None:
    module = to_torch(resnet((3, 8, 8), 3, depth=8, channels=2, normalize=((0.4,) * 3, (0.2,) * 3)))
    x = torch.rand(2, 3, 8, 8)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x))


# Repetitions ----------------------------------------------------------------------------------------------------


def repeated_linear() -> Any:
    linear, act = nn.Linear(4, 4), nn.Tanh()
    return nn.Sequential(nn.Flatten(), linear, act, linear, act, nn.Linear(4, 4), act, linear)


def repeated_block() -> Any:
    block = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(1))
    return nn.Sequential(block, nn.Sequential(block, block), nn.Conv2d(1, 2, 1), nn.Flatten())


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 3, 3, padding=1), nn.ReLU()
        self.ways = nn.ModuleDict({"plain": nn.Identity(), "smooth": nn.AvgPool2d(3, 1, 1)})

    def forward(self, x: Any) -> Any:
        y = torch.cat([self.act(self.conv(way(x))) for way in self.ways.values()], dim=1)
        return self.act(y).flatten(1)


class Looped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Any) -> Any:
        x = torch.flatten(x, 1)
        for _ in range(2):
            for linear in self.inner:
                x = x + linear(x).tanh()
        return x


@pytest.mark.faults
@pytest.mark.parametrize("make", [repeated_linear, repeated_block, Siamese, Looped])
def test_what_stands_several_times_is_applied_each_time(make: Any) -> None:
    both_ways(make(), (1, 2, 2))


# What is changed in place ---------------------------------------------------------------------------------------


class ChangedBefore(nn.Module):
    """The shortcut comes after an activation in place, and so does what it adds."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))
        self.first = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        return self.body(x) + x


class AddedInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        y = self.a(x)
        same = y
        y += x
        y.mul_(0.5)
        return same - self.b(y.clone().tanh_())


class ChangedView(nn.Module):
    def forward(self, x: Any) -> Any:
        x = x + 0.25
        x.flatten(1).relu_()
        return x


@pytest.mark.faults
@pytest.mark.parametrize(("make", "shape"), [(ChangedBefore, (4,)), (AddedInPlace, (4,))])
def test_what_is_changed_in_place_is_changed_for_all(make: Any, shape: tuple[int, ...]) -> None:
    module = prepared(make())
    if make is AddedInPlace:
        with pytest.raises(InputError, match="sub: factors below 0 are supported for images only"):
            from_torch(module, shape)
        return
    both_ways(module, shape)


def test_views_that_are_changed_in_place_are_refused() -> None:
    with pytest.raises(InputError, match="module: relu_: changes in place what is used again in another shape"):
        from_torch(ChangedView(), (1, 2, 2))


# Functions, sums and joins --------------------------------------------------------------------------------------


class Calls(nn.Module):
    """Any function of x, and modules for it to use."""

    def __init__(self, function: Any, **modules: Any) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)
        self.register_buffer("mean", torch.tensor([0.25, 0.5]).reshape(2, 1, 1))

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


CONV = {"conv": nn.Conv2d(2, 2, 3, padding=1)}
FUNCTIONS: dict[str, Any] = {
    "relu": lambda m, x: F.relu(x),
    "gelu": lambda m, x: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "silu, elu": lambda m, x: F.silu(x) + F.elu(x, 0.7),
    "sigmoid, tanh": lambda m, x: x.sigmoid() + torch.tanh(x),
    "leaky relu, softplus": lambda m, x: F.leaky_relu(x, 0.2) + F.softplus(x, 2, 3),
    "relu6, clamp": lambda m, x: F.relu6(8 * x) + x.clamp(-0.5, 0.25) + torch.clamp(x, min=0),
    "max pool": lambda m, x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "avg pool": lambda m, x: F.avg_pool2d(x, (2, 3), stride=1, padding=(1, 1), count_include_pad=False),
    "adaptive pools": lambda m, x: F.adaptive_avg_pool2d(x, (2, None)).flatten(1) if m else x,
    "global pools": lambda m, x: F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, 1),
    "mean and squeeze": lambda m, x: x.mean([-1, -2], keepdim=True).squeeze(-1).squeeze(2),
    "upsampling": lambda m, x: F.interpolate(x, scale_factor=2) + F.interpolate(
        x, size=(12, 10), mode="bilinear", align_corners=False
    ),
    "norms": lambda m, x: F.layer_norm(x, x.shape[1:]) + F.group_norm(x, 1) + F.instance_norm(x),
    "a sum of three": lambda m, x: x + m.conv(x) + F.relu(x),
    "builtin sum": lambda m, x: sum([m.conv(x), F.relu(x), x]),
    "doubled": lambda m, x: x + x,
    "alpha": lambda m, x: torch.add(x, m.conv(x), alpha=0.5),
    "difference": lambda m, x: m.conv(x) - F.relu(x),
    "constants": lambda m, x: (x - m.mean) / (2 * m.mean) * 0.5 + 1 - 0.25,
    "one minus": lambda m, x: m.conv(1 - x),
    "joined": lambda m, x: torch.cat((x, m.conv(x), x), 1),
    "joined again": lambda m, x: torch.cat([torch.cat([x, m.conv(x)], 1), F.relu(x)], dim=-3),
    "sizes": lambda m, x: x.view(x.shape[0], x.size(1) * x.shape[2], -1)[0:1] if m is None else x.view(x.size()[0], -1),
    "pads": lambda m, x: m.conv(F.pad(x, (1, 0, 2, 1))),
    "folded weights": lambda m, x: F.conv2d(x, m.conv.weight * 0.5, m.conv.bias.abs(), padding=1),
    "branches in branches": lambda m, x: x + F.relu(m.conv(x) + torch.cat([x[:, :], x], 1) if m is None else m.conv(x)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    both_ways(Calls(FUNCTIONS[name], **copy.deepcopy(CONV)), (2, 6, 5))


class Dense(nn.Module):
    """Every layer gets all that came before it."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(1 + number, 1, 3, padding=1) for number in range(depth))

    def forward(self, x: Any) -> Any:
        features = [x]
        for conv in self.convs:
            features.append(F.relu(conv(torch.cat(features, 1))))
        return torch.cat(features, 1)


def test_dense_connections_are_not_multiplied() -> None:
    network = both_ways(Dense(6), (1, 4, 4))
    assert network.num_parameters == sum(parameter.numel() for parameter in Dense(6).parameters())


def test_branches_that_share_without_end_are_refused() -> None:
    def tangled(module: Any, x: Any) -> Any:
        a, b = x, F.relu(x)
        for _ in range(20):
            a, b = F.relu(a + b), torch.tanh(a + b) + a
        return a + b

    with pytest.raises(InputError, match="share so much that more than 10000 layers would come of it"):
        from_torch(Calls(tangled), (2, 3, 3))


class OwnConv(nn.Conv2d):
    pass


class Doubled(nn.Sequential):
    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "module",
    [
        OwnConv(2, 3, 3, padding=1),
        Doubled(nn.ReLU()),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3)),
        nn.Conv2d(2, 4, 3, groups=2, dilation=2, padding="same"),
        nn.ConvTranspose2d(2, 4, 3, stride=2, groups=2, dilation=2, padding=1, output_padding=1),
        nn.MaxPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.AdaptiveMaxPool2d(1),
        nn.Upsample(scale_factor=2),
        nn.Upsample(size=(7, 9), mode="bilinear", align_corners=True),
        nn.Sequential(nn.LeakyReLU(0.3), nn.ELU(0.5), nn.SiLU(), nn.GELU("tanh"), nn.Softplus(), nn.Hardtanh(-2, 0.5)),
        nn.Sequential(nn.PReLU(), nn.PReLU(2), nn.Sigmoid()),
        nn.Sequential(nn.GroupNorm(1, 2), nn.GroupNorm(2, 2, affine=False), nn.LayerNorm((2, 6, 5)), nn.LayerNorm(5)),
        nn.LayerNorm([6, 5], bias=False),
        nn.Sequential(nn.InstanceNorm2d(2), nn.InstanceNorm2d(2, affine=True)),
        nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
        nn.BatchNorm2d(2, affine=False),
    ],
    ids=lambda module: f"{type(module).__name__} {len(list(module.children()))}",
)
def test_modules(module: Any) -> None:
    both_ways(module, (2, 6, 5))


def test_structure() -> None:
    """Sums of two become residual blocks, others branches; global means are one layer."""
    block = Calls(lambda m, x: torch.cat([x + m.conv(x), x], 1).mean((2, 3)), conv=nn.Conv2d(2, 2, 1))
    network = from_torch(block.eval(), (2, 4, 4))
    join, mean = network.layers
    assert isinstance(join, Branches)
    assert join.join == "concat"
    assert isinstance(join.branches[0][0], Residual)
    assert mean == GlobalAvgPool()
    assert list(network.params) == ["0.0.0.body.0.weight", "0.0.0.body.0.bias"]
    scaled = from_torch(Calls(lambda m, x: (x - m.mean) / 0.5), (2, 4, 4))
    assert scaled.layers == (Normalize((0.25, 0.5), (0.5, 0.5)),)


# Complaints -----------------------------------------------------------------------------------------------------


class Decides(nn.Module):
    def forward(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


class Contains(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.itself = self

    def forward(self, x: Any) -> Any:
        return self.itself(x)


def calling(function: Any) -> Any:
    return Calls(function, **copy.deepcopy(CONV))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.ReLU(), Decides()), "module: Sequential cannot be traced: TraceError"),
        (calling(lambda m, x: x.sort()), "module: sort is not supported"),
        (calling(lambda m, x: m.conv(x) * x), "module: mul: products of two results are not supported"),
        (calling(lambda m, x: 1 / x), "module: truediv: division by a result"),
        (calling(lambda m, x: x + torch.ones(6, 5).tril()), "module: add: a constant must be one number a channel"),
        (calling(lambda m, x: x + torch.ones(3)), r"module: add: a constant of shape \(3,\) does not fit"),
        (calling(lambda m, x: x + x.mean((2, 3), keepdim=True)), "module: add: expected results of one shape"),
        (calling(lambda m, x: torch.cat([x, x], 2)), r"module: cat: expected dim=1 \(channels\), got 2"),
        (calling(lambda m, x: torch.cat([x, F.max_pool2d(x, 2)], 1)), "cat: expected results that differ in channels"),
        (calling(lambda m, x: x.view(1, -1)), "module: view: cannot make .* samples must stay apart"),
        (calling(lambda m, x: x.view(-1)), "module: view: cannot make"),
        (calling(lambda m, x: x.view(x.size(0) // 2, -1)), "module: floordiv: cannot be computed"),
        (calling(lambda m, x: x.transpose(1, 2)), "module: transpose is not supported"),
        (calling(lambda m, x: F.dropout(x)), "module: dropout is in training mode"),
        (calling(lambda m, x: F.softmax(x.flatten(1), 1)), "module: softmax is not supported: a network gives logits"),
        (calling(lambda m, x: F.interpolate(x, scale_factor=1.5)), r"interpolate: scale_factor=1.5 is not supported"),
        (calling(lambda m, x: F.interpolate(x, size=4, mode="bicubic")), "mode='bicubic' is not supported"),
        (calling(lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect")), "pad: mode='reflect' is not supported"),
        (calling(lambda m, x: F.relu(F.pad(x, (1, 1)))), "module: pad: must be followed by a Conv2d"),
        (calling(lambda m, x: (x, x)), "module: expected forward to return one tensor of its input, got tuple"),
        (calling(lambda m, x: F.conv2d(x, x)), "conv2d: expected parameters that do not depend on the input"),
        (calling(lambda m, x: torch.fft.fft(x)), "module: fft_fft is not supported"),
        (nn.Sequential(nn.ReLU(), nn.Sequential(calling(lambda m, x: m.conv(x).cumsum(1)))), "1.0: cumsum is not"),
        (nn.MultiheadAttention(4, 2), "module: MultiheadAttention is not supported"),
    ],
)  # fmt: skip
def test_complaints(module: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_torch(module.eval(), (2, 6, 5))
    assert "\n" not in str(caught.value)
    said, hint = str(caught.value), "; or take it as it is, with malade_ref.interop.wrap"
    assert said.endswith(hint) != ("training mode" in said)
    assert "wrap" not in said.removesuffix(hint)  # fx's own


def test_a_module_that_contains_itself() -> None:
    with pytest.raises(InputError, match="module: Contains cannot be traced: RecursionError"):
        from_torch(Contains(), (2, 6, 5))


def test_mixed_precisions_are_refused() -> None:
    module = Calls(lambda m, x: m.a(x) + m.b(x), a=nn.Conv2d(2, 2, 1), b=nn.Conv2d(2, 2, 1).double())
    with pytest.raises(
        InputError, match=r"b: Conv2d: expected float32 parameters, got float64; convert with module.to"
    ):
        from_torch(module, (2, 3, 3))


def relu(x: Any) -> Any:
    """Of the same name as PyTorch's."""
    return x * x


torch.fx.wrap("relu")


def test_a_function_of_the_same_name_is_another_one() -> None:
    with pytest.raises(InputError, match="module: relu is not supported"):
        from_torch(calling(lambda m, x: relu(x)), (2, 3, 3))
