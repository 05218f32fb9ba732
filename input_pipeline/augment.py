"""Distortions of training images, written as text, and their fixed counterparts in evaluation.

A list of operations is written with arguments after colons:

    crop:24,flip,brightness:63,contrast:0.2:1.8,standardize     the TensorFlow CIFAR-10 tutorial
    pad_crop:4:reflect,flip,normalize:128:128                   values -1 to 1

    shape = augment.check("crop:24,flip", (32, 32, 3))          # (24, 24, 3); TensorFlow is not imported
    augmentation = augment.parse("crop:24,flip")
    augmentation.train(images, seed=1, step=step, rows=rows, batch_size=128)  # float32 [b, 24, 24, 3]
    augmentation.evaluate(images)                                             # the central crop, no flip

Random numbers are a function of (seed, step, operation, row of the global batch) alone: a row is distorted
alike on whichever replica it lands. The operations are in `distortions`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from input_pipeline.distortions import OPERATIONS, Geometry, Operation, Shape, require

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Augmentation:
    """Operations in order, each with its text."""

    items: tuple[tuple[str, Operation], ...]

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the images after all operations. Raises ValueError as `check` does."""
        for text, operation in self.items:
            with _naming(text):
                shape = operation.output_shape(shape)
        return shape

    def train(self, images: tf.Tensor, *, seed: int, step: tf.Tensor | int, rows: tf.Tensor,
              batch_size: int) -> tf.Tensor:
        """Distorts some rows of the global batch that training step number `step` (from 0) takes.

        `images` [b, h, w, c] of any number type; `rows` int32 [b] their rows within the global batch of
        `batch_size`. Returns float32 [b, h', w', c].
        """
        import tensorflow as tf

        from input_pipeline import order

        def uniform(position: int, operation: Operation) -> tf.Tensor | None:
            if not operation.numbers:
                return None
            # Drawn for the whole global batch, whatever rows are asked for.
            numbers = tf.raw_ops.StatelessRandomUniformV2(
                shape=[batch_size, operation.numbers],
                key=order.key(seed, "augment", position, type(operation).__name__),
                counter=tf.cast(tf.stack([0, tf.cast(step, tf.int64)]), tf.uint64), alg=order.PHILOX)
            return tf.gather(numbers, rows)

        return self._apply(images, lambda position, operation, *state:
                           operation.train(*state, uniform(position, operation)))

    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        """The fixed counterpart of `train`: images [b, h, w, c] to float32 [b, h', w', c]."""
        return self._apply(images, lambda position, operation, *state: operation.evaluate(*state))

    def _apply(self, images, call):
        import tensorflow as tf
        grid, zeros = None, False
        for position, (_, operation) in enumerate(self.items):
            if isinstance(operation, Geometry):
                grid = call(position, operation, *(grid or _identity(images)))
                zeros |= operation.leaves_image
            else:
                images = tf.cast(_fetch(images, grid, zeros), tf.float32)
                grid, zeros = None, False
                images = call(position, operation, images)
        return tf.cast(_fetch(images, grid, zeros), tf.float32)


def parse(text: str) -> Augmentation:
    """The augmentation that `text` describes; the empty text is none. Raises ValueError as `check` does."""
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    return Augmentation(tuple((item, _parse_item(item)) for item in items))


def check(text: str, input_shape: Shape) -> Shape:
    """Shape of images of `input_shape` (height, width, channels) after the augmentation `text`.

    Raises ValueError in one line that names the operation, its value and the rule. Imports no TensorFlow.
    """
    return parse(text).output_shape(tuple(input_shape))


def usage(name: str) -> str:
    """How operation `name` is written, such as "pad_crop:PADDING[:MODE]"."""
    fields = dataclasses.fields(OPERATIONS[name])
    return name + "".join(f":{field.name.upper()}" if field.default is dataclasses.MISSING
                          else f"[:{field.name.upper()}]" for field in fields)


def _parse_item(item: str) -> Operation:
    name, *arguments = item.split(":")
    with _naming(item):
        require(name in OPERATIONS, f"no such operation; known: {', '.join(map(usage, OPERATIONS))}")
        fields = dataclasses.fields(OPERATIONS[name])
        needed = sum(field.default is dataclasses.MISSING for field in fields)
        require(needed <= len(arguments) <= len(fields), f"must be written {usage(name)}")
        return OPERATIONS[name](*(_number(argument, field) for argument, field in zip(arguments, fields)))


def _number(argument: str, field: dataclasses.Field) -> int | float | str:
    convert = {"int": int, "float": float, "str": str}[field.type]
    try:
        value = convert(argument)
    except ValueError:
        value = math.nan
    require(convert is str or math.isfinite(value),
             f"{field.name}={argument!r} must be {'a whole' if convert is int else 'a finite'} number")
    return value


@contextlib.contextmanager
def _naming(item: str):
    """Puts the item of the text before the message of a ValueError raised within."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{item!r}: {error}") from None


def _identity(images):
    import tensorflow as tf
    batch = tf.shape(images)[0]
    return tuple(tf.tile(tf.range(size)[tf.newaxis], [batch, 1]) for size in images.shape[1:3])


def _fetch(images, grid, zeros):
    """The pixels of `images` that `grid` names; see `Geometry`. `zeros`: whether it may hold -1."""
    import tensorflow as tf
    if grid is None:
        return images
    rows, columns = grid
    _, height, width, channels = images.shape
    first = tf.range(tf.shape(images)[0])[:, tf.newaxis] * height
    rows_at = (first + rows) * width
    table = tf.reshape(images, [-1, channels])
    if zeros:
        # A zero pixel before all others, and places so low that any sum with one ends there.
        outside = -tf.shape(table)[0]
        rows_at, columns = tf.where(rows < 0, outside, rows_at), tf.where(columns < 0, outside, columns)
        table = tf.pad(table, [[1, 0], [0, 0]])
        return tf.gather(table, tf.maximum(rows_at[:, :, tf.newaxis] + columns[:, tf.newaxis, :] + 1, 0))
    return tf.gather(table, rows_at[:, :, tf.newaxis] + columns[:, tf.newaxis, :])
