"""A small run of everything that gives results: chains, gradients, every attack. Prints what `test_bits` compares.

Run as a program, since which code path NumPy and the BLAS take is settled when they are loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy
import threadpoolctl
from numpy._core import _multiarray_umath

from malade_ref import MALADE, attacks, cnn, ops, sdae
from malade_ref.layers import Flatten, Linear, Reshape, Tanh
from malade_ref.mcmc import mala, ula, walk
from malade_ref.network import build, mlp
from malade_ref.sampling import Stream

STEPS: dict[str, Any] = {"num_steps": 4, "step_size": 0.05}
NEAREST: dict[str, Any] = {"num_steps": 8, "num_search_steps": 2, "initial_weight": 1.0, "step_size": 0.1}
ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "apgd": ("apgd", {"num_steps": 5, "eps": 0.2}),
    "apgd dlr": ("apgd", {"num_steps": 5, "eps": 0.2, "loss": "dlr", "num_targets": 2, "transfer_start": True}),
    "auto": ("auto_attack", {"eps": 0.2, "num_steps": 2, "num_targets": 2, "num_square_steps": 3, "num_draws": 2}),
    "auto rand": ("auto_attack", {"eps": 0.2, "num_steps": 3, "num_draws": 2, "version": "rand"}),
    "boundary": ("boundary", {"eps": 9.0, "num_steps": 12, "window": 4, "num_checks": 2, "num_starts": 4}),
    "bpda": ("bpda", {"eps": 0.2, **STEPS, "mode": "bpda-denoiser", "num_restarts": 2}),
    "bpda_eot": ("bpda_eot", {"eps": 0.2, **STEPS, "num_draws": 3, "expectation": "logits"}),
    "cw": ("cw", NEAREST),
    "drift_pgd": ("drift_pgd", {"eps": 0.2, **STEPS, "num_draws": 2, "weight": 0.1}),
    "ead": ("ead", {**NEAREST, "rule": "l1", "abort_early": True}),
    "eot": ("eot", {"eps": 0.2, **STEPS, "num_draws": 3, "transfer_start": True}),
    "eot logits": ("eot", {"eps": 0.9, **STEPS, "norm": "l2", "num_draws": 2, "expectation": "logits"}),
    "fab": ("fab", {"eps": 1.0, "num_steps": 3, "num_restarts": 2}),
    "fab l2": ("fab", {"eps": 9.0, "num_steps": 3, "norm": "l2", "num_targets": 2}),
    "fgm": ("fgm", {"eps": 0.5}),
    "fgsm": ("fgsm", {"eps": 0.1, "num_draws": 2}),
    "mim": ("mim", {"eps": 0.2, **STEPS, "norm": "l2"}),
    "pgd": ("pgd", {"eps": 0.2, **STEPS, "num_restarts": 2, "common_draws": True}),
    "r_pgd": ("r_pgd", {"eps": 0.2, **STEPS}),
    "salt_and_pepper": ("salt_and_pepper", {"eps": 0.3, "num_trials": 2}),
    "salt_and_pepper smallest": (
        "salt_and_pepper",
        {"eps": 1.0, "num_trials": 2, "num_steps": 5, "smallest": True},
    ),
    "spsa": ("spsa", {"eps": 0.2, "num_steps": 2, "num_directions": 3}),
    "square": ("square", {"eps": 0.2, "num_steps": 6, "num_restarts": 2}),
    "square l2": ("square", {"eps": 0.9, "num_steps": 4, "norm": "l2"}),
    "transfer": ("transfer", {"eps": 0.2, **STEPS}),
    "uniform_noise": ("uniform_noise", {"eps": 0.2, "num_trials": 3}),
}


class Normal:
    """The standard normal density."""

    ops = ops

    def score(self, x: Any) -> Any:
        """Gradient of the log density."""
        return -x

    def log_density(self, x: Any) -> Any:
        """Logarithm of the density, up to a constant."""
        return -(x * x).sum(axis=1) / 2


def arrays() -> Iterator[tuple[str, Any]]:
    """Results by name."""
    layers = [Flatten(), Linear(36, 8), Tanh(), Linear(8, 36), Reshape((1, 6, 6))]
    classifier = mlp((1, 6, 6), 4, hidden=(8,), activation="relu", dtype="float64")
    denoiser = build(layers, (1, 6, 6), initialisation="glorot", seed=1, dtype="float64")
    defended = MALADE(classifier, denoiser, num_steps=3, a=0.3, delta=0.1)
    x = np.random.default_rng(0).random((5, 1, 6, 6))
    y = classifier.predict(x)
    y[0] = (y[0] + 1) % 4
    number = np.arange(5) * 7
    for name, (method, settings) in ATTACKS.items():
        own: dict[str, Any] = {**settings, "sample_index": number, "seed": 3, "num_judge_draws": 3}
        if method == "transfer":
            own["surrogate"] = mlp((1, 6, 6), 4, seed=5, dtype="float64")
        for kind, model in (("bare", classifier), ("defended", defended)):
            for field, value in getattr(attacks, method)(model, x, y, **own)._asdict().items():
                yield f"{name}, {kind}, {field}", value
    yield "ascent", attacks.ascent(defended, x, y, eps=0.2, num_steps=3, num_draws=2, seed=4).x_adv
    for name, settings in (("mala", mala(0.5)), ("ula", ula(0.1))):
        moved = walk(x[:, 0, 0], Normal(), settings, num_steps=9, seed=Stream(1, "walk"))
        yield f"{name}, position", moved.position
        yield f"{name}, num_accepted", moved.num_accepted

    # The paper's networks in small, in float32.
    defended = MALADE(cnn("small", seed=1), sdae("small", seed=2), num_steps=3, a=0.3, delta=0.05, seed=5)
    x = np.random.default_rng(1).random((4, 1, 28, 28), dtype=np.float32)
    y = np.array([3, 1, 4, 1])
    yield "purify", defended.purify(x, sample_index=number[:4], draw=2)
    yield "path", np.stack(defended.path(x))
    yield "logits", defended.logits(x, num_draws=3, first_draw=1)
    yield "predictions", defended.predict_draws(x, num_draws=3)
    for mode in ("exact", "bpda", "bpda-denoiser"):
        for expectation in ("loss", "logits"):
            settings = {"mode": mode, "expectation": expectation, "num_draws": 3, "first_draw": 2}
            for loss in ("ce", "margin", "dlr"):
                found = defended.loss_and_gradient(x, y, loss=loss, sample_index=number[:4], **settings)
                yield from ((f"{mode}, {expectation}, {loss}, {field}", a) for field, a in found._asdict().items())


def summary(array: Any) -> dict[str, Any]:
    """Hash of an array's bytes, and some numbers that change when it does."""
    array = np.ascontiguousarray(array)
    flat = array.reshape(-1).astype(np.float64)
    waves = [float(flat @ np.cos(np.arange(flat.size) * k) / np.sqrt(flat.size)) for k in (0.0, 1.0, 2.5)]
    return {
        "sha256": hashlib.sha256(array.tobytes()).hexdigest()[:16],
        "dtype": str(array.dtype),
        "waves": [float(f"{wave:.10g}") for wave in waves],
    }


def state() -> dict[str, Any]:
    """What the bits depend on, beside the code."""
    features, dispatched = _multiarray_umath.__cpu_features__, _multiarray_umath.__cpu_dispatch__
    return {
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas": sorted(info["architecture"] for info in threadpoolctl.threadpool_info() if "architecture" in info),
        "features": sorted(name for name in dispatched if features.get(name)),
    }


if __name__ == "__main__":
    found = {name: summary(array) for name, array in arrays()}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in [("state", state()), *found.items()]]
    print("{\n" + ",\n".join(lines) + "\n}")
