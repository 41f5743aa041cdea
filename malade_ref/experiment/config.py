"""What an experiment is: data, models, defences, attacks, and how they are judged.

The dataclasses below are the schema of an experiment's TOML file: one class a table, one field a key (see
`malade_ref.experiment.tables`). `check_experiment` looks at what no table can say alone: that names refer to something,
and that an attack's settings are parameters of its function in `malade_ref.attacks`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, NamedTuple

from malade_ref.attacks.cards import CARDS, Card, Profile, card_of
from malade_ref.augmentation import Augmentation
from malade_ref.certify import BOUNDS
from malade_ref.checks import MOST_WORK, InputError, check_count
from malade_ref.experiment.exhibits import Figure, Table, check_exhibits
from malade_ref.experiment.pictures import Perturbations, Sheet, Walk, check_plates
from malade_ref.experiment.tables import REST, check_slug, nearest, setting
from malade_ref.network import BUILDERS, PRESETS, parameters_of
from malade_ref.robust_training import RobustCheck
from malade_ref.training import OPTIMIZERS, SCHEDULES
from malade_ref.training_options import Options

CLEAN = "clean"
# What a classifier may learn besides plain labels and another's answers; all but the last on images that are attacked.
OBJECTIVES = ("madry", "fast", "trades", "alp", "clp")
OWN_SOURCES = ("defence", "classifier")

# Parameters of an attack that the experiment sets itself.
_GIVEN = ("seed", "sample_index")


@dataclass(frozen=True, kw_only=True)
class Data:
    """``[data]``: which images.

    Attributes
    ----------
    name : str
        Name of the data set, see ``malade data list``.
    train, validation, test : int, optional
        How many images of each split, the first ones; all by default.
    seed : int
        Of synthetic data; what is real does not depend on it.
    """

    name: str
    seed: int = setting(0, minimum=0)
    train: int | None = setting(None, minimum=1)
    validation: int | None = setting(None, minimum=1)
    test: int | None = setting(None, minimum=1)

    def sizes(self) -> dict[str, int]:
        """Return the sizes that were given."""
        sizes = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: size for split, size in sizes.items() if size is not None}


@dataclass(frozen=True, kw_only=True)
class Method:
    """An attack's algorithm with its settings: a table with ``method`` and parameters of that function.

    Attributes
    ----------
    method : str
        Name of an attack that has a card, see `malade_ref.attacks.card`.
    settings : dict
        Its keyword arguments.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict, metadata=REST)

    @property
    def card(self) -> Card:
        """What the attack is."""
        return card_of(self.method)

    @property
    def profile(self) -> Profile:
        """What it is with these settings."""
        return self.card.profile(self.settings)

    @property
    def function(self) -> Callable[..., Any]:
        """The function."""
        return self.card.function

    def resolved(self) -> dict[str, Any]:
        """Return all settings, defaults included."""
        return self.card.resolved(self.settings)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """``augment = { pad = 4, flip = true }``: what is done to training images; see `malade_ref.augmentation`.

    Attributes
    ----------
    pad : int
        Zeros around an image, in pixels, of which a random window of the image's size is taken.
    flip : bool
        Whether half of the images are mirrored, left to right.
    """

    pad: int = setting(0, minimum=0)
    flip: bool = False


@dataclass(frozen=True, kw_only=True)
class Check(Method):
    """``robust_check = { method = "ascent", eps = 0.03, ... }``: an attack after each epoch of a training.

    Attributes
    ----------
    method, settings
        The algorithm, see `Method`; ``ascent`` is enough, which is PGD without a verdict.
    num_images, max_drop
        As of `malade_ref.robust_training.RobustCheck`.
    """

    num_images: int = setting(300, minimum=1)
    max_drop: float = setting(0.5, above=0, maximum=1)


