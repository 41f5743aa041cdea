"""What PyTorch has no module for: sums and joins of branches, the normalisation of inputs, channels of zeros.

The classes exist once PyTorch is imported; until then this module has only their names.
"""

from __future__ import annotations

from functools import cache
from typing import Any

NAMES = ("SideBySide", "Normalize", "PadChannels")


def __getattr__(name: str) -> Any:
    if name in NAMES:
        return classes()[name]
    raise AttributeError(name)


@cache
def classes() -> dict[str, Any]:
    """The modules' classes, by name.

    Returns
    -------
    dict of str to type of torch.nn.Module
        ``SideBySide(branches, join)`` adds or joins what its branches make of one input; ``Normalize(mean, std)``
        takes means off channels and divides by standard deviations, both buffers; ``PadChannels(before, after)`` adds
        channels of zeros.
    """
    import torch

    class SideBySide(torch.nn.Module):  # type: ignore[misc]
        """Branches of one input, added or joined along channels."""

        def __init__(self, branches: Any, join: str = "add") -> None:
            super().__init__()
            self.branches = torch.nn.ModuleList(branches)
            self.join = join

        def forward(self, x: Any) -> Any:
            """Apply every branch."""
            first, *others = [branch(x) for branch in self.branches]
            if self.join == "concat":
                return torch.cat([first, *others], dim=1)
            for other in others:
                first = first + other
            return first

        def extra_repr(self) -> str:
            """Return the join."""
            return self.join

    class Normalize(torch.nn.Module):  # type: ignore[misc]
        """(x - mean) / std, channel by channel."""

        def __init__(self, mean: Any, std: Any) -> None:
            super().__init__()
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)

        def forward(self, x: Any) -> Any:
            """Normalise images or vectors."""
            return (x - self.mean) / self.std

    class PadChannels(torch.nn.Module):  # type: ignore[misc]
        """Channels of zeros before and after those of images or vectors."""

        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.before, self.after = before, after

        def forward(self, x: Any) -> Any:
            """Add them."""
            pads = [0, 0] * (x.dim() - 2) + [self.before, self.after]
            return torch.nn.functional.pad(x, pads)

        def extra_repr(self) -> str:
            """Return both numbers."""
            return f"{self.before}, {self.after}"

    found = {"SideBySide": SideBySide, "Normalize": Normalize, "PadChannels": PadChannels}
    for name, cls in found.items():  # so that pickle finds them
        cls.__module__, cls.__qualname__ = __name__, name
    return found
