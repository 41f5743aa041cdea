"""Made-up outcomes of attacks, healthy ones by default, for tests of evaluation, audit and report.

Every sample has a radius of its own at which a defence begins to fail; an attack of strength s does with eps what a
perfect one does with s * eps. So stronger attacks and larger eps always leave less.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from malade_ref.bundle import Bundle
from malade_ref.evaluation import Cell
from malade_ref.storage import Record


class MadeDefence(NamedTuple):
    """Median radius at which it fails, share right on clean images, draws."""

    radius: float
    clean: float
    draws: int


class MadeAttack(NamedTuple):
    """How strong an attack is, against whom, and what it says of itself."""

    strength: float
    against: tuple[str, ...]
    method: str
    settings: Mapping[str, Any]
    source: str = "defence"
    num_gradients: int = 40
    title: str = ""


DEFENCES = {
    "cnn": MadeDefence(0.08, 0.99, 1),
    "cnn+malade": MadeDefence(0.2, 0.96, 40),
    "madry": MadeDefence(0.36, 0.98, 1),
    "madry+malade": MadeDefence(0.34, 0.95, 40),
}
CHAINS = ("cnn+malade", "madry+malade")
ATTACKS = {
    "noise": MadeAttack(0.2, tuple(DEFENCES), "uniform_noise", {}, num_gradients=0, title="uniform noise"),
    "fgsm": MadeAttack(0.7, tuple(DEFENCES), "fgsm", {"mode": "exact"}, num_gradients=1, title="FGSM"),
    "pgd": MadeAttack(1.0, ("cnn", "madry"), "pgd", {"num_steps": 40}, title="PGD-40"),
    "transfer": MadeAttack(
        0.45, CHAINS, "pgd", {"num_steps": 40}, source="classifier", title="PGD-40 on the bare classifier"
    ),
    "bpda": MadeAttack(
        0.8, CHAINS, "bpda_eot", {"num_steps": 40, "num_draws": 10}, num_gradients=400, title="BPDA, EOT 10"
    ),
    "exact": MadeAttack(
        1.0,
        CHAINS,
        "pgd",
        {"num_steps": 40, "num_draws": 10, "mode": "exact"},
        num_gradients=400,
        title="exact, EOT 10",
    ),
}
EPS = (0.1, 0.3, 0.6)


def made_cell(
    name: str, attack_name: str, eps: float, *, defence: MadeDefence, attack: MadeAttack | None, num_samples: int
) -> Cell:
    """Outcomes of one defence under one attack; clean images without one."""
    own = np.random.default_rng(zlib.crc32(name.encode()))
    radius = defence.radius * np.exp(0.25 * own.standard_normal(num_samples))
    known = own.random(num_samples) < defence.clean
    rng = np.random.default_rng(zlib.crc32(f"{name}/{attack_name}/{eps:g}".encode()))
    margin = radius - (attack.strength * eps if attack else 0.0)
    if defence.draws == 1:
        correct = (known & (margin > 0))[:, None]
    else:
        p = known / (1 + np.exp(np.clip(-margin / 0.02, -50, 50)))
        correct = rng.random((num_samples, defence.draws)) < p[:, None]
    order = np.random.default_rng(0).permutation(1000)[:num_samples]
    num_gradients = attack.num_gradients if attack else 0
    arrays = {
        "sample_index": order,
        "label": order % 10,
        "correct": correct,
        "success": ~correct[:, 0],
        "loss": rng.random(num_samples),
        "distance": np.full(num_samples, eps, dtype=np.float64),
        "num_queries": np.full(num_samples, num_gradients + 1),
        "num_gradients": np.full(num_samples, num_gradients),
    }
    meta: dict[str, Any] = {"defence": name, "attack": attack_name, "eps": eps, "method": "clean", "norm": ""}
    meta |= {"settings": {}, "source": "defence"}
    if attack:
        meta |= {"method": attack.method, "norm": "linf", "settings": dict(attack.settings), "source": attack.source}
    return Cell(name, attack_name, eps, meta, arrays)


def made_cells(
    *,
    defences: Mapping[str, MadeDefence] = DEFENCES,
    attacks: Mapping[str, MadeAttack] = ATTACKS,
    eps: tuple[float, ...] = EPS,
    num_samples: int = 200,
) -> list[Cell]:
    """Outcomes of every defence, clean and under every attack."""
    cells = []
    for name, defence in defences.items():
        cells.append(made_cell(name, "clean", 0.0, defence=defence, attack=None, num_samples=num_samples))
        for attack_name, attack in attacks.items():
            if name in attack.against:
                cells += [
                    made_cell(name, attack_name, size, defence=defence, attack=attack, num_samples=num_samples)
                    for size in eps
                ]
    return cells


CHECKS = {
    "gradient": {name: {"relative_error": 1e-8, "zero_share": 0.0, "num_samples": 4} for name in DEFENCES},
    "eot": {
        name: {
            mode: {"num_draws": [1, 10, 32], "cosine": [0.3, 0.81, 0.93], "num_samples": 16}
            for mode in ("exact", "bpda")
        }
        for name in CHAINS
    },
}

_TRAINING = {"batch_size": 128, "learning_rate": 0.001, "schedule": "one-cycle", "optimizer": "adam", "epochs": 3}
CONFIG: dict[str, Any] = {
    "name": "made",
    "title": "Made-up outcomes",
    "note": "Nothing here was measured.",
    "seed": 3,
    "backend": "malade_ref",
    "data": {
        "name": "synthetic-digits",
        "note": "Synthetic: not MNIST.",
        "seed": 0,
        **{"train": 5000, "validation": 500, "test": 1000},
        "sha256": {"train": "0" * 64, "validation": "1" * 64, "test": "2" * 64},
    },
    "models": {
        "cnn": {"kind": "classifier", "name": "CNN", **_TRAINING},
        "madry": {
            **{"kind": "classifier", "name": "Madry", "note": "The fast variant: one step a batch.", "subset": 2000},
            **{"adversarial": {"method": "fgsm", "settings": {"eps": 0.3}}, **_TRAINING},
        },
        "dae": {"kind": "denoiser", "name": "DAE", "sigma2": 0.15, **_TRAINING},
        "sdae-cnn": {
            **{"kind": "denoiser", "name": "sDAE of CNN", "sigma2": 0.15, "classifier": "cnn", "ce_weight": 1.0},
            **{"init": "dae", **_TRAINING},
        },
    },
    "defences": {
        "cnn": {"name": "CNN"},
        "cnn+malade": {"name": "CNN+MALADE"},
        "madry": {"name": "Madry"},
        "madry+malade": {"name": "Madry+MALADE"},
    },
    "attacks": [{"name": name, "title": attack.title} for name, attack in ATTACKS.items()],
    "paths": {"defence": "cnn+malade", "marginal": "dae", "attack": "pgd", "eps": 0.3},
    "report": {"norm": "linf", "eps": 0.3},
    "paper": [
        {"table": "Table 1", "defence": "cnn+malade", "attack": "worst", "accuracy": 82.48},
        {"table": "Table 1", "defence": "madry", "attack": "worst", "accuracy": 93.71},
    ],
}


def made_records(num_images: int = 2) -> dict[str, Record]:
    """What stages of a run keep, other than outcomes."""
    rng = np.random.default_rng(1)
    grid = [
        (n, a, d, 0.98 - 0.02 * a, 0.5 + 0.2 * a - d) for n in (5, 10) for a in (0.2, 0.5, 1.0) for d in (0.0, 0.05)
    ]
    columns = zip(("num_steps", "a", "delta", "clean", "attacked"), zip(*grid, strict=True), strict=True)
    search = {
        "chosen": {"num_steps": 5, "a": 1.0, "delta": 0.0, "clip": True},
        "criterion": "highest accuracy on attacked validation images",
        "criterion_met": True,
        "at_edge_of_grid": ["num_steps", "a", "delta"],
        "num_images": 300,
        "undefended": {"clean": 0.99, "attacked": 0.0},
    }
    chain = {"num_steps": 5, "a": 1.0, "delta": 0.05, "clip": True, "sigma2": 0.15}
    quality = {
        "cnn": {"kind": "classifier", "num_images": 1000, "accuracy": 0.987},
        "madry": {"kind": "classifier", "num_images": 1000, "accuracy": 0.973},
        "dae": {"kind": "denoiser", "num_images": 1000, "error": 10.5, "cross_entropy": {}},
        "sdae-cnn": {"kind": "denoiser", "num_images": 1000, "error": 9.7, "cross_entropy": {"cnn": 0.107}},
    }
    steps = np.array([0, 1, 2, 3, 5])
    paths = {
        "clean": rng.random((num_images, 1, 28, 28), dtype=np.float32),
        "clean_probability": rng.dirichlet(np.ones(10), num_images),
        "steps": steps,
        "label": np.arange(num_images),
        "sample_index": np.arange(num_images),
    }
    for chain_name in ("malade", "marginal"):
        paths[f"{chain_name}/position"] = rng.random((len(steps), num_images, 1, 28, 28), dtype=np.float32)
        paths[f"{chain_name}/probability"] = rng.dirichlet(np.ones(10), (len(steps), num_images))
    chains = {"malade": "CNN+MALADE", "marginal": "the same chain with dae"}
    return {
        "quality": Record({}, quality),
        "settings": Record({}, dict.fromkeys(CHAINS, chain)),
        "search/cnn+malade": Record({name: np.array(column) for name, column in columns}, search),
        "audit": Record({}, CHECKS),
        "paths": Record(paths, {"chains": chains}),
    }


def made_histories() -> dict[str, dict[str, list[float]]]:
    """Losses that fall."""
    epochs = np.arange(1.0, 4.0)
    classifier = {
        "epoch": list(epochs),
        "loss": list(1 / epochs),
        "validation_loss": list(0.9 / epochs),
        "validation_accuracy": [0.9, 0.95, 0.98],
    }
    denoiser = {
        "epoch": list(epochs),
        "loss": list(90 / epochs),
        "error": list(90 / epochs),
        "validation_error": [3.0] * 3,
    }
    return {"cnn": classifier, "madry": classifier, "dae": denoiser, "sdae-cnn": denoiser}


def write_bundle(folder: Path, cells: list[Cell], **changes: Any) -> Bundle:
    """A bundle that has all but its report, still being computed."""
    bundle = Bundle.create(folder, "# made", {**CONFIG, **changes})
    for cell in cells:
        rows = dict(cell.arrays)
        bundle.shards(cell.name, len(cell.sample_index), 1000, lambda first, last, rows=rows: rows, meta=cell.meta)
    for name, record in made_records().items():
        bundle.stage(name, lambda record=record: record, keep=True)
    bundle.merge()
    return bundle
