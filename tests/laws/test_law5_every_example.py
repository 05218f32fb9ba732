"""Laws 5 and 10: an evaluation counts every example once, on any number of replicas and for any batch size, and gives the
same numbers; metrics are (sum, count) until the end.

Mutations: the mask is left out (padded rows count); the mean of the batches' means is taken; the last batch is dropped;
replicas get the same rows.
"""
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import augment, sources
from trainer import classification
from trainer.evaluate import Evaluation

CLASSES = 7


class Known(keras.layers.Layer):
    """A network whose every output is known by hand: it reads class and confidence from the image's two pixels."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")

    def call(self, images):
        guess, confidence = tf.cast(images[:, 0, 0, 0], tf.int32), images[:, 0, 1, 0]
        return tf.one_hot(guess, CLASSES) * confidence[:, None] * self.gain


def network():
    images = keras.Input((1, 2, 1))
    return keras.Model(images, Known(name="known")(images))


def data(examples: int):
    """Examples of which the later ones are all wrong: a mean of means, or padding, cannot hide."""
    random = np.random.default_rng(examples)
    labels = random.integers(0, CLASSES, examples).astype(np.int32)
    guesses = np.where(np.arange(examples) < examples // 2, labels, (labels + 1) % CLASSES)
    confidence = random.integers(1, 5, examples)
    images = np.stack([guesses, confidence], 1).astype(np.float32).reshape(examples, 1, 2, 1)
    logits = np.eye(CLASSES)[guesses] * confidence[:, None]
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(examples), labels]
    return images, labels, guesses, losses


def strategies():
    yield tf.distribute.OneDeviceStrategy("/cpu:0")
    for replicas in (2, 4):
        tf.distribute.MirroredStrategy._collective_key_base += 100_000  # several in one process: tests only
        yield tf.distribute.MirroredStrategy([f"/cpu:{k}" for k in range(replicas)],
                                             cross_device_ops=tf.distribute.ReductionToOneDevice())


@pytest.mark.parametrize("strategy", list(strategies()), ids=lambda s: f"{s.num_replicas_in_sync} replicas")
@pytest.mark.parametrize("examples, batch_size", [(1, 4), (9, 4), (13, 4), (16, 4), (13, 64), (257, 32)])
def test_exact_numbers(strategy, examples, batch_size):
    images, labels, guesses, losses = data(examples)
    source = sources.Arrays(images, labels, tuple("abcdefg"))
    evaluation = Evaluation(strategy, network, classification.Classification(classes=CLASSES), source,
                            augment.parse("normalize:0:1"), batch_size=batch_size)
    weights = {variable.path: np.float32(1) for variable in evaluation.model.variables}
    result = evaluation.run(weights)
    assert result["examples"] == examples
    assert result["precision_at_1"] == np.mean(guesses == labels)
    assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    expected = np.zeros((CLASSES, CLASSES), int)
    np.add.at(expected, (labels, guesses), 1)
    assert np.array_equal(result["counts"], expected)
    again = evaluation.run({path: np.float32(2) for path in weights})
    assert again["precision_at_1"] == result["precision_at_1"] and again["loss"] != result["loss"]
    assert evaluation.traces == 1  # law 9


def test_ties_and_nan_earn_nothing():
    """A network that says the same for every class, or NaN, has precision 0, not 1."""
    task = classification.Classification(classes=4)
    for value, count in itertools.product((0.0, float("nan")), (1, 3)):
        outputs = tf.fill([count, 4], value)
        sums = task.sums(outputs, {"label": tf.zeros([count], tf.int32)})
        assert sums["precision_at_1"].numpy().sum() == 0
