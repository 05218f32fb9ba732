"""The data sets by name: facts and checks, without TensorFlow, so that a wrong command fails at once.

Adding a data set takes one module of this package and one entry in `DATASETS`. The module offers the three
functions below without their `name`; its `facts` declares the options, and only its `load` may import
TensorFlow. Nothing here ever downloads.

    info = datasets.describe("cifar10", "/data")           # Info(train_examples=50000, ...)
    source = datasets.load("cifar10", "train", "/data")    # imports TensorFlow
"""

from __future__ import annotations

import importlib
import inspect
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from input_pipeline import storage

if TYPE_CHECKING:
    from input_pipeline.sources import Source

SPLITS = ("train", "validation", "test")
# What folders and shards may call them, in any case.
SPLIT_WORDS = {"train": "train", "training": "train", "validation": "validation", "val": "validation",
               "valid": "validation", "dev": "validation", "test": "test", "testing": "test", "eval": "test"}


@dataclass(frozen=True, kw_only=True)
class Info:
    """What is known of a data set before anything is read."""

    name: str
    train_examples: int
    test_examples: int
    validation_examples: int = 0
    splits: tuple[str, ...] = ("train", "test")  # those that it has
    input_shape: tuple[int, ...]  # height, width, channels of an image; past, 1 of a series
    target_shape: tuple[int, ...] | None = None  # of "target", float32, in examples that have one: a series' horizon
    brightest: float = 255.0  # the largest value of an image, the least is 0
    classes: tuple[str, ...]  # class names in label order; none where examples have no label
    train_digest: str = ""  # tells other training examples, or another order, from these; "" where a name and counts do
    files: tuple[str, ...] = ()  # paths that it is read from; none where it ships inside a dependency
    notes: tuple[str, ...] = ()  # lines for the user: what lies there and is not used

    @property
    def selection_split(self) -> str:
        """The split that chooses between checkpoints: validation where there is one, else test."""
        return "validation" if "validation" in self.splits else "test"

    @property
    def reported_split(self) -> str:
        """The split whose figure is told: test where there is one, else the one that chooses."""
        return "test" if "test" in self.splits else self.selection_split

    @property
    def examples(self) -> dict[str, int]:
        """The number of examples of each split that the data set has."""
        return {split: getattr(self, f"{split}_examples") for split in self.splits}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One entry: the module that describes and loads the data set, and one line for `--help`."""

    module: str
    summary: str


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(module="input_pipeline.digits",
                      summary="1,797 handwritten digits, 8x8 grey, inside scikit-learn"),
    "cifar10": Dataset(module="input_pipeline.cifar",
                       summary="60,000 photos, 32x32 RGB, 10 classes, from cifar-10-batches-bin"),
    "mnist": Dataset(module="input_pipeline.mnist",
                     summary="70,000 handwritten digits, 28x28 grey, from mnist; or any other four IDX files there"),
    "flowers": Dataset(module="input_pipeline.flowers",
                       summary="3,670 photos, 5 classes, from flower_photos"),
    "co2": Dataset(module="input_pipeline.series",
                   summary="monthly CO2 on Mauna Loa since 1958, the next 12 months to be forecast, from co2"),
    "image_folder": Dataset(module="input_pipeline.image_folder",
                            summary="any images: --data_dir has a folder for each class"),
    "tfrecord": Dataset(module="input_pipeline.tfrecord",
                        summary="any images, in TFRecord shards: --data_dir is their folder"),
    "synthetic": Dataset(module="input_pipeline.synthetic",
                         summary="patterns with noise, made from the example's index; needs no files"),
}


class MissingData(ValueError):
    """The files of a data set are absent or not whole; the message gives the command that gets them."""


def missing(name: str, data_dir: str | None, problem: str) -> MissingData:
    """The error for `problem` ("no file ..."), with the command that gets data set `name`."""
    above, last = os.path.split((data_dir or "").rstrip("/"))
    if last == importlib.import_module(DATASETS[name].module).FOLDER and storage.is_folder(data_dir):
        problem += f"; if {data_dir} is the data set's own folder, give the one that holds it, {above or '.'}"
    if storage.is_remote(data_dir or ""):
        return MissingData(f"{name}: {problem}; get it with: python -m input_pipeline.prepare --dataset={name} "
                           f"--output=FOLDER, and copy it there: gcloud storage cp -r FOLDER {data_dir}")
    return MissingData(f"{name}: {problem}; get it with: python -m input_pipeline.prepare --dataset={name} "
                       f"--output={data_dir or 'DATA_DIR'} (or give the trainer --download)")


def describe(name: str, data_dir: str | None = None, **options) -> Info:
    """Facts of the data set `name` in `data_dir`, its files checked for presence and size.

    `data_dir` is the folder that holds the data set's own folder; `options` are those of its `facts`.
    Raises ValueError for an unknown name or option, MissingData where files are absent or not whole.
    """
    storage.check(data_dir or "")
    return _call(name, "describe", data_dir, **options)


def facts(name: str, **options) -> Info:
    """Facts of the data set `name` as it is published; looks at no file, raises no MissingData."""
    return _call(name, "facts", **options)


def load(name: str, split: str, data_dir: str | None = None, **options) -> Source:
    """The source of `split`, one of its `Info.splits`. Raises as `describe` does, and for unreadable content."""
    check_split(facts(name, **options), split)
    return _call(name, "load", split, data_dir, **options)


def check_split(info: Info, split: str) -> None:
    """ValueError, which names those that there are, unless the data set has `split`."""
    if split not in info.splits:
        raise ValueError(f"split={split!r}: must be one of {', '.join(info.splits)}, "
                         f"those that {info.name} has")


def options(name: str) -> tuple[str, ...]:
    """The options that the data set `name` takes."""
    return tuple(inspect.signature(importlib.import_module(DATASETS[name].module).facts).parameters)


def _call(name: str, verb: str, *arguments, **options):
    if name not in DATASETS:
        raise ValueError(f"dataset={name!r}: must be one of {', '.join(DATASETS)}")
    module = importlib.import_module(DATASETS[name].module)
    known = inspect.signature(module.facts).parameters
    for option in options:
        if option not in known:
            raise ValueError(f"dataset={name!r} takes no option {option!r}; "
                             f"it takes {', '.join(known) or 'none'}")
    return getattr(module, verb)(*arguments, **options)
