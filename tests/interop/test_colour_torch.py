"""Networks for colour images beside their authors' forward passes, written down in PyTorch; and to PyTorch and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from malade_ref.checks import InputError
from malade_ref.interop import from_torch, to_torch
from malade_ref.layers import PadChannels
from malade_ref.network import Network, cifar_resnet, conv_sdae, dncnn, madry_wide_resnet, resnet_v2, unet

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn, F = torch.nn, torch.nn.functional


class Weights:
    """A network's parameters in the order of its layers, for whoever computes the same."""

    def __init__(self, network: Network) -> None:
        self.leaves: Iterator[Any] = network.body.leaves()
        self.params = {name: torch.tensor(value) for name, value in network.params.items()}

    def __call__(self, kind: str, *names: str) -> list[Any]:
        for path, layer in self.leaves:
            if layer.kind == kind:
                return [self.params[f"{path}.{name}"] for name in names]
            assert not layer.parameter_shapes(), f"{kind} expected, {path} is {layer.kind}"
        raise AssertionError(f"no {kind} is left")

    def end(self) -> None:
        assert not any(layer.parameter_shapes() for _, layer in self.leaves)

    def conv(self, x: Any, stride: int = 1, padding: Any = None) -> Any:
        weight, bias = self("conv2d", "weight", "bias")
        return F.conv2d(x, weight, bias, stride, weight.shape[2] // 2 if padding is None else padding)

    def same_conv(self, x: Any, stride: int = 1) -> Any:
        """TensorFlow's SAME."""
        (weight, bias), pads = self("conv2d", "weight", "bias"), []
        for size, kernel in zip(reversed(x.shape[2:]), reversed(weight.shape[2:]), strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), weight, bias, stride)

    def norm(self, x: Any, eps: float = 1e-5) -> Any:
        gain, bias, mean, variance = self("batch_norm", "gain", "bias", "mean", "variance")
        return F.batch_norm(x, mean, variance, gain, bias, eps=eps)

    def linear(self, x: Any) -> Any:
        return F.linear(x, *self("linear", "weight", "bias"))


def centred(x: Any) -> Any:
    return (x - 0.5) / 0.25


def official_resnet(w: Weights, x: Any, blocks: int) -> Any:
    x = F.relu(w.norm(w.conv(centred(x))))
    for stage in range(3):
        for number in range(blocks):
            stride = 2 if stage and not number else 1
            y = F.relu(w.norm(w.conv(x, stride)))
            y = w.norm(w.conv(y))
            x = F.relu(y + (x if number else w.norm(w.conv(x, stride))))
    return w.linear(x.mean((2, 3)))


def of_madry(w: Weights, x: Any, units: int) -> Any:
    x = w.same_conv(centred(x))
    for stage in range(3):
        for number in range(units):
            stride = 2 if stage and not number else 1
            before = x
            x = F.leaky_relu(w.norm(x, 1e-3), 0.1)
            if not stage and not number:
                before = x
            y = w.same_conv(x, stride)
            y = w.same_conv(F.leaky_relu(w.norm(y, 1e-3), 0.1))
            if before.shape[1] != y.shape[1]:
                pad = (y.shape[1] - before.shape[1]) // 2
                before = F.pad(F.avg_pool2d(before, stride), (0, 0, 0, 0, pad, pad))
            x = before + y
    return w.linear(F.leaky_relu(w.norm(x, 1e-3), 0.1).mean((2, 3)))


def slim_resnet_v2(w: Weights, x: Any, units: int) -> Any:
    x = F.max_pool2d(w.conv(centred(x), 2), 3, 2, 1)
    for stage in range(4):
        for number in range(units):
            stride = 2 if number == units - 1 and stage < 3 else 1
            active = F.relu(w.norm(x))
            y = F.relu(w.norm(w.conv(active)))
            y = w.conv(F.relu(w.norm(w.conv(y, stride))))
            x = y + (x[:, :, ::stride, ::stride] if number else w.conv(active, stride))
    return w.linear(F.relu(w.norm(x)).mean((2, 3)))


def table_6(w: Weights, x: Any) -> Any:
    x = torch.tanh(w.same_conv(torch.tanh(w.same_conv(x, 2)), 2))
    for kernel in (9, 1):
        weight, bias = w("conv_transpose2d", "weight", "bias")
        whole = F.conv_transpose2d(x, weight, bias, stride=2, output_padding=1)
        crop = max(kernel - 2, 0) // 2
        x = torch.tanh(whole[:, :, crop:, crop:][:, :, : 2 * x.shape[2], : 2 * x.shape[3]])
    return w.same_conv(x)


