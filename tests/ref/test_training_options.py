"""Options of a training: each against its formula or PyTorch's, resumable to the bit, and refused where it cannot."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref.attacks import ascent
from malade_ref.augmentation import Augmentation
from malade_ref.checks import InputError
from malade_ref.layers import BatchNorm, Conv2d, Flatten, Layer, Linear, ReLU, Tanh
from malade_ref.network import Network, build
from malade_ref.objectives import Batch, Classification, Denoising, SliceResult, SupervisedDenoising
from malade_ref.robust_training import RobustCheck
from malade_ref.training import _schedule, fit
from malade_ref.training_options import Options

PGD = partial(ascent, eps=0.1, step_size=0.05, num_steps=3)


def classifier(*, norm: bool = False, channels: int = 3, dtype: str = "float64") -> Network:
    layers: list[Layer] = [Conv2d(channels, 4, (3, 3)), *([BatchNorm(4)] if norm else []), Tanh(), Flatten()]
    return build([*layers, Linear(4 * 36, 4)], (channels, 6, 6), initialisation="glorot", seed=2, dtype=dtype)


def images(n: int = 24, channels: int = 3, dtype: str = "float64") -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x, y = 0.3 * rng.random((n, channels, 6, 6)), np.arange(n) % 4
    for i, label in enumerate(y):
        row, col = divmod(int(label), 2)
        x[i, :, 3 * row : 3 * row + 3, 3 * col : 3 * col + 3] += 0.6
    return x.astype(dtype), y


def same(one: Network, other: Network) -> bool:
    return all(np.array_equal(one.params[name], other.params[name]) for name in one.params)


# Optimisers against PyTorch ------------------------------------------------------------------------------------------


def by_torch(network: Network, x: Any, y: Any, make: Any, steps: int, clip: float | None = None) -> dict[str, Any]:
    """Parameters after steps of full batches, by PyTorch; weights and biases in groups of their own."""
    torch = pytest.importorskip("torch")
    own = {name: torch.tensor(value, requires_grad=True) for name, value in network.params.items()}
    weights = [value for name, value in own.items() if name.endswith("weight")]
    biases = [value for name, value in own.items() if not name.endswith("weight")]
    optimizer = make(torch.optim, weights, biases)
    inputs, labels = torch.tensor(x), torch.tensor(y)
    for _ in range(steps):
        optimizer.zero_grad()
        hidden = torch.tanh(torch.nn.functional.conv2d(inputs, own["0.weight"], own["0.bias"], padding=1))
        logits = hidden.flatten(1) @ own["3.weight"].T + own["3.bias"]
        torch.nn.functional.cross_entropy(logits, labels).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(list(own.values()), clip)
        optimizer.step()
    return {name: value.detach().numpy() for name, value in own.items()}


def check_like_torch(options: Options, optimizer: str, make: Any, clip: float | None = None) -> None:
    network, (x, y) = classifier(), images()
    settings: dict[str, Any] = {"epochs": 5, "batch_size": 24, "learning_rate": 0.1, "schedule": "constant"}
    found = fit(network, Classification(), x, y, optimizer=optimizer, options=options, **settings).network
    expected = by_torch(network, x, y, make, 5, clip)
    for name, value in expected.items():
        np.testing.assert_allclose(found.params[name], value, rtol=1e-5, atol=1e-8, err_msg=name)


def test_sgd_with_decay_and_momentum_is_pytorch_s() -> None:
    def make(optim: Any, weights: Any, biases: Any) -> Any:
        groups = [{"params": weights, "weight_decay": 0.05}, {"params": biases}]
        return optim.SGD(groups, lr=0.1, momentum=0.7)

    check_like_torch(Options(momentum=0.7, weight_decay=0.05), "sgd", make)
    with pytest.raises(AssertionError):
        check_like_torch(Options(momentum=0.7, weight_decay=0.055), "sgd", make)


def test_adam_with_decay_is_pytorch_s_decoupled_one() -> None:
    def make(optim: Any, weights: Any, biases: Any) -> Any:
        groups = [{"params": weights, "weight_decay": 0.2}, {"params": biases, "weight_decay": 0.0}]
        return optim.AdamW(groups, lr=0.1)

    check_like_torch(Options(weight_decay=0.2), "adam", make)


def test_clipping_is_pytorch_s() -> None:
    def make(optim: Any, weights: Any, biases: Any) -> Any:
        groups = [{"params": weights, "weight_decay": 0.05}, {"params": biases}]
        return optim.SGD(groups, lr=0.1, momentum=0.9)

    check_like_torch(Options(clip_norm=0.1, weight_decay=0.05), "sgd", make, clip=0.1)


def test_what_decays() -> None:
    """Weights of products alone: no bias, and no gain of a normalisation."""
    network, (x, y) = classifier(norm=True), images()
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 24, "learning_rate": 0.1, "optimizer": "sgd"}
    plain = fit(network, Classification(), x, y, **settings).network
    decayed = fit(network, Classification(), x, y, **settings, options=Options(weight_decay=0.5)).network
    moved = {name for name in plain.params if not np.array_equal(plain.params[name], decayed.params[name])}
    assert moved == {"0.weight", "4.weight"}


def test_clipping_leaves_short_gradients_alone() -> None:
    gradients = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    assert Options(clip_norm=5.0).clipped(gradients) is gradients
    clipped = Options(clip_norm=1.0).clipped(gradients)
    np.testing.assert_allclose(clipped["a"], [0.6, 0.0])
    np.testing.assert_allclose(clipped["b"], [[0.8]])


# Averages ------------------------------------------------------------------------------------------------------------


def test_average_of_the_weights() -> None:
    """The weighted mean of all steps' parameters, with weights d^(t - s) that add up to one."""
    network, (x, y) = classifier(norm=True), images()
    settings: dict[str, Any] = {"batch_size": 24, "learning_rate": 0.05, "schedule": "constant", "optimizer": "sgd"}
    each = [fit(network, Classification(), x, y, epochs=t, **settings).network.params for t in (1, 2, 3)]
    d = 0.8
    options = Options(averaging=d)
    found = fit(network, Classification(), x, y, epochs=3, **settings, validation=(x, y), options=options)
    for name in network.params:
        expected = (d * d * each[0][name] + d * each[1][name] + each[2][name]) / (d * d + d + 1)
        np.testing.assert_allclose(found.network.params[name], expected, rtol=1e-12, atol=1e-15)
    last = fit(network, Classification(), x, y, epochs=3, **settings, options=Options(averaging=0.0)).network
    for name in network.params:
        np.testing.assert_allclose(last.params[name], each[2][name], rtol=1e-12)
    # What is validated is the average.
    from malade_ref.training import evaluate

    means = evaluate(found.network, Classification(), x, y)
    assert found.history["validation_loss"][-1] == pytest.approx(means["loss"], rel=1e-12)


