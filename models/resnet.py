"""Residual networks (He et al. 2015, arXiv:1512.03385) of any depth.

    model = build(input_shape=(224, 224, 3), classes=1000, blocks=(2, 2, 2, 2))     # ResNet-18, logits [b, 1000]

Convolutions have no bias, a shortcut that changes shape is a 1x1 convolution with normalisation (option B),
strides are those of the paper's blocks, but a bottleneck strides in its 3x3 convolution, as every later
implementation does.
"""

import keras

from models import parts


def build(*, input_shape, classes, blocks, bottleneck=False, sync_batch_norm=True):
    """The residual network with blocks[k] blocks of 64 * 2^k filters in stage k, each stage at half the
    resolution.

    blocks: (2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) ResNet-34 or, with bottleneck, ResNet-50. bottleneck:
    blocks of 1x1, 3x3, 1x1 that widen to four times their filters. Images with a side below 64 keep their
    resolution up to the second
    stage: a 3x3 convolution and no pooling, in place of 7x7 with stride 2 and a pooling.
    """
    images = keras.Input(input_shape, name="image")
    if parts.is_small(input_shape):
        x = parts.normalized(images, 64, 3, name="conv1", sync_batch_norm=sync_batch_norm)
    else:
        x = parts.normalized(images, 64, 7, strides=2, name="conv1", sync_batch_norm=sync_batch_norm)
        x = parts.max_pool(x, 3, name="pool1")
    block = _bottleneck if bottleneck else _basic
    for stage, count in enumerate(blocks):
        for number in range(count):
            strides = 2 if stage > 0 and number == 0 else 1
            x = block(x, 64 * 2**stage, strides, f"conv{stage + 2}_{number + 1}", sync_batch_norm)
    return keras.Model(images, parts.logits(parts.pooled(x), classes), name="resnet")


def _basic(x, filters, strides, name, sync):
    """Two 3x3 convolutions around a shortcut."""
    y = parts.normalized(x, filters, 3, strides=strides, name=f"{name}a", sync_batch_norm=sync)
    y = parts.normalized(y, filters, 3, name=f"{name}b", sync_batch_norm=sync, activation=None)
    return _joined(x, y, strides, name, sync)


def _bottleneck(x, filters, strides, name, sync):
    """1x1, 3x3 and a 1x1 convolution to four times the filters, around a shortcut."""
    y = parts.normalized(x, filters, 1, name=f"{name}a", sync_batch_norm=sync)
    y = parts.normalized(y, filters, 3, strides=strides, name=f"{name}b", sync_batch_norm=sync)
    y = parts.normalized(y, 4 * filters, 1, name=f"{name}c", sync_batch_norm=sync, activation=None)
    return _joined(x, y, strides, name, sync)


def _joined(x, y, strides, name, sync):
    if x.shape[-1] != y.shape[-1] or strides > 1:
        x = parts.normalized(x, y.shape[-1], 1, strides=strides, name=f"{name}_shortcut", sync_batch_norm=sync,
                             activation=None)
    return keras.layers.Activation("relu", name=f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([y, x]))