@dataclass(frozen=True, kw_only=True)
class Model:
    """``[models.<name>]``: a network and how it is trained, or the file that holds it.

    Attributes
    ----------
    kind : {"classifier", "denoiser"}
        What it is; a denoiser without ``classifier`` is a DAE, with one an sDAE.
    file : str, optional
        A saved network to use instead of training one; the settings of the training then have no meaning. In a user's
        file a path is from its folder; ``published:NAME`` is one of the project's own.
    published : str, optional
        Name of the project's own network that was trained by these settings: it is taken in place of training one,
        unless the experiment says ``published = false``, or a scale or a change by hand makes the settings others.
    name : str
        What reports call it.
    note : str
        What reports must say about it.
    network : str, optional
        Which network of its kind, see `malade_ref.network.make`; the paper's for MNIST (``"cnn"`` or ``"sdae"``) by
        default.
    preset : {"paper", "small"}
        Size of the network.
    depth, width : int, optional
        Its size in place of the preset's, for a network that has such settings.
    mean, std : tuple of float, optional
        By what a network normalises the channels of images; `malade_ref.network.channel_statistics` by default.
    seed : int
        Added to the experiment's seed for its initial weights, the order of images and the noise.
    epochs, batch_size, learning_rate, schedule, optimizer
        As in `malade_ref.training.fit`.
    subset : int, optional
        Train on the first so many images only.
    validation : int
        Validation images to look at after each epoch, at most.
    init : str, optional
        Name of a model of the same kind to start from.
    adversarial : Method, optional
        For a classifier: train on the images this attack finds.
    ramp : int
        For adversarial training: epochs over which the attack's eps and step size grow to what it says.
    objective : {"madry", "fast", "trades", "alp", "clp"}, optional
        For a classifier: what it learns, see `malade_ref.robust_training`. "madry", by default with ``adversarial``:
        the attacked images; "fast": the same with one step from a random start, of 1.25 eps unless ``step_size`` says
        another, and with a ``robust_check`` of ten steps unless there is one; "trades" and "alp": images and attacked
        ones; "clp": noisy images, without ``adversarial``.
    beta : float
        For "trades": weight of the divergence.
    pairing_weight : float
        For "alp" and "clp": weight of the difference of logits; 0.5 in its authors' code for (Tiny) ImageNet.
    noise : float, optional
        For "clp": standard deviation of the noise, pixels in [0, 1].
    robust_check : Check, optional
        For a classifier: follow the accuracy on attacked validation images, and stop when it collapses.
    label_smoothing : float
        For a classifier: share of the labels that is spread over all classes.
    augment : Augment, optional
        Random crops and mirror images.
    momentum, weight_decay, clip_norm, averaging, milestones, factor
        As of `malade_ref.training_options.Options`; the last two for ``schedule = "piecewise"``.
    teacher : str, optional
        For a classifier: learn the answers of this one in place of the labels, as a surrogate of it.
    sigma2 : float, optional
        For a denoiser: variance of the training noise, pixels in [0, 1]. Files may give its root instead, ``sigma``.
    classifier : str, optional
        For an sDAE: the frozen classifier that it is to protect.
    ce_weight : float
        For an sDAE: factor of the classifier's cross entropy, 1 in the paper.
    """

    kind: str = setting(choices=tuple(BUILDERS))
    file: str | None = None
    published: str | None = None
    name: str = ""
    note: str = ""
    network: str | None = None
    preset: str = setting("paper", choices=PRESETS)
    depth: int | None = setting(None, minimum=1)
    width: int | None = setting(None, minimum=1)
    mean: tuple[float, ...] | None = setting(None)
    std: tuple[float, ...] | None = setting(None, above=0)
    seed: int = setting(0, minimum=0)
    epochs: int = setting(0, minimum=1)
    batch_size: int = setting(128, minimum=1)
    learning_rate: float = setting(1e-3, above=0)
    schedule: str = setting("one-cycle", choices=SCHEDULES)
    optimizer: str = setting("adam", choices=OPTIMIZERS)
    subset: int | None = setting(None, minimum=1)
    validation: int = setting(1000, minimum=1)
    init: str | None = None
    adversarial: Method | None = None
    ramp: int = setting(0, minimum=0)
    objective: str | None = setting(None, choices=OBJECTIVES)
    beta: float = setting(6.0, minimum=0)
    pairing_weight: float = setting(0.5, minimum=0)
    noise: float | None = setting(None, minimum=0)
    robust_check: Check | None = None
    label_smoothing: float = setting(0.0, minimum=0)
    augment: Augment | None = None
    momentum: float = setting(0.9, minimum=0)
    weight_decay: float = setting(0.0, minimum=0)
    clip_norm: float | None = setting(None, above=0)
    averaging: float | None = setting(None, minimum=0)
    milestones: tuple[float, ...] = setting(Options.milestones, above=0)
    factor: float = setting(Options.factor, above=0)
    teacher: str | None = None
    sigma2: float | None = setting(None, above=0)
    classifier: str | None = None
    ce_weight: float = setting(1.0, minimum=0)

    @property
    def architecture(self) -> tuple[Any, ...]:
        """What says which network a training starts from: its name and its size."""
        return self.network or next(iter(BUILDERS[self.kind])), self.preset, self.depth, self.width

    @property
    def learns(self) -> str | None:
        """The objective, "madry" by default where there is an attack."""
        return self.objective or (None if self.adversarial is None else "madry")

    @property
    def attack(self) -> Method | None:
        """The attack of the training with what its objective makes of its settings."""
        if self.adversarial is None or self.learns != "fast":
            return self.adversarial
        eps = float(self.adversarial.resolved()["eps"])
        one_step = {"step_size": 1.25 * eps, **self.adversarial.settings, "num_steps": 1}
        return Method(method=self.adversarial.method, settings=one_step)

    @property
    def check(self) -> Check | None:
        """The robust check; of "fast" there is one in any case."""
        if self.robust_check is not None or self.learns != "fast" or self.adversarial is None:
            return self.robust_check
        eps = float(self.adversarial.resolved()["eps"])
        norm = str(self.adversarial.resolved()["norm"])
        return Check(method="ascent", settings={"eps": eps, "step_size": eps / 4, "num_steps": 10, "norm": norm})

    def options(self) -> Options:
        """Return what the training does besides the paper's.

        Raises
        ------
        InputError
            If a setting is out of range.
        """
        names = ("momentum", "weight_decay", "clip_norm", "averaging", "milestones", "factor")
        check = self.check
        return Options(
            **{name: getattr(self, name) for name in names},
            augment=None if self.augment is None else Augmentation(self.augment.pad, self.augment.flip),
            robust_check=None
            if check is None
            else RobustCheck(partial(check.function, **check.settings), check.num_images, check.max_drop),
        )

    def further_settings(self) -> dict[str, Any]:
        """Those of the training that are not as by default, JSON-able, of which trainings once knew nothing.

        Returns
        -------
        dict
            With all settings of attacks, defaults included.
        """
        plain, found = Model(kind=self.kind), {}
        for name in FURTHER:
            value = getattr(self, name)
            if value != getattr(plain, name):
                found[name] = list(value) if isinstance(value, tuple) else value
        if self.augment is not None:
            found["augment"] = asdict(self.augment)
        check = self.check
        if check is not None:
            found["robust_check"] = {**asdict(check), "settings": check.resolved()}
        return found


