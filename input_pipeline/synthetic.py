"""The data set `synthetic`: images made from the example's index, of any shape and number of classes.

For tests and benchmarks: it needs no files, can be learnt, and costs next to nothing to read. Each class
has a coarse pattern of 4x4 cells; an example is its class's pattern under two layers of noise, picked from
a bank of 256 by the example's index, the first at twice its strength. So the first 65,536 examples of every
class are all different. Held-out examples follow the training examples in the series: they share patterns
and no example.

    source = synthetic.load("train", input_shape=(32, 32, 3), classes=10)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.datasets import Info

if TYPE_CHECKING:
    import tensorflow as tf

BANK = 256  # noise images; two of them make 65,536 combinations
CELLS = 4  # a pattern has CELLS x CELLS cells
PATTERN, NOISE = 63, 64  # highest values of the parts; pattern + 2 * noise + noise fits in a byte


def facts(*, input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, train_examples: int = 50_000,
          test_examples: int = 10_000, seed: int = 0, image_size: int = 0) -> Info:
    """The facts of the data set with these options; `seed` chooses patterns and noise. image_size: height and width
    instead of those of `input_shape` (0: those).

    Raises ValueError where an option is out of its range.
    """
    if image_size:
        input_shape = (image_size, image_size, input_shape[2])
    values = {"classes": classes, "train_examples": train_examples, "test_examples": test_examples}
    values |= dict(zip(("height", "width", "channels"), input_shape, strict=True))
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"dataset='synthetic': {name}={value} must be at least 1")
    if seed < 0:
        raise ValueError(f"dataset='synthetic': seed={seed} must be at least 0")
    return Info(name="synthetic", train_examples=train_examples, test_examples=test_examples,
                input_shape=tuple(input_shape), classes=tuple(f"class {k}" for k in range(classes)))


def describe(data_dir: str | None = None, **options) -> Info:
    """As `facts`: the data set needs no files."""
    return facts(**options)


def load(split: str, data_dir: str | None = None, **options) -> Synthetic:
    """The source of `split` ("train" or "test"), with the options of `facts`: images uint8 0..255."""
    info = facts(**options)
    first, examples = 0, info.train_examples
    if split == "test":
        first, examples = info.train_examples, info.test_examples
    return Synthetic(info, first=first, examples=examples, seed=options.get("seed", 0))


class Synthetic:
    """Examples number `first` to `first + examples - 1` of the endless series that `seed` defines."""

    def __init__(self, info: Info, *, first: int, examples: int, seed: int):
        import tensorflow as tf

        self.input_shape = info.input_shape
        self.classes = info.classes
        self._first = first
        self._examples = examples
        height, width, channels = info.input_shape
        generator = np.random.Philox(seed)
        cells = _bytes(generator, PATTERN, (len(info.classes), CELLS, CELLS, channels))
        # Nearest neighbour: pixel y belongs to cell y * CELLS // height.
        patterns = cells[:, np.arange(height) * CELLS // height][:, :, np.arange(width) * CELLS // width]
        with tf.device("CPU:0"):
            self._patterns = tf.constant(patterns)
            self._noise = tf.constant(_bytes(generator, NOISE, (BANK, *info.input_shape)))

    def __len__(self) -> int:
        return self._examples

    def read(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """Images uint8 [b, h, w, c] and labels int32 [b] of `indices`; see `sources.Source.read`."""
        import tensorflow as tf

        number = indices + self._first
        label = number % len(self.classes)
        number //= len(self.classes)
        first, second = (tf.gather(self._noise, pick % BANK) for pick in (number, number // BANK))
        image = tf.gather(self._patterns, label) + 2 * first + second
        return {"input": image, "label": tf.cast(label, tf.int32)}


def _bytes(generator: np.random.Philox, highest: int, shape: tuple[int, ...]) -> np.ndarray:
    """Random uint8 in 0..highest of the given shape; from raw words, which no numpy version changes."""
    count = int(np.prod(shape))
    words = generator.random_raw(-(-count // 8))
    return (words.astype("<u8").view(np.uint8)[:count] % (highest + 1)).reshape(shape)
