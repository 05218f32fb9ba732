"""Augmentation: its text is checked without TensorFlow, and a row is distorted alike wherever it lands."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import augment
from input_pipeline.distortions import OPERATIONS

TUTORIAL = "crop:24,flip,brightness:63,contrast:0.2:1.8,standardize"
EXAMPLES = {"crop": "crop:5", "pad_crop": "pad_crop:2:reflect", "flip": "flip", "standardize": "standardize",
            "brightness": "brightness:1.5", "contrast": "contrast:0.5:1.5", "normalize": "normalize:0:16"}
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 9, 8, 3), dtype=np.uint8)


def train(text, rows, *, seed=1, step=2, batch_size=12):
    rows = np.asarray(rows, np.int32)
    augmentation = augment.parse(text)
    return augmentation.train(IMAGES[rows], seed=seed, step=step, rows=rows, batch_size=batch_size).numpy()


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_checked_shape_is_the_real_one(name):
    """A new operation needs an example here."""
    text = EXAMPLES[name]
    shape = augment.check(text, IMAGES.shape[1:])
    assert train(text, range(12)).shape == (12, *shape)
    assert augment.parse(text).evaluate(IMAGES).shape == (12, *shape)


@pytest.mark.parametrize("text, shape", [("", (32, 32, 3)), (" ", (32, 32, 3)), (TUTORIAL, (24, 24, 3)),
                                         ("crop:24, crop:8", (8, 8, 3)), ("pad_crop:40", (32, 32, 3))])
def test_shapes(text, shape):
    assert augment.check(text, (32, 32, 3)) == shape


@pytest.mark.parametrize("text, words", [
    ("crop", ["'crop'", "crop:SIZE"]),
    ("crop:24:2", ["'crop:24:2'", "crop:SIZE"]),
    ("crop:x", ["'crop:x'", "size='x'", "whole number"]),
    ("crop:1.5", ["size='1.5'", "whole number"]),
    ("crop:0", ["size=0", "at least 1"]),
    ("flip,crop:40", ["'crop:40'", "32x32", "at most 32"]),
    ("crop:16,crop:24", ["'crop:24'", "16x16", "at most 16"]),
    ("hue:1", ["'hue:1'", "known", "crop:SIZE", "pad_crop:PADDING[:MODE]", "standardize"]),
    ("flip,", ["''", "known"]),
    ("brightness:nan", ["max_delta='nan'", "finite"]),
    ("brightness:0", ["max_delta=0", "more than 0"]),
    ("contrast:2:1", ["lower=2", "upper=1", "lower < upper"]),
    ("contrast:-1:1", ["lower=-1"]),
    ("pad_crop:4:wrap", ["mode='wrap'", "zero or reflect"]),
    ("pad_crop:32:reflect", ["padding=32", "less than 32"]),
    ("pad_crop:0", ["padding=0", "at least 1"]),
    ("normalize:0:0", ["std=0", "more than 0"]),
])
def test_a_wrong_text_is_refused_in_one_line_that_names_operation_value_and_rule(text, words):
    with pytest.raises(ValueError) as error:
        augment.check(text, (32, 32, 3))
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 11), max_size=3, unique=True), seed=st.integers(0, 2**63 - 1),
       step=st.integers(0, 2**40),
       text=st.sampled_from(["crop:5,flip,brightness:63,contrast:0.2:1.8,standardize", "pad_crop:2,flip"]))
def test_any_split_of_the_rows_distorts_each_row_alike(cuts, seed, step, text):
    """Mutations: draw numbers for the split's rows only; key with the split's first row."""
    whole = train(text, range(12), seed=seed, step=step)
    edges = [0, *sorted(cuts), 12]
    parts = [train(text, range(first, last), seed=seed, step=step) for first, last in zip(edges, edges[1:])]
    assert np.array_equal(np.concatenate(parts), whole)


def test_numbers_depend_on_seed_step_and_place_in_the_list():
    """Mutations: a key without the seed, the step, or the position."""
    base = train("brightness:63", range(12))
    assert np.array_equal(base, train("brightness:63", range(12)))
    assert not np.array_equal(base, train("brightness:63", range(12), seed=2))
    assert not np.array_equal(base, train("brightness:63", range(12), step=3))
    twice = train("brightness:63,brightness:63", range(12))
    assert not np.allclose(twice - IMAGES, 2 * (base - IMAGES), atol=1)


def test_steps_beyond_32_bits_are_told_apart():
    assert not np.array_equal(train("brightness:63", range(12), step=5),
                              train("brightness:63", range(12), step=5 + 2**32))


def test_training_runs_in_a_graph_with_static_shapes():
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([12, 9, 8, 3], tf.uint8),
                                                  tf.TensorSpec([], tf.int64)])
    def graph(images, step):
        result = augment.parse("pad_crop:2,crop:5,flip,standardize").train(
            images, seed=1, step=step, rows=tf.range(12), batch_size=12)
        assert result.shape == [12, 5, 5, 3]
        return result

    eager = train("pad_crop:2,crop:5,flip,standardize", range(12), step=2)
    np.testing.assert_allclose(graph(IMAGES, 2), eager, atol=1e-5)
