"""Networks from and to PyTorch: same outputs, same gradients, and complaints that name what cannot be carried over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.checks import InputError
from malade_ref.interop import from_torch, to_torch
from malade_ref.layers import AvgPool2d, BatchNorm, Conv2d, ConvTranspose2d, Flatten, Layer, Linear, ReLU, Reshape, Tanh
from malade_ref.network import Network, build, cnn, mlp, sdae
from tests.strategies import DTYPES, ConvCase, conv_cases
from tests.tolerances import assert_close

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn
torch.set_num_threads(1)  # tensors are tiny here, and threads would only wait for each other


def rng() -> np.random.Generator:
    return np.random.default_rng(8)


def general(network: Network) -> Network:
    """The network with biases and statistics in general position."""
    random = rng()
    params = {
        name: value + (0.2 * random.random(value.shape)).astype(value.dtype) if not name.endswith("weight") else value
        for name, value in network.params.items()
    }
    return network.replace_params(params)


def assert_alike(network: Network, module: Any, n: int = 3) -> None:
    """Outputs, and gradients of a random combination of them with respect to the input, to 1e-5 (float32)."""
    x = rng().random((n, *network.input_shape)).astype(network.dtype)
    theirs = torch.tensor(x, requires_grad=True)
    y = module(theirs)
    ours, tape = network.forward(x)
    assert_close(ours, y.detach().numpy(), op="network", dtype=network.dtype)
    dy = rng().standard_normal(ours.shape).astype(network.dtype)
    y.backward(torch.tensor(dy))
    dx, _ = network.backward(tape, dy)
    assert_close(dx, theirs.grad.numpy(), op="network", dtype=network.dtype)


def kinds(module: Any) -> list[str]:
    return [type(child).__name__ for child in module]


# The paper's networks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("preset", ["paper", "small"])
@pytest.mark.parametrize("make", [cnn, sdae])
def test_round_trip_from_here(make: Any, preset: str, dtype: str) -> None:
    network = general(make(preset, dtype=dtype))
    module = to_torch(network)
    assert not module.training
    assert_alike(network, module)
    again = from_torch(module, network.input_shape)
    assert again.dtype == dtype
    assert [layer.kind for layer in again.layers] == [layer.kind for layer in network.layers]
    assert all(np.array_equal(again.params[name], network.params[name]) for name in network.params)
    assert_alike(again, module)


def torch_cnn() -> Any:
    """Table 5 as one writes it in PyTorch."""
    return nn.Sequential(
        nn.Conv2d(1, 128, 3, padding="same"),
        nn.ReLU(inplace=True),
        nn.ZeroPad2d((1, 2, 1, 2)),
        nn.Conv2d(128, 64, 5, stride=2),
        nn.ReLU(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def torch_sdae() -> Any:
    """Table 6, nested, with another way to come from 7 to 14 than this package's own."""
    encoder = nn.Sequential(
        nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(1, 10, 5, 2), nn.Tanh(),
        nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(10, 25, 5, 2), nn.Tanh(), nn.Identity(),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.ConvTranspose2d(25, 10, 9, 2, padding=4, output_padding=1), nn.Tanh(),
        nn.ConvTranspose2d(10, 1, 1, 2, output_padding=1), nn.Tanh(),
    )  # fmt: skip
    return nn.Sequential(encoder, decoder, nn.Conv2d(1, 1, 5, padding=2), nn.Tanh())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [torch_cnn, torch_sdae])
def test_round_trip_from_there(make: Any, dtype: Any) -> None:
    torch.manual_seed(0)
    module = make().to(dtype).eval()
    network = from_torch(module, (1, 28, 28))
    assert_alike(network, module)
    again = to_torch(network)
    x = torch.rand(2, 1, 28, 28, dtype=dtype)
    torch.testing.assert_close(again(x), module(x))
    assert network.num_parameters == sum(p.numel() for p in module.parameters())
    reference = cnn() if make is torch_cnn else sdae()
    assert network.num_parameters == reference.num_parameters
    assert network.output_shape == reference.output_shape
    assert network.metadata == {"network": "from PyTorch"}


