"""Autoencoders: networks that give their input back through a narrow middle, here to remove what corrupts it.

    model = build(input_shape=(28, 28, 1))     # images [b, 28, 28, 1] to images [b, 28, 28, 1], float32, -1 to 1

The dense ones are those of "TensorFlow in Action", chapter 4, for images of any shape.
"""

import math

import keras


def build(*, input_shape):
    """Dense 64, 32, 64, ReLU, then as many values as the image has, tanh: 105,392 parameters for 784
    values."""
    return _dense(input_shape, (64, 32, 64), "relu", "tanh", "autoencoder")


def build_sigmoid(*, input_shape):
    """Dense 32, 16, then as many values as the image has, all sigmoid: the book's exercise, which has 512 of
    them and 25,648 parameters. Its images must lie in 0 to 1."""
    return _dense(input_shape, (32, 16), "sigmoid", "sigmoid", "autoencoder_sigmoid")


def build_convolutional(*, input_shape, interpolation):
    """Convolutions 3x3 of 16 and 8 filters, each with a pool, and back with upsampling; the last tanh.

    interpolation: of the upsampling, "nearest" or "bilinear". Where a side does not divide by 4, what the
    pools added at its end is cut off again.
    """
    images = keras.Input(input_shape, name="image")
    x = images
    for number, filters in (1, 16), (2, 8):
        x = _convolution(x, filters, number)
        x = keras.layers.MaxPooling2D(2, padding="same", name=f"pool{number}")(x)
    for number, filters in (3, 8), (4, 16):
        x = _convolution(x, filters, number)
        x = keras.layers.UpSampling2D(2, interpolation=interpolation, name=f"up{number}")(x)
    beyond = [(0, int(grown) - size) for grown, size in zip(x.shape[1:3], input_shape, strict=False)]
    if any(map(any, beyond)):
        x = keras.layers.Cropping2D(beyond, name="crop")(x)
    x = keras.layers.Conv2D(input_shape[-1], 3, padding="same", activation="tanh", dtype="float32", name="image_out")(x)
    return keras.Model(images, x, name=f"autoencoder_conv_{interpolation}")


def _convolution(x, filters, number):
    return keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{number}")(x)


def _dense(input_shape, hidden, activation, last, name):
    images = keras.Input(input_shape, name="image")
    x = keras.layers.Flatten(name="flatten")(images)
    for number, units in enumerate(hidden, start=1):
        x = keras.layers.Dense(units, activation=activation, name=f"dense{number}")(x)
    x = keras.layers.Dense(math.prod(input_shape), activation=last, dtype="float32", name=f"dense{len(hidden) + 1}")(x)
    return keras.Model(images, keras.layers.Reshape(input_shape, dtype="float32", name="image_out")(x), name=name)
