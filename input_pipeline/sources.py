"""Reading examples by index: the protocol of every data source, the source held in memory, the one of image files.

A source knows nothing of order, batches or distortions. `read` is called inside a `tf.data` map, hence in a
graph, with the indices that one worker needs; it returns whole, undistorted examples. Where every example takes
time, as a file to be decoded does, a source is a SlowSource, and the pipeline calls its halves in many threads.

    source = sources.Arrays(images, labels, classes=("cat", "dog"))
    source.read(tf.constant([3, 1], tf.int64))   # {"input": uint8 [2,h,w,c], "label": int32 [2]}
"""

import os
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from input_pipeline import images, storage

MAX_FILE_BYTES = 1 << 28  # of an image file that is read over the network


class Source(Protocol):
    """What the pipeline asks of a data set: a length, a shape, class names, and examples by index."""

    input_shape: tuple[int, ...]  # height, width, channels of an image; past, 1 of a series
    classes: tuple[str, ...]  # class names; a label is an index into them

    def __len__(self) -> int:
        """How many examples there are; indices run from 0 to len - 1."""

    def read(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """{"input": any number type [b, *input_shape], "label": int32 [b]} of `indices`, int64 [b].

        A series has "target", float32 [b, horizon], instead of "label".
        """


@runtime_checkable
class SlowSource(Source, Protocol):
    """A source whose examples are decoded one by one, each of which may turn out to be unreadable."""

    def fetch(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """What `decode_one` needs of each of `indices`, int64 [b], and "label": tensors [b]."""

    def decode_one(self, fetched: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One example, without the first dimension of `read`, of static shapes, from one row that `fetch` gave."""

    def find_broken(self, indices: Iterable[int]) -> tuple[str, str] | None:
        """The first of `indices` that cannot be read, as (where it lies, why not); None where all can.

        For words after the other two have failed; takes as long as reading them.
        """


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


class Files:
    """Image files in `folder`, read when they are needed: `names` bytes [n] below it, `labels` int32 [n].

    Images become squares: uint8 [image_size, image_size, 3], by `images.decode_square`.
    """

    def __init__(self, folder: str, names: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], *,
                 image_size: int):
        with tf.device("CPU:0"):
            self._names, self._labels = tf.constant(names), tf.constant(labels, tf.int32)
        self._folder = os.fsencode(os.path.join(folder, ""))
        self._remote = storage.is_remote(folder)
        self.input_shape = (image_size, image_size, 3)
        self.classes = tuple(classes)

    def __len__(self) -> int:
        return int(self._labels.shape[0])

    def path(self, index: int) -> str:
        """Where example `index` lies."""
        return os.fsdecode(self._folder + self._names[index].numpy())

    def fetch(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """The paths, or the contents of files at gs://, and labels of `indices`; see `SlowSource`."""
        paths, labels = self._folder + tf.gather(self._names, indices), tf.gather(self._labels, indices)
        return {"data": contents(paths), "label": labels} if self._remote else {"path": paths, "label": labels}

    def decode_one(self, fetched: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The image in the file at one "path"; see `SlowSource`."""
        data = fetched["data"] if self._remote else tf.io.read_file(fetched["path"])
        image = images.decode_square(data, self.input_shape[0])
        return {"input": image, "label": fetched["label"]}

    def read(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """Images and labels of `indices`, int64 [b]; see `Source.read`. For a few."""
        return tf.map_fn(self.decode_one, self.fetch(indices), fn_output_signature={
            "input": tf.TensorSpec(self.input_shape, tf.uint8), "label": tf.TensorSpec([], tf.int32)})

    def find_broken(self, indices: Iterable[int]) -> tuple[str, str] | None:
        """The first of the files `indices` that cannot be read; see `SlowSource`."""
        for index in indices:
            path = self.path(int(index))
            try:
                with storage.open_file(path) as file:
                    images.check_square(file.read(), self.input_shape[0])
            except OSError as error:
                return path, error.strerror or str(error)
            except images.Unreadable as error:
                return path, str(error)
        return None


def contents(paths: tf.Tensor, offsets: tf.Tensor | None = None, lengths: tf.Tensor | None = None) -> tf.Tensor:
    """The contents of the files at `paths`, strings [b] of addresses at gs://, read together; or of each the bytes
    `offsets` to `offsets + lengths` - 1."""
    def read(paths, offsets, lengths):
        ranges = zip(paths.tolist(), offsets.tolist(), lengths.tolist())
        try:
            parts = storage.read_ranges([(os.fsdecode(path), start, start + length) for path, start, length in ranges])
        except ConnectionError:
            raise
        except OSError as error:  # to TensorFlow, an argument that is wrong; find_broken says which
            raise ValueError(f"{error.filename}: {error.strerror}") from None
        return np.array(parts, object)

    if offsets is None:
        offsets, lengths = tf.zeros_like(paths, tf.int64), tf.fill(tf.shape(paths), tf.constant(MAX_FILE_BYTES, tf.int64))
    found = tf.numpy_function(read, [paths, offsets, lengths], tf.string, stateful=False)
    return tf.ensure_shape(found, paths.shape)
