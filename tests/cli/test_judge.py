"""``malade evaluate``, ``malade defend`` and `malade_ref.evaluate`: one call, one verdict, on a user's own model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref import MALADE, evaluate, save
from malade_ref.bundle import Bundle
from malade_ref.checks import InputError
from malade_ref.experiment import judging, protocol
from malade_ref.experiment.given import data_of, with_classes_of
from malade_ref.experiment.protocol import JUDGING, Effort, Question, efforts, experiment_text
from malade_ref.experiment.reading import read_text
from malade_ref.layers import Conv2d, Flatten, Linear, Tanh
from malade_ref.network import build

from .conftest import Malade

SHAPE = (3, 4, 4)
CODE = """
import numpy as np
from malade_ref.interop import wrap
weights = np.linspace(-1, 1, 144, dtype="float32").reshape(48, 3) ** 3
def network():
    gradient = lambda x, g: 9 * g @ weights.T
    return wrap(lambda x: 9 * (x - 0.5) @ weights, vjp=gradient, input_shape=(3, 4, 4), layout="flat")
def blind():
    return lambda x: (x.reshape(len(x), -1) - 0.5) @ weights
def broken():
    raise RuntimeError("no such\\nweights")
def needs(something):
    return something
def nothing():
    pass
number = 3
"""


FEW = ("noise", "fgsm", "pgd", "bpda-eot", "exact", "square")
WHOLE = protocol._protocol


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least that a verdict can be of, and few of the protocol's attacks."""
    whole = protocol._protocol()
    few = {**whole, "attacks": [attack for attack in whole["attacks"] if attack["name"] in FEW]}
    monkeypatch.setattr(protocol, "_protocol", lambda: few)
    monkeypatch.setattr(protocol, "JUDGING", (Effort(2, 0.03, 2, False),))
    monkeypatch.setattr(protocol, "TRAINING", ((1, 1, 3),))
    monkeypatch.setattr("malade_ref.experiment.run.require", _no_figures)


def _no_figures() -> None:
    raise InputError("not drawn in this test")


@pytest.fixture
def own(malade: Malade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Malade:
    """Commands in a folder with somebody's code and somebody's data."""
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    rng = np.random.default_rng(0)
    split = np.repeat(["train", "validation", "test"], [6, 4, 4])
    images = rng.integers(0, 256, (14, *SHAPE), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(14) % 3, split=split)
    monkeypatch.setenv("MALADE_DATA", str(tmp_path))
    malade.module = name  # type: ignore[attr-defined]
    assert malade("data", "import", "own.npz", "--name", "photos").code == 0
    return malade


def arguments(own: Malade, function: str = "network", **others: Any) -> list[str]:
    given = {"model": f"{own.module}:{function}", "data": "photos", "eps": "8/255", **others}  # type: ignore[attr-defined]
    return [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]


def test_a_function_of_the_user_is_judged(own: Malade, tmp_path: Path) -> None:
    answer = own("evaluate", *arguments(own, out="out"))
    assert answer.code == 0, answer.err
    assert "worst" in answer.out
    assert "audit:" in answer.out
    bundle = Bundle.open("out")
    assert bundle.config["report"] == {"norm": "linf", "eps": 8 / 255}
    assert not (tmp_path / "out" / "models").exists()
    assert own("report", "out", "--verify").code == 0
    again = own("evaluate", *arguments(own, out="out"), "--resume")
    assert again.code == 0, again.err
    assert "nothing was left" in again.out
    assert "computed again" in own.fails("report", "out", "--verify", "--recompute", "1")
    assert "eps" in own.fails("evaluate", *arguments(own, out="out", eps="4/255"), "--resume")
    assert "holds a finished" in own.fails("evaluate", *arguments(own, out="out"))


def test_from_a_model_and_data_to_a_verdict(own: Malade, tmp_path: Path) -> None:
    answer = own("defend", *arguments(own, out="out"))
    assert answer.code == 0, answer.err
    assert "--denoiser out/models/sdae.h5 --chain-steps" in answer.out
    assert "function <lambda> + MALADE" in answer.out
    assert sorted(path.name for path in (tmp_path / "out" / "models").iterdir()) == ["dae.h5", "sdae.h5"]
    assert own("report", "out", "--verify").code == 0
    with_chain = {"denoiser": "out/models/sdae.h5", "chain_steps": 1, "a": 0.5, "delta": 0.01}
    judged = own("evaluate", *arguments(own, out="again", name="mine", **with_chain))
    assert judged.code == 0, judged.err
    assert "mine + MALADE" in judged.out
    assert Bundle.open("again").config["models"]["sdae"]["sigma2"] == 0.01


def test_a_model_without_gradients(own: Malade) -> None:
    answer = own("evaluate", *arguments(own, "blind", out="out"))
    assert answer.code == 0, answer.err
    assert "SPSA" in answer.out
    assert "PGD" not in answer.out
    assert own("report", "out", "--verify").code == 0
    assert "has no gradient" in own.fails("defend", *arguments(own, "blind", out="other"))


def test_a_network_of_malade(own: Malade, tmp_path: Path) -> None:
    save(_classifier(), tmp_path / "net.h5")
    answer = own("evaluate", *arguments(own, model="net.h5", out="out", norm="l2", eps=0.5))
    assert answer.code == 0, answer.err
    assert "FGM" in answer.out
    assert (tmp_path / "out" / "models" / "model.h5").exists()
    assert own("report", "out", "--verify", "--recompute", "2").code == 0


def _classifier() -> Any:
    return build([Flatten(), Linear(48, 3)], SHAPE, initialisation="glorot")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"function": "broken"}, "RuntimeError: no such weights"),
        ({"function": "needs"}, "called without arguments"),
        ({"function": "nothing"}, "gives nothing"),
        ({"function": "number"}, "expected a function, got int"),
        ({"function": "missing"}, "has no attribute 'missing'"),
        ({"model": "nowhere_to_be_found:f"}, "No module named 'nowhere_to_be_found'; it is looked for in"),
        ({"model": "weights.pt"}, "may run code"),
        ({"model": "none.h5"}, "none.h5"),
        ({"model": "none.onnx"}, "none.onnx"),
        ({"eps": 8}, "8/255"),
        ({"eps": 0}, "--eps"),
        ({"data": "nothing-there"}, "malade data import"),
        ({"data": "./own.npz"}, "malade data import"),
        ({"minutes": 0}, "--minutes"),
        ({"num_images": 0}, "--num-images"),
        ({"mean": 0.5}, "--mean"),
        ({"a": 0.5}, "--denoiser"),
    ],
)
def test_one_line(own: Malade, words: dict[str, Any], complaint: str) -> None:
    assert complaint in own.fails("evaluate", *arguments(own, **words))
    assert not Path("runs").exists()


