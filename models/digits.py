"""A small convolutional network for 8x8 handwritten digits, plain, with dropout, and with batch normalisation too.

The first is the embedded default: 1,797 real digits, seconds of training on one CPU. The others hold what may differ
between one replica and several, and serve the laws. All are smooth, with SiLU and average pooling: next to the kink of a
ReLU or a tie of a maximum a rounding error becomes another gradient (with 300,000 activations a batch, about once in 50
steps), which no order of summation avoids.

    model = build(input_shape=(8, 8, 1), classes=10)     # images [b, 8, 8, 1] to logits [b, 10], float32
"""

import keras

from models import layers


def build(*, input_shape, classes):
    """Three convolutions, two poolings, a dense layer; input_shape (h, w, c); logits [b, classes] float32."""
    return _network(input_shape, classes, lambda x, number: x, lambda x, rate, number: x, name="digits_cnn")


def build_dropout(*, input_shape, classes):
    """`build` with dropout before both dense layers."""
    return _network(input_shape, classes, lambda x, number: x, _dropout, name="digits_cnn_dropout")


def build_regularized(*, input_shape, classes, sync_batch_norm=True):
    """`build` with dropout, and batch normalisation after every convolution."""
    def norm(x, number):
        return layers.BatchNormalization(momentum=0.9, synchronized=sync_batch_norm, name=f"norm{number}")(x)

    return _network(input_shape, classes, norm, _dropout, bias=False, name="digits_cnn_regularized")


def _dropout(x, rate, number):
    return layers.Dropout(rate, name=f"dropout{number}")(x)


def _network(input_shape, classes, norm, dropout, *, name, bias=True):
    def convolution(x, filters, number):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=bias, name=f"conv{number}")(x)
        return keras.layers.Activation("silu", name=f"silu{number}")(norm(x, number))

    images = keras.Input(input_shape, name="image")
    x = convolution(convolution(images, 32, 1), 32, 2)
    x = keras.layers.AveragePooling2D(2, padding="same", name="pool2")(x)
    x = convolution(x, 64, 3)
    x = keras.layers.AveragePooling2D(2, padding="same", name="pool3")(x)
    x = dropout(keras.layers.Flatten(name="flatten")(x), 0.2, 3)
    x = keras.layers.Dense(64, activation="silu", name="dense4")(x)
    logits = keras.layers.Dense(classes, dtype="float32", name="logits")(dropout(x, 0.4, 4))
    return keras.Model(images, logits, name=name)
