"""Small networks for the flower photos, trained from scratch: those of the codelab "Keras on TPU".

    model = build(input_shape=(192, 192, 3), classes=5)     # images [b, 192, 192, 3] to logits [b, 5], float32

Kernels are drawn as there, by Keras's default.
"""

import keras

from models import parts


def build(*, input_shape, classes):
    """3x3 convolutions of 16, 30, 60, 90, 110, 130 filters, a pool before each of the last four, then the
    mean over all positions, dense 90: 300,033 parameters for 3 channels and 5 classes, whatever the size."""
    images = keras.Input(input_shape, name="image")
    x = _convolution(_convolution(images, 16, 3, 1), 30, 3, 2)
    for number, filters in enumerate((60, 90, 110, 130), start=3):
        x = _convolution(_pool(x, number - 1), filters, 3, number)
    x = keras.layers.Dense(90, activation="relu", name="dense7")(parts.pooled(x))
    return keras.Model(images, parts.logits(x, classes), name="flowers_cnn")


def build_flatten(*, input_shape, classes):
    """3x3 convolutions of 24, 24, pool, 12, pool, 6, and the last layer on all that is left of the image."""
    images = keras.Input(input_shape, name="image")
    x = _convolution(_convolution(images, 24, 3, 1), 24, 3, 2)
    x = _convolution(_pool(x, 2), 12, 3, 3)
    x = _convolution(_pool(x, 3), 6, 3, 4)
    return _flattened(images, x, classes, "flowers_cnn_flatten")


def build_1x1(*, input_shape, classes):
    """Four times 3x3 x32, 1x1 x32 and a pool; then 3x3 x16, 1x1 x8, and the last layer on all that is
    left."""
    images = x = keras.Input(input_shape, name="image")
    for number in range(1, 8, 2):
        x = _convolution(_convolution(x, 32, 3, number), 32, 1, number + 1)
        x = _pool(x, number + 1)
    x = _convolution(_convolution(x, 16, 3, 9), 8, 1, 10)
    return _flattened(images, x, classes, "flowers_cnn_1x1")


def build_dense(*, input_shape, classes):
    """Dense layers alone: 500, 50."""
    images = keras.Input(input_shape, name="image")
    x = keras.layers.Flatten(name="flatten")(images)
    x = keras.layers.Dense(500, activation="relu", name="dense1")(x)
    x = keras.layers.Dense(50, activation="relu", name="dense2")(x)
    return keras.Model(images, parts.logits(x, classes), name="flowers_dense")


def _convolution(x, filters, size, number):
    return keras.layers.Conv2D(filters, size, padding="same", activation="relu", name=f"conv{number}")(x)


def _pool(x, number):
    """Halves the image; an odd last row or column is left out, as there."""
    return keras.layers.MaxPooling2D(2, name=f"pool{number}")(x)


def _flattened(images, x, classes, name):
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.Model(images, parts.logits(x, classes), name=name)
