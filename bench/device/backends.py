"""Who computes on a device: this package in its four precisions, PyTorch and JAX in theirs.

A backend turns a work into two functions: ``run`` does it once and waits for nothing, ``check`` gives what
`work.expected` gives. The networks are the same functions with the same weights; noise is each library's own.

    gpu-fp32 gpu-tf32x3 gpu-tf32 gpu-bf16        malade_gpu
    torch torch-tf32 torch-compiled ...          PyTorch, eager, or by torch.compile with CUDA graphs and autotuning;
                                                 with TF32 allowed, images also lie channels-last
    jax jax-tf32                                 JAX, jitted

Without a GPU (``--rehearse``) malade_gpu runs on the emulated device, and the others on the CPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from bench.backends import UnavailableError
from bench.device import work as works
from bench.device.work import ALPHA, CHECKED, EPS, RATE, SIGMA, STEP_SIZE, Problem, Work
from malade_ref.checks import InputError
from malade_ref.interop import to_torch


class Prepared(NamedTuple):
    """A work made ready."""

    run: Callable[[], Any]
    check: Callable[[], Any]


class Backend(Protocol):
    """What the bench needs of a backend."""

    precision: str  # fp32, tf32x3, tf32 or bf16
    versions: dict[str, str]
    device: str

    def prepare(self, work: Work, problem: Problem) -> Prepared:
        """Make a work ready."""

    def seconds(self, run: Callable[[], Any], calls: int) -> float:
        """Time of so many calls, by the device's clock where there is one."""

    def memory(self, run: Callable[[], Any]) -> int | None:
        """Most bytes of device memory that a call holds; None if they cannot be told."""

    def release(self) -> None:
        """Give back what the last work held."""


# This package -------------------------------------------------------------------------------------------------------


class Gpu:
    """malade_gpu, convolutions in one of its precisions."""

    def __init__(self, precision: str) -> None:
        try:
            from malade_gpu import ops
            from malade_gpu.device import device

            self.gpu = device()
        except InputError as error:
            raise UnavailableError(str(error)) from None
        self.precision = precision
        self.ops = ops
        if precision != "fp32" and self.gpu.capability < 80:
            raise UnavailableError(f"{self.gpu.name} has no tensor cores for {precision}")
        self.versions = {"numpy" if self.gpu.emulated else "cupy": self.gpu.xp.__version__}
        self.device = self.gpu.name

    def prepare(self, work: Work, problem: Problem) -> Prepared:
        import malade_gpu
        from malade_ref.sampling import last_position_with_vjp
        from malade_ref.training import Batch, Classification, SupervisedDenoising, _State, _train_step

        ops = self.ops
        if work.kind == "mixture":
            return self._mixture(work, problem)

        def there(network: Any) -> Any:
            params = {name: ops.asarray(value) for name, value in network.params.items()}
            return malade_gpu.Network(network.layers, params, network.input_shape)

        classifier, denoiser = there(problem.classifier), there(problem.denoiser)
        x, y, cotangent = (ops.asarray(value) for value in (problem.x, problem.y, problem.cotangent))
        defended = malade_gpu.MALADE(classifier, denoiser, **problem.chain._asdict())
        still = malade_gpu.MALADE(classifier, denoiser, **problem.chain._replace(delta=0.0)._asdict())
        index = ops.arange(len(x))

        def gradient_of_chain(settings: Any) -> Any:
            def of_slice(part: slice) -> Any:
                noise = {"key": (0, 0), "sample_index": index[part]}
                _, vjp = last_position_with_vjp(x[part], denoiser, settings, **noise)
                return vjp(cotangent[part])

            return ops.concatenate(ops.map_slices(of_slice, len(x), slice_size=denoiser.slice_size))

        def training(network: Any, objective: Any) -> Prepared:
            state = _State.begin(network, "adam")

            def run() -> Any:
                nonlocal state
                state = _train_step(network, objective, Batch(x, y, index, 0, 0), state, "adam", RATE)

            return self._with(run, lambda: works.training_losses(network, objective, x, y))

        attack = {"eps": EPS, "step_size": STEP_SIZE, "num_steps": work.steps}
        eot = {"mode": "bpda", "num_draws": work.draws}
        match work.kind:
            case "chain":
                return self._with(lambda: defended.purify(x), lambda: still.purify(x))
            case "chain-gradient":
                return self._with(lambda: gradient_of_chain(defended.chain), lambda: gradient_of_chain(still.chain))
            case "forward":
                return self._with(lambda: classifier.apply(x))
            case "gradient":
                return self._with(lambda: classifier.loss_and_gradient(x, y).gradient)
            case "train-cnn":
                return training(classifier, Classification())
            case "train-sdae":
                return training(denoiser, SupervisedDenoising(SIGMA, classifier))
            case "pgd":
                return self._with(
                    lambda: malade_gpu.attacks.pgd(classifier, x, y, **attack),
                    lambda: malade_gpu.attacks.pgd(classifier, x, y, **attack, random_start=False).loss,
                )
            case "bpda":
                return self._with(
                    lambda: defended.loss_and_gradient(x, y, **eot),
                    lambda: still.loss_and_gradient(x, y, **eot).gradient,
                )
        raise ValueError(work.kind)

    def _mixture(self, work: Work, problem: Problem) -> Prepared:
        """All steps of a walker are one kernel's work."""
        ops = self.ops
        x, *mixture = (ops.asarray(value) for value in (problem.x, *problem.mixture.arrays))
        noise = {"key": ops.derive_key(0, "bench"), "sample_index": ops.arange(len(x))}

        def walk(delta: float) -> Any:
            return ops.mixture_chain(x, *mixture, num_steps=work.steps, alpha=ALPHA, delta=delta, **noise)[0]

        return self._with(lambda: walk((2 * ALPHA) ** 0.5), lambda: walk(0.0))

    def _with(self, run: Callable[[], Any], check: Callable[[], Any] | None = None) -> Prepared:
        """In this backend's precision."""

        def set_precision(function: Callable[[], Any]) -> Any:
            before = os.environ.get("MALADE_GPU_PRECISION")
            os.environ["MALADE_GPU_PRECISION"] = self.precision
            try:
                return function()
            finally:
                os.environ.pop("MALADE_GPU_PRECISION")
                if before is not None:
                    os.environ["MALADE_GPU_PRECISION"] = before

        def checked() -> Any:
            return self.ops.to_host(set_precision(check or run))[:CHECKED]

        return Prepared(lambda: set_precision(run), checked)

    def seconds(self, run: Callable[[], Any], calls: int) -> float:
        if self.gpu.emulated:
            return host_seconds(run, calls, lambda: None)
        cuda = self.gpu.xp.cuda
        first, last = cuda.Event(), cuda.Event()
        cuda.Device().synchronize()
        first.record()
        for _ in range(calls):
            run()
        last.record()
        last.synchronize()
        return float(cuda.get_elapsed_time(first, last)) / 1e3

    def memory(self, run: Callable[[], Any]) -> int | None:
        if self.gpu.emulated:
            return None
        pool = self.gpu.xp.get_default_memory_pool()
        pool.free_all_blocks()
        run()
        self.gpu.xp.cuda.Device().synchronize()
        return int(pool.total_bytes())

    def release(self) -> None:
        if not self.gpu.emulated:
            self.gpu.xp.get_default_memory_pool().free_all_blocks()