def without_bottleneck(w: Weights, x: Any, depth: int) -> Any:
    y = x
    for number in range(depth):
        y = w.conv(F.relu(y) if number else y)
    return x + y


def u_net(w: Weights, x: Any, depth: int) -> Any:
    def level(x: Any, below: int) -> Any:
        if not below:
            return F.relu(w.conv(x))
        y = level(F.relu(w.conv(x, 2)), below - 1)
        y = F.conv_transpose2d(y, *w("conv_transpose2d", "weight", "bias"), stride=2)
        return F.relu(w.conv(torch.cat([x, y], 1)))

    return x + w.conv(level(F.relu(w.conv(x)), depth))


CASES: dict[str, tuple[Network, Any]] = {
    "cifar-resnet": (cifar_resnet((3, 8, 8), 5, depth=14, width=2), lambda w, x: official_resnet(w, x, 2)),
    "madry-wide-resnet": (madry_wide_resnet((3, 8, 8), 5, depth=14, width=2), lambda w, x: of_madry(w, x, 2)),
    "madry without width": (madry_wide_resnet((3, 8, 8), 5, depth=8, width=1), lambda w, x: of_madry(w, x, 1)),
    "resnet-v2, 14": (resnet_v2((3, 32, 32), 5, depth=14, width=2), lambda w, x: slim_resnet_v2(w, x, 1)),
    "resnet-v2, 26": (resnet_v2((3, 32, 32), 5, depth=26, width=2), lambda w, x: slim_resnet_v2(w, x, 2)),
    "conv-sdae": (conv_sdae((3, 8, 12), width=3), table_6),
    "dncnn": (dncnn((3, 7, 5), depth=4, width=3), lambda w, x: without_bottleneck(w, x, 4)),
    "unet": (unet((3, 8, 16), depth=3, width=2), lambda w, x: u_net(w, x, 3)),
}


def general(network: Network) -> Network:
    """In double precision, with running statistics and biases that are not what they begin as."""
    rng = np.random.default_rng(3)
    network = network.astype("float64")
    params = {
        name: value if name.endswith("weight") else value + 0.3 * rng.random(value.shape)
        for name, value in network.params.items()
    }
    return network.replace_params(params)


@pytest.mark.parametrize("name", CASES)
def test_what_their_authors_compute(name: str) -> None:
    network, theirs = general(CASES[name][0]), CASES[name][1]
    x = torch.rand(2, *network.input_shape, dtype=torch.float64, requires_grad=True)
    weights = Weights(network)
    expected = theirs(weights, x)
    weights.end()
    y, tape = network.forward(x.detach().numpy())
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    assert float(expected.detach().std()) > 1e-3
    dy = torch.randn(expected.shape, dtype=torch.float64)
    expected.backward(dy)
    dx, _ = network.backward(tape, dy.numpy())
    np.testing.assert_allclose(dx, x.grad.numpy(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_to_pytorch_and_back(name: str) -> None:
    network = general(CASES[name][0])
    module = to_torch(network)
    x = torch.rand(2, *network.input_shape, dtype=torch.float64)
    expected = network.forward(x.numpy())[0]
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-9, atol=1e-9)
    again = from_torch(module, network.input_shape)
    assert again.num_parameters == network.num_parameters
    np.testing.assert_allclose(again.forward(x.numpy())[0], expected, rtol=1e-9, atol=1e-9)


class Padded(nn.Module):
    """A stranger's shortcut, with channels of zeros."""

    def __init__(self, *pads: int) -> None:
        super().__init__()
        self.pads = pads

    def forward(self, x: Any) -> Any:
        return F.pad(x, self.pads)


@pytest.mark.parametrize("pads", [(0, 0, 0, 0, 1, 2), (0, 0, 0, 0, 0, 1)])
def test_channels_of_zeros_are_read(pads: tuple[int, ...]) -> None:
    module = nn.Sequential(Padded(*pads), nn.Conv2d(2 + pads[4] + pads[5], 2, 1)).eval()
    network = from_torch(module, (2, 3, 4))
    assert network.layers[0] == PadChannels(*pads[4:])
    x = torch.rand(2, 2, 3, 4)
    np.testing.assert_allclose(network.forward(x.numpy())[0], module(x).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("pads", "message"),
    [((1, 1, 0, 0, 1, 1), "zeros around pixels and channels"), ((0, 0, 0, 0, -1, 0), "channels cut off")],
)
def test_channels_that_cannot_be_read(pads: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        from_torch(Padded(*pads).eval(), (2, 3, 4))
    assert "\n" not in str(error.value)
