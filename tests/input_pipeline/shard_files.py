"""Small sets of TFRecord shards and folders of images for the tests, made with TensorFlow's own writer."""

import pathlib

import numpy as np
import tensorflow as tf

from input_pipeline import record_index


def pixels(number: int, height: int = 8, width: int = 8) -> np.ndarray:
    """An image of one colour, which says which one it is even after JPEG: uint8 [height, width, 3]."""
    colour = [number * 37 % 256, number * 91 % 256, number * 151 % 256]
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def png(number: int, **size) -> bytes:
    return tf.io.encode_png(pixels(number, **size)).numpy()


def jpeg(number: int, **size) -> bytes:
    return tf.io.encode_jpeg(pixels(number, **size), quality=100).numpy()


def feature(value) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def example(**features) -> bytes:
    """A serialised tf.train.Example; `__` in a name stands for `/`."""
    named = {name.replace("__", "/"): feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write(path: pathlib.Path, records: list[bytes]) -> pathlib.Path:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


NAMES = ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001")


def foreign(folder: pathlib.Path, *, names=NAMES, records: int = 5, image: str = "image__encoded",
            label: str = "image__class__label") -> pathlib.Path:
    """Shards as strangers make them: image n overall is `png(n)`, its label n % 3; no labels file."""
    folder.mkdir(exist_ok=True)
    for shard, name in enumerate(names):
        numbers = range(shard * records, (shard + 1) * records)
        write(folder / name, [example(**{image: png(number), label: number % 3}) for number in numbers])
    return folder


def photos(folder: pathlib.Path, *, classes=("cat", "dog"), each: int = 12) -> pathlib.Path:
    """A folder for each class of JPEG files of several sizes: file k of class c is `pixels(100 * c + k)`."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for k in range(each):
            (folder / name / f"{k}.jpg").write_bytes(jpeg(100 * label + k, height=8 + k, width=10))
    return folder


def frames(path: pathlib.Path) -> list[tuple[int, int]]:
    """(offset, length) of each record."""
    index = record_index.scan(str(path))
    return list(zip(index.offsets.tolist(), index.lengths.tolist()))
