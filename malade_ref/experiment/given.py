"""Images and models that are given as they are, in place of those that an experiment finds by name or in files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError
from malade_ref.classes import numbers_by_name
from malade_ref.datasets import Dataset, Split, check_images, check_labels
from malade_ref.datasets.splits import ArraySource, Labels, Pixels, Source
from malade_ref.experiment.plan import Passes
from malade_ref.network import Network

# Images that a model's speed is measured with.
NUM_TIMED = 8
GIVEN = "given-images"


@dataclass(frozen=True)
class FloatSplit(Split):
    """Images in memory that are float32 in [0, 1] already.

    Attributes
    ----------
    source : Source
        Where they come from.
    first, last : int
        Numbers in the source of the first image, and of the one after the last.
    """

    def images(self, index: slice | Any = slice(None)) -> NDArray[np.float32]:
        return np.array(self.pixels(index), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Relabelled:
    """A source whose labels are numbers of another list of classes.

    Attributes
    ----------
    source : Source
        Images with their own labels.
    numbers : ndarray of shape (k,), int64
        The new number of each class.
    """

    source: Source
    numbers: Labels

    def pixels(self, rows: slice | Labels) -> Pixels:
        """Images of given numbers, as `malade_ref.datasets.splits.Source.pixels`, of shape (m, c, h, w), uint8."""
        return self.source.pixels(rows)

    def labels(self, rows: slice | Labels) -> Labels:
        """New labels of given numbers, as `malade_ref.datasets.splits.Source.labels`, of shape (m,), int64."""
        return np.asarray(self.numbers[self.source.labels(rows)])


def data_of(x: Any, y: Any, class_names: Sequence[str], name: str = GIVEN) -> Dataset:
    """A data set of test images alone.

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w)
        Pixels in [0, 1]; float64 is rounded to float32.
    y : ndarray of shape (n,), integer
        Labels.
    class_names : sequence of str
        What they stand for.
    name : str
        What to call it.
    """
    check_images(x, name="x")
    check_labels(y, len(class_names), name="y", num_images=len(x))
    if not len(x):
        raise InputError("x: expected at least one image, got none")
    source = ArraySource(np.ascontiguousarray(x, dtype=np.float32), y.astype(np.int64))

    def split(count: int) -> FloatSplit:
        return FloatSplit(source, 0, count)

    return Dataset(
        name,
        split(0),
        split(0),
        split(len(x)),
        num_classes=len(class_names),
        shape=(x.shape[1], x.shape[2], x.shape[3]),
        class_names=tuple(class_names),
        note="",
    )


def with_classes_of(data: Dataset, names: Sequence[str] | None, model: str) -> Dataset:
    """The same images, labelled as a model numbers its classes.

    Parameters
    ----------
    data : Dataset
        Images.
    names : sequence of str, optional
        Names of the model's classes; without them numbers stay.
    model : str
        What the model is called, for complaints.

    Raises
    ------
    InputError
        If the data has a class that the model does not know.
    """
    if names is None or tuple(names[: data.num_classes]) == data.class_names:
        return data
    numbers = np.array(numbers_by_name(data.class_names, names, data=data.name, model=model), dtype=np.int64)
    splits = [
        replace(split, source=Relabelled(split.source, numbers)) for split in (data.train, data.validation, data.test)
    ]
    return replace(
        data,
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        num_classes=len(names),
        class_names=tuple(names),
    )


def seconds_of(networks: Mapping[str, Network], x: NDArray[np.float32]) -> dict[str, Passes]:
    """Measure what a pass of one image takes.

    Parameters
    ----------
    networks : mapping of str to Network
        By name.
    x : ndarray of shape (n, c, h, w), float32
        Some images.

    Returns
    -------
    dict
        By name, for `malade_ref.experiment.plan.plan_of`; a model without gradients has the time of a pass forward for
        each.
    """
    found = {}
    for name, network in networks.items():
        images = network.ops.asarray(np.resize(x, (NUM_TIMED, *x.shape[1:])))

        def forward(network: Network = network, images: Any = images) -> Any:
            return network.ops.to_host(network.apply(images))

        def gradient(network: Network = network, images: Any = images) -> Any:
            out, tape = network.forward(images)
            dx, _ = network.backward(tape, out)
            return network.ops.to_host(dx)

        passes = _seconds(forward)
        try:
            back = _seconds(gradient)
        except InputError:
            back = passes
        # A training has the gradients of the parameters, too.
        found[name] = (passes, back, 1.7 * back)
    return found


def _seconds(call: Any) -> float:
    """Of the second call, an image: the first one warms up."""
    call()
    began = time.monotonic()
    call()
    return (time.monotonic() - began) / NUM_TIMED
