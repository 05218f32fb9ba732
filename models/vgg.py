"""VGG networks (Simonyan and Zisserman 2014, arXiv:1409.1556) for photos, and a form for small images.

    model = build(input_shape=(224, 224, 3), classes=1000, depth=16)         # logits [b, 1000]
    model = build_small(input_shape=(32, 32, 3), classes=10, depth=16)
"""

import keras

from models import layers, parts

# 3x3 convolutions of each stage, before its pool: the paper's configurations D and E.
CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
FILTERS = (64, 128, 256, 512, 512)


def build(*, input_shape, classes, depth):
    """VGG-16 (138,357,544 parameters for 224x224x3 and 1,000 classes) or VGG-19 (143,667,240)."""
    images = keras.Input(input_shape, name="image")
    x = _stages(images, depth, lambda x, filters, name: parts.convolution(x, filters, 3, name=name))
    x = keras.layers.Flatten(name="flatten")(x)
    for number in (1, 2):
        x = parts.dense(x, 4096, name=f"dense{number}")
        x = layers.Dropout(0.5, name=f"dropout{number}")(x)
    return keras.Model(images, parts.logits(x, classes), name=f"vgg{depth}")


def build_small(*, input_shape, classes, depth, sync_batch_norm=True):
    """The same convolutions with batch normalisation, without which so deep a plain network does not start to
    learn, then the mean over all positions (one for 32x32) and the last layer: the usual form for CIFAR-10,
    14,724,042 parameters that learn (VGG-16, 10 classes)."""
    def convolution(x, filters, name):
        return parts.normalized(x, filters, 3, name=name, sync_batch_norm=sync_batch_norm)

    images = keras.Input(input_shape, name="image")
    x = parts.pooled(_stages(images, depth, convolution))
    return keras.Model(images, parts.logits(x, classes), name=f"vgg{depth}_small")


def _stages(x, depth, convolution):
    for stage, (count, filters) in enumerate(zip(CONVOLUTIONS[depth], FILTERS, strict=True), start=1):
        for number in range(1, count + 1):
            x = convolution(x, filters, f"conv{stage}_{number}")
        x = keras.layers.MaxPooling2D(2, name=f"pool{stage}")(x)
    return x
