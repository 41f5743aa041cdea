"""A defended model as a module of PyTorch: the exact gradient of the chain, on the same or on fresh noise."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from malade_ref import MALADE, cnn, sdae
from malade_ref.checks import InputError
from malade_ref.interop import as_torch_module, to_torch, wrap
from malade_ref.interop.torch_module import STREAM
from malade_ref.layers import Flatten, Linear, Reshape, Tanh
from malade_ref.network import build
from malade_ref.sampling import Stream

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

SHAPE = (1, 2, 3)


def smooth(dtype: str, *, wrapped: bool = False) -> Any:
    """A defence whose derivatives exist everywhere."""
    made: dict[str, Any] = {"initialisation": "glorot", "dtype": dtype}
    classifier = build((Flatten(), Linear(6, 5), Tanh(), Linear(5, 3)), SHAPE, seed=1, **made)
    denoiser = build((Flatten(), Linear(6, 6), Tanh(), Reshape(SHAPE)), SHAPE, seed=2, **made)
    if wrapped:
        classifier = wrap(to_torch(classifier), input_shape=SHAPE)
    return MALADE(classifier, denoiser, num_steps=3, a=0.3, delta=0.01, clip=False, seed=1)


def images(n: int = 2, dtype: str = "float64") -> Any:
    x = torch.rand((n, *SHAPE), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (0.2 + 0.6 * x).to(getattr(torch, dtype))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("num_draws", [1, 3])
def test_the_jacobian_is_exact(wrapped: bool, num_draws: int) -> None:
    module = as_torch_module(smooth("float64", wrapped=wrapped), num_draws=num_draws, seed=4)
    assert torch.autograd.gradcheck(module, (images().requires_grad_(),), eps=1e-6, atol=1e-7, rtol=1e-5)


def test_that_check_sees_a_wrong_gradient() -> None:
    """BPDA's, which lets a gradient through the chain unchanged."""
    model = smooth("float64")
    module = as_torch_module(model)
    x = images().requires_grad_()
    exact = torch.autograd.grad(module(x)[:, 0].sum(), x)[0]
    purified = model.purify(x.detach().numpy(), stream=Stream(0, STREAM))
    _, tape = model.classifier.forward(purified)
    unchanged, _ = model.classifier.backward(tape, np.eye(3)[[0, 0]])
    assert abs(exact.numpy() - unchanged).max() > 0.01 * exact.abs().max()


