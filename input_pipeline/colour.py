"""Distortions of colour, for images in red, green and blue of any scale (0 to 1 or 0 to 255), in closed form.

The values are those of tf.image.adjust_hue and adjust_saturation, which take one image with a number of its
own at a time. Here a batch becomes three planes, one a channel, and no colour is converted to hue and back.

    Hue(max_delta=0.1).train(images, draws)     # float32 [b,h,w,3] to float32 [b,h,w,3]
"""

from __future__ import annotations

from dataclasses import dataclass

from input_pipeline.operation import Fixed, Operation, Pixels, require

TINY = 1e-30  # keeps the division by the range of a grey pixel finite


@dataclass(frozen=True)
class Hue(Pixels):
    """Turns the hue of an image by a part from [-max_delta, max_delta) of the circle; in evaluation not."""

    max_delta: float
    rgb = True

    def __post_init__(self):
        require(0 < self.max_delta <= 0.5, f"max_delta={self.max_delta:g} must be more than 0 and at most "
                "0.5, half of the circle of colours")

    def train(self, images, draws):
        import tensorflow as tf
        planes = _planes(images)
        red, green, blue = tf.unstack(planes)
        lowest = tf.reduce_min(planes, 0)
        spread = tf.reduce_max(planes, 0) - lowest
        # Hue in sixths of the circle from red, -3 to 3, positive towards green. With each channel scaled to
        # 0..1 between the lowest and the highest, its distance from red is green + blue - red + 1.
        hue = ((green - red) + (blue - lowest)) / tf.maximum(spread, TINY) + 1
        hue = tf.where(green < blue, -hue, hue) + 6 * self.max_delta * (2 * draws.uniform(1) - 1)
        hue -= 6 * tf.round(hue / 6)
        # And back: red falls from 1 to 0 between distances 1 and 2; of the other two, the one on this side
        # of red rises from 0 to 1 between 0 and 1, and the other between 2 and 3.
        distance = tf.abs(hue)
        red = lowest + spread * tf.minimum(tf.maximum(2 - distance, 0), 1)
        near = lowest + spread * tf.minimum(distance, 1)
        far = lowest + spread * tf.maximum(distance - 2, 0)
        towards_blue = hue < 0
        return _images(tf.stack([red, tf.where(towards_blue, far, near), tf.where(towards_blue, near, far)]),
                       images.shape)


@dataclass(frozen=True)
class Saturation(Pixels):
    """Scales the saturation of an image by a factor from [lower, upper), up to full; in evaluation not."""

    lower: float
    upper: float
    rgb = True

    def __post_init__(self):
        require(0 <= self.lower < self.upper,
                f"lower={self.lower:g}, upper={self.upper:g} must be 0 <= lower < upper")

    def train(self, images, draws):
        import tensorflow as tf
        planes = _planes(images)
        highest = tf.reduce_max(planes, 0)
        spread = highest - tf.reduce_min(planes, 0)
        # A channel lies below the highest by highest * saturation * (a number of its hue), so scaling the
        # saturation scales that distance, until the lowest channel is 0: saturation 1.
        factor = self.lower + draws.uniform(1) * (self.upper - self.lower)  # [b, 1]
        factor = tf.minimum(factor, tf.maximum(highest, 0) / tf.maximum(spread, TINY))
        return _images(highest - (highest - planes) * factor, images.shape)


@dataclass(frozen=True)
class Bgr(Fixed):
    """Blue, green, red in place of red, green, blue, as networks want them whose weights come from Caffe; the same in
    evaluation."""

    rgb = True

    def evaluate(self, images):
        return images[..., ::-1]

    def pixel(self, values):
        return values[::-1]

    def inverse(self, images):
        return images[..., ::-1]


OPERATIONS: dict[str, type[Operation]] = {"hue": Hue, "saturation": Saturation, "bgr": Bgr}


def _planes(images):
    """[b, h, w, 3] to [3, b, h * w]: operations along a last axis of 3 numbers take several times as long."""
    import tensorflow as tf
    return tf.reshape(tf.transpose(tf.reshape(images, [-1, 3])), [3, -1, images.shape[1] * images.shape[2]])


def _images(planes, shape):
    import tensorflow as tf
    return tf.reshape(tf.transpose(tf.reshape(planes, [3, -1])), [-1, *shape[1:]])
