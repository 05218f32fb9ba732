"""The estimate is the sum that it says it is, and the advice holds numbers that a user can type."""

import re

import keras
import pytest

from models import memory, registry


def network():
    x = images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.Model(images, keras.layers.Dense(10, dtype="float32", name="logits")(x))


@pytest.mark.parametrize("policy, size", [("float32", 4), ("mixed_bfloat16", 2)])
def test_activations_and_parameters_are_counted(policy, size):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        found = memory.estimate(network())
    finally:
        keras.config.set_dtype_policy(before)
    assert found.activations == 4 * 8 * 8 * 3 + size * (8 * 8 * 4 + 256) + 4 * 10  # the input is float32
    parameters = 9 * 3 * 4 + 4 + 256 * 10 + 10
    assert found.parameters == found.trainable == 4 * parameters
    assert found.total(rows=32) == 16 * parameters + 32 * found.activations


def test_what_does_not_learn_needs_no_gradient():
    model = network()
    model.get_layer("conv").trainable = False
    found = memory.estimate(model)
    assert found.parameters - found.trainable == 4 * (9 * 3 * 4 + 4)
    assert found.weights == found.parameters + 3 * found.trainable


def test_advice_halves_the_batch_and_names_the_largest_layer():
    text = memory.advice(network(), rows=128, replicas=2, grad_accum_steps=2)
    assert "32 rows" in text and "--global_batch_size=64" in text and "--grad_accum_steps=4" in text
    assert "'conv'" in text and "\n" not in text and re.search(r"[0-9.]+ [KMG]iB", text)


def test_advice_is_nothing_that_the_batch_does_not_divide_by():
    assert "--global_batch_size=2)" in memory.advice(network(), rows=6, replicas=2)
    text = memory.advice(network(), rows=2, replicas=2)
    assert "1 rows" in text and "--global_batch_size" not in text and "smaller images" in text


def test_fewer_blocks_and_smaller_images_take_less():
    models = [registry.build("resnet18", input_shape=(side, side, 3), classes=10, blocks=blocks)
              for side, blocks in ((32, (2, 2, 2, 2)), (32, (1, 1, 1, 1)), (16, (1, 1, 1, 1)))]
    sizes = [memory.estimate(model).activations for model in models]
    assert sizes[0] > sizes[1] > 3 * sizes[2]