# Keys of a model that came later: left out of what is recorded where they are as by default, so that it stays the same.
FURTHER = (
    *("objective", "beta", "pairing_weight", "noise", "robust_check", "label_smoothing", "augment"),
    *("momentum", "weight_decay", "clip_norm", "averaging", "milestones", "factor"),
)


@dataclass(frozen=True, kw_only=True)
class Search:
    """``[defences.<name>.search]``: a grid of chain settings, judged on the validation split (App. B.2.2).

    Every setting is judged on the same validation images, clean and attacked. Of the settings that cost at most
    ``max_clean_drop`` of clean accuracy, the one with the highest accuracy on attacked images is chosen; in a tie the
    one with fewer steps, then smaller a, then smaller delta. See `malade_ref.experiment.search`.

    Attributes
    ----------
    num_steps, a, delta : tuple
        The grid: all combinations.
    attack : Method
        The attack.
    against : {"classifier", "defence"}
        Whom it is made against: the bare classifier, once for all settings, or each setting's own chain.
    num_rounds : int
        Of successive halving, if settings are attacked for themselves.
    num_images : int
        Validation images; of the last round.
    num_draws : int
        Draws of the chain's noise for each of them.
    max_clean_drop : float
        How much clean accuracy a setting may cost, compared with the bare classifier on the same images.
    """

    num_steps: tuple[int, ...] = setting(minimum=1)
    a: tuple[float, ...] = setting(above=0)
    delta: tuple[float, ...] = setting(minimum=0)
    attack: Method
    against: str = setting("classifier", choices=OWN_SOURCES)
    num_rounds: int = setting(1, minimum=1, maximum=10)
    num_images: int = setting(500, minimum=1)
    num_draws: int = setting(1, minimum=1)
    max_clean_drop: float = setting(0.03, minimum=0, maximum=1)


@dataclass(frozen=True, kw_only=True)
class Defence:
    """``[defences.<name>]``: a classifier, bare or behind a Langevin chain.

    By custom the name of a defended classifier is that of the bare one, ``+``, and the defence's.

    Attributes
    ----------
    name : str
        What reports call it.
    classifier : str
        Name of a model.
    denoiser : str, optional
        Name of a model; without one the classifier is bare.
    num_steps, a, delta : number, optional
        Fixed settings of the chain.
    clip : bool
        Whether the chain is clipped to [0, 1] after every step.
    search : Search, optional
        How to find settings instead.
    same_settings_as : str, optional
        Name of a defence whose settings to use instead.
    replica_of : str, optional
        Name of a defence that this one repeats, its models trained with other seeds; reports then say how much that
        matters.
    """

    name: str
    classifier: str
    denoiser: str | None = None
    num_steps: int | None = setting(None, minimum=0)
    a: float | None = setting(None, above=0)
    delta: float | None = setting(None, minimum=0)
    clip: bool = True
    search: Search | None = None
    same_settings_as: str | None = None
    replica_of: str | None = None


class Victim(NamedTuple):
    """Whom images are made against.

    Attributes
    ----------
    name : str
        Name of a classifier among the models, or of a defence behind a chain.
    bare : bool
        Which of the two.
    """

    name: str
    bare: bool


