"""Arrays of another library than the device's: one line that says so, from every op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import malade_gpu
from malade_ref.checks import InputError

from .backends import device, gpu, to_device


class Foreign:
    """An array that is neither NumPy's nor CuPy's, but has what most arrays have."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.__array_interface__ = array.__array_interface__

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_array"], name)

    def __getitem__(self, index: Any) -> Foreign:
        return Foreign(self._array[index])

    def __len__(self) -> int:
        return len(self._array)


def foreign(array: Any) -> Any:
    return Foreign(array) if device().emulated else array


rng = np.random.default_rng(0)
X = rng.random((2, 3, 4, 4)).astype("float32")
FLAT = rng.random((2, 5)).astype("float32")
CHANNELS = np.ones(3, "float32")
WEIGHT = rng.random((4, 3, 3, 3)).astype("float32")
Y = np.array([0, 1])
MIXTURE = np.zeros(2, "float32"), np.zeros((2, 5), "float32"), np.stack([np.eye(5, dtype="float32")] * 2)
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "relu": ((X,), {}),
    "relu_vjp": ((X, X), {}),
    "tanh": ((X,), {}),
    "add_bias": ((X, CHANNELS), {}),
    "add_bias_vjp": ((X,), {}),
    "batch_norm": ((X, CHANNELS, CHANNELS), {}),
    "linear": ((FLAT, FLAT), {}),
    "conv2d": ((X, WEIGHT), {}),
    "grouped_conv2d": ((X, WEIGHT), {"groups": 1}),
    "max_pool2d": ((X,), {"size": 2}),
    "avg_pool2d": ((X,), {"size": 2}),
    "upsample_bilinear": ((X,), {"output_size": 7}),
    "langevin_step": ((X, X, X), {"a": 0.1, "delta": 0.1}),
    "clip_pixels": ((X,), {}),
    "argmax": ((FLAT,), {}),
    "log_softmax": ((FLAT,), {}),
    "softmax_cross_entropy": ((FLAT, Y), {}),
    "margin_loss": ((FLAT, Y), {}),
    "sign_step": ((X, X), {"step_size": 0.1}),
    "project_l2": ((X, X), {"eps": 0.1}),
    "distance_linf": ((X, X), {}),
    "select": ((Y == 0, X, X), {}),
    "add_up": (([X, X],), {}),
    "concatenate": (([X, X],), {}),
    "mixture_scores": ((FLAT, *MIXTURE, Y), {"num_classes": 2}),
    "mixture_hessians": ((FLAT, *MIXTURE, Y), {"num_classes": 2}),
    "check_images": (("x", X), {"image_shape": (3, 4, 4)}),
}


def variants(args: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """The arguments with each of the arrays in turn left in another library, and with all of them."""

    def there(value: Any, other: bool) -> Any:
        if isinstance(value, list):
            return [there(one, other and i == 0) for i, one in enumerate(value)]
        if not isinstance(value, np.ndarray):
            return value
        return foreign(value) if other else to_device(value)

    arrays = [i for i, value in enumerate(args) if isinstance(value, np.ndarray | list)]
    chosen = [{i} for i in arrays] + [set(arrays)]
    return [tuple(there(value, i in some) for i, value in enumerate(args)) for some in chosen]


@pytest.mark.faults
@pytest.mark.parametrize("name", CALLS)
def test_arrays_of_another_library(name: str) -> None:
    args, settings = CALLS[name]
    for changed in variants(args):
        with pytest.raises(InputError) as caught:
            getattr(gpu, name)(*changed, **settings)
        library = "NumPy" if device().emulated else "CuPy"
        assert f"expected a {library} array, got " in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.faults
def test_the_line_says_which_and_how_to_mend_it() -> None:
    with pytest.raises(InputError, match=r"^x: expected a \w+ array, got .*; malade_gpu.ops.asarray makes it one$"):
        gpu.relu(foreign(X))
    with pytest.raises(InputError, match=r"^weight: expected a \w+ array"):
        gpu.conv2d(to_device(X), weight=foreign(WEIGHT))


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        gpu.relu(to_device(X), slope=1)
    with pytest.raises(InputError, match="expected float32 or float64"):
        gpu.langevin_step(*[to_device(Y)] * 3, a=0.1, delta=0.1)
    network = malade_gpu.cnn("small")
    with pytest.raises(InputError, match="expected a"):
        network.apply(foreign(np.zeros((1, 1, 28, 28), "float32")))


def test_a_op_keeps_its_name_and_words() -> None:
    calls: list[Callable[..., Any]] = [getattr(gpu, name) for name in gpu.__all__]
    assert [call.__name__ for call in calls] == list(gpu.__all__)
    assert all(call.__doc__ for call in calls)
