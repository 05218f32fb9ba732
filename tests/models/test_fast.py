"""The speed-run network: whitening, first weights, activation."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from models import fast, registry


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return registry.build("cifar10_fast", input_shape=(32, 32, 3), classes=10)


def images(count):
    """Neighbouring pixels and channels that resemble each other."""
    values = np.random.default_rng(0).normal(size=(count, 32, 32, 3)).astype("f")
    return values + np.roll(values, 1, 2) + values.mean(-1, keepdims=True)


def test_the_first_layer_whitens(model):
    """Second moments of its outputs are those of independent directions, and their opposites.

    Mutations: rows and columns of a patch exchanged; directions not divided by their deviation; one sign alone."""
    examples = images(600)
    registry.first_weights("cifar10_fast", model, examples)
    layer = model.get_layer(fast.WHITEN)
    found = layer(tf.constant(examples)).numpy().reshape(-1, 24) / fast.SLOPE
    np.testing.assert_allclose(found[:, :12], -found[:, 12:], atol=1e-5)
    np.testing.assert_allclose(found[:, :12].T @ found[:, :12] / len(found), np.eye(12), atol=0.02)
    assert not layer.kernel.trainable and layer.bias.trainable
    before = layer.kernel.numpy()
    registry.first_weights("cifar10_fast", model, examples)
    np.testing.assert_array_equal(layer.kernel.numpy(), before)


def test_the_gelu_is_the_sigmoid_form_and_its_gradient():
    """Mutation: 2 - p read as 1 - p."""
    x = tf.linspace(-6.0, 6.0, 97)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        ours, plain = fast.scaled_gelu(fast.SLOPE * x) / fast.GAIN, x * tf.sigmoid(1.702 * x)
    np.testing.assert_allclose(ours, plain, atol=1e-6)
    np.testing.assert_allclose(tape.gradient(ours, x), tape.gradient(plain, x), atol=1e-5)
    assert float(tf.reduce_max(tf.abs(ours - tf.nn.gelu(x)))) < 0.021


def test_first_filters_hand_on_their_input():
    """Mutation: the middle of the kernel missed."""
    x = images(1)
    for inputs, filters in (3, 8), (3, 2):
        kernel = np.asarray(fast.Identity(seed=1)((3, 3, inputs, filters), "float32"))
        found = tf.nn.conv2d(x, kernel, 1, "SAME").numpy()
        known = min(inputs, filters)
        np.testing.assert_allclose(found[..., :known], x[..., :known], atol=1e-5)
        if filters > inputs:
            rest = kernel[..., inputs:]
            assert rest.std() == pytest.approx(1 / np.sqrt(3 * 9 * inputs), rel=0.2)


def test_size_and_logits(model):
    """Mutation: the head not scaled down."""
    assert model.count_params() == 1_973_944
    assert np.abs(model(images(8)).numpy()).mean() < 3