def test_training_in_one_is_not_training_in_the_other() -> None:
    network = cnn("small")
    before = network.params["0.weight"].copy()
    module = to_torch(network)
    again = from_torch(module, (1, 28, 28))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 1
    assert np.array_equal(network.params["0.weight"], before)
    assert np.array_equal(again.params["0.weight"], before)


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    to_torch(sdae("small"))
    assert torch.equal(torch.get_rng_state(), state)


# Single layers ----------------------------------------------------------------------------------------------


def one_layer(layer: Layer, input_shape: Any, dtype: str = "float64") -> Network:
    return general(build([layer], input_shape, initialisation="glorot", dtype=dtype))


def convolution(case: ConvCase, *, transposed: bool) -> Network:
    a, b = case.weight.shape[:2]
    kernel: Any = case.weight.shape[2:]
    layer = (
        ConvTranspose2d(a, b, kernel, case.stride, case.padding, case.output_padding)
        if transposed
        else Conv2d(b, a, kernel, case.stride, case.padding)
    )
    return one_layer(layer, case.x.shape[1:])


@pytest.mark.parametrize("transposed", [False, True])
@given(st.data())
def test_every_convolution_there_and_back(transposed: bool, data: st.DataObject) -> None:
    """Strides, symmetric and asymmetric pads and crops, output paddings."""
    network = convolution(data.draw(conv_cases(transposed=transposed)), transposed=transposed)
    module = to_torch(network)
    assert_alike(network, module)
    again = from_torch(module, network.input_shape)
    assert_alike(again, module)
    assert len(again.layers) == 1
    assert kinds(to_torch(again)) == kinds(module)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(0, 2), st.booleans(), st.booleans())
def test_every_convolution_of_pytorch(k: int, s: int, p: int, op: int, bias: bool, transposed: bool) -> None:
    settings: Any = {"stride": (s, 1), "padding": (p, 1), "bias": bias}
    if transposed:
        module = nn.ConvTranspose2d(2, 3, (k, 3), output_padding=(min(op, s - 1), 0), **settings)
    else:
        module = nn.Conv2d(2, 3, (k, 3), **settings)
    network = from_torch(module.eval(), (2, 7, 6))
    assert_alike(network.astype("float64"), module.double())


def test_shapes_of_the_modules() -> None:
    assert kinds(to_torch(one_layer(Conv2d(1, 1, (5, 5)), (1, 8, 8)))) == ["Conv2d"]
    assert kinds(to_torch(one_layer(Conv2d(1, 1, (5, 5), (2, 2)), (1, 8, 8)))) == ["ZeroPad2d", "Conv2d"]
    assert kinds(to_torch(one_layer(ConvTranspose2d(1, 1, (9, 9), (2, 2)), (1, 7, 7)))) == [
        *("ConvTranspose2d", "ZeroPad2d")
    ]
    assert kinds(to_torch(one_layer(ConvTranspose2d(1, 1, (1, 1), (2, 2)), (1, 7, 7)))) == ["ConvTranspose2d"]


def test_the_other_layers() -> None:
    layers: list[Layer] = [
        AvgPool2d((2, 3)),
        BatchNorm(2, epsilon=1e-3, momentum=0.3),
        ReLU(),
        Flatten(),
        Linear(2 * 3 * 2, 8),
        BatchNorm(8),
        Tanh(),
        Reshape((2, 2, 2)),
        Reshape((1, 4, 2)),
        Conv2d(1, 2, (1, 2)),
    ]
    network = general(build(layers, (2, 6, 7), initialisation="glorot", dtype="float64"))
    module = to_torch(network)
    assert_alike(network, module)
    again = from_torch(module, (2, 6, 7))
    assert_alike(again, module)
    assert next(layer for layer in again.layers if isinstance(layer, BatchNorm)) == layers[1]
    # In training both take the statistics of the batch, and keep the same running averages.
    x = rng().random((5, 2, 6, 7))
    module.train()
    y, tape = network.forward(x, training=True)
    assert_close(y, module(torch.tensor(x)).detach().numpy(), op="network", scale=1)
    module.eval()
    assert_alike(network.replace_params({**network.params, **network.updated_buffers(tape)}), module)


