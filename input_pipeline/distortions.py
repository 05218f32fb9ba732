"""The distortions themselves, on whole batches at once: one class and one entry in `OPERATIONS` for each.

A class's dataclass fields are its arguments in the text, in order (`augment` parses and applies them).
Random numbers come in from outside, uniform in [0, 1), as many an image as the class says. `Pixels` see
float32 values. `Geometry` only moves pixels: it maps a grid of places, and the original bytes are fetched
once for several.

    Contrast(lower=0.2, upper=1.8).train(images, uniform)   # float32 [b,h,w,c], [b,1] to float32 [b,h,w,c]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import tensorflow as tf  # inside the functions: texts are checked without TensorFlow

Shape = tuple[int, int, int]  # height, width, channels


class Operation:
    """One distortion. Its dataclass fields (int, float or str) are its arguments in the text, in order."""

    numbers: ClassVar[int] = 0  # how many uniform random numbers an image takes

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the images after it. Raises ValueError where it cannot be applied to `shape`."""
        return shape


class Pixels(Operation):
    """An operation on values: float32 [b, h, w, c] in and out."""

    def train(self, images: tf.Tensor, uniform: tf.Tensor | None) -> tf.Tensor:
        """Distorts `images`; `uniform` is float32 [b, numbers] in [0, 1), None where numbers is 0."""
        raise NotImplementedError

    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        """The fixed counterpart: nothing, unless overridden."""
        return images


