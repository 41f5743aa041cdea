"""Cards: what an attack is, declared beside it, and read by evaluation, audit, experiments and reports.

    @card(title="FGSM", norm="linf", one_step=True, cost=...)
    def fgsm(model, x, y, *, eps=0.3, mode="exact", ...):

What depends on an attack's settings is a function of these. An attack without a card is unknown: it runs, but no
experiment takes it and no report judges it, for nobody could say what it is evidence of.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

from ..checks import InputError

F = TypeVar("F", bound=Callable[..., Any])

# Through what an attack differentiates: nothing, a classifier without its defence, or all of it; see `MALADE`.
GRADIENTS = ("none", "classifier", "bpda", "bpda-denoiser", "exact")
KINDS = ("noise", "black-box", "transfer", "one-step", "bpda", "exact")


class Profile(NamedTuple):
    """What an attack with given settings is.

    Attributes
    ----------
    title : str
        For people.
    gradient : {"none", "classifier", "bpda", "bpda-denoiser", "exact"}
        Through what it differentiates.
    norm : str
        Norm of its ball, or of the distances that it compares.
    nearest : bool
        Whether it looks for the nearest wrong image, or for the worst one in a ball.
    kind : {"noise", "black-box", "transfer", "one-step", "bpda", "exact"}
        What it is compared as: a baseline that asks for nothing, answers without gradients, gradients of another model,
        one step along a gradient, or many.
    """

    title: str
    gradient: str
    norm: str
    nearest: bool
    kind: str


class Cost(NamedTuple):
    """What a search asks of a model for each image, without the verdict: each draw of noise counts.

    Attributes
    ----------
    gradients, queries : float
        As `AttackResult` counts them: queries include those for gradients.
    drifts : float
        Gradients of the chain's drift, which ask for the chain alone.
    """

    gradients: float
    queries: float
    drifts: float = 0.0


class Target(NamedTuple):
    """What a cost depends on, of the model.

    Attributes
    ----------
    stochastic : bool
        Whether it draws noise.
    num_classes, num_pixels : int
        Sizes; a pixel has all channels.
    """

    stochastic: bool = True
    num_classes: int = 10
    num_pixels: int = 784


def setting(name: str, **words: Any) -> Callable[[Mapping[str, Any]], Any]:
    """Give a part of a card that is a setting of the attack, or a word for it.

    Parameters
    ----------
    name : str
        The setting.
    **words
        For its values, where the card has other words.
    """
    return lambda settings: words.get(settings[name], settings[name])


@dataclass(frozen=True, kw_only=True)
class Card:
    """An attack and what it is; see `card`.

    Attributes
    ----------
    function : callable
        The attack.
    title, gradient, norm, nearest, one_step : str or bool, or functions of the settings that give one
        See `Profile`; by default the gradient is what the setting ``mode`` says.
    noise : bool
        Whether it is a baseline of random noise.
    cost : callable
        From settings and what `Target` has, as attributes (and ``draws``, at an evaluation), to a `Cost`.
    training_only : bool
        Whether it finds images to train on, and judges none.
    """

    function: Callable[..., Any]
    title: Any
    norm: Any
    cost: Callable[[Any], Cost]
    gradient: Any = field(default_factory=partial(setting, "mode"))
    nearest: Any = False
    one_step: Any = False
    noise: bool = False
    training_only: bool = False

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Keyword parameters of the function."""
        parameters = inspect.signature(self.function).parameters
        return {name: one for name, one in parameters.items() if one.kind is inspect.Parameter.KEYWORD_ONLY}

    def resolved(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with the function's defaults, those that are numbers or words."""
        defaults = {name: one.default for name, one in self.parameters.items()}
        return {**{name: d for name, d in defaults.items() if isinstance(d, bool | int | float | str)}, **settings}

    def profile(self, settings: Mapping[str, Any]) -> Profile:
        """What the attack is, as `costs` of given settings."""
        known = self.resolved(settings)
        fields = (self.title, self.gradient, self.norm, self.nearest, self.one_step)
        title, gradient, norm, nearest, one_step = (one(known) if callable(one) else one for one in fields)
        name = self.function.__name__
        if gradient not in GRADIENTS:
            raise InputError(f"card of {name}: gradient: expected one of {', '.join(GRADIENTS)}; got {gradient!r}")
        kind = {"none": "black-box", "classifier": "transfer"}.get(gradient, str(gradient).partition("-")[0])
        if kind in ("exact", "bpda") and one_step:
            kind = "one-step"
        return Profile(str(title), gradient, str(norm), bool(nearest), "noise" if self.noise else kind)

    def costs(self, settings: Mapping[str, Any], target: Target | None = None) -> Cost:
        """What a search with these settings asks of a model, for each image.

        Parameters
        ----------
        settings : mapping
            The others are the function's defaults.
        target : Target, optional
            What is known of the model.
        """
        target = Target() if target is None else target
        known = self.resolved(settings)
        draws = known.get("num_draws", 1) if target.stochastic else 1
        return self.cost(SimpleNamespace(**{**known, **target._asdict(), "draws": draws}))


CARDS: dict[str, Card] = {}


def card(**declared: Any) -> Callable[[F], F]:
    """Declare what an attack is, and register it under its name.

    Parameters
    ----------
    **declared
        The fields of `Card` but for the function: ``title``, ``norm``, ``cost``, and what is not as by default.

    Returns
    -------
    callable
        Decorator of the attack, which stays the function it is.

    Raises
    ------
    InputError
        If another attack has that name, the function takes no seed and sample numbers, or the card says what cannot be.
    """

    def register(function: F) -> F:
        name = function.__name__
        own = Card(function=function, **declared)
        other = CARDS.get(name)
        if other is not None and other.function.__module__ != function.__module__:
            raise InputError(f"card of {name}: an attack of {other.function.__module__} has that name; choose another")
        missing = {"seed", "sample_index"} - own.parameters.keys()
        if missing:
            raise InputError(f"card of {name}: the function needs the keyword {', '.join(sorted(missing))}; add it")
        try:
            own.profile({})
        except KeyError as error:
            raise InputError(f"card of {name}: the function has no setting {error}; say what it is instead") from None
        CARDS[name] = own
        return function

    return register


def card_of(name: str) -> Card:
    """Find an attack's card.

    Parameters
    ----------
    name : str
        Of its function.
    """
    if name not in CARDS:
        raise InputError(f"attack {name!r}: has no card that says what it is; decorate it with malade_ref.attacks.card")
    return CARDS[name]
