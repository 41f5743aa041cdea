"""A run in miniature: every kind of step that a bundle knows, computed in no time.

``python -m tests.faults.fake_run FOLDER SECONDS KILLS SEED`` lets a process run it, every step taking so many
seconds, kills it at a random moment, and so on; the last process is left in peace. Processes are forked, so
that none spends its short life importing.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from malade_ref import checkpoint
from malade_ref.bundle import Bundle, environment
from malade_ref.network import Network, mlp
from malade_ref.storage import Record, to_json

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
    bundle.write("results.json", to_json("results", results))
    bundle.write("figures/curve.png", b"not really a PNG")
    bundle.write("report.md", f"# Fake\n\n{results}\n")
    pause()
    bundle.finish()


def forked(folder: str, seconds: float) -> int:
    """Begin the run or go on with it in a process of its own; give its number."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with Bundle.resume(folder, EXPERIMENT, CONFIG) as bundle:
                run(bundle, lambda: time.sleep(seconds))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def main(folder: str, seconds: str, kills: str, seed: str) -> None:
    """Run and kill; say how many processes died of it."""
    environment.describe_environment = lambda device=None: {"fake": True}  # quick, so that processes die at work
    start = time.monotonic()
    os.waitpid(forked(f"{folder}-undisturbed", float(seconds)), 0)
    duration = time.monotonic() - start
    chance, killed = random.Random(int(seed)), 0
    for last in [False] * int(kills) + [True]:
        pid = forked(folder, float(seconds))
        if not last:
            time.sleep(chance.random() * 1.5 * duration / int(kills))
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        killed += status == -signal.SIGKILL
        if status > 0:
            sys.exit(status)
    print(killed)


if __name__ == "__main__":
    main(*sys.argv[1:])
