"""Resized images equal TensorFlow's own, one window at a time."""

import numpy as np
import pytest
import tensorflow as tf

from distorting import BATCH, IMAGES, evaluate, train, uniform
from input_pipeline import windows


@pytest.mark.parametrize("size", [1, 8, 30, 31, 50])
def test_resize_is_antialiased_where_it_shrinks(size):
    """Mutation: no antialiasing."""
    expected = tf.image.resize(IMAGES, [size, size], antialias=True)
    np.testing.assert_allclose(train(f"resize:{size}"), expected, atol=1e-3)
    assert np.array_equal(evaluate(f"resize:{size}"), train(f"resize:{size}"))
    assert np.abs(train("resize:8") - tf.image.resize(IMAGES, [8, 8])).max() > 10


@pytest.mark.parametrize("text, min_area, max_aspect, size", [
    ("random_resized_crop:12", 0.08, 4 / 3, 12), ("random_resized_crop:40:0.5:1", 0.5, 1.0, 40)])
def test_random_resized_crop_is_the_resized_window(text, min_area, max_aspect, size):
    """Mutations: align corners; the window of the next image; height and width exchanged."""
    drawn = uniform(0, "RandomResizedCrop", windows.NUMBERS)
    window = windows.draw(tf.constant(drawn), height=32, width=30, areas=(min_area, 1), max_aspect=max_aspect)
    result = train(text)
    assert result.shape == (BATCH, size, size, 3)
    for row in range(BATCH):
        if not window.found[row]:
            continue
        top, left, high, wide = (part[row] for part in (window.top, window.left, window.height, window.width))
        part = IMAGES[row, top:top + high, left:left + wide]
        np.testing.assert_allclose(result[row], tf.image.resize(part, [size, size]), atol=1e-3)
    assert window.found.numpy().sum() > BATCH / 2 and len(np.unique(window.top)) > 3


@pytest.mark.parametrize("shape, part", [((10, 60), (0, 23, 10, 13)), ((60, 10), (23, 0, 13, 10))])
def test_where_no_shape_fits_it_is_the_largest_central_window(shape, part):
    """An image so long that no window of the whole area has an allowed aspect. Mutation: the whole image."""
    image = np.random.default_rng(0).random((1, *shape, 1), np.float32)
    top, left, high, wide = part
    expected = tf.image.resize(image[:, top:top + high, left:left + wide], [9, 9])
    np.testing.assert_allclose(train("random_resized_crop:9:1:1.3", image), expected, atol=1e-5)


@pytest.mark.parametrize("side", [8, 28, 32, 192, 224])
def test_evaluation_sees_the_central_part(side):
    """Equal to tf.image.central_crop for squares. Mutations: another fraction; one pixel off."""
    images = np.random.default_rng(0).random((2, side, side, 3), np.float32)
    expected = tf.image.resize(tf.image.central_crop(images, 0.875), [20, 20], antialias=True)
    np.testing.assert_allclose(evaluate("random_resized_crop:20", images), expected, atol=1e-5)
    wide = np.random.default_rng(1).random((2, side, 3 * side, 3), np.float32)
    part = tf.image.central_crop(wide[:, :, side:2 * side], 0.875)
    np.testing.assert_allclose(evaluate("random_resized_crop:20", wide),
                               tf.image.resize(part, [20, 20], antialias=True), atol=1e-5)
