"""A small convolutional network for 8x8 handwritten digits, and one with batch normalisation and dropout.

The first is the embedded default: 1,797 real digits, seconds of training on one CPU. The second holds all
that may differ between one replica and several, and serves the laws.

    model = build(input_shape=(8, 8, 1), classes=10)     # images [b, 8, 8, 1] to logits [b, 10], float32
"""

import keras

from models import layers


def build(*, input_shape, classes):
    """Convolutions of 32, 32, pooling, 64, pooling, dense 64: [b, *input_shape] to float32 [b, classes]."""
    images = keras.Input(input_shape, name="image")
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="conv1")(images)
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2")(x)
    x = keras.layers.MaxPooling2D(2, padding="same", name="pool2")(x)
    x = keras.layers.Conv2D(64, 3, padding="same", activation="relu", name="conv3")(x)
    x = keras.layers.MaxPooling2D(2, padding="same", name="pool3")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(64, activation="relu", name="dense4")(x)
    logits = keras.layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="digits_cnn")


def build_regularized(*, input_shape, classes, sync_batch_norm=True):
    """`build` with batch normalisation after every convolution and dropout before both dense layers; smooth.

    SiLU and average pooling instead of ReLU and max pooling: there a rounding error next to a kink or a tie
    becomes another gradient (with 300,000 activations a batch, about once in 50 steps), which no order of
    summation avoids.
    """

    def convolution(x, filters, number):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = layers.BatchNormalization(momentum=0.9, synchronized=sync_batch_norm, name=f"norm{number}")(x)
        return keras.layers.Activation("silu", name=f"silu{number}")(x)

    images = keras.Input(input_shape, name="image")
    x = convolution(convolution(images, 32, 1), 32, 2)
    x = keras.layers.AveragePooling2D(2, padding="same", name="pool2")(x)
    x = convolution(x, 64, 3)
    x = keras.layers.AveragePooling2D(2, padding="same", name="pool3")(x)
    x = layers.Dropout(0.2, name="dropout3")(keras.layers.Flatten(name="flatten")(x))
    x = keras.layers.Dense(64, activation="silu", name="dense4")(x)
    x = layers.Dropout(0.4, name="dropout4")(x)
    logits = keras.layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="digits_cnn_regularized")