# PyTorch ------------------------------------------------------------------------------------------------------------


class Torch:
    """PyTorch, eager or compiled, TF32 allowed or not."""

    # Bytes that an image may need in the classifier's backward pass; a batch is cut so that it fits.
    BYTES_OF_IMAGE = 4 << 20

    def __init__(self, *, compiled: bool, tf32: bool, rehearse: bool) -> None:
        try:
            import torch
        except ImportError as error:
            raise UnavailableError(f"PyTorch cannot be imported ({error})") from None
        if not (rehearse or torch.cuda.is_available()):
            raise UnavailableError("PyTorch sees no CUDA device")
        self.torch, self.compiled, self.tf32 = torch, compiled, tf32
        self.on_gpu = torch.cuda.is_available()
        self.where = "cuda" if self.on_gpu else "cpu"
        if not self.on_gpu and tf32:
            raise UnavailableError("only float32 is rehearsed on a CPU")
        self.precision = "tf32" if tf32 else "fp32"
        self.versions = {"torch": torch.__version__}
        self.device = torch.cuda.get_device_name() if self.on_gpu else "cpu"

    def prepare(self, work: Work, problem: Problem) -> Prepared:
        torch, functional = self.torch, self.torch.nn.functional
        self._set()
        if work.kind == "mixture":
            return self._mixture(work, problem)
        layout = torch.channels_last if self.tf32 else torch.contiguous_format

        def there(network: Any) -> Any:
            return to_torch(network).to(self.where, memory_format=layout).requires_grad_(False)

        def images(values: Any) -> Any:
            return torch.tensor(values, device=self.where).to(memory_format=layout)

        classifier, denoiser = there(problem.classifier), there(problem.denoiser)
        x, cotangent, noise = (images(values) for values in (problem.x, problem.cotangent, problem.noise))
        y, chain = torch.tensor(problem.y, device=self.where), problem.chain
        on, off = (torch.tensor(value, device=self.where) for value in (chain.delta, 0.0))

        def cross_entropy(image: Any, label: Any) -> Any:
            return functional.cross_entropy(classifier(image), label, reduction="sum")

        def relaxed(position: Any, delta: Any) -> Any:
            for _ in range(chain.num_steps):
                residual = denoiser(position) - position
                position = (position + chain.a * residual + delta * torch.randn_like(position)).clamp(0, 1)
            return position

        def gradient(f: Callable[..., Any], image: Any, *rest: Any) -> Any:
            if self.compiled:
                return torch.func.grad(f)(image, *rest)
            image = image.detach().requires_grad_()
            return torch.autograd.grad(f(image, *rest), image)[0]

        def gradient_of_chain(image: Any, weight: Any, delta: Any) -> Any:
            return gradient(lambda image: (relaxed(image, delta) * weight).sum(), image)

        def gradient_of_loss(image: Any, label: Any) -> Any:
            return gradient(cross_entropy, image, label)

        def loss_and_gradient(image: Any, label: Any) -> Any:
            def losses(image: Any) -> Any:
                each = functional.cross_entropy(classifier(image), label, reduction="none")
                return each.sum(), each

            if self.compiled:
                slope, each = torch.func.grad(losses, has_aux=True)(image)
                return each, slope
            image = image.detach().requires_grad_()
            total, each = losses(image)
            return each.detach(), torch.autograd.grad(total, image)[0]

        def without_gradients(f: Callable[..., Any]) -> Callable[..., Any]:
            return torch.no_grad()(f)

        match work.kind:
            case "chain":
                f = self._maybe_compiled(without_gradients(relaxed))
                return self._parts(lambda part, delta: f(x[part], delta), len(x), on, off)
            case "chain-gradient":
                f = self._maybe_compiled(gradient_of_chain)
                return self._parts(lambda part, delta: f(x[part], cotangent[part], delta), len(x), on, off)
            case "forward":
                f = self._maybe_compiled(without_gradients(classifier.forward))
                return self._parts(lambda part, _: f(x[part]), len(x), on, off)
            case "gradient":
                f = self._maybe_compiled(gradient_of_loss)
                return self._parts(lambda part, _: f(x[part], y[part]), len(x), on, off)
            case "pgd":
                return self._pgd(work, x, y, self._maybe_compiled(loss_and_gradient))
            case "bpda":
                purify, slope = self._maybe_compiled(without_gradients(relaxed)), self._maybe_compiled(gradient_of_loss)

                def step(part: slice, delta: Any) -> Any:
                    total = torch.zeros_like(x[part])
                    for _ in range(work.draws):
                        total += slope(purify(x[part], delta).detach(), y[part])
                    return total / work.draws

                return self._parts(step, len(x), on, off)
            case "train-cnn":

                def loss_of_cnn(network: Any, noise: Any) -> Any:
                    return functional.cross_entropy(network(x), y)

                return self._training(problem.classifier, loss_of_cnn, noise)
            case "train-sdae":

                def loss_of_sdae(network: Any, noise: Any) -> Any:
                    output = network(x + SIGMA * noise)
                    return ((output - x) ** 2).sum() / len(x) + 2 * SIGMA**2 * cross_entropy(output, y) / len(x)

                return self._training(problem.denoiser, loss_of_sdae, noise)
        raise ValueError(work.kind)

    def _mixture(self, work: Work, problem: Problem) -> Prepared:
        """Chains on a mixture, all walkers and components of a step at once; compiled, a step is one graph."""
        torch = self.torch
        x, log_scale, means, whitening = (
            torch.tensor(value, device=self.where) for value in (problem.x, *problem.mixture.arrays)
        )

        def moved(position: Any, delta: Any) -> Any:
            z = torch.einsum("mij,nmj->nmi", whitening, position[:, None] - means)
            weight = torch.softmax(log_scale - 0.5 * (z * z).sum(2), 1)
            score = -torch.einsum("nm,mij,nmi->nj", weight, whitening, z)
            return position + ALPHA * score + delta * torch.randn_like(position)

        step = self._maybe_compiled(torch.no_grad()(moved))
        on, off = (torch.tensor(value, device=self.where) for value in ((2 * ALPHA) ** 0.5, 0.0))

        def walk(delta: Any) -> Any:
            self._set()
            position = x
            for _ in range(work.steps):
                position = step(position, delta)
            return position

        return Prepared(lambda: walk(on), lambda: walk(off)[:CHECKED].cpu().numpy())

    def _set(self) -> None:
        """Settings of the whole process, at every turn."""
        self.torch.backends.cuda.matmul.allow_tf32 = self.tf32
        self.torch.backends.cudnn.allow_tf32 = self.tf32
        self.torch.backends.cudnn.benchmark = True

    def _maybe_compiled(self, f: Callable[..., Any]) -> Callable[..., Any]:
        if not self.compiled:
            return f
        fast = self.torch.compile(f, mode="max-autotune", fullgraph=True, dynamic=False)

        def call(*arguments: Any) -> Any:
            self.torch.compiler.cudagraph_mark_step_begin()
            # The graph's memory is written again at its next replay.
            result = fast(*arguments)
            return tuple(map(self.torch.clone, result)) if isinstance(result, tuple) else result.clone()

        return call

    def _parts(self, f: Callable[[slice, Any], Any], n: int, on: Any, off: Any) -> Prepared:
        """A function of a part of the batch, for the whole batch, as few parts as fit into memory, all of one size."""
        free = self.torch.cuda.mem_get_info()[0] if self.on_gpu else 1 << 30
        num_parts = next(
            k for k in range(1, n + 1) if n % k == 0 and (n // k == 1 or n // k * self.BYTES_OF_IMAGE < free)
        )
        size = n // num_parts
        parts = [slice(i * size, (i + 1) * size) for i in range(num_parts)]

        def run() -> Any:
            self._set()
            return [f(part, on) for part in parts]

        def check() -> Any:
            self._set()
            return f(parts[0], off).detach().cpu().numpy()[:CHECKED]

        return Prepared(run, check)

    def _pgd(self, work: Work, x: Any, y: Any, loss_and_gradient: Callable[..., Any]) -> Prepared:
        """The best iterate by success, then loss, as in `malade_ref.attacks.pgd`."""
        torch = self.torch

        def attack(part: slice, random: Any) -> Any:
            centre, label = x[part], y[part]
            low, high = (centre - EPS).clamp(0, 1), (centre + EPS).clamp(0, 1)
            start = centre + random * EPS * (2 * torch.rand_like(centre) - 1)
            position = torch.minimum(torch.maximum(start, low), high)
            best, best_loss = centre, torch.full(label.shape, -torch.inf, device=self.where)
            for _ in range(work.steps + 1):
                loss, gradient = loss_and_gradient(position, label)
                better = loss > best_loss
                best = torch.where(better[:, None, None, None], position, best)
                best_loss = torch.where(better, loss, best_loss)
                position = torch.minimum(torch.maximum(position + STEP_SIZE * gradient.sign(), low), high)
            return best_loss

        return self._parts(attack, len(x), torch.tensor(1.0, device=self.where), torch.tensor(0.0, device=self.where))

    def _training(self, network: Any, loss_of: Callable[[Any, Any], Any], noise: Any) -> Prepared:
        torch = self.torch

        def begin() -> Callable[[Any], Any]:
            layout = torch.channels_last if self.tf32 else torch.contiguous_format
            module = to_torch(network).to(self.where, memory_format=layout).train()
            optimizer = torch.optim.Adam(module.parameters(), lr=RATE, fused=self.on_gpu)
            f = torch.compile(loss_of, mode="max-autotune", dynamic=False) if self.compiled else loss_of

            def step(noise: Any) -> Any:
                self._set()
                if self.compiled:
                    torch.compiler.cudagraph_mark_step_begin()
                loss = f(module, noise)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                return loss.detach().clone()

            return step

        step = begin()

        def check() -> Any:
            fresh = begin()
            return np.array([float(fresh(noise)) for _ in range(2)])

        return Prepared(lambda: step(torch.randn_like(noise)), check)

    def seconds(self, run: Callable[[], Any], calls: int) -> float:
        if not self.on_gpu:
            return host_seconds(run, calls, lambda: None)
        cuda = self.torch.cuda
        first, last = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        cuda.synchronize()
        first.record()
        for _ in range(calls):
            run()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3

    def memory(self, run: Callable[[], Any]) -> int | None:
        if not self.on_gpu:
            return None
        self.torch.cuda.reset_peak_memory_stats()
        run()
        self.torch.cuda.synchronize()
        return int(self.torch.cuda.max_memory_allocated())

    def release(self) -> None:
        if self.compiled:
            self.torch.compiler.reset()
        if self.on_gpu:
            self.torch.cuda.empty_cache()


def host_seconds(run: Callable[[], Any], calls: int, wait: Callable[[], Any]) -> float:
    """Time of so many calls by the host's clock, the device waited for."""
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    wait()
    return time.perf_counter() - start
