"""What an attack returns.

`AttackResult` has an entry for each image: the adversarial one, the verdict, and what it took.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..arrays import Array
from ..showing import attack_html, attack_line, attack_summary


class AttackResult(NamedTuple):
    """What an attack found, one entry a sample.

    Attributes
    ----------
    x_adv : array of shape (n, c, h, w), the images' dtype
        Adversarial images, in the ball and in [0, 1].
    success : array of shape (n,), bool
        Whether the model is wrong about x_adv, or takes it for the target, if it has one; for a stochastic model, by
        the mean logits of the judging draws. What rounding could undo is no success: it holds for the image alone and
        in any batch.
    loss : array of shape (n,)
        Cross entropy at x_adv, in nats, with a target minus that of the target; for a stochastic model, the mean over
        the judging draws.
    distance : array of shape (n,), float64
        Distance of x_adv from the clean image in the attack's norm, in pixel units. Where an attack that looks for the
        nearest wrong image found one only beyond the ``eps`` it was given, x_adv is the clean image, without success,
        and this is the distance of the find: above ``eps``. Where it found none at all it is 0.
    num_queries : array of shape (n,), int64
        Evaluations of the whole model spent, each draw counted, those for gradients included.
    num_gradients : array of shape (n,), int64
        Gradients of the whole model spent, each draw counted.
    """

    x_adv: Array
    success: Array
    loss: Array
    distance: Array
    num_queries: Array
    num_gradients: Array

    def __repr__(self) -> str:
        """Return the counts on one line."""
        return attack_line(self)

    def _repr_html_(self) -> str:
        return attack_html(self)

    def summary(self) -> dict[str, Any]:
        """Return what was found, over all images, see `malade_ref.showing.attack_summary`."""
        return attack_summary(self)
