"""Moving pixels of a batch equals NumPy's slices of one image at a time."""

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import moving

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape, size", [
    ((8, 9, 3), (8, 9)), ((8, 9, 3), (1, 1)), ((5, 64, 1), (3, 1)), ((5, 66, 1), (3, 2)), ((5, 199, 3), (3, 99)), ((5, 300, 2), (3, 1))])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_windows(shape, size, dtype):
    """From every first column, one by one and roughly first. Mutations: a column too far; the rough cut of the last columns beyond the edge."""
    columns = np.arange(shape[1] - size[1] + 1)
    images = RANDOM.integers(0, 256, (len(columns), *shape)).astype(dtype)
    rows = RANDOM.integers(0, shape[0] - size[0] + 1, len(columns))
    found = moving.windows(tf.constant(images), tf.constant(rows, tf.int32), tf.constant(columns, tf.int32), size)
    assert found.dtype == dtype and found.shape == (len(columns), *size, shape[2])
    for image, row, column, window in zip(images, rows, columns, found):
        np.testing.assert_array_equal(window, image[row:row + size[0], column:column + size[1]])


@pytest.mark.parametrize("which", [[True, False, True, True], [False] * 4, [True] * 4])
def test_mirrored(which):
    """Mutations: all of them; not put back in place; top to bottom."""
    images = RANDOM.integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
    expected = np.where(np.reshape(which, (4, 1, 1, 1)), images[:, :, ::-1], images)
    np.testing.assert_array_equal(moving.mirrored(tf.constant(images), tf.constant(which)), expected)


@pytest.mark.parametrize("reflect, mode", [(False, "constant"), (True, "reflect")])
def test_padded(reflect, mode):
    """Mutations: the edge repeated; rows alone."""
    images = RANDOM.integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
    expected = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode=mode)
    np.testing.assert_array_equal(moving.padded(tf.constant(images), 4, reflect=reflect), expected)


def test_an_empty_batch_and_one_of_unknown_size():
    """Mutation: the size of the batch taken from the shape."""
    @tf.function(input_signature=[tf.TensorSpec([None, 5, 6, 3], tf.uint8)])
    def moved(images):
        first = tf.zeros(tf.shape(images)[:1], tf.int32)
        return moving.mirrored(moving.windows(images, first, first, (3, 4)), first == 0)

    for count in 0, 2:
        images = RANDOM.integers(0, 256, (count, 5, 6, 3)).astype(np.uint8)
        np.testing.assert_array_equal(moved(images), images[:, :3, 3::-1] if count else images[:, :3, :4])
