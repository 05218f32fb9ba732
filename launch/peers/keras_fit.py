"""The CIFAR-10 tutorial's network and distortions under Keras `fit`, as its documentation would have them.

    python -m launch.peers.keras_fit mixed_bfloat16       # then a number of steps a line; see launch.benches.answering

Keras's own layers, optimizer, moving averages and metric; distortions one example at a time in `Dataset.map`. The images
are made up: how fast they are learnt from does not hang on what they show.
"""
from launch.benches import answering

out = answering.channel()

import sys
import time

import keras
import numpy as np
import tensorflow as tf

BATCH = 128
layers = keras.layers
keras.mixed_precision.set_global_policy(sys.argv[1] if len(sys.argv) > 1 else "float32")
random = np.random.default_rng(0)
images = random.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
labels = random.integers(0, 10, 50_000).astype(np.int32)


class Normalization(layers.Layer):
    """TensorFlow's local response normalisation, which has no bfloat16 kernel on CPUs."""

    def call(self, x):
        y = tf.nn.local_response_normalization(tf.cast(x, tf.float32), 4, bias=1.0, alpha=0.001 / 9, beta=0.75)
        return tf.cast(y, x.dtype)


def distort(image, label):
    """One example's distortions."""
    image = tf.cast(tf.image.random_crop(image, (24, 24, 3)), tf.float32)
    image = tf.image.random_brightness(tf.image.random_flip_left_right(image), 63)
    return tf.image.per_image_standardization(tf.image.random_contrast(image, 0.2, 1.8)), label


def normal(deviation):
    """A kernel's first values."""
    return keras.initializers.TruncatedNormal(stddev=deviation)


def conv(bias):
    """A convolution."""
    return layers.Conv2D(64, 5, padding="same", activation="relu", kernel_initializer=normal(0.05),
                         bias_initializer=keras.initializers.Constant(bias))


def dense(units):
    """A dense layer with decay."""
    return layers.Dense(units, activation="relu", kernel_initializer=normal(0.04),
                        kernel_regularizer=keras.regularizers.L2(0.002))


data = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(20_000).repeat()
data = data.map(distort, tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)
network = keras.Sequential([
    keras.Input((24, 24, 3)), conv(0.0), layers.MaxPooling2D(3, 2, padding="same"), Normalization(),
    conv(0.1), Normalization(), layers.MaxPooling2D(3, 2, padding="same"), layers.Flatten(),
    dense(384), dense(192), layers.Dense(10, dtype="float32")])
network.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9999),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
network.fit(data, steps_per_epoch=20, verbose=0)


def measure(steps: int) -> dict:
    """Images a second of an epoch of so many steps."""
    start = time.perf_counter()
    network.fit(data, steps_per_epoch=steps, verbose=0)
    return {"value": steps * BATCH / (time.perf_counter() - start)}


answering.serve(measure, out)
