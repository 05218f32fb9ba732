"""Densely connected networks with bottlenecks and compression, DenseNet-BC (Huang et al. 2016,
arXiv:1608.06993).

    model = build(input_shape=(224, 224, 3), classes=1000, blocks=(6, 12, 24, 16), growth=32)   # DenseNet-121
    model = build(input_shape=(32, 32, 3), classes=10, blocks=(16, 16, 16), growth=12)          # L = 100, k = 12
"""

import keras

from models import parts


def build(*, input_shape, classes, blocks, growth, sync_batch_norm=True):
    """The network with blocks[k] layers in dense block k, each of which adds `growth` maps to all before it.

    A layer is normalisation, ReLU, 1x1 convolution to 4 growth maps, the same with 3x3 to growth maps;
    between two blocks a 1x1 convolution halves the maps and an average pool the resolution. The first
    convolution has 2 growth filters: 3x3 for images with a side below 64, 7x7 with stride 2 and a pool for
    others. Depth L is 2 * sum(blocks) + len(blocks) + 1.
    """
    def norm_relu(x, name):
        x = parts.norm(x, name=f"{name}_norm", sync_batch_norm=sync_batch_norm)
        return keras.layers.Activation("relu", name=f"{name}_relu")(x)

    def convolution(x, filters, size, name, strides=1):
        return keras.layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False,
                                   kernel_initializer="he_normal", name=name)(x)

    images = keras.Input(input_shape, name="image")
    if parts.is_small(input_shape):
        x = convolution(images, 2 * growth, 3, "conv1")
    else:
        x = norm_relu(convolution(images, 2 * growth, 7, "conv1", strides=2), "conv1")
        x = parts.max_pool(x, 3, name="pool1")
    for block, count in enumerate(blocks, start=1):
        if block > 1:
            name = f"transition{block - 1}"
            x = convolution(norm_relu(x, name), x.shape[-1] // 2, 1, name)
            x = keras.layers.AveragePooling2D(2, name=f"{name}_pool")(x)
        for number in range(1, count + 1):
            name = f"block{block}_{number}"
            y = convolution(norm_relu(x, f"{name}a"), 4 * growth, 1, f"{name}a")
            y = convolution(norm_relu(y, f"{name}b"), growth, 3, f"{name}b")
            x = keras.layers.Concatenate(name=name)([x, y])
    x = parts.pooled(norm_relu(x, "last"))
    return keras.Model(images, parts.logits(x, classes), name="densenet")
