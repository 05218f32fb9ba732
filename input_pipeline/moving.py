"""Moves the pixels of a batch of images, each image by numbers of its own, in runs of bytes that are copied.

    moving.windows(images, first_rows, first_columns, (24, 24))   # [b, h, w, c] to [b, 24, 24, c]
    moving.mirrored(images, which)                                 # left to right, where bool [b] says so
    moving.padded(images, 4, reflect=True)

Images of any type, of which the last three dimensions are known.
"""

from __future__ import annotations

import math

import tensorflow as tf

MOST_GROUPS = 64  # into which a batch is taken apart at once


def windows(images: tf.Tensor, first_rows: tf.Tensor, first_columns: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """The window of `size` (height, width) of each image from its first row and column, int32 [b] each."""
    _, height, width, channels = images.shape
    rows = (tf.range(tf.shape(images)[0]) * height + first_rows)[:, tf.newaxis] + tf.range(size[0])
    images = tf.gather(tf.reshape(images, [-1, width, channels]), rows)
    return _columns(images, first_columns, size[1])


def mirrored(images: tf.Tensor, which: tf.Tensor) -> tf.Tensor:
    """The images, left to right where `which`, bool [b]."""
    # Reversed in three dimensions: in four, with tf.where, it took ten times as long.
    rows = [-1, *images.shape[2:]]
    return _each_group(images, tf.cast(which, tf.int32), [
        tf.identity, lambda group: tf.reshape(tf.reverse(tf.reshape(group, rows), [1]), tf.shape(group))])


def padded(images: tf.Tensor, padding: int, *, reflect: bool) -> tf.Tensor:
    """The images with so many more pixels on every side: zero, or reflected, the edge itself not repeated."""
    for axis in 1, 2:
        before, after = _margins(images, padding, axis, reflect)
        images = tf.concat([before, images, after], axis)
    return images


def _margins(images, padding, axis, reflect):
    size = images.shape[axis]
    before, after = [1, padding + 1], [size - 1 - padding, size - 1]
    margins = [images[:, first:last] if axis == 1 else images[:, :, first:last] for first, last in (before, after)]
    return [tf.reverse(margin, [axis]) if reflect else tf.zeros_like(margin) for margin in margins]


def _columns(images, first, size):
    """`size` columns of each image, from `first`, int32 [b]. A slice for all images that begin alike: pixels fetched one by one
    took three to seven times as long."""
    width = images.shape[2]
    count = width - size + 1
    if count > MOST_GROUPS:  # first roughly, then exactly
        stride = math.isqrt(count - 1) + 1
        roughly = size + stride - 1
        starts = [min(start, width - roughly) for start in range(0, count, stride)]
        images = _cut(images, first // stride, starts, roughly)
        first -= tf.gather(starts, first // stride)
        count = stride
    return _cut(images, first, range(count), size)


def _cut(images, group, starts, size):
    """`size` columns of each image, from that of `starts` which `group`, int32 [b], names."""
    return _each_group(images, group, [lambda part, start=start: part[:, :, start:start + size] for start in starts])


def _each_group(images, group, functions):
    """Each image through that of `functions` which `group`, int32 [b], names; all of them give images of one shape."""
    places = tf.dynamic_partition(tf.range(tf.shape(images)[0]), group, len(functions))
    parts = tf.dynamic_partition(images, group, len(functions))
    parts = [function(part) for function, part in zip(functions, parts)]
    return tf.ensure_shape(tf.dynamic_stitch(places, parts), [images.shape[0], *parts[0].shape[1:]])
