"""Converts a data set to TFRecord shards, each image decoded once on the way.

Images of folders (`image_folder`, `flowers`) stay as their files are, byte by byte, or become JPEG files of the square
that training would see, with `image_size`. Those of `cifar10` and `mnist` become PNG files, without loss. Splits are
the data set's own, for folders those of `image_folder`: so a run on the shards sees the same examples for training.

    done = convert.convert("flowers", "data", "flowers-tfrecord")
    done = convert.convert("image_folder", "photos", "photos-192", image_size=192, skip_broken=True)
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable

import numpy as np

from input_pipeline import datasets, examples, flowers, image_folder, images, record_index, shard_writer, storage
from input_pipeline.progress import Progress

JPEG_QUALITY = 95
SHARD_BYTES = 100_000_000
FOLDERS, ARRAYS = ("image_folder", "flowers"), ("cifar10", "mnist")
_FRAME = 150  # bytes of a record beside the image, about


def convert(dataset: str, source: str, output: str, *, image_size: int = 0, shard_bytes: int = SHARD_BYTES,
            skip_broken: bool = False, progress: Progress | None = None) -> shard_writer.Done:
    """Makes the folder `output` of the data set `dataset` in `source`, its data_dir; see `shard_writer.write`.

    image_size: side of square JPEG images in pixels, 0: as they are. ValueError: the data set is not there, or as
    `shard_writer.write` says.
    """
    progress = progress or Progress(sys.stderr, unit="images")
    if dataset in FOLDERS:
        work = _folder(dataset, source, output, image_size, progress)
    elif dataset in ARRAYS:
        if image_size:
            raise ValueError(f"--image_size={image_size} is for photos; those of {dataset} stay as they are: leave it "
                             "out")
        work = _arrays(dataset, source)
    else:
        raise ValueError(f"--dataset={dataset} cannot be converted: it must be one of {', '.join(FOLDERS + ARRAYS)}")
    return shard_writer.write(work, output, shard_bytes=shard_bytes, skip_broken=skip_broken, progress=progress)


def _folder(dataset: str, source: str, output: str, image_size: int, progress: Progress) -> shard_writer.Work:
    """The images in folders."""
    info = datasets.describe(dataset, source, image_size=image_size)
    folder = os.path.join(source, flowers.FOLDER) if dataset == "flowers" else source
    listing = image_folder.listing_once(os.path.abspath(os.path.expanduser(folder)))
    if os.path.join(os.path.realpath(output), "").startswith(os.path.join(os.path.realpath(listing.folder), "")):
        raise ValueError(f"--output={output} lies in the folder of the images, where it would be taken for a class; "
                         "name one outside")
    for note in info.notes:
        progress.note(note)
    sizes = np.zeros(len(listing.names), np.int64)
    identity = hashlib.sha256(repr((dataset, image_size, listing.classes)).encode())
    for number, (label, split) in enumerate(zip(listing.labels.tolist(), listing.split.tolist())):
        file = storage.status(listing.path(number))
        sizes[number] = file.size
        identity.update(repr((bytes(listing.names[number]), label, split, file.size, file.modified)).encode())
    if image_size:
        sizes[:] = image_size * image_size // 2  # JPEG_QUALITY took 0.3 to 0.7 bytes a pixel
    squares = _Squares(image_size)

    def example(number: int) -> bytes:
        try:
            data = storage.read_whole(listing.path(number), record_index.MAX_RECORD_BYTES)
        except OSError as error:
            raise images.Unreadable(error.strerror or str(error)) from None
        except ValueError:
            raise images.Unreadable(f"has more than {record_index.MAX_RECORD_BYTES} bytes") from None
        if image_size:
            data = squares.encoded(data)
        else:
            images.decode_any(data)
        return examples.encode(image=data, label=int(listing.labels[number]),
                               name=os.fsdecode(bytes(listing.names[number])))

    return shard_writer.Work(
        name=dataset, classes=listing.classes, image_shape=(image_size, image_size, 3) if image_size else None,
        encoding="jpeg" if image_size else None, names=listing.names.tolist(), splits=listing.split,
        sizes=sizes + _FRAME, identity=identity.hexdigest(), begin=squares.begin, example=example, path=listing.path)


class _Squares:
    """Images as training sees them, as JPEG files."""

    def __init__(self, size: int):
        self._size, self._decode = size, None

    def begin(self) -> None:
        """Imports what is needed."""
        _import_tensorflow()
        import tensorflow as tf

        @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
        def encoded(data):
            return tf.io.encode_jpeg(images.decode_square(data, self._size), quality=JPEG_QUALITY)

        self._decode = encoded

    def encoded(self, data: bytes) -> bytes:
        """The square of the image in `data`. Unreadable says why there is none."""
        import tensorflow as tf
        try:
            return self._decode(tf.constant(data)).numpy()
        except tf.errors.OpError:
            images.check_square(data, self._size)  # has the better words
            raise


def _arrays(dataset: str, source: str) -> shard_writer.Work:
    """The images in arrays, as PNG files."""
    info = datasets.describe(dataset, source)
    if info.input_shape[2] not in (1, 3):
        raise ValueError(f"{dataset}: its images have {info.input_shape[2]} channels; shards hold images of 1 or 3")
    places = [(split, number) for split in info.splits for number in range(info.examples[split])]
    identity = repr((dataset, [storage.status(path)[:2] for path in info.files], info.classes))
    encoders = {}

    def begin() -> None:
        _import_tensorflow()
        encoders.update({split: _encoder(datasets.load(dataset, split, source)) for split in info.splits})

    def example(place: int) -> bytes:
        split, number = places[place]
        image, label = encoders[split](np.int64(number))
        return examples.encode(image=image.numpy(), label=int(label), name=f"{split}/{number}")

    return shard_writer.Work(
        name=dataset, classes=info.classes, image_shape=info.input_shape, encoding="png",
        names=[f"{split}/{number}".encode() for split, number in places],
        splits=np.array([datasets.SPLITS.index(split) for split, _ in places], np.uint8),
        sizes=np.full(len(places), np.prod(info.input_shape) * 4 // 5 + _FRAME, np.int64), identity=identity,
        begin=begin, example=example, path=lambda place: f"{dataset}, {places[place][0]} image {places[place][1]}")


def _encoder(source) -> Callable:
    """A function of an index that gives the PNG file of that image, and its label."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)], autograph=False)
    def encoded(index):
        found = source.read(index[tf.newaxis])
        return tf.io.encode_png(found["input"][0]), found["label"][0]

    return encoded


def _import_tensorflow() -> None:
    """Without the lines that it prints on import (2.21: oneDNN, CUDA), unless it fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            kept.seek(0)
            os.write(real, kept.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)
