"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition", figure 2).

    model = build(input_shape=(28, 28, 1), classes=10)     # images [b, 28, 28, 1] to logits [b, 10], float32
"""

import keras

from models import parts


def build(*, input_shape, classes):
    """Convolutions 6 and 16 of 5x5 with average pooling, dense 120 and 84, tanh; 61,706 parameters for
    28x28x1.

    As it is built today: the second convolution sees all six maps (the paper's sees 3 to 6 of them), pooling
    has no weights, and the last layer gives logits. The paper's 32x32 are MNIST's 28x28 with a border; here
    the first convolution adds it (SAME) to images smaller than 32.
    """
    images = keras.Input(input_shape, name="image")
    border = "same" if min(input_shape[:2]) < 32 else "valid"
    x = keras.layers.Conv2D(6, 5, padding=border, activation="tanh", name="conv1")(images)
    x = keras.layers.AveragePooling2D(2, name="pool2")(x)
    x = keras.layers.Conv2D(16, 5, activation="tanh", name="conv3")(x)
    x = keras.layers.AveragePooling2D(2, name="pool4")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(120, activation="tanh", name="dense5")(x)
    x = keras.layers.Dense(84, activation="tanh", name="dense6")(x)
    return keras.Model(images, parts.logits(x, classes), name="lenet5")
