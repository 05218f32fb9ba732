"""What is measured of the input alone, inside one process. Each function prepares, and returns `measure(amount)`."""
import os
import time

from trainer import quiet

quiet.import_tensorflow(errors=False)

import numpy as np
import tensorflow as tf

from input_pipeline import augment, datasets, pipeline, sources

TUTORIAL = "crop:24,flip,brightness:63,contrast:0.2:1.8,standardize"
PHOTO, PHOTO_SIDE, PHOTO_BATCH = (375, 500), 224, 32


def rate(iterator, batches: int, size: int) -> float:
    """Examples a second of the next so many batches of `size`."""
    start = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    return batches * size / (time.perf_counter() - start)


def ours(source, text: str, batch: int, threads: int):
    """Training batches of this project's pipeline."""
    return iter(pipeline.training(source, augment.parse(text), seed=0, batch_size=batch, start_step=0, replicas=1,
                                  local_replicas=1, threads=threads))


def usual(data, function, batch: int, threads: int):
    """The usual pipeline: every example by itself."""
    return iter(data.repeat().map(function, num_parallel_calls=threads).batch(batch).prefetch(tf.data.AUTOTUNE))


def distortions(batch: int = 128):
    """The tutorial's distortions, whole pipeline, over the usual Dataset.map, each on all cores; amount: batches."""
    random, threads = np.random.default_rng(0), len(os.sched_getaffinity(0))
    images = random.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
    labels = random.integers(0, 10, 50_000).astype(np.int32)
    one = ours(sources.Arrays(images, labels, tuple("0123456789")), TUTORIAL, batch, threads)

    def distort(image, label):
        image = tf.cast(tf.image.random_crop(image, (24, 24, 3)), tf.float32)
        image = tf.image.random_brightness(tf.image.random_flip_left_right(image), 63)
        return tf.image.per_image_standardization(tf.image.random_contrast(image, 0.2, 1.8)), label

    other = usual(tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(20_000), distort, batch, threads)
    return _both(one, other, batch)


def flips(pixels: int, batch: int = 32):
    """Random flips of images in memory over tf.image's; amount: batches."""
    random, threads = np.random.default_rng(0), len(os.sched_getaffinity(0))
    images = random.integers(0, 256, (640, pixels, pixels, 3), dtype=np.uint8)
    labels = np.zeros(len(images), np.int32)
    one = ours(sources.Arrays(images, labels, ("one",)), "flip", batch, threads)

    def flip(image, label):
        return tf.cast(tf.image.random_flip_left_right(image), tf.float32), label

    return _both(one, usual(tf.data.Dataset.from_tensor_slices((images, labels)), flip, batch, threads), batch)


def photos(dataset: str, folder: str):
    """A folder of photos, or its shards, to batches of 224x224, over decode_jpeg and resize alone; amount: batches."""
    threads = len(os.sched_getaffinity(0))
    shards = dataset == "tfrecord"
    source = datasets.load(dataset, "train", os.path.join(folder, "shards" if shards else "photos"), image_size=PHOTO_SIDE)
    one = ours(source, "flip,normalize:127.5:127.5", PHOTO_BATCH, threads)
    contents = []
    for name in sorted(os.listdir(os.path.join(folder, "photos", "one"))):
        with open(os.path.join(folder, "photos", "one", name), "rb") as file:
            contents.append(file.read())

    def decode(content):
        return tf.image.resize(tf.io.decode_jpeg(content, channels=3), (PHOTO_SIDE, PHOTO_SIDE))

    data = tf.data.Dataset.from_tensor_slices(contents).repeat().map(decode, num_parallel_calls=threads)
    return _both(one, iter(data), PHOTO_BATCH, each=PHOTO_BATCH)


def make_photos(folder: str, count: int) -> None:
    """Photos of a common size in `folder`/photos, and the same as shards: smooth noise, as hard to decode as photos are."""
    for label in "one", "two":
        os.makedirs(os.path.join(folder, "photos", label))
    for number in range(count):
        random = np.random.default_rng(number)
        coarse = tf.image.resize(random.uniform(0, 255, (24, 32, 3)), PHOTO, method="bicubic")
        image = tf.cast(tf.clip_by_value(coarse + random.normal(0, 6, (*PHOTO, 3)), 0, 255), tf.uint8)
        name = os.path.join(folder, "photos", ("one", "two")[number % 2], f"{number}.jpg")
        tf.io.write_file(name, tf.io.encode_jpeg(image, quality=90))


def _both(one, other, batch: int, each: int = 1):
    """measure(batches) of two iterators; `each`: elements of the other that make a batch of it."""
    size = 1 if each > 1 else batch

    def measure(amount: int) -> dict:
        first = rate(one, amount, batch)
        second = rate(other, amount * each, size)
        return {"value": first / second, "ours": first, "other": second}

    measure(3)
    return measure
