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
        batch = {}
        for position, (_, operation) in enumerate(self.items):
            numbers = draws and draws.of(position, type(operation).__name__)
            if not isinstance(operation, Geometry):
                images = tf.cast(images, tf.float32)
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
        return {"input": tf.cast(images, tf.float32), **batch}


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
