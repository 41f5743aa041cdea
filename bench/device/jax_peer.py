"""JAX: the same networks as functions, jitted; chains by scan, gradients by reverse mode through it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.backends import UnavailableError
from bench.device.backends import Prepared, host_seconds
from bench.device.work import ALPHA, CHECKED, DELTA, EPS, RATE, SIGMA, STEP_SIZE, Problem, Work
from malade_ref.layers import Conv2d, ConvTranspose2d, Flatten, Linear, ReLU, Reshape, Tanh
from malade_ref.ops.geometry import conv_geometry, transpose_geometry


class Jax:
    """JAX, products exact to float32 or with TF32."""

    BYTES_OF_IMAGE = 4 << 20

    def __init__(self, *, tf32: bool, rehearse: bool) -> None:
        # It would take most of the device's memory for itself.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        try:
            import jax
        except ImportError as error:
            raise UnavailableError(f"JAX cannot be imported ({error})") from None
        self.on_gpu = jax.default_backend() == "gpu"
        if not self.on_gpu and (not rehearse or tf32):
            raise UnavailableError("JAX sees no GPU" if not rehearse else "only float32 is rehearsed on a CPU")
        self.jax = jax
        self.precision = "tf32" if tf32 else "fp32"
        self.versions = {"jax": jax.__version__}
        self.device = str(jax.devices()[0])
        self.last: Any = None

    def prepare(self, work: Work, problem: Problem) -> Prepared:
        jax, jnp = self.jax, self.jax.numpy
        classifier, denoiser = (self.function_of(network) for network in (problem.classifier, problem.denoiser))
        weights, weights_d = (
            {name: jnp.asarray(value) for name, value in network.params.items()}
            for network in (problem.classifier, problem.denoiser)
        )
        x, y, cotangent, noise = map(jnp.asarray, (problem.x, problem.y, problem.cotangent, problem.noise))
        a, steps = problem.chain.a, work.steps

        def walk(position: Any, key: Any, delta: Any) -> Any:
            log_scale, means, whitening = map(jnp.asarray, problem.mixture.arrays)

            def step(position: Any, key: Any) -> Any:
                z = jnp.einsum("mij,nmj->nmi", whitening, position[:, None] - means)
                weight = jax.nn.softmax(log_scale - 0.5 * (z * z).sum(2), 1)
                score = -jnp.einsum("nm,mij,nmi->nj", weight, whitening, z)
                noise = jax.random.normal(key, position.shape, position.dtype)
                return position + ALPHA * score + delta * noise, None

            return jax.lax.scan(step, position, jax.random.split(key, steps))[0]

        def losses(image: Any, label: Any) -> Any:
            logits = jax.nn.log_softmax(classifier(weights, image))
            return -jnp.take_along_axis(logits, label[:, None], axis=1)[:, 0]

        def relaxed(position: Any, key: Any, delta: Any) -> Any:
            def step(position: Any, key: Any) -> Any:
                residual = denoiser(weights_d, position) - position
                moved = position + a * residual + delta * jax.random.normal(key, position.shape, position.dtype)
                return jnp.clip(moved, 0, 1), None

            return jax.lax.scan(step, position, jax.random.split(key, steps))[0]

        def gradient_of_chain(image: Any, weight: Any, key: Any, delta: Any) -> Any:
            return jax.grad(lambda image: (relaxed(image, key, delta) * weight).sum())(image)

        def gradient_of_loss(image: Any, label: Any) -> Any:
            return jax.grad(lambda image: losses(image, label).sum())(image)

        def bpda(image: Any, label: Any, key: Any, delta: Any) -> Any:
            def draw(total: Any, key: Any) -> Any:
                return total + gradient_of_loss(relaxed(image, key, delta), label), None

            return jax.lax.scan(draw, jnp.zeros_like(image), jax.random.split(key, work.draws))[0] / work.draws

        def pgd(centre: Any, label: Any, key: Any, random: Any) -> Any:
            low, high = jnp.clip(centre - EPS, 0, 1), jnp.clip(centre + EPS, 0, 1)
            uniform = jax.random.uniform(key, centre.shape, centre.dtype, -1, 1)

            def step(state: Any, _: Any) -> Any:
                position, best, best_loss = state
                total = lambda image: (lambda each: (each.sum(), each))(losses(image, label))  # noqa: E731
                gradient, loss = jax.grad(total, has_aux=True)(position)
                better = loss > best_loss
                best = jnp.where(better[:, None, None, None], position, best)
                moved = jnp.clip(position + STEP_SIZE * jnp.sign(gradient), low, high)
                return (moved, best, jnp.where(better, loss, best_loss)), None

            start = jnp.clip(centre + random * EPS * uniform, low, high)
            worst = jnp.full(label.shape, -jnp.inf, centre.dtype)
            return jax.lax.scan(step, (start, centre, worst), None, length=steps + 1)[0][2]

        match work.kind:
            case "chain":
                return self._parts(lambda part, key, on: (x[part], key, on), relaxed, len(x))
            case "chain-gradient":
                return self._parts(lambda part, key, on: (x[part], cotangent[part], key, on), gradient_of_chain, len(x))
            case "forward":
                return self._parts(lambda part, key, on: (weights, x[part]), classifier, len(x))
            case "gradient":
                return self._parts(lambda part, key, on: (x[part], y[part]), gradient_of_loss, len(x))
            case "pgd":
                return self._parts(lambda part, key, on: (x[part], y[part], key, on), pgd, len(x), scale=1.0)
            case "bpda":
                return self._parts(lambda part, key, on: (x[part], y[part], key, on), bpda, len(x))
            case "mixture":
                scale = (2 * ALPHA) ** 0.5
                return self._parts(lambda part, key, on: (x[part], key, on), walk, len(x), scale=scale)
            case "train-cnn":
                return self._training(
                    weights,
                    lambda weights, noise: (
                        -jnp.take_along_axis(jax.nn.log_softmax(classifier(weights, x)), y[:, None], axis=1).mean()
                    ),
                    noise,
                )
            case "train-sdae":

                def loss_of_sdae(weights_d: Any, noise: Any) -> Any:
                    output = denoiser(weights_d, x + SIGMA * noise)
                    return (((output - x) ** 2).sum() + 2 * SIGMA**2 * losses(output, y).sum()) / len(x)

                return self._training(weights_d, loss_of_sdae, noise)
        raise ValueError(work.kind)

    def function_of(self, network: Any) -> Callable[[Any, Any], Any]:
        """The network as a function of (parameters, images)."""
        jax, jnp = self.jax, self.jax.numpy
        layout = ("NCHW", "OIHW", "NCHW")

        def apply(params: Any, x: Any) -> Any:
            shape = network.input_shape
            for number, layer in enumerate(network.layers):
                weight, bias = params.get(f"{number}.weight"), params.get(f"{number}.bias")
                match layer:
                    case Conv2d():
                        g = conv_geometry(shape[1:], layer.kernel_size, layer.stride, layer.padding)
                        x = jax.lax.conv_general_dilated(x, weight, g.stride, g.pads, dimension_numbers=layout)
                    case ConvTranspose2d():
                        # The adjoint of a convolution: the flipped kernel over the dilated image.
                        g = transpose_geometry(
                            shape[1:], layer.kernel_size, layer.stride, layer.padding, layer.output_padding
                        )
                        pads = []
                        for size, large, k, s, (before, _) in zip(
                            shape[1:], g.size, g.kernel, g.stride, g.pads, strict=True
                        ):
                            first = k - 1 - before
                            pads.append((first, large + k - 1 - ((size - 1) * s + 1) - first))
                        kernel = jnp.flip(weight, (2, 3)).transpose(1, 0, 2, 3)
                        x = jax.lax.conv_general_dilated(
                            x, kernel, (1, 1), pads, lhs_dilation=g.stride, dimension_numbers=layout
                        )
                    case Linear():
                        x = x @ weight.T
                    case ReLU():
                        x = jax.nn.relu(x)
                    case Tanh():
                        x = jnp.tanh(x)
                    case Flatten():
                        x = x.reshape(len(x), -1)
                    case Reshape():
                        x = x.reshape(len(x), *layer.shape)
                    case _:
                        raise UnavailableError(f"{layer.kind} is not translated to JAX")
                if bias is not None:
                    x = x + bias.reshape(-1, *(1,) * (x.ndim - 2))
                shape = layer.output_shape(shape)
            return x

        return apply

    def _jit(self, f: Callable[..., Any]) -> Callable[..., Any]:
        fast = self.jax.jit(f)

        def call(*arguments: Any) -> Any:
            with self.jax.default_matmul_precision("tensorfloat32" if self.precision == "tf32" else "highest"):
                self.last = fast(*arguments)
            return self.last

        return call

    def _parts(self, arguments: Callable[..., Any], f: Callable[..., Any], n: int, scale: float = DELTA) -> Prepared:
        fast, random = self._jit(f), self.jax.random
        free = (self.jax.devices()[0].memory_stats() or {}).get("bytes_limit", 1 << 30) if self.on_gpu else 1 << 30
        num_parts = next(
            k for k in range(1, n + 1) if n % k == 0 and (n // k == 1 or n // k * self.BYTES_OF_IMAGE < free)
        )
        size = n // num_parts
        parts = [slice(i * size, (i + 1) * size) for i in range(num_parts)]
        key = random.key(0)

        def run() -> Any:
            nonlocal key
            key, *keys = random.split(key, num_parts + 1)
            return [fast(*arguments(part, k, scale)) for part, k in zip(parts, keys, strict=True)]

        return Prepared(run, lambda: np.asarray(fast(*arguments(parts[0], key, 0.0)))[:CHECKED])

    def _training(self, weights: Any, loss_of: Callable[[Any, Any], Any], noise: Any) -> Prepared:
        jax, jnp = self.jax, self.jax.numpy
        tree = jax.tree.map

        def step(weights: Any, first: Any, second: Any, count: Any, noise: Any) -> Any:
            loss, slopes = jax.value_and_grad(loss_of)(weights, noise)
            first = tree(lambda m, g: 0.9 * m + 0.1 * g, first, slopes)
            second = tree(lambda v, g: 0.999 * v + 0.001 * g * g, second, slopes)
            one, two = 1 - 0.9**count, 1 - 0.999**count
            weights = tree(lambda w, m, v: w - RATE * (m / one) / (jnp.sqrt(v / two) + 1e-8), weights, first, second)
            return loss, weights, first, second

        fast = self._jit(step)
        zeros = tree(jnp.zeros_like, weights)
        state: Any = (weights, zeros, zeros)
        count, key = 0, jax.random.key(0)

        def run() -> Any:
            nonlocal state, count, key
            count += 1
            key, own = jax.random.split(key)
            loss, *state = fast(*state, float(count), jax.random.normal(own, noise.shape, noise.dtype))
            return loss

        def check() -> Any:
            fresh: Any = (weights, zeros, zeros)
            found = []
            for number in (1.0, 2.0):
                loss, *fresh = fast(*fresh, number, noise)
                found.append(float(loss))
            return np.array(found)

        return Prepared(run, check)

    def seconds(self, run: Callable[[], Any], calls: int) -> float:
        return host_seconds(run, calls, lambda: self.jax.block_until_ready(self.last))

    def memory(self, run: Callable[[], Any]) -> int | None:
        return None

    def release(self) -> None:
        self.last = None
        self.jax.clear_caches()