def test_in_python(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((5, *SHAPE)), np.arange(5) % 3
    layers = [Conv2d(3, 4, (3, 3)), Tanh(), Conv2d(4, 3, (3, 3))]
    denoiser = build(layers, SHAPE, initialisation="glorot", residual=True)
    classifier = _classifier()
    bare = evaluate(classifier, x, y, eps=0.1)
    assert {row["defence"] for row in bare.table} == {"the classifier"}
    assert bare.table[0]["attack"] == "clean"
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in bare.table)
    assert bare.path is None
    assert bare.report.startswith("# ")
    assert "worst" in repr(bare)
    defended = MALADE(classifier, denoiser, num_steps=2, a=0.5, delta=0.05)
    with pytest.raises(InputError, match="sigma2"):
        evaluate(defended, x, y, eps=0.1)
    out = tmp_path / "out"
    both = evaluate(defended, x, y, eps=0.1, sigma2=0.02, out=out, name="mine")
    assert both.path == out
    assert {row["defence"] for row in both.table} == {"mine", "mine + MALADE"}
    again = evaluate(defended, x, y, eps=0.1, sigma2=0.02, out=out, name="mine", resume=True)
    assert again == both
    # Pixels that are no multiples of 1/255 stay what they are.
    with Bundle.open(out).outcomes() as reader:
        assert reader.shape("outcomes/model/clean/0/correct") == (2, 1)


def test_in_python_with_a_function() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((4, *SHAPE), dtype=np.float32), np.arange(4) % 2
    found = evaluate(lambda x: x.reshape(len(x), -1)[:, :2], x, y, eps=0.1, class_names=["cat", "dog"])
    assert found.results["main"]["eps"] == 0.1
    with pytest.raises(InputError, match="mean"):
        evaluate(_classifier(), x, y, eps=0.1, mean=0.5)
    with pytest.raises(InputError, match="images"):
        evaluate(_classifier(), list(x), y, eps=0.1)
    with pytest.raises(InputError, match="pixels"):
        evaluate(_classifier(), 255 * x, y, eps=0.1)


def test_every_size_is_an_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_protocol", WHOLE)
    monkeypatch.setattr(protocol, "JUDGING", JUDGING)
    question = Question("mine", "own:network", "photos", 0, SHAPE, 1000, 500, "linf", 8 / 255, 0, True, 3, train=True)
    texts = [experiment_text(question, effort) for effort in efforts(question)]
    assert len(set(texts)) == len(texts) == len(JUDGING)
    assert all(text.count("[[attacks]]") == len(WHOLE()["attacks"]) for text in texts)
    for text in texts:
        read_text(text, "evaluate")
    for change in ({"norm": "l2", "eps": 2.0}, {"gradients": False}, {"shape": (1, 28, 28)}, {"eps": 0.9}):
        changed = question._replace(**change)  # type: ignore[arg-type]
        for effort in JUDGING[::3]:
            experiment = read_text(experiment_text(changed, effort), "evaluate").experiment
            assert all(max(attack.eps) <= 1 or changed.norm == "l2" for attack in experiment.attacks)
            assert all(changed.eps in attack.eps for attack in experiment.attacks)
    two = read_text(experiment_text(question._replace(num_classes=2), JUDGING[0]), "evaluate").experiment
    assert all(attack.settings.get("loss") != "dlr" for attack in two.attacks)


def test_sizes_follow_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "JUDGING", JUDGING)
    rng = np.random.default_rng(0)
    data = data_of(rng.random((300, *SHAPE)), np.arange(300) % 3, ("a", "b", "c"))
    judged = judging.judged_of(_classifier(), data, title="mine", eps=0.1)
    sizes = [
        judging.chosen(judged, minutes=10, seconds={"model": (s, 2 * s, 3 * s)}).experiment.evaluation.num_images
        for s in (1e-6, 3e-3, 10.0)
    ]
    assert sizes[0] == 200
    assert sizes[2] == 10
    assert sizes == sorted(sizes, reverse=True)


def test_labels_follow_the_names_of_classes() -> None:
    data = data_of(np.full((3, *SHAPE), 0.7), np.array([0, 1, 1]), ("dog", "cat"))
    other = with_classes_of(data, ("bird", "cat", "dog"), "the model")
    assert other.test.labels().tolist() == [2, 1, 1]
    assert other.test.sha256() != data.test.sha256()
    assert (other.test.images() == np.float32(0.7)).all()
    assert other.class_names == ("bird", "cat", "dog")
    with pytest.raises(InputError, match="rename"):
        with_classes_of(data, ("bird", "dog"), "the model")
