"""Objects on one line and in a notebook: short, harmless, and without importing more than is used."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import malade_gpu
import malade_ref
from malade_ref import MALADE, DenoiserScore, GaussianMixture, attacks, mlp
from malade_ref.attacks import AttackResult
from malade_ref.certify import Certificates
from malade_ref.datasets import load_dataset
from malade_ref.evaluation import Cell
from malade_ref.layers import Conv2d, Tanh
from malade_ref.network import Network, build, resnet
from malade_ref.sampling import State
from malade_ref.showing import History, Positions, pictured, png, short, shortly, table
from malade_ref.training import Fitted

SHAPE = (1, 6, 6)
LONGEST = 400


def denoiser(channels: int = 1) -> Network:
    layers = [Conv2d(channels, 2, (3, 3)), Tanh(), Conv2d(2, channels, (3, 3))]
    return build(layers, (channels, 6, 6), initialisation="glorot", residual=True)


def defended(channels: int = 1) -> MALADE:
    classifier = mlp((channels, 6, 6), 3, hidden=(4,))
    return MALADE(classifier, denoiser(channels), num_steps=20, a=0.3, delta=0.05, seed=3)


def images(n: int, channels: int = 1) -> Any:
    return np.random.default_rng(0).random((n, channels, 6, 6), dtype=np.float32)


def result(n: int = 100) -> AttackResult:
    ones = np.ones(n)
    return AttackResult(images(n), np.arange(n) % 4 == 0, ones, 0.25 * ones, (9 * ones).astype(int), ones.astype(int))


def parsed(text: str) -> ET.Element:
    """HTML that is also XML, but for entities and ends of elements that need none."""
    closed = text.replace("<br>", "<br/>").replace('pixelated">', 'pixelated"/>')
    return ET.fromstring(f"<page>{closed}</page>")


OBJECTS: dict[str, Callable[[], Any]] = {
    "AttackResult": result,
    "Network": lambda: resnet((3, 8, 8), 10, depth=18, channels=2),
    "MALADE": defended,
    "Fitted": lambda: Fitted(mlp(SHAPE, 3, hidden=(4,)), History(loss=[0.1] * 500)),
    "History": lambda: History({"epoch": [1.0, 2.0], "loss": [0.5, 0.25], "accuracy": [0.5, 0.75]}),
    "Positions": lambda: defended().path(images(9)),
    "Dataset": lambda: load_dataset("synthetic-digits", sizes={"train": 10, "test": 5, "validation": 5}),
    "Split": lambda: load_dataset("synthetic-digits").train,
    "Certificates": lambda: Certificates(*[np.zeros(500)] * 4, *[np.zeros((500, 10), int)] * 2),  # type: ignore[arg-type]
    "Cell": lambda: Cell("cnn", "pgd", 0.3, {"settings": {"a": 1}}, {"correct": np.zeros((500, 10), bool)}),
    "State": lambda: State(images(50), 3),
    "DenoiserScore": lambda: DenoiserScore(denoiser(), sigma=0.1),
    "GaussianMixture": lambda: GaussianMixture([1.0], [[0.0, 0.0]], [np.eye(2)]),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_one_short_line(name: str) -> None:
    line = repr(OBJECTS[name]())
    assert line.startswith(f"{name}(")
    assert line.endswith(")")
    assert len(line) < LONGEST
    assert "\n" not in line


def test_what_the_lines_say() -> None:
    assert repr(result(8)) == (
        "AttackResult(8 images: success 25.0%, distance 0.25 in the mean, 0.25 at most; "
        "9 queries, 1 gradients an image)"
    )
    assert repr(result(0)) == "AttackResult(no images)"
    assert repr(OBJECTS["History"]()) == "History(2 epochs: loss 0.5 -> 0.25, accuracy 0.5 -> 0.75)"
    assert repr(OBJECTS["Positions"]()) == "Positions(21 of float32 (9, 1, 6, 6))"
    assert repr(State(images(5), 3)) == "State(position=float32 (5, 1, 6, 6), step=3, score=None, log_density=None)"
    assert " layers)" in repr(mlp(SHAPE, 3, hidden=(4,) * 8))
    assert short({"a": np.zeros(3)}) == "dict of 1"
    assert short("x" * 500).endswith("...")


def test_summary() -> None:
    found = result(8).summary()
    assert found == {
        **{"n": 8, "success": 0.25, "loss": 1.0, "distance": 0.25, "num_queries": 9.0, "num_gradients": 1.0},
        **{"largest_distance": 0.25, "median_distance": 0.25},
    }
    assert json.loads(json.dumps(found)) == found
    assert result(0).summary() == {"n": 0, "success": 0.0}
    none = result(4)._replace(success=np.zeros(4, bool))
    assert none.summary()["median_distance"] is None
    made = attacks.fgsm(defended(), images(3), np.arange(3), eps=0.1)
    assert made.summary()["success"] == made.success.mean()


def test_a_decorated_class_keeps_all_else() -> None:
    cell = OBJECTS["Cell"]()
    assert cell == Cell(*cell)
    assert cell._replace(eps=0.1).eps == 0.1
    with pytest.raises(TypeError, match="expected a NamedTuple or a dataclass"):
        shortly(int)
    assert isinstance(defended().path(images(2)), list)


# HTML ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AttackResult", "Network", "MALADE", "History", "Positions"])
def test_html_is_small_and_well_formed(name: str) -> None:
    text = OBJECTS[name]()._repr_html_()
    page = parsed(text)
    assert page.findall(".//table")
    assert len(text) < 60_000
    for picture in page.iter("img"):
        assert picture.attrib["alt"]
        assert picture.attrib["src"].startswith("data:image/png;base64,")
    assert "http" not in text


def test_tables_and_pictures_have_the_contents() -> None:
    page = parsed(mlp(SHAPE, 3, hidden=(4,))._repr_html_())
    rows = [[cell.text or "" for cell in row] for row in page.iter("tr")]
    assert rows[3] == ["1", "linear", "in_features=36, out_features=4", "(4,)", "148"]
    assert len(parsed(result(100)._repr_html_()).findall(".//img")) == 8
    assert "the first 8 of 100 images" in result(100)._repr_html_()
    assert len(parsed(OBJECTS["Positions"]()._repr_html_()).findall(".//img")) == 8 * 12
    assert len(parsed(Positions(list(images(4)[:, None]))._repr_html_()).findall(".//img")) == 4
    assert Positions()._repr_html_() == "Positions(none)"
    assert not parsed(result(5)._replace(x_adv=np.zeros((5, 7)))._repr_html_()).findall(".//img")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_any_channels(channels: int) -> None:
    image = pytest.importorskip("PIL.Image")
    levels = np.random.default_rng(1).integers(0, 256, (channels, 5, 7)).astype(np.uint8)
    levels = levels if channels == 3 else levels[:1]
    read = np.asarray(image.open(io.BytesIO(png(levels)))).reshape(5, 7, len(levels))
    np.testing.assert_array_equal(read, levels.transpose(1, 2, 0))
    assert len(parsed(defended(channels).path(images(2, channels))._repr_html_()).findall(".//img")) == 24


TEXTS = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b \x1b[31m", "'\""]


@pytest.mark.parametrize("text", TEXTS)
def test_text_cannot_be_markup(text: str) -> None:
    made = table([text], [[text]]) + pictured(images(1)[0], text) + History({text: [1.0]})._repr_html_()
    assert "<script" not in made
    page = parsed(made)
    assert {element.tag for element in page.iter()} <= {"page", "table", "thead", "tbody", "tr", "th", "td", "img"}
    assert page.find(".//img").attrib.keys() == {"src", "width", "alt", "style"}  # type: ignore[union-attr]
    assert "\x1b" not in table([text], [])


def test_numbers_that_are_none_are_shown() -> None:
    assert "<img" in pictured(np.array([[[np.nan, np.inf], [-np.inf, 2.0]]]), "odd")
    assert pictured(np.zeros((1, 0, 3)), "empty") == "float64 (1, 0, 3)"


# Submodules ----------------------------------------------------------------------------------------------------------


def test_submodules_are_there_when_named() -> None:
    code = (
        "import sys, malade_ref\n"
        "assert not {'numpy', 'scipy', 'h5py', 'torch', 'malade_ref.attacks'} & set(sys.modules), sys.modules\n"
        "assert {'attacks', 'audit', 'certify', 'evaluation', 'interop', 'training'} <= set(dir(malade_ref))\n"
        "assert '__main__' not in dir(malade_ref)\n"
        "print(malade_ref.attacks.pgd.__name__, malade_ref.audit.audit.__name__, malade_ref.certify.certify.__name__,"
        " malade_ref.evaluation.summary.__name__, malade_ref.interop.wrap.__name__)\n"
    )
    root = Path(malade_ref.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert (done.stderr, done.stdout.split()) == ("", ["pgd", "audit", "certify", "summary", "wrap"])


def test_submodules_of_both_backends() -> None:
    for name in ("audit", "certify", "evaluation", "objectives", "training"):
        assert getattr(malade_gpu, name) is getattr(malade_ref, name)
        assert name in dir(malade_gpu)
    for package in (malade_ref, malade_gpu):
        with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
            _ = package.nonsense
