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
from .tensors import OnTensors, _check_plain
from .torch import _torch

NOISE = ("fixed", "shared", "fresh")
STREAM = "torch-module"
FURTHEST = 1.0  # beyond [0, 1]: x_k + m (x_k - x_{k-1}), m < 1, goes no further


def as_torch_module(model: Any, *, num_draws: int = 1, noise: str = "fixed", seed: int = 0) -> Any:
    """A model as a `torch.nn.Module`, from images to logits.

    Parameters
    ----------
    model : Network or MALADE
        Of any backend; a `Wrapped` one, too.
    num_draws : int
        Draws of a random defence's noise that a call averages over.
    noise : {"fixed", "shared", "fresh"}
        Whether every call takes the same draws, those of an image's place in the batch; the same ones for all images,
        too; or the next ones at each call, by places. With "shared" the module is a function of the image alone, as
        AutoAttack and RobustBench take for granted, which ask for an image in one batch and then in another.
    seed : int
        Of the noise. It is the attacker's: no defender draws it, so that a verdict on the images that an attack found
        is to be had from the defence itself, such as `MALADE.predict_draws`.

    Returns
    -------
    torch.nn.Module
        Takes tensors of shape (n, c, h, w), pixels in [0, 1], of any floating-point type, and gives logits (n, k) of
        the model's type. It has no parameters to train, and no other mode in training. Gradients of gradients, and
        torch.func, are refused.

        Attacks with momentum, such as EAD, look at images outside [0, 1] on their way. They get an answer up to 1
        beyond; what lies further out, pixels from 0 to 255 above all, is refused.

    Raises
    ------
    InputError
        If PyTorch is not installed, or a setting is out of range.

    Examples
    --------
    >>> from malade_ref import MALADE, cnn, sdae
    >>> defended = MALADE(cnn(), sdae(), num_steps=25, a=0.3, delta=0.05)
    >>> torchattacks.PGD(as_torch_module(defended, noise="fresh"), eps=0.3)(x, y)  # doctest: +SKIP

    AutoAttack, and RobustBench's benchmark of a defence for CIFAR-10:

    >>> module = as_torch_module(defended, noise="shared", num_draws=4)  # doctest: +SKIP
    >>> AutoAttack(module, norm="Linf", eps=0.3, device="cpu").run_standard_evaluation(x, y)  # doctest: +SKIP
    >>> robustbench.eval.benchmark(module, threat_model="Linf", eps=8 / 255, device="cpu")  # doctest: +SKIP
    """
    check_model("model", model)
    check_work("num_draws", num_draws)
    check_choice("noise", noise, NOISE)
    model.ops.derive_key(seed, STREAM)  # complains about a seed out of range
    _torch()
    return _class()(model, num_draws, noise, seed).eval()


def asked_noise(model: Any, num_images: int, num_draws: int, noise: str, seed: int, calls: int) -> dict[str, Any]:
    """What a module tells a stochastic model about the noise to draw.

    Parameters
    ----------
    model : MALADE
        Of any backend.
    num_images : int
        Of the batch.
    num_draws, noise, seed
        As of `as_torch_module`.
    calls : int
        Calls before this one.

    Returns
    -------
    dict
        Keywords of `MALADE.logits`.
    """
    first = calls * num_draws if noise == "fresh" else 0
    settings: dict[str, Any] = {"num_draws": num_draws, "first_draw": first, "stream": Stream(seed, STREAM)}
    if noise == "shared":
        settings["sample_index"] = model.ops.zeros((num_images,), "int64")
    return settings


def __getattr__(name: str) -> Any:
    if name == "DefendedModule":
        return _class()
    raise AttributeError(name)


@cache
def _class() -> Any:
    torch = _torch()

    class DefendedModule(torch.nn.Module):  # type: ignore[misc, name-defined]
        """A model as a module; see `as_torch_module`."""

        def __init__(self, model: Any, num_draws: int, noise: str, seed: int) -> None:
            super().__init__()
            # Tools look at the first parameter to learn where a module is.
            self.place = torch.nn.Parameter(torch.empty(0), requires_grad=False)
            self.model, self.num_draws, self.noise, self.seed = model, num_draws, noise, seed
            self.calls = 0

        def forward(self, x: Any) -> Any:
            """Logits of images."""
            settings: dict[str, Any] = {}
            if self.model.stochastic:
                settings = asked_noise(self.model, len(x), self.num_draws, self.noise, self.seed, self.calls)
            self.calls += 1
            own = getattr(torch, self.model.dtype)
            logits = OnTensors(self.model).logits_near if self._looks_out(x) else OnTensors(self.model).logits
            return logits(x.to(own) if x.is_floating_point() else x, **settings)

        def _looks_out(self, x: Any) -> bool:
            """Whether pixels lie outside [0, 1], and no further than momentum takes them."""
            _check_plain("x", x)
            if tuple(x.shape[1:]) != tuple(self.model.input_shape) or not x.numel() or x.device.type == "meta":
                return False
            least, most = (float(end) for end in torch.aminmax(x.detach()))
            return least >= -FURTHEST and most <= 1 + FURTHEST and (least < 0 or most > 1)

        def extra_repr(self) -> str:
            """Return the model."""
            return repr(self.model)

    # So that pickle finds it.
    DefendedModule.__module__, DefendedModule.__qualname__ = __name__, "DefendedModule"
    return DefendedModule