# Schedules -----------------------------------------------------------------------------------------------------------


def test_piecewise() -> None:
    options = Options(milestones=(0.25, 0.5, 0.9), factor=0.2)
    rates = [_schedule("piecewise", fraction, options) for fraction in (0.0, 0.24, 0.25, 0.49, 0.7, 0.95, 1.0)]
    np.testing.assert_allclose(rates, [1, 1, 0.2, 0.2, 0.04, 0.008, 0.008])
    x, y = images()
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 12, "learning_rate": 0.1, "schedule": "piecewise"}
    history = fit(classifier(), Classification(), x, y, **settings, options=Options(milestones=(0.5,))).history
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.1, 0.01, 0.01])


# Augmentation --------------------------------------------------------------------------------------------------------


class Watching(Classification):
    """Remembers the images that it is trained on, by sample and epoch."""

    def __init__(self) -> None:
        object.__setattr__(self, "seen", {})

    def prepare(self, network: Network, batch: Batch) -> Batch:
        for x, number in zip(batch.x, batch.sample_index, strict=True):
            self.__dict__["seen"][batch.epoch, int(number)] = x.copy()
        return batch


def test_augmented_images_do_not_depend_on_the_batches() -> None:
    x, y = images()
    seen = []
    for batch_size in (5, 24):
        watching = Watching()
        options = Options(augment=Augmentation(pad=2, flip=True))
        fit(classifier(), watching, x, y, epochs=2, batch_size=batch_size, options=options)
        seen.append(watching.__dict__["seen"])
    assert seen[0].keys() == seen[1].keys()
    assert len(seen[0]) == 48
    for key, image in seen[0].items():
        np.testing.assert_array_equal(image, seen[1][key])
    assert sum(np.array_equal(seen[0][0, i], seen[0][1, i]) for i in range(24)) < 12
    assert sum(np.array_equal(seen[0][0, i], x[i]) for i in range(24)) < 12


