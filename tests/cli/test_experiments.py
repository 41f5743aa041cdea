"""Experiments as TOML: defaults, scales, changes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, cast

import pytest

from malade_ref import attacks, experiment, ops
from malade_ref.checks import InputError
from malade_ref.datasets import Dataset, load_dataset
from malade_ref.experiment import built_in_experiments, built_in_suites, plan_of, read_experiment, settings_of
from malade_ref.experiment.config import Victim, available_attacks
from malade_ref.experiment.reading import parse_change
from malade_ref.experiment.rehearsal import rehearse


@pytest.mark.parametrize("name", built_in_experiments())
def test_built_in_experiments(name: str) -> None:
    experiment, text, _ = read_experiment(name)
    assert experiment.name == name
    assert "[scales.tiny" in text
    settings = settings_of(experiment)
    assert settings == json.loads(json.dumps(settings))
    assert read_experiment(name, ["scale=tiny"]).experiment.scale == "tiny"
    # A defended classifier is compared with the bare one.
    assert {defence.partition("+")[0] for defence in experiment.defences} <= experiment.defences.keys()


def test_fractions_are_numbers() -> None:
    changes = ["attacks.pgd.step_size=2/255", 'attacks.pgd.eps=["8/255", 0.1, "0.5/1"]', "report.eps=8/255"]
    experiment = read_experiment("mnist-quick", changes).experiment
    pgd = next(attack for attack in experiment.attacks if attack.name == "pgd")
    assert (pgd.settings["step_size"], pgd.eps) == (2 / 255, (8 / 255, 0.1, 0.5))
    assert experiment.report.eps == 8 / 255
    vary = ["attacks.fgsm.eps=0.3", 'attacks.fgsm.vary={num_judge_draws=[1, "4/2"]}']
    with pytest.raises(InputError):  # of a whole number there is none
        read_experiment("mnist-quick", ["attacks.pgd.num_steps=40/2"])
    with pytest.raises(InputError):
        read_experiment("mnist-quick", vary)
    for bad in ("8/0", "8/", "/255", "8/255/2", "eight/255", "-8/255", "8 of 255"):
        with pytest.raises(InputError) as error:
            read_experiment("mnist-quick", [f"attacks.pgd.eps=['{bad}']"])
        assert "expected a number, got a string" in str(error.value)
        assert "\n" not in str(error.value)


def test_settings_hold_defaults() -> None:
    settings = settings_of(read_experiment("demo").experiment)
    pgd = next(attack for attack in settings["attacks"] if attack["name"] == "pgd")
    assert pgd["settings"]["num_restarts"] == 1
    assert pgd["settings"]["num_steps"] == 20


def test_training_order() -> None:
    order = read_experiment("demo").experiment.training_order()
    assert order.index("cnn") < order.index("sdae")
    assert order.index("dae") < order.index("sdae-madry")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seed=1", (["seed"], 1)),
        ("a.b=1.5", (["a", "b"], 1.5)),
        ("a.b=word", (["a", "b"], "word")),
        ('a.b="two words"', (["a", "b"], "two words")),
        ("a.b=two words", (["a", "b"], "two words")),
        ("a=", (["a"], "")),
        ("a=x=y", (["a"], "x=y")),
        ("defences.cnn+malade.a=[1, 2]", (["defences", "cnn+malade", "a"], [1, 2])),
        ('defences."x.y".a=true', (["defences", "x.y", "a"], True)),
        ("a=1\nb=2", (["a"], "1\nb=2")),
    ],
)
def test_parse_change(change: str, expected: object) -> None:
    assert parse_change(change) == expected


@pytest.mark.parametrize("change", ["seed", "=1", "a.=1", ".a=1", "a..b=1", "a b=1", 'a"b=1'])
def test_parse_change_refuses(change: str) -> None:
    with pytest.raises(InputError, match="expected key=value"):
        parse_change(change)


def test_changes_come_after_the_scale() -> None:
    for changes in (["scale=tiny", "models.cnn.epochs=7"], ["models.cnn.epochs=7", "scale=tiny"]):
        assert read_experiment("demo", changes).experiment.models["cnn"].epochs == 7


def test_changes_of_named_tables() -> None:
    changes = ["attacks.pgd.num_steps=3", "defences.cnn+malade.search.attack.num_steps=4"]
    experiment = read_experiment("demo", changes).experiment
    assert next(attack for attack in experiment.attacks if attack.name == "pgd").settings["num_steps"] == 3
    search = experiment.defences["cnn+malade"].search
    assert search is not None
    assert search.attack.settings["num_steps"] == 4
    assert len(experiment.attacks) == len(read_experiment("demo").experiment.attacks)


def test_attacks_are_found_by_name() -> None:
    found = available_attacks()
    assert {"pgd", "fgsm", "fgm", "bpda", "eot", "bpda_eot"} <= set(found)
    assert set(found) <= set(attacks.__all__)
    assert "transfer" not in found  # it needs a second model


def test_plan_has_every_step_once() -> None:
    experiment = read_experiment("demo").experiment
    steps = plan_of(experiment, load_dataset("synthetic-digits", sizes=experiment.data.sizes()))
    assert len({(step.kind, str(step.subject)) for step in steps}) == len(steps)
    assert all(step.seconds >= 0 for step in steps)
    assert sum(step.kind == "attack" for step in steps) == len(list(experiment.cells()))
    assert steps[-1].kind == "report"


def blocks(file: Path) -> list[tuple[str, ...]]:
    """A TOML file's tables, each with its header; without comments and empty lines."""
    lines = [line.strip() for line in file.read_text().splitlines()]
    found: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("["):
            found.append([])
        if line and not line.startswith("#"):
            found[-1].append(line)
    return [tuple(block) for block in found if len(block) > 1]


