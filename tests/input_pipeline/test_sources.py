"""Arrays: reads what was put in, checks it, and is captured by reference."""

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import sources


def test_reads_the_examples_asked_for_in_that_order():
    images = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3, 1)
    source = sources.Arrays(images, np.array([0, 1, 2, 1, 0]), ("a", "b", "c"))
    assert (len(source), source.input_shape, source.classes) == (5, (2, 3, 1), ("a", "b", "c"))
    batch = source.read(tf.constant([3, 0, 3], tf.int64))
    assert np.array_equal(batch["input"], images[[3, 0, 3]]) and batch["input"].dtype == tf.uint8
    assert batch["label"].numpy().tolist() == [1, 0, 1] and batch["label"].dtype == tf.int32


def test_a_change_of_the_array_afterwards_is_not_seen():
    images = np.zeros((2, 4, 4, 1), np.float32)
    source = sources.Arrays(images, np.array([0, 0]), ("a",))
    images += 1
    assert source.read(tf.constant([0, 1], tf.int64))["input"].numpy().max() == 0


def test_the_arrays_are_not_copied_into_graphs():
    """Mutation: keep numpy arrays, which every graph takes up as constants."""
    source = sources.Arrays(np.zeros((1000, 32, 32, 3), np.uint8), np.zeros(1000, np.int64), ("a",))
    read = tf.function(source.read).get_concrete_function(tf.TensorSpec([8], tf.int64))
    assert read.graph.as_graph_def().ByteSize() < 10_000


@pytest.mark.parametrize("images, labels, words", [
    (np.zeros((3, 2, 2)), np.zeros(3, int), "[n, height, width, channels]"),
    (np.zeros((3, 2, 2, 1)), np.zeros(2, int), "[n, height, width, channels]"),
    (np.zeros((0, 2, 2, 1)), np.zeros(0, int), "no examples"),
    (np.zeros((3, 2, 2, 1)), np.array([0, 1, 2]), "label 2 of example 2"),
    (np.zeros((3, 2, 2, 1)), np.array([0, -1, 1]), "label -1 of example 1"),
])
def test_arrays_that_do_not_fit_are_refused_by_name(images, labels, words):
    with pytest.raises(ValueError) as error:
        sources.Arrays(images, labels, ("a", "b"), name="birds")
    assert str(error.value).startswith("birds: ") and words in str(error.value)
