"""Anybody's model in the place of a network: the same answers, gradients, attacks and verdicts."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import malade_ref
from malade_ref import MALADE, attacks, sdae
from malade_ref import ops as ref_ops
from malade_ref.audit import eot_check, gradient_check
from malade_ref.certify import certify
from malade_ref.certify import predict as smoothed
from malade_ref.checks import InputError
from malade_ref.classes import class_names_of, with_class_names
from malade_ref.interop import OnTensors, Wrapped, from_torch, to_torch, wrap
from malade_ref.interop.classifier import Classifier
from malade_ref.layers import Flatten, Linear, Reshape, Tanh
from malade_ref.network import Network, build
from malade_ref.training import Distillation, SupervisedDenoising, fit

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn, F = torch.nn, torch.nn.functional

SHAPE = (2, 4, 4)
MEAN, STD = [0.5, 0.4], [0.25, 0.2]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALADE_NUM_THREADS", "1")
    torch.set_num_threads(1)


class Small(nn.Module):  # type: ignore[misc]
    """Convolution, normalisation, a residual branch, pooling by a function; from_torch reads it, too."""

    def __init__(self, *, softmax: bool = False, scaled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.branch, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(16, 3)
        self.norm.running_mean += 0.1
        self.norm.running_var *= 1.5
        self.softmax, self.scaled = softmax, scaled
        self.eval()

    def forward(self, x: Any) -> Any:
        if self.scaled:
            x = (x - torch.tensor(MEAN).reshape(2, 1, 1)) / torch.tensor(STD).reshape(2, 1, 1)
        y = F.relu(self.norm(self.conv(x)))
        z = self.head(F.max_pool2d(y + self.branch(y), 2).flatten(1))
        return z.softmax(1) if self.softmax else 4 * z


def images(n: int = 7, dtype: str = "float32", seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((n, *SHAPE)).astype(dtype)


def linear(dtype: str = "float32") -> Network:
    """A network whose gradients exist everywhere."""
    layers = (Flatten(), Linear(32, 5), Tanh(), Linear(5, 4))
    return build(layers, SHAPE, seed=1, initialisation="glorot", dtype=dtype)


def denoiser(dtype: str = "float32", ops: Any = None) -> Network:
    layers = (Flatten(), Linear(32, 32), Tanh(), Reshape(SHAPE))
    return build(layers, SHAPE, seed=2, initialisation="glorot", dtype=dtype, ops=ops)


def by_vjp(network: Network, **settings: Any) -> Wrapped:
    def vjp(x: Any, g: Any) -> Any:
        return network.backward(network.forward(x)[1], g)[0]

    return wrap(network.apply, vjp=vjp, input_shape=SHAPE, **settings)


def by_labels(network: Network, **settings: Any) -> Wrapped:
    def gradient(x: Any, y: Any) -> Any:
        return network.loss_and_gradient(x, y).gradient

    return wrap(network.apply, gradient=gradient, input_shape=SHAPE, **settings)


WRAPPERS: dict[str, Any] = {
    "torch": lambda network, **settings: wrap(to_torch(network), input_shape=SHAPE, **settings),
    "vjp": by_vjp,
    "gradient": by_labels,
}


def settings_of_chain() -> dict[str, Any]:
    return {"num_steps": 2, "a": 0.2, "delta": 0.05, "seed": 3}


# The same as a network's ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRAPPERS)
def test_every_answer_is_that_of_the_network(kind: str) -> None:
    network, x = linear(), images()
    wrapped, y = WRAPPERS[kind](network, batch_size=3), np.array([0, 1, 2, 3, 0, 1, 2])
    assert (wrapped.num_classes, wrapped.input_shape, wrapped.output_shape) == (4, SHAPE, (4,))
    assert (wrapped.dtype, wrapped.ops, wrapped.stochastic) == ("float32", ref_ops, False)
    np.testing.assert_allclose(wrapped.logits(x), network.logits(x), atol=1e-6)
    assert wrapped.predict(x).tolist() == network.predict(x).tolist()
    np.testing.assert_allclose(wrapped.loss_gradient(x, y), network.loss_gradient(x, y), atol=1e-6)
    for loss, targets in (("ce", None), ("margin", None), ("margin", (y + 1) % 4), ("dlr", None), ("dlr", (y + 2) % 4)):
        one, other = (model.loss_and_gradient(x, y, loss=loss, targets=targets) for model in (wrapped, network))
        for ours, theirs in zip(one, other, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-6, rtol=1e-4, err_msg=loss)


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize("mode", ["exact", "bpda", "bpda-denoiser"])
@pytest.mark.parametrize("expectation", ["loss", "logits"])
def test_defended_it_has_the_gradients_of_the_network_defended(kind: str, mode: str, expectation: str) -> None:
    network, x, y = linear(), images(), np.array([0, 1, 2, 3, 0, 1, 2])
    asked: dict[str, Any] = {"mode": mode, "expectation": expectation, "num_draws": 2}
    one, other = (
        MALADE(classifier, denoiser(), **settings_of_chain()).loss_gradient(x, y, **asked)
        for classifier in (WRAPPERS[kind](network, batch_size=3), network)
    )
    np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mim", "apgd", "cw", "fab", "square", "boundary", "salt_and_pepper"])
def test_attacks_find_the_same(name: str) -> None:
    module, x = Small(scaled=True), images(6)
    read = from_torch(module, SHAPE)
    wrapped = wrap(Small(), input_shape=SHAPE, mean=MEAN, std=STD, batch_size=4)
    y = read.predict(x)
    assert wrapped.predict(x).tolist() == y.tolist()
    own = {"pgd": 5, "mim": 5, "apgd": 5, "cw": 10, "fab": 5, "square": 20, "boundary": 10, "salt_and_pepper": 2}
    settings: dict[str, Any] = {"num_steps": own[name]} if name in own else {}
    settings |= {"eps": 0.05} if name in ("fgsm", "pgd", "mim", "apgd", "square") else {}
    settings |= {"num_trials": 2} if name == "salt_and_pepper" else {}
    one, other = (getattr(attacks, name)(model, x, y, seed=1, **settings) for model in (wrapped, read))
    assert one.success.tolist() == other.success.tolist()
    assert one.num_queries.tolist() == other.num_queries.tolist()
    np.testing.assert_allclose(one.distance, other.distance, atol=1e-3)
    np.testing.assert_allclose(one.x_adv, other.x_adv, atol=2e-3)


def test_verdicts_are_the_same() -> None:
    """Accuracies under attack, certificates, and what the audit looks at."""
    read, wrapped = from_torch(Small(scaled=True), SHAPE), wrap(Small(), input_shape=SHAPE, mean=MEAN, std=STD)
    x = images(10)
    y = read.predict(x)
    results = []
    for classifier in (wrapped, read):
        defence = MALADE(classifier, denoiser(), **settings_of_chain())
        found = attacks.pgd(defence, x, y, eps=0.05, step_size=0.02, num_steps=3, num_draws=2, seed=1)
        drawn = defence.predict_draws(found.x_adv, num_draws=5) == y
        counts: dict[str, Any] = {"sigma": 0.2, "num_selection": 10, "num_estimation": 50}
        certified = certify(classifier, x, y, denoiser=denoiser(), **counts)
        answers = smoothed(classifier, x, sigma=0.2, num_draws=20).predicted
        results.append((found.success, drawn, certified.radius, certified.predicted, answers))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_audit_looks_into_it(kind: str) -> None:
    """In float64, a module by a copy, a function by images in float64."""
    network, x, y = linear("float64" if kind != "torch" else "float32"), images(4), np.arange(4)
    x = x.astype(network.dtype)
    wrapped = WRAPPERS[kind](network, dtype=network.dtype)
    assert gradient_check(wrapped, x, y).relative_error < 1e-6
    defended = MALADE(wrapped, denoiser(network.dtype), **settings_of_chain())
    assert gradient_check(defended, x, y).relative_error < 1e-6
    assert len(eot_check(defended, x, y, num_draws=(1, 2)).cosine) == 2
    assert wrapped.astype("float64").dtype == "float64"
    assert wrapped.dtype == network.dtype


def test_a_wrong_gradient_is_found_out() -> None:
    network, x, y = linear("float64"), images(4, "float64"), np.arange(4)

    def twice(x: Any, y: Any) -> Any:
        return 2 * network.loss_and_gradient(x, y).gradient

    wrapped = wrap(network.apply, gradient=twice, input_shape=SHAPE, dtype="float64")
    assert gradient_check(wrapped, x, y).relative_error > 0.3


# What it is asked ----------------------------------------------------------------------------------------------------


OPTIONAL = {"oracle", "classifier"}
PROTOCOL = {name for name in (*vars(Classifier), *Classifier.__annotations__) if not name.startswith("_")}


class Strict:
    """A classifier that has what the protocol names, and nothing else."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name in OPTIONAL:
            raise AttributeError(name)
        if name not in PROTOCOL:
            pytest.fail(f"asked for {name}, which malade_ref.interop.classifier does not name")
        return getattr(self._inner, name)


