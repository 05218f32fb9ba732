"""The data set flowers: five folders of photos, counted before anything is read."""

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import datasets, flowers


@pytest.fixture
def fake(tmp_path):
    """A folder with as many files as there are photos, all of them empty."""
    photos = [633, 898, 641, 699, 799]
    for name, count in zip(flowers.CLASSES, photos):
        (tmp_path / "flower_photos" / name).mkdir(parents=True)
        for k in range(count):
            (tmp_path / "flower_photos" / name / f"{k}.jpg").touch()
    (tmp_path / "flower_photos" / "LICENSE.txt").touch()
    return tmp_path


def test_a_whole_folder_is_described(fake):
    info = datasets.describe("flowers", str(fake), image_size=64)
    assert (info.name, info.classes, info.input_shape) == ("flowers", flowers.CLASSES, (64, 64, 3))
    assert sum(info.examples.values()) == 3_670 and info.notes == ()
    assert len(datasets.load("flowers", "validation", str(fake))) == info.validation_examples


def test_a_folder_that_is_not_whole_is_missing_data_until_it_is(fake):
    """Mutation: keep the listing that was wrong."""
    photo = fake / "flower_photos/roses/77.jpg"
    photo.unlink()
    with pytest.raises(datasets.MissingData, match="has 3669 photos in 5 classes instead of 3670 in 5; get it with"):
        flowers.describe(str(fake))
    photo.touch()
    assert sum(flowers.describe(str(fake)).examples.values()) == 3_670


@pytest.mark.parametrize("folders", [(), flowers.CLASSES], ids=["absent", "empty"])
def test_an_absent_or_empty_folder_is_missing_data(tmp_path, folders):
    for name in folders:
        (tmp_path / "flower_photos" / name).mkdir(parents=True)
    with pytest.raises(datasets.MissingData, match="flower_photos.* --dataset=flowers"):
        flowers.describe(str(tmp_path))
    with pytest.raises(datasets.MissingData, match="no data_dir"):
        flowers.describe()


def test_real_data(flowers):
    """The facts are the real ones, and real photos are in their classes."""
    info = datasets.describe("flowers", flowers, image_size=96)
    assert info.examples == datasets.facts("flowers").examples
    source = datasets.load("flowers", "test", flowers, image_size=96)
    batch = source.read(tf.range(0, len(source), 40, dtype=tf.int64))
    assert batch["input"].shape[1:] == (96, 96, 3) and np.all(np.std(batch["input"], axis=(1, 2, 3)) > 20)
    names = [source.path(index).split("/")[-2] for index in range(0, len(source), 40)]
    assert [info.classes[label] for label in batch["label"].numpy()] == names and len(set(names)) == 5
