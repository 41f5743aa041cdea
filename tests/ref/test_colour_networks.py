"""Networks and denoisers for colour images: their sizes, what they compute, and the way to them by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref import load, save
from malade_ref import ops as reference
from malade_ref.checks import InputError
from malade_ref.classes import with_class_names
from malade_ref.datasets import Dataset, import_dataset, load_dataset
from malade_ref.experiment.config import Model
from malade_ref.experiment.models import network_for
from malade_ref.experiment.reading import read_experiment, settings_of
from malade_ref.experiment.rehearsal import check_sizes
from malade_ref.layers import Flatten, Layer, Linear, PadChannels, Sequential, layer_from
from malade_ref.network import (
    BUILDERS,
    Network,
    build,
    channel_statistics,
    cifar_resnet,
    cnn,
    colour,
    conv_sdae,
    dncnn,
    madry,
    madry_wide_resnet,
    make,
    parameters_of,
    resnet_v2,
    unet,
    wide_resnet,
)
from malade_ref.training import Classification, Denoising, fit
from tests.tolerances import directional_check

CLASSIFIERS = {
    "cifar-resnet": lambda **settings: cifar_resnet((3, 8, 8), 4, depth=8, width=2, **settings),
    "madry-wide-resnet": lambda **settings: madry_wide_resnet((3, 8, 8), 4, depth=8, width=2, channels=2, **settings),
    "resnet-v2": lambda **settings: resnet_v2((3, 16, 16), 4, depth=26, width=1, **settings),
}
DENOISERS = {
    "conv-sdae": lambda **settings: conv_sdae((3, 8, 8), width=2, **settings),
    "dncnn": lambda **settings: dncnn((3, 6, 5), depth=3, width=3, **settings),
    "unet": lambda **settings: unet((3, 8, 12), depth=2, width=2, **settings),
}
NETWORKS: dict[str, Any] = {**CLASSIFIERS, **DENOISERS}


def images(network: Network, n: int = 4) -> Any:
    return np.random.default_rng(1).random((n, *network.input_shape)).astype(network.dtype)


# Sizes ------------------------------------------------------------------------------------------------------


def count(monkeypatch: pytest.MonkeyPatch, make_it: Any) -> int:
    """Trained numbers of a network that is not initialised: the large ones take long to."""

    def counted(layers: list[Layer], input_shape: tuple[int, ...], **_: Any) -> int:
        body = Sequential(tuple(layers))
        assert len(body.output_shape(input_shape)) == 1
        return sum(math.prod(shape) for name, shape in body.parameter_shapes().items() if body.trains(name))

    monkeypatch.setattr(colour, "build", counted)
    monkeypatch.setattr("malade_ref.network.resnets.build", counted)
    found: int = make_it()
    return found


def test_parameter_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published numbers, and the biases of convolutions that have none there."""
    # He et al.'s for CIFAR10 with shortcuts without parameters; here three projections with batch normalisation.
    projections = 16 * 16 + 16 * 32 + 32 * 64 + 2 * (16 + 32 + 64)
    for depth, published in ((20, 269_722), (56, 853_018)):
        biases = 16 + (16 + 32 + 64) * (depth // 6 * 2 + 1)
        found = count(monkeypatch, lambda depth=depth: cifar_resnet((3, 32, 32), 10, depth=depth))  # type: ignore[misc]
        assert found == published + projections + biases
    assert count(monkeypatch, lambda: cifar_resnet((3, 32, 32), 10)) == found
    # Madry's w32-10.
    assert count(monkeypatch, lambda: madry_wide_resnet((3, 32, 32), 10)) == 45_901_914 + 16 + 10 * (160 + 320 + 640)
    # ResNet-50 v2 for ImageNet, whose projections and last convolutions have biases.
    biases = 2 * (3 * 64 + 4 * 128 + 6 * 256 + 3 * 512)
    assert count(monkeypatch, lambda: resnet_v2((3, 224, 224), 1000)) == 25_568_360 + biases
    # WRN-28-10.
    biases = 16 + 8 * (160 + 320 + 640) + (160 + 320 + 640)
    assert count(monkeypatch, lambda: wide_resnet((3, 32, 32), 10, width=10)) == 36_479_194 + biases


def test_parameter_counts_of_denoisers() -> None:
    assert dncnn((3, 32, 32)).num_parameters == 64 * 28 + 15 * 64 * (9 * 64 + 1) + 3 * (9 * 64 + 1)
    first, second = 25 * 3 + 1, 25 * 64 + 1
    expected = 64 * first + 128 * second + 64 * (128 * 81 + 1) + 64 * 65 + 3 * (25 * 64 + 1)
    assert conv_sdae((3, 64, 64)).num_parameters == expected
    down = 16 * 28 + 32 * (9 * 16 + 1) + 64 * (9 * 32 + 1) + 64 * (9 * 64 + 1)
    up = 32 * (4 * 64 + 1) + 32 * (9 * 64 + 1) + 16 * (4 * 32 + 1) + 16 * (9 * 32 + 1) + 3 * (9 * 16 + 1)
    assert unet((3, 32, 32), preset="small").num_parameters == down + up


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in BUILDERS for name in BUILDERS[kind]])
def test_the_large_ones_are_built(kind: str, name: str) -> None:
    shape = (3, 64, 64) if name == "resnet-v2-50" else (3, 32, 32)
    if "input_shape" not in parameters_of(kind, name):
        shape = (1, 28, 28)
    network = make(kind, name, shape, 10)
    assert network.output_shape == ((10,) if kind == "classifier" else shape)