@pytest.mark.parametrize("kind", ["network", "wrapped"])
@pytest.mark.parametrize("num_draws", [1, 4])
def test_gradients_are_ours(kind: str, num_draws: int) -> None:
    classifier = cnn("small")
    classifier = classifier if kind == "network" else wrap(to_torch(classifier), input_shape=(1, 28, 28))
    model = MALADE(classifier, sdae("small"), num_steps=2, a=0.5, delta=0.1)
    x = torch.rand((3, 1, 28, 28), generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.arange(3)
    module = as_torch_module(model, num_draws=num_draws, seed=7)
    loss = torch.nn.functional.cross_entropy(module(x), y, reduction="sum")
    (found,) = torch.autograd.grad(loss, x)
    stream = Stream(7, STREAM)
    asked: dict[str, Any] = {"num_draws": num_draws, "stream": stream, "expectation": "logits"}
    ours = model.loss_gradient(x.detach().numpy(), y.numpy(), **asked)
    assert abs(found.numpy() - ours).max() <= 1e-4 * abs(ours).max()


def test_noise_that_stays_and_noise_that_is_fresh() -> None:
    model, x = smooth("float64"), images()
    fixed, fresh = as_torch_module(model, seed=2), as_torch_module(model, noise="fresh", num_draws=2, seed=2)
    assert torch.equal(fixed(x), fixed(x))
    first, second = fresh(x), fresh(x)
    assert not torch.equal(first, second)
    stream = Stream(2, STREAM)
    for number, found in enumerate((first, second)):
        expected = model.logits(x.numpy(), num_draws=2, first_draw=2 * number, stream=stream)
        np.testing.assert_array_equal(found.numpy(), expected)
    assert not np.array_equal(model.logits(x.numpy()), fixed(x).numpy())  # nobody's but the attacker's
    assert not torch.equal(as_torch_module(model, seed=3)(x), fixed(x))


@pytest.mark.parametrize("kind", ["defended", "wrapped", "network"])
def test_what_attacks_with_momentum_look_at(kind: str) -> None:
    """Images outside [0, 1] have logits and gradients, by the same formulas."""
    model, x = smooth("float64", wrapped=kind == "wrapped"), images()
    model = model.classifier if kind == "network" else model
    module = as_torch_module(model, num_draws=2, seed=3)
    out = (3 * x - 0.8).requires_grad_()
    assert out.min() < 0 < 1 < out.max()
    assert torch.autograd.gradcheck(module, (out,), eps=1e-6, atol=1e-7, rtol=1e-5)
    edge = x.clone()
    edge[0, 0, 0, 0] = 1.0
    beyond = edge.clone()
    beyond[0, 0, 0, 0] += 1e-12
    torch.testing.assert_close(module(beyond), module(edge), rtol=0, atol=1e-9)


def test_noise_that_is_shared_depends_on_the_image_alone() -> None:
    model, x = smooth("float64"), images(4)
    x[3] = x[0]
    module = as_torch_module(model, noise="shared", num_draws=2, seed=2)
    together = module(x)
    torch.testing.assert_close(together[0], together[3], rtol=0, atol=1e-12)
    torch.testing.assert_close(module(x.flip(0)), together.flip(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(module(x[1:2]), together[1:2], rtol=0, atol=1e-12)
    by_place = as_torch_module(model, num_draws=2, seed=2)(x)
    assert (by_place[0] - by_place[3]).abs().max() > 1e-4
    assert torch.autograd.gradcheck(module, (x[:2].requires_grad_(),), eps=1e-6, atol=1e-7, rtol=1e-5)


def test_the_way_back_takes_the_noise_of_its_own_call() -> None:
    model, x = smooth("float64"), images().requires_grad_()
    module = as_torch_module(model, noise="fresh")
    first = module(x)
    module(x)
    (found,) = torch.autograd.grad(first[:, 1].sum(), x)
    again = as_torch_module(model)
    (expected,) = torch.autograd.grad(again(x)[:, 1].sum(), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_tools_find_what_they_look_for() -> None:
    model = smooth("float32")
    module = as_torch_module(model)
    assert isinstance(module, torch.nn.Module)
    assert not module.training
    assert next(module.parameters()).device.type == "cpu"
    assert "MALADE" in repr(module)
    x = images(dtype="float64").requires_grad_()  # ART's boundary attack works in float64
    assert module(x).dtype == torch.float32
    assert torch.autograd.grad(module(x).sum(), x)[0].dtype == torch.float64
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module.train()):
        torch.testing.assert_close(other(x), module(x))
    inside = torch.nn.Sequential(module, torch.nn.Linear(3, 2))
    assert torch.autograd.grad(inside(x).sum(), x)[0].abs().max() > 0


def test_a_module_of_ours_can_be_wrapped_again() -> None:
    model, x = smooth("float32"), images(dtype="float32").numpy()
    again = wrap(as_torch_module(model), input_shape=SHAPE)
    stream: dict[str, Any] = {"stream": Stream(0, STREAM)}
    np.testing.assert_allclose(again.logits(x), model.logits(x, **stream), atol=1e-6)
    y = np.array([0, 2])
    np.testing.assert_allclose(again.loss_gradient(x, y), model.loss_gradient(x, y, **stream), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_draws": 0}, r"^num_draws: expected an integer >= 1"),
        ({"noise": "new"}, r"^noise: expected one of fixed, shared, fresh; got 'new'$"),
        ({"seed": -1}, r"^seed: expected"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        as_torch_module(smooth("float32"), **settings)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_done_is_said() -> None:
    module, x = as_torch_module(smooth("float32")), images(dtype="float32")
    for scaled in (255 * x, x - 2, torch.where(x == x.max(), torch.nan, x)):
        with pytest.raises(InputError, match=r"outside|not a number"):
            module(scaled)
    with pytest.raises(InputError, match="gradients of gradients"):
        torch.autograd.grad(module(x.requires_grad_()).sum(), x, create_graph=True)
    with pytest.raises(InputError, match=r"^model: expected a model of this package, got Linear"):
        as_torch_module(torch.nn.Linear(2, 2))


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, malade_ref.interop; sys.exit(bool({'torch', 'foolbox', 'art', 'onnxruntime'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="PyTorch cannot be imported"):
        as_torch_module(smooth("float32"))
