"""The data set `tfrecord`: any folder of TFRecord shards of encoded, labelled images, read in any order.

`--data_dir` is the folder of the shards, as `python -m input_pipeline.prepare --from=... --output=FOLDER` makes it,
or one that somebody else made (see `shards`). Each record is read alone, by its place in the index, when its turn
comes: a set may be much larger than memory. Both of a record's checksums are looked at every time.

    info = tfrecord.describe("/data/flowers-tfrecord")                          # reads the indexes
    source = tfrecord.load("train", "/data/flowers-tfrecord", image_size=192)   # images uint8 [192, 192, 3]

Images become squares (see `images.decode_square`), but for sets whose images all have one size: without
`image_size` these are taken as they are, grey or RGB.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline import description, examples, image_folder, images, record_index, shards, storage
from input_pipeline.datasets import SPLITS, Info, check_split

if TYPE_CHECKING:
    import tensorflow as tf


def facts(*, image_size: int = 0) -> Info:
    """What is known of any set; `image_size`: side of the squares in pixels, 0 for the images' own or 224."""
    return image_folder.folder_facts("tfrecord", image_size=image_size)


def describe(data_dir: str | None = None, **options) -> Info:
    """The facts of the set in `data_dir`, with the options of `facts`. Raises ValueError as `shards.find` does."""
    return _info(_found(data_dir), **options)


def load(split: str, data_dir: str | None = None, **options) -> Records:
    """The source of `split`. Raises ValueError as `shards.find` does."""
    found = _found(data_dir)
    info = _info(found, **options)
    check_split(info, split)
    return Records(found, split, info.input_shape)


def _found(data_dir: str | None) -> shards.Shards:
    if not data_dir:
        raise ValueError("tfrecord: no data_dir is given; give the folder that holds the .tfrecord files")
    return _found_once(storage.absolute(data_dir))


@functools.lru_cache(maxsize=4)
def _found_once(folder: str) -> shards.Shards:
    # A process looks once, so that it reads the records that it has counted.
    return shards.find(folder)


def _info(found: shards.Shards, *, image_size: int = 0) -> Info:
    info = facts(image_size=image_size)
    shape = found.image_shape if found.image_shape and not image_size else info.input_shape
    return dataclasses.replace(
        info, input_shape=shape, classes=found.classes, splits=tuple(s for s in SPLITS if found.counts[s]),
        train_digest=found.train_digest, files=(found.folder,), notes=found.notes,
        **{f"{split}_examples": n for split, n in found.counts.items()})