def copied(files: Iterable[Path]) -> int:
    """Lines of tables that stand, the same, in another file before."""
    seen: dict[tuple[str, ...], Path] = {}
    return sum(len(block) for file in files for block in blocks(file) if seen.setdefault(block, file) != file)


def test_experiments_share_what_they_have_in_common(tmp_path: Path) -> None:
    files = sorted((Path(experiment.__file__).parents[1] / "experiments").rglob("*.toml"))
    assert copied(files) < 100
    # It was 778 before the files could extend each other; one more copy of a file is noticed.
    again = tmp_path / "copy.toml"
    again.write_text(files[0].read_text())
    assert copied([*files, again]) > copied(files) + 30


def test_shared_tables_are_no_experiments() -> None:
    with pytest.raises(InputError, match="mnist-both: no such experiment"):
        read_experiment("mnist-both")
    assert "mnist-both" not in built_in_experiments()


def extending(folder: Path, **texts: str) -> str:
    """Files of experiments, by name; the path of ``top.toml``."""
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return str(folder / "top.toml")


def test_the_extending_file_wins(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.toml").write_text('extends = "../less.toml"\n[evaluation]\nnum_draws = 7\n')
    top = extending(
        tmp_path,
        less="[evaluation]\nnum_images = 11\nnum_draws = 5\n",
        top="""
        extends = ["honest", "sub/more.toml"]
        name = "mine"
        [models.cnn]
        epochs = 1
        [[attacks]]
        name = "fgsm"
        eps = [0.1]
        [[attacks]]
        name = "mine"
        method = "pgd"
        against = ["cnn"]
        eps = [0.1]
        [scales.tiny.models]
        cnn = { epochs = 2 }
        """,
    )
    mine, text, _ = read_experiment(top)
    honest, _, _ = read_experiment("honest")
    assert (mine.name, mine.title) == ("mine", honest.title)
    assert (mine.evaluation.num_images, mine.evaluation.num_draws) == (11, 7)
    assert mine.evaluation.shard_size == honest.evaluation.shard_size
    assert (mine.models["cnn"].epochs, mine.models["cnn"].learning_rate) == (1, honest.models["cnn"].learning_rate)
    assert [attack.name for attack in mine.attacks] == [*(attack.name for attack in honest.attacks), "mine"]
    fgsm = next(attack for attack in mine.attacks if attack.name == "fgsm")
    assert (fgsm.eps, fgsm.against) == ((0.1,), ("cnn", "cnn+malade"))
    assert read_experiment(top, ["scale=tiny"]).experiment.models["cnn"].epochs == 2
    # The bundle keeps all of it, and what it keeps is still an experiment.
    assert "# [models.cnn]" in text
    assert tomllib.loads(text)["name"] == "mine"


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ({"top": 'extends = "top.toml"'}, r"extends: .*top.toml, .*top.toml extend each other"),
        ({"top": 'extends = "a.toml"', "a": 'extends = "./top.toml"'}, "extend each other; remove one"),
        ({"top": 'extends = "nothing"'}, "extends: nothing is called 'nothing'; expected one of .*path of a TOML file"),
        ({"top": 'extends = "mnist-bot"'}, "did you mean 'mnist-both'"),
        ({"top": 'extends = "a.toml"'}, r"top.toml: extends: .*a.toml: cannot be read"),
        ({"top": "extends = 3"}, "top.toml: extends: expected the name"),
        ({"top": "extends = [1]"}, "top.toml: extends: expected the name"),
        ({"top": 'extends = ["honest", "honest"]'}, "expected no name twice"),
        ({"top": 'extends = "a.toml"', "a": "x = "}, "a.toml: not valid TOML"),
        ({"top": 'extends = "honest"\nevaluatoin = 1'}, "evaluatoin: unknown key; did you mean 'evaluation'"),
        (
            {"top": 'extends = "f0.toml"', **{f"f{i}": f'extends = "f{i + 1}.toml"' for i in range(9)}},
            "at most 8 files may extend each other",
        ),
    ],
)
def test_bad_extensions(tmp_path: Path, texts: dict[str, str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_experiment(extending(tmp_path, **texts))


class Sized(NamedTuple):
    """MNIST, as far as a plan looks at it."""

    train: range = range(50_000)
    validation: range = range(10_000)
    test: range = range(10_000)
    shape: tuple[int, ...] = (1, 28, 28)


CIFAR10 = Sized(range(27_000), range(3_000), shape=(3, 32, 32))

AUTO = """
name = "auto"
title = "AutoAttack"
data = { name = "synthetic-digits" }
models.cnn = { kind = "classifier", preset = "small", epochs = 1 }
models.sdae = { kind = "denoiser", preset = "small", epochs = 1, sigma2 = 0.15, classifier = "cnn" }
defences.cnn = { name = "CNN", classifier = "cnn" }
defences."cnn+malade" = { name = "MALADE", classifier = "cnn", denoiser = "sdae", num_steps = 5, a = 0.5, delta = 0.1 }
attacks = [{ name = "auto", method = "auto_attack", against = ["cnn", "cnn+malade"], eps = [0.3] }]
evaluation = { num_images = 100 }
"""


def test_auto_attack_as_an_attack_of_an_experiment(tmp_path: Path) -> None:
    file = tmp_path / "auto.toml"
    file.write_text(AUTO)
    seconds = []
    for version in ("standard", "rand"):
        changes = [f"attacks.auto.{key}" for key in (f"version={version}", "num_steps=10", "num_square_steps=50")]
        experiment = read_experiment(str(file), changes).experiment
        rehearse(experiment, ops)
        steps = plan_of(experiment, cast("Dataset", Sized()))
        seconds += [step.seconds for step in steps if step.kind == "attack" and step.title.startswith("auto, eps 0.3")]
    # 19 runs of 11 evaluations and 50 proposals, or two runs; draws where there is noise.
    (standard, with_draws), (rand, rand_with_draws) = seconds[:2], seconds[2:]
    assert standard / rand == pytest.approx((19 * 11 + 50) / 22, rel=0.2)
    assert with_draws > 20 * standard
    assert rand_with_draws > 20 * rand
    with pytest.raises(InputError, match=r"attacks\.auto: version: expected one of standard, rand"):
        rehearse(read_experiment(str(file), ["attacks.auto.version=plus"]).experiment, ops)


def test_plan_counts_an_attack_on_a_bare_classifier_once() -> None:
    """Defences that it is tried on only have to judge it."""
    experiment = read_experiment("demo").experiment
    steps = plan_of(experiment, load_dataset("synthetic-digits", sizes=experiment.data.sizes()))
    seconds = {step.subject[0]: step.seconds for step in steps if "PGD on the bare classifier, eps 0.1" in step.title}
    clean = {step.subject[0]: step.seconds for step in steps if step.title.startswith("clean images")}
    assert seconds["cnn"] > 10 * clean["cnn"]
    assert seconds["cnn+malade"] == clean["cnn+malade"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("models.cnn.ramp=1", "models.cnn.ramp: expected 0, or less than epochs, with adversarial training"),
        ("models.madry.ramp=12", "models.madry.ramp: expected 0, or less than epochs"),
        ("models.dae.ramp=1", "models.dae.ramp: expected 0"),
        ("attacks.pgd.source=cnm", "attacks.pgd.source: nothing is called 'cnm'"),
        ("attacks.pgd.source=dae", "attacks.pgd.source: nothing is called 'dae'"),
        ("attacks.pgd.cuts=[1.0]", "attacks.pgd.cuts: only for cw, ead, fab, boundary"),
        ("attacks.cw.cuts=[1.0, 1.0]", "attacks.cw.cuts: expected no distance twice"),
        ("attacks.cw.cuts=[0.0]", "attacks.cw.cuts"),
        ("pictures.num_images=51", "pictures.num_images: expected at most 50"),
        ("paper=[{table='T', defence='cnn', attack='a', accuracy=1, norm='l7'}]", "norm"),
    ],
)
def test_bad_settings_of_tables(change: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint.replace("[", r"\[")):
        read_experiment("mnist-table1", [change])


@pytest.mark.parametrize("original", ["cnn+malade", "cnn-1"])
def test_replicas_repeat_a_defence_of_their_kind(original: str) -> None:
    with pytest.raises(InputError, match=r"defences\.cnn-2\.replica_of: nothing is called '.*'; .* cnn$"):
        read_experiment("mnist-seeds", [f"defences.cnn-2.replica_of={original}"])


def test_who_is_attacked() -> None:
    cnn, madry, malade = Victim("cnn", True), Victim("madry", True), Victim("cnn+malade", False)
    other = Victim("substitute", True)
    expected = {
        "mnist-blackbox": {"square": (cnn, madry, malade), "gray-pgd": (cnn, madry, cnn), "transfer": (other,) * 3},
        "mnist-table2": {"on-cnn": (cnn,) * 3, "on-cnn-malade": (malade,) * 3},
    }
    for experiment_name, by_attack in expected.items():
        experiment = read_experiment(experiment_name).experiment
        by_name = {attack.name: attack for attack in experiment.attacks}
        for name, victims in by_attack.items():
            tried_on = ("cnn", "madry", "cnn+malade")
            assert tuple(by_name[name].victim(defence, experiment.defences) for defence in tried_on) == victims


@pytest.mark.parametrize("name", ["mnist-blackbox", "honest", "mnist-seeds", *built_in_suites()["paper"].experiments])
def test_experiments_fit_two_cores(name: str) -> None:
    """By the plan's estimates, when the networks are there; of the data it takes the sizes of the splits alone."""

    steps = plan_of(read_experiment(name).experiment, cast("Dataset", Sized()))
    limit = 75 if name in ("mnist-blackbox", "honest", "mnist-seeds") else 45
    assert sum(step.seconds for step in steps if step.kind != "train") < limit * 60


def test_a_colour_table_fits_two_cores() -> None:
    steps = plan_of(read_experiment("cifar10-table3").experiment, cast("Dataset", CIFAR10))
    seconds = {step.title: step.seconds for step in steps}
    assert sum(step.seconds for step in steps if step.kind != "train") < 60 * 60
    # Larger images take longer.
    larger = plan_of(read_experiment("cifar10-table3").experiment, cast("Dataset", CIFAR10._replace(shape=(3, 64, 64))))
    assert all(step.seconds == pytest.approx(4 * seconds[step.title]) for step in larger if step.kind == "attack")


def test_the_paper_fits_two_cores_in_two_hours_and_a_half() -> None:
    steps = [
        step
        for name in built_in_suites()["paper"].experiments
        for step in plan_of(read_experiment(name).experiment, cast("Dataset", Sized()))
    ]
    assert sum(step.seconds for step in steps if step.kind != "train") < 150 * 60


PUBLISHED = {"cnn", "dae", "sdae", "madry", "sdae-madry"}


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ([], PUBLISHED),
        (["models.cnn.name=x", "models.cnn.note=y", "seed=3", "data.test=500"], PUBLISHED),
        (["models.cnn.epochs=2"], PUBLISHED - {"cnn", "sdae"}),
        (["models.madry.adversarial.num_steps=41"], PUBLISHED - {"madry", "sdae-madry"}),
        (["models.dae.sigma2=0.2"], {"cnn", "madry"}),
        (["models.sdae.ce_weight=2"], PUBLISHED - {"sdae"}),
        (["data.train=500"], set()),
        (["data.name=synthetic-digits"], set()),
        (["published=false"], set()),
        (["scale=tiny"], set()),
        (["scale=paper"], set()),
    ],
)
def test_published_networks_are_taken_while_nothing_that_decides_them_was_changed(
    changes: list[str], taken: set[str]
) -> None:
    models = read_experiment("mnist-table1", changes).experiment.models
    assert {name for name, model in models.items() if model.file == f"published:mnist-{name}"} == taken
    assert all(model.file is None for name, model in models.items() if name not in taken)
