"""The network of the TensorFlow CIFAR-10 tutorial, 1,068,298 parameters for 24x24x3 images and 10 classes.

Layer names, initial deviations and biases are the tutorial's. Its deviations are those given to
`truncated_normal_initializer`, which cuts at two of them and does not correct: the weights' own deviation is
0.8796 times as large. Keras's `TruncatedNormal` means the same.

    keras.utils.set_random_seed(1)                         # for repeatable weights
    model = build(input_shape=(24, 24, 3), classes=10)     # images [b, 24, 24, 3] to logits [b, 10], float32
"""

import keras

from models import layers


def build(*, input_shape, classes, head="logits", local="dense"):
    """The tutorial's network as a Functional model; its layers are conv1 ... softmax_linear.

    input_shape: (height, width, channels), any size. Output [b, classes], float32 whatever the dtype policy.
    head: "logits", or "softmax" for probabilities (one more layer, `softmax`, which has no weights).
    local: "dense", 384 and 192 units; or "locally_connected", as in cuda-convnet: 3x3 with 64, then 32
    filters of their own at every position of the pooled maps (6x6 for 24x24 images), SAME.
    """
    normal, constant = keras.initializers.TruncatedNormal, keras.initializers.Constant

    def convolution(name, bias):
        return keras.layers.Conv2D(
            64,
            5,
            padding="same",
            activation="relu",
            kernel_initializer=normal(stddev=0.05),
            bias_initializer=constant(bias),
            name=name,
        )

    def pool(name):
        return keras.layers.MaxPooling2D(3, strides=2, padding="same", name=name)

    def norm(name):
        return layers.LocalResponseNormalization(4, bias=1.0, alpha=0.001 / 9, beta=0.75, name=name)

    images = keras.Input(input_shape, name="image")
    x = norm("norm1")(pool("pool1")(convolution("conv1", 0.0)(images)))
    x = pool("pool2")(norm("norm2")(convolution("conv2", 0.1)(x)))
    weights = {"activation": "relu", "bias_initializer": constant(0.1)}
    if local == "dense":
        x = keras.layers.Flatten(name="flatten")(x)
        for name, units in ("local3", 384), ("local4", 192):
            x = keras.layers.Dense(units, kernel_initializer=normal(stddev=0.04), name=name, **weights)(x)
    elif local == "locally_connected":
        weights["padding"] = "same"
        for name, filters in ("local3", 64), ("local4", 32):
            x = layers.LocallyConnected2D(
                filters, 3, kernel_initializer=normal(stddev=0.04), name=name, **weights
            )(x)
        x = keras.layers.Flatten(name="flatten")(x)
    else:
        raise ValueError(f"local={local!r}: must be 'dense' or 'locally_connected'")
    # float32: 192x10 products cost nothing, and the loss sees logits that were never rounded to bfloat16.
    outputs = keras.layers.Dense(
        classes, kernel_initializer=normal(stddev=1 / 192), dtype="float32", name="softmax_linear"
    )(x)
    if head == "softmax":
        outputs = keras.layers.Softmax(dtype="float32", name="softmax")(outputs)
    elif head != "logits":
        raise ValueError(f"head={head!r}: must be 'logits' or 'softmax'")
    return keras.Model(images, outputs, name="cifar10_tutorial")