class Records:
    """The records of one split of a set, by their place in it; see `sources.SlowSource`.

    input_shape: (size, size, 3) for squares, or the set's own image_shape.
    """

    def __init__(self, found: shards.Shards, split: str, input_shape: tuple[int, int, int]):
        import tensorflow as tf

        self.input_shape, self.classes = input_shape, found.classes
        # Of a set whose images all have one size and were stored without loss: nothing to crop or to resize.
        self._exact = input_shape == found.image_shape and found.encoding == "png"
        self._features = (found.image_feature, found.label_feature)
        self._remote = storage.is_remote(found.folder)
        self._paths = [shard.path for shard in found.shards]
        chosen = [np.flatnonzero(part == SPLITS.index(split)) for part in found.splits]
        self._number = np.concatenate(chosen)  # of the record in its shard
        with tf.device("CPU:0"):
            self._path_of = tf.constant(self._paths)
            self._shard = tf.repeat(tf.range(len(chosen)), [len(part) for part in chosen])
            self._offset, self._length = (
                tf.constant(np.concatenate([values[part] for values, part in zip(every, chosen)]))
                for every in ([shard.index.offsets for shard in found.shards],
                              [shard.index.lengths.astype(np.int64) for shard in found.shards]))

    def __len__(self) -> int:
        return len(self._number)

    def place(self, index: int) -> str:
        """Where example `index` lies, in words."""
        return f"{self._paths[self._shard[index]]}, record {self._number[index]}"

    def fetch(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """Where the records of `indices`, int64 [b], lie, or of files at gs:// the records; see `sources.SlowSource`."""
        import tensorflow as tf

        path = tf.gather(self._path_of, tf.gather(self._shard, indices))
        offset, length = tf.gather(self._offset, indices), tf.gather(self._length, indices)
        unknown = {"label": tf.fill(indices.shape, -1)}  # it stands in the record: `decode_one` knows it
        if self._remote:
            from input_pipeline import sources
            frames = sources.contents(path, offset, length + record_index.FRAME_BYTES)
            return {"record": tf.ensure_shape(tf.numpy_function(_opened, [frames], tf.string, stateful=False),
                                              path.shape), **unknown}
        return {"path": path, "offset": offset, "length": length, **unknown}

    def decode_one(self, fetched: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Image and label of one record; see `sources.SlowSource`."""
        import tensorflow as tf

        record = fetched["record"] if self._remote else _record(fetched["path"], fetched["offset"], fetched["length"])
        image, label = self._features
        features = tf.io.parse_single_example(record, {
            image: tf.io.FixedLenFeature([], tf.string), label: tf.io.FixedLenFeature([], tf.int64)})
        data, label = features[image], features[label]
        with _required((label >= 0) & (label < len(self.classes)), "no class has the label", label):
            label = tf.cast(label, tf.int32)
        return {"input": _exact(data, self.input_shape) if self._exact
                else images.decode_square(data, self.input_shape[0]), "label": label}

    def read(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """Images and labels of `indices`, int64 [b]; see `sources.Source.read`. For a few."""
        import tensorflow as tf

        return tf.map_fn(self.decode_one, self.fetch(indices), fn_output_signature={
            "input": tf.TensorSpec(self.input_shape, tf.uint8), "label": tf.TensorSpec([], tf.int32)})

    def find_broken(self, indices: Iterable[int]) -> tuple[str, str] | None:
        """The first of `indices` that cannot be read, as (shard and record, why not); see `sources.SlowSource`."""
        for index in map(int, indices):
            try:
                with storage.Reader(self._paths[self._shard[index]]) as file:
                    record = record_index.content(file, int(self._offset[index]), int(self._length[index]))
                data, _ = examples.image_and_label(record, *self._features, len(self.classes))
                self._check(data)
            except ValueError as error:
                return self.place(index), str(error)
            except OSError as error:
                return self.place(index), error.strerror or str(error)
        return None

    def _check(self, data: bytes) -> None:
        """Unreadable, which says why, where the image file cannot be decoded."""
        if not self._exact:
            return images.check_square(data, self.input_shape[0])
        shape = images.decode_any(data, channels=self.input_shape[2]).shape
        if shape != self.input_shape:
            raise images.Unreadable(f"has the shape {shape}, and {description.FILE} says {self.input_shape}")


def _record(path: tf.Tensor, offset: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """The content of one record, a string tensor []. Both of its checksums are looked at.

    TensorFlow has no operation that reads a part of a file, but a data set of records may begin anywhere. It takes
    0.08 ms. A Python function takes longer and holds the interpreter's lock, and a program that ended while one was
    called hung.
    """
    import tensorflow as tf

    records = tf.raw_ops.TFRecordDatasetV2(filenames=path[tf.newaxis], compression_type="", metadata="",
                                           buffer_size=length + record_index.FRAME_BYTES,
                                           byte_offsets=offset[tf.newaxis])
    kind = {"output_types": [tf.string], "output_shapes": [[]], "metadata": ""}
    first = tf.raw_ops.TakeDataset(input_dataset=records, count=tf.constant(1, tf.int64), **kind)
    return tf.raw_ops.DatasetToSingleElement(dataset=first, **kind)[0]


def _opened(frames: np.ndarray) -> np.ndarray:
    """The contents of records, both of whose checksums are right, object [b]. ValueError: one's is not."""
    return np.array([record_index.unframed(frame) for frame in frames.tolist()], object)


def _exact(data: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    """The PNG file in `data`, a string tensor [], as uint8 of exactly this shape."""
    import tensorflow as tf

    stated = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)  # width, height
    with _required(tf.reduce_all(stated == [shape[1], shape[0]]), "another width, height", stated):
        return tf.ensure_shape(tf.io.decode_png(data, channels=shape[2]), shape)


def _required(condition: tf.Tensor, words: str, value: tf.Tensor):
    """A context whose operations run only where `condition` holds."""
    import tensorflow as tf

    # The operation itself: tf.debugging.Assert puts a condition around it, which costs more than it does.
    within = tf.raw_ops.Assert(condition=condition, data=[words, value])
    return tf.control_dependencies([within] if within is not None else [])
