"""The data set `mnist`: 60,000 training and 10,000 test images of handwritten digits, 28x28 grey.

Reads the four IDX files in `mnist/` (LeCun, Cortes, Burges 1998), with or without `.gz`. Data sets in the same files,
such as Fashion-MNIST, are read alike, whatever their number and size of images: [n, height, width] or
[n, height, width, channels], a byte each number. There are ten classes, or more where a label is above 9.

    info = mnist.describe("/data")        # reads headers and labels
    source = mnist.load("train", "/data")
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline import idx, storage
from input_pipeline.datasets import Info, missing

if TYPE_CHECKING:
    from input_pipeline.sources import Source

FOLDER = "mnist"
PREFIXES = {"train": "train", "test": "t10k"}
CLASSES = 10  # at least


def facts() -> Info:
    """The facts of MNIST as it is published."""
    return Info(name="mnist", train_examples=60_000, test_examples=10_000, input_shape=(28, 28, 1),
                classes=_class_names(CLASSES))


def describe(data_dir: str | None = None) -> Info:
    """The facts of the files in `data_dir`. Raises MissingData where one is absent, ValueError where one is wrong."""
    if not data_dir:
        raise missing("mnist", data_dir, "no data_dir is given")
    found = {split: _paths(data_dir, split) for split in PREFIXES}
    shapes, classes = {}, CLASSES
    for split, (images, labels) in found.items():
        shapes[split] = _image_shape(images)
        classes = max(classes, 1 + int(_labels(labels, shapes[split][0], images).max()))
    if shapes["train"][1:] != shapes["test"][1:]:
        raise ValueError(f"{found['test'][0]}: its images are {shapes['test'][1:]}, those for training are "
                         f"{shapes['train'][1:]}; both must be alike")
    return dataclasses.replace(
        facts(), train_examples=shapes["train"][0], test_examples=shapes["test"][0], input_shape=shapes["train"][1:],
        classes=_class_names(classes), files=found["train"] + found["test"])


def load(split: str, data_dir: str | None = None) -> Source:
    """The source of `split` ("train" or "test"): images uint8. Raises as `describe` does."""
    from input_pipeline import sources

    info = describe(data_dir)
    path, labels = _paths(data_dir, split)
    images = idx.read(path)
    return sources.Arrays(images.reshape(_image_shape(path)), _labels(labels, len(images), path), info.classes,
                          name=f"mnist, {split}")


def _class_names(count: int) -> tuple[str, ...]:
    return tuple(str(label) for label in range(count))


def _paths(data_dir: str, split: str) -> tuple[str, str]:
    """The files of images and of labels. MissingData where one is absent."""
    found = []
    for name in (f"{PREFIXES[split]}-images-idx3-ubyte", f"{PREFIXES[split]}-labels-idx1-ubyte"):
        path = os.path.join(data_dir, FOLDER, name)
        existing = [candidate for candidate in (f"{path}.gz", path) if storage.is_file(candidate)]
        if not existing:
            raise missing("mnist", data_dir, f"no file {path}.gz")
        found.append(existing[0])
    return tuple(found)


def _image_shape(path: str) -> tuple[int, int, int, int]:
    """[n, height, width, channels] of the file at `path`."""
    kind, sizes = idx.header(path)
    if len(sizes) not in (3, 4) or kind != np.uint8:
        raise ValueError(f"{path}: holds {kind} {list(sizes)}; images must be uint8 [n, height, width] or "
                         "[n, height, width, channels]")
    return (*sizes, 1)[:4]


def _labels(path: str, count: int, images: str) -> np.ndarray:
    """The `count` labels, uint8, that belong to the file `images`."""
    labels = idx.read(path)
    if labels.shape != (count,) or labels.dtype != np.uint8:
        raise ValueError(f"{path}: holds {labels.dtype} {list(labels.shape)}; the labels of {images} must be "
                         f"uint8 [{count}]")
    return labels