def test_nothing_else_is_asked() -> None:
    x, y = images(4), np.arange(4)
    strict: Any = Strict(linear())
    defended = MALADE(strict, denoiser(), **settings_of_chain())
    for model in (strict, defended):
        attacks.pgd(model, x, y, eps=0.1, num_steps=2)
        attacks.apgd(model, x, y, eps=0.1, num_steps=2, loss="dlr")
        attacks.square(model, x, y, eps=0.1, num_steps=2)
        attacks.cw(model, x, y, num_steps=2)
        gradient_check(model, x, y)
    defended.loss_gradient(x, y, expectation="logits", mode="bpda")
    certify(strict, x, y, sigma=0.1, num_selection=2, num_estimation=4)
    fit(denoiser(), SupervisedDenoising(0.1, strict), x, y, epochs=1, batch_size=2, validation=(x, y))
    fit(linear(), Distillation(victim=strict), x, y, epochs=1, batch_size=2)


@pytest.mark.parametrize("cls", [Network, Wrapped])
def test_who_satisfies_the_protocol(cls: Any) -> None:
    methods = {name for name in PROTOCOL if inspect.isfunction(getattr(Classifier, name, None))}
    assert {"forward", "backward", "apply", "astype"} <= methods
    for name in methods:
        asked, had = (inspect.signature(getattr(one, name)).parameters for one in (Classifier, cls))
        assert [(p.name, p.kind, p.default) for p in asked.values()] == [
            (p.name, p.kind, p.default) for p in had.values()
        ], name
    model = linear() if cls is Network else by_vjp(linear())
    assert all(hasattr(model, name) for name in PROTOCOL)


# Kinds of models -----------------------------------------------------------------------------------------------------


class Forest:
    """Like scikit-learn's: rows of features in, probabilities out, some of them 0."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def predict_proba(self, rows: Any) -> Any:
        assert rows.ndim == 2
        z = self.network.logits(rows.reshape(-1, *SHAPE)).astype("float64")
        p = np.exp(z - z.max(1, keepdims=True))
        p = np.round(p / p.sum(1, keepdims=True), 2)
        return p / p.sum(1, keepdims=True)


class Keras:
    """Like Keras's: channels last, called."""

    def __call__(self, x: Any, training: Any = None) -> Any:
        assert x.shape[1:] == (4, 4, 2)
        assert not training
        return torch.tensor(linear().logits(np.ascontiguousarray(x.transpose(0, 3, 1, 2))), requires_grad=True)


