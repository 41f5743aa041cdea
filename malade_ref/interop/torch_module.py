r"""A defended classifier as a module of PyTorch, for tools that know nothing else.

    module(x) = (1/D) sum_d z(x, w_d),

the mean logits over D draws w_d of noise. The backward pass is the exact gradient, through all steps of the chain and
for the same noise. So attacks of torchattacks, AutoAttack, Foolbox or ART differentiate through the defence as ours do.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..checks import check_choice, check_model, check_work
from ..sampling import Stream
from .tensors import OnTensors
from .torch import _torch

NOISE = ("fixed", "fresh")
STREAM = "torch-module"


def as_torch_module(model: Any, *, num_draws: int = 1, noise: str = "fixed", seed: int = 0) -> Any:
    """A model as a `torch.nn.Module`, from images to logits.

    Parameters
    ----------
    model : Network or MALADE
        Of any backend; a `Wrapped` one, too.
    num_draws : int
        Draws of a random defence's noise that a call averages over.
    noise : {"fixed", "fresh"}
        Whether every call takes the same draws, or the next ones. The draws of an image are those of its place in the
        batch.
    seed : int
        Of the noise. It is the attacker's: no defender draws it, so that a verdict on the images that an attack found
        is to be had from the defence itself, such as `MALADE.predict_draws`.

    Returns
    -------
    torch.nn.Module
        Takes tensors of shape (n, c, h, w), pixels in [0, 1], of any floating-point type, and gives logits (n, k) of
        the model's type. It has no parameters to train, and no other mode in training. Gradients of gradients, and
        torch.func, are refused.

    Raises
    ------
    InputError
        If PyTorch is not installed, or a setting is out of range.

    Examples
    --------
    >>> from malade_ref import MALADE, cnn, sdae
    >>> defended = MALADE(cnn(), sdae(), num_steps=25, a=0.3, delta=0.05)
    >>> torchattacks.PGD(as_torch_module(defended, noise="fresh"), eps=0.3)(x, y)  # doctest: +SKIP
    """
    check_model("model", model)
    check_work("num_draws", num_draws)
    check_choice("noise", noise, NOISE)
    model.ops.derive_key(seed, STREAM)  # complains about a seed out of range
    _torch()
    return _class()(model, num_draws, noise == "fresh", seed).eval()


def __getattr__(name: str) -> Any:
    if name == "DefendedModule":
        return _class()
    raise AttributeError(name)


@cache
def _class() -> Any:
    torch = _torch()

    class DefendedModule(torch.nn.Module):  # type: ignore[misc, name-defined]
        """A model as a module; see `as_torch_module`."""

        def __init__(self, model: Any, num_draws: int, fresh: bool, seed: int) -> None:
            super().__init__()
            # Tools look at the first parameter to learn where a module is.
            self.place = torch.nn.Parameter(torch.empty(0), requires_grad=False)
            self.model, self.num_draws, self.fresh, self.seed = model, num_draws, fresh, seed
            self.calls = 0

        def forward(self, x: Any) -> Any:
            """Logits of images."""
            settings: dict[str, Any] = {}
            if self.model.stochastic:
                first = self.calls * self.num_draws if self.fresh else 0
                stream = Stream(self.seed, STREAM)
                settings = {"num_draws": self.num_draws, "first_draw": first, "stream": stream}
            self.calls += 1
            own = getattr(torch, self.model.dtype)
            return OnTensors(self.model).logits(x.to(own) if x.is_floating_point() else x, **settings)

        def extra_repr(self) -> str:
            """Return the model."""
            return repr(self.model)

    # So that pickle finds it.
    DefendedModule.__module__, DefendedModule.__qualname__ = __name__, "DefendedModule"
    return DefendedModule