@dataclass(frozen=True, kw_only=True)
class Attack(Method):
    """``[[attacks]]``: an attack on some of the defences.

    Attributes
    ----------
    method, settings
        The algorithm, see `Method`.
    name : str
        Its name in the outcomes.
    title : str
        What reports call it.
    against : tuple of str
        Names of defences.
    eps : tuple of float
        Sizes of the perturbation, in the method's norm; one cell of the outcomes each.
    source : str
        What the images are made against: ``"defence"``, all of it; ``"classifier"``, the bare classifier, ignoring the
        chain; or the name of another defence, or of a classifier among the models, whose images are made once and
        tried on all.
    cuts : tuple of float
        For an attack that looks for the nearest wrong image: distances up to which its finds count; one cell each is
        derived from its outcomes. Such an attack is reported by its median distance.
    cut_norm : {"l2", "l1"}
        Norm of these distances: Euclidean, or the attack's own.
    num_images : int, optional
        How many images; ``evaluation.num_images`` by default.
    family : str
        Name in common of the attacks that differ in one setting: the file has them as one, with ``vary = { num_steps =
        [10, 20] }``, and each becomes an attack of its own.
    """

    name: str
    title: str = ""
    family: str = ""
    against: tuple[str, ...]
    eps: tuple[float, ...] = setting((), minimum=0)
    source: str = "defence"
    cuts: tuple[float, ...] = setting((), above=0)
    cut_norm: str = setting("l2", choices=("l2", "l1"))
    num_images: int | None = setting(None, minimum=1)

    @property
    def nearest(self) -> bool:
        """Whether it is judged by the distances of what it finds."""
        return bool(self.cuts) or not self.eps

    def victim(self, name: str, defences: Mapping[str, Defence]) -> Victim:
        """Whom the images that a defence is given are made against.

        Parameters
        ----------
        name : str
            The defence.
        defences : mapping of str to Defence
            All of them.

        Returns
        -------
        Victim
            The defence itself, or another model.
        """
        if self.source not in OWN_SOURCES:
            if self.source not in defences:
                return Victim(self.source, True)
            name = self.source
        bare = self.source == "classifier" or defences[name].denoiser is None
        return Victim(defences[name].classifier if bare else name, bare)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """``[evaluation]``: how defences are judged.

    Attributes
    ----------
    num_images : int
        Test images: the first of a fixed random order, so that attacks with fewer images use a part of them.
    num_draws : int
        Fresh draws of a random defence's noise on every image; no attack saw them.
    shard_size : int
        Images that are worked on, and stored, together.
    save_images : bool
        Whether the bundle keeps all adversarial images.
    early_stop : bool
        Whether an image that has fallen leaves an attack in a ball, where its verdict cannot change: on a bare
        classifier, if the images are tried on nobody else. See `malade_ref.attacks.standing`.
    quality_images : int, optional
        Test images that models are tested on, the first of the same order; all by default.
    """

    num_images: int = setting(minimum=1)
    num_draws: int = setting(20, minimum=1)
    shard_size: int = setting(100, minimum=1)
    save_images: bool = False
    early_stop: bool = False
    quality_images: int | None = setting(None, minimum=1)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """``[audit]``: checks of the gradients that attacks are given, and of what attacks make of them.

    Attributes
    ----------
    gradient_images : int
        Images at which gradients are compared with finite differences.
    eot_images : int
        Images at which the variance of the gradient over draws is measured.
    eot_draws : int
        Draws for that.
    binarisation_images : int
        Images around which an attack is to find what is known to exist, see `malade_ref.binarisation`; 0 for no such
        test. It needs classifiers whose last layer is linear.
    binarisation_eps : float
        Radius for that, in L-infinity.
    convergence : bool
        Whether attacks at several numbers of steps are held to have converged, see `malade_ref.convergence`.
    """

    gradient_images: int = setting(4, minimum=1)
    eot_images: int = setting(16, minimum=1)
    eot_draws: int = setting(32, minimum=2)
    binarisation_images: int = setting(0, minimum=0)
    binarisation_eps: float = setting(0.3, above=0, maximum=1)
    convergence: bool = False


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """``[certify.smoothed.<name>]``: a classifier whose predictions under noise are certified.

    Attributes
    ----------
    name : str
        What reports call it.
    classifier : str
        Name of a model.
    denoiser : str, optional
        Name of a model that noisy images pass through, once; one that was trained at the noise of ``[certify]``.
    """

    name: str
    classifier: str
    denoiser: str | None = None


@dataclass(frozen=True, kw_only=True)
class Certify:
    """``[certify]``: certified L2 radii by randomised smoothing, see `malade_ref.certify`.

    Attributes
    ----------
    smoothed : dict of str to Smoothed
        What is certified, all on the same images.
    sigma2 : float
        Variance of the noise, pixels in [0, 1].
    num_images : int
        Test images, the first of those of ``[evaluation]``.
    num_selection, num_estimation : int
        Draws that select the class, and draws that certify it.
    alpha : float
        Probability of a wrong certificate, at most.
    bound : {"rest", "runner-up"}
        What the first class is held against.
    radii : tuple of float
        L2 norms for the table.
    shard_size : int
        Images that are worked on, and stored, together.
    """

    smoothed: dict[str, Smoothed]
    sigma2: float = setting(above=0)
    num_images: int = setting(100, minimum=1)
    num_selection: int = setting(100, minimum=1)
    num_estimation: int = setting(1000, minimum=1)
    alpha: float = setting(0.001, above=0, maximum=0.5)
    bound: str = setting("rest", choices=BOUNDS)
    radii: tuple[float, ...] = setting((0.0, 0.25, 0.5, 0.75), minimum=0)
    shard_size: int = setting(10, minimum=1)


