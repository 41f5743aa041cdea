r"""What is asked of a classifier, written down once.

A `Network` has all of it, and so has what `wrap` makes of somebody else's model. Who asks for what:

==========================  ==========================================================================================
attacks (`Oracle`)          `ops`, `dtype`, `input_shape`, `num_classes`, `stochastic`, `logits`, `loss_and_gradient`
`MALADE`                    and `apply`, `forward`, `backward`, `loss_gradient_of`, `slice_size`
`SupervisedDenoising`       `forward`, `loss_gradient_of`, `fingerprint`
`Distillation`              `stochastic`, `logits`, `fingerprint`
`certify`                   `ops`, `dtype`, `input_shape`, `num_classes`, `stochastic`, `apply`
`audit.gradient_check`      `ops`, `loss_and_gradient`, `astype`
`OnTensors`                 `ops`, `stochastic`, `forward`, `backward`, `slice_size`, and what is called through it
evaluation, command line    `predict`, `metadata` (names of the classes)
==========================  ==========================================================================================

Two more attributes are looked for and may be missing: an `oracle` of its own, and the `classifier` within a defence.

Axes: n images, c channels, (h, w) pixels, k classes.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

from ..arrays import Array
from ..layers import Shape
from ..network import LossGradient


class Classifier(Protocol):
    """A classifier without noise of its own, as attacks, defences and evaluations see it."""

    stochastic: bool
    ops: ModuleType
    dtype: str
    input_shape: Shape
    output_shape: Shape
    slice_size: int
    metadata: dict[str, Any]

    @property
    def num_classes(self) -> int:
        """Number k of classes."""
        ...

    def forward(self, x: Array, *, training: bool = False) -> tuple[Array, Any]:
        """As `Network.forward`."""
        ...

    def backward(
        self, tape: Any, dy: Array, *, need_dx: bool = True, need_parameters: bool = False
    ) -> tuple[Array | None, dict[str, Array]]:
        """As `Network.backward`."""
        ...

    def apply(self, x: Array) -> Array:
        """As `Network.apply`."""
        ...

    def logits(self, x: Array) -> Array:
        """As `Network.logits`, of shape (n, k)."""
        ...

    def predict(self, x: Array) -> Array:
        """As `Network.predict`, of shape (n,)."""
        ...

    def loss_gradient(self, x: Array, y: Array) -> Array:
        """As `Network.loss_gradient`."""
        ...

    def loss_and_gradient(
        self, x: Array, y: Array, *, loss: str = "ce", targets: Array | None = None, **_: Any
    ) -> LossGradient:
        """As `Network.loss_and_gradient`."""
        ...

    def loss_gradient_of(
        self, logits: Array, tape: Any, y: Array, *, loss: str = "ce", targets: Array | None = None
    ) -> LossGradient:
        """As `Network.loss_gradient_of`."""
        ...

    def astype(self, dtype: str) -> Classifier:
        """As `Network.astype`."""
        ...

    def fingerprint(self) -> str:
        """As `Network.fingerprint`."""
        ...
