"""Distortions of whole batches equal TensorFlow's own, applied to one example at a time."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from distorting import BATCH, IMAGES, evaluate, train, uniform
from input_pipeline import augment


def test_tutorial_distortions_equal_tf_image_one_example_at_a_time():
    """Mutations: flip before the crop's columns; contrast about the mean of all channels; no float cast."""
    whole = train("crop:24,flip,brightness:63,contrast:0.2:1.8,standardize")
    places = uniform(0, "Crop", 2)
    flips = uniform(1, "Flip", 1)[:, 0] < 0.5
    deltas = uniform(2, "Brightness", 1)[:, 0] * 126 - 63
    factors = uniform(3, "Contrast", 1)[:, 0] * np.float32(1.6) + np.float32(0.2)
    assert 0 < flips.sum() < BATCH
    for row, image in enumerate(tf.cast(IMAGES, tf.float32)):
        top, left = int(places[row, 0] * 9), int(places[row, 1] * 7)
        image = tf.image.crop_to_bounding_box(image, top, left, 24, 24)
        image = tf.image.flip_left_right(image) if flips[row] else image
        image = tf.image.adjust_brightness(image, deltas[row])
        image = tf.image.adjust_contrast(image, factors[row])
        image = tf.image.per_image_standardization(image)
        np.testing.assert_allclose(whole[row], image, atol=2e-5)


def test_tutorial_evaluation_equals_tf_image():
    whole = evaluate("crop:24,flip,brightness:63,contrast:0.2:1.8,standardize")
    central = tf.image.resize_with_crop_or_pad(tf.cast(IMAGES, tf.float32), 24, 24)
    np.testing.assert_allclose(whole, tf.image.per_image_standardization(central), atol=2e-5)


@pytest.mark.parametrize("mode, numpy_mode", [("zero", "constant"), ("reflect", "reflect")])
def test_pad_crop_is_a_window_of_the_padded_image(mode, numpy_mode):
    """Mutations: pad by one less; the last pixel instead of zero outside."""
    images = IMAGES + 1 - (IMAGES == 255)  # no zeros: those that appear are padding
    whole = train(f"pad_crop:4:{mode}", images)
    places = (uniform(0, "PadCrop", 2) * 9).astype(int)
    assert places.min() == 0 and places.max() == 8  # all four sides are met
    for row, image in enumerate(images):
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode=numpy_mode)
        top, left = places[row]
        assert np.array_equal(whole[row], padded[top:top + 32, left:left + 30])
    assert np.array_equal(evaluate(f"pad_crop:4:{mode}", images), images)


def test_zero_padding_is_zero_at_its_place_in_the_list():
    """Padding that comes after the values are moved is zero in the new values, not in the old."""
    later, before = train("normalize:100:50,pad_crop:4"), train("pad_crop:4,normalize:100:50")
    assert (later == 0).any() and not (before == 0).all()
    assert (before == -2).sum() > (later == -2).sum()


def test_geometry_composes_in_the_order_of_the_list():
    assert not np.array_equal(train("crop:24,flip"), train("flip,crop:24"))
    twice = train("pad_crop:4:reflect,crop:20")
    padded = train("pad_crop:4:reflect")
    places = uniform(1, "Crop", 2)
    for row in range(BATCH):
        top, left = int(places[row, 0] * 13), int(places[row, 1] * 11)
        assert np.array_equal(twice[row], padded[row, top:top + 20, left:left + 20])


def test_normalize_moves_and_scales_alike_in_training_and_evaluation():
    expected = (IMAGES.astype(np.float32) - 128) / 64
    assert np.array_equal(train("normalize:128:64"), expected)
    assert np.array_equal(evaluate("normalize:128:64"), expected)


def test_each_channel_is_moved_and_scaled_by_its_own_numbers():
    """Mutation: means in the order of blue, green, red."""
    text = "normalize_rgb:125.3:123:113.9:63:62.1:66.7"
    expected = (IMAGES.astype(np.float32) - np.float32([125.3, 123, 113.9])) / np.float32([63, 62.1, 66.7])
    np.testing.assert_allclose(train(text), expected, rtol=1e-6)
    assert np.array_equal(evaluate(text), train(text))


