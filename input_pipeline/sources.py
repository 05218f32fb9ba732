"""Reading examples by index: the protocol of every data source, and the source that is held in memory.

A source knows nothing of order, batches or distortions. `read` is called inside a `tf.data` map, hence in a
graph, with the indices that one worker needs; it returns whole, undistorted examples.

    source = sources.Arrays(images, labels, classes=("cat", "dog"))
    source.read(tf.constant([3, 1], tf.int64))   # {"input": uint8 [2,h,w,c], "label": int32 [2]}
"""

from typing import Protocol

import numpy as np
import tensorflow as tf


class Source(Protocol):
    """What the pipeline asks of a data set: a length, a shape, class names, and examples by index."""

    input_shape: tuple[int, int, int]  # height, width, channels
    classes: tuple[str, ...]  # class names; a label is an index into them

    def __len__(self) -> int:
        """How many examples there are; indices run from 0 to len - 1."""

    def read(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """{"input": any number type [b, h, w, c], "label": int32 [b]} of `indices`, int64 [b]."""


class Arrays:
    """Examples held in memory: images [n, h, w, c] of any number type, labels [n], as numpy arrays.

    Raises ValueError, naming `name`, where the arrays do not fit each other or a label names no class.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], *,
                 name: str = "data"):
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(f"{name}: images {images.shape} and labels {labels.shape} must be "
                             "[n, height, width, channels] and [n]")
        if len(labels) == 0:
            raise ValueError(f"{name}: no examples")
        outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        if len(outside):
            raise ValueError(f"{name}: label {labels[outside[0]]} of example {outside[0]} names no class; "
                             f"labels must be 0..{len(classes) - 1}")
        # Tensors, not arrays: a map captures them by reference, where an array would become a constant in
        # its graph (which may not exceed 2 GB, and is copied). On the CPU, where the input runs.
        with tf.device("CPU:0"):
            self._images = tf.constant(images)
            self._labels = tf.constant(labels, tf.int32)
        self.input_shape = tuple(int(size) for size in images.shape[1:])
        self.classes = tuple(classes)

    def __len__(self) -> int:
        return int(self._labels.shape[0])

    def read(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """Images and labels of `indices`, int64 [b]; see `Source.read`."""
        return {"input": tf.gather(self._images, indices), "label": tf.gather(self._labels, indices)}
