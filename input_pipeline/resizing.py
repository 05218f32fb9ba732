"""Distortions that change the size of the images, bilinear.

    RandomResizedCrop(size=192).train(images, draws)    # float32 [b,h,w,c] to float32 [b,192,192,c]
"""

from __future__ import annotations

from dataclasses import dataclass

from input_pipeline import windows
from input_pipeline.operation import Fixed, Operation, Pixels, require

CENTRAL = 0.875  # of the shorter side: what Inception's and torchvision's evaluations see
LARGEST = 4096  # pixels a side


@dataclass(frozen=True)
class Resize(Fixed):
    """Makes the image size x size, whatever its proportions; the same in evaluation.

    Bilinear; antialiased where it shrinks, as tf.image.resize(antialias=True) and Pillow do.
    """

    moves = True
    size: int

    def __post_init__(self):
        require(1 <= self.size <= LARGEST, f"size={self.size} must be 1 to {LARGEST}")

    def output_shape(self, shape):
        return self.size, self.size, shape[2]

    def evaluate(self, images):
        return _resized(images, self.size)


@dataclass(frozen=True)
class RandomResizedCrop(Pixels):
    """A random window of min_area to all of the image, of aspect 1/max_aspect to it, made size x size.

    Inception's distortion (Szegedy et al. 2015), drawn as in torchvision's RandomResizedCrop: where none
    of ten shapes fits, the largest central one is taken. Bilinear, *not* antialiased: where windows are more
    than twice `size` high or wide, put resize before it. In evaluation the central square of 0.875 of the
    shorter side, made size x size, antialiased.
    """

    moves = True
    size: int
    min_area: float = 0.08
    max_aspect: float = 4 / 3

    def __post_init__(self):
        require(1 <= self.size <= LARGEST, f"size={self.size} must be 1 to {LARGEST}")
        require(0 < self.min_area <= 1, f"min_area={self.min_area:g} must be more than 0 and at most 1, "
                "a part of the image's area")
        require(self.max_aspect >= 1, f"max_aspect={self.max_aspect:g} must be at least 1")

    def output_shape(self, shape):
        return self.size, self.size, shape[2]

    def train(self, images, draws):
        import tensorflow as tf
        _, height, width, channels = images.shape
        window = windows.draw(draws.uniform(windows.NUMBERS), height=height, width=width,
                              areas=(self.min_area, 1), max_aspect=self.max_aspect)
        boxes = tf.stack([window.top, window.left, window.height, window.width], 1)
        boxes = tf.where(window.found[:, tf.newaxis], boxes, [self._largest(height, width)])

        # One image after the other is still the least work: tf.image.crop_and_resize blends the border with
        # black or, with padding, takes 0.7 to 2 times as long; resizing as two products of matrices 5 times.
        def resized(image_and_box):
            image, (top, left, high, wide) = image_and_box[0], tf.unstack(image_and_box[1])
            part = tf.slice(image, [top, left, 0], [high, wide, channels])[tf.newaxis]
            return tf.raw_ops.ResizeBilinear(images=part, size=[self.size] * 2, half_pixel_centers=True)[0]

        return tf.map_fn(resized, (images, boxes),
                         fn_output_signature=tf.TensorSpec([self.size, self.size, channels], tf.float32))

    def evaluate(self, images):
        shorter = min(images.shape[1:3])
        # Rounded as tf.image.central_crop rounds.
        side = shorter - 2 * int((shorter - shorter * CENTRAL) / 2)
        top, left = ((size - side) // 2 for size in images.shape[1:3])
        return _resized(images[:, top:top + side, left:left + side], self.size)

    def _largest(self, height, width):
        """The largest central window of an allowed aspect: [top, left, height, width]."""
        wide = min(width, max(1, round(height * self.max_aspect)))
        high = min(height, max(1, round(width * self.max_aspect)))
        return [(height - high) // 2, (width - wide) // 2, high, wide]


OPERATIONS: dict[str, type[Operation]] = {"resize": Resize, "random_resized_crop": RandomResizedCrop}


def _resized(images, size):
    import tensorflow as tf
    # Without shrinking both give the same, and this one is an order faster.
    return tf.image.resize(images, [size, size], antialias=size < max(images.shape[1:3]))
