"""Who computes: one row a backend.

A backend is opened for a number of threads, and then turns the name of a case into a function that computes it
once and returns the result as a NumPy array when all of it is there (a device has been waited for). To add one, write
a class with these two methods and add it to `BACKENDS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from bench.cases import Problem
from malade_ref.defence import MALADE
from malade_ref.interop import to_torch
from malade_ref.training import Batch, Classification

Run = Callable[[], Any]


class UnavailableError(Exception):
    """A backend cannot be used here; the message says why."""


class Backend(Protocol):
    """What measures need of a backend."""

    versions: dict[str, str]
    device: str

    def prepare(self, case: str, problem: Problem) -> Run:
        """A function that computes a case once, with everything that need not be repeated done already."""
        ...


class Reference:
    """malade_ref, in NumPy."""

    def __init__(self, threads: int) -> None:
        os.environ["MALADE_NUM_THREADS"] = str(threads)
        self.versions = {"numpy": np.__version__}
        self.device = "cpu"

    def prepare(self, case: str, problem: Problem) -> Run:
        classifier, denoiser, chain, x, y = problem
        defended = MALADE(classifier, denoiser, **chain._asdict())
        return {
            "cnn-forward": lambda: classifier.apply(x),
            "cnn-input-gradient": lambda: classifier.loss_and_gradient(x, y).gradient,
            "cnn-training-step": _training_step(problem),
            "sdae-forward": lambda: denoiser.apply(x),
            "chain": lambda: defended.purify(x),
        }[case]


def _training_step(problem: Problem) -> Run:
    """A step of `malade_ref.training.fit`, without its bookkeeping."""
    network, ops, size = problem.classifier, problem.classifier.ops, len(problem.x)
    batch = Batch(problem.x, problem.y, ops.arange(size), epoch=0, seed=0)
    state = {name: (value, 0 * value, 0 * value) for name, value in network.params.items()}
    steps = 0

    def run() -> Any:
        nonlocal steps
        steps += 1
        present = network.replace_params({name: value for name, (value, _, _) in state.items()})
        results = ops.map_slices(
            lambda part: Classification().evaluate(present, batch.part(part), training=True),
            size,
            slice_size=network.slice_size,
        )
        for name, (value, first, second) in state.items():
            gradient = sum((result.gradients[name] for result in results[1:]), results[0].gradients[name]) / size
            state[name] = ops.adam_step(value, gradient, first, second, step=steps, learning_rate=1e-3)
        return np.array(sum(result.sums["loss"] for result in results) / size)

    return run


class Torch:
    """PyTorch on the CPU, eager, with the layout and the settings it has by default.

    The networks are the same functions with the same weights (see `malade_ref.interop`); the chain's noise is
    PyTorch's own.
    """

    def __init__(self, threads: int) -> None:
        try:
            import torch
        except ImportError as error:
            raise UnavailableError(f"PyTorch cannot be imported ({error})") from None
        torch.set_num_threads(threads)
        self.torch = torch
        self.versions = {"torch": torch.__version__}
        self.device = "cpu"

    def prepare(self, case: str, problem: Problem) -> Run:
        torch = self.torch
        classifier, denoiser = to_torch(problem.classifier), to_torch(problem.denoiser)
        x, y, chain = torch.tensor(problem.x), torch.tensor(problem.y), problem.chain
        cross_entropy = torch.nn.functional.cross_entropy

        @torch.inference_mode()
        def forward(network: Any) -> Any:
            return network(x).numpy()

        def input_gradient() -> Any:
            image = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(cross_entropy(classifier(image), y, reduction="sum"), image)
            return gradient.numpy()

        def training_step() -> Any:
            loss = cross_entropy(classifier(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach().numpy()

        @torch.inference_mode()
        def purify() -> Any:
            position = x
            for _ in range(chain.num_steps):
                residual = denoiser(position) - position
                position = (position + chain.a * residual + chain.delta * torch.randn_like(position)).clamp_(0, 1)
            return position.numpy()

        if case == "cnn-training-step":
            classifier.train()
            optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
        else:
            classifier.requires_grad_(False)
        return {
            "cnn-forward": lambda: forward(classifier),
            "cnn-input-gradient": input_gradient,
            "cnn-training-step": training_step,
            "sdae-forward": lambda: forward(denoiser),
            "chain": purify,
        }[case]


# The first is what the others are compared with.
BACKENDS: dict[str, Callable[[int], Backend]] = {"ref": Reference, "torch": Torch}
