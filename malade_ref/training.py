r"""Training: runs an objective of `objectives` over batches, with schedules, validation and checkpoints.

Everything random is a function of (seed, epoch, sample): a run that was interrupted, in the middle of an epoch too, and
taken up again from its checkpoint ends with the same weights, bit for bit, as one that was not.

References
----------
.. [1] Wong, Rice, Kolter, "Fast is better than free", ICLR 2020: adversarial training with one random-start step.
.. [2] Smith, Topin, "Super-convergence", 2018: the one-cycle schedule.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from .arrays import Array
from .checkpoint import load_state, save_state
from .checks import InputError, check_choice, check_count, check_model, check_number
from .defence import MALADE
from .layers import Parameters
from .network import Network, check_finite, fingerprint
from .objectives import (
    Adversarial as Adversarial,
)
from .objectives import (
    Batch as Batch,
)
from .objectives import (
    Classification as Classification,
)
from .objectives import (
    Denoising as Denoising,
)
from .objectives import (
    Distillation as Distillation,
)
from .objectives import (
    FrozenClassifier as FrozenClassifier,
)
from .objectives import (
    Objective as Objective,
)
from .objectives import (
    SliceResult as SliceResult,
)
from .objectives import (
    SupervisedDenoising as SupervisedDenoising,
)
from .showing import History as History
from .showing import shortly
from .training_options import Options as Options

Progress = Callable[[float, str], None]
Images = tuple[Array, Array]

SCHEDULES = ("one-cycle", "cosine", "constant", "piecewise")
OPTIMIZERS = ("adam", "sgd")
PLAIN = Options()


@shortly
class Fitted(NamedTuple):
    """A trained network.

    Attributes
    ----------
    network : Network
        With its final parameters; the metadata of a training that was stopped say so, ``["training"]["stopped"]``.
    history : dict of str to list of float
        One number an epoch: "epoch", "loss", further sums of the objective, "validation_..." of each, "learning_rate",
        and with a `RobustCheck` "robust_accuracy".
    """

    network: Network
    history: History


def fit(
    network: Network,
    objective: Objective,
    images: Array,
    labels: Array,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    schedule: str = "one-cycle",
    optimizer: str = "adam",
    validation: Images | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    checkpoint_every: float = 20.0,
    progress: Progress | None = None,
    options: Options = PLAIN,
) -> Fitted:
    """Train a network.

    Parameters
    ----------
    network : Network
        Where to start.
    objective : Objective
        What to minimise.
    images : array of shape (n, c, h, w) or (n, d)
        Training images, pixels in [0, 1], or vectors, any finite numbers; of the network's dtype.
    labels : array of shape (n,), integer
        Their classes.
    epochs : int
        Passes over the images; each in a fresh order. The last batch of a pass may be smaller, but where the network
        has batch statistics a last batch of one image joins the batch before: one value has no variance.
    batch_size : int
        Images a step; at least 2 with batch statistics.
    learning_rate : float
        Peak of the schedule.
    schedule : {"one-cycle", "cosine", "constant", "piecewise"}
        Cosine up from 1/25 over the first 30% of the steps, then down to 0; down only; neither; or constant but for a
        factor at each of some milestones, see `Options`.
    optimizer : {"adam", "sgd"}
        Adam with its standard decays, or gradient descent with momentum.
    validation : tuple of (images, labels), optional
        Evaluated after every epoch.
    seed : int
        Of the order and the noise.
    checkpoint : Path, optional
        File for interruptions: taken up if it is there, written about every ``checkpoint_every`` seconds, after every
        epoch, and on an interrupt.
    checkpoint_every : float
        Seconds.
    progress : callable, optional
        Told the fraction done and a line of text; after each epoch with the share of the time that went into taking
        images and augmenting them (on a GPU: into asking for it).
    options : Options
        Augmentation, weight decay, clipping, averaging and more; by default none of it.

    Returns
    -------
    Fitted
        The network and its history. A training that its `RobustCheck` stops ends with the weights of the best epoch.

    Raises
    ------
    InputError
        If the images, the labels or a setting are not as expected, the loss or a parameter is no longer finite (the
        checkpoint then has the last finite ones), or the checkpoint belongs to another training.
    """
    check_model("network", network)
    for role, needs in (("classifier", "loss_gradient_of"), ("victim", "logits")):
        if hasattr(objective, role):
            check_model(role, getattr(objective, role), needs=needs)
    ops = network.ops
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    check_number("learning_rate", learning_rate, above=0)
    check_choice("schedule", schedule, SCHEDULES)
    check_choice("optimizer", optimizer, OPTIMIZERS)
    # A denoiser's outputs are not classes, in one dimension as in three.
    denoises = isinstance(objective, Denoising) or len(network.output_shape) > 1
    num_classes = 1 << 31 if denoises else network.num_classes
    options.check_settings(optimizer=optimizer, schedule=schedule)
    options.check(network, validated=validation is not None)
    for name, (x, y) in {"training": (images, labels), **({"validation": validation} if validation else {})}.items():
        network.check_inputs(f"{name} images" if len(network.input_shape) > 1 else f"{name} vectors", x)
        ops.check_labels(f"{name} labels", y, len(x), num_classes)
        if len(x) == 0:
            raise InputError(f"{name} images: expected at least one, got none")
    steps_per_epoch = _steps_per_epoch(network, len(images), batch_size)
    settings = training_settings(
        network,
        objective,
        images,
        labels,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        optimizer=optimizer,
        seed=seed,
        options=options,
    )
    state, kept = _State.begin(network, optimizer), None
    if checkpoint is not None and checkpoint.exists():
        state = _State.load(checkpoint, network, optimizer, settings)
        kept = state.step
    saved = began = time.monotonic()
    loading = 0.0
    order_of = lru_cache(maxsize=1)(
        lambda epoch: ops.permutation(len(images), key=ops.derive_key(seed, "order", epoch))
    )
    try:
        while state.step < epochs * steps_per_epoch and state.stopped is None:
            epoch, number = divmod(state.step, steps_per_epoch)
            last_of_epoch = number == steps_per_epoch - 1
            index = order_of(epoch)[number * batch_size : len(images) if last_of_epoch else (number + 1) * batch_size]
            rate = learning_rate * _schedule(schedule, (state.step + 0.5) / (epochs * steps_per_epoch), options)
            asked = time.monotonic()
            batch = Batch(images[index], labels[index], index, epoch, seed)
            if options.augment is not None:
                batch = options.augment.apply(ops, batch)
            loading += time.monotonic() - asked
            before, state = state, _train_step(network, objective, batch, state, optimizer, rate, options)
            due = time.monotonic() - saved > checkpoint_every or last_of_epoch
            trouble = state.trouble(parameters=due)
            if last_of_epoch and trouble is None:
                state = _end_epoch(network, objective, validation, state, len(images), epoch, rate, seed, options)
                trouble = state.trouble()
            if trouble is not None:
                state = before  # an interrupt from here on saves nothing worse
                if checkpoint is not None and before.trouble(parameters=True) is None:
                    before.save(checkpoint, network, settings)
                    kept = before.step
                last = "" if kept is None else f"; {checkpoint} has the last finite parameters, those of step {kept}"
                at = f"at step {before.step + 1} (epoch {epoch + 1}, batch {number + 1} of {steps_per_epoch})"
                mend = f"train with a smaller one, or with clip_norm{last}"
                raise InputError(f"learning_rate: {trouble} {at}: the training diverges; {mend}")
            if checkpoint is not None and due:
                state.save(checkpoint, network, settings)
                saved, kept = time.monotonic(), state.step
            if progress is not None:
                message = _message(state, epochs, batch_size * (number + 1))
                if last_of_epoch:
                    message += f"; loading {100 * loading / max(time.monotonic() - began, 1e-9):.2g}% of the time"
                progress(state.step / (epochs * steps_per_epoch), message)
            if last_of_epoch:
                loading, began = 0.0, time.monotonic()
    except KeyboardInterrupt:
        if checkpoint is not None and state.trouble(parameters=True) is None:
            state.save(checkpoint, network, settings)
        raise
    if state.stopped is not None and progress is not None:
        progress(1.0, state.stopped["why"])
    stopped = {} if state.stopped is None else {"stopped": state.stopped}
    metadata = {**network.metadata, "training": {**settings, "steps": state.step, **stopped}}
    params = options.result(state.params, state.average, state.step) if state.stopped is None else state.best
    return Fitted(network.replace_params(params, metadata), History(state.history))


def training_settings(
    network: Network,
    objective: Objective,
    images: Array,
    labels: Array,
    *,
    options: Options = PLAIN,
    **settings: int | float | str,
) -> dict[str, Any]:
    """What the result of a training depends on; a trained network keeps it as ``metadata["training"]``.

    Parameters
    ----------
    network, objective, images, labels, options
        As given to `fit`; of the options those that are not as by default.
    **settings
        The ``epochs``, ``batch_size``, ``learning_rate``, ``schedule``, ``optimizer`` and ``seed`` of `fit`.

    Returns
    -------
    dict
        JSON-able.
    """
    return {
        "architecture": network.architecture(),
        "objective": _describe(objective),
        "data": fingerprint(network.ops, {"images": images, "labels": labels}),
        "start": network.fingerprint(),
        **settings,
        **{name: _described(value) for name, value in options.changed().items()},
    }


def evaluate(
    network: Network, objective: Objective, images: Array, labels: Array, *, seed: int = 0
) -> dict[str, float]:
    """Mean losses of an objective over images, without training.

    Parameters
    ----------
    network : Network
        What to evaluate.
    objective : Objective
        With which losses. Denoising noise is that of validation, addressed by position.
    images : array of shape (n, c, h, w)
        At least one.
    labels : array of shape (n,), integer
        Their classes.
    seed : int
        Of the noise.

    Returns
    -------
    dict of str to float
        "loss" and what else the objective follows; means over images.
    """
    if len(images) == 0:
        raise InputError("images: expected at least one, got none")
    whole = Batch(images, labels, network.ops.arange(len(images)), 0, seed)
    results = network.ops.map_slices(
        lambda part: objective.evaluate(network, whole.part(part), training=False).sums,
        len(images),
        slice_size=network.slice_size,
        summed=True,
    )
    return {name: sum(sums[name] for sums in results) / len(images) for name in results[0]}


class _State(NamedTuple):
    """Everything that changes during a training, never modified in place.

    `first` and `second` are the optimiser's running means (of SGD only the first); `sums` those of the present epoch;
    `average` is the weights' running mean, and `best` what was best in the robust check, if there are any; `stopped`
    says why the training has ended early.
    """

    step: int
    params: Parameters
    first: Parameters
    second: Parameters
    sums: dict[str, float]
    history: dict[str, list[float]]
    average: Parameters
    best: Parameters
    stopped: dict[str, Any] | None = None

    @property
    def groups(self) -> dict[str, Parameters]:
        return {name: getattr(self, name) for name in ("params", "first", "second", "average", "best")}

    @classmethod
    def begin(cls, network: Network, optimizer: str) -> _State:
        trained = {name: value for name, value in network.params.items() if network.trains(name)}
        zeros = {name: network.ops.zeros(value.shape, network.dtype) for name, value in trained.items()}
        return cls(0, network.params, zeros, dict(zeros) if optimizer == "adam" else {}, {}, {}, {}, {})

    def trouble(self, *, parameters: bool = False) -> str | None:
        """What is not finite any more: a sum, the last numbers of the history, and if asked the parameters."""
        numbers = {**{name: values[-1] for name, values in self.history.items()}, **self.sums}
        broken = [name for name, value in numbers.items() if not math.isfinite(value)]
        if broken:
            return f"the {broken[0].replace('_', ' ')} is not finite any more"
        arrays = [*self.params.items(), *self.first.items(), *self.second.items()] if parameters else []
        for name, value in arrays:
            try:
                check_finite(name, value)
            except InputError:
                return f"the parameter {name} is not finite any more"
        return None

    def save(self, path: Path, network: Network, settings: dict[str, Any]) -> None:
        arrays = {
            f"{group}/{name}": network.ops.to_host(value)
            for group, values in self.groups.items()
            for name, value in values.items()
        }
        meta = {"settings": settings, "step": self.step, "sums": self.sums, "history": self.history}
        save_state(path, arrays, meta if self.stopped is None else {**meta, "stopped": self.stopped})

    @classmethod
    def load(cls, path: Path, network: Network, optimizer: str, settings: dict[str, Any]) -> _State:
        arrays, meta = load_state(path)
        if meta.get("settings") != json.loads(json.dumps(settings)):
            raise InputError(f"{path}: checkpoint of another training (settings or data); delete it to start anew")
        fresh = cls.begin(network, optimizer).groups
        groups: dict[str, Parameters] = {name: {} for name in fresh}
        # An average is there from the first step on, a best epoch from the first epoch on, if they are asked for.
        history = dict(meta["history"])
        fresh["average"] = network.params if "averaging" in settings and meta["step"] else {}
        fresh["best"] = network.params if history.get("robust_accuracy") else {}
        for key, value in arrays.items():
            group, _, name = key.partition("/")
            groups[group][name] = network.ops.asarray(value)
        for group, expected in fresh.items():
            if groups[group].keys() != expected.keys():
                raise InputError(f"{path}: checkpoint lacks parts of {group}; delete it to start anew")
        state = cls(int(meta["step"]), **groups, sums=dict(meta["sums"]), history=history, stopped=meta.get("stopped"))
        trouble = state.trouble(parameters=True)
        if trouble is not None:
            raise InputError(f"{path}: {trouble}; delete it to start anew")
        return state


def _train_step(
    network: Network,
    objective: Objective,
    batch: Batch,
    state: _State,
    optimizer: str,
    rate: float,
    options: Options = PLAIN,
) -> _State:
    ops = network.ops
    network = network.replace_params(state.params, check=False)
    batch = objective.prepare(network, batch)
    size = len(batch.x)
    # A network with batch statistics sees the batch in one piece.
    slice_size = size if network.mixes_samples else network.slice_size
    results = ops.map_slices(
        lambda part: objective.evaluate(_at_step(network, batch.part(part)), batch.part(part), training=True),
        size,
        slice_size=slice_size,
        summed=True,
    )
    sums = dict(state.sums)
    for result in results:
        for name, value in result.sums.items():
            sums[name] = sums.get(name, 0.0) + value
    params = dict(state.params)
    if network.mixes_samples:
        params.update(results[0].buffers)
    first, second = dict(state.first), dict(state.second)
    gradients = {name: ops.add_up([result.gradients[name] for result in results]) / size for name in first}
    for name, gradient in options.clipped(gradients).items():
        params[name], gradient = options.decayed(name, params[name], gradient, optimizer=optimizer, learning_rate=rate)
        if optimizer == "adam":
            params[name], first[name], second[name] = ops.adam_step(
                params[name], gradient, first[name], second[name], step=state.step + 1, learning_rate=rate
            )
        else:
            params[name], first[name] = ops.sgd_step(
                params[name], gradient, first[name], learning_rate=rate, momentum=options.momentum
            )
    average = options.averaged(state.average, params)
    return _State(state.step + 1, params, first, second, sums, state.history, average, state.best)


def _steps_per_epoch(network: Network, num_images: int, batch_size: int) -> int:
    """Batches of a pass; with batch statistics none has one image, whose values would have no variance."""
    steps = -(-num_images // batch_size)
    if not network.mixes_samples:
        return steps
    if batch_size == 1 or num_images == 1:
        name = "batch_size" if num_images > 1 else "training images"
        why = "for a network with batch normalisation, as one value has no variance"
        raise InputError(f"{name}: expected at least 2 {why}; got 1")
    return steps - 1 if num_images % batch_size == 1 else steps


def _at_step(network: Network, batch: Batch) -> Network:
    """The network with what its layers draw for these samples."""
    return network.at_step(batch.seed, batch.sample_index, batch.epoch)


def _end_epoch(
    network: Network,
    objective: Objective,
    validation: Images | None,
    state: _State,
    num_images: int,
    epoch: int,
    rate: float,
    seed: int,
    options: Options,
) -> _State:
    """Write the epoch into the history, clear its sums, and see whether the training has collapsed."""
    numbers = {"epoch": float(epoch + 1), "learning_rate": rate}
    numbers |= {name: value / num_images for name, value in state.sums.items()}
    best, stopped = state.best, None
    if validation is not None:
        network = network.replace_params(options.result(state.params, state.average, state.step), check=False)
        means = evaluate(network, objective, *validation, seed=seed)
        numbers |= {f"validation_{name}": value for name, value in means.items()}
        if options.robust_check is not None:
            numbers["robust_accuracy"] = options.robust_check.accuracy(network, *validation, seed=seed)
            before = state.history.get("robust_accuracy", [])
            best = best if before and numbers["robust_accuracy"] <= max(before) else network.params
            stopped = options.robust_check.collapse(
                [*before, numbers["robust_accuracy"]], network.num_classes, len(validation[0])
            )
    history = {name: [*state.history.get(name, []), value] for name, value in numbers.items()}
    return state._replace(sums={}, history=history, best=best, stopped=stopped)


def _schedule(name: str, fraction: float, options: Options = PLAIN) -> float:
    """Learning rate relative to its peak, at a fraction of the steps."""
    if name == "piecewise":
        return options.factor ** sum(fraction >= milestone for milestone in options.milestones)
    if name == "constant":
        return 1.0
    if name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * fraction))
    rise, start = 0.3, 1 / 25
    if fraction < rise:
        return start + (1 - start) * 0.5 * (1 - math.cos(math.pi * fraction / rise))
    return 0.5 * (1 + math.cos(math.pi * (fraction - rise) / (1 - rise)))


def _message(state: _State, epochs: int, seen: int) -> str:
    if not state.sums:
        shown = {name: values[-1] for name, values in state.history.items() if name not in ("epoch", "learning_rate")}
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
        return f"epoch {len(state.history['epoch'])}/{epochs}: {numbers}"
    numbers = ", ".join(f"{name} {value / seen:.4g}" for name, value in state.sums.items())
    return f"epoch {len(state.history.get('epoch', [])) + 1}/{epochs}: {numbers}"


def _describe(objective: Any) -> dict[str, Any]:
    """Return the objective as JSON, for checkpoints and metadata."""
    return {"name": type(objective).__name__, **{name: _described(value) for name, value in vars(objective).items()}}


def _described(value: Any) -> Any:
    """A part of an objective, or an option, as JSON."""
    if hasattr(value, "fingerprint"):
        return value.fingerprint()
    if isinstance(value, MALADE):
        networks = {"classifier": value.classifier, "denoiser": value.denoiser}
        fingerprints = {part: network.fingerprint() for part, network in networks.items()}
        return {**fingerprints, **value.chain._asdict()}
    if is_dataclass(value):
        return _describe(value)
    if callable(value):
        keywords = getattr(value, "keywords", {})
        return {"function": getattr(getattr(value, "func", value), "__name__", "?"), **keywords}
    return value
