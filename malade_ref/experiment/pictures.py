"""The paper's plates as tables of an experiment: sheets of images, perturbations side by side, ways through a chain.

`malade_ref.experiment.plates` computes what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from malade_ref.checks import InputError
from malade_ref.experiment.tables import check_slug, nearest, setting

KINDS = ("sheets", "perturbations", "walks")
# Images among which one that an attack turned is looked for, most images of a plate, and most steps of a chain on it.
CANDIDATES, MAX_SHOWN, MAX_STEPS = 50, 400, 1000
CLEAN = "clean"


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """``[[sheets]]``: what an attack made of the first test images, the paper's Figures 8 to 14.

    Attributes
    ----------
    name, title : str
        Part of its file's name, and what the report calls it.
    defence, attack : str
        What was attacked, and by which of the attacks.
    eps : float
        One of the attack's sizes; 0 for an attack without.
    rows, columns : int
        Of the sheet; one with fewer images ends earlier.
    """

    name: str
    title: str = ""
    defence: str
    attack: str
    eps: float = setting(0.0, minimum=0)
    rows: int = setting(5, minimum=1)
    columns: int = setting(10, minimum=1)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """``[[perturbations.columns]]``: one attack on one defence.

    Attributes
    ----------
    defence, attack : str
        Their names.
    """

    defence: str
    attack: str


@dataclass(frozen=True, kw_only=True)
class Perturbations:
    """``[[perturbations]]``: what several attacks added to the same images, the paper's Figure 7.

    Attributes
    ----------
    name, title : str
        As of `Sheet`.
    eps : float
        Size of all of them.
    columns : tuple of Compared
        The attacks.
    num_images : int
        The first test images.
    """

    name: str
    title: str = ""
    eps: float = setting(above=0)
    columns: tuple[Compared, ...]
    num_images: int = setting(3, minimum=1)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """``[[walks]]``: images on their way through a defence's chain, the paper's Figures 2 and 17 to 20.

    Attributes
    ----------
    name, title : str
        As of `Sheet`.
    defence, attack : str
        A defence with a denoiser, and an attack on it.
    eps : tuple of float
        Sizes of the attack, one row each; 0 is the clean image. With ``marginal`` there is one.
    steps : tuple of int
        Positions of the chain, one column each. A chain that is shorter is continued, for the picture.
    num_images : int
        How many images, one panel each.
    first : int
        Which test image is the first of them.
    marginal : str, optional
        A denoiser that never saw a label: its chain is drawn below that of the defence, as in Figure 2. The images are
        then the first that the attack turned.
    """

    name: str
    title: str = ""
    defence: str
    attack: str
    eps: tuple[float, ...] = setting(minimum=0)
    steps: tuple[int, ...] = setting(minimum=0)
    num_images: int = setting(2, minimum=1)
    first: int = setting(0, minimum=0)
    marginal: str | None = None


# Checks ---------------------------------------------------------------------------------------------------------------


def check_plates(experiment: Any, file: str) -> None:
    """Raise unless every plate shows outcomes that the experiment has.

    Parameters
    ----------
    experiment : malade_ref.experiment.config.Experiment
        The experiment.
    file : str
        Where it is from, for complaints.
    """
    for kind in KINDS:
        plates = getattr(experiment, kind)
        names = [plate.name for plate in plates]
        for plate in plates:
            where = f"{file}: {kind}.{check_slug(f'{file}: {kind}', plate.name)}"
            if names.count(plate.name) > 1:
                raise InputError(f"{where}: expected names that differ from each other")
            _check_plate(experiment, plate, where)


def _check_plate(experiment: Any, plate: Any, where: str) -> None:
    if isinstance(plate, Sheet):
        if plate.rows * plate.columns > MAX_SHOWN:
            raise InputError(f"{where}: expected at most {MAX_SHOWN} images, rows times columns; make it smaller")
    elif isinstance(plate, Perturbations):
        if not plate.columns:
            raise InputError(f"{where}.columns: expected at least one table with defence and attack")
    else:
        _check_walk(experiment, plate, where)
    for defence, attack, eps, count in cells_of(experiment, plate):
        _check_cell(experiment, defence, attack, eps, where)
        most = images_of(experiment, attack)
        if count > most and not isinstance(plate, Sheet):
            raise InputError(f"{where}: expected at most {most} images, those that {attack} is given; got {count}")


def _check_walk(experiment: Any, walk: Walk, where: str) -> None:
    chains = [name for name, defence in experiment.defences.items() if defence.denoiser is not None]
    if walk.defence not in chains:
        raise InputError(
            f"{where}.defence: no defence with a denoiser is called {walk.defence!r}; {nearest(walk.defence, chains)}"
        )
    if not walk.eps or not walk.steps:
        raise InputError(f"{where}: expected at least one eps and one of steps")
    if max(walk.steps) > MAX_STEPS:
        raise InputError(f"{where}.steps: expected numbers up to {MAX_STEPS}, got {max(walk.steps)}")
    if len(set(walk.eps)) < len(walk.eps) or len(set(walk.steps)) < len(walk.steps):
        raise InputError(f"{where}: expected no eps and no step twice")
    if walk.num_images * len(walk.eps) * len(walk.steps) > MAX_SHOWN:
        raise InputError(f"{where}: expected at most {MAX_SHOWN} pictures, images times sizes times steps")
    if walk.marginal is not None:
        denoisers = [name for name, model in experiment.models.items() if model.kind == "denoiser"]
        if walk.marginal not in denoisers:
            raise InputError(
                f"{where}.marginal: no denoiser is called {walk.marginal!r}; {nearest(walk.marginal, denoisers)}"
            )
        if len(walk.eps) != 1 or walk.first:
            raise InputError(f"{where}: with marginal there is one eps, and first has no meaning; change it")


def _check_cell(experiment: Any, defence: str, attack: str, eps: float, where: str) -> None:
    if defence not in experiment.defences:
        raise InputError(f"{where}: no defence is called {defence!r}; {nearest(defence, list(experiment.defences))}")
    attacks = {one.name: one for one in experiment.attacks}
    if attack == CLEAN:
        return
    if attack not in attacks:
        raise InputError(f"{where}: no attack is called {attack!r}; {nearest(attack, list(attacks))}")
    if defence not in attacks[attack].against:
        raise InputError(f"{where}: attack {attack} is not tried against {defence}; add it to attacks.{attack}.against")
    sizes = [f"{size:g}" for size in attacks[attack].eps or (0.0,)]
    if f"{eps:g}" not in sizes:
        raise InputError(f"{where}.eps: attack {attack} has no size {eps:g}; expected one of {', '.join(sizes)}")


def images_of(experiment: Any, attack: str) -> int:
    """How many images an attack is given.

    Parameters
    ----------
    experiment : malade_ref.experiment.config.Experiment
        The experiment.
    attack : str
        Its name.
    """
    own = [one.num_images for one in experiment.attacks if one.name == attack]
    return int(next(iter(own), None) or experiment.evaluation.num_images)


def cells_of(experiment: Any, plate: Any) -> Iterator[tuple[str, str, float, int]]:
    """Cells of the outcomes that a plate shows.

    Parameters
    ----------
    experiment : malade_ref.experiment.config.Experiment
        The experiment.
    plate : Sheet, Perturbations or Walk
        One of its plates.

    Yields
    ------
    tuple of (str, str, float, int)
        Defence, attack, eps, and of how many images, the first ones.
    """
    if isinstance(plate, Sheet):
        yield plate.defence, plate.attack, plate.eps, plate.rows * plate.columns
    elif isinstance(plate, Perturbations):
        for column in plate.columns:
            yield column.defence, column.attack, plate.eps, plate.num_images
    else:
        count = plate.first + plate.num_images
        if plate.marginal is not None:
            count = max(count, min(CANDIDATES, images_of(experiment, plate.attack)))
        for eps in plate.eps:
            yield plate.defence, plate.attack if eps else CLEAN, eps, count