def test_models_without_gradients() -> None:
    x, y = images(), linear().predict(images())
    forest = wrap(Forest(linear()), input_shape=SHAPE, layout="flat")
    assert forest.predict(x).tolist() == y.tolist()
    keras = wrap(Keras(), input_shape=SHAPE, layout="nhwc")
    np.testing.assert_allclose(keras.logits(x), linear().logits(x), atol=1e-6)
    for model in (forest, keras, MALADE(keras, denoiser(), **settings_of_chain())):
        found = attacks.square(model, x, y, eps=0.5, num_steps=20)
        assert found.success.any()
        assert attacks.spsa(model, x, y, eps=0.3, num_steps=2, num_directions=2).x_adv.shape == x.shape
        message = r"^model: \w+ gives no gradient, which this needs; give wrap gradient= .*boundary, .*square"
        for attack in (attacks.pgd, attacks.fgsm, attacks.cw):
            with pytest.raises(InputError, match=message) as caught:
                attack(model, x, y)
            assert "\n" not in str(caught.value)


class Machine:
    """Like a support vector machine of scikit-learn: features in, scores out; of two classes one."""

    def __init__(self, classes: slice) -> None:
        self.classes = classes

    def decision_function(self, rows: Any) -> Any:
        assert rows.ndim == 2
        z = linear().logits(rows.reshape(-1, *SHAPE))[:, self.classes]
        return z if z.shape[1] > 2 else z[:, 1] - z[:, 0]

    def predict(self, rows: Any) -> Any:
        z = self.decision_function(rows)
        return z.argmax(axis=1) if z.ndim == 2 else (z > 0) * 1


@pytest.mark.parametrize("classes", [slice(None), slice(2)])
def test_models_that_decide_without_probabilities(classes: slice) -> None:
    machine, x = Machine(classes), images()
    model = wrap(machine, input_shape=SHAPE, layout="flat")
    assert model.num_classes == (linear().num_classes if classes.stop is None else 2)
    np.testing.assert_array_equal(model.predict(x), machine.predict(x.reshape(len(x), -1)))
    assert attacks.square(model, x, model.predict(x), eps=0.5, num_steps=20).success.any()


@pytest.mark.parametrize("layout", ["nhwc", "flat"])
def test_modules_have_layouts_too(layout: str) -> None:
    """A model of Keras that computes with PyTorch is a module, and takes channels last."""

    class Laid(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = Small()

        def forward(self, x: Any) -> Any:
            assert tuple(x.shape[1:]) == ((4, 4, 2) if layout == "nhwc" else (32,))
            return self.inner(x.permute(0, 3, 1, 2) if layout == "nhwc" else x.reshape(-1, *SHAPE))

    x, y = images(), np.arange(len(images())) % 3
    scale: dict[str, Any] = {"input_shape": SHAPE, "mean": MEAN, "std": STD}
    laid, plain = wrap(Laid().eval(), layout=layout, **scale), wrap(Small(), **scale)
    for dtype in ("float32", "float64"):
        one, other = (
            model.astype(dtype).loss_and_gradient(x.astype(dtype), y, loss="margin") for model in (laid, plain)
        )
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
        np.testing.assert_allclose(one.gradient, other.gradient, atol=1e-5)


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "flat"])
def test_layouts_and_scales(layout: str) -> None:
    """The function sees its own axes and scaling, and gives its gradients in these."""
    network = linear()
    mean, std = (np.array(values, "float32").reshape(2, 1, 1) for values in (MEAN, STD))

    def inwards(x: Any) -> Any:
        back = {"nchw": x, "nhwc": x.transpose(0, 3, 1, 2) if x.ndim == 4 else x, "flat": x}[layout]
        return np.ascontiguousarray(back.reshape(-1, *SHAPE)) * std + mean

    def gradient(x: Any, y: Any) -> Any:
        g = network.loss_and_gradient(inwards(x), y).gradient * std
        return {"nchw": g, "nhwc": g.transpose(0, 2, 3, 1), "flat": g.reshape(len(g), -1)}[layout]

    scaled = wrap(
        lambda x: network.apply(inwards(x)), gradient=gradient, input_shape=SHAPE, layout=layout, mean=MEAN, std=STD
    )
    x, y = images(), np.array([0, 1, 2, 3, 0, 1, 2])
    np.testing.assert_allclose(scaled.logits(x), network.logits(x), atol=1e-5)
    np.testing.assert_allclose(scaled.loss_gradient(x, y), network.loss_gradient(x, y), atol=1e-5)


def test_pixels_up_to_255() -> None:
    bytes_in = wrap(lambda x: linear().logits(x / 255), input_shape=SHAPE, std=1 / 255)
    np.testing.assert_allclose(bytes_in.logits(images()), linear().logits(images()), atol=1e-5)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda v: np.array(v).reshape(2, 1, 1)])
def test_scales_come_as_anything(kind: Any) -> None:
    expected = wrap(Small(), input_shape=SHAPE, mean=tuple(MEAN), std=tuple(STD)).logits(images())
    found = wrap(Small(), input_shape=SHAPE, mean=kind(MEAN), std=kind(STD))
    np.testing.assert_allclose(found.logits(images()), expected, atol=1e-6)
    one = wrap(Small(), input_shape=SHAPE, mean=np.float32(0.5), std=torch.tensor(0.25))
    assert one.mean.shape == one.std.shape == (2, 1, 1)


