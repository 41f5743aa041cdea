"""The search for a chain: by an attacker who knows the classifier only, and by one who attacks every setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from malade_ref.attacks import eot
from malade_ref.bundle.schema import check_record
from malade_ref.checks import InputError
from malade_ref.defence import MALADE
from malade_ref.experiment import read_experiment
from malade_ref.experiment.config import Method, Search
from malade_ref.experiment.search import Chains, Images, attacked_images, round_sizes, search_by_halving
from malade_ref.layers import Flatten, Linear, Reshape, Tanh
from malade_ref.network import build, mlp
from malade_ref.report.background import search_tables
from malade_ref.report.labels import Labels
from malade_ref.report.results import _search
from malade_ref.report.searching import draw_searches, front
from malade_ref.sampling import Stream
from malade_ref.storage import Record
from tests.outcomes import CONFIG

ATTACK: dict[str, Any] = {"eps": 0.2, "step_size": 0.1, "num_steps": 2, "num_judge_draws": 2}
SEARCH = Search(
    num_steps=(1, 3),
    a=(0.2, 0.6),
    delta=(0.05, 0.3),
    attack=Method(method="eot", settings=ATTACK),
    against="defence",
    num_rounds=3,
    num_images=18,
    num_draws=3,
    max_clean_drop=1.0,
)
DENOISER = build(
    [Flatten(), Linear(16, 8), Tanh(), Linear(8, 16), Reshape((1, 4, 4))],
    (1, 4, 4),
    initialisation="glorot",
    residual=True,
)


def chains() -> Chains:
    return Chains(mlp((1, 4, 4), 3, seed=1), DENOISER, True, 7)


def images(n: int = 18) -> Images:
    x = np.random.default_rng(3).random((n, 1, 4, 4)).astype(np.float32)
    return Images(x, chains().classifier.predict(x), np.arange(n))


def at_once(name: str, compute: Callable[[], Record]) -> Record:
    return compute()


@cache
def share(num_steps: int, a: float, delta: float, n: int) -> float:
    """What a setting keeps, by the attack and the defence alone."""
    part = Images(*(array[:n] for array in images()))
    model = MALADE(chains().classifier, DENOISER, num_steps=num_steps, a=a, delta=delta, seed=7)
    found = eot(model, part.x, part.y, seed=7, sample_index=part.sample_index, **ATTACK)
    answers = model.predict_draws(found.x_adv, num_draws=3, sample_index=part.sample_index, stream=Stream(7, "search"))
    return float((answers == part.y).mean())


@cache
def searched() -> tuple[Record, tuple[str, ...]]:
    """The record of the search, and the names of what it kept on its way."""
    names = []

    def keep(name: str, compute: Callable[[], Record]) -> Record:
        names.append(name)
        return compute()

    return search_by_halving(SEARCH, chains(), images(), keep=keep), tuple(names)


def test_halving_keeps_what_one_attack_after_another_would() -> None:
    found, _ = searched()
    check_record("search.h5", "search/x", found.meta, found.arrays)
    assert found.meta["rounds"] == round_sizes(SEARCH) == [2, 6, 18]
    grid = list(zip(*(found.arrays[key].tolist() for key in ("num_steps", "a", "delta")), strict=True))
    sizes = dict(zip(grid, found.arrays["images"].tolist(), strict=True))
    assert sorted(sizes.values()) == [2] * 5 + [6] * 2 + [18]
    for setting, n, attacked in zip(grid, sizes.values(), found.arrays["attacked"], strict=True):
        assert attacked == pytest.approx(share(*setting, n)), setting
    left = sorted(grid, key=lambda one: (-share(*one, 2), one))[:3]
    assert {one for one in grid if sizes[one] > 2} == set(left)
    best = min(left, key=lambda one: (-share(*one, 6), one))
    assert tuple(found.meta["chosen"][key] for key in ("num_steps", "a", "delta")) == best


def test_what_is_kept_is_not_attacked_again() -> None:
    kept: dict[str, Record] = {}
    limit = [5]

    def keep(name: str, compute: Callable[[], Record]) -> Record:
        if name not in kept:
            if not limit[0]:
                raise KeyboardInterrupt
            limit[0] -= 1
            kept[name] = compute()
        return kept[name]

    with pytest.raises(KeyboardInterrupt):
        search_by_halving(SEARCH, chains(), images(), keep=keep)
    assert len(kept) == 5
    limit[0] = 100
    resumed, whole = search_by_halving(SEARCH, chains(), images(), keep=keep), searched()[0]
    assert limit[0] == 100 - (8 + 3 + 1) + 5
    assert resumed.meta == whole.meta
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(resumed.arrays[name], array)


def test_what_costs_clean_accuracy_is_not_attacked() -> None:
    noisy = replace(SEARCH, a=(0.01,), delta=(0.01, 30.0), max_clean_drop=0.2, num_rounds=1)
    found = search_by_halving(noisy, chains(), images(), keep=at_once)
    lost = found.arrays["delta"] == 30.0
    assert (found.arrays["images"][lost] == 0).all()
    assert (found.arrays["images"][~lost] == 18).all()
    assert found.meta["chosen"]["delta"] == 0.01
    assert found.meta["criterion_met"]
    rows = _search(found)["grid"]
    assert [row["attacked"] is None for row in rows] == lost.tolist()

    hopeless = search_by_halving(replace(noisy, delta=(30.0, 60.0)), chains(), images(), keep=at_once)
    assert not hopeless.meta["criterion_met"]
    assert sorted(hopeless.arrays["images"]) == [0] * 3 + [18]


def test_work_is_counted_in_advance() -> None:
    asked = [int(name.split("-")[2]) - int(name.split("-")[1]) for name in searched()[1]]
    assert sum(images for _, images in attacked_images(SEARCH)) == sum(asked) == 8 * 2 + 3 * 4 + 1 * 12


def test_the_best_trades() -> None:
    rows = [
        {"clean": c, "attacked": a}
        for c, a in ((0.9, 0.2), (0.8, 0.5), (0.85, 0.1), (0.8, 0.4), (0.7, 0.5), (0.6, 0.6))
    ]
    assert [row["clean"] for row in front(rows)] == [0.9, 0.8, 0.6]
    assert front([]) == []


def test_the_report_says_who_attacked() -> None:
    found, _ = searched()
    results: dict[str, Any] = {"search": {"cnn+malade": _search(found)}, "cells": {}, "defences": {}}
    labels = Labels(CONFIG, results)
    text = "\n".join(search_tables(results, labels))
    assert "each attacked through its own chain on 2, then 6, then 18 of them" in text
    assert "of images" in text
    ((name, png),) = draw_searches(results, labels).items()
    assert name == "figures/search-1.png"
    assert png.startswith(b"\x89PNG")
    assert draw_searches({"search": {}}, labels) == {}


def test_rounds_need_an_attacked_defence() -> None:
    for change, told in (
        ("defences.cnn+searched.search.against=classifier", "num_rounds: has no meaning against the classifier"),
        ("defences.cnn+searched.search.against=everybody", "against"),
        ("defences.cnn+searched.search.num_rounds=0", "num_rounds"),
    ):
        with pytest.raises(InputError, match=told):
            read_experiment("strongest", [change])
