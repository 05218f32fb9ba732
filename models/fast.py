"""The network of CIFAR-10 speed runs: whitened 2x2 patches, three groups of two convolutions, no residual connections.

    model = build(input_shape=(32, 32, 3), classes=10)
    first_weights(model, images)        # images as the network sees them in training, undistorted

After "94% on CIFAR-10 in 3.29 seconds on a single GPU" (Jordan 2024, arXiv:2404.00498) and its successor with Muon. The
first layer's filters are the directions in which 2x2 patches of the training images differ, each scaled to unit
variance, and their opposites; they never learn. A group is convolution, 2x2 maximum, norm, GELU, convolution, norm,
GELU, and begins as the identity on its first channels. The logits are scaled down, so that the head can start large.
"""
import math

import keras
import numpy as np
import tensorflow as tf

from models import layers
from models.convolution import Conv2D

WIDTHS = (64, 256, 256)
PATCH = 2  # side of a whitened patch
PATCH_IMAGES = 5000  # whose patches are looked at
LEAST_VARIANCE = 5e-4  # added to each direction's, or noise would be blown up
WHITEN = "whiten"  # the layer's name

# GELU as x sigmoid(1.702 x) (Hendrycks and Gimpel 2016, arXiv:1606.08415) is u (1 + tanh(u)) / 1.702 at u = 0.851 x. Norms
# and the whitening give u, and the next norm, or the head, takes back the 1.702: no operation is spent on constants.
SLOPE = 0.851
GAIN = 2 * SLOPE


def build(*, input_shape, classes, sync_batch_norm=True):
    """[b, h, w, 3] to logits [b, classes]; h and w at least 9. 1,973,944 parameters for (32, 32, 3) and 10 classes."""
    def norm(x, name):
        return layers.BatchNormalization(momentum=0.6, epsilon=1e-12, scale=False, gain=SLOPE,
                                         synchronized=sync_batch_norm, name=name)(x)

    images = keras.Input(input_shape, name="images")
    x = gelu(Whitening(name=WHITEN)(images), "whiten_gelu")
    for group, width in enumerate(WIDTHS, 1):
        for half, name in enumerate((f"conv{group}a", f"conv{group}b")):
            x = Conv2D(width, 3, padding="same", use_bias=False, kernel_initializer=Identity(), even=not half, name=name)(x)
            if not half:
                x = keras.layers.MaxPooling2D(2, name=f"pool{group}")(x)
            x = gelu(norm(x, f"{name}_norm"), f"{name}_gelu")
    x = keras.layers.GlobalMaxPooling2D(name="pool")(x)
    head = keras.layers.Dense(classes, use_bias=False, dtype="float32", name="logits",
                              kernel_initializer=keras.initializers.RandomUniform(-math.sqrt(3), math.sqrt(3)))
    scale = 1 / (WIDTHS[-1] * GAIN)
    return keras.Model(images, keras.layers.Rescaling(scale, dtype="float32", name="scaled_logits")(head(x)))


def first_weights(model, images):
    """Sets the whitening filters from images float32 [n, h, w, c], as the network sees them: the same on every machine.

    Reckoned in float64, so that the float32 weights do not hang on the order of a sum.
    """
    patches = np.lib.stride_tricks.sliding_window_view(np.asarray(images), (PATCH, PATCH), axis=(1, 2))
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, PATCH * PATCH * images.shape[-1])  # [n, row column channel]
    size = patches.shape[1]
    moments = np.zeros((size, size))
    for part in np.array_split(patches, -(-len(patches) // 100_000)):
        moments += part.T.astype(np.float64) @ part.astype(np.float64)
    variances, directions = np.linalg.eigh(moments / len(patches))
    # An eigenvector's sign is the library's choice: its largest part is positive here.
    directions *= np.sign(directions[np.abs(directions).argmax(0), np.arange(size)])
    filters = directions / np.sqrt(variances + LEAST_VARIANCE)
    kernel = model.get_layer(WHITEN).kernel
    kernel.assign(SLOPE * np.concatenate([filters, -filters], 1).reshape(kernel.shape))


class Identity(keras.initializers.Initializer):
    """A convolution that hands on its first channels; where it has more filters than inputs, the rest are uniform in
    +-1 / sqrt(inputs of a filter). Kernels [h, w, in, out]."""

    def __init__(self, seed=None):
        self._rest = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed=seed)

    def __call__(self, shape, dtype=None):
        height, width, inputs, filters = shape
        same = np.zeros(shape, np.float32)
        known = np.arange(min(inputs, filters))
        same[height // 2, width // 2, known, known] = 1
        drawn = self._rest(shape, dtype)
        return keras.ops.where(np.arange(filters) < len(known), keras.ops.cast(same, dtype), drawn)


class Whitening(keras.layers.Layer):
    """A convolution over PATCH x PATCH pixels, VALID, to both signs of every direction; only its bias learns."""

    kernel_size, strides, padding = PATCH, 1, "valid"  # for `shrinking`

    def build(self, input_shape):
        filters = 2 * PATCH * PATCH * input_shape[-1]
        self.kernel = self.add_weight(name="kernel", shape=(PATCH, PATCH, input_shape[-1], filters), trainable=False,
                                      initializer=keras.initializers.Orthogonal())
        self.bias = self.add_weight(name="bias", shape=(filters,), initializer="zeros")

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return batch, height - PATCH + 1, width - PATCH + 1, 2 * PATCH * PATCH * channels

    def call(self, inputs):
        return tf.nn.bias_add(tf.nn.conv2d(inputs, self.kernel, 1, "VALID"), self.bias)


def gelu(x, name):
    """GAIN times the GELU of x / SLOPE, elementwise."""
    return keras.layers.Activation(scaled_gelu, name=name)(x)


@tf.custom_gradient
def scaled_gelu(u):
    """u (1 + tanh(u)). TensorFlow's own GELU took five times as long in bfloat16 on a CPU."""
    p = 1 + tf.tanh(u)
    y = u * p

    def gradient(dy):
        return dy * (p + y * (2 - p))

    return y, gradient