@dataclass(frozen=True, kw_only=True)
class Paths:
    """``[paths]``: adversarial images on their way through two chains, the paper's Figure 2.

    Attributes
    ----------
    defence : str
        A defence with a denoiser.
    marginal : str
        A denoiser that never saw a label, for the chain beside it, with the same settings.
    attack : str
        Name of an attack; it is made against the bare classifier.
    eps : float
        Size of its perturbation.
    num_images : int
        Images that the bare classifier knew and the attack took from it.
    """

    defence: str
    marginal: str
    attack: str
    eps: float = setting(minimum=0)
    num_images: int = setting(4, minimum=1)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """``[pictures]``: what attacks made of some images, the paper's Appendix D.

    Attributes
    ----------
    num_images : int
        The first test images, in the order of the evaluation; at most those that every attack was given.
    """

    num_images: int = setting(3, minimum=1)


@dataclass(frozen=True, kw_only=True)
class Report:
    """``[report]``: what tables and verdict are about.

    Attributes
    ----------
    norm : str
        Norm of the perturbations.
    eps : float
        Their size.
    """

    norm: str = setting(choices=("linf", "l2"))
    eps: float = setting(minimum=0)


@dataclass(frozen=True, kw_only=True)
class Published:
    """``[[paper]]``: a figure of the paper, to be printed beside ours.

    Attributes
    ----------
    table : str
        Where it stands.
    defence : str
        Our name of what it is about.
    attack : str
        The attack, in the paper's words.
    accuracy : float
        In percent.
    norm, eps : str and float, optional
        What the attack may do, if not what the report is about.
    """

    table: str
    defence: str
    attack: str
    norm: str = setting("", choices=("", "linf", "l2", "l0"))
    eps: float | None = setting(None, minimum=0)
    accuracy: float = setting(minimum=0, maximum=100)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment: the whole of its file.

    Attributes
    ----------
    name : str
        Short; part of the default folder's name.
    title : str
        One line.
    note : str
        What the report must say first.
    about : str
        Name of the data set that title, notes and quoted figures speak of; with other data they are left out. Empty if
        they hold for any.
    seed : int
        Of everything random.
    scale : str
        The ``[scales.<name>]`` whose changes are applied; empty for the file as it is.
    published : bool
        Whether models take the published networks that they name; otherwise they are trained.
    store : str
        Where trained networks are kept, see `malade_ref.experiment.store.store_folder`; no result depends on it.
    data : Data
        Which images.
    models : dict of str to Model
        Networks.
    defences : dict of str to Defence
        What is judged.
    attacks : tuple of Attack
        What it is judged by; clean images always come first.
    evaluation, audit, certify, paths, pictures, report, paper, tables, figures, sheets, perturbations, walks
        See there.
    """

    name: str
    title: str
    note: str = ""
    about: str = ""
    seed: int = setting(0, minimum=0)
    scale: str = ""
    published: bool = True
    store: str = ""
    data: Data
    models: dict[str, Model]
    defences: dict[str, Defence]
    attacks: tuple[Attack, ...] = setting(())
    evaluation: Evaluation
    audit: Audit = Audit()
    certify: Certify | None = None
    paths: Paths | None = None
    pictures: Pictures | None = None
    report: Report | None = None
    paper: tuple[Published, ...] = setting(())
    tables: tuple[Table, ...] = setting(())
    figures: tuple[Figure, ...] = setting(())
    sheets: tuple[Sheet, ...] = setting(())
    perturbations: tuple[Perturbations, ...] = setting(())
    walks: tuple[Walk, ...] = setting(())

    def training_order(self) -> list[str]:
        """Names of the models, each after those it refers to.

        Raises
        ------
        InputError
            If two need each other.
        """
        order: list[str] = []
        waiting = dict(self.models)
        while waiting:
            ready = [
                name
                for name, model in waiting.items()
                if not {model.init, model.classifier, model.teacher} & waiting.keys()
            ]
            if not ready:
                raise InputError(
                    f"models: {', '.join(sorted(waiting))} need each other; change init, classifier or teacher"
                )
            order += ready
            for name in ready:
                del waiting[name]
        return order

    def protected_by(self, denoiser: str) -> list[str]:
        """Return the classifiers that are to understand a denoiser's reconstructions, or those of its successors."""
        own = [self.models[denoiser].classifier]
        own += [defence.classifier for defence in self.defences.values() if defence.denoiser == denoiser]
        own += [model.classifier for model in self.models.values() if model.init == denoiser]
        return [name for name in dict.fromkeys(own) if name is not None]

    def cells(self) -> Iterator[tuple[str, Attack | None, float]]:
        """All cells of the outcomes.

        Yields
        ------
        tuple of (str, Attack or None, float)
            Defence, attack (None for clean images) and eps.
        """
        for defence in self.defences:
            yield defence, None, 0.0
        for attack in self.attacks:
            for defence in attack.against:
                for eps in attack.eps or (0.0,):
                    yield defence, attack, eps


