"""Augmentation: its text is checked without TensorFlow, and a row is distorted alike wherever it lands."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from distorting import batch
from input_pipeline import augment

TUTORIAL = "crop:24,flip,brightness:63,contrast:0.2:1.8,standardize"
RGB = "normalize_rgb:120:110:100:60:50:40"
EXAMPLES = {
    "crop": "crop:5", "pad_crop": "pad_crop:2:reflect", "flip": "flip", "flip_alternate": "flip_alternate",
    "brightness": "brightness:1.5", "contrast": "contrast:0.5:1.5", "standardize": "standardize",
    "normalize": "normalize:0:16", "normalize_rgb": RGB, "resize": "resize:6", "hue": "hue:0.2",
    "saturation": "saturation:0.5:1.5", "random_resized_crop": "random_resized_crop:6:0.3",
    "cutout": "cutout:3", "random_erasing": "random_erasing:0.9", "mixup": "mixup:0.7", "cutmix": "cutmix:1",
    "mask": "mask:0.5", "bgr": "bgr"}
FIXED = {"standardize", "normalize", "normalize_rgb", "resize", "bgr"}  # the same in training and evaluation
SEEN = {"crop", "random_resized_crop", *FIXED}  # what evaluation sees of an operation; of all others nothing
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 9, 8, 3), dtype=np.uint8)


def train(text, rows, **options):
    options = {"seed": 1, "step": 2, "batch_size": 12} | options
    return batch(text, IMAGES[list(rows)], rows=rows, **options)["input"]


@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_the_checked_shape_is_the_real_one(name):
    """A new operation needs an example here."""
    text = EXAMPLES[name]
    shape = augment.check(text, IMAGES.shape[1:])
    assert train(text, range(12)).shape == (12, *shape)
    assert augment.parse(text).evaluate(IMAGES).shape == (12, *shape)


@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_every_operation_takes_seed_step_and_row_and_nothing_else(name):
    """Whole or two rows at a time it is the same; another seed, step or row gives other numbers.

    Mutations: a key without seed or step; numbers for the rows asked for only.
    """
    text = EXAMPLES[name]
    whole = train(text, range(12))
    pairs = [train(text, [first, first + 1]) for first in range(0, 12, 2)]
    assert np.array_equal(np.concatenate(pairs), whole)
    assert np.array_equal(train(text, range(12)), whole)
    others = [train(text, range(12), seed=2)]
    if name != "flip_alternate":  # of the example alone
        others += [train(text, range(12), step=3),
                   batch(text, IMAGES, rows=range(12, 24), seed=1, step=2, batch_size=24)["input"]]
    for other in others:
        assert np.array_equal(other, whole) == (name in FIXED)


@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_evaluation_is_fixed_and_sees_the_whole_image_but_for_crops(name):
    result = augment.parse(EXAMPLES[name]).evaluate(IMAGES).numpy()
    if name not in SEEN:
        assert np.array_equal(result, IMAGES)
    elif name in FIXED:
        assert np.array_equal(result, train(EXAMPLES[name], range(12)))
    some = augment.parse(EXAMPLES[name]).evaluate(IMAGES[3:4]).numpy()
    np.testing.assert_allclose(some[0], result[3], atol=1e-4)


@pytest.mark.parametrize("text, shape", [("", (32, 32, 3)), (" ", (32, 32, 3)), (TUTORIAL, (24, 24, 3)),
                                         ("crop:24, crop:8", (8, 8, 3)), ("pad_crop:31", (32, 32, 3)),
                                         ("resize:40,random_resized_crop:20,mixup:1,mask:0.1", (20, 20, 3))])
def test_shapes(text, shape):
    assert augment.check(text, (32, 32, 3)) == shape


@pytest.mark.parametrize("text, words", [
    ("crop", ["'crop'", "crop:SIZE"]),
    ("crop:24:2", ["'crop:24:2'", "crop:SIZE"]),
    ("crop:x", ["'crop:x'", "size='x'", "whole number"]),
    ("crop:1.5", ["size='1.5'", "whole number"]),
    ("crop:1_0", ["size='1_0'", "whole number"]),
    ("crop:\u0661\u0662", ["whole number"]),
    ("crop:+8", ["size='+8'", "whole number"]),
    ("crop: 8", ["size=' 8'", "whole number"]),
    ("crop:" + "9" * 500, ["'crop:999", "at most 18 digits, it has 500"]),
    ("crop:0", ["size=0", "at least 1"]),
    ("flip,crop:40", ["'crop:40'", "32x32", "at most 32"]),
    ("crop:16,crop:24", ["'crop:24'", "16x16", "at most 16"]),
    ("hug:1", ["'hug:1'", "known", "crop:SIZE", "pad_crop:PADDING[:MODE]", "standardize", "mask:FRACTION"]),
    ("flip,", ["''", "known"]),
    ("brightness:nan", ["max_delta='nan'", "finite"]),
    ("brightness:inf", ["max_delta='inf'", "finite"]),
    ("brightness:1e999", ["max_delta='1e999'", "finite"]),
    ("brightness:1_0.5", ["max_delta='1_0.5'", "finite"]),
    ("brightness:\u0661", ["finite"]),
    ("brightness:.", ["finite"]),
    ("brightness:1e40", ["max_delta='1e40'", "1e30"]),
    ("normalize:0:1e-40", ["std='1e-40'", "1e-30"]),
    ("brightness:0", ["max_delta=0", "more than 0"]),
    ("contrast:2:1", ["lower=2", "upper=1", "lower < upper"]),
    ("contrast:-1:1", ["lower=-1"]),
    ("pad_crop:4:wrap", ["mode='wrap'", "zero or reflect"]),
    ("pad_crop:32:reflect", ["padding=32", "less than 32"]),
    ("pad_crop:32", ["padding=32", "less than 32"]),
    ("pad_crop:0", ["padding=0", "at least 1"]),
    ("normalize:0:0", ["std=0", "more than 0"]),
    ("normalize_rgb:0:0:0:1:0:1", ["std_green=0", "more than 0"]),
    ("normalize_rgb:0:0:0:1:1", ["written normalize_rgb:MEAN_RED:MEAN_GREEN:MEAN_BLUE:STD_RED:STD_"]),
    ("hue:0.6", ["max_delta=0.6", "at most 0.5"]),
    ("saturation:1:1", ["lower=1", "lower < upper"]),
    ("resize:0", ["size=0", "1 to 4096"]),
    ("random_resized_crop:5000", ["size=5000", "1 to 4096"]),
    ("random_resized_crop:24:0", ["min_area=0", "at most 1"]),
    ("random_resized_crop:24:1:0.5", ["max_aspect=0.5", "at least 1"]),
    ("cutout:64", ["'cutout:64'", "less than 64"]),
    ("random_erasing:1.5", ["probability=1.5", "at most 1"]),
    ("random_erasing:1:0.5", ["min_area=0.5", "max_area=0.4", "min_area <= max_area"]),
    ("mixup:0", ["alpha=0", "more than 0"]),
    ("cutmix:101", ["alpha=101", "at most 100"]),
    ("mixup:1,cutmix:1", ["'cutmix:1'", "comes after 'mixup:1'", "leave one"]),
    ("mixup:1,crop:24", ["'crop:24'", "must come before 'mixup:1'"]),
    ("cutmix:1,resize:24", ["'resize:24'", "must come before 'cutmix:1'"]),
    ("mask:1", ["fraction=1", "less than 1"]),
    ("mask:0.5,normalize:0:1", ["'normalize:0:1'", "must come before 'mask:0.5'"]),
    ("mask:0.5,flip", ["'flip'", "must come before 'mask:0.5'"]),
])
def test_a_wrong_text_is_refused_in_one_line_that_names_operation_value_and_rule(text, words):
    with pytest.raises(ValueError) as error:
        augment.check(text, (32, 32, 3))
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("text", ["brightness:.5", "brightness:5.", "normalize:-1.5e2:1E+2"])
def test_numbers_as_they_are_usually_written_are_read(text):
    augment.check(text, (32, 32, 3))


@pytest.mark.parametrize("text", ["hue:0.1", "saturation:0:2", "bgr", RGB])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_operations_on_colours_refuse_other_images(text, channels):
    with pytest.raises(ValueError, match=f"{text}.*8x8x{channels}.*{channels} channel.*red, green and blue"):
        augment.check(text, (8, 8, channels))


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"hue", "saturation", "normalize_rgb", "bgr"}))
def test_all_others_take_any_channels(name, channels):
    """As each channel by itself, where the channels are equal (and none is set to zero by itself)."""
    images = np.repeat(IMAGES[..., :1], channels, axis=-1)
    shape = augment.check(EXAMPLES[name], images.shape[1:])
    result = batch(EXAMPLES[name], images)["input"]
    assert result.shape == (12, *shape)
    if name != "mask":
        assert np.array_equal(result, np.repeat(result[..., :1], channels, axis=-1))


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 11), max_size=3, unique=True), seed=st.integers(0, 2**63 - 1),
       step=st.integers(0, 2**40),
       text=st.sampled_from([
           "crop:5,flip,brightness:63,contrast:0.2:1.8,standardize", "pad_crop:2,flip",
           "random_resized_crop:6,hue:0.2,saturation:0.5:1.5,cutout:3,random_erasing,mask:0.5"]))
def test_any_split_of_the_rows_distorts_each_row_alike(cuts, seed, step, text):
    """Mutations: draw numbers for the split's rows only; key with the split's first row."""
    whole = train(text, range(12), seed=seed, step=step)
    edges = [0, *sorted(cuts), 12]
    parts = [train(text, range(first, last), seed=seed, step=step) for first, last in zip(edges, edges[1:])]
    # Sums over an image may take another order with another number of images: the last bit.
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_numbers_depend_on_seed_step_and_place_in_the_list():
    """Mutations: a key without the seed, the step, or the position."""
    base = train("brightness:63", range(12))
    assert not np.array_equal(base, train("brightness:63", range(12), seed=2))
    assert not np.array_equal(base, train("brightness:63", range(12), step=3))
    twice = train("brightness:63,brightness:63", range(12))
    assert not np.allclose(twice - IMAGES, 2 * (base - IMAGES), atol=1)


def test_steps_beyond_32_bits_are_told_apart():
    assert not np.array_equal(train("brightness:63", range(12), step=5),
                              train("brightness:63", range(12), step=5 + 2**32))


def test_training_runs_in_a_graph_with_static_shapes():
    text = "pad_crop:2,flip_alternate,random_resized_crop:6,flip,hue:0.1,standardize,cutmix:1,mask:0.2"

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([12, 9, 8, 3], tf.uint8),
                                                  tf.TensorSpec([], tf.int64)])
    def graph(images, step):
        result = augment.parse(text).train_batch(
            images, seed=1, step=step, rows=tf.range(12), batch_size=12,
            index=7 * tf.range(12, dtype=tf.int64), epoch=tf.zeros([12], tf.int64))
        assert result["input"].shape == result["target"].shape == [12, 6, 6, 3]
        assert result["partner"].shape == result["share"].shape == [12]
        return result

    eager = batch(text, IMAGES, seed=1, step=2)
    for name, value in graph(IMAGES, 2).items():
        np.testing.assert_allclose(value, eager[name], atol=2e-5)


def test_what_mixes_and_what_corrupts_is_known_from_the_text():
    known = {name: augment.parse(text) for name, text in EXAMPLES.items()}
    assert {name for name, augmentation in known.items() if augmentation.mixes} == {"mixup", "cutmix"}
    assert {name for name, augmentation in known.items() if augmentation.corrupts} == {"mask"}


@pytest.mark.parametrize("text", ["", "normalize:128:128,mask:0.5", f"flip,brightness:63,{RGB}",
                                  "contrast:0.2:1.8,normalize:3:2,normalize:-1:0.5,cutout:3", f"bgr,{RGB}"])
def test_the_inverse_gives_back_raw_units(text):
    """Mutation: undo in the order of the list."""
    augmentation = augment.parse(text)
    augment.check_inverse(text)
    assert augmentation.is_invertible
    np.testing.assert_allclose(augmentation.inverse(augmentation.evaluate(IMAGES)), IMAGES, atol=1e-3)


@pytest.mark.parametrize("text", ["", f"flip,{RGB},bgr,brightness:3", f"bgr,{RGB}", "normalize:3:2,hue:0.1,normalize:-1:0.5"])
def test_one_pixel_is_what_evaluation_makes_of_an_image_of_its_colour(text):
    """Mutations: the order of the list; a channel's mean for all."""
    color = [200.0, 30.0, 90.0]
    image = augment.parse(text).evaluate(np.broadcast_to(np.float32(color), (1, 4, 5, 3))).numpy()
    np.testing.assert_allclose(image, np.broadcast_to(augment.parse(text).pixel(color), (1, 4, 5, 3)), rtol=1e-5)
    assert augment.parse("standardize,bgr").pixel(color) is None


def test_the_inverse_of_a_crop_is_its_values():
    augmentation = augment.parse("crop:5,normalize:128:64")
    np.testing.assert_allclose(augmentation.inverse(augmentation.evaluate(IMAGES)),
                               augment.parse("crop:5").evaluate(IMAGES), atol=1e-3)


def test_what_cannot_be_undone_is_refused_by_name():
    assert not augment.parse("flip,standardize").is_invertible
    for call in (lambda: augment.check_inverse("flip,standardize"),
                 lambda: augment.parse("flip,standardize").inverse(IMAGES)):
        with pytest.raises(ValueError, match="'standardize': cannot be undone.*normalize:MEAN:STD"):
            call()
