"""Views of an image at test time, and the average of what a network makes of them."""

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import test_time

IMAGES = np.random.default_rng(0).random((3, 6, 5, 2), np.float32)


def shifted(down: int, right: int) -> np.ndarray:
    """The images moved by so many pixels, borders reflected."""
    padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    return padded[:, 1 - down:7 - down, 1 - right:6 - right]


VIEWS = {"none": [IMAGES], "mirror": [IMAGES, IMAGES[:, :, ::-1]],
         "mirror_shift": [IMAGES, IMAGES[:, :, ::-1], shifted(1, 1), shifted(1, 1)[:, :, ::-1],
                          shifted(-1, -1), shifted(-1, -1)[:, :, ::-1]]}


@pytest.mark.parametrize("name", test_time.WEIGHTS)
def test_views_by_hand(name):
    """Mutations: mirror up and down; shift by two pixels; views of an image side by side."""
    assert np.array_equal(test_time.views(name, IMAGES), np.concatenate(VIEWS[name]))
    assert sum(test_time.WEIGHTS[name]) == 1 and len(test_time.WEIGHTS[name]) == len(VIEWS[name])


@pytest.mark.parametrize("name", test_time.WEIGHTS)
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_the_average_is_the_weighted_mean_of_an_images_own_views(name, dtype):
    """Of a network that gives back what it gets, in a graph of any batch. Mutation: other images' views."""
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 6, 5, 2])])
    def answer(images):
        return test_time.average(name, tf.cast(test_time.views(name, images), dtype))

    result = answer(IMAGES)
    expected = sum(weight * view for weight, view in zip(test_time.WEIGHTS[name], VIEWS[name]))
    assert result.dtype == tf.float32 and result.shape == IMAGES.shape
    np.testing.assert_allclose(result, expected, atol=1e-6 if dtype == tf.float32 else 1e-2)


def test_average_of_one_number_an_image():
    outputs = tf.constant([1.0, 2, 3, 5, 6, 7])
    assert test_time.average("mirror", outputs).numpy().tolist() == [3, 4, 5]


def test_a_wrong_name_or_size_is_refused():
    with pytest.raises(ValueError, match="'flip' must be one of none, mirror, mirror_shift"):
        test_time.check("flip", (8, 8, 1))
    with pytest.raises(ValueError, match="at least 2x2 pixels, not 1x8"):
        test_time.views("mirror_shift", np.zeros((2, 1, 8, 1), np.float32))
