"""Mixing every example with another one, images and labels.

Row 2k of the global batch and row 2k + 1 are partners, so that whoever holds an even number of rows from an
even one on holds both, on any number of replicas. Each row draws a share of its own, of at least half: its
own label is the larger part, and the loss is share * loss(label) + (1 - share) * loss(partner's label).

    Mixup(alpha=0.2).train(images, partners, draws)     # (float32 [b,h,w,c], share float32 [b])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from input_pipeline import windows
from input_pipeline.operation import Mixing, Operation, require

if TYPE_CHECKING:
    import tensorflow as tf


def partner(rows: tf.Tensor) -> tf.Tensor:
    """int32 [b]: the place, within these `rows` (int32 [b]) of the global batch, of each one's partner."""
    import tensorflow as tf
    assert rows.shape[0] % 2 == 0, f"{rows.shape[0]} rows are no pairs"
    known = tf.get_static_value(rows)
    if known is not None:
        pairs = (known[::2] % 2 == 0).all() and (known[1::2] == known[::2] + 1).all()
        assert pairs, f"rows {known} are no pairs"
    return tf.bitwise.bitwise_xor(tf.range(rows.shape[0]), 1)


@dataclass(frozen=True)
class Mixup(Mixing):
    """share * image + (1 - share) * partner (Zhang et al. 2018); in evaluation nothing.

    The share is the larger of x and 1 - x, x from Beta(alpha, alpha): for pairs both give the same mixtures.
    """

    alpha: float

    def __post_init__(self):
        _require_alpha(self.alpha)

    def train(self, images, partners, draws):
        import tensorflow as tf
        share = draws.larger_share(self.alpha)
        weight = tf.reshape(share, [-1, 1, 1, 1])
        return images * weight + partners * (1 - weight), share


@dataclass(frozen=True)
class Cutmix(Mixing):
    """Puts a rectangle of the partner into the image, at the same place (Yun et al. 2019).

    Its sides are sqrt(1 - x) of the image's, x the larger of y and 1 - y, y from Beta(alpha, alpha); its
    centre is anywhere, and what lies outside is lost. (Yun et al. do not take the larger: their rectangle may
    cover more than half.) The share is the part of the image's own pixels. In evaluation nothing.
    """

    alpha: float

    def __post_init__(self):
        _require_alpha(self.alpha)

    def train(self, images, partners, draws):
        import tensorflow as tf
        side = tf.sqrt(1 - draws.larger_share(self.alpha))
        uniform = draws.uniform(2)
        first, size = [], []
        for axis, length in enumerate(images.shape[1:3]):
            long = tf.cast(side * length, tf.int32)
            start = tf.cast(uniform[:, axis] * length, tf.int32) - long // 2
            stop = tf.minimum(start + long, length)
            first.append(tf.maximum(start, 0))
            size.append(stop - first[-1])
        pixels = images.shape[1] * images.shape[2]
        share = 1 - tf.cast(size[0] * size[1], tf.float32) / pixels
        return windows.fill(images, *first, *size, partners), share


OPERATIONS: dict[str, type[Operation]] = {"mixup": Mixup, "cutmix": Cutmix}


def _require_alpha(alpha):
    require(0 < alpha <= 100,
            f"alpha={alpha:g} must be more than 0 (most shares near 1) and at most 100 (near 0.5)")
