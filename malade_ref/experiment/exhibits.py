"""Tables and figures that an experiment sets beside those of the paper.

The dataclasses are the schema of ``[[tables]]`` and ``[[figures]]`` in an experiment's file, as those of
`malade_ref.experiment.config` are of the rest; `malade_ref.report.exhibits` fills them in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from malade_ref.checks import InputError
from malade_ref.experiment.tables import check_slug, nearest, setting
from malade_ref.report.labels import EPS, WORST


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: one attack on every defence.

    Attributes
    ----------
    attack : str
        Name of an attack.
    title : str
        What the row is called: the paper's name for it, or the attack's title by default.
    paper : str
        What the paper calls the attack in its table; empty if it has no such row.
    scenario, condition : str
        Where the paper's number stands, if not where the block's do.
    """

    attack: str
    title: str = ""
    paper: str = ""
    scenario: str = ""
    condition: str = ""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows that share a threat, with their worst case below.

    Attributes
    ----------
    title : str
        Of the block.
    scenario, condition : str
        Where the paper's numbers stand, see ``malade_ref/report/paper.csv``.
    eps : float, optional
        Size of the perturbation. Without it an attack's only size is taken; one that looks for the nearest wrong image
        then counts all that it finds, however far.
    rows : tuple of Row
        What the paper has.
    own : tuple of str
        Names of attacks that the paper does not have.
    worst : {"all", "transferred", "none"}
        Over which of the paper's rows its worst case is taken: all, those made against another defence, or it has none.
    """

    title: str
    scenario: str = ""
    condition: str = ""
    eps: float | None = setting(None, minimum=0)
    rows: tuple[Row, ...]
    own: tuple[str, ...] = ()
    worst: str = setting("all", choices=("all", "transferred", "none"))


@dataclass(frozen=True, kw_only=True)
class Table:
    """``[[tables]]``: attacks by defences, as the paper prints them.

    Attributes
    ----------
    name : str
        Short.
    title : str
        What stands above it.
    paper : int, optional
        Number of the paper's table.
    columns : tuple of str
        Names of defences.
    blocks : tuple of Block
        From top to bottom.
    note : str
        What differs from the paper, and why.
    """

    name: str
    title: str
    paper: int | None = setting(None, minimum=1)
    columns: tuple[str, ...]
    blocks: tuple[Block, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a figure: accuracy of one defence under one attack.

    Attributes
    ----------
    defence : str
        Name of a defence.
    attack : str
        Name of an attack, or of several that differ in one setting, see `malade_ref.experiment.config.Attack`; or
        ``"worst"``, the attack that is worst for each image.
    title : str
        What it is called; the defence's and the attack's names by default.
    """

    defence: str
    attack: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """``[[figures]]``: accuracy against one quantity, as the paper draws it.

    Attributes
    ----------
    name : str
        Of the file.
    title : str
        What stands above it.
    x : str
        What accuracy is drawn against: ``"eps"``, or a setting that the attacks vary.
    log : bool
        Whether the decimal logarithm of it is drawn.
    xlabel : str
        What the axis is called.
    norm : {"linf", "l2", "l0"}
        Of the worst case, if a line is of it.
    lines : tuple of Line
        In the order of the legend.
    note : str
        What differs from the paper, and why.
    """

    name: str
    title: str
    x: str = EPS
    log: bool = False
    xlabel: str = ""
    norm: str = setting("linf", choices=("linf", "l2", "l0"))
    lines: tuple[Line, ...]
    note: str = ""


def check_exhibits(
    tables: Sequence[Table],
    figures: Sequence[Figure],
    *,
    defences: Mapping[str, object],
    attacks: Mapping[str, object],
    file: str,
) -> None:
    """Raise unless tables and figures refer to what there is.

    Parameters
    ----------
    tables, figures
        Of an experiment.
    defences : mapping
        By name.
    attacks : mapping
        By name, and by the name that those have in common that differ in a setting.
    file : str
        Where it is from, for complaints.
    """
    names = [table.name for table in tables] + [figure.name for figure in figures]
    for name in names:
        if names.count(check_slug(f"{file}: tables and figures: name", name)) > 1:
            raise InputError(f"{file}: tables and figures: {name!r} is there twice; rename one")
    for table in tables:
        where = f"{file}: tables.{table.name}"
        if not (table.columns and table.blocks and all(block.rows or block.own for block in table.blocks)):
            raise InputError(f"{where}: expected at least one column, and one block with a row")
        for name in table.columns:
            _refer(name, defences, f"{where}.columns")
        for block in table.blocks:
            for name in (*(row.attack for row in block.rows), *block.own):
                _refer(name, attacks, f"{where}.blocks")
    for figure in figures:
        where = f"{file}: figures.{figure.name}"
        if not figure.lines:
            raise InputError(f"{where}.lines: expected at least one")
        for line in figure.lines:
            _refer(line.defence, defences, f"{where}.lines: defence")
            _refer(line.attack, {**attacks, WORST: None}, f"{where}.lines: attack")
            if line.attack == WORST and figure.x != EPS:
                raise InputError(
                    f"{where}.lines: the worst case is known by eps only; leave it out, or set x = {EPS!r}"
                )


def _refer(name: str, known: Mapping[str, object], where: str) -> None:
    if name not in known:
        raise InputError(f"{where}: nothing is called {name!r}; {nearest(name, list(known))}")
