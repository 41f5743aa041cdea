"""Networks keep their bits on the disk, and a stranger's file can do no more than be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref.checkpoint import load, load_state, save, save_state, unrounded
from malade_ref.checks import InputError
from malade_ref.network import Network, cnn, mlp, sdae
from malade_ref.storage import load_record, save_record


@pytest.mark.parametrize("make", [cnn, sdae])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip(tmp_path: Path, make: Any, dtype: str) -> None:
    network = make("small", seed=2, dtype=dtype)
    network.metadata["trained_on"] = {"data": "digits", "epochs": 3}
    save(network, tmp_path / "a.h5")
    loaded = load(tmp_path / "a.h5")
    assert loaded.architecture() == network.architecture()
    assert loaded.metadata == network.metadata
    assert loaded.params.keys() == network.params.keys()
    for name, value in network.params.items():
        assert loaded.params[name].dtype == value.dtype
        assert loaded.params[name].tobytes() == value.tobytes()
    x = np.linspace(0, 1, 2 * 28 * 28, dtype=dtype).reshape(2, 1, 28, 28)
    np.testing.assert_array_equal(loaded.apply(x), network.apply(x))
    save(loaded, tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_half_precision(tmp_path: Path) -> None:
    network = cnn("small", seed=2)
    network.metadata["training"] = {"epochs": 3}
    save(network, tmp_path / "whole.h5")
    save(network, tmp_path / "half.h5", half=True)
    assert (tmp_path / "half.h5").stat().st_size < 0.52 * (tmp_path / "whole.h5").stat().st_size
    rounded = load(tmp_path / "half.h5")
    assert rounded.dtype == "float32"
    for name, value in network.params.items():
        np.testing.assert_array_equal(rounded.params[name], value.astype(np.float16).astype(np.float32))
    assert rounded.fingerprint() != network.fingerprint() == unrounded(rounded)
    assert rounded.metadata["training"] == {"epochs": 3}
    # Rounding again changes nothing, and forgets nothing; nor does saving whole.
    save(rounded, tmp_path / "again.h5", half=True)
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "half.h5").read_bytes()
    save(rounded, tmp_path / "float.h5")
    assert unrounded(load(tmp_path / "float.h5")) == network.fingerprint()
    # What was trained since is its own.
    trained = rounded.replace_params({name: value + 1 for name, value in rounded.params.items()})
    assert unrounded(trained) == trained.fingerprint()
    assert unrounded(network) == network.fingerprint()


def test_too_large_for_half_precision(tmp_path: Path) -> None:
    network = mlp((1, 2, 2), 2, hidden=(3,))
    network = network.replace_params({name: value + np.float32(7e4) for name, value in network.params.items()})
    with pytest.raises(InputError, match="too large for half precision"):
        save(network, tmp_path / "a.h5", half=True)
    assert not (tmp_path / "a.h5").exists()


def test_state(tmp_path: Path) -> None:
    save_state(tmp_path / "a.h5", {"adam/m": np.arange(3.0)}, {"epoch": 2})
    arrays, meta = load_state(tmp_path / "a.h5")
    np.testing.assert_array_equal(arrays["adam/m"], np.arange(3.0))
    assert meta == {"epoch": 2}
    with pytest.raises(InputError, match="expected a malade-network file, got 'malade-state'"):
        load(tmp_path / "a.h5")


def planted(path: Path, change: Any) -> None:
    """A file with a valid signature and another content."""
    save(mlp((1, 2, 2), 2, hidden=(3,)), path)
    arrays, meta = load_record(path, kind="network")
    content = {"arrays": dict(arrays), "meta": dict(meta), "layers": meta["architecture"]["layers"]}
    change(content)
    save_record(path, content["arrays"], content["meta"], kind="network")


def weights(name: str, value: Any) -> Any:
    return lambda content: content["arrays"].__setitem__(name, value)


def first_weights(content: dict[str, Any]) -> str:
    return next(name for name in sorted(content["arrays"]) if name.endswith("weight"))


def layer(**changes: Any) -> Any:
    """Change the first layer that has weights."""

    def change(content: dict[str, Any]) -> None:
        number = int(first_weights(content).removeprefix("params/").partition(".")[0])
        content["layers"][number].update(changes)

    return change


def architecture(**changes: Any) -> Any:
    return lambda content: content["meta"]["architecture"].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["meta"].pop("architecture"),
        lambda content: content["meta"].update(architecture=[]),
        lambda content: content["meta"].update(metadata="x"),
        lambda content: content["arrays"].pop(first_weights(content)),
        lambda content: content["arrays"].update({first_weights(content): np.zeros((1, 1), np.float32)}),
        lambda content: content["arrays"].update({first_weights(content): np.zeros((3, 4), np.int64)}),
        weights("params/9.weight", np.zeros(3, np.float32)),
        weights("other", np.zeros(3, np.float32)),
        architecture(layers=None),
        architecture(layers=[1, 2]),
        architecture(layers=[{}]),
        architecture(layers=[{"kind": "os.system"}]),
        architecture(layers=[{"kind": "__init__"}]),
        architecture(layers={"kind": "linear"}),
        architecture(input_shape=None),
        architecture(input_shape=[1, -2, 2]),
        architecture(input_shape=[1, 2]),
        architecture(input_shape=["a"]),
        architecture(input_shape=[1, 1 << 80, 2]),
        layer(kind=None),
        layer(kind=["linear"]),
        layer(unknown=1),
        layer(in_features="4"),
        layer(in_features=-4),
        layer(in_features=4.5),
        layer(out_features=1 << 80),
        layer(out_features=None),
        layer(out_features=[3]),
    ],
)
def test_hostile_networks(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "a.h5"
    planted(path, change)
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_was_planted_is_what_was_refused(tmp_path: Path) -> None:
    planted(tmp_path / "a.h5", lambda content: None)
    assert isinstance(load(tmp_path / "a.h5"), Network)


@pytest.mark.parametrize("kind", ["conv2d", "conv_transpose2d", "avg_pool2d", "batch_norm", "reshape", "flatten"])
@pytest.mark.parametrize("value", [None, "x", -1, 0, 1 << 80, 1.5, [], [1, 2, 3], {"a": 1}])
def test_any_setting_of_any_layer_may_be_hostile(tmp_path: Path, kind: str, value: Any) -> None:
    """Every setting in turn takes the value; nothing but InputError, or a network that it fits, comes of it."""
    network = sdae("small")
    descriptions = network.architecture()["layers"] + cnn("small").architecture()["layers"]
    described = [d for d in descriptions if d["kind"].lower().replace("_", "") == kind.replace("_", "")]
    for description in described[:1]:
        for key in description.keys() - {"kind"}:
            arrays = {f"params/0.{name}": np.zeros(3, np.float32) for name in ("weight", "bias")}
            meta = {
                "architecture": {"layers": [{**description, key: value}], "input_shape": [1, 28, 28]},
                "metadata": {},
            }
            save_record(tmp_path / "a.h5", arrays, meta, kind="network")
            with pytest.raises(InputError):
                load(tmp_path / "a.h5")
