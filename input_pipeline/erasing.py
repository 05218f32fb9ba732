"""Distortions that hide a part of the image. In evaluation they do nothing.

What is hidden becomes `fill`, in the values at this place of the list: after standardize or normalize, 0 is
the mean; before them it is black.

    Cutout(size=8).train(images, draws)     # float32 [b,h,w,c] to float32 [b,h,w,c]
"""

from __future__ import annotations

from dataclasses import dataclass

from input_pipeline import windows
from input_pipeline.operation import Operation, Pixels, require

MAX_ASPECT = 1 / 0.3  # of erased rectangles (Zhong et al. 2020)


@dataclass(frozen=True)
class Cutout(Pixels):
    """Hides a square of size x size around a random pixel, less what lies outside (DeVries, Taylor 2017)."""

    size: int
    fill: float = 0.0

    def __post_init__(self):
        require(self.size >= 1, f"size={self.size} must be at least 1")

    def output_shape(self, shape):
        require(self.size < 2 * min(shape[:2]), f"size={self.size} must be less than {2 * min(shape[:2])}, "
                "twice the image's shorter side: wherever it is, it would hide that whole side")
        return shape

    def train(self, images, draws):
        import tensorflow as tf
        places = tf.cast(draws.uniform(2) * list(images.shape[1:3]), tf.int32) - self.size // 2
        side = tf.fill(tf.shape(places)[:1], self.size)
        return windows.fill(images, places[:, 0], places[:, 1], side, side, self.fill)


@dataclass(frozen=True)
class RandomErasing(Pixels):
    """Hides a rectangle of min_area to max_area of the image, of aspect 0.3 to 1/0.3, with a probability.

    Zhong et al. 2020, "Random Erasing Data Augmentation", with one value for all (0: their RE-0); the
    logarithm of the aspect is even, as in torchvision, so that tall and wide are alike. Where none of ten
    shapes fits: nothing.
    """

    probability: float = 0.5
    min_area: float = 0.02
    max_area: float = 0.4
    fill: float = 0.0

    def __post_init__(self):
        require(0 < self.probability <= 1,
                f"probability={self.probability:g} must be more than 0 and at most 1")
        require(0 < self.min_area <= self.max_area <= 1, f"min_area={self.min_area:g}, max_area="
                f"{self.max_area:g} must be 0 < min_area <= max_area <= 1, parts of the image's area")

    def train(self, images, draws):
        import tensorflow as tf
        uniform = draws.uniform(windows.NUMBERS)
        window = windows.draw(uniform, height=images.shape[1], width=images.shape[2],
                              areas=(self.min_area, self.max_area), max_aspect=MAX_ASPECT)
        chosen = window.found & (uniform[:, -1] < self.probability)  # a number that `draw` left unused
        height = tf.where(chosen, window.height, 0)
        return windows.fill(images, window.top, window.left, height, window.width, self.fill)


OPERATIONS: dict[str, type[Operation]] = {"cutout": Cutout, "random_erasing": RandomErasing}
