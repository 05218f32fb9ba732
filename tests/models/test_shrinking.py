"""An image too small for a network is answered with the layer, its input and the smallest image that would
do.

Mutations that turn these red: strides forgotten on the way back to the image, or the padding; another layer
named.
"""

import re

import keras
import numpy as np
import pytest

from models import registry, shrinking


def book(size, strides=(2, 1, 1)):
    """The first version of the book's network: 9x9, 7x7, 7x7, VALID; of 32x32 images 12, 6 and 0 are left."""
    x = images = keras.Input((size, size, 3))
    for number, (filters, kernel, step) in enumerate(zip((16, 32, 64), (9, 7, 7), strides, strict=True), start=1):
        x = keras.layers.Conv2D(filters, kernel, strides=step, activation="relu", name=f"conv{number}")(x)
    return keras.Model(images, x)


def chain(size, *layers):
    x = images = keras.Input((*size, 3))
    for layer in layers:
        x = layer(x)
    return keras.Model(images, x)


def refusal(make, size):
    with pytest.raises(ValueError) as raised, shrinking.named_layers(input_shape=(*size, 3)):
        make()
    return str(raised.value)


def test_the_books_first_version_is_refused_by_layer_input_and_fix():
    text = refusal(lambda: book(32), (32, 32))
    assert "'conv3'" in text and "7x7" in text and "6x6" in text and "33x33" in text and "32x32" in text
    assert "\n" not in text and "Negative" not in text and "negative" not in text
    with shrinking.named_layers(input_shape=(33, 33, 3)):
        assert book(33).output.shape[1:3] == (1, 1)


CHAINS = {
    "pool": lambda: [keras.layers.MaxPooling2D(3, name="last")],
    "average": lambda: [
        keras.layers.Conv2D(4, 3, padding="same", strides=2), keras.layers.AveragePooling2D(5, name="last")],
    "depthwise": lambda: [keras.layers.DepthwiseConv2D(3, strides=2), keras.layers.DepthwiseConv2D(4, name="last")],
    "dilated": lambda: [keras.layers.MaxPooling2D(2), keras.layers.Conv2D(2, 3, dilation_rate=2, name="last")],
    "padded": lambda: [keras.layers.ZeroPadding2D(2), keras.layers.Conv2D(2, 9, strides=3, name="last")],
    "cropped": lambda: [keras.layers.Cropping2D(1), keras.layers.Conv2D(2, 3, name="last")],
    "grown": lambda: [keras.layers.UpSampling2D(2), keras.layers.Conv2D(2, 7, name="last")],
    "oblong": lambda: [keras.layers.Conv2D(2, (5, 2), strides=(2, 1)), keras.layers.MaxPooling2D((2, 4), name="last")],
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_size_that_is_asked_for_is_the_smallest_that_works(name):
    """Followed from layer to layer it is reached, and one row or one column less is refused again."""
    size = (3, 3) if name == "cropped" else (1, 1)
    for _ in CHAINS[name]():
        try:
            chain(size, *CHAINS[name]())
        except ValueError:
            text = refusal(lambda size=size: chain(size, *CHAINS[name]()), size)
            asked = tuple(map(int, re.search(r"at least (\d+)x(\d+)", text).groups()))
            size = tuple(map(max, size, asked))
    assert min(chain(size, *CHAINS[name]()).output.shape[1:3]) >= 1
    for less in (size[0] - 1, size[1]), (size[0], size[1] - 1):
        refusal(lambda less=less: chain(less, *CHAINS[name]()), less)


@pytest.mark.parametrize("name, smallest", [
    ("lenet5", 12), ("alexnet", 64), ("vgg16_small", 32), ("densenet40", 4), ("flowers_cnn", 16), ("cifar10_fast", 9),
    ("applications/MobileNetV2", 32)])
@pytest.mark.parametrize("much", [False, True])
def test_networks_name_their_smallest_image(name, smallest, much):
    """Also of images that an earlier layer shrinks to nothing. Mutations: what the first layer needs; a layer without its size."""
    below = smallest // 2 if much else smallest - 1
    asked = rf"(layer '\w+' |the network takes no smaller images).* at least {smallest}x{smallest} \(these are {below}x{below}\)"
    with pytest.raises(shrinking.TooSmall, match=asked):
        registry.build(name, input_shape=(below, below, 3), classes=5)
    model = registry.build(name, input_shape=(smallest, smallest, 3), classes=5)
    assert model(np.ones((1, smallest, smallest, 3), np.float32)).shape == (1, 5)


def test_other_errors_pass_through_and_the_traceback_setting_returns():
    for filtered in (True, False):
        (keras.config.enable_traceback_filtering if filtered else keras.config.disable_traceback_filtering)()
        try:
            with pytest.raises(ValueError, match="units"), shrinking.named_layers(input_shape=(8, 8, 3)):
                keras.layers.Dense(-1)
            assert keras.config.is_traceback_filtering_enabled() is filtered
        finally:
            keras.config.enable_traceback_filtering()


class Nothing(keras.layers.Layer):
    """Gives no rows, and no error."""

    def call(self, inputs):
        return inputs[:, :0]


def test_a_layer_that_silently_gives_nothing_is_found():
    model = chain((8, 8), keras.layers.Conv2D(4, 3), Nothing(name="empty"))
    with pytest.raises(ValueError, match="'empty'.*6x6"):
        shrinking.check(model)