def check_experiment(experiment: Experiment, file: str) -> None:
    """Raise unless all parts of an experiment fit together.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    file : str
        Where it is from, for complaints.
    """
    check_slug(f"{file}: name", experiment.name)
    for name, model in experiment.models.items():
        _check_model(experiment, model, f"{file}: models.{name}")
    try:
        experiment.training_order()
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    if not experiment.defences:
        raise InputError(f"{file}: defences: expected at least one")
    for name, defence in experiment.defences.items():
        _check_defence(experiment, defence, f"{file}: defences.{name}")
    names = [attack.name for attack in experiment.attacks]
    for attack in experiment.attacks:
        where = f"{file}: attacks.{check_slug(f'{file}: attacks', attack.name)}"
        if attack.name == CLEAN or names.count(attack.name) > 1:
            raise InputError(f"{where}: expected names that differ from each other and from {CLEAN!r}")
        _check_attack(experiment, attack, where)
    if experiment.certify is not None:
        _check_certify(experiment, experiment.certify, f"{file}: certify")
    if experiment.paths is not None:
        _check_paths(experiment, experiment.paths, f"{file}: paths")
    if experiment.pictures is not None:
        given = [attack.num_images or experiment.evaluation.num_images for attack in experiment.attacks]
        most = min([experiment.evaluation.num_images, experiment.evaluation.shard_size, *given])
        if experiment.pictures.num_images > most:
            raise InputError(
                f"{file}: pictures.num_images: expected at most {most}, the images of every attack and of a shard"
            )
    check_plates(experiment, file)
    for published in experiment.paper:
        _refer(published.defence, experiment.defences, f"{file}: paper: defence")
    attacks = {name: attack for attack in experiment.attacks for name in (attack.name, attack.family) if name}
    check_exhibits(experiment.tables, experiment.figures, defences=experiment.defences, attacks=attacks, file=file)


def _check_model(experiment: Experiment, model: Model, where: str) -> None:
    if model.file is None and not model.epochs:
        raise InputError(f"{where}.epochs: missing; expected an integer, or the file of a network")
    if model.file == "":
        raise InputError(f"{where}.file: expected the path of a saved network; got none")
    if model.network is not None:
        _refer(model.network, BUILDERS[model.kind], f"{where}.network")
    parameters = parameters_of(model.kind, model.network)
    for key, parameter in {"depth": "depth", "width": "width", "mean": "normalize", "std": "normalize"}.items():
        if getattr(model, key) is not None and parameter not in parameters:
            raise InputError(f"{where}.{key}: {model.architecture[0]} has no such setting; remove it")
    if (model.mean is None) != (model.std is None):
        raise InputError(f"{where}.mean: expected mean and std together; add the other or remove it")
    if model.init is not None:
        _refer(model.init, experiment.models, f"{where}.init")
        start = experiment.models[model.init]
        same = start.architecture == model.architecture
        if start.kind != model.kind or not (same or start.file is not None or model.file is not None):
            raise InputError(
                f"{where}.init: expected a {model.kind} of the same network and preset {model.preset}, "
                f"{model.init} is another"
            )
    if model.ramp and (model.adversarial is None or model.ramp >= model.epochs):
        raise InputError(
            f"{where}.ramp: expected 0, or less than epochs, with adversarial training; change or remove it"
        )
    check_training(model, where)
    if model.kind == "classifier":
        for key in ("sigma2", "classifier"):
            if getattr(model, key) is not None:
                raise InputError(f'{where}.{key}: a classifier has none; remove it or set kind = "denoiser"')
        if model.teacher is not None:
            _refer(model.teacher, _of_kind(experiment, "classifier"), f"{where}.teacher")
        if model.adversarial is not None:
            if model.teacher is not None:
                raise InputError(f"{where}.teacher: not together with adversarial; remove one of them")
            check_method(model.adversarial, f"{where}.adversarial", training=True)
        return
    if model.sigma2 is None:
        raise InputError(f"{where}.sigma: missing; expected the standard deviation of the noise that it is to remove")
    if model.adversarial is not None:
        raise InputError(f"{where}.adversarial: only classifiers can be trained on attacks; remove it")
    if model.teacher is not None:
        raise InputError(f"{where}.teacher: only classifiers can learn from another's answers; remove it")
    if model.classifier is not None:
        _refer(model.classifier, _of_kind(experiment, "classifier"), f"{where}.classifier")


# Which settings an objective has, besides those of all.
_OF_OBJECTIVE = {"beta": ("trades",), "pairing_weight": ("alp", "clp"), "noise": ("clp",)}
# Of the attack's settings, those that TRADES has; it has its own start and its own loss.
_OF_TRADES = ("eps", "step_size", "num_steps", "norm")


