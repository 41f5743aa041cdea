r"""What a training may do besides the paper's: decay, clipping, averages of the weights, schedules, checks.

With g the gradient of the mean loss, p the parameters, and t = 1, 2, ... the step:

    clipping        g <- g min(1, c / ||g||),                 ||g|| over all parameters
    weight decay    SGD: g <- g + w p;  Adam: p <- p - rate w p, decoupled; of weights of products alone
    averaging       m_t = d m_{t-1} + (1 - d) p_t,  m_0 = 0;  the result is m_t / (1 - d^t)

Weight decay leaves out biases, and gains and biases of normalisations: it would only shift what the next layer undoes.
The average includes the running statistics of batch normalisation: no pass over the images to recompute them, and they
stay those of the images that the training saw, adversarial ones too.

References
----------
.. [1] Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
.. [2] Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013: clipping.
.. [3] Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; with Adam's correction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from .arrays import Array
from .augmentation import Augmentation
from .checks import InputError, check_number
from .layers import Parameters
from .network import Network
from .robust_training import RobustCheck

# The one kind of parameter that decays: the weight of a linear layer or a convolution.
DECAYS = "weight"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of `fit` of which the paper has none; by default each is off.

    Parameters
    ----------
    momentum : float
        Of SGD, in [0, 1).
    weight_decay : float
        Factor w >= 0 of the weights: as L2 penalty w ||p||^2 / 2 with SGD (PyTorch's SGD), decoupled from the gradient
        with Adam (PyTorch's AdamW).
    clip_norm : float, optional
        Longest gradient, in the Euclidean norm over all parameters, > 0.
    averaging : float, optional
        Decay d in [0, 1) of the weights' average, which is then what is validated, and the result.
    milestones : tuple of float
        Of the schedule "piecewise": fractions of the steps, rising, in (0, 1).
    factor : float
        Of the schedule "piecewise": what the rate is multiplied by at each milestone, > 0.
    augment : Augmentation, optional
        What is done to the training images.
    robust_check : RobustCheck, optional
        Attack on validation images after each epoch; ends a training whose robustness collapses.
    """

    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float | None = None
    averaging: float | None = None
    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1
    augment: Augmentation | None = None
    robust_check: RobustCheck | None = None

    def __post_init__(self) -> None:
        check_number("momentum", self.momentum, minimum=0, below=1)
        check_number("weight_decay", self.weight_decay, minimum=0)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, above=0)
        if self.averaging is not None:
            check_number("averaging", self.averaging, minimum=0, below=1)
        check_number("factor", self.factor, above=0)
        if not self.milestones:
            raise InputError("milestones: expected at least one fraction of the steps")
        last = 0.0
        for milestone in self.milestones:
            last = check_number("milestones", milestone, above=last, below=1)

    def check_settings(self, *, optimizer: str, schedule: str) -> None:
        """Raise unless every option has an effect with the other settings of a training.

        Parameters
        ----------
        optimizer, schedule : str
            As of `malade_ref.training.fit`.
        """
        plain = Options()
        if optimizer != "sgd" and self.momentum != plain.momentum:
            raise InputError('momentum: only of optimizer = "sgd"; remove it or change the optimizer')
        if schedule != "piecewise":
            for name in ("milestones", "factor"):
                if getattr(self, name) != getattr(plain, name):
                    raise InputError(f'{name}: only of schedule = "piecewise"; remove it or change the schedule')

    def check(self, network: Network, *, validated: bool) -> None:
        """Raise unless the options fit what is to be trained.

        Parameters
        ----------
        network : Network
            Which network.
        validated : bool
            Whether there are validation images.
        """
        if self.augment is not None and len(network.input_shape) != 3:
            raise InputError("augment: only for images; remove it")
        if self.robust_check is not None and not validated:
            raise InputError("robust_check: needs validation images; give some or remove it")
        if self.robust_check is not None and len(network.output_shape) != 1:
            raise InputError("robust_check: only for classifiers; remove it")

    def changed(self) -> dict[str, Any]:
        """Those that are not as by default, by name."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    def clipped(self, gradients: Parameters) -> Parameters:
        """Gradients whose common norm is at most ``clip_norm``.

        Parameters
        ----------
        gradients : dict of str to array
            Of the mean loss, by parameter.
        """
        if self.clip_norm is None:
            return gradients
        # In the order of the names: a training that was taken up again has them in another.
        squares = [float((g * g).sum(dtype="float64")) for _, g in sorted(gradients.items())]
        norm = math.sqrt(sum(squares))
        if norm <= self.clip_norm:
            return gradients
        return {name: g * (self.clip_norm / norm) for name, g in gradients.items()}

    def decayed(
        self, name: str, parameter: Array, gradient: Array, *, optimizer: str, learning_rate: float
    ) -> tuple[Array, Array]:
        """Parameter and gradient with weight decay.

        Parameters
        ----------
        name : str
            Of the parameter.
        parameter, gradient : array
            Before the step.
        optimizer : str
            Whose way of decay.
        learning_rate : float
            Of the step.

        Returns
        -------
        parameter, gradient : array
            For the optimiser's step; the same if nothing decays.
        """
        if not self.weight_decay or name.rpartition(".")[2] != DECAYS:
            return parameter, gradient
        if optimizer == "adam":
            return parameter - learning_rate * self.weight_decay * parameter, gradient
        return parameter, gradient + self.weight_decay * parameter

    def averaged(self, mean: Parameters, params: Parameters) -> Parameters:
        """The running average after a step, without its correction.

        Parameters
        ----------
        mean : dict of str to array
            Before the step; empty before the first.
        params : dict of str to array
            Parameters after the step.
        """
        if self.averaging is None:
            return {}
        old, new = self.averaging, 1 - self.averaging
        return {name: (old * mean[name] + new * p if mean else new * p) for name, p in params.items()}

    def result(self, params: Parameters, mean: Parameters, step: int) -> Parameters:
        """What is validated, and what a training ends with.

        Parameters
        ----------
        params, mean : dict of str to array
            After a step, as of `averaged`.
        step : int
            Number of steps that were made.
        """
        if self.averaging is None or step == 0:
            return params
        return {name: m / (1 - self.averaging**step) for name, m in mean.items()}