def test_layers_that_do_nothing() -> None:
    module = nn.Sequential(
        *(nn.Identity(), nn.Dropout(0.3), nn.Dropout2d(), nn.ZeroPad2d(0), nn.Flatten(), nn.Linear(8, 3, bias=False)),
        *(nn.AlphaDropout(), nn.Flatten(), nn.BatchNorm1d(3, affine=False), nn.Sequential()),
    ).eval()
    network = from_torch(module, (2, 2, 2))
    assert [layer.kind for layer in network.layers] == ["flatten", "linear", "batch_norm"]
    assert_alike(network, module)


def test_pads_add_up() -> None:
    module = nn.Sequential(
        nn.ZeroPad2d((1, 0, 2, 0)), nn.Dropout(), nn.ZeroPad2d(1), nn.Conv2d(1, 1, 3, padding=(1, 0))
    ).eval()
    network = from_torch(module, (1, 4, 4))
    assert network.layers == (Conv2d(1, 1, (3, 3), (1, 1), ((4, 2), (2, 1))),)
    assert_alike(network, module)
    valid = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 2)), nn.Conv2d(1, 1, 3, padding="valid"))
    assert_alike(from_torch(valid, (1, 4, 4)), valid)


def test_crops_add_up() -> None:
    module = nn.Sequential(nn.ConvTranspose2d(1, 2, 5, 2, 1), nn.ZeroPad2d((-1, 0, 0, -2)), nn.ZeroPad2d(-1)).eval()
    network = from_torch(module, (1, 4, 4))
    assert network.layers == (ConvTranspose2d(1, 2, (5, 5), (2, 2), ((2, 4), (3, 2)), (0, 0)),)
    assert_alike(network, module)


def test_a_single_module_is_a_network() -> None:
    module = nn.Conv2d(1, 2, 3)
    assert_alike(from_torch(module, (1, 5, 5)), module)


def test_another_backend_computes() -> None:
    network = from_torch(nn.Linear(3, 2), (3,), ops=ops)
    assert network.ops is ops


# Complaints -------------------------------------------------------------------------------------------------


class Squared(nn.Module):  # type: ignore[misc,name-defined]
    def forward(self, x: Any) -> Any:
        return x * x


def hooked() -> Any:
    module = nn.Linear(784, 2)
    module.register_forward_hook(lambda *_: None)
    return module


def replaced() -> Any:
    module = nn.Sequential(nn.Flatten(), nn.Linear(784, 2))
    module[1].forward = lambda x: x[:, :2]
    return module


