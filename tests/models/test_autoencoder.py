"""Autoencoders give an image of their input's shape back, in the range of their last activation; upsampling
is what it is called."""

import keras
import numpy as np
import pytest

from models import registry

NAMES = [name for name, network in registry.NETWORKS.items() if network.task == "reconstruction"]
RANGE = {"autoencoder_sigmoid": (0, 1)}


@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 7, 3), (32, 32, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_output_is_an_image_of_the_inputs_shape(name, shape):
    keras.utils.set_random_seed(0)  # of some weights all outputs are -1
    model = registry.build(name, input_shape=shape)
    images = 50 * np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    outputs = np.asarray(model(images))
    low, high = RANGE.get(name, (-1, 1))
    assert outputs.shape == images.shape and low <= outputs.min() < outputs.max() <= high
    assert outputs.std() > 0.01


def test_hidden_layers_are_the_books():
    names = ("autoencoder", "autoencoder_sigmoid")
    layers = {name: registry.build(name, input_shape=(28, 28, 1)).layers for name in names}
    found = {name: [(layer.units, layer.activation.__name__) for layer in some if hasattr(layer, "units")]
             for name, some in layers.items()}
    assert found == {"autoencoder": [(64, "relu"), (32, "relu"), (64, "relu"), (784, "tanh")],
                     "autoencoder_sigmoid": [(32, "sigmoid"), (16, "sigmoid"), (784, "sigmoid")]}


def test_upsampling_repeats_or_interpolates():
    row = np.array([[0, 4]], np.float32).reshape(1, 1, 2, 1)
    wanted = {"nearest": [0, 0, 4, 4], "bilinear": [0, 1, 3, 4]}
    for interpolation, values in wanted.items():
        model = registry.build(f"autoencoder_conv_{interpolation}", input_shape=(8, 8, 1))
        np.testing.assert_allclose(np.asarray(model.get_layer("up3")(row))[0, 0, :, 0], values)
