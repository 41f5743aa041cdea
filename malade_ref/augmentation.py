r"""Augmentation of training images: random crops of the padded image, and mirrored ones.

    x'_i = flip(crop(pad(x_i))),    the window's place uniform among (2 pad + 1)^2, mirrored with probability 1/2.

The place is a function of (seed, epoch, sample): a sample's does not depend on its batch, and an epoch that is taken up
again sees the same crops. The padding is zeros, black in pixels of [0, 1]: so do the recipes for CIFAR10 whose numbers
are published ([1]_, [2]_), and reflected edges would show a denoiser structures that no image has.

Axes: n samples, c channels, (h, w) pixels.

References
----------
.. [1] He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.
.. [2] Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from .checks import InputError, check_count
from .objectives import Batch

# More pixels than this on each side are a mistake: nothing would be left of the image.
MAX_PAD = 1024


@dataclass(frozen=True)
class Augmentation:
    """What is done at random to a training image before anything else; validation images stay as they are.

    Parameters
    ----------
    pad : int
        Zeros around the image, in pixels, of which a window of the image's own size is taken.
    flip : bool
        Whether half of the windows are mirrored, left to right.
    """

    pad: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        check_count("augment: pad", self.pad, minimum=0, maximum=MAX_PAD)
        if not isinstance(self.flip, bool):
            raise InputError(f"augment: flip: expected true or false, got {self.flip!r}")
        if not (self.pad or self.flip):
            raise InputError("augment: expected pad > 0 or flip = true; otherwise leave augment out")

    def apply(self, ops: ModuleType, batch: Batch) -> Batch:
        """The batch with augmented images.

        Parameters
        ----------
        ops : module
            The backend.
        batch : Batch
            Images as they are in the training set.
        """
        key = ops.derive_key(batch.seed, "augmentation")
        words = ops.random_words(3, key=key, sample_index=batch.sample_index, step=batch.epoch)
        top, left = ((words[:, i].astype("int64") * (2 * self.pad + 1) >> 32) - self.pad for i in (0, 1))
        flip = words[:, 2] >= (1 << 31 if self.flip else 1 << 32)
        return batch._replace(x=ops.crop_flip(batch.x, top, left, flip))