IMAGE = nn.Flatten()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.ReLU(), nn.SELU()), "1: SELU is not supported; supported are Sequential, AdaptiveAvgPool2d,"),
        (nn.Sequential(nn.Sequential(nn.ReLU(), nn.MaxPool1d(2))), "^0.1: MaxPool1d is not supported"),
        (nn.Sequential(nn.ReLU(), Squared()), "1: mul: products of two results are not supported"),
        (Squared(), "module: mul: products of two results"),
        (nn.Sequential(IMAGE, nn.Linear(784, 3), nn.Softmax(1)), "2: Softmax is not supported: a network gives logits"),
        (nn.ModuleList([nn.ReLU()]), "module: ModuleList is not supported"),
        (hooked(), "module: Linear has hooks"),
        (replaced(), "1: Linear has a forward of its own; write a class"),
        (nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect' is not supported"),
        (
            nn.ConvTranspose2d(1, 1, 3, groups=1, padding=2).half(),
            "expected float32 or float64 parameters, got float16",
        ),
        (nn.MaxPool2d(2, dilation=2), r"MaxPool2d: dilation=\(2, 2\) is not supported"),
        (nn.MaxPool2d(2, return_indices=True), "return_indices=True is not supported"),
        (nn.AvgPool2d(2, divisor_override=3), "divisor_override=3"),
        (nn.AvgPool2d(29), "module: AvgPool2d: avg_pool2d: tile"),
        (nn.Flatten(2), "Flatten: expected start_dim=1 and end_dim=-1, got start_dim=2, end_dim=-1"),
        (nn.Sequential(IMAGE, nn.Unflatten(1, (-1, 2))), "1: Unflatten: expected dim=1"),
        (nn.Unflatten(1, (1, 1)), "Unflatten: expected dim=1"),
        (nn.Sequential(IMAGE, nn.Unflatten(1, (5, 5))), "1: Unflatten: reshape: cannot make"),
        (nn.Linear(28, 3), r"module: Linear: linear: expected an input of shape \(28,\), got \(1, 28, 28\)"),
        (nn.Conv2d(3, 3, 3), r"Conv2d: conv2d: expected an input of shape \(3, 28, 28\)"),
        (nn.Conv2d(1, 3, 29), r"Conv2d: weight: kernel \(29, 29\) is larger"),
        (nn.Sequential(IMAGE, nn.Linear(784, 3), nn.Linear(3, 2).double()), "2: Linear: expected float32 parameters"),
        (nn.BatchNorm2d(1, track_running_stats=False).eval(), "track_running_stats=False is not supported"),
        (nn.BatchNorm2d(1, momentum=None).eval(), "momentum=None"),
        (nn.BatchNorm1d(1).eval(), r"BatchNorm1d: does not fit an input of shape \(1, 28, 28\)"),
        (nn.BatchNorm2d(1), "module: BatchNorm2d is in training mode; call module.eval"),
        (nn.Sequential(nn.Dropout()), "0: Dropout is in training mode"),
        (nn.Sequential(nn.ZeroPad2d(1), nn.ReLU()), "0: ZeroPad2d: must be followed by a Conv2d"),
        (nn.Sequential(nn.ReLU(), nn.ZeroPad2d(1)), "1: ZeroPad2d: must be followed by a Conv2d"),
        (nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(1, 1, 3, padding="same")), "0: ZeroPad2d: must be followed"),
        (nn.ZeroPad2d(-1), "module: ZeroPad2d: negative padding must come right after ConvTranspose2d"),
        (nn.Sequential(nn.ConvTranspose2d(1, 1, 3), nn.ReLU(), nn.ZeroPad2d(-1)), "2: ZeroPad2d: negative"),
        (nn.Sequential(nn.ConvTranspose2d(1, 1, 3), nn.ZeroPad2d((-1, 1, 0, 0))), "1: ZeroPad2d: negative"),
        (nn.Sequential(nn.ConvTranspose2d(1, 1, 3), nn.ZeroPad2d(-15)), "1: ZeroPad2d: padding: the transposed"),
        ("resnet18", "module: expected a torch.nn.Module, got str"),
    ],
)
def test_complaints(module: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_torch(module, (1, 28, 28))
    assert "\n" not in str(caught.value)


def test_layers_without_counterpart() -> None:
    class Sine(Layer):
        kind = "sine"

    with pytest.raises(InputError, match="sine: has no counterpart"):
        to_torch(Network([Sine()], {}, (1, 2, 2)))


def test_residual_networks() -> None:
    network = general(mlp((2,), 2, residual=True, dtype="float64"))
    module = to_torch(network)
    assert_alike(network, module)
    again = from_torch(module, (2,))
    assert [layer.kind for layer in again.layers] == ["residual"]
    assert_alike(again, module)


def test_input_shapes_are_checked() -> None:
    with pytest.raises(InputError, match="input_shape: expected an integer >= 1"):
        from_torch(nn.ReLU(), (1, 0, 3))
