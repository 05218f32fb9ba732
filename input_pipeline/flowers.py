"""The data set `flowers`: 3,670 photos in five classes (TensorFlow's flower_photos, CC-BY 2.0).

The photos have many sizes, and no split of their own: both are as for any folder of images (`image_folder`).

    info = flowers.describe("/data", image_size=192)    # counts the files
    source = flowers.load("train", "/data", image_size=192)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from input_pipeline import image_folder, storage
from input_pipeline.datasets import Info, missing

if TYPE_CHECKING:
    from input_pipeline.sources import Files

FOLDER = "flower_photos"
CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
PHOTOS = 3_670
TRAIN, VALIDATION = 2_937, 374  # as image_folder draws them


def facts(*, image_size: int = 0) -> Info:
    """The facts of the data set as it is published; `image_size`: side of the squares in pixels, 0 for 224."""
    return image_folder.folder_facts("flowers", image_size=image_size, classes=CLASSES, train_examples=TRAIN,
                                     validation_examples=VALIDATION, test_examples=PHOTOS - TRAIN - VALIDATION)


def describe(data_dir: str | None = None, **options) -> Info:
    """The facts of the data set in `data_dir`, with the options of `facts`. MissingData where it is not whole."""
    return image_folder.folder_info(facts(**options), _listing(data_dir))


def load(split: str, data_dir: str | None = None, **options) -> Files:
    """The source of `split`: images uint8 [size, size, 3]. Raises as `describe` does."""
    return image_folder.load_folder(facts(**options), _listing(data_dir), split)


def _listing(data_dir: str | None) -> image_folder.Listing:
    if not data_dir:
        raise missing("flowers", data_dir, "no data_dir is given")
    folder = os.path.join(data_dir, FOLDER)
    for name in CLASSES:
        if not storage.is_folder(os.path.join(folder, name)):
            raise missing("flowers", data_dir, f"no folder {os.path.join(folder, name)}")
    try:
        found = image_folder.listing_once(storage.absolute(folder))
    except ValueError as error:
        raise missing("flowers", data_dir, str(error)) from None
    if found.classes != CLASSES or len(found.names) != PHOTOS:
        image_folder.listing_once.cache_clear()  # a download may follow
        raise missing("flowers", data_dir, f"{folder} has {len(found.names)} photos in {len(found.classes)} classes "
                      f"instead of {PHOTOS} in {len(CLASSES)}")
    return found