def test_alternating_flips_show_an_example_both_ways_in_two_epochs():
    """About half are mirrored in the first epoch, the others in the second.

    Mutations: ignore the epoch; draw anew in each epoch.
    """
    epochs = [train("flip_alternate", epoch=epoch) for epoch in range(4)]
    mirrored = IMAGES[:, :, ::-1].astype(np.float32)
    flipped = np.array([np.array_equal(image, other) for image, other in zip(epochs[0], mirrored)])
    assert 2 < flipped.sum() < BATCH - 2
    assert np.array_equal(epochs[0], np.where(flipped[:, None, None, None], mirrored, IMAGES))
    assert np.array_equal(epochs[1], np.where(flipped[:, None, None, None], IMAGES, mirrored))
    assert np.array_equal(epochs[2], epochs[0]) and np.array_equal(epochs[3], epochs[1])


def test_alternating_flips_follow_the_example_not_its_row_or_step():
    """The same examples in other rows, at another step, in another order: mirrored alike."""
    augmentation = augment.parse("flip_alternate")
    index = np.random.default_rng(1).permutation(BATCH).astype(np.int64)

    def flipped(index, step):
        return augmentation.train_batch(
            IMAGES[index], seed=5, step=step, rows=tf.range(BATCH), batch_size=BATCH, index=index,
            epoch=tf.zeros([BATCH], tf.int64))["input"].numpy()

    assert np.array_equal(flipped(np.arange(BATCH), 0)[index], flipped(index, 9))


def test_alternating_flips_need_index_and_epoch():
    augmentation = augment.parse("flip_alternate")
    with pytest.raises(AssertionError, match="indices and epochs"):
        augmentation.train_batch(IMAGES, seed=1, step=0, rows=tf.range(BATCH), batch_size=BATCH)


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.float32, (2, 3, 4, 2), elements=st.floats(-1e3, 1e3, width=32)))
def test_standardised_images_have_mean_zero_and_at_most_deviation_one(images):
    """Also images of one colour, which stay finite. Mutation: no lower bound of the deviation."""
    result = train("standardize", images)
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result.mean(axis=(1, 2, 3)), 0, atol=2e-3)
    assert (result.std(axis=(1, 2, 3)) < 1 + 1e-3).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_any_number_type_gives_float32(dtype):
    text = "crop:24,flip,brightness:5"
    assert np.array_equal(train(text, IMAGES.astype(dtype)), train(text))


def test_random_numbers_cover_their_ranges_evenly():
    """Each of the 9 x 9 windows, both directions, all brightness and contrast. Mutation: 8 windows a side."""
    count = 20_000
    y, x = np.meshgrid(np.arange(10), np.arange(10), indexing="ij")
    images = np.broadcast_to(np.stack([y, x], -1)[np.newaxis], (count, 10, 10, 2)).astype(np.float32)

    def whole(text):
        return train(text, images, seed=1, step=0)

    cropped = whole("crop:2")
    windows = np.bincount((cropped[:, 0, 0, 0] * 9 + cropped[:, 0, 0, 1]).astype(int), minlength=81)
    expected = count / 81
    assert len(windows) == 81
    assert ((windows - expected) ** 2 / expected).sum() < 81 + 6 * np.sqrt(2 * 81)
    flipped = (whole("flip")[:, 0, 0, 1] == 9).mean()
    assert abs(flipped - 0.5) < 5 * 0.5 / np.sqrt(count)
    deltas = (whole("brightness:63") - images)[:, 0, 0, 0]
    assert -63 <= deltas.min() < -62.9 and 62.9 < deltas.max() < 63.001
    assert abs(deltas.mean()) < 5 * 63 / np.sqrt(3 * count)
    spread = whole("contrast:0.2:1.8")
    factors = (spread[:, 9, 0, 0] - spread[:, 0, 0, 0]) / 9
    assert 0.1999 < factors.min() < 0.201 and 1.799 < factors.max() < 1.8001


@pytest.mark.parametrize("flip", ["flip", "flip_alternate"])
def test_mirroring_alone_is_mirroring_among_others(flip):
    """Whole images are mirrored where nothing else moves pixels. Mutations: the other half mirrored; top to bottom."""
    square = IMAGES[:, :30]
    among = f"{flip},crop:30"  # a crop of the whole: the same draws, pixels by their places
    np.testing.assert_array_equal(train(flip, square), train(among, square))
    np.testing.assert_array_equal(evaluate(flip, square), evaluate(among, square))
    assert not np.array_equal(train(flip, square), evaluate(flip, square))