def test_vectors() -> None:
    network = build((Linear(5, 3),), (5,), seed=1, initialisation="glorot")
    wrapped = wrap(to_torch(network), input_shape=(5,), mean=[0.0] * 5)
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    np.testing.assert_allclose(wrapped.logits(x), network.logits(x), atol=1e-6)
    np.testing.assert_allclose(
        wrapped.loss_gradient(x, np.arange(4) % 3), network.loss_gradient(x, np.arange(4) % 3), atol=1e-6
    )


@pytest.mark.parametrize("kind", ["torch", "vjp", "gradient"])
def test_probabilities_give_the_gradients_of_logits(kind: str) -> None:
    network, x, y = linear("float64"), images(dtype="float64"), np.array([0, 1, 2, 3, 0, 1, 2])

    def softmax(images: Any) -> Any:
        z = network.logits(images)
        p = np.exp(z - z.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)

    def vjp(images: Any, g: Any) -> Any:
        p = softmax(images)
        return network.backward(network.forward(images)[1], p * (g - (p * g).sum(1, keepdims=True)))[0]

    given: dict[str, Any] = {
        "torch": {"model": nn.Sequential(to_torch(network), nn.Softmax(1)).eval()},
        "vjp": {"model": softmax, "vjp": vjp},
        "gradient": {"model": softmax, "gradient": network.loss_gradient},
    }[kind]
    model, settings = given.pop("model"), {**given, "input_shape": SHAPE, "dtype": "float64"}
    with pytest.raises(
        InputError, match=r"^model: gives probabilities .*not logits; remove the softmax, or say proba"
    ) as caught:
        wrap(model, **settings)
    assert "\n" not in str(caught.value)
    wrapped = wrap(model, **settings, probabilities=True)
    np.testing.assert_allclose(wrapped.predict(x), network.predict(x))
    for loss in ("ce", "margin"):
        one, other = (m.loss_and_gradient(x, y, loss=loss) for m in (wrapped, network))
        np.testing.assert_allclose(one.loss, other.loss, atol=1e-9)
        np.testing.assert_allclose(one.gradient, other.gradient, atol=1e-9)
    with pytest.raises(InputError, match=r"^probabilities: the model's rows do not lie in \[0, 1\]"):
        wrap(network.logits, input_shape=SHAPE, dtype="float64", probabilities=True)


def test_probabilities_that_saturate() -> None:
    """A probability of 0 gives a large finite loss and no NaN."""
    wrapped = wrap(nn.Sequential(nn.Flatten(), Saturated()).eval(), input_shape=SHAPE, probabilities=True)
    x = np.zeros((2, *SHAPE), "float32")
    result = wrapped.loss_and_gradient(x, np.array([0, 1]))
    assert np.isfinite(result.loss).all()
    assert np.isfinite(result.gradient).all()
    assert result.loss.max() > 80


