"""Tensors of PyTorch through models of either backend: the same memory on both sides."""

from __future__ import annotations

import os
import shutil
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import malade_ref
from malade_ref.checks import InputError
from malade_ref.interop import OnTensors
from malade_ref.layers import Flatten, Linear, Reshape, Tanh
from malade_ref.network import build

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture(params=["malade_ref", "malade_gpu"])
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A backend whose arrays lie on the CPU."""
    if request.param == "malade_ref":
        return malade_ref
    pytest.importorskip("numba", reason="malade_gpu needs Numba, which is not installed")
    if not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("the emulated device needs g++")
    monkeypatch.setenv("MALADE_GPU_EMULATE", "1")
    import malade_gpu

    return malade_gpu


def defended(package: ModuleType) -> Any:
    settings: dict[str, Any] = {"num_steps": 2, "a": 0.5, "delta": 0.1, "seed": 3}
    return package.MALADE(package.cnn("small"), package.sdae("small"), **settings)


def tensors(n: int = 3) -> tuple[Any, Any]:
    return torch.rand((n, 1, 28, 28), generator=torch.Generator().manual_seed(0)), torch.arange(n)


CALLS: dict[str, Any] = {
    "purify": {},
    "logits": {"num_draws": 2},
    "predict": {},
    "loss_gradient": {"mode": "bpda"},
}


@pytest.mark.parametrize("name", CALLS)
def test_tensors_in_and_out_without_a_copy(package: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model = defended(package)
    method, seen, given = getattr(model, name), [], []

    def spy(*arrays: Any, **settings: Any) -> Any:
        given.extend(array.ctypes.data for array in (*arrays, settings["sample_index"]))
        seen.append(method(*arrays, **settings))
        return seen[-1]

    monkeypatch.setattr(model, name, spy)
    x, y = tensors()
    index = torch.tensor([7, 0, 5])
    inputs = (x, y) if name == "loss_gradient" else (x,)
    before = x.clone()
    result = getattr(OnTensors(model), name)(*inputs, sample_index=index, **CALLS[name])
    assert given == [tensor.data_ptr() for tensor in (*inputs, index)]
    assert result.data_ptr() == seen[0].ctypes.data
    assert torch.equal(x, before)
    arrays = [tensor.numpy() for tensor in inputs]
    expected = getattr(defended(malade_ref), name)(*arrays, sample_index=np.array([7, 0, 5]), **CALLS[name])
    assert str(result.dtype) == f"torch.{expected.dtype}"
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_a_network_too(package: ModuleType) -> None:
    x, y = tensors()
    network = OnTensors(package.cnn("small"))
    x.requires_grad_()
    assert network.predict(x).tolist() == package.cnn("small").predict(package.ops.asarray(x.detach())).tolist()
    assert not network.loss_gradient(x, y).requires_grad
    with pytest.raises(InputError, match=r"^model: expected a MALADE, got Network, which has no purify$"):
        network.purify(x)


def test_complaints(package: ModuleType) -> None:
    model, (x, y) = OnTensors(defended(package)), tensors()
    for bad, message in (
        (x.half(), "expected float32 or float64, got float16"),
        (x + 1, "outside"),
        (x[0], "expected 4 axes"),
        (x.to("meta"), r"^x: the tensor on meta cannot be taken over .*; move it to where the model is"),
        ([1, 2], "expected a NumPy array, got list"),
    ):
        with pytest.raises(InputError, match=message):
            model.purify(bad)
    with pytest.raises(InputError, match=r"^y: label 10 "):
        model.loss_gradient(x, y + 8)


def smooth(package: ModuleType) -> tuple[Any, Any]:
    """A classifier and a denoiser in float64 whose derivatives exist everywhere."""
    shape = (1, 2, 3)
    layers = (Flatten(), Linear(6, 5), Tanh(), Linear(5, 3))
    back = (Flatten(), Linear(6, 6), Tanh(), Reshape(shape))
    settings: dict[str, Any] = {"initialisation": "glorot", "dtype": "float64", "ops": package.ops}
    return build(layers, shape, seed=1, **settings), build(back, shape, seed=2, **settings)


def through(package: ModuleType, what: str) -> Any:
    """A function of images that gradients can flow through."""
    classifier, denoiser = smooth(package)
    if what == "network":
        return OnTensors(classifier).logits
    model = OnTensors(package.MALADE(classifier, denoiser, num_steps=3, a=0.3, delta=0.01, clip=False, seed=1))
    index = torch.tensor([4, 2])
    if what == "purify":
        return lambda x: model.purify(x, sample_index=index, draw=1)
    return lambda x: model.logits(x, sample_index=index, num_draws=3, first_draw=1)


@pytest.mark.faults
@pytest.mark.parametrize("what", ["network", "purify", "logits"])
def test_gradients_flow_exactly(what: str) -> None:
    """Against finite differences, for every entry of the Jacobian."""
    x = torch.rand((2, 1, 2, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = (0.2 + 0.6 * x).requires_grad_()
    assert torch.autograd.gradcheck(through(malade_ref, what), (x,), eps=1e-6, atol=1e-7, rtol=1e-5)


def test_a_regularised_objective_reaches_the_images(package: ModuleType) -> None:
    model, (x, y) = defended(package), tensors()
    x.requires_grad_()
    logits = OnTensors(model).logits(x)
    (torch.nn.functional.cross_entropy(logits, y, reduction="sum") + 0.1 * x.square().sum()).backward()
    own = OnTensors(model).loss_gradient(x, y)
    np.testing.assert_allclose(x.grad, own + 0.2 * x.detach(), rtol=1e-4, atol=1e-6)
    assert OnTensors(model).predict(x).dtype == torch.int64


@pytest.mark.faults
def test_gradients_only_where_they_are_wanted(package: ModuleType) -> None:
    model, (x, _) = OnTensors(defended(package)), tensors()
    assert not model.logits(x).requires_grad
    x.requires_grad_()
    with torch.no_grad():
        assert not model.purify(x).requires_grad
    with pytest.raises(InputError, match=r"^x: gradients of gradients are not known; leave create_graph=True out$"):
        torch.autograd.grad(model.purify(x).sum(), x, create_graph=True)
    with pytest.raises(InputError, match=r"^x: the tensor on meta"):
        model.logits(torch.zeros(x.shape, device="meta", requires_grad=True))


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_derivatives_that_do_not_get_through_are_refused() -> None:
    model, (x, _) = OnTensors(defended(malade_ref)), tensors(2)
    transforms: dict[str, Any] = {
        "grad": lambda: torch.func.grad(lambda z: model.logits(z).sum())(x),
        "jvp": lambda: torch.func.jvp(model.logits, (x,), (x,)),
        "jacrev": lambda: torch.func.jacrev(model.purify)(x),
        "vmap": lambda: torch.func.vmap(lambda z: model.predict(z[None])[0])(x),
    }
    for name, transform in transforms.items():
        with pytest.raises(InputError, match=r"^x: torch\.func and forward derivatives do not get through"):
            pytest.fail(f"{name}: {transform()}")
    forward = torch.autograd.forward_ad
    with forward.dual_level(), pytest.raises(InputError, match="do not get through"):
        model.logits(forward.make_dual(x, x))
    with pytest.raises(InputError, match=r"^x: the tensor on cpu .*BFloat16.* in float32 or float64$"):
        model.logits(x.bfloat16())
