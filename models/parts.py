"""What several families of networks are made of: a normalised convolution, the head, the size that counts as
small.

    x = normalized(x, 64, 3, name="conv1", sync_batch_norm=True)     # convolution, batch normalisation, ReLU
    return keras.Model(images, logits(pooled(x), classes))

Images are [b, h, w, c]. Kernels in front of a ReLU are drawn as in He et al. 2015 (arXiv:1502.01852).
"""

import keras

from models import layers
from models.convolution import Conv2D

SMALL = 64  # images with a side below it keep their resolution in the first layers


def is_small(input_shape):
    """Whether images of `input_shape` (h, w, c) would be left with next to nothing by a stem for large
    photos."""
    return min(input_shape[:2]) < SMALL


def convolution(x, filters, size, *, name, strides=1, padding="same", activation="relu"):
    """A convolution with bias and, in the same operation, its activation."""
    return Conv2D(filters, size, strides=strides, padding=padding, activation=activation, kernel_initializer="he_normal",
                  name=name)(x)


def normalized(x, filters, size, *, name, sync_batch_norm, strides=1, activation="relu"):
    """A convolution, SAME, batch normalisation (momentum 0.9, epsilon 1e-5) and the activation (None: none).

    The convolution has no bias: the normalisation's would take it back. Layers: name, name_norm, name_relu.
    """
    x = Conv2D(filters, size, strides=strides, padding="same", use_bias=False, kernel_initializer="he_normal", name=name)(x)
    x = norm(x, name=f"{name}_norm", sync_batch_norm=sync_batch_norm)
    return keras.layers.Activation(activation, name=f"{name}_{activation}")(x) if activation else x


def norm(x, *, name, sync_batch_norm):
    """Batch normalisation with momentum 0.9 and epsilon 1e-5: torchvision's, written as Keras counts."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=sync_batch_norm, name=name)(x)


def max_pool(x, size, *, name, strides=2):
    """The largest of size x size, SAME."""
    return keras.layers.MaxPooling2D(size, strides=strides, padding="same", name=name)(x)


def pooled(x):
    """The mean over all positions: [b, h, w, c] to [b, c]."""
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


def dense(x, units, *, name, activation="relu"):
    """A fully connected layer with its activation."""
    return keras.layers.Dense(units, activation=activation, kernel_initializer="he_normal", name=name)(x)


def logits(x, classes):
    """The last layer, [b, units] to [b, classes]: float32 under every dtype policy, so that the loss sees no
    rounding."""
    return keras.layers.Dense(classes, dtype="float32", name="logits")(x)
