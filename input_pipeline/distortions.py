"""The plain distortions, on whole batches at once: crops and flips, values moved and scaled.

Bases and kinds: see `operation`. Colours, sizes, erasing, mixing and corruption have modules of their own.

    Contrast(lower=0.2, upper=1.8).train(images, draws)   # float32 [b,h,w,c] to float32 [b,h,w,c]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from input_pipeline.operation import Fixed, Geometry, Operation, Pixels, require


@dataclass(frozen=True)
class Crop(Geometry):
    """A random window of size x size pixels; in evaluation the central one."""

    size: int

    def __post_init__(self):
        require(self.size >= 1, f"size={self.size} must be at least 1")

    def output_shape(self, shape):
        require(self.size <= min(shape[:2]), f"an image of {shape[0]}x{shape[1]} has no window of "
                f"{self.size}x{self.size}; size must be at most {min(shape[:2])}")
        return self.size, self.size, shape[2]

    def train(self, images, draws):
        return _random_windows(images, (self.size, self.size), draws)

    def evaluate(self, images):
        top, left = ((side - self.size) // 2 for side in images.shape[1:3])
        return images[:, top:top + self.size, left:left + self.size]


@dataclass(frozen=True)
class PadCrop(Geometry):
    """Pads every side by `padding` pixels, zero or reflected, and takes a random window of the original size.

    In evaluation nothing.
    """

    padding: int
    mode: str = "zero"

    def __post_init__(self):
        require(self.padding >= 1, f"padding={self.padding} must be at least 1")
        require(self.mode in ("zero", "reflect"), f"mode={self.mode!r} must be zero or reflect")

    def output_shape(self, shape):
        require(self.padding < min(shape[:2]), f"padding={self.padding} must be less than {min(shape[:2])}, "
                "the image's shorter side")
        return shape

    def train(self, images, draws):
        from input_pipeline import moving
        return _random_windows(moving.padded(images, self.padding, reflect=self.mode == "reflect"), images.shape[1:3], draws)


@dataclass(frozen=True)
class Flip(Geometry):
    """Mirrors half of the images, left to right; in evaluation none."""

    def train(self, images, draws):
        from input_pipeline import moving
        return moving.mirrored(images, draws.uniform(1)[:, 0] < 0.5)


@dataclass(frozen=True)
class FlipAlternate(Geometry):
    """Mirrors a random half of the examples in the first epoch, and then each one in every other epoch.

    So two epochs show every example both ways (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single
    GPU"). In evaluation nothing.
    """

    def train(self, images, draws):
        from input_pipeline import moving
        return moving.mirrored(images, draws.alternating())


@dataclass(frozen=True)
class Brightness(Pixels):
    """Adds one number from [-max_delta, max_delta) to an image, in its raw units; in evaluation none."""

    max_delta: float

    def __post_init__(self):
        require(self.max_delta > 0, f"max_delta={self.max_delta:g} must be more than 0")

    def train(self, images, draws):
        import tensorflow as tf
        flat = tf.reshape(images, [-1, math.prod(images.shape[1:])])
        return tf.reshape(flat + (2 * draws.uniform(1) - 1) * self.max_delta, [-1, *images.shape[1:]])


@dataclass(frozen=True)
class Contrast(Pixels):
    """Scales differences from each channel's mean by a factor from [lower, upper); in evaluation not."""

    lower: float
    upper: float

    def __post_init__(self):
        require(0 <= self.lower < self.upper,
                f"lower={self.lower:g}, upper={self.upper:g} must be 0 <= lower < upper")

    def train(self, images, draws):
        import tensorflow as tf
        factor = self.lower + draws.uniform(1) * (self.upper - self.lower)  # [b, 1]
        _, height, width, channels = images.shape
        # (x - mean) * factor + mean, as tf.image.adjust_contrast, with width and channels as one axis:
        # reducing and broadcasting along an axis of 3 channels takes four times as long.
        flat = tf.reshape(images, [-1, height, width * channels])
        mean = tf.reduce_mean(tf.reshape(tf.reduce_mean(flat, axis=1), [-1, width, channels]), axis=1)
        flat = flat * factor[:, :, tf.newaxis] + tf.tile(mean * (1 - factor), [1, width])[:, tf.newaxis]
        return tf.reshape(flat, [-1, height, width, channels])


@dataclass(frozen=True)
class Standardize(Fixed):
    """(x - mean) / max(standard deviation, 1/sqrt(n)) over an image's n numbers; the same in evaluation."""

    invertible = False  # the mean and deviation of the original are not kept

    def evaluate(self, images):
        import tensorflow as tf
        count = math.prod(images.shape[1:])
        flat = tf.reshape(images, [-1, count])
        flat -= tf.reduce_mean(flat, axis=1, keepdims=True)
        deviation = tf.sqrt(tf.reduce_mean(tf.square(flat), axis=1, keepdims=True))
        # The lower bound keeps an image of one colour finite.
        flat *= 1 / tf.maximum(deviation, 1 / math.sqrt(count))
        return tf.reshape(flat, [-1, *images.shape[1:]])

    def pixel(self, values):
        return None


@dataclass(frozen=True)
class Normalize(Fixed):
    """(x - mean) / std, both given; the same in evaluation."""

    mean: float
    std: float

    def __post_init__(self):
        require(self.std > 0, f"std={self.std:g} must be more than 0")

    def evaluate(self, images):
        return (images - self.mean) / self.std

    def pixel(self, values):
        return [(value - self.mean) / self.std for value in values]

    def inverse(self, images):
        return images * self.std + self.mean


@dataclass(frozen=True)
class NormalizeRgb(Fixed):
    """(x - mean) / std of each channel, given for a whole data set; the same in evaluation."""

    mean_red: float
    mean_green: float
    mean_blue: float
    std_red: float
    std_green: float
    std_blue: float
    rgb = True

    def __post_init__(self):
        for name, std in zip(("std_red", "std_green", "std_blue"), self._stds):
            require(std > 0, f"{name}={std:g} must be more than 0")

    def evaluate(self, images):
        import tensorflow as tf
        _, height, width, channels = images.shape
        # Width and channels as one axis, as in Contrast.
        flat = tf.reshape(images, [-1, height, width * channels])
        flat = (flat - list(self._means) * width) / (list(self._stds) * width)
        return tf.reshape(flat, [-1, height, width, channels])

    def pixel(self, values):
        return [(value - mean) / std for value, mean, std in zip(values, self._means, self._stds)]

    def inverse(self, images):
        return images * list(self._stds) + list(self._means)

    @property
    def _means(self):
        return self.mean_red, self.mean_green, self.mean_blue

    @property
    def _stds(self):
        return self.std_red, self.std_green, self.std_blue


OPERATIONS: dict[str, type[Operation]] = {
    "crop": Crop, "pad_crop": PadCrop, "flip": Flip, "flip_alternate": FlipAlternate,
    "brightness": Brightness, "contrast": Contrast, "standardize": Standardize, "normalize": Normalize,
    "normalize_rgb": NormalizeRgb,
}


def _random_windows(images, size, draws):
    """A window of `size`, height and width, of each image."""
    import tensorflow as tf

    from input_pipeline import moving
    counts = [whole - part + 1 for whole, part in zip(images.shape[1:3], size)]
    # The largest float32 below 1 times a whole number stays below that number: never one too far.
    first = tf.cast(draws.uniform(2) * counts, tf.int32)
    return moving.windows(images, first[:, 0], first[:, 1], size)