def check_training(model: Model, where: str) -> None:
    """Raise unless the further settings of a training go together.

    Parameters
    ----------
    model : Model
        Its table.
    where : str
        File and key, for complaints.
    """
    plain, learns = Model(kind=model.kind), model.learns
    if model.kind != "classifier":
        for key in ("objective", "robust_check", "label_smoothing", *_OF_OBJECTIVE):
            if getattr(model, key) != getattr(plain, key):
                raise InputError(f"{where}.{key}: only of classifiers; remove it")
    for key, objectives in _OF_OBJECTIVE.items():
        if getattr(model, key) != getattr(plain, key) and learns not in objectives:
            raise InputError(f"{where}.{key}: only with objective = {' or '.join(map(repr, objectives))}; remove it")
    if not model.label_smoothing < 1:
        raise InputError(f"{where}.label_smoothing: expected a number >= 0 and < 1, got {model.label_smoothing}")
    if model.objective is not None:
        if model.teacher is not None:
            raise InputError(f"{where}.objective: not together with teacher; remove one of them")
        if model.objective == "clp" and model.adversarial is not None:
            raise InputError(f"{where}.adversarial: clp attacks nothing; remove it, or choose another objective")
        if model.objective == "clp" and model.noise is None:
            raise InputError(f"{where}.noise: missing; expected the standard deviation of the noise")
        if model.objective != "clp" and model.adversarial is None:
            raise InputError(f"{where}.adversarial: missing; {model.objective} needs an attack to train on")
    attack = model.adversarial
    if attack is not None and learns in ("fast", "trades"):
        if attack.method != "ascent":
            raise InputError(f"{where}.adversarial.method: {learns} has an ascent of its own; expected 'ascent'")
        for key, value in attack.settings.items():
            if learns == "trades" and key not in _OF_TRADES:
                raise InputError(f"{where}.adversarial.{key}: trades has no such setting; remove it")
            if learns == "fast" and key == "num_steps" and value != 1:
                raise InputError(f"{where}.adversarial.num_steps: fast makes 1 step, got {value}; change or remove it")
            if learns == "fast" and key == "random_start" and value is False:
                raise InputError(f"{where}.adversarial.random_start: fast has one; remove it")
        check_method(attack, f"{where}.adversarial", training=True)
    if model.robust_check is not None:
        check_method(model.robust_check, f"{where}.robust_check", training=True)
    try:
        options = model.options()
        options.check_settings(optimizer=model.optimizer, schedule=model.schedule)
    except InputError as error:
        raise InputError(f"{where}.{error}") from None


def _check_defence(experiment: Experiment, defence: Defence, where: str) -> None:
    _refer(defence.classifier, _of_kind(experiment, "classifier"), f"{where}.classifier")
    if defence.replica_of is not None:
        bare = defence.denoiser is None
        originals = {
            name: other
            for name, other in experiment.defences.items()
            if other.replica_of is None and (other.denoiser is None) == bare
        }
        _refer(defence.replica_of, originals, f"{where}.replica_of")
    fixed = [key for key in ("num_steps", "a", "delta") if getattr(defence, key) is not None]
    ways = [key for key in ("search", "same_settings_as") if getattr(defence, key) is not None]
    if defence.denoiser is None:
        if fixed or ways:
            raise InputError(f"{where}.{(fixed + ways)[0]}: has no meaning without a denoiser; add one or remove it")
        return
    _refer(defence.denoiser, _of_kind(experiment, "denoiser"), f"{where}.denoiser")
    if len(fixed) not in (0, 3) or len(ways) + bool(fixed) != 1:
        raise InputError(f"{where}: expected either num_steps, a and delta, or search, or same_settings_as")
    if defence.search is not None:
        if not (defence.search.num_steps and defence.search.a and defence.search.delta):
            raise InputError(f"{where}.search: expected at least one value each of num_steps, a and delta")
        check_method(defence.search.attack, f"{where}.search.attack")
        if defence.search.num_rounds > 1 and defence.search.against == "classifier":
            raise InputError(
                f'{where}.search.num_rounds: has no meaning against the classifier; add against = "defence"'
            )
    if defence.same_settings_as is not None:
        settled = {name: other for name, other in experiment.defences.items() if other.search or other.a is not None}
        _refer(defence.same_settings_as, settled, f"{where}.same_settings_as")


def _check_attack(experiment: Experiment, attack: Attack, where: str) -> None:
    check_method(attack, where)
    if not attack.against:
        raise InputError(f"{where}.against: expected at least one of {', '.join(experiment.defences)}")
    for defence in attack.against:
        _refer(defence, experiment.defences, f"{where}.against")
    if len(set(attack.against)) < len(attack.against) or len({f"{eps:g}" for eps in attack.eps}) < len(attack.eps):
        raise InputError(f"{where}: expected no defence and no eps twice")
    if attack.eps and "eps" not in attack.card.parameters:
        raise InputError(f"{where}.eps: {attack.method} has no such setting; remove it")
    if not (attack.eps or attack.profile.nearest):
        raise InputError(f"{where}.eps: expected at least one number")
    if attack.source not in OWN_SOURCES:
        sources = {**dict.fromkeys(OWN_SOURCES), **experiment.defences, **_of_kind(experiment, "classifier")}
        _refer(attack.source, sources, f"{where}.source")
        named = experiment.defences.get(attack.source)
        is_model = named is not None and named.denoiser is None and named.classifier == attack.source
        if named is not None and attack.source in experiment.models and not is_model:
            raise InputError(f"{where}.source: {attack.source!r} is a model and another defence; rename one of them")
    if attack.cuts and not attack.profile.nearest:
        others = {name: card_of(name).profile({}) for name in available_attacks()}
        near = sorted((one.gradient == "none", name) for name, one in others.items() if one.nearest)
        names = ", ".join(name for _, name in near)
        raise InputError(f"{where}.cuts: only for {names}, which look for the nearest wrong image; remove")
    if attack.cut_norm not in ("l2", attack.profile.norm):
        raise InputError(f"{where}.cut_norm: expected l2 or {attack.method}'s own, {attack.profile.norm}; change it")
    if len({f"{cut:g}" for cut in attack.cuts}) < len(attack.cuts):
        raise InputError(f"{where}.cuts: expected no distance twice")
    if attack.num_images is not None and attack.num_images > experiment.evaluation.num_images:
        raise InputError(
            f"{where}.num_images: expected at most evaluation.num_images = {experiment.evaluation.num_images}"
        )


