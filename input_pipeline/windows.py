"""Random windows of a given area and aspect, and rectangles as masks, for a batch at once.

    window = windows.draw(draws.uniform(windows.NUMBERS), height=9, width=9, areas=(0.1, 0.4), max_aspect=2)
    erased = windows.fill(images, window.top, window.left, window.height, window.width, 0.0)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

ATTEMPTS = 10  # shapes that are tried, as in torchvision
NUMBERS = 2 * ATTEMPTS + 4  # that `draw` takes, the last two unused; by fours they cost less, see `draws`


@dataclass(frozen=True, kw_only=True)
class Windows:
    """One window an image, all int32 [b]; `found`, bool [b]: whether any attempt fitted into the image."""

    top: tf.Tensor
    left: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    found: tf.Tensor


def draw(uniform: tf.Tensor, *, height: int, width: int, areas: tuple[float, float],
         max_aspect: float) -> Windows:
    """A window for each row of `uniform`, float32 [b, NUMBERS] in [0, 1), in images of height x width.

    Its part of the image's area is even between the two `areas`; the logarithm of its width / height is even
    between those of 1 / max_aspect and max_aspect; of ATTEMPTS such shapes the first that fits into the image
    is placed anywhere in it. Where none fits, `found` is False and the window is the image.
    """
    import tensorflow as tf
    area = height * width * (areas[0] + uniform[:, :ATTEMPTS] * (areas[1] - areas[0]))
    aspect = tf.exp((2 * uniform[:, ATTEMPTS:2 * ATTEMPTS] - 1) * math.log(max_aspect))
    widths, heights = (tf.cast(tf.round(tf.sqrt(size)), tf.int32) for size in (area * aspect, area / aspect))
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first = tf.argmax(tf.cast(fits, tf.int32), axis=1)  # the first of several equals
    found = tf.reduce_any(fits, axis=1)
    high = tf.where(found, tf.gather(heights, first, axis=1, batch_dims=1), height)
    wide = tf.where(found, tf.gather(widths, first, axis=1, batch_dims=1), width)
    top, left = (tf.cast(uniform[:, 2 * ATTEMPTS + k] * tf.cast(room + 1, tf.float32), tf.int32)
                 for k, room in enumerate((height - high, width - wide)))
    return Windows(top=top, left=left, height=high, width=wide, found=found)


def fill(images: tf.Tensor, top: tf.Tensor, left: tf.Tensor, height: tf.Tensor, width: tf.Tensor,
         content: tf.Tensor | float) -> tf.Tensor:
    """`images` [b, h, w, c] with `content`, a number or other images, inside one rectangle each, int32 [b].

    A rectangle may reach beyond the image; one of no height changes nothing.
    """
    import tensorflow as tf
    _, rows, columns, channels = images.shape
    inside = (_between(top, height, tf.range(rows))[:, :, tf.newaxis]
              # Each column as often as there are channels: choosing along an axis of 3 numbers is slow.
              & _between(left, width, tf.repeat(tf.range(columns), channels))[:, tf.newaxis, :])
    flat = tf.reshape(images, [-1, rows, columns * channels])
    if tf.is_tensor(content):
        content = tf.reshape(content, [-1, rows, columns * channels])
    return tf.reshape(tf.where(inside, content, flat), [-1, rows, columns, channels])


def _between(first, size, places):
    """bool [b, n]: which of the `places` [n] lie in first .. first + size - 1, int32 [b] both."""
    import tensorflow as tf
    first, last = first[:, tf.newaxis], (first + size)[:, tf.newaxis]
    return (places >= first) & (places < last)
