"""Statistics of cells against numbers worked out by hand, and against properties that every evaluation has."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from malade_ref.audit import audit
from malade_ref.checks import InputError
from malade_ref.evaluation import Cell, cut_cells, derive_results, summary
from malade_ref.statistics import wilson
from tests.outcomes import CONFIG, made_cells


def cell(
    correct: Any, *, defence: str = "cnn", attack: str = "pgd", eps: float = 0.3, index: Any = None, **meta: Any
) -> Cell:
    """A cell of given outcomes, (n,) or (n, M)."""
    outcomes = np.array(correct, dtype=bool)
    outcomes = outcomes[:, None] if outcomes.ndim == 1 else outcomes
    arrays = {"sample_index": np.arange(len(outcomes)) if index is None else np.array(index), "correct": outcomes}
    return Cell(defence, attack, eps, {"method": attack, "norm": "linf"} | meta, arrays)


def test_two_readings_of_a_deterministic_defence() -> None:
    first, second = [1, 1, 1, 0, 0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1, 0, 0, 1, 1]
    clean = cell([1] * 9 + [0], attack="clean", eps=0.0)
    results = derive_results([cell(first), cell(second, attack="fgsm"), clean], {})
    worst = results["defences"]["cnn"]["worst"]["linf 0.3"]
    assert worst["paper"]["attack"] == "pgd"
    assert worst["paper"]["value"] == 0.5
    # Samples 2 and 8 survive both attacks; sample 9 does too, but is wrong without one.
    assert worst["honest"]["mean"]["value"] == 0.2
    assert worst["honest"]["count"] == 2
    assert worst["strongest"] == "pgd"
    assert {attack: mean["value"] for attack, mean in worst["attacks"].items()} == {"pgd": 0.5, "fgsm": 0.6}
    assert results["defences"]["cnn"]["clean"] == "cnn/clean/0"
    assert not results["defences"]["cnn"]["stochastic"]
    assert (
        results["cells"]["cnn/pgd/0.3"]["clopper_pearson"]["low"] < results["cells"]["cnn/pgd/0.3"]["first_draw"]["low"]
    )


def test_summary_of_a_random_defence() -> None:
    correct = np.zeros((4, 10), dtype=bool)
    correct[0, :], correct[1, :5], correct[2, 5:] = True, True, True
    found = summary(correct)
    assert (found["n"], found["draws"], found["count"]) == (4, 10, 2)
    assert found["first_draw"] == wilson(2, 4)._asdict()
    assert found["mean"]["value"] == 0.5
    assert found["vote"].keys() == {"1", "10"}
    assert found["vote"]["10"]["value"] == 0.25  # five of ten is no majority
    assert found["survival"]["10"]["value"] == 0.25
    assert found["vote"]["1"] == pytest.approx(found["survival"]["1"])


def test_worst_case_is_over_the_samples_that_all_attacks_had() -> None:
    everyone = cell([1, 1, 0, 1, 1, 0], attack="transfer", index=[5, 4, 3, 2, 1, 0])
    some = cell([0, 1], attack="exact", index=[2, 5], method="eot")
    worst = derive_results([everyone, some], {})["defences"]["cnn"]["worst"]["linf 0.3"]
    assert worst["honest"]["n"] == 2
    assert worst["honest"]["mean"]["value"] == 0.5
    assert worst["attacks"]["transfer"]["value"] == 1
    assert worst["strongest"] == "exact"
    assert (worst["paper"]["attack"], worst["paper"]["n"], worst["paper"]["value"]) == ("exact", 2, 0.5)


def test_comparisons_are_of_the_same_samples() -> None:
    first = cell([1, 1, 1, 0], defence="cnn", index=[3, 2, 1, 0])
    second = cell([[1, 1], [0, 0], [0, 0], [1, 0]], defence="cnn+malade", index=[1, 2, 3, 9])
    (row,) = derive_results([first, second], {})["comparisons"]
    assert (row["first"], row["second"], row["on"], row["n"]) == ("cnn", "cnn+malade", "linf 0.3", 3)
    assert row["difference"]["value"] == pytest.approx(2 / 3)
    assert [mean["value"] for mean in row["means"]] == [1.0, pytest.approx(1 / 3)]
    assert row["mcnemar"] == {"only_first": 2, "only_second": 0, "p_value": 0.5}
    apart = cell([1], defence="cnn+malade", index=[77])
    assert derive_results([first, apart], {})["comparisons"] == []


def test_threat_of_the_tables() -> None:
    cells = [cell([1]), cell([1], attack="fgsm"), cell([1], eps=0.5), cell([1], attack="fgm", eps=2.0, norm="l2")]
    assert derive_results(cells, {})["main"] == {"norm": "linf", "eps": 0.3, "threat": "linf 0.3"}
    assert derive_results(cells, {"report": None})["main"]["eps"] == 0.3
    assert derive_results(cells, {"report": {"norm": "l2", "eps": 2.0}})["main"]["threat"] == "l2 2"
    assert derive_results([cell([1], attack="clean", eps=0.0)], {})["main"]["threat"] == "clean"


def test_results_do_not_depend_on_the_order_and_change_nothing() -> None:
    cells = made_cells(num_samples=50)
    before = [array.tobytes() for one in cells for array in one.arrays.values()]
    text = json.dumps(derive_results(cells, CONFIG), sort_keys=True, allow_nan=False)
    assert text == json.dumps(derive_results(cells[::-1], CONFIG), sort_keys=True, allow_nan=False)
    assert before == [array.tobytes() for one in cells for array in one.arrays.values()]


def test_made_outcomes_are_ordered_as_attacks_are() -> None:
    results = derive_results(made_cells(), CONFIG)
    for name, defence in results["defences"].items():
        worst = defence["worst"]["linf 0.3"]
        accuracies = [
            one["mean"]["value"] for one in results["cells"].values() if one["defence"] == name and one["eps"] == 0.3
        ]
        honest = worst["honest"]["mean"]["value"]
        assert worst["smallest_mean"] - 1e-12 <= honest <= min(accuracies) + 1e-12
        votes = worst["honest"]["survival"].values()
        assert [one["value"] for one in votes] == sorted((one["value"] for one in votes), reverse=True)


def test_kinds_of_attacks() -> None:
    kinds = {one.attack: one.kind for one in made_cells(num_samples=2)}
    assert kinds == {
        **{"clean": "clean", "noise": "noise", "fgsm": "one-step", "pgd": "exact", "transfer": "transfer"},
        **{"bpda": "bpda", "exact": "exact"},
    }
    for mode in ("bpda", "bpda-denoiser"):
        found = cell([1], settings={"mode": mode})
        assert (found.kind, found.mode) == ("bpda", mode)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([], "at least one"),
        ([cell([1]), cell([0])], "2 times"),
        ([cell([[True]])._replace(arrays={"correct": np.ones((1, 1), dtype=bool)})], "'sample_index'"),
        ([cell([1, 0], index=[4, 4])], "different samples"),
        ([cell([1, 0])._replace(arrays={"sample_index": np.arange(2), "correct": np.ones(2, dtype=bool)})], "(n, M)"),
        ([cell([])], "n >= 1"),
        (
            [cell([1, 0]), cell([1, 0], attack="b")._replace(arrays={**cell([1, 0]).arrays, "distance": np.ones(3)})],
            "distance",
        ),
        ([cell([1], index=[0]), cell([1], attack="fgsm", index=[1])], "no sample in common"),
    ],
)
def test_bad_outcomes(cells: list[Cell], words: str) -> None:
    with pytest.raises(InputError) as error:
        derive_results(cells, {})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def nearest(correct: list[list[int]], distance: list[float], success: list[int], cuts: list[float]) -> Cell:
    """What an attack found that looks for the nearest wrong image: in L1, with Euclidean distances beside."""
    arrays = {
        "sample_index": np.arange(len(correct)),
        "correct": np.array(correct, bool),
        "success": np.array(success, bool),
        "distance": 3.0 * np.array(distance),
        "distance_l2": np.array(distance),
    }
    return Cell("cnn", "ead", 0.0, {"method": "ead", "norm": "l1", "settings": {}, "cuts": cuts}, arrays)


def test_finds_count_up_to_a_distance() -> None:
    clean = cell([[1, 1], [1, 1], [1, 0], [0, 0], [1, 1]], attack="clean", eps=0.0, index=[0, 1, 2, 3, 4])
    # Found near, found far, found by luck, wrong to begin with, nothing found.
    found = nearest(
        [[0, 0], [0, 0], [1, 0], [0, 0], [1, 1]], [0.5, 2.0, 1.0, 0.0, 0.0], [1, 1, 1, 1, 0], [0.4, 1.0, 2.0]
    )
    cuts = {one.eps: one for one in cut_cells([found, clean])}
    assert {eps: one.p.tolist() for eps, one in cuts.items()} == {
        0.4: [1, 1, 0.5, 0, 1],
        1.0: [0, 1, 0.5, 0, 1],
        2.0: [0, 0, 0.5, 0, 1],
    }
    assert cuts[1.0].arrays["success"].tolist() == [True, False, True, True, False]
    assert cuts[1.0].arrays["distance"].tolist() == [0.5, 0, 1, 0, 0]
    assert [one.threat for one in cuts.values()] == ["l2 0.4", "l2 1", "l2 2"]
    # The same in the attack's own norm, in which everything is three times as far.
    own = {one.eps: one for one in cut_cells([found._replace(meta={**found.meta, "cut_norm": "l1"}), clean])}
    assert [one.threat for one in own.values()] == ["l1 0.4", "l1 1", "l1 2"]
    assert own[2.0].p.tolist() == [0, 1, 0.5, 0, 1]
    assert own[2.0].arrays["distance"].tolist() == [1.5, 0, 0, 0, 0]
    results = derive_results([found, clean], {})
    assert results["cells"]["cnn/ead/0"]["nearest"] == {"l1": 3.0, "l2": 1.0}
    assert results["cells"]["cnn/ead/0"]["threat"] == "nearest l1"
    assert set(results["defences"]["cnn"]["worst"]) == {"l2 0.4", "l2 1", "l2 2"}
    assert {finding.status for finding in audit([found, clean])} <= {"ok", "not run"}
    with pytest.raises(InputError, match="need distance_l2 and the clean images"):
        cut_cells([found])


def test_a_median_may_lie_among_images_without_a_find() -> None:
    clean = cell([[1], [1], [1]], attack="clean", eps=0.0)
    found = nearest([[0], [1], [1]], [0.5, 0, 0], [1, 0, 0], [])
    assert derive_results([found, clean], {})["cells"]["cnn/ead/0"]["nearest"] == {"l1": None, "l2": None}
