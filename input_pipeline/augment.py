"""Distortions of training images, written as text, and their fixed counterparts in evaluation.

A list of operations is written with arguments after colons:

    crop:24,flip,brightness:63,contrast:0.2:1.8,standardize     the TensorFlow CIFAR-10 tutorial
    pad_crop:4:reflect,flip,normalize:128:128                   values -1 to 1
    random_resized_crop:192,flip,normalize:0:255,mixup:0.2      every example mixed with another one
    normalize:128:128,mask:0.5                                  for a network that restores its input

    shape = augment.check("crop:24,flip", (32, 32, 3))          # (24, 24, 3); TensorFlow is not imported
    augmentation = augment.parse("crop:24,flip")
    batch = augmentation.train_batch(images, seed=1, step=step, rows=rows, batch_size=128)
    batch["input"]                                              # float32 [b, 24, 24, 3]
    augmentation.evaluate(images)                               # the central crop, no flip

Random numbers are a function of (seed, step, operation, row of the global batch) alone: a row is distorted
alike on whichever replica it lands. The kinds of operations are in `operation`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from input_pipeline import colour, corruption, distortions, erasing, mixing, resizing
from input_pipeline.operation import Corruption, Geometry, Mixing, Operation, Pixels, Shape, require

if TYPE_CHECKING:
    import tensorflow as tf

OPERATIONS: dict[str, type[Operation]] = (
    distortions.OPERATIONS | resizing.OPERATIONS | colour.OPERATIONS | erasing.OPERATIONS | mixing.OPERATIONS
    | corruption.OPERATIONS)

# Plain decimal numbers only: Python itself also reads 1_0, and the digits of every script.
NUMBERS = {"int": r"-?[0-9]+", "float": r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"}


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

    @property
    def mixes(self) -> bool:
        """Whether examples are mixed in pairs: row 2k of the global batch with row 2k + 1."""
        return any(isinstance(operation, Mixing) for _, operation in self.items)

    @property
    def corrupts(self) -> bool:
        """Whether the input is spoilt, so that batches carry the clean images as "target"."""
        return any(isinstance(operation, Corruption) for _, operation in self.items)

    def train_batch(self, images: tf.Tensor, *, seed: int, step: tf.Tensor | int, rows: tf.Tensor,
                    batch_size: int, index: tf.Tensor | None = None, epoch: tf.Tensor | None = None
                    ) -> dict[str, tf.Tensor]:
        """Distorts some rows of the global batch that training step number `step` (from 0) takes.

        `images` [b, h, w, c] of any number type; `rows` int32 [b] their rows within the global batch of
        `batch_size`, which must be whole pairs (2k, 2k + 1) where this mixes. `index` and `epoch`, int64
        [b]: the examples in those rows, and the epoch (from 0) that takes them; flip_alternate needs both.

        Returns "input", float32 [b, h', w', c]; where this mixes also "partner", int32 [b], the place
        within these rows of the example that each is mixed with, and "share", float32 [b], that of its own
        label, 0.5 to 1; where this corrupts also "target", the clean images, shaped as the input.
        """
        from input_pipeline.draws import StepDraws
        draws = StepDraws(seed=seed, step=step, rows=rows, batch_size=batch_size, index=index, epoch=epoch)
        return self._apply(images, draws, training=True)

    def evaluate_batch(self, images: tf.Tensor, index: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """The fixed counterpart of `train_batch`: nothing random, and nothing mixed.

        `index`, int64 [b]: which examples these are. With it, an input that training would corrupt is
        corrupted, always alike for an example, and the clean images are "target"; without it nothing is.
        """
        from input_pipeline.draws import ExampleDraws
        return self._apply(images, None if index is None else ExampleDraws(index=index), training=False)

    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        """The fixed counterpart, uncorrupted: images [b, h, w, c] to float32 [b, h', w', c]."""
        return self.evaluate_batch(images)["input"]

    def pixel(self, values: list[float]) -> list[float] | None:
        """What evaluation makes of one pixel, a number a channel; None where that hangs on the rest of the image."""
        for _, operation in self.items:
            if isinstance(operation, Pixels) and values is not None:
                values = operation.pixel(values)
        return values

    @property
    def is_invertible(self) -> bool:
        """Whether `inverse` can give back the values of the images."""
        return not any(isinstance(operation, Pixels) and not operation.invertible
                       for _, operation in self.items)

    def inverse(self, outputs: tf.Tensor) -> tf.Tensor:
        """Images as `evaluate` gives them, [..., c], back in the raw units of the data set.

        The values alone: pixels that were cropped do not come back. See `check_inverse`.
        """
        self.require_inverse()
        for _, operation in reversed(self.items):
            if isinstance(operation, Pixels):
                outputs = operation.inverse(outputs)
        return outputs

    def require_inverse(self) -> None:
        """Raises ValueError, naming the operation, where `inverse` cannot give back the values."""
        for text, operation in self.items:
            with _naming(text):
                require(not isinstance(operation, Pixels) or operation.invertible,
                        "cannot be undone in what a network restores; use normalize:MEAN:STD")

    def _apply(self, images, draws, training):
        import tensorflow as tf
        grid, zeros, batch = None, False, {}
        for position, (_, operation) in enumerate(self.items):
            numbers = draws and draws.of(position, type(operation).__name__)
            if isinstance(operation, Geometry):
                if self._mirrors_alone(position):  # then whole images, several times as fast as pixels by their places
                    images = _mirrored(images, operation.mirrored(numbers)) if training else images
                    continue
                before = grid or _identity(images)
                places = operation.train(*before, numbers) if training else operation.evaluate(*before)
                if places[0] is not before[0] or places[1] is not before[1]:
                    grid, zeros = places, zeros | operation.leaves_image
                continue
            images = tf.cast(_fetch(images, grid, zeros), tf.float32)
            grid, zeros = None, False
            if isinstance(operation, Corruption):
                if numbers is not None:
                    batch.setdefault("target", images)
                    images = operation.corrupt(images, numbers)
            elif isinstance(operation, Mixing):
                if training:
                    batch["partner"] = mixing.partner(draws.rows)
                    partners = tf.gather(images, batch["partner"])
                    images, batch["share"] = operation.train(images, partners, numbers)
            else:
                images = operation.train(images, numbers) if training else operation.evaluate(images)
        return {"input": tf.cast(_fetch(images, grid, zeros), tf.float32), **batch}


    def _mirrors_alone(self, position: int) -> bool:
        """Whether the operation at `position` stands among geometric ones that do nothing but mirror."""
        run = [isinstance(operation, Geometry) for _, operation in self.items]
        first, last = position, position
        while first > 0 and run[first - 1]:
            first -= 1
        while last + 1 < len(run) and run[last + 1]:
            last += 1
        return all(operation.mirrors for _, operation in self.items[first:last + 1])


def parse(text: str) -> Augmentation:
    """The augmentation that `text` describes; the empty text is none. Raises ValueError as `check` does."""
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    items = tuple((item, _parse_item(item)) for item in items)
    _check_order(items)
    return Augmentation(items)


def check(text: str, input_shape: Shape) -> Shape:
    """Shape of images of `input_shape` (height, width, channels) after the augmentation `text`.

    Raises ValueError in one line that names the operation, its value and the rule. Imports no TensorFlow.
    """
    return parse(text).output_shape(tuple(input_shape))


def check_inverse(text: str) -> None:
    """Raises ValueError, naming the operation, where `Augmentation.inverse` cannot give back the values.

    For reconstruction, whose restored images are shown in the data set's raw units. Imports no TensorFlow.
    """
    parse(text).require_inverse()


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
    if field.type == "str":
        return argument
    plain = re.fullmatch(NUMBERS[field.type], argument)
    if field.type == "int":
        require(plain, f"{field.name}={argument!r} must be a whole number")
        require(len(argument) <= 18, f"{field.name} must have at most 18 digits, it has {len(argument)}")
        return int(argument)
    require(plain and math.isfinite(float(argument)), f"{field.name}={argument!r} must be a finite number")
    value = float(argument)
    require(value == 0 or 1e-30 <= abs(value) <= 1e30,
            f"{field.name}={argument!r} must be 0, or from 1e-30 to 1e30 in size: it is used in float32")
    return value


def _check_order(items) -> None:
    """Raises ValueError where an operation cannot stand where it does."""
    mixed = corrupted = None
    for text, operation in items:
        with _naming(text):
            require(corrupted is None or isinstance(operation, Corruption),
                    f"must come before {corrupted!r}, which spoils the input alone and comes last")
            require(mixed is None or not isinstance(operation, Mixing),
                    f"comes after {mixed!r}, but examples are mixed once; leave one of them out")
            require(mixed is None or not operation.moves,
                    f"must come before {mixed!r}, which decides by their pixels how labels are mixed")
        if isinstance(operation, Mixing):
            mixed = text
        if isinstance(operation, Corruption):
            corrupted = text


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


def _mirrored(images, which):
    """`images` [b, h, w, c], left to right where `which`, bool [b, 1]."""
    import tensorflow as tf
    # Apart, so that no others are copied; reversed in three dimensions: in four, with tf.where, it took ten times as long.
    which = tf.cast(which[:, 0], tf.int32)
    straight, turned = tf.dynamic_partition(images, which, 2)
    rows = tf.reshape(turned, [-1, *images.shape[2:]])
    turned = tf.reshape(tf.reverse(rows, [1]), tf.shape(turned))
    places = tf.dynamic_partition(tf.range(tf.shape(images)[0]), which, 2)
    return tf.ensure_shape(tf.dynamic_stitch(places, [straight, turned]), images.shape)


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