def _check_certify(experiment: Experiment, certify: Certify, where: str) -> None:
    if not certify.smoothed or not certify.radii:
        raise InputError(f"{where}: expected at least one table [certify.smoothed.<name>] and one of radii")
    if certify.num_images > experiment.evaluation.num_images:
        raise InputError(
            f"{where}.num_images: expected at most evaluation.num_images = {experiment.evaluation.num_images}"
        )
    for name, smoothed in certify.smoothed.items():
        _refer(smoothed.classifier, _of_kind(experiment, "classifier"), f"{where}.smoothed.{name}.classifier")
        if smoothed.denoiser is not None:
            _refer(smoothed.denoiser, _of_kind(experiment, "denoiser"), f"{where}.smoothed.{name}.denoiser")
            trained = experiment.models[smoothed.denoiser].sigma2
            if trained != certify.sigma2:
                raise InputError(
                    f"{where}.sigma2: expected {trained}, that of {smoothed.denoiser}, got {certify.sigma2}"
                )


def _check_paths(experiment: Experiment, paths: Paths, where: str) -> None:
    chains = {name: defence for name, defence in experiment.defences.items() if defence.denoiser is not None}
    _refer(paths.defence, chains, f"{where}.defence")
    _refer(paths.marginal, _of_kind(experiment, "denoiser"), f"{where}.marginal")
    _refer(paths.attack, {attack.name: attack for attack in experiment.attacks}, f"{where}.attack")


def check_method(method: Method, where: str, *, training: bool = False) -> None:
    """Raise unless an attack exists and has the settings it is given.

    Parameters
    ----------
    method : Method
        The attack. ``eps`` is one of its settings, but for an `Attack`, where it is a key of its own.
    where : str
        File and key, for complaints.
    training : bool
        Whether it is to find images to train on.
    """
    available = available_attacks(training=training)
    if method.method not in available:
        raise InputError(f"{where}.method: no attack {method.method!r}; {nearest(method.method, available)}")
    hidden = (*_GIVEN, "eps") if isinstance(method, Attack) else _GIVEN
    kinds = {name: _kind(one) for name, one in method.card.parameters.items() if name not in hidden}
    kinds = {name: kind for name, kind in kinds.items() if kind is not None}
    for key, value in method.settings.items():
        if key not in kinds:
            own = [field.name for field in fields(Attack) if field.name not in ("method", "settings")]
            known = ["method", *(own if isinstance(method, Attack) else []), *kinds]
            raise InputError(f"{where}.{key}: unknown key; {nearest(key, known)}")
        kind = kinds[key]
        several = type(value) is list and "Sequence" in str(method.card.parameters[key].annotation)
        if not several and type(value) is not kind and not (kind is float and type(value) is int):
            raise InputError(f"{where}.{key}: expected {kind.__name__} as in {method.method}'s default, got {value!r}")
        if kind is int:
            check_count(f"{where}.{key}", value, minimum=0, maximum=MOST_WORK)
        if kind is float and not math.isfinite(value) and value != method.card.parameters[key].default:
            raise InputError(f"{where}.{key}: expected a finite number, got {value!r}")
    method.profile  # noqa: B018  # complains about a card that these settings do not go with


def available_attacks(*, training: bool = False) -> list[str]:
    """Names of the attacks that need nothing but a model, images, labels and settings.

    Parameters
    ----------
    training : bool
        Whether those count that find images to train on and judge nothing.

    Returns
    -------
    list of str
        Names of functions.
    """
    return sorted(
        name
        for name, card in CARDS.items()
        if (training or not card.training_only)
        and all(one.default is not inspect.Parameter.empty for one in card.parameters.values())
    )


def _kind(parameter: inspect.Parameter) -> Any:
    """Type of a setting that a table can give, by its default; a size that may be left out is a number."""
    if parameter.name == "eps" and parameter.default is None:
        return float
    return type(parameter.default) if isinstance(parameter.default, bool | int | float | str) else None


def _of_kind(experiment: Experiment, kind: str) -> dict[str, Model]:
    return {name: model for name, model in experiment.models.items() if model.kind == kind}


def _refer(name: str, known: Mapping[str, Any], where: str) -> None:
    if name not in known:
        raise InputError(f"{where}: nothing is called {name!r}; {nearest(name, list(known))}")