def denoiser(channels: int) -> Network:
    layers = [Conv2d(channels, 4, (3, 3)), Tanh(), Conv2d(4, channels, (3, 3))]
    return build(layers, (channels, 6, 6), initialisation="glorot", seed=1, dtype="float64")


@pytest.mark.parametrize("channels", [1, 3])
def test_denoisers_learn_augmented_images(channels: int) -> None:
    """The target is the moved image, the noise is the sample's own."""
    x, y = images(channels=channels)
    objective = SupervisedDenoising(0.1, classifier(channels=channels))
    settings: dict[str, Any] = {"epochs": 8, "batch_size": 8, "learning_rate": 0.02, "validation": (x, y)}
    options = Options(augment=Augmentation(pad=1, flip=True))
    fitted = fit(denoiser(channels), objective, x, y, **settings, options=options)
    assert fitted.history["validation_error"][-1] < 0.5 * fitted.history["validation_error"][0]
    assert fitted.network.metadata["training"]["augment"] == {"name": "Augmentation", "pad": 1, "flip": True}
    moved = options.augment.apply(denoiser(channels).ops, Batch(x, y, np.arange(24), 0, 0)) if options.augment else None
    assert moved is not None
    found = Denoising(0.1).evaluate(denoiser(channels), moved, training=True).sums["error"]
    network = denoiser(channels)
    noise = network.ops.normal(
        x.shape[1:], key=network.ops.derive_key(0, "denoising"), sample_index=np.arange(24), dtype="float64"
    )
    expected = ((network.apply(moved.x + 0.1 * noise) - moved.x) ** 2).sum()
    assert found == pytest.approx(expected, rel=1e-12)


# All together, interrupted and taken up again ------------------------------------------------------------------------

EVERYTHING = Options(
    weight_decay=1e-3,
    clip_norm=0.5,
    averaging=0.9,
    augment=Augmentation(pad=1, flip=True),
    robust_check=RobustCheck(PGD, num_images=10),
    milestones=(0.3,),
)


class _Kill(BaseException):
    """Not an Exception: nothing may handle it on the way out."""


@pytest.mark.parametrize(("optimizer", "stop_at"), [("adam", 1), ("sgd", 4), ("sgd", 6), ("adam", 8)])
def test_resumption_is_exact(tmp_path: Path, optimizer: str, stop_at: int) -> None:
    x, y = images()
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "optimizer": optimizer}
    settings |= {"validation": (x[:8], y[:8]), "seed": 3, "schedule": "piecewise", "options": EVERYTHING}
    network = classifier(norm=True)
    straight = fit(network, Classification(), x, y, **settings)
    assert len(straight.history["robust_accuracy"]) == 3
    steps = 0

    def kill(fraction: float, message: str) -> None:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            raise _Kill

    path = tmp_path / "state.h5"
    with pytest.raises(_Kill):
        fit(network, Classification(), x, y, **settings, checkpoint=path, checkpoint_every=0, progress=kill)
    seen: list[float] = []
    resumed = fit(network, Classification(), x, y, **settings, checkpoint=path, progress=lambda f, _: seen.append(f))
    assert len(seen) == 9 - stop_at
    assert resumed.history == straight.history
    assert resumed.network.metadata == straight.network.metadata
    assert same(resumed.network, straight.network)
    for other in (Options(), Options(averaging=0.9), EVERYTHING.__class__(**{**vars(EVERYTHING), "clip_norm": 0.6})):
        changed = {**settings, "options": other, "schedule": "constant" if other.milestones != (0.3,) else "piecewise"}
        with pytest.raises(InputError, match="another training"):
            fit(network, Classification(), x, y, **changed, checkpoint=path)


def test_options_that_are_off_change_nothing() -> None:
    x, y = images()
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8}
    plain = fit(classifier(), Classification(), x, y, **settings)
    off = fit(classifier(), Classification(), x, y, **settings, options=Options())
    assert same(plain.network, off.network)
    assert plain.network.metadata == off.network.metadata
    assert plain.network.metadata["training"].keys() == {
        *("architecture", "objective", "data", "start", "epochs", "batch_size", "learning_rate"),
        *("schedule", "optimizer", "seed", "steps"),
    }


def test_loading_is_told_after_each_epoch() -> None:
    x, y = images()
    said: list[str] = []
    fit(classifier(), Classification(), x, y, epochs=2, batch_size=8, progress=lambda _, line: said.append(line))
    assert ["% of the time" in line for line in said] == [False, False, True] * 2


