"""synthetic: a function of the index, never twice the same, and learnable."""

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import synthetic


def read_all(split, **options):
    source = synthetic.load(split, **options)
    batch = source.read(tf.range(len(source), dtype=tf.int64))
    return batch["input"].numpy(), batch["label"].numpy()


def test_an_example_depends_on_its_index_alone():
    source = synthetic.load("train")
    whole = source.read(tf.range(100, dtype=tf.int64))
    part = synthetic.load("train", train_examples=50).read(tf.constant([49, 7, 7], tf.int64))
    assert whole["input"].dtype == tf.uint8 and whole["label"].dtype == tf.int32
    for name in ("input", "label"):
        assert np.array_equal(part[name], tf.gather(whole[name], [49, 7, 7]))


def test_the_seed_changes_images_and_not_labels():
    (one, labels), (other, same) = (read_all("train", train_examples=20, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one, other) and np.array_equal(labels, same)


@pytest.mark.parametrize("shape, classes", [((32, 32, 3), 10), ((5, 7, 2), 1), ((2, 3, 1), 4)])
def test_shapes_and_classes(shape, classes):
    images, labels = read_all("train", input_shape=shape, classes=classes, train_examples=40)
    assert images.shape == (40, *shape)
    assert set(labels) == set(range(classes))


def test_no_example_appears_twice_in_either_split():
    """Mutations: held-out examples from index 0; both noise images at the same strength."""
    options = {"input_shape": (8, 8, 1), "train_examples": 4000, "test_examples": 1000}
    images = np.concatenate([read_all(split, **options)[0] for split in ("train", "test")])
    assert len(np.unique(images.reshape(5000, -1), axis=0)) == 5000


def test_the_parts_fit_in_a_byte():
    assert synthetic.PATTERN + 3 * synthetic.NOISE <= 255
    images, _ = read_all("train", train_examples=2000)
    assert images.max() > 200 and images.min() < 20


def test_it_can_be_learnt_and_not_from_one_pixel():
    """The nearest class mean of the training images is right for the held-out ones; no single value tells."""
    options = {"train_examples": 2000, "test_examples": 500}
    (images, labels), (held_out, truth) = (read_all(split, **options) for split in ("train", "test"))
    images = images.reshape(2000, -1).astype(np.float32)
    held_out = held_out.reshape(500, -1).astype(np.float32)
    means = np.stack([images[labels == label].mean(axis=0) for label in range(10)])
    distances = ((held_out[:, np.newaxis] - means) ** 2).sum(axis=2)
    assert (distances.argmin(axis=1) == truth).mean() > 0.95
    one_pixel = np.abs(held_out[:, np.newaxis, 500] - means[:, 500])
    assert (one_pixel.argmin(axis=1) == truth).mean() < 0.5


@pytest.mark.parametrize("options, words", [
    ({"classes": 0}, "classes=0"), ({"train_examples": 0}, "train_examples=0"),
    ({"test_examples": -1}, "test_examples=-1"), ({"input_shape": (8, 0, 1)}, "width=0"),
    ({"seed": -1}, "seed=-1"),
])
def test_options_out_of_range_are_refused_by_name(options, words):
    with pytest.raises(ValueError, match=f"{words} must be at least"):
        synthetic.describe(None, **options)


def test_memory_does_not_grow_with_the_number_of_examples():
    source = synthetic.load("train", input_shape=(8, 8, 1), train_examples=10**12)
    far = source.read(tf.constant([10**12 - 1], tf.int64))
    assert far["input"].shape == (1, 8, 8, 1) and far["label"].numpy().tolist() == [9]