class Geometry(Operation):
    """An operation that only moves pixels: it maps a grid, and the pixels are fetched once for all of them.

    A grid is (rows int32 [b, h], columns int32 [b, w]): output pixel (y, x) is original pixel (rows[y],
    columns[x]), or zero where either is -1, which only an operation with `leaves_image` may put there.
    """

    leaves_image: bool = False

    def train(self, rows: tf.Tensor, columns: tf.Tensor, uniform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The grid after it; `uniform` is float32 [b, numbers] in [0, 1)."""
        raise NotImplementedError

    def evaluate(self, rows: tf.Tensor, columns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The fixed counterpart: nothing, unless overridden."""
        return rows, columns


@dataclass(frozen=True)
class Crop(Geometry):
    """A random window of size x size pixels; in evaluation the central one."""

    numbers: ClassVar[int] = 2
    size: int

    def __post_init__(self):
        require(self.size >= 1, f"size={self.size} must be at least 1")

    def output_shape(self, shape: Shape) -> Shape:
        require(self.size <= min(shape[:2]), f"an image of {shape[0]}x{shape[1]} has no window of "
                f"{self.size}x{self.size}; size must be at most {min(shape[:2])}")
        return self.size, self.size, shape[2]

    def train(self, rows, columns, uniform):
        return tuple(_random_window(places, self.size, uniform[:, number])
                     for number, places in enumerate((rows, columns)))

    def evaluate(self, rows, columns):
        top, left = (rows.shape[1] - self.size) // 2, (columns.shape[1] - self.size) // 2
        return rows[:, top:top + self.size], columns[:, left:left + self.size]


@dataclass(frozen=True)
class PadCrop(Geometry):
    """Pads every side by `padding` pixels, zero or reflected, and takes a random window of the original size.

    In evaluation nothing.
    """

    numbers: ClassVar[int] = 2
    padding: int
    mode: str = "zero"

    def __post_init__(self):
        require(self.padding >= 1, f"padding={self.padding} must be at least 1")
        require(self.mode in ("zero", "reflect"), f"mode={self.mode!r} must be zero or reflect")

    def output_shape(self, shape: Shape) -> Shape:
        require(self.mode == "zero" or self.padding < min(shape[:2]), f"padding={self.padding} must be less "
                f"than {min(shape[:2])}, the image's shorter side, to reflect")
        return shape

    @property
    def leaves_image(self) -> bool:
        return self.mode == "zero"

    def train(self, rows, columns, uniform):
        return tuple(_random_window(self._pad(places), places.shape[1], uniform[:, number])
                     for number, places in enumerate((rows, columns)))

    def _pad(self, places):
        import tensorflow as tf
        paddings = [[0, 0], [self.padding, self.padding]]
        if self.mode == "reflect":
            return tf.pad(places, paddings, mode="REFLECT")
        return tf.pad(places, paddings, constant_values=-1)


@dataclass(frozen=True)
class Flip(Geometry):
    """Mirrors half of the images, left to right; in evaluation none."""

    numbers: ClassVar[int] = 1

    def train(self, rows, columns, uniform):
        import tensorflow as tf
        return rows, tf.where(uniform < 0.5, tf.reverse(columns, [1]), columns)


@dataclass(frozen=True)
class Brightness(Pixels):
    """Adds one number from [-max_delta, max_delta) to an image, in its raw units; in evaluation none."""

    numbers: ClassVar[int] = 1
    max_delta: float

    def __post_init__(self):
        require(self.max_delta > 0, f"max_delta={self.max_delta:g} must be more than 0")

    def train(self, images, uniform):
        return images + _each((2 * uniform[:, 0] - 1) * self.max_delta)


@dataclass(frozen=True)
class Contrast(Pixels):
    """Scales differences from each channel's mean by a factor from [lower, upper); in evaluation not."""

    numbers: ClassVar[int] = 1
    lower: float
    upper: float

    def __post_init__(self):
        require(0 <= self.lower < self.upper,
                f"lower={self.lower:g}, upper={self.upper:g} must be 0 <= lower < upper")

    def train(self, images, uniform):
        import tensorflow as tf
        factor = self.lower + uniform * (self.upper - self.lower)  # [b, 1]
        _, height, width, channels = images.shape
        # (x - mean) * factor + mean, as tf.image.adjust_contrast, with width and channels as one axis:
        # reducing and broadcasting along an axis of 3 channels takes four times as long.
        flat = tf.reshape(images, [-1, height, width * channels])
        mean = tf.reduce_mean(tf.reshape(tf.reduce_mean(flat, axis=1), [-1, width, channels]), axis=1)
        flat = flat * factor[:, :, tf.newaxis] + tf.tile(mean * (1 - factor), [1, width])[:, tf.newaxis]
        return tf.reshape(flat, [-1, height, width, channels])


@dataclass(frozen=True)
class Standardize(Pixels):
    """(x - mean) / max(standard deviation, 1/sqrt(n)) over an image's n numbers; the same in evaluation."""

    def train(self, images, uniform):
        return self.evaluate(images)

    def evaluate(self, images):
        import tensorflow as tf
        count = math.prod(images.shape[1:])
        flat = tf.reshape(images, [-1, count])
        flat -= tf.reduce_mean(flat, axis=1, keepdims=True)
        deviation = tf.sqrt(tf.reduce_mean(tf.square(flat), axis=1, keepdims=True))
        # The lower bound keeps an image of one colour finite.
        flat *= 1 / tf.maximum(deviation, 1 / math.sqrt(count))
        return tf.reshape(flat, [-1, *images.shape[1:]])


@dataclass(frozen=True)
class Normalize(Pixels):
    """(x - mean) / std, both given; the same in evaluation."""

    mean: float
    std: float

    def __post_init__(self):
        require(self.std > 0, f"std={self.std:g} must be more than 0")

    def train(self, images, uniform):
        return self.evaluate(images)

    def evaluate(self, images):
        return (images - self.mean) / self.std


OPERATIONS: dict[str, type[Operation]] = {
    "crop": Crop, "pad_crop": PadCrop, "flip": Flip, "brightness": Brightness, "contrast": Contrast,
    "standardize": Standardize, "normalize": Normalize,
}


def require(condition: bool, rule: str) -> None:
    """Raises ValueError(rule) unless `condition` holds."""
    if not condition:
        raise ValueError(rule)


def _each(values):
    """[b] to [b, 1, 1, 1]: one value an image."""
    import tensorflow as tf
    return tf.reshape(values, [-1, 1, 1, 1])


def _random_window(places, size, uniform):
    """`size` neighbouring columns of places [b, n], from a random first one for each of the b."""
    import tensorflow as tf
    # The largest float32 below 1 times a whole number stays below that number: never one too far.
    first = tf.cast(uniform * (places.shape[1] - size + 1), tf.int32)
    return tf.gather(places, first[:, tf.newaxis] + tf.range(size), axis=1, batch_dims=1)
