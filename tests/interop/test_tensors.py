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
        (x.to("meta"), r"^x: the tensor on meta cannot be taken over .*; move it to where the model is$"),
        ([1, 2], "expected a NumPy array, got list"),
    ):
        with pytest.raises(InputError, match=message):
            model.purify(bad)
    with pytest.raises(InputError, match=r"^y: label 10 "):
        model.loss_gradient(x, y + 8)
