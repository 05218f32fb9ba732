"""The data set `cifar10`: 50,000 training and 10,000 test photos, 32x32 RGB, in ten classes.

Reads the binary version (Krizhevsky 2009), `cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin`: records
of 3,073 bytes, a label byte and then the planes R, G, B of 32x32 bytes, row by row.

    info = cifar.describe("/data")        # checks that the files are there, by size
    source = cifar.load("train", "/data")
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline import storage
from input_pipeline.datasets import Info, missing

if TYPE_CHECKING:
    from input_pipeline.sources import Source

FOLDER = "cifar-10-batches-bin"
FILES = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (32, 32, 3)
RECORD_BYTES = 1 + 32 * 32 * 3
RECORDS_A_FILE = 10_000
MAX_BYTES, MAX_META_BYTES = 1 << 30, 1 << 16  # of a file of records, of the names


def paths(data_dir: str, split: str) -> tuple[str, ...]:
    """The files of `split` ("train" or "test"), in the order in which their examples are numbered."""
    return tuple(os.path.join(data_dir, FOLDER, name) for name in FILES[split])


def facts() -> Info:
    """The facts of the data set as it is published."""
    return Info(name="cifar10", train_examples=RECORDS_A_FILE * len(FILES["train"]),
                test_examples=RECORDS_A_FILE * len(FILES["test"]), input_shape=IMAGE_SHAPE, classes=CLASSES)


def describe(data_dir: str | None = None) -> Info:
    """The facts of the data set in `data_dir`. Raises MissingData where a file is absent or not whole."""
    if not data_dir:
        raise missing("cifar10", data_dir, "no data_dir is given")
    files = paths(data_dir, "train") + paths(data_dir, "test")
    for path in files:
        if not storage.is_file(path):
            raise missing("cifar10", data_dir, f"no file {path}")
        size = storage.status(path).size
        if size != RECORDS_A_FILE * RECORD_BYTES:
            raise missing("cifar10", data_dir, f"{path} has {size} bytes instead of "
                          f"{RECORDS_A_FILE * RECORD_BYTES} (10000 records of {RECORD_BYTES})")
    return dataclasses.replace(facts(), classes=class_names(data_dir), files=files)


def class_names(data_dir: str) -> tuple[str, ...]:
    """The ten names in `batches.meta.txt`, one a line; the usual ones where that file is absent."""
    path = os.path.join(data_dir, FOLDER, "batches.meta.txt")
    if not storage.is_file(path):
        return CLASSES
    try:
        text = storage.read_whole(path, MAX_META_BYTES).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text; delete it, or write one name a line") from None
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(names) != len(CLASSES):
        raise ValueError(f"{path} names {len(names)} classes instead of {len(CLASSES)}; "
                         "delete it, or write one name a line")
    return names


def read_file(path: str) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [n, 32, 32, 3], labels uint8 [n]) of one binary file.

    Raises ValueError naming file, byte offset and rule where the file is not whole records of labels 0..9.
    """
    data = np.frombuffer(storage.read_whole(path, MAX_BYTES), np.uint8)
    if len(data) == 0 or len(data) % RECORD_BYTES:
        last = len(data) // RECORD_BYTES * RECORD_BYTES
        raise ValueError(f"{path}: the record at byte {last} has {len(data) - last} bytes; "
                         f"every record must have {RECORD_BYTES}")
    records = data.reshape(-1, RECORD_BYTES)
    labels = records[:, 0]
    wrong = np.flatnonzero(labels >= len(CLASSES))
    if len(wrong):
        raise ValueError(f"{path}: label {labels[wrong[0]]} at byte {wrong[0] * RECORD_BYTES}; "
                         "a label byte must be 0..9")
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def load(split: str, data_dir: str | None = None) -> Source:
    """The source of `split` ("train" or "test"): images uint8 [n, 32, 32, 3].

    Raises ValueError as `describe` and `read_file` do.
    """
    from input_pipeline import sources

    info = describe(data_dir)
    images = np.empty((RECORDS_A_FILE * len(FILES[split]), *IMAGE_SHAPE), np.uint8)
    labels = np.empty(len(images), np.uint8)
    for number, path in enumerate(paths(data_dir, split)):
        part = slice(number * RECORDS_A_FILE, (number + 1) * RECORDS_A_FILE)
        images[part], labels[part] = read_file(path)
    return sources.Arrays(images, labels, info.classes, name=f"cifar10, {split}")