class Saturated(nn.Module):  # type: ignore[misc]
    """Probabilities 1 and 0."""

    def forward(self, x: Any) -> Any:
        return torch.stack([x.sum(1), 500 + 0 * x.sum(1)], dim=1).softmax(1)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision(kind: str) -> None:
    module = Small()
    half = wrap(copy.deepcopy(module).to(getattr(torch, kind)), input_shape=SHAPE)
    whole = wrap(module, input_shape=SHAPE)
    assert half.dtype == "float32"
    x, y = images(), np.array([0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_allclose(half.logits(x), whole.logits(x), atol=0.1)
    one, other = half.loss_gradient(x, y), whole.loss_gradient(x, y)
    assert (one * other).sum() > 0.98 * ((one**2).sum() * (other**2).sum()) ** 0.5
    assert gradient_check(half, x, y).relative_error < 1e-2


def test_records_with_logits() -> None:
    class Record(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = Small()

        def forward(self, x: Any) -> Any:
            return type("Output", (), {"logits": self.inner(x)})()

    wrapped = wrap(Record().eval(), input_shape=SHAPE)
    np.testing.assert_array_equal(wrapped.logits(images()), wrap(Small(), input_shape=SHAPE).logits(images()))


# ONNX


def onnx_file(path: Path, batch: Any, *, softmax: bool = False) -> Any:
    """A linear classifier as a file, and its weights."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    h, t = onnx.helper, onnx.TensorProto
    weights = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    nodes = [h.make_node("Flatten", ["x"], ["flat"]), h.make_node("MatMul", ["flat", "w"], ["z"])]
    nodes += [h.make_node("Softmax", ["z"], ["p"])] if softmax else []
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", t.FLOAT, [batch, *SHAPE])],
        [h.make_tensor_value_info("p" if softmax else "z", t.FLOAT, [batch, 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9), str(path))
    return weights


@pytest.mark.parametrize("batch", ["n", 3])
def test_a_file_of_onnx(tmp_path: Path, batch: Any) -> None:
    path = tmp_path / "model.onnx"
    weights = onnx_file(path, batch)
    wrapped = wrap(path, input_shape=SHAPE)
    assert wrapped.slice_size == (64 if batch == "n" else 3)
    x = images(7)
    np.testing.assert_allclose(wrapped.logits(x), x.reshape(7, -1) @ weights, atol=1e-5)
    again = pickle.loads(pickle.dumps(wrapped))
    np.testing.assert_array_equal(again.logits(x), wrapped.logits(x))
    y = wrapped.predict(x)
    assert attacks.square(MALADE(wrapped, denoiser(), **settings_of_chain()), x, y, eps=0.5, num_steps=20).success.any()
    with pytest.raises(InputError, match=r"^model: ONNX file model\.onnx gives no gradient"):
        attacks.pgd(wrapped, x, y)
    with pytest.raises(InputError, match=r"^model: ONNX file model\.onnx fails on 1 image of shape \(2, 4, 5\)"):
        wrap(path, input_shape=(2, 4, 5))
    onnx_file(path, batch, softmax=True)
    with pytest.raises(InputError, match="gives probabilities"):
        wrap(str(path), input_shape=SHAPE)
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match=r"model\.onnx: onnxruntime cannot read it") as caught:
        wrap(path, input_shape=SHAPE)
    assert "\n" not in str(caught.value)


def test_onnx_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"m\.onnx: onnxruntime cannot be imported .*pip install onnxruntime$"):
        wrap(tmp_path / "m.onnx", input_shape=SHAPE)
    with pytest.raises(InputError, match=r"n\.onnx: there is no such file$"):
        wrap(str(tmp_path / "n.onnx"), input_shape=SHAPE)


# What a caller's model is spared -------------------------------------------------------------------------------------


class Watched:
    """A network that counts the images it is given at once, and the threads that are in it."""

    def __init__(self) -> None:
        self.network, self.sizes, self.inside, self.most = linear(), list[int](), 0, 0

    def __call__(self, x: Any) -> Any:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.sizes.append(len(x))
        threading.Event().wait(0.001)
        found = self.network.apply(x)
        x[:] = np.nan  # what it is given is its own
        self.inside -= 1
        return found

    def vjp(self, x: Any, g: Any) -> Any:
        self.sizes.append(len(x))
        dx = self.network.backward(self.network.forward(x)[1], g)[0]
        g[:] = np.nan
        return dx


@pytest.mark.parametrize("batch_size", [1, 3])
def test_no_more_images_at_once_and_no_two_threads(monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    monkeypatch.setenv("MALADE_NUM_THREADS", "3")
    watched, x = Watched(), images(8)
    y = watched.network.predict(x)
    wrapped = wrap(watched, vjp=watched.vjp, input_shape=SHAPE, batch_size=batch_size)
    before = x.copy()
    defended = MALADE(wrapped, denoiser(), **settings_of_chain())
    defended.predict_draws(x, num_draws=2)
    defended.loss_gradient(x, y, num_draws=2)
    np.testing.assert_allclose(wrapped.loss_gradient(x, y), watched.network.loss_gradient(x, y), atol=1e-6)
    certify(wrapped, x, y, sigma=0.1, num_selection=2, num_estimation=40)
    logits, tape = wrapped.forward(x)  # all at once
    np.testing.assert_allclose(logits, watched.network.logits(x), atol=1e-6)
    dy = np.random.default_rng(0).normal(size=logits.shape).astype("float32")
    expected, _ = watched.network.backward(watched.network.forward(x)[1], dy)
    for _ in range(2):  # a tape can be used again
        np.testing.assert_allclose(wrapped.backward(tape, dy)[0], expected, atol=1e-6)
    assert max(watched.sizes) == batch_size
    assert min(watched.sizes) >= 1
    assert watched.most == 1
    np.testing.assert_array_equal(x, before)


def test_no_images_ask_nothing() -> None:
    watched = Watched()
    wrapped = wrap(watched, vjp=watched.vjp, input_shape=SHAPE)
    empty, before = images(0), len(watched.sizes)
    assert wrapped.logits(empty).shape == (0, 4)
    assert wrapped.predict(empty).shape == (0,)
    assert wrapped.loss_gradient(empty, np.zeros(0, int)).shape == (0, *SHAPE)
    assert len(watched.sizes) == before


def test_a_module_that_works_in_place() -> None:
    class InPlace(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = Small()

        def forward(self, x: Any) -> Any:
            return self.inner(x.sub_(0.5).mul_(2))

    x, y = images(), np.array([0, 1, 2, 0, 1, 2, 0])
    before, wrapped = x.copy(), wrap(InPlace().eval(), input_shape=SHAPE)
    other = wrap(Small(), input_shape=SHAPE, mean=0.5, std=0.5)
    np.testing.assert_allclose(wrapped.loss_gradient(x, y), other.loss_gradient(x, y), atol=1e-6)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_whatever_mode_the_caller_is_in(mode: str) -> None:
    module = Small().requires_grad_(False)
    x, y = images(), np.array([0, 1, 2, 0, 1, 2, 0])
    expected = wrap(module, input_shape=SHAPE).loss_gradient(x, y)
    with getattr(torch, mode)():
        np.testing.assert_array_equal(wrap(module, input_shape=SHAPE).loss_gradient(x, y), expected)
    assert abs(expected).max() > 0


def test_the_users_module_is_left_alone() -> None:
    module = Small()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    wrapped = wrap(module, input_shape=SHAPE)
    attacks.pgd(wrapped, images(), wrapped.predict(images()), eps=0.1, num_steps=2)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    wrapped.astype("float64")
    assert module.conv.weight.dtype == torch.float32
    random = torch.get_rng_state()
    wrap(module, input_shape=SHAPE)
    assert torch.equal(random, torch.get_rng_state())


# Refusals ------------------------------------------------------------------------------------------------------------


def broken(change: Any) -> Any:
    """A module whose logits are changed."""

    class Changed(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = Small()

        def forward(self, x: Any) -> Any:
            return change(self.inner(x), x)

    return Changed().eval()


class Noisy(nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return F.dropout(x.flatten(1), 0.5, training=True)


class OfTheBatch(nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return F.batch_norm(x.flatten(1), None, None, training=True) if len(x) > 1 else x.flatten(1)


def partly_training() -> Any:
    module = Small()
    module.norm.train()
    return module


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "training mode": (lambda: Small().train(), {}, r"^model: Small is in training mode; call eval\(\)"),
    "a part in training mode": (partly_training, {}, r"^model: norm \(BatchNorm2d\) is in training mode"),
    "probabilities": (lambda: Small(softmax=True), {}, r"^model: gives probabilities .* probabilities=True$"),
    "nan": (lambda: broken(lambda z, x: z + float("nan")), {}, r"^model: NaN or infinity among the logits"),
    "infinity": (lambda: broken(lambda z, x: z / 0), {}, r"^model: NaN or infinity among the logits"),
    "detached": (lambda: broken(lambda z, x: z.detach()), {}, r"^model: Changed has no gradient: the way .* is cut"),
    "another input": (
        lambda: broken(lambda z, x: torch.ones(len(x), 3, requires_grad=True) * torch.arange(3)),
        {},
        r"^model: Changed has no gradient",
    ),
    "labels": (
        lambda: broken(lambda z, x: z.argmax(1)),
        {},
        r"^model: expected logits of shape \(1, k\), got \(1\); one sc",
    ),
    "one score": (
        lambda: broken(lambda z, x: z[:, :1]),
        {},
        r"^num_classes: expected at least 2, but the model gives 1 sc",
    ),
    "a map of scores": (
        lambda: broken(lambda z, x: x),
        {},
        r"^model: expected logits of shape \(1, k\), got \(1, 2, 4, 4\)$",
    ),
    "a tuple": (
        lambda: broken(lambda z, x: (z, x)),
        {},
        r"^model: expected one tensor of logits, got tuple; wrap a mod",
    ),
    "classes": (Small, {"num_classes": 10}, r"^num_classes: expected 10, but the model gives 3 scores an image$"),
    "one class": (Small, {"num_classes": 1}, r"^num_classes: expected an integer >= 2, got 1$"),
    "random": (lambda: Noisy().eval(), {}, r"^model: gives other logits for the same images; take what is random out"),
    "the batch": (lambda: OfTheBatch().eval(), {}, r"^model: an image's logits depend on the others of its batch"),
    "another shape": (
        Small,
        {"input_shape": (3, 4, 4)},
        r"^model: Small fails on 1 image of shape \(3, 4, 4\) \(.*\); check",
    ),
    "no shape": (Small, {"input_shape": 4}, r"^input_shape: expected several numbers, got 4$"),
    "two sizes": (Small, {"input_shape": (4, 4)}, r"^input_shape: expected \(c, h, w\) of an image or"),
    "three means": (Small, {"mean": [0.1, 0.2, 0.3]}, r"^mean: expected one number, or 2 for 2 channels, got 3$"),
    "no deviation": (Small, {"std": [0.1, 0]}, r"^std: expected a finite number > 0, got 0$"),
    "no number": (Small, {"mean": "0.5"}, r"^mean: expected a finite number, got '0.5'$"),
    "no images": (Small, {"batch_size": 0}, r"^batch_size: expected an integer >= 1, got 0$"),
    "precision": (
        Small,
        {"dtype": "float64"},
        r"^dtype: expected float32, that of the module's parameters, got float64$",
    ),
    "half": (Small, {"dtype": "float16"}, r"^dtype: expected one of float32, float64; got 'float16'$"),
    "a gradient": (Small, {"gradient": np.sin}, r"^gradient: is not for modules of PyTorch; leave it out$"),
    "a layout": (Small, {"layout": "nhwc"}, r"^model: Small fails on 1 image of shape .*; check input_shape, layout"),
    "one score of a module": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 1), nn.Sigmoid()).eval(),
        {},
        r"^num_classes: expected at least 2, but the model gives 1 score an image; .* for two classes, give two$",
    ),
    "tensors": (
        lambda: Small().forward,
        {},
        r"^model: function forward fails on 1 image of shape \(2, 4, 4\) .*; it gets NumPy arrays$",
    ),
    "no layout": (Small, {"layout": "chw"}, r"^layout: expected one of nchw, nhwc, flat; got 'chw'$"),
    "a class": (lambda: Small, {}, r"^model: expected a model, got the class Small; make one of it$"),
    "ours": (linear, {}, r"^model: Network is a classifier of this package; take it as it is$"),
    "a number": (lambda: 3, {}, r"^model: expected a torch.nn.Module, a function, .* got int$"),
    "a file": (lambda: "model.pt", {}, r"^model: expected a model or the path of a file .onnx, got model.pt$"),
    "both gradients": (
        lambda: linear().logits,
        {"gradient": np.sin, "vjp": np.sin},
        r"^gradient and vjp: expected one of them, got both",
    ),
    "no function": (
        lambda: linear().logits,
        {"gradient": 3},
        r"^gradient: expected a function of two arrays, got int$",
    ),
    "gradient none": (
        lambda: linear().logits,
        {"gradient": lambda x, y: None},
        r"^gradient: gave None; expected an array",
    ),
    "gradient shape": (
        lambda: linear().logits,
        {"gradient": lambda x, y: x[0]},
        r"^gradient: expected shape \(3, 2, 4, 4\), that of the images, got \(2, 4, 4\)$",
    ),
    "vjp shape": (
        lambda: linear().logits,
        {"vjp": lambda x, g: g},
        r"^vjp: expected shape \(\d, 2, 4, 4\), that of the im",
    ),
    "gradient nan": (
        lambda: linear().logits,
        {"gradient": lambda x, y: x * np.nan},
        r"^model: the gradient of function logits is NaN or infinite where its logits are finite$",
    ),
    "gradient of the mean": (
        lambda: linear().logits,
        {"gradient": lambda x, y: linear().loss_gradient(x, y) / len(x)},
        r"^gradient: an image's differs alone and in a batch",
    ),
    "gradient fails": (
        lambda: linear().logits,
        {"gradient": lambda x, y: x[y, 99]},
        r"^gradient: function logits fails on \d images? .*out of bounds",
    ),
    "text": (lambda: lambda x: [["a", "b"]] * len(x), {}, r"^model: expected an array of numbers, got list of"),
    "no array": (lambda: lambda x: [[1], [2, 3]], {}, r"^model: gave no array"),
    "images of 255": (Small, {"images": 255 * images()}, r"^images: image 0 has pixel .* outside \[0, 1\]"),
    "images of another shape": (Small, {"images": images()[:, :1]}, r"^images: expected shape"),
    "names": (
        Small,
        {"class_names": ["a", "a", "b"]},
        r"^class_names: class_names: the same name|^class_names: .*twice",
    ),
    "memory": (
        lambda: broken(lambda z, x: (_ for _ in ()).throw(RuntimeError("CUDA out of memory. Tried\n to allocate"))),
        {},
        r"^model: Changed has too little memory for 1 image at once; give wrap a smaller batch_size than 64$",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case: str) -> None:
    make, settings, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        wrap(make(), **{"input_shape": SHAPE, **settings})
    assert "\n" not in str(caught.value)


def test_examples_are_tried_too() -> None:
    """A model that fails on real images only."""
    dark = np.zeros((2, *SHAPE), "float32")
    module = broken(lambda z, x: z + torch.where(x.amax((1, 2, 3)) > 0, 0, torch.nan)[:, None])
    wrap(module, input_shape=SHAPE)
    with pytest.raises(InputError, match="NaN or infinity"):
        wrap(module, input_shape=SHAPE, images=dark)


def test_logits_that_are_nan_later_are_no_class() -> None:
    """As of a network: wrong for every label, and no reason to lose all other images."""
    wrapped = wrap(
        broken(lambda z, x: z + torch.where(x.amax((1, 2, 3)) > 0, 0, torch.nan)[:, None]), input_shape=SHAPE
    )
    x = images(3)
    x[1] = 0
    y = wrapped.predict(x)
    assert y[1] == -1
    assert (y[[0, 2]] >= 0).all()
    found = attacks.pgd(wrapped, x, y.clip(0), eps=0.01, num_steps=2)
    assert np.isfinite(found.x_adv).all()


def test_training_mode_later_is_refused() -> None:
    module = Small()
    wrapped = wrap(module, input_shape=SHAPE)
    module.norm.train()
    for call in (wrapped.logits, wrapped.predict, lambda x: wrapped.loss_gradient(x, np.zeros(7, int))):
        with pytest.raises(InputError, match=r"^model: norm \(BatchNorm2d\) is in training mode"):
            call(images())


def test_a_loss_that_the_cross_entropy_does_not_tell() -> None:
    wrapped = by_labels(linear())
    logits, tape = wrapped.forward(images())
    with pytest.raises(InputError, match=r"^gradient: that of the cross entropy carries back no loss that .* vjp="):
        wrapped.backward(tape, np.ones_like(logits))


def test_images_are_checked_as_a_networks() -> None:
    wrapped = by_vjp(linear())
    for bad, message in (
        (2 * images(), r"outside \[0, 1\]"),
        (images(dtype="float64"), "expected float32"),
        (images()[:, :1], "expected shape"),
        (images() * np.nan, "not a number"),
    ):
        with pytest.raises(InputError, match=message):
            wrapped.logits(bad)
    with pytest.raises(InputError, match="label 4"):
        wrapped.loss_gradient(images(), np.full(7, 4))


def test_what_has_no_layers_is_not_trained_saved_or_converted(tmp_path: Path) -> None:
    wrapped, x, y = wrap(Small(), input_shape=SHAPE), images(4), np.arange(4) % 3
    calls: list[Any] = [
        lambda: fit(wrapped, SupervisedDenoising(0.1, linear()), x, y, epochs=1),
        lambda: to_torch(wrapped),
        lambda: malade_ref.save(wrapped, tmp_path / "net.h5"),
        lambda: wrapped.num_parameters,
        lambda: wrapped.forward(x, training=True),
        lambda: wrapped.backward(wrapped.forward(x)[1], np.ones((4, 3), "float32"), need_parameters=True),
        lambda: wrapped.replace_params({"0.weight": x}),
    ]
    for call in calls:
        with pytest.raises(InputError, match="wrapped model") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_module_that_was_not_wrapped() -> None:
    module, x, y = Small(), images(), np.zeros(7, int)
    message = r"expected a model of this package, got Small; put malade_ref\.interop\.wrap around a classifier"
    with pytest.raises(InputError, match=f"^classifier: {message}"):
        MALADE(module, denoiser(), **settings_of_chain())
    with pytest.raises(InputError, match=f"^denoiser: {message}"):
        MALADE(linear(), module, **settings_of_chain())
    for name in ("pgd", "cw", "square", "boundary", "apgd", "fab", "auto_attack", "spsa"):
        with pytest.raises(InputError, match=f"^model: {message}"):
            getattr(attacks, name)(module, x, y)
    settings: dict[str, Any] = {"sigma": 0.1, "num_selection": 2, "num_estimation": 4}
    calls: dict[str, list[Any]] = {
        "model": [lambda: gradient_check(module, x, y), lambda: eot_check(module, x, y), lambda: OnTensors(module)],
        "classifier": [
            lambda: certify(module, x, y, **settings),
            lambda: smoothed(module, x, sigma=0.1),
            lambda: fit(denoiser(), SupervisedDenoising(0.1, module), x, y, epochs=1),
        ],
        "denoiser": [lambda: certify(linear(), x, y, denoiser=module, **settings)],
        "network": [lambda: fit(module, Distillation(victim=linear()), x, y, epochs=1)],
        "victim": [lambda: fit(linear(), Distillation(victim=module), x, y, epochs=1)],
    }
    for name, refused in calls.items():
        for call in refused:
            with pytest.raises(InputError, match=f"^{name}: {message}"):
                call()
    with pytest.raises(InputError, match=f"^surrogate: {message}"):
        attacks.transfer(linear(), x, y, surrogate=module, attack=attacks.pgd)


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.inner(x).cumsum(1),
        lambda self, x: torch.erf(self.inner(x)),
        lambda self, x: self.inner(x) if x.sum() else x,
    ],
)
def test_from_torch_names_the_other_way(forward: Any) -> None:
    cls = type("Odd", (nn.Module,), {"forward": forward})
    module = cls()
    module.inner = Small()
    module.eval()
    with pytest.raises(InputError, match=r"; or take it as it is, with malade_ref\.interop\.wrap$") as caught:
        from_torch(module, SHAPE)
    assert "\n" not in str(caught.value)
    wrap(module, input_shape=SHAPE)
    with pytest.raises(InputError, match=r"call module\.eval\(\) first$"):
        from_torch(Small().train(), SHAPE)


# One model and another -----------------------------------------------------------------------------------------------


def test_fingerprints() -> None:
    module = Small()
    own = wrap(module, input_shape=SHAPE).fingerprint()
    assert own == wrap(Small(), input_shape=SHAPE, batch_size=2).fingerprint()
    assert own != wrap(Small(), input_shape=SHAPE, mean=0.5).fingerprint()
    other = Small()
    with torch.no_grad():
        other.head.bias += 1e-3
    assert own != wrap(other, input_shape=SHAPE).fingerprint()
    assert by_vjp(linear()).fingerprint() == by_labels(linear()).fingerprint()
    assert by_vjp(linear()).fingerprint() != wrap(lambda x: 1.1 * linear().logits(x), input_shape=SHAPE).fingerprint()


def test_a_denoiser_is_trained_for_it() -> None:
    """The same as for the network, to rounding; the model is told of in the metadata."""
    x, y = images(12), np.arange(12) % 3
    read, wrapped = from_torch(Small(scaled=True), SHAPE), wrap(Small(), input_shape=SHAPE, mean=MEAN, std=STD)
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 4, "validation": (x, y), "seed": 1}
    one, other = (fit(denoiser(), SupervisedDenoising(0.1, judge), x, y, **settings) for judge in (wrapped, read))
    for name, value in other.network.params.items():
        np.testing.assert_allclose(one.network.params[name], value, atol=1e-4)
    np.testing.assert_allclose(one.history["cross_entropy"], other.history["cross_entropy"], rtol=1e-4)
    assert one.network.metadata["training"]["objective"]["classifier"] == wrapped.fingerprint()


def test_copies_and_pickles() -> None:
    x, y = images(), np.array([0, 1, 2, 0, 1, 2, 0])
    wrapped = wrap(Small(), input_shape=SHAPE, mean=MEAN, std=STD)
    for other in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        np.testing.assert_array_equal(other.loss_gradient(x, y), wrapped.loss_gradient(x, y))
        assert other.foreign.lock is not wrapped.foreign.lock


def test_class_names() -> None:
    names = ("cat", "dog", "owl")
    assert class_names_of(wrap(Small(), input_shape=SHAPE, class_names=names)) == names
    assert class_names_of(with_class_names(wrap(Small(), input_shape=SHAPE), names)) == names


def test_twice_the_same_bits() -> None:
    x, y = images(), np.array([0, 1, 2, 0, 1, 2, 0])
    one, other = (attacks.pgd(wrap(Small(), input_shape=SHAPE), x, y, eps=0.1, num_steps=3, seed=1) for _ in range(2))
    np.testing.assert_array_equal(one.x_adv, other.x_adv)


def test_on_the_emulated_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="malade_gpu needs Numba, which is not installed")
    if not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("the emulated device needs g++")
    monkeypatch.setenv("MALADE_GPU_EMULATE", "1")
    import malade_gpu

    x, y = images(5), np.arange(5) % 3
    sizes: list[int] = []
    module = Small()
    module.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    given: dict[str, Any] = {"input_shape": SHAPE, "mean": MEAN, "std": STD, "batch_size": 2}
    found = []
    for ops in (ref_ops, malade_gpu.ops):
        wrapped = wrap(module, ops=ops, **given)
        defended = MALADE(wrapped, denoiser(ops=ops), **settings_of_chain())
        images_there, labels = ops.asarray(x), ops.asarray(y)
        for model in (wrapped, defended):
            answers = model.logits(images_there), model.loss_gradient(images_there, labels)
            found.append([ops.to_host(value) for value in answers])
    for one, other in ((found[0], found[2]), (found[1], found[3])):
        for ours, theirs in zip(one, other, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert max(sizes) == 2


def test_a_real_defence_of_digits() -> None:
    """A classifier of grey images before the paper's denoiser, in the smallest sizes."""
    network = malade_ref.cnn("small")
    wrapped = wrap(to_torch(network), input_shape=(1, 28, 28), num_classes=10)
    x = np.random.default_rng(0).random((2, 1, 28, 28), dtype=np.float32)
    one, other = (MALADE(model, sdae("small"), **settings_of_chain()) for model in (wrapped, network))
    np.testing.assert_allclose(one.logits(x, num_draws=2), other.logits(x, num_draws=2), atol=1e-5)
