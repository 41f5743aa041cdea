"""A run in miniature: every kind of step that a bundle knows, computed in no time.

``python -m tests.faults.fake_run FOLDER [SECONDS]`` begins it or goes on with it; every step takes that long.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from malade_ref import checkpoint
from malade_ref.bundle import Bundle
from malade_ref.network import Network, mlp
from malade_ref.storage import Record

EXPERIMENT = 'name = "fake"  # with a comment\r\n'
CONFIG: dict[str, Any] = {"name": "fake", "seed": 3, "attacks": [{"name": "pgd", "eps": 0.3}], "samples": 11}
EPOCHS = 3


def train(path: Path, pause: Callable[[], None]) -> tuple[Network, dict[str, list[float]]]:
    """Halve all weights in each epoch, going on from the checkpoint."""
    network = mlp((1, 2, 2), 2, hidden=(3,), seed=CONFIG["seed"])
    params, losses = dict(network.params), []
    if path.exists():
        state = checkpoint.load_state(path)
        params, losses = dict(state.arrays), list(state.meta["losses"])
    while len(losses) < EPOCHS:
        pause()
        params = {name: value / 2 for name, value in params.items()}
        losses.append(float(sum(abs(value).sum() for value in params.values())))
        checkpoint.save_state(path, params, {"losses": losses})
    return network.replace_params(params), {"loss": losses}


def run(bundle: Bundle, pause: Callable[[], None] = lambda: None) -> None:
    """Compute a bundle, or what is left of it."""
    if bundle.finished:
        return
    network, history = bundle.trained("mlp", lambda path: train(path, pause))

    def search() -> Record:
        pause()
        return Record({"grid": np.linspace(0, 1, 5) * network.num_parameters}, {"best": {"a": 0.5}})

    best = bundle.stage("search", search, keep=True).meta["best"]["a"]
    scale = bundle.stage("work/scale", lambda: Record({"scale": np.float64(best) * np.ones(())})).arrays["scale"]

    def attack(first: int, last: int) -> dict[str, Any]:
        pause()
        index = np.arange(first, last)
        noise = np.sin(index[:, None] * np.arange(1, 4)).astype(np.float32)
        return {"success": index % 3 == 0, "loss": index * scale, "x_adv": noise}

    results = {}
    for name in ("none/pgd", "malade/pgd"):
        outcomes = bundle.shards(name, CONFIG["samples"], 4, attack, meta={"eps": 0.3})
        results[name] = {"success": int(outcomes["success"].sum()), "loss": float(outcomes["loss"].mean())}
    pause()
    bundle.merge()
    with bundle.outcomes() as reader:
        results["read"] = {"rows": reader.shape("outcomes/none/pgd/loss")[0], "loss": history["loss"][-1]}
    bundle.write_json("results.json", results)
    bundle.write("figures/curve.png", b"not really a PNG")
    bundle.write("report.md", f"# Fake\n\n{results}\n")
    pause()
    bundle.finish()


if __name__ == "__main__":
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    with Bundle.resume(sys.argv[1], EXPERIMENT, CONFIG) as bundle:
        run(bundle, lambda: time.sleep(seconds))