# Divergence ----------------------------------------------------------------------------------------------------------


class Breaking(Classification):
    """Its loss is not a number at one sample of one epoch."""

    def evaluate(self, network: Network, batch: Batch, *, training: bool) -> SliceResult:
        result = super().evaluate(network, batch, training=training)
        if training and batch.epoch == 1 and 0 in batch.sample_index:
            result.sums["loss"] = math.nan
        return result


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_divergence_names_step_batch_and_checkpoint(tmp_path: Path, every: float) -> None:
    x, y = images()
    order = [fit_order(epoch) for epoch in (0, 1)]
    number = order[1].index(0) // 8
    path = tmp_path / "state.h5"
    with pytest.raises(InputError) as caught:
        fit(
            classifier(),
            Breaking(),
            x,
            y,
            epochs=2,
            batch_size=8,
            checkpoint=path,
            checkpoint_every=every,
            learning_rate=0.1,
        )
    step = 3 + number
    assert str(caught.value) == (
        f"learning_rate: the loss is not finite any more at step {step + 1} (epoch 2, batch {number + 1} of 3): the "
        f"training diverges; train with a smaller one, or with clip_norm; {path} has the last finite parameters, those "
        f"of step {step}"
    )
    with pytest.raises(InputError, match=r"diverges; train with a smaller one, or with clip_norm$"):
        fit(classifier(), Breaking(), x, y, epochs=2, batch_size=8)


def fit_order(epoch: int) -> list[int]:
    ops = classifier().ops
    return list(map(int, ops.permutation(24, key=ops.derive_key(0, "order", epoch))))


def test_a_checkpoint_that_was_never_written_is_not_named(tmp_path: Path) -> None:
    """Parameters that are broken within a step leave nothing finite to keep."""
    x, y = images(16)
    layers = [Flatten(), Linear(108, 36), ReLU(), Linear(36, 4)]
    network = build(layers, (3, 6, 6), initialisation="he", dtype="float64")
    path = tmp_path / "state.h5"
    with pytest.raises(InputError, match="diverges") as caught, np.errstate(over="ignore", invalid="ignore"):
        fit(
            network,
            Classification(),
            x,
            y,
            epochs=400,
            batch_size=4,
            learning_rate=1e200,
            optimizer="sgd",
            checkpoint=path,
        )
    assert (str(path) in str(caught.value)) == path.exists()


# Bad settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"momentum": 1.0}, "momentum: expected"),
        ({"momentum": -0.1}, "momentum: expected"),
        ({"weight_decay": -1}, "weight_decay: expected"),
        ({"weight_decay": math.nan}, "weight_decay: expected"),
        ({"clip_norm": 0}, "clip_norm: expected"),
        ({"clip_norm": math.inf}, "clip_norm: expected"),
        ({"averaging": 1.0}, "averaging: expected"),
        ({"milestones": ()}, "milestones: expected at least one"),
        ({"milestones": (0.5, 0.5)}, "milestones: expected"),
        ({"milestones": (0.0,)}, "milestones: expected"),
        ({"milestones": (0.5, 1.0)}, "milestones: expected"),
        ({"factor": 0}, "factor: expected"),
    ],
)
def test_bad_options(settings: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Options(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "settings", "words"),
    [
        (Options(momentum=0.5), {}, "momentum: only of optimizer"),
        (Options(milestones=(0.5,)), {}, "milestones: only of schedule"),
        (Options(factor=0.5), {"schedule": "cosine"}, "factor: only of schedule"),
        (Options(robust_check=RobustCheck(PGD)), {}, "robust_check: needs validation images"),
    ],
)
def test_options_that_do_not_fit(options: Options, settings: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        fit(classifier(), Classification(), *images(), epochs=1, **settings, options=options)
    assert "\n" not in str(caught.value)


def test_options_for_images_and_classifiers() -> None:
    x, y = images()
    flat = build([Linear(108, 4)], (108,), initialisation="he", dtype="float64")
    moved = Options(augment=Augmentation(flip=True))
    with pytest.raises(InputError, match="augment: only for images"):
        fit(flat, Classification(), x.reshape(24, -1), y, epochs=1, options=moved)
    checked = Options(robust_check=RobustCheck(PGD))
    with pytest.raises(InputError, match="robust_check: only for classifiers"):
        fit(denoiser(3), Denoising(0.1), x, y, epochs=1, validation=(x, y), options=checked)
