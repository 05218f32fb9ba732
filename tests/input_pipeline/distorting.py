"""What the tests of single distortions share: pictures, one call, and the numbers that it drew."""

import numpy as np
import tensorflow as tf

from input_pipeline import augment
from input_pipeline.draws import StepDraws

BATCH, SEED, STEP = 16, 3, 11
ROWS = np.arange(BATCH, dtype=np.int32)
IMAGES = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 30, 3), dtype=np.uint8)


def batch(text: str, images: np.ndarray = IMAGES, *, seed: int = SEED, step: int = STEP, epoch: int = 0,
          rows: np.ndarray | None = None, batch_size: int | None = None) -> dict[str, np.ndarray]:
    """All of `train_batch`, of the whole global batch unless told otherwise; row k holds example 7k."""
    rows = np.arange(len(images), dtype=np.int32) if rows is None else np.asarray(rows, np.int32)
    result = augment.parse(text).train_batch(
        images, seed=seed, step=step, rows=tf.constant(rows), batch_size=batch_size or len(images),
        index=tf.constant(rows * 7, tf.int64), epoch=tf.fill([len(rows)], tf.constant(epoch, tf.int64)))
    return {name: tensor.numpy() for name, tensor in result.items()}


def train(text: str, images: np.ndarray = IMAGES, **options) -> np.ndarray:
    """The "input" of `batch`, float32."""
    result = batch(text, images, **options)["input"]
    assert result.dtype == np.float32
    return result


def evaluate(text: str, images: np.ndarray = IMAGES) -> np.ndarray:
    """The fixed counterpart, float32."""
    result = augment.parse(text).evaluate(images)
    assert result.dtype == tf.float32
    return result.numpy()


def uniform(position: int, name: str, numbers: int, *, count: int = BATCH) -> np.ndarray:
    """The numbers [count, numbers] that the operation of class `name` at `position` draws."""
    draws = StepDraws(seed=SEED, step=STEP, rows=tf.range(count), batch_size=count)
    return draws.of(position, name).uniform(numbers).numpy()


class Given:
    """Draws that are given: for one operation by itself."""

    def __init__(self, **values):
        self._values = {name: tf.constant(value) for name, value in values.items()}

    def uniform(self, numbers: int) -> tf.Tensor:
        """The given ones."""
        assert self._values["uniform"].shape[1] == numbers
        return self._values["uniform"]

    def larger_share(self, alpha: float) -> tf.Tensor:
        """The given ones."""
        return self._values["share"]
