"""Test-time augmentation: several views of every image, and the average of what the network makes of them.

    views = test_time.views("mirror", images)               # [b, h, w, c] to [2 * b, h, w, c]
    outputs = test_time.average("mirror", network(views))   # [2 * b, ...] to [b, ...]

mirror: the image and its mirror image. mirror_shift: also both shifted by one pixel down and to the right,
and up and to the left, borders reflected; the unshifted ones weigh half (Jordan 2024, "94% on CIFAR-10 in
3.29 seconds on a single GPU"). TensorFlow is imported by the functions alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

# The weight of each view, in the order of `views`: they add up to 1.
WEIGHTS: dict[str, tuple[float, ...]] = {
    "none": (1.0,),
    "mirror": (1 / 2, 1 / 2),
    "mirror_shift": (1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 8, 1 / 8),
}


def views(name: str, images: tf.Tensor) -> tf.Tensor:
    """The views `name` of `images` [b, h, w, c]: [views * b, h, w, c], the first view of all images, then the
    second of all, and so on.

    Raises ValueError as `check` does.
    """
    import tensorflow as tf
    check(name, tuple(images.shape[1:]))
    shown = [images]
    if name == "mirror_shift":
        _, height, width, _ = images.shape
        padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="REFLECT")
        shown += [padded[:, place:place + height, place:place + width] for place in (0, 2)]
    if name != "none":
        shown = [view for original in shown for view in (original, tf.reverse(original, [2]))]
    return tf.concat(shown, 0)


def average(name: str, outputs: tf.Tensor) -> tf.Tensor:
    """The weighted mean, float32 [b, ...], of a network's `outputs` of the views `name`, [views * b, ...]."""
    import tensorflow as tf
    views = tf.split(tf.cast(outputs, tf.float32), len(WEIGHTS[name]))
    return tf.add_n([weight * view for weight, view in zip(WEIGHTS[name], views)])  # a product of matrices may be of fewer bits


def check(name: str, shape: tuple[int, int, int]) -> None:
    """Raises ValueError where images of `shape` (height, width, channels) have no views `name`.

    Imports no TensorFlow.
    """
    if name not in WEIGHTS:
        raise ValueError(f"{name!r} must be one of {', '.join(WEIGHTS)}")
    if name == "mirror_shift" and min(shape[:2]) < 2:
        raise ValueError(f"mirror_shift needs images of at least 2x2 pixels, not {shape[0]}x{shape[1]}")
