"""The CIFAR-10 network of "TensorFlow in Action", chapter 4, in its form that does not shrink to nothing.

    model = build(input_shape=(32, 32, 3), classes=10)     # images [b, 32, 32, 3], 0 to 255, to logits [b, 10]
"""

import keras

from models import parts


def build(*, input_shape, classes):
    """Convolution 3x3x16 with stride 2, pool 2, 3x3x32, pool 2, dense 64, 32; SAME, ReLU; 40,330 parameters
    for 32x32x3.

    Takes pixels as they are, 0 to 255: the book does not scale them. Kernels are drawn as there, Glorot and
    Bengio 2010 (Keras's default). The book's softmax is part of the loss.
    """
    images = keras.Input(input_shape, name="image")
    relu = {"padding": "same", "activation": "relu"}
    x = keras.layers.Conv2D(16, 3, strides=2, name="conv1", **relu)(images)
    x = parts.max_pool(x, 2, name="pool1")
    x = keras.layers.Conv2D(32, 3, name="conv2", **relu)(x)
    x = parts.max_pool(x, 2, name="pool2")
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(64, activation="relu", name="dense3")(x)
    x = keras.layers.Dense(32, activation="relu", name="dense4")(x)
    return keras.Model(images, parts.logits(x, classes), name="cifar10_book")
