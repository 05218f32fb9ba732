"""Hue and saturation equal TensorFlow's own, which take one image at a time."""

import numpy as np
import pytest
import tensorflow as tf

from distorting import BATCH, IMAGES, Given, evaluate, train, uniform
from input_pipeline.colour import Hue, Saturation


def awkward() -> np.ndarray:
    """Images with greys, equal channels, pure colours, zeros, and negative values as brightness makes."""
    images = np.random.default_rng(0).uniform(-60, 300, (8, 9, 8, 3)).astype(np.float32)
    images[0], images[1] = 7, 0
    for first, second, image in ((0, 1, 2), (1, 2, 3), (0, 2, 4)):
        images[image, ..., first] = images[image, ..., second]
    images[5] = np.random.default_rng(1).integers(0, 2, images[5].shape) * 255
    images[6] = -np.abs(images[6])
    images[7] /= 300
    return images


PARTS = np.float32([[0], [0.999], [0.5], [0.25], [0.7], [0.1], [0.9], [0.3]])


@pytest.mark.parametrize("max_delta", [0.02, 0.3, 0.5])
def test_hue_equals_tf_image(max_delta):
    """Mutations: green and blue exchanged; no way round from -180 degrees to 180."""
    images = awkward()
    result = Hue(max_delta).train(tf.constant(images), Given(uniform=PARTS))
    for image, part, turned in zip(images, PARTS[:, 0], result):
        expected = tf.image.adjust_hue(image, (2 * part - 1) * np.float32(max_delta))
        np.testing.assert_allclose(turned, expected, atol=4e-4)


@pytest.mark.parametrize("lower, upper", [(0, 1), (0.5, 1.5), (1, 5)])
def test_saturation_equals_tf_image(lower, upper):
    """Mutations: no bound at full saturation; no care for negative values."""
    images = awkward()
    result = Saturation(lower, upper).train(tf.constant(images), Given(uniform=PARTS))
    for image, part, scaled in zip(images, PARTS[:, 0], result):
        expected = tf.image.adjust_saturation(image, lower + part * np.float32(upper - lower))
        np.testing.assert_allclose(scaled, expected, atol=4e-4)


def test_every_image_gets_a_number_of_its_own():
    """Through the text, on 0..255: the numbers that the operation draws are those that were applied."""
    hues, factors = uniform(0, "Hue", 1)[:, 0] - 0.5, uniform(0, "Saturation", 1)[:, 0] * 2
    assert len(np.unique(hues)) == BATCH
    for row, image in enumerate(tf.cast(IMAGES, tf.float32)):
        np.testing.assert_allclose(train("hue:0.5")[row], tf.image.adjust_hue(image, hues[row]), atol=4e-4)
        expected = tf.image.adjust_saturation(image, factors[row])
        np.testing.assert_allclose(train("saturation:0:2")[row], expected, atol=4e-4)
    assert np.array_equal(evaluate("hue:0.5"), IMAGES) and np.array_equal(evaluate("saturation:0:2"), IMAGES)


def test_numbers_cover_their_ranges():
    """A red picture: its hue is the turn, its saturation the factor."""
    count = 20_000
    red = np.broadcast_to(np.float32([200, 100, 100]), (count, 1, 1, 3))
    hsv = tf.image.rgb_to_hsv(train("hue:0.1", red) / 255).numpy()[:, 0, 0]
    turns = (hsv[:, 0] + 0.5) % 1 - 0.5
    assert -0.1001 < turns.min() < -0.0999 and 0.0999 < turns.max() < 0.1001
    assert abs(turns.mean()) < 5 * 0.1 / np.sqrt(3 * count)
    hsv = tf.image.rgb_to_hsv(train("saturation:0.4:1.6", red) / 255).numpy()[:, 0, 0]
    factors = hsv[:, 1] / 0.5
    assert 0.3999 < factors.min() < 0.401 and 1.599 < factors.max() < 1.6001
    assert abs(factors.mean() - 1) < 5 * 0.6 / np.sqrt(3 * count)
