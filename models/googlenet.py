"""GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842) for photos, and a form for small images.

    model = build(input_shape=(224, 224, 3), classes=1000)         # logits [b, 1000]
    model = build_small(input_shape=(32, 32, 3), classes=10)

Without the two auxiliary classifiers, which the paper uses in training only and found to matter little.
"""

import keras

from models import layers, parts

# The paper's table 1: filters of 1x1; 3x3's reduction and 3x3; 5x5's reduction and 5x5; the pool's projection.
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def build(*, input_shape, classes):
    """GoogLeNet: 6,998,552 parameters for 3 channels and 1,000 classes."""
    def convolution(x, filters, size, name, strides=1):
        return parts.convolution(x, filters, size, strides=strides, name=name)

    def norm(x, name):  # Krizhevsky's constants: the paper names none
        return layers.LocalResponseNormalization(2, bias=2.0, alpha=1e-4, beta=0.75, name=name)(x)

    images = keras.Input(input_shape, name="image")
    x = convolution(images, 64, 7, "conv1", strides=2)
    x = norm(parts.max_pool(x, 3, name="pool1"), "norm1")
    x = convolution(convolution(x, 64, 1, "conv2_reduce"), 192, 3, "conv2")
    x = parts.max_pool(norm(x, "norm2"), 3, name="pool2")
    x = layers.Dropout(0.4, name="dropout")(parts.pooled(_inceptions(x, convolution)))
    return keras.Model(images, parts.logits(x, classes), name="googlenet")


def build_small(*, input_shape, classes, sync_batch_norm=True):
    """The same, with a 3x3 convolution in place of 7x7 with stride 2, batch normalisation after every
    convolution in place of local response normalisation, and no dropout: so deep a plain network starts to
    learn too slowly for a first epoch."""
    def convolution(x, filters, size, name, strides=1):
        return parts.normalized(x, filters, size, strides=strides, name=name, sync_batch_norm=sync_batch_norm)

    images = keras.Input(input_shape, name="image")
    x = parts.max_pool(convolution(images, 64, 3, "conv1"), 3, name="pool1")
    x = convolution(convolution(x, 64, 1, "conv2_reduce"), 192, 3, "conv2")
    x = parts.pooled(_inceptions(parts.max_pool(x, 3, name="pool2"), convolution))
    return keras.Model(images, parts.logits(x, classes), name="googlenet_small")


def _inceptions(x, convolution):
    """The nine modules, with a pool before 4a and before 5a."""
    for name, (narrow, reduce3, wide3, reduce5, wide5, projection) in INCEPTIONS.items():
        if name in ("4a", "5a"):
            x = parts.max_pool(x, 3, name=f"pool{int(name[0]) - 1}")
        name = f"inception{name}"
        ways = [
            convolution(x, narrow, 1, f"{name}_1x1"),
            convolution(convolution(x, reduce3, 1, f"{name}_3x3_reduce"), wide3, 3, f"{name}_3x3"),
            convolution(convolution(x, reduce5, 1, f"{name}_5x5_reduce"), wide5, 5, f"{name}_5x5"),
            convolution(parts.max_pool(x, 3, strides=1, name=f"{name}_pool"), projection, 1, f"{name}_projection"),
        ]
        x = keras.layers.Concatenate(name=name)(ways)
    return x
