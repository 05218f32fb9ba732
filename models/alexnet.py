"""AlexNet (Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks") for
photos, and a form for small images.

    model = build(input_shape=(227, 227, 3), classes=1000)         # logits [b, 1000]
    model = build_small(input_shape=(32, 32, 3), classes=10)
"""

import keras

from models import layers, parts


def build(*, input_shape, classes):
    """Five convolutions and three dense layers: 62,378,344 parameters for 227x227x3 and 1,000 classes.

    On one device: the paper's network is cut in two for two GPUs, so that half of the connections of the
    second, fourth and fifth convolution are missing (60,965,224 parameters). A border of three zeros gives
    images of 224x224 the sizes that the paper has of 227x227 (55, 27, 13, 6); 227 itself gives these too.
    """
    images = keras.Input(input_shape, name="image")
    x = keras.layers.ZeroPadding2D(((1, 2), (1, 2)), name="border")(images)
    x = _convolution(x, 96, 11, 1, strides=4, padding="valid")
    x = _norm(x, 1)
    x = _norm(_convolution(x, 256, 5, 2), 2)
    x = _convolution(_convolution(x, 384, 3, 3), 384, 3, 4)
    x = _convolution(x, 256, 3, 5)
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool5")(x)
    return _dense(images, x, 4096, classes, "alexnet")


def build_small(*, input_shape, classes):
    """The same, smaller: 3x3 convolutions of 64, 192, 384, 256, 256 filters, pools of 2 after the first,
    second and fifth, and dense layers of 1,024: 4,361,034 parameters for 32x32x3 and 10 classes."""
    images = keras.Input(input_shape, name="image")
    x = _convolution(images, 64, 3, 1, strides=2)
    x = parts.max_pool(_norm(x, 1, pool=False), 2, name="pool1")
    x = parts.max_pool(_norm(_convolution(x, 192, 3, 2), 2, pool=False), 2, name="pool2")
    x = _convolution(_convolution(x, 384, 3, 3), 256, 3, 4)
    x = parts.max_pool(_convolution(x, 256, 3, 5), 2, name="pool5")
    return _dense(images, x, 1024, classes, "alexnet_small")


def _convolution(x, filters, size, number, **options):
    return parts.convolution(x, filters, size, name=f"conv{number}", **options)


def _norm(x, number, pool=True):
    """Local response normalisation with the paper's constants, and its overlapping pool."""
    x = layers.LocalResponseNormalization(2, bias=2.0, alpha=1e-4, beta=0.75, name=f"norm{number}")(x)
    return keras.layers.MaxPooling2D(3, strides=2, name=f"pool{number}")(x) if pool else x


def _dense(images, x, units, classes, name):
    x = keras.layers.Flatten(name="flatten")(x)
    for number in (6, 7):
        x = parts.dense(x, units, name=f"dense{number}")
        x = layers.Dropout(0.5, name=f"dropout{number}")(x)
    return keras.Model(images, parts.logits(x, classes), name=name)