# Passes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_finite_differences(name: str) -> None:
    network = NETWORKS[name](dtype="float64")
    rng = np.random.default_rng(2)
    general = {
        key: value + 0.1 * rng.random(value.shape) if not key.endswith("weight") else value
        for key, value in network.params.items()
    }
    network, training = network.replace_params(general), network.mixes_samples
    names = [key for key in network.params if network.trains(key)]

    def moved(values: Any) -> Network:
        return network.replace_params({**network.params, **dict(zip(names, values, strict=True))})

    def backward(dy: Any, x: Any, *values: Any) -> Any:
        here = moved(values)
        dx, gradients = here.backward(here.forward(x, training=training)[1], dy, need_parameters=True)
        return [dx, *(gradients[key] for key in names)]

    values = [network.params[key] for key in names]
    directional_check(
        lambda x, *values: moved(values).forward(x, training=training)[0],
        backward,
        [images(network), *values],
        eps=1e-4,
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_to_a_file_and_back(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name](seed=3)
    save(network, tmp_path / "net.h5")
    again = load(tmp_path / "net.h5")
    assert again.architecture() == network.architecture()
    assert again.metadata == network.metadata
    np.testing.assert_array_equal(again.apply(images(network)), network.apply(images(network)))
    assert NETWORKS[name](seed=4).fingerprint() != network.fingerprint() == NETWORKS[name](seed=3).fingerprint()


@pytest.mark.parametrize("name", NETWORKS)
def test_trained_a_little(name: str) -> None:
    network = NETWORKS[name]()
    x = images(network, 16)
    objective = Classification() if name in CLASSIFIERS else Denoising(0.1)
    history = fit(network, objective, x, np.arange(16) % 4, epochs=12, batch_size=8, learning_rate=3e-3).history
    assert history["loss"][-1] < history["loss"][0]


def test_pixels_are_normalised_within() -> None:
    means, stds = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    for builder in (cifar_resnet, madry_wide_resnet, resnet_v2):
        network = builder((3, 32, 32), 4, preset="small", normalize=(means, stds), dtype="float64")
        plain = builder((3, 32, 32), 4, preset="small", normalize=((0,) * 3, (1,) * 3), dtype="float64")
        x = images(network)
        moved = (x - np.reshape(means, (3, 1, 1))) / np.reshape(stds, (3, 1, 1))
        np.testing.assert_allclose(network.apply(x), plain.apply(moved), rtol=1e-9)
        assert not np.allclose(network.apply(x), plain.apply(x))


def test_statistics_of_data_sets() -> None:
    assert channel_statistics("cifar10", 3)[0] == (0.4914, 0.4822, 0.4465)
    assert channel_statistics("CIFAR-100", 3)[0] == (0.5071, 0.4865, 0.4409)
    for name in ("tiny-imagenet", "tinyimagenet", "tiny-imagenet-200"):
        assert channel_statistics(name, 3)[1] == (0.2770, 0.2691, 0.2821)
    for name, channels in (("mnist", 1), ("cifar10", 1), ("", 3), ("cifar", 3)):
        assert channel_statistics(name, channels) == ((0.5,) * channels, (0.25,) * channels)


@pytest.mark.parametrize("name", ["dncnn", "unet"])
def test_residual_denoisers_begin_near_the_identity(name: str) -> None:
    network = BUILDERS["denoiser"][name]((3, 32, 32), preset="small")
    x = images(network, 2)
    change = np.sqrt(np.mean((network.apply(x) - x) ** 2))
    assert 0 < change < 0.03


def test_what_an_image_needs_of_its_neighbours() -> None:
    """One pixel's influence: as far as the layers reach, and through a U-Net's joins at full size too."""
    for network, reach in ((dncnn((1, 32, 32), depth=4, width=4), 4), (unet((1, 32, 32), depth=1, width=4), 9)):
        x = images(network, 1)
        moved = x.copy()
        moved[0, 0, 16, 16] += 1
        rows = np.flatnonzero(np.abs(network.apply(moved) - network.apply(x))[0, 0].max(axis=1) > 0)
        assert 16 in rows
        assert max(rows.max() - 16, 16 - rows.min()) <= reach
    # Nothing goes around the smaller size but by the join.
    network = unet((1, 8, 8), depth=1, width=2)
    below = {key: 0 * value for key, value in network.params.items() if key.startswith("2.1.")}
    assert below
    x = images(network)
    assert not np.allclose(network.replace_params({**network.params, **below}).apply(x), x)


# Channels of zeros ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [PadChannels(2, 1), PadChannels(0, 3), PadChannels(0, 0)], ids=repr)
@pytest.mark.parametrize("shape", [(2, 3, 4), (5,)], ids=str)
def test_channels_of_zeros(layer: PadChannels, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random((3, *shape)).astype("float32")
    y, saved = layer.forward(reference, {}, x, False)
    pads = [(0, 0), (layer.before, layer.after), *[(0, 0)] * (len(shape) - 1)]
    np.testing.assert_array_equal(y, np.pad(x, pads), strict=True)
    assert y.shape[1:] == layer.output_shape(shape)
    dy = np.random.default_rng(1).random(y.shape).astype("float32")
    dx, gradients = layer.backward(reference, {}, saved, dy, True, True)
    assert dx is not None
    np.testing.assert_array_equal(dx, dy[:, layer.before : layer.before + shape[0]], strict=True)
    assert not np.shares_memory(dx, dy)
    assert gradients == {}
    assert layer.backward(reference, {}, saved, dy, False, True)[0] is None
    assert layer_from(layer.description()) == layer
    size = math.prod(layer.output_shape(shape))
    network = build([layer, Flatten(), Linear(size, 2)], shape, initialisation="he")
    assert network.apply(x).shape == (3, 2)


@pytest.mark.parametrize(
    ("description", "word"),
    [
        ({"kind": "pad_channels", "before": -1, "after": 0}, "before"),
        ({"kind": "pad_channels", "before": 1, "after": 0.5}, "after"),
        ({"kind": "pad_channels", "before": True, "after": 0}, "before"),
        ({"kind": "pad_channels", "before": 1}, "after"),
    ],
)
def test_channels_of_zeros_that_are_malformed(description: dict[str, Any], word: str) -> None:
    architecture = {"input_shape": [1, 2, 2], "layers": [description]}
    with pytest.raises(InputError, match=word):
        Network.from_architecture(architecture, {})


# By name ----------------------------------------------------------------------------------------------------


def test_a_network_is_made_for_its_images() -> None:
    for shape, num_classes in (((3, 32, 32), 10), ((3, 64, 64), 200), ((1, 28, 28), 3)):
        for kind, builders in BUILDERS.items():
            for name in builders:
                if "input_shape" in parameters_of(kind, name):
                    network = make(kind, name, shape, num_classes, preset="small")
                    assert network.input_shape == shape
                    assert network.output_shape == ((num_classes,) if kind == "classifier" else shape)
                    assert network.metadata["network"] == name


def test_the_networks_for_mnist_are_what_they_were() -> None:
    for name, builder in (("cnn", cnn), ("madry", madry)):
        for num_classes, logits in ((10, 10), (3, 10), (26, 26)):
            made = make("classifier", name, (1, 28, 28), num_classes, preset="small", seed=5)
            assert made.num_classes == logits
            if logits == 10:
                same = builder("small", seed=5)
                assert made.fingerprint() == same.fingerprint()
                assert made.metadata == same.metadata


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make("classifier", None, (3, 32, 32), 10), r"network: cnn takes images of shape \(1, 28, 28\), these"),
        (lambda: make("classifier", "madry", (1, 32, 32), 10), "choose another, such as cifar-resnet, madry-wide"),
        (lambda: make("denoiser", "sdae", (3, 64, 64), 10), "choose another, such as conv-sdae, dncnn, unet"),
        (lambda: make("classifier", "unet", (3, 32, 32), 10), "network: expected"),
        (lambda: make("judge", None, (3, 32, 32), 10), "kind: expected"),
        (lambda: make("classifier", "cnn", (1, 28, 28), 10, depth=8), "depth: cnn has no such setting"),
        (lambda: make("denoiser", "conv-sdae", (3, 32, 32), 10, depth=8), "depth: conv-sdae has no such setting"),
        (lambda: make("denoiser", "unet", (3, 32, 32), 10, normalize=((0,), (1,))), "normalize: unet has no such"),
        (lambda: make("classifier", "cifar-resnet", (3, 32, 32), 10, preset="large"), "preset: expected"),
        (lambda: make("classifier", "cifar-resnet", (3, 32, 32), 10, depth=9), "depth: expected 6 n"),
        (lambda: make("classifier", "cifar-resnet", (3, 32, 32), 10, depth=2), "depth: expected 6 n"),
        (lambda: make("classifier", "madry-wide-resnet", (3, 32, 32), 10, depth=34), "depth: expected 6 n"),
        (lambda: make("classifier", "madry-wide-resnet", (3, 32, 32), 10, width=0), "width: expected an integer >= 1"),
        (lambda: make("classifier", "resnet-v2-50", (3, 64, 64), 10, depth=49), "depth: expected one of 14, 26, 50"),
        (lambda: make("classifier", "resnet-v2-50", (3, 64), 10), r"input_shape: expected \(c, h, w\)"),
        (lambda: make("classifier", "resnet-v2-50", (3, 64, 64), 0), "out_features"),
        (
            lambda: make("classifier", "cifar-resnet", (3, 8, 8), 4, preset="small", normalize=((0.5,), (0.2,))),
            "layer 0: normalize: expected an input",
        ),
        (lambda: make("denoiser", "dncnn", (3, 32, 32), 0, depth=1), "depth: expected an integer >= 2"),
        (lambda: make("denoiser", "dncnn", (3, 32), 0), r"dncnn: input_shape: expected \(c, h, w\), got"),
        (lambda: make("denoiser", "unet", (3, 32, 30), 0, depth=2), "sides that are multiples of 4"),
        (lambda: make("denoiser", "unet", (3, 32, 32), 0, depth=0), "depth: expected an integer"),
        (lambda: make("denoiser", "unet", (3, 32, 32), 0, depth=40), "depth: expected an integer"),
        (lambda: make("denoiser", "conv-sdae", (3, 30, 32), 0), "sides that are multiples of 4"),
    ],
)
def test_complaints(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# In experiments ---------------------------------------------------------------------------------------------


@pytest.fixture
def colours(tmp_path: Path) -> Dataset:
    """Random colour images of five classes."""
    rng = np.random.default_rng(0)
    sizes = {"train": 12, "validation": 6, "test": 8}
    split = np.repeat(list(sizes), list(sizes.values()))
    x = rng.integers(0, 256, (26, 3, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "files.npz", images=x, labels=np.arange(26) % 5, split=split)
    import_dataset(tmp_path / "files.npz", "cifar10-like", tmp_path)
    return load_dataset("cifar10-like", data_dir=tmp_path)


EXPERIMENT = """
name = "colour"
title = "Colour"
[data]
name = "cifar10-like"
[models.net]
kind = "classifier"
epochs = 1
{settings}
[defences.net]
name = "net"
classifier = "net"
[evaluation]
num_images = 4
"""


def experiment(tmp_path: Path, settings: str) -> Any:
    path = tmp_path / "colour.toml"
    path.write_text(EXPERIMENT.format(settings=settings))
    return read_experiment(str(path)).experiment


def test_a_table_gets_a_network_for_its_data(tmp_path: Path, colours: Dataset) -> None:
    settings = 'network = "cifar-resnet"\npreset = "small"\nwidth = 4\n'
    made = experiment(tmp_path, settings)
    check_sizes(made, colours)
    network = network_for(made.models["net"], colours, seed=2)
    assert (network.input_shape, network.num_classes) == ((3, 8, 8), 5)
    assert network.layers[0].description() == {
        "kind": "normalize",
        **dict(zip(("mean", "std"), channel_statistics("cifar10", 3), strict=True)),
    }
    assert with_class_names(network, colours.class_names).num_classes == 5
    own = experiment(tmp_path, settings + "depth = 14\nmean = [0.1, 0.2, 0.3]\nstd = [1, 2, 3]\n").models["net"]
    other = network_for(own, colours, seed=2)
    assert other.metadata["depth"] == 14
    assert other.layers[0].description()["std"] == (1.0, 2.0, 3.0)
    # Bundles of experiments that do not use these keys say nothing of them.
    plain = settings_of(experiment(tmp_path, "network = 'cnn'\n"))["models"]["net"]
    assert not {"depth", "width", "mean", "std"} & plain.keys()
    assert settings_of(made)["models"]["net"]["width"] == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("", r"models.net: network: cnn takes images of shape \(1, 28, 28\), these have \(3, 8, 8\); choose another"),
        ('network = "madry"\n', "models.net: network: madry takes"),
        ('network = "cifar-resnet"\ndepth = 9\n', "models.net: depth: expected 6 n"),
        ('network = "cifar-resnet"\ndepth = 8\nmean = [0.5]\nstd = [0.5]\n', "models.net: layer 0: normalize"),
        ('network = "cnn"\ndepth = 8\n', "models.net.depth: cnn has no such setting"),
        ('network = "madry"\nstd = [0.5]\n', "models.net.std: madry has no such setting"),
        ('network = "cifar-resnet"\nmean = [0.5, 0.5, 0.5]\n', "models.net.mean: expected mean and std together"),
        ('network = "cifar-resnet"\nmean = [0.5]\nstd = [0.0]\n', r"models.net.std"),
        ('network = "cifar-resnett"\n', "did you mean 'cifar-resnet'"),
        ('network = "unet"\n', "models.net.network: nothing is called 'unet'"),
    ],
)
def test_a_table_that_does_not_fit(settings: str, message: str, tmp_path: Path, colours: Dataset) -> None:
    with pytest.raises(InputError, match=message) as error:
        check_sizes(experiment(tmp_path, settings), colours)
    assert "\n" not in str(error.value)


def test_a_start_of_another_size_is_refused(tmp_path: Path) -> None:
    settings = 'network = "cifar-resnet"\npreset = "small"\ninit = "other"\n[models.other]\nkind = "classifier"\n'
    settings += 'epochs = 1\nnetwork = "cifar-resnet"\npreset = "small"\n'
    assert experiment(tmp_path, settings).models["net"].init == "other"
    with pytest.raises(InputError, match=r"models.net.init"):
        experiment(tmp_path, settings + "width = 3\n")
    assert Model(kind="classifier").architecture == ("cnn", "paper", None, None)
