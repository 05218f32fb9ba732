"""Corruption spoils the input and not the target; in evaluation an example is always spoilt alike."""

import numpy as np
import pytest
import tensorflow as tf

from distorting import BATCH, IMAGES, batch, evaluate
from input_pipeline import augment

AUGMENTATION = augment.parse("normalize:128:128,mask:0.5")
INDEX = np.arange(BATCH, dtype=np.int64) * 3
CLEAN = (IMAGES.astype(np.float32) + 0.5 - 128) / 128  # no number is 0


def test_training_masks_the_input_and_keeps_the_target():
    """Every number is the target's or 0. Mutations: mask the target too; mask before normalisation."""
    result = batch("normalize:127.5:128,mask:0.5")
    assert np.array_equal(result["target"], CLEAN)
    zero = result["input"] == 0
    assert np.array_equal(result["input"], np.where(zero, 0, CLEAN))
    assert abs(zero.mean() - 0.5) < 5 * 0.5 / np.sqrt(zero.size)
    assert batch("normalize:127.5:128").keys() == {"input"}


@pytest.mark.parametrize("fraction", [0.1, 0.75])
def test_the_fraction_is_that_of_the_numbers_set_to_zero(fraction):
    """Over images, places and channels alike. Mutation: the fraction that is kept."""
    zero = batch(f"mask:{fraction}", np.ones((2000, 7, 5, 3), np.float32))["input"] == 0
    for axes in ((0,), (1, 2, 3)):
        means = zero.mean(axes)
        tolerance = 5.5 * np.sqrt(fraction * (1 - fraction) / (zero.size / means.size))
        assert np.abs(means - fraction).max() < tolerance
    other = batch(f"mask:{fraction}", np.ones((2000, 7, 5, 3), np.float32), step=12)["input"] == 0
    assert abs((zero & other).mean() - fraction**2) < 0.01  # unrelated to the next step's


def test_a_second_mask_is_another_one():
    result = batch("normalize:127.5:128,mask:0.5,mask:0.5")
    assert np.array_equal(result["target"], CLEAN)
    assert abs((result["input"] == 0).mean() - 0.75) < 0.01


def test_evaluation_masks_an_example_alike_in_any_batch():
    """Mutation: masks by place in the batch."""
    whole = AUGMENTATION.evaluate_batch(IMAGES, INDEX)
    some = AUGMENTATION.evaluate_batch(IMAGES[[9, 2, 2]], INDEX[[9, 2, 2]])
    for name in ("input", "target"):
        assert np.array_equal(some[name], whole[name].numpy()[[9, 2, 2]])
    zero = whole["input"].numpy() == 0
    assert abs(zero.mean() - 0.5) < 0.02 and not np.array_equal(zero[0], zero[1])
    np.testing.assert_array_equal(whole["target"], (IMAGES.astype(np.float32) - 128) / 128)


def test_export_and_prediction_corrupt_nothing():
    assert AUGMENTATION.evaluate_batch(IMAGES).keys() == {"input"}
    assert np.array_equal(evaluate("normalize:128:128,mask:0.5"), evaluate("normalize:128:128"))


def test_evaluation_runs_in_a_dataset():
    """Static shapes, and the same numbers as outside."""
    evaluate_batch = tf.autograph.experimental.do_not_convert(AUGMENTATION.evaluate_batch)
    dataset = tf.data.Dataset.from_tensors((IMAGES, INDEX)).map(evaluate_batch)
    assert dataset.element_spec["input"].shape == dataset.element_spec["target"].shape == IMAGES.shape
    inside, outside = next(iter(dataset)), AUGMENTATION.evaluate_batch(IMAGES, INDEX)
    assert np.array_equal(inside["input"], outside["input"])
