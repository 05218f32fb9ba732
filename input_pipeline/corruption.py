"""Spoiling the input of a network that is to restore it, while its target stays clean.

    Mask(fraction=0.5).corrupt(images, draws)      # float32 [b,h,w,c], about half of the numbers 0
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from input_pipeline.operation import Corruption, Operation, require


@dataclass(frozen=True)
class Mask(Corruption):
    """Sets each number of an image to 0 with probability `fraction`, independently (Vincent et al. 2008).

    In evaluation the same numbers of an example each time, and in export and prediction none.
    """

    fraction: float

    def __post_init__(self):
        require(0 < self.fraction < 1, f"fraction={self.fraction:g} must be more than 0 and less than 1")

    def corrupt(self, images, draws):
        import tensorflow as tf
        count = math.prod(images.shape[1:])
        # Drawn in fours: see `draws`.
        kept = draws.uniform(-(-count // 4) * 4)[:, :count] >= self.fraction
        return tf.where(tf.reshape(kept, [-1, *images.shape[1:]]), images, 0)


OPERATIONS: dict[str, type[Operation]] = {"mask": Mask}
